"""Laws of `optim`: Adam in every published form, clipping, and the schedules of the learning rate.

That a loss falls proves nothing about an optimiser: most wrong Adams converge as well. These laws
are exact statements about single steps.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.kernels import optim as fused
from minibert.laws import spec_training as spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    eps_of,
    gradients,
    normal,
    seed_of,
    slopes,
)
from minibert.optim import (
    AdamOptions,
    AdamState,
    adam_form,
    adam_step,
    clip_by_global_norm,
    constant_schedule,
    cosine_schedule,
    global_norm,
    google_schedule,
    initial_adam_state,
    inverse_square_root_schedule,
    linear_schedule,
)

FORMS = ("momentum", "google", "kingma", "adamw", "adam_l2")
RATE = 0.01

# ------------------------------------------------------------------------------------- adam_form

PUBLISHED = {
    "momentum": {"eps": 1e-8, "bias_correction": False, "weight_decay": 0.0},
    "google": {"eps": 1e-6, "bias_correction": False, "weight_decay": 0.01},
    "kingma": {"eps": 1e-8, "bias_correction": True, "weight_decay": 0.0},
    "adamw": {"eps": 1e-8, "bias_correction": True, "weight_decay": 0.01},
    "adam_l2": {"eps": 1e-8, "bias_correction": True, "weight_decay": 0.01, "decoupled": False},
}

ADAM_FORM = Proof(
    adam_form,
    lambda draw: draw.choice(FORMS),
    without={
        "gradient": "a table of names has no gradient",
        "accuracy": "a table of names rounds nothing",
    },
)


@ADAM_FORM.spec
def it_has_the_published_numbers(formula, name):
    wanted = {"beta1": 0.9, "beta2": 0.999, "decoupled": True} | PUBLISHED[name]
    found = formula(name)._asdict()
    return sum(found[key] != value for key, value in wanted.items()), 0


@ADAM_FORM.reference
def corrected_forms_have_torchs_defaults(formula, name):
    """kingma is torch's Adam with its default settings, adamw its AdamW."""
    wrong = 0
    for form, theirs in (("kingma", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        found, leaf = formula(form), torch.zeros(1, requires_grad=True)
        defaults = theirs([leaf]).defaults
        wrong += (found.beta1, found.beta2) != tuple(defaults["betas"])
        wrong += found.eps != defaults["eps"]
        wrong += found.weight_decay != defaults["weight_decay"]
    return wrong, 0


@ADAM_FORM.law
def forms_differ_from_each_other(formula, name):
    return sum(formula(name) == formula(other) for other in FORMS if other != name), 0


@ADAM_FORM.mistake(it_has_the_published_numbers)
def one_eps_for_all(name):
    return adam_form(name)._replace(eps=1e-8)


@ADAM_FORM.mistake(it_has_the_published_numbers)
def google_with_correction(name):
    return adam_form(name)._replace(bias_correction=True)


@ADAM_FORM.mistake(
    it_has_the_published_numbers,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/blob/1bb9b3e49b05279a4ba5cbe805ac81c803f94981/TinyBERT/general_distill.py",
)
def one_decay_for_all(name):
    """Whatever decay was chosen."""
    return adam_form(name)._replace(weight_decay=0.01)


@ADAM_FORM.mistake(forms_differ_from_each_other)
def l2_as_if_it_were_decoupled(name):
    return adam_form(name)._replace(decoupled=True)


@ADAM_FORM.mistake(corrected_forms_have_torchs_defaults)
def betas_of_the_first_transformer(name):
    """β₂ = 0.98, as in Attention Is All You Need."""
    return adam_form(name)._replace(beta2=0.98)


# ---------------------------------------------------------------------------- initial_adam_state

INITIAL_ADAM_STATE = Proof(
    initial_adam_state,
    lambda draw: normal(seed_of(draw), *draw.choice([(5,), (2, 3), (), (0,)])),
    without={
        "gradient": "zeros depend on nothing",
        "accuracy": "zeros are not rounded",
    },
)


@INITIAL_ADAM_STATE.spec
def the_memory_is_zeros_and_no_steps(formula, parameters):
    state = formula(parameters)
    zeros = torch.zeros(parameters.shape, dtype=parameters.dtype)
    return sum(differing(part, zeros) for part in state[:2]) + abs(state.steps), 0


@INITIAL_ADAM_STATE.reference
def it_is_what_torch_begins_with(formula, parameters):
    """A gradient of 0 leaves the state as torch creates it in the first step."""
    leaf = parameters.clone().requires_grad_()
    leaf.grad = torch.zeros_like(parameters)
    optimizer = torch.optim.Adam([leaf])
    optimizer.step()
    theirs, ours = optimizer.state[leaf], formula(parameters)
    error = differing(ours.mean_P, theirs["exp_avg"])
    return error + differing(ours.square_P, theirs["exp_avg_sq"]), 0


@INITIAL_ADAM_STATE.law
def the_two_means_are_two_tensors(formula, parameters):
    """Writing to one in place must not change the other."""
    mean, square, _ = formula(torch.ones(3))
    mean += 1
    return float(square.abs().sum()), 0


@INITIAL_ADAM_STATE.mistake(the_two_means_are_two_tensors)
def one_tensor_for_both(parameters):
    zeros = torch.zeros_like(parameters)
    return AdamState(zeros, zeros, 0)


@INITIAL_ADAM_STATE.mistake(the_memory_is_zeros_and_no_steps, it_is_what_torch_begins_with)
def squares_begin_at_one(parameters):
    """As some libraries start Tieleman's RMSprop: the first steps are short."""
    return AdamState(torch.zeros_like(parameters), torch.ones_like(parameters), 0)


@INITIAL_ADAM_STATE.mistake(the_memory_is_zeros_and_no_steps)
def steps_begin_at_one(parameters):
    return initial_adam_state(parameters)._replace(steps=1)


# ------------------------------------------------------------------------------------- adam_step


class Run(NamedTuple):
    """A start, a gradient for each step, and the form of Adam."""

    start: Tensor
    gradients: Tensor
    options: AdamOptions


def run_of(
    draw: Draw,
    forms: tuple[str, ...] = ("kingma",),
    decay: float | None = 0.0,
    scales: tuple[float, ...] = (1e-9, 1e-7, 1.0, 1e6),
    steps: int = 7,
) -> Run:
    """Gradients of a scale at which ε matters (1e-7) or does not."""
    seed, options = seed_of(draw), adam_form(draw.choice(forms))
    if decay is not None and options.weight_decay:
        options = options._replace(weight_decay=decay)
    history = normal(seed + 1, steps, 5, scale=draw.choice(scales))
    return Run(normal(seed, 5), history, options)


def any_form(draw: Draw) -> Run:
    return run_of(draw, ("momentum", "google", "kingma"))


def decaying_form(draw: Draw) -> Run:
    return run_of(draw, FORMS, 0.3)


def path(step, run: Run, gradients=None, rate: float = RATE) -> Tensor:
    """The parameters after every step, [steps, P]; gradients may depend on the parameters."""
    parameters, state, visited = run.start, initial_adam_state(run.start), []
    for i, gradient in enumerate(run.gradients):
        if gradients is not None:
            gradient = gradients(i, parameters)
        parameters, state = step(parameters, gradient, state, rate, run.options)
        visited.append(parameters)
    return torch.stack(visited)


def moves(step, run: Run, **arguments) -> Tensor:
    """The change that every step made."""
    after = path(step, run, **arguments)
    return after - torch.cat([run.start[None], after[:-1]])


def rounding(run: Run) -> float:
    """A step of size η is subtracted from parameters of size |θ|."""
    return 16 * EPS * float(run.start.abs().max() + 10 * RATE * len(run.gradients))


def spec_of_path(start, history, options: AdamOptions):
    """[steps][P], every parameter by itself."""
    paths = [
        spec.adam_path(θ, list(gradients), RATE, *options)
        for θ, gradients in zip(start, zip(*history, strict=True), strict=True)
    ]
    return [list(parameters) for parameters in zip(*paths, strict=True)]


ADAM_STEP = Proof(adam_step, any_form)


@ADAM_STEP.spec(cases=decaying_form)
def it_is_means_of_the_past_over_roots_of_mean_squares(formula, run):
    expected = spec_of_path(run.start.tolist(), run.gradients.tolist(), run.options)
    return distance(path(formula, run), as_tensor(expected)), rounding(run)


def torchs_path(run: Run, optimizer: type, **options: Any) -> Tensor:
    leaf = run.start.clone().requires_grad_()
    made = optimizer([leaf], lr=RATE, betas=(0.9, 0.999), foreach=False, **options)
    visited = []
    for gradient in run.gradients:
        leaf.grad = gradient.clone()
        made.step()
        visited.append(leaf.detach().clone())
    return torch.stack(visited)


def long_run(*forms: str) -> Callable[[Draw], Run]:
    return lambda draw: run_of(draw, forms, None, (1e-7, 1.0, 1e6), 40)


@ADAM_STEP.reference(cases=long_run("kingma", "adam_l2"), cost=6)
def it_is_torchs_adam(formula, run):
    theirs = torchs_path(run, torch.optim.Adam, eps=1e-8, weight_decay=run.options.weight_decay)
    return distance(path(formula, run), theirs), 1e-12


@ADAM_STEP.reference(cases=long_run("adamw"), cost=6)
def it_is_torchs_adamw(formula, run):
    theirs = torchs_path(run, torch.optim.AdamW, eps=1e-8, weight_decay=0.01)
    return distance(path(formula, run), theirs), 1e-12


@ADAM_STEP.reference(cases=long_run("momentum", "google"), cost=6)
def without_correction_it_is_torchs_adamw_at_another_rate(formula, run):
    """torch always corrects; with η r and ε / √(1-β₂ᵗ) at step t its step is the uncorrected one.

    r = (1-β₁ᵗ) / √(1-β₂ᵗ), and torch's decay 1 - η r wd needs wd / r.
    """
    leaf = run.start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], betas=(0.9, 0.999), foreach=False)
    visited = []
    for t, gradient in enumerate(run.gradients, 1):
        root = math.sqrt(1 - 0.999**t)
        ratio = (1 - 0.9**t) / root
        optimizer.param_groups[0].update(
            lr=RATE * ratio,
            eps=run.options.eps / root,
            weight_decay=run.options.weight_decay / ratio,
        )
        leaf.grad = gradient.clone()
        optimizer.step()
        visited.append(leaf.detach().clone())
    return distance(path(formula, run), torch.stack(visited)), 1e-12


@ADAM_STEP.reference(cases=long_run("google"), cost=4)
def it_is_googles_optimizer(formula, run):
    """AdamWeightDecayOptimizer of google-research/bert, optimization.py, in NumPy's arithmetic."""
    p, m, v, visited = run.start.numpy().copy(), 0.0, 0.0, []
    for g in run.gradients.numpy():
        m = 0.9 * m + (1.0 - 0.9) * g
        v = 0.999 * v + (1.0 - 0.999) * (g * g)
        update = m / (v**0.5 + 1e-6)
        update = update + 0.01 * p
        p = p - RATE * update
        visited.append(torch.from_numpy(p))
    return distance(path(formula, run), torch.stack(visited)), 1e-12


# of every form


@ADAM_STEP.law
def a_zero_gradient_moves_nothing(formula, run):
    found = path(formula, run, lambda i, θ: 0 * θ)
    return differing(found, run.start.expand_as(run.gradients)), 0


@ADAM_STEP.law
def parameters_do_not_know_each_other(formula, run):
    parts = [
        path(formula, Run(run.start[part], run.gradients[:, part], run.options))
        for part in (slice(0, 2), slice(2, 5))
    ]
    return differing(torch.cat(parts, 1), path(formula, run)), 0


@ADAM_STEP.law
def their_shape_does_not_matter(formula, run):
    column = path(formula, Run(run.start[:, None], run.gradients[..., None], run.options))
    return differing(column[..., 0], path(formula, run)), 0


@ADAM_STEP.law
def signs_may_be_turned(formula, run):
    turned = path(formula, Run(-run.start, -run.gradients, run.options))
    return differing(-turned, path(formula, run)), 0


@ADAM_STEP.law
def eps_is_in_the_unit_of_the_gradient(formula, run):
    """Gradients and ε 4 times as large: the same steps."""
    scaled = Run(run.start, 4 * run.gradients, run.options._replace(eps=4 * run.options.eps))
    return differing(path(formula, scaled), path(formula, run)), 0


@ADAM_STEP.law
def the_step_grows_with_the_rate(formula, run):
    gap = 4 * moves(formula, run) - moves(formula, run, rate=4 * RATE)
    return float(gap.abs().max()), 4 * rounding(run)


@ADAM_STEP.law(cases=run_of)
def the_first_step_goes_downhill(formula, run):
    """Against the gradient, in each parameter that has one, whatever ε and β are."""
    g = run.gradients[0]
    uphill = (moves(formula, run)[0] * g.sign()).max()
    return max(0.0, float(uphill)), rounding(run)


@ADAM_STEP.law(cases=run_of)
def without_decay_both_kinds_of_decay_are_the_same(formula, run):
    both = [path(formula, decaying(run, decoupled, 0.0)) for decoupled in (True, False)]
    return differing(*both), 0


@ADAM_STEP.law
def a_rate_of_zero_stands_still(formula, run):
    return differing(path(formula, run, rate=0.0), run.start.expand_as(run.gradients)), 0


@ADAM_STEP.law
def a_stopped_run_goes_on_as_if_it_had_not_stopped(formula, run):
    """The state is all that a step knows of the past; half-way it is saved and reloaded."""
    parameters, state = run.start, initial_adam_state(run.start)
    for i, gradient in enumerate(run.gradients):
        if i == len(run.gradients) // 2:
            saved = torch.stack([state.mean_P, state.square_P]).numpy().tobytes()
            moments = torch.frombuffer(bytearray(saved), dtype=torch.float64).view(2, -1)
            state = AdamState(*moments, state.steps)
        parameters, state = formula(parameters, gradient, state, RATE, run.options)
    return differing(parameters, path(formula, run)[-1]), 0


@ADAM_STEP.law
def its_arguments_stay_as_they_are(formula, run):
    state = AdamState(normal(1, 5), normal(2, 5).square(), 3)
    arguments = [run.start, run.gradients[0], state.mean_P, state.square_P]
    before = [x.clone() for x in arguments]
    _, new = formula(run.start, run.gradients[0], state, RATE, run.options)
    changed = sum(differing(*pair) for pair in zip(before, arguments, strict=True))
    return changed + abs(state.steps - 3) + abs(new.steps - 4), 0


@ADAM_STEP.law
def steps_are_bounded(formula, run):
    """|Δ| ≤ η (1-β₁) / √((1-β₂)(1-β₁²/β₂)) = 7.27 η, by Cauchy and Schwarz, in every form.

    Kingma and Ba's 3.16 η holds for one gradient after zeros; other histories can exceed it.
    """
    β1, β2 = run.options.beta1, run.options.beta2
    largest = RATE * (1 - β1) / math.sqrt((1 - β2) * (1 - β1 * β1 / β2))
    return max(0.0, float(moves(formula, run).abs().max()) - largest), rounding(run)


# of bias correction


@ADAM_STEP.law(cases=run_of)
def the_first_step_is_that_of_the_sign(formula, run):
    """-η g / (|g| + ε), whatever β₁ and β₂ are."""
    g = run.gradients[0]
    expected = -RATE * g / (g.abs() + run.options.eps)
    return distance(moves(formula, run)[0], expected), rounding(run)


@ADAM_STEP.law(cases=run_of)
def a_constant_gradient_makes_equal_steps(formula, run):
    constant = run.gradients[0]
    found = moves(formula, run, gradients=lambda i, θ: constant)
    return distance(found, found[:1].expand_as(found)), rounding(run)


@ADAM_STEP.law(cases=run_of)
def without_memory_it_is_the_sign(formula, run):
    forgetful = run._replace(options=run.options._replace(beta1=0.0, beta2=0.0, eps=0.0))
    return distance(moves(formula, forgetful), -RATE * run.gradients.sign()), rounding(run)


@ADAM_STEP.law(cases=run_of)
def moments_are_weighted_means_of_the_past(formula, run):
    """With ε = 0: the move is -η times mean over root of mean square, weights (1-β) β^(t-i)."""
    options = run.options._replace(eps=0.0, beta1=0.7, beta2=0.95)
    t = len(run.gradients)
    means = []
    for β, values in ((0.7, run.gradients), (0.95, run.gradients.square())):
        weights = as_tensor([β ** (t - i) for i in range(1, t + 1)])
        means.append((weights[:, None] * values).sum(0) / weights.sum())
    expected = -RATE * means[0] / means[1].sqrt()
    found = moves(formula, run._replace(options=options))[-1]
    return distance(found, expected), 4 * rounding(run)


# of the form without correction


def uncorrected(run: Run, eps: float | None = None) -> Run:
    options = run.options._replace(bias_correction=False)
    return run._replace(options=options if eps is None else options._replace(eps=eps))


@ADAM_STEP.law(cases=run_of)
def the_first_uncorrected_step_is_root_ten_times_as_long(formula, run):
    """(1-β₁) g / (√(1-β₂) |g| + ε), √10 = 3.16 times η where ε does not matter."""
    g, eps = run.gradients[0], run.options.eps
    exact = -RATE * 0.1 * g / (math.sqrt(0.001) * g.abs() + eps)
    root_ten = -RATE * math.sqrt(10) * g.sign()
    gaps = [
        distance(moves(formula, uncorrected(run))[0], exact),
        distance(moves(formula, uncorrected(run, 0.0))[0], root_ten),
    ]
    return sum(gaps), 64 * rounding(run)


@ADAM_STEP.law(cases=run_of)
def the_ratio_to_the_corrected_step_is_known(formula, run):
    """(1-β₁ᵗ) / √(1-β₂ᵗ) at step t, for every history of gradients."""
    corrected = moves(formula, run._replace(options=run.options._replace(eps=0.0)))
    t = torch.arange(1, len(run.gradients) + 1, dtype=torch.float64)[:, None]
    ratio = (1 - 0.9**t) / torch.sqrt(1 - 0.999**t)
    return distance(moves(formula, uncorrected(run, 0.0)), ratio * corrected), 32 * rounding(run)


@ADAM_STEP.law(cases=lambda draw: run_of(draw, steps=16), cost=2)
def the_twelfth_uncorrected_step_is_the_longest(formula, run):
    """6.57 η under a constant gradient, and shorter from there on."""
    constant = run.gradients[0]
    found = moves(formula, uncorrected(run, 0.0), gradients=lambda i, θ: constant).abs() / RATE
    longest = float((found.argmax(0) != 11).sum())
    return longest + distance(found[11], torch.full_like(found[11], 6.567)), 2e-3


# of weight decay


def decaying(run: Run, decoupled: bool, decay: float = 0.3) -> Run:
    return run._replace(options=run.options._replace(weight_decay=decay, decoupled=decoupled))


@ADAM_STEP.law(cases=run_of)
def decoupled_decay_alone_is_geometric(formula, run):
    """θ (1 - η wd)ᵗ where the gradient is 0."""
    t = torch.arange(1, len(run.gradients) + 1, dtype=torch.float64)[:, None]
    expected = run.start * (1 - RATE * 0.3) ** t
    found = path(formula, decaying(run, True), lambda i, θ: 0 * θ)
    return distance(found, expected), rounding(run)


@ADAM_STEP.law(cases=run_of)
def decoupled_decay_takes_a_share_of_the_old_value(formula, run):
    """Added to Adam's own step, and not to the moments; the old value counts, not the new one."""
    arguments = run.gradients[0], initial_adam_state(run.start), RATE
    plain, plain_state = formula(run.start, *arguments, run.options)
    found, state = formula(run.start, *arguments, decaying(run, True, 0.4).options)
    moments = differing(torch.stack(state[:2]), torch.stack(plain_state[:2]))
    return distance(found, plain - RATE * 0.4 * run.start) + moments, rounding(run)


@ADAM_STEP.law(cases=run_of)
def decoupled_decay_ignores_the_scale_of_the_loss(formula, run):
    """With ε = 0 a loss 64 times as large takes the same path: the decay does not fade."""
    run = decaying(run._replace(options=run.options._replace(eps=0.0)), True)
    louder = run._replace(gradients=64 * run.gradients)
    return differing(path(formula, louder), path(formula, run)), 0


@ADAM_STEP.law(cases=run_of)
def l2_decay_is_part_of_the_gradient(formula, run):
    """wd θ comes in before the moments, as the gradient of wd/2 ‖θ‖²."""
    loss_with_price = path(formula, run, lambda i, θ: run.gradients[i] + 0.3 * θ)
    return differing(path(formula, decaying(run, False)), loss_with_price), 0


@ADAM_STEP.law(cases=run_of)
def l2_decay_alone_is_an_adam_step(formula, run):
    """Its first step is η wd θ / (|wd θ| + ε): as long for small weights as for large ones."""
    pull = 0.3 * run.start
    expected = -RATE * pull / (pull.abs() + run.options.eps)
    found = moves(formula, decaying(run, False), gradients=lambda i, θ: 0 * θ)[0]
    return distance(found, expected), rounding(run)


@ADAM_STEP.law(cases=run_of)
def l2_decay_and_its_opposite_cancel(formula, run):
    found = path(formula, decaying(run, False), lambda i, θ: -(0.3 * θ))
    return differing(found, run.start.expand_as(found)), 0


# gradients: a step is itself a formula that a loss can be backpropagated through


def steep_run(draw: Draw) -> Run:
    """Gradients away from 0, where the root of their square has a corner."""
    run = run_of(draw, FORMS, 0.3, (1.0,), 3)
    return run._replace(gradients=run.gradients + run.gradients.sign() * 2)


@ADAM_STEP.gradient(cases=steep_run, cost=3)
def its_slope_is_that_of_the_sums_over_the_past(formula, run):
    return slopes(
        lambda start, history: path(formula, Run(start, history, run.options)),
        lambda start, history: spec_of_path(start, history, run.options),
        [run.start, run.gradients],
    )


class Step(NamedTuple):
    """One step from an existing state."""

    parameters: Tensor
    gradient: Tensor
    state: AdamState
    options: AdamOptions


def step_of(draw: Draw, scale: float = 1.0, size: float = 1.0, steps: int | None = None) -> Step:
    """Gradients of this scale; parameters of this size."""
    seed, options = seed_of(draw), adam_form(draw.choice(FORMS))
    steps = draw.choice([0, 1, 11, 1000]) if steps is None else steps
    mean, root, gradient = (normal(seed + i, 7, scale=scale) for i in (1, 2, 3))
    if steps == 0:
        state = initial_adam_state(mean)
    else:
        state = AdamState(mean, root.square() + (0.1 * scale) ** 2, steps)
    return Step(normal(seed, 7, scale=size), gradient, state, options)


@ADAM_STEP.gradient(cases=lambda draw: step_of(draw, steps=draw.choice([1, 11, 1000])))
def its_gradients_have_a_closed_form(formula, case):
    """D = √v̂ + ε;  dm = -η u β₁/(c₁ D);  dv = η u m̂ β₂/(2 c₂ √v̂ D²);
    dg = -η u ((1-β₁)/(c₁ D) - m̂ (1-β₂) g/(c₂ √v̂ D²));  dθ = u (1 - η wd), or u + wd dg for L2
    """
    θ, g, (m, v, steps), (β1, β2, ε, corrected, decay, decoupled) = case
    upstream = normal(7, *θ.shape)
    found = gradients(
        lambda θ, g, m, v: formula(θ, g, AdamState(m, v, steps), RATE, case.options)[0],
        [θ, g, m, v],
        upstream,
    )
    if not decoupled:
        g = g + decay * θ
    c1, c2 = (1 - β1 ** (steps + 1), 1 - β2 ** (steps + 1)) if corrected else (1, 1)
    m_hat, v_hat = (β1 * m + (1 - β1) * g) / c1, (β2 * v + (1 - β2) * g * g) / c2
    D, u = v_hat.sqrt() + ε, RATE * upstream
    along_v = u * m_hat / (v_hat.sqrt() * D * D)
    to_g = along_v * (1 - β2) * g / c2 - u * (1 - β1) / (c1 * D)
    to_θ = upstream - u * decay if decoupled else upstream + decay * to_g
    closed = to_θ, to_g, -u * β1 / (c1 * D), along_v * β2 / (2 * c2)
    size = max(1.0, float(torch.stack(closed).abs().max()))
    return sum(distance(*pair) for pair in zip(found, closed, strict=True)), 100 * size * EPS


HARD_STEPS: dict[str, Callable[[Draw], Step]] = {
    "normal": step_of,
    "gradients near ε": lambda draw: step_of(draw, 1e-8),
    "tiny gradients": lambda draw: step_of(draw, 1e-30),
    "large gradients": lambda draw: step_of(draw, 1e15),
    "tiny parameters": lambda draw: step_of(draw, 1.0, 1e-6),
    "large parameters": lambda draw: step_of(draw, 1.0, 1e4),
    "the first step": lambda draw: step_of(draw, 1.0, 1e-6, 0),
    "equal": lambda draw: step_of(draw)._replace(gradient=torch.full((7,), -0.3).double()),
}


def by_torchs_kernel(parameters, gradient, state, rate, options):
    """The kernel overwrites its arguments."""
    copied = state._replace(mean_P=state.mean_P.clone(), square_P=state.square_P.clone())
    return fused.adam_step(parameters.clone(), gradient, copied, rate, options)


@ADAM_STEP.accuracy(HARD_STEPS, torch_twin=by_torchs_kernel)
def a_step_keeps_its_digits(formula, case):
    """L2 decay rounds g + wd θ first; the promise is about the step from there."""
    θ, g, (m, v, steps), options = case
    eps, tiny = eps_of(θ), torch.finfo(θ.dtype).tiny
    found, state = formula(*case[:3], RATE, options)
    β1, β2, ε, corrected, decay, decoupled = options
    if not decoupled:
        g, decay = g + decay * θ, 0.0
    columns = (part.double().tolist() for part in (θ, g, m, v))
    rest = (steps + 1, RATE, β1, β2, ε, corrected, decay, True)
    rows = [spec.adam_step(*column, *rest) for column in zip(*columns, strict=True)]
    expected, mean, square = as_tensor(rows).unbind(-1)
    sizes = β1 * m.double().abs() + (1 - β1) * g.double().abs()
    c1, c2 = (1 - β1 ** (steps + 1), 1 - β2 ** (steps + 1)) if corrected else (1, 1)
    update = sizes / c1 / ((square / c2).sqrt() + ε) + decay * θ.double().abs()
    error = distance(found, expected, eps * (expected.abs() / 2 + 8 * RATE * update) + tiny)
    error = max(error, distance(state.mean_P, mean, 2 * eps * sizes + tiny))
    return max(error, distance(state.square_P, square, 3 * eps * square + 2 * tiny)), 1


def written_anew(**wrong: Callable[..., Any]) -> Callable[..., Any]:
    """Adam with single pieces replaced: how moments, correction and step are computed."""

    def variant(parameters, gradient, state, rate, options):
        β1, β2, eps, corrected, decay, decoupled = options
        steps = state.steps + 1
        if decay and not decoupled:
            gradient = gradient + decay * parameters
        mean = wrong.get("mean", lambda m, g: β1 * m + (1 - β1) * g)(state.mean_P, gradient)
        square = wrong.get("square", lambda v, g: β2 * v + (1 - β2) * g * g)(
            state.square_P, gradient
        )
        counted = wrong.get("counted", lambda t: t)(steps)
        c1, c2 = (1 - β1**counted, 1 - β2**counted) if corrected else (1, 1)
        m, v = wrong.get("correct", lambda m, v, c1, c2: (m / c1, v / c2))(mean, square, c1, c2)
        update = wrong.get("update", lambda m, v, eps, g: m / (v.sqrt() + eps))(m, v, eps, gradient)
        after = parameters - rate * update
        if decay and decoupled:
            take = wrong.get("decay", lambda p, after, rate, decay: after - rate * decay * p)
            after = take(parameters, after, rate, decay)
        return after, AdamState(mean, square, steps)

    return variant


def with_options(**changed: Any) -> Callable[..., Any]:
    """The right Adam with some options replaced."""

    def variant(parameters, gradient, state, rate, options):
        return adam_step(parameters, gradient, state, rate, options._replace(**changed))

    return variant


ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign,
    it_is_torchs_adam,
    it_is_torchs_adamw,
    source="https://github.com/google-research/bert/issues/153",
    name="no_bias_correction",
)(with_options(bias_correction=False))

ADAM_STEP.mistake(
    the_first_uncorrected_step_is_root_ten_times_as_long,
    the_ratio_to_the_corrected_step_is_known,
    the_twelfth_uncorrected_step_is_the_longest,
    without_correction_it_is_torchs_adamw_at_another_rate,
    it_is_googles_optimizer,
    name="correction_where_none_is_wanted",
)(with_options(bias_correction=True))

ADAM_STEP.mistake(the_first_step_is_that_of_the_sign, name="mean_not_corrected")(
    written_anew(correct=lambda m, v, c1, c2: (m, v / c2))
)

ADAM_STEP.mistake(a_constant_gradient_makes_equal_steps, name="square_not_corrected")(
    written_anew(correct=lambda m, v, c1, c2: (m / c1, v))
)

ADAM_STEP.mistake(the_first_step_is_that_of_the_sign, name="steps_counted_one_ahead")(
    written_anew(counted=lambda t: t + 1)
)


@ADAM_STEP.mistake(
    a_constant_gradient_makes_equal_steps,
    its_arguments_stay_as_they_are,
    it_is_means_of_the_past_over_roots_of_mean_squares,
)
def steps_not_handed_on(parameters, gradient, state, rate, options):
    """So every step is corrected like the first."""
    after, new = adam_step(parameters, gradient, state._replace(steps=0), rate, options)
    return after, new._replace(steps=0)


@ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign,
    source="https://github.com/tensorflow/tensorflow/issues/9047",
)
def eps_before_the_correction(parameters, gradient, state, rate, options):
    """ε̂ of Kingma and Ba's remark after algorithm 1: another ε by √(1-β₂ᵗ)."""
    root = math.sqrt(1 - options.beta2 ** (state.steps + 1))
    changed = options._replace(eps=options.eps / root) if options.bias_correction else options
    return adam_step(parameters, gradient, state, rate, changed)


@ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/blob/8800c43509945f40865eb9c503d4e5e7ab728a85/labml_nn/optimizers/adam.py",
)
def eps_hat_without_its_root(parameters, gradient, state, rate, options):
    """ε̂ = (1-β₂ᵗ) ε, where it is √(1-β₂ᵗ) ε."""
    square = 1 - options.beta2 ** (state.steps + 1)
    eps = options.eps * math.sqrt(square)
    changed = options._replace(eps=eps) if options.bias_correction else options
    return adam_step(parameters, gradient, state, rate, changed)


ADAM_STEP.mistake(
    eps_is_in_the_unit_of_the_gradient,
    a_step_keeps_its_digits,
    source="https://github.com/FluxML/Flux.jl/pull/448",
    name="eps_inside_the_root",
)(written_anew(update=lambda m, v, eps, g: m / (v + eps).sqrt()))

ADAM_STEP.mistake(the_first_step_is_that_of_the_sign, name="eps_squared_inside_the_root")(
    written_anew(update=lambda m, v, eps, g: m / (v + eps * eps).sqrt())
)

ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign,
    it_is_means_of_the_past_over_roots_of_mean_squares,
    source="https://github.com/tensorflow/tensorflow/pull/61411",
    name="minus_eps",
)(written_anew(update=lambda m, v, eps, g: m / (v.sqrt() - eps)))

ADAM_STEP.mistake(a_zero_gradient_moves_nothing, name="no_eps")(
    written_anew(update=lambda m, v, eps, g: m / v.sqrt())
)

ADAM_STEP.mistake(
    eps_is_in_the_unit_of_the_gradient, it_is_googles_optimizer, name="eps_fixed_at_1e_8"
)(with_options(eps=1e-8))

ADAM_STEP.mistake(
    without_memory_it_is_the_sign,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/blob/8800c43509945f40865eb9c503d4e5e7ab728a85/labml_nn/optimizers/adam.py",
    name="no_root",
)(written_anew(update=lambda m, v, eps, g: m / (v + eps)))

ADAM_STEP.mistake(moments_are_weighted_means_of_the_past, name="no_mean")(
    written_anew(update=lambda m, v, eps, g: g / (v.sqrt() + eps))
)

ADAM_STEP.mistake(
    moments_are_weighted_means_of_the_past, its_gradients_have_a_closed_form, name="betas_swapped"
)(with_options(beta1=0.999, beta2=0.9))

ADAM_STEP.mistake(moments_are_weighted_means_of_the_past, name="weights_of_the_mean_swapped")(
    written_anew(mean=lambda m, g: 0.1 * m + 0.9 * g)
)

ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign, steps_are_bounded, name="mean_without_1_minus_beta"
)(written_anew(mean=lambda m, g: 0.9 * m + g))

ADAM_STEP.mistake(signs_may_be_turned, name="square_not_squared")(
    written_anew(square=lambda v, g: 0.999 * v + 0.001 * g)
)

ADAM_STEP.mistake(moments_are_weighted_means_of_the_past, name="largest_square_kept")(
    written_anew(square=lambda v, g: torch.maximum(v, 0.001 * g * g))
)

ADAM_STEP.mistake(
    the_first_step_is_that_of_the_sign, the_first_step_goes_downhill, name="uphill"
)(
    written_anew(update=lambda m, v, eps, g: -m / (v.sqrt() + eps))
)


@ADAM_STEP.mistake(without_decay_both_kinds_of_decay_are_the_same)
def a_hundredth_decays_always(parameters, gradient, state, rate, options):
    kept = max(options.weight_decay, 0.01)
    return adam_step(parameters, gradient, state, rate, options._replace(weight_decay=kept))


@ADAM_STEP.mistake(the_step_grows_with_the_rate)
def rate_squared(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, rate * rate, options)


@ADAM_STEP.mistake(
    the_step_grows_with_the_rate,
    source="https://github.com/huggingface/transformers/issues/195",
)
def warm_up_applied_twice(parameters, gradient, state, rate, options):
    """By the script, and once more by the optimiser."""
    return adam_step(parameters, gradient, state, rate * min(1, rate / (2 * RATE)), options)


@ADAM_STEP.mistake(a_rate_of_zero_stands_still)
def a_smallest_rate(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, max(rate, 1e-3), options)


@ADAM_STEP.mistake(a_stopped_run_goes_on_as_if_it_had_not_stopped)
def last_gradient_kept_beside_the_state(parameters, gradient, state, rate, options):
    """State kept in the function: a run that is resumed in a new process takes another path."""
    kept = last_gradient_kept_beside_the_state.__dict__
    last, kept["gradient"] = kept.get("gradient", 0 * gradient), gradient
    return adam_step(parameters, (gradient + last) / 2, state, rate, options)


@ADAM_STEP.mistake(its_arguments_stay_as_they_are)
def moments_written_in_place(parameters, gradient, state, rate, options):
    after, new = adam_step(parameters, gradient, state, rate, options)
    state.mean_P.copy_(new.mean_P)
    return after, new


@ADAM_STEP.mistake(parameters_do_not_know_each_other)
def one_speed_for_all(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient / gradient.norm(), state, rate, options)


@ADAM_STEP.mistake(
    parameters_do_not_know_each_other,
    source="https://github.com/huggingface/transformers/issues/581",
)
def each_tensor_clipped_inside_the_optimiser(parameters, gradient, state, rate, options):
    shorter = gradient * (1e-7 / gradient.norm()).clamp(max=1)
    return adam_step(parameters, shorter, state, rate, options)


@ADAM_STEP.mistake(their_shape_does_not_matter)
def one_square_for_each_row(parameters, gradient, state, rate, options):
    """Adafactor's saving, without saying so."""
    row = gradient.square().mean(-1, keepdim=True).sqrt()
    return adam_step(parameters, gradient.sign() * row, state, rate, options)


@ADAM_STEP.mistake(
    decoupled_decay_alone_is_geometric,
    decoupled_decay_takes_a_share_of_the_old_value,
    decoupled_decay_ignores_the_scale_of_the_loss,
    it_is_torchs_adamw,
    source="https://github.com/codertimo/BERT-pytorch/issues/32",
)
def l2_where_decoupled_decay_is_wanted(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, rate, options._replace(decoupled=False))


@ADAM_STEP.mistake(l2_decay_alone_is_an_adam_step, l2_decay_and_its_opposite_cancel)
def decoupled_decay_where_l2_is_wanted(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, rate, options._replace(decoupled=True))


ADAM_STEP.mistake(decoupled_decay_takes_a_share_of_the_old_value, name="decay_of_the_new_value")(
    written_anew(decay=lambda p, after, rate, decay: after * (1 - rate * decay))
)

ADAM_STEP.mistake(decoupled_decay_alone_is_geometric, name="decay_without_the_rate")(
    written_anew(decay=lambda p, after, rate, decay: after - decay * p)
)

ADAM_STEP.mistake(
    l2_decay_is_part_of_the_gradient,
    decoupled_decay_alone_is_geometric,
    it_is_googles_optimizer,
    name="no_decay",
)(with_options(weight_decay=0.0))


@ADAM_STEP.mistake(
    its_gradients_have_a_closed_form, its_slope_is_that_of_the_sums_over_the_past
)
def second_moment_not_followed(parameters, gradient, state, rate, options):
    """The path is right; only the gradient through it is not."""
    right, new = adam_step(parameters, gradient, state, rate, options)
    fixed, _ = adam_step(parameters.detach(), gradient.detach(), state, rate, options)
    return parameters + (right - parameters).detach() + 0 * fixed, new


@ADAM_STEP.mistake(a_step_keeps_its_digits)
def moments_in_less_precision(parameters, gradient, state, rate, options):
    after, new = adam_step(parameters, gradient, state, rate, options)
    narrow = [part.to(torch.float8_e4m3fn).to(part.dtype) for part in new[:2]]
    return after, AdamState(*narrow, new.steps)


# ----------------------------------------------------------------------------------- global_norm

SHAPES = [(3, 5), (7,), (), (2, 1, 3)]
SCALES = (1e-200, 1.0, 1e200)


def parts_of(draw: Draw, scales: tuple[float, ...] = SCALES) -> tuple[Tensor, ...]:
    """Gradients of any shapes, also so small or large that squares leave the range of float64."""
    seed, scale = seed_of(draw), draw.choice(scales)
    return tuple(normal(seed + i, *shape, scale=scale) for i, shape in enumerate(SHAPES))


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def as_vectors(parts: tuple[Tensor, ...]) -> list[list[float]]:
    return [part.double().reshape(-1).tolist() for part in parts]


GLOBAL_NORM = Proof(global_norm, parts_of)


@GLOBAL_NORM.spec
def it_is_the_root_of_the_sum_of_squares(formula, parts):
    expected = as_tensor(spec.global_norm(as_vectors(parts)))
    return distance(formula(parts), expected, expected), 16 * EPS


@GLOBAL_NORM.reference(cases=lambda draw: parts_of(draw, (1e-3, 1.0, 1e6)))
def it_is_torchs_norm_of_the_joined_vector(formula, parts):
    expected = torch.linalg.vector_norm(flat(parts))
    return distance(formula(parts), expected, expected), 16 * EPS


@GLOBAL_NORM.law
def it_is_pythagoras_for_any_two_parts(formula, parts):
    whole, one, rest = (formula(some) for some in (parts, parts[:1], parts[1:]))
    unit = parts[0].abs().max()
    left, right = whole / unit, torch.hypot(one / unit, rest / unit)
    return distance(left, right, left), 16 * EPS


@GLOBAL_NORM.law
def it_is_in_the_unit_of_the_gradients(formula, parts):
    """A power of two only changes exponents."""
    return differing(formula(tuple(-8 * part for part in parts)), 8 * formula(parts)), 0


@GLOBAL_NORM.law
def order_and_shapes_do_not_matter(formula, parts):
    whole = formula(parts)
    others = formula((flat(parts),)), formula(parts[::-1]), formula(tuple(flat(parts)[:, None]))
    return sum(distance(other, whole, whole) for other in others), 48 * EPS


@GLOBAL_NORM.law
def zeros_have_length_zero(formula, parts):
    zeros = tuple(torch.zeros_like(part) for part in parts)
    return differing(formula(zeros), torch.zeros(()).double()), 0


@GLOBAL_NORM.law
def one_infinity_or_nan_is_seen(formula, parts):
    seen = 0
    for bad in (math.nan, math.inf, -math.inf):
        spoiled = (*parts, as_tensor([1.0, bad]))
        seen += not bool(formula(spoiled).isfinite())
    return 3 - seen, 0


@GLOBAL_NORM.law
def half_precision_is_summed_in_float32(formula, parts):
    """In bfloat16 each of these squares would be rounded by up to 1 in 256, and the sum again."""
    found = formula((torch.full((1000,), 1 + 2**-7, dtype=torch.bfloat16),))
    return distance(found, as_tensor(math.sqrt(1000) * (1 + 2**-7))), 1e-5


@GLOBAL_NORM.gradient(cases=lambda draw: parts_of(draw, (1.0,)))
def its_slope_is_that_of_the_root_of_the_sum(formula, parts):
    def of_the_spec(*parts):
        return spec.global_norm(nested(parts))

    return slopes(lambda *parts: formula(parts), of_the_spec, parts)


def nested(parts: Any) -> list[list[float]]:
    """Nested lists of any depth as vectors."""
    return [as_tensor(part).reshape(-1).tolist() for part in parts]


@GLOBAL_NORM.gradient
def its_gradient_is_the_unit_vector(formula, parts):
    found = gradients(lambda *parts: formula(parts), parts, torch.ones(()).double())
    scaled = flat(parts) / flat(parts).abs().max()
    return distance(flat(found), scaled / scaled.norm()), 16 * EPS


def norm_bound(parts: tuple[Tensor, ...]) -> float:
    """n squares of two roundings each are summed in float32 at least; the root halves the error."""
    n, eps = sum(part.numel() for part in parts), min(eps_of(parts[0]), 2.0**-23)
    return (n / 4 + 2) * eps


HARD_PARTS: dict[str, Callable[[Draw], tuple[Tensor, ...]]] = {
    "normal": lambda draw: parts_of(draw, (1.0,)),
    "tiny": lambda draw: parts_of(draw, (1e-30,)),
    "large": lambda draw: parts_of(draw, (1e30,)),
    "one large among small": lambda draw: (*parts_of(draw, (1e-4,)), normal(seed_of(draw), 2)),
    "equal": lambda draw: (torch.full((29,), draw.choice([-3e-20, 0.1, 7e20])).double(),),
}


@GLOBAL_NORM.accuracy(HARD_PARTS, torch_twin=torch.nn.utils.get_total_norm)
def the_norm_keeps_its_digits(formula, parts):
    expected = as_tensor(spec.global_norm(as_vectors(parts)))
    return distance(formula(parts), expected, norm_bound(parts) * expected), 1


@GLOBAL_NORM.mistake(it_is_the_root_of_the_sum_of_squares, the_norm_keeps_its_digits)
def squares_that_overflow(parts):
    return torch.stack([(part * part).sum() for part in parts]).sum().sqrt()


@GLOBAL_NORM.mistake(
    it_is_torchs_norm_of_the_joined_vector,
    it_is_pythagoras_for_any_two_parts,
    its_slope_is_that_of_the_root_of_the_sum,
)
def sum_of_the_norms(parts):
    return torch.stack([global_norm((part,)) for part in parts]).sum()


@GLOBAL_NORM.mistake(order_and_shapes_do_not_matter, its_gradient_is_the_unit_vector)
def largest_norm(parts):
    return torch.stack([global_norm((part,)) for part in parts]).max()


@GLOBAL_NORM.mistake(it_is_pythagoras_for_any_two_parts)
def sum_of_absolute_values(parts):
    return flat(parts).abs().sum()


@GLOBAL_NORM.mistake(it_is_in_the_unit_of_the_gradients)
def root_forgotten(parts):
    return global_norm(parts) ** 2


@GLOBAL_NORM.mistake(order_and_shapes_do_not_matter)
def root_of_the_mean_of_squares(parts):
    return global_norm(parts) / math.sqrt(len(parts))


@GLOBAL_NORM.mistake(zeros_have_length_zero, it_is_in_the_unit_of_the_gradients)
def a_millionth_longer(parts):
    return global_norm(parts) + 1e-6


@GLOBAL_NORM.mistake(zeros_have_length_zero)
def divided_by_a_largest_of_zero(parts):
    largest = flat(parts).abs().max()
    return largest * (flat(parts) / largest).norm()


@GLOBAL_NORM.mistake(one_infinity_or_nan_is_seen)
def what_is_not_finite_left_out(parts):
    return global_norm(tuple(torch.where(part.isfinite(), part, 0) for part in parts))


@GLOBAL_NORM.mistake(half_precision_is_summed_in_float32)
def squared_in_half_precision(parts):
    return torch.stack([(part * part).sum() for part in parts]).sum().sqrt()


# --------------------------------------------------------------------------- clip_by_global_norm


class Clip(NamedTuple):
    gradients: tuple[Tensor, ...]
    limit: float


def clip_of(draw: Draw, scales: tuple[float, ...] = SCALES) -> Clip:
    return Clip(parts_of(draw, scales), draw.choice([1e-3, 1.0, 6.0, 1e4]))


CLIP = Proof(clip_by_global_norm, clip_of)


@CLIP.spec
def every_number_is_times_the_limit_over_the_norm(formula, case):
    expected = spec.clip_by_global_norm(as_vectors(case.gradients), case.limit)
    expected = as_tensor([number for part in expected for number in part])
    return distance(flat(formula(*case)[0]), expected, expected.abs()), 16 * EPS


@CLIP.reference(cases=lambda draw: clip_of(draw, (1e-3, 1.0, 1e3)))
def it_is_torchs_clipping_without_its_millionth(formula, case):
    """torch divides by ‖g‖ + 1e-6; with the limit enlarged in proportion, its factor is ours."""
    leaves = [torch.zeros_like(part).requires_grad_() for part in case.gradients]
    for leaf, part in zip(leaves, case.gradients, strict=True):
        leaf.grad = part.clone()
    norm = spec.global_norm(as_vectors(case.gradients))
    torchs_norm = torch.nn.utils.clip_grad_norm_(leaves, case.limit * (norm + 1e-6) / norm)
    found, ours = formula(*case)
    expected = flat(tuple(leaf.grad for leaf in leaves))
    error = distance(flat(found), expected, expected.abs())
    return error + distance(ours, torchs_norm, torchs_norm), 48 * EPS


@CLIP.law
def the_length_is_the_limit_or_less(formula, case):
    """Exactly min(‖g‖, c), and the norm before clipping is returned."""
    before = spec.global_norm(as_vectors(case.gradients))
    found, reported = formula(*case)
    after = spec.global_norm(as_vectors(found))
    wanted = min(before, case.limit)
    return abs(after / wanted - 1) + abs(float(reported) / before - 1), 32 * EPS


@CLIP.law
def short_gradients_are_left_alone(formula, case):
    """Bit for bit; a norm equal to the limit counts as short."""
    norm = float(global_norm(case.gradients))
    found = [formula(case.gradients, limit)[0] for limit in (2 * norm, norm)]
    return sum(differing(flat(parts), flat(case.gradients)) for parts in found), 0


@CLIP.law
def the_direction_stays(formula, case):
    """One common factor, between 0 and 1."""
    old, (found, _) = flat(case.gradients), formula(*case)
    factors = flat(found) / old
    outside = float(((factors <= 0) | (factors > 1)).sum())
    return float(factors.max() - factors.min()) / float(factors.max()) + outside, 8 * EPS


@CLIP.law
def cutting_into_tensors_does_not_matter(formula, case):
    whole, _ = formula((flat(case.gradients),), case.limit)
    parts, _ = formula(*case)
    return distance(whole[0], flat(parts), flat(parts).abs()), 16 * EPS


@CLIP.law
def twice_is_once(formula, case):
    once, _ = formula(*case)
    twice, _ = formula(once, case.limit)
    return distance(flat(twice), flat(once), flat(once).abs()), 16 * EPS


@CLIP.law
def only_the_direction_of_long_gradients_counts(formula, case):
    limit = spec.global_norm(as_vectors(case.gradients)) / 3
    louder = tuple(8 * part for part in case.gradients)
    once, _ = formula(case.gradients, limit)
    found, _ = formula(louder, limit)
    return distance(flat(found), flat(once), flat(once).abs()), 16 * EPS


@CLIP.law
def what_goes_in_is_not_changed(formula, case):
    before = flat(case.gradients)
    formula(*case)
    return differing(flat(case.gradients), before), 0


@CLIP.law
def each_tensor_keeps_its_precision(formula, case):
    """Only the norm is at least float32."""
    kinds = (torch.bfloat16, torch.float32, torch.float16, torch.bfloat16)
    mixed = tuple(torch.ones(3, dtype=kind) for kind in kinds)
    found, norm = formula(mixed, 1.0)
    wrong = sum(part.dtype != kind for part, kind in zip(found, kinds, strict=True))
    return wrong + (norm.dtype != torch.float32), 0


def loud(draw: Draw) -> Clip:
    """Far above or far below the limit, where the formula has a corner."""
    return Clip(parts_of(draw, (1.0,)), draw.choice([0.5, 1.0, 100.0]))


@CLIP.gradient(cases=loud, cost=2)
def its_slope_is_that_of_the_limit_over_the_norm(formula, case):
    def of_the_spec(*parts):
        clipped = spec.clip_by_global_norm(nested(parts), case.limit)
        return [number for part in clipped for number in part]

    return slopes(lambda *parts: flat(formula(parts, case.limit)[0]), of_the_spec, case.gradients)


@CLIP.gradient(cases=loud)
def its_gradient_is_across_the_direction(formula, case):
    """dg = c/‖g‖ (u - ĝ ⟨ĝ, u⟩): what would only lengthen a clipped gradient has no effect."""
    old = flat(case.gradients)
    upstream, norm = normal(5, *old.shape), old.norm()
    found = gradients(
        lambda *parts: flat(formula(parts, case.limit)[0]), case.gradients, upstream
    )
    unit = old / norm
    across = case.limit / norm * (upstream - unit * (unit @ upstream))
    closed = across if norm > case.limit else upstream
    return distance(flat(found), closed), 64 * EPS


def clipped(parts: Callable[[Draw], tuple[Tensor, ...]]) -> Callable[[Draw], Clip]:
    return lambda draw: Clip(parts(draw), draw.choice([1e-3, 1.0, 1e4]))


@CLIP.accuracy({family: clipped(parts) for family, parts in HARD_PARTS.items()})
def a_clipped_number_keeps_its_digits(formula, case):
    parts, limit = case
    expected = as_tensor(
        [x for part in spec.clip_by_global_norm(as_vectors(parts), limit) for x in part]
    )
    share = eps_of(parts[0]) + norm_bound(parts)
    unit = share * expected.abs() + torch.finfo(parts[0].dtype).tiny
    return distance(flat(formula(parts, limit)[0]), expected, unit), 1


def scaled(parts: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    return tuple(part * factor for part in parts)


@CLIP.mistake(
    the_direction_stays,
    cutting_into_tensors_does_not_matter,
    every_number_is_times_the_limit_over_the_norm,
    source="https://github.com/huggingface/transformers/issues/581",
)
def each_tensor_by_its_own_norm(parts, limit):
    """BertAdam of pytorch_pretrained_bert, and so TinyBERT's code."""
    clipped = tuple(clip_by_global_norm((part,), limit)[0][0] for part in parts)
    return clipped, global_norm(parts)


@CLIP.mistake(the_direction_stays, its_slope_is_that_of_the_limit_over_the_norm)
def each_number_alone(parts, limit):
    return tuple(part.clamp(-limit, limit) for part in parts), global_norm(parts)


@CLIP.mistake(
    the_length_is_the_limit_or_less,
    twice_is_once,
    only_the_direction_of_long_gradients_counts,
    it_is_torchs_clipping_without_its_millionth,
    source="https://github.com/pytorch/pytorch/blob/01a57d87bd4826d1f528b2dc47360a8087b34f5a/torch/nn/utils/clip_grad.py",
)
def norm_and_a_millionth(parts, limit):
    norm = global_norm(parts)
    return scaled(parts, (limit / (norm + 1e-6)).clamp(max=1)), norm


@CLIP.mistake(short_gradients_are_left_alone)
def always_scaled_to_the_limit(parts, limit):
    norm = global_norm(parts)
    return scaled(parts, limit / norm), norm


@CLIP.mistake(the_length_is_the_limit_or_less)
def norm_of_absolute_values(parts, limit):
    norm = flat(parts).abs().sum()
    return scaled(parts, (limit / norm).clamp(max=1)), norm


@CLIP.mistake(the_length_is_the_limit_or_less)
def norm_after_clipping_reported(parts, limit):
    clipped, _ = clip_by_global_norm(parts, limit)
    return clipped, global_norm(clipped)


@CLIP.mistake(only_the_direction_of_long_gradients_counts)
def limit_over_the_square(parts, limit):
    norm = global_norm(parts)
    return scaled(parts, (limit / norm**2).clamp(max=1)), norm


@CLIP.mistake(cutting_into_tensors_does_not_matter)
def by_the_largest_norm_of_a_tensor(parts, limit):
    largest = torch.stack([global_norm((part,)) for part in parts]).max()
    return scaled(parts, (limit / largest).clamp(max=1)), global_norm(parts)


@CLIP.mistake(
    what_goes_in_is_not_changed,
    source="https://github.com/huggingface/transformers/issues/986",
)
def clipped_where_it_lies(parts, limit):
    """So a gradient that is still being accumulated is clipped half-way."""
    norm = global_norm(parts)
    return tuple(part.mul_((limit / norm).clamp(max=1)) for part in parts), norm


@CLIP.mistake(each_tensor_keeps_its_precision)
def all_in_float32(parts, limit):
    clipped, norm = clip_by_global_norm(parts, limit)
    return tuple(part.float() for part in clipped), norm


@CLIP.mistake(
    its_gradient_is_across_the_direction, its_slope_is_that_of_the_limit_over_the_norm
)
def norm_not_followed(parts, limit):
    norm = global_norm(parts)
    return scaled(parts, (limit / norm.detach()).clamp(max=1)), norm


@CLIP.mistake(a_clipped_number_keeps_its_digits)
def norm_that_overflows(parts, limit):
    norm = squares_that_overflow(parts)
    return scaled(parts, (limit / norm).clamp(max=1)), norm


# ------------------------------------------------------------------------------------- schedules


class Times(NamedTuple):
    warmup: int
    total: int


def times(draw: Draw) -> Times:
    warmup = draw.integer(1, 40)
    return Times(warmup, warmup + draw.integer(1, 60))


def any_times(draw: Draw) -> Times:
    """Also where the warm-up is 0, as long as the training, or longer."""
    return Times(draw.integer(0, 30), draw.integer(0, 60))


IN_STEPS = {"gradient": "time is counted in whole steps"}

LINEAR = Proof(linear_schedule, times, without=IN_STEPS)
GOOGLE = Proof(google_schedule, times, without=IN_STEPS)
CONSTANT = Proof(constant_schedule, times, without=IN_STEPS)
COSINE = Proof(cosine_schedule, times, without=IN_STEPS)
INVERSE_ROOT = Proof(
    inverse_square_root_schedule,
    times,
    without=IN_STEPS | {"reference": "torch lacks it; the tests compare with transformers"},
)
SCHEDULES = (LINEAR, GOOGLE, CONSTANT, COSINE, INVERSE_ROOT)


def curve(schedule, case: Times, last: int | None = None) -> list[float]:
    """f(0), f(1), …, f(T)."""
    return [schedule(t, *case) for t in range((last or case.total) + 1)]


def farthest(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def against(schedule, expected, case: Times) -> tuple[float, float]:
    gap = [abs(schedule(t, *case) - expected(t, *case)) for t in range(case.total + 5)]
    return max(gap), 8 * EPS


@LINEAR.spec(cases=any_times)
def it_is_the_lower_of_two_lines(formula, case):
    return against(formula, spec.linear_schedule, case)


@GOOGLE.spec(cases=any_times)
def it_is_a_decay_over_all_steps_whose_begin_is_overwritten(formula, case):
    return against(formula, spec.google_schedule, case)


@CONSTANT.spec(cases=any_times)
def it_is_the_share_of_the_warm_up_that_is_done(formula, case):
    return against(formula, spec.constant_schedule, case)


@COSINE.spec(cases=any_times)
def it_is_the_square_of_a_cosine(formula, case):
    return against(formula, spec.cosine_schedule, case)


@INVERSE_ROOT.spec(cases=any_times)
def it_is_the_lower_of_a_line_and_an_inverse_root(formula, case):
    return against(formula, spec.inverse_square_root_schedule, case)


def of_torch(name: str, steps: int, **options: Any) -> list[float]:
    """The factors of a scheduler of torch at its steps 0, 1, …"""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@LINEAR.reference(cost=3)
@GOOGLE.reference(cost=3)
@CONSTANT.reference(cost=3)
@COSINE.reference(cost=3)
def its_warm_up_is_torchs_linear_rate(formula, case):
    """torch does not begin at 0 but one step later."""
    w = case.warmup
    theirs = of_torch("LinearLR", w - 1, start_factor=1 / w, total_iters=max(1, w - 1))
    return farthest([0.0, *curve(formula, case)[1:w]], [0.0, *theirs]), 8 * w * EPS


@LINEAR.reference(cost=3)
def its_decay_is_torchs_polynomial_of_power_one(formula, case):
    rest = case.total - case.warmup
    theirs = of_torch("PolynomialLR", rest + 1, total_iters=rest)
    return farthest(curve(formula, case)[case.warmup :], theirs), 8 * rest * EPS


@GOOGLE.reference(cost=3)
def its_decay_is_torchs_polynomial_from_the_start(formula, case):
    theirs = of_torch("PolynomialLR", case.total + 1, total_iters=case.total)[case.warmup :]
    return farthest(curve(formula, case)[case.warmup :], theirs), 8 * case.total * EPS


@CONSTANT.reference(cost=3)
def it_is_torchs_constant_rate(formula, case):
    theirs = of_torch("ConstantLR", case.total + 1, factor=1.0)
    return farthest(curve(formula, case)[case.warmup :], theirs[case.warmup :]), 0


@COSINE.reference(cost=3)
def its_decay_is_torchs_cosine(formula, case):
    rest = case.total - case.warmup
    theirs = of_torch("CosineAnnealingLR", rest + 1, T_max=rest)
    return farthest(curve(formula, case)[case.warmup :], theirs), 8 * rest * EPS


def of_all(statement):
    for proof in SCHEDULES:
        proof.law(statement)
    return statement


@of_all
def it_starts_at_zero(formula, case):
    return formula(0, *case), 0


@of_all
def it_stays_between_zero_and_one(formula, case):
    values = curve(formula, case, 2 * case.total)
    return max(0.0, -min(values), max(values) - 1), 0


@of_all
def warm_up_is_a_straight_line(formula, case):
    values = curve(formula, case)[: case.warmup]
    return sum(abs(f - t / case.warmup) for t, f in enumerate(values)), case.warmup * EPS


@of_all
def time_has_no_unit(formula, case):
    """f(k t; k w, k T) = f(t; w, T)."""
    scaled = [formula(8 * t, 8 * case.warmup, 8 * case.total) for t in range(case.total + 1)]
    return farthest(scaled, curve(formula, case)), 8 * EPS


@of_all
def without_a_warm_up_it_starts_at_its_peak(formula, case):
    return abs(formula(0, 0, case.total) - 1), 0


@LINEAR.law
@CONSTANT.law
@COSINE.law
@INVERSE_ROOT.law
def it_peaks_at_the_end_of_the_warm_up(formula, case):
    return abs(formula(case.warmup, *case) - 1), 0


@LINEAR.law
@CONSTANT.law
@COSINE.law
@INVERSE_ROOT.law
def it_rises_and_then_never_again(formula, case):
    values = curve(formula, case, 2 * case.total)
    up, down = values[: case.warmup + 1], values[case.warmup :]
    wrong = sum(b <= a for a, b in pairwise(up))
    return wrong + sum(b > a for a, b in pairwise(down)), 0


@LINEAR.law
@GOOGLE.law
@COSINE.law
def it_ends_at_zero(formula, case):
    return sum(abs(formula(case.total + later, *case)) for later in (0, 1, 1000)), 0


@LINEAR.law
@GOOGLE.law
def decay_is_a_straight_line(formula, case):
    """Second differences are 0 from the end of the warm-up on."""
    v = curve(formula, case)[case.warmup :]
    bends = [a - 2 * b + c for a, b, c in zip(v, v[1:], v[2:], strict=False)]
    return max([0.0, *map(abs, bends)]), 8 * EPS


@LINEAR.law
@CONSTANT.law
def there_is_no_jump(formula, case):
    """No step is larger than the slope of either line."""
    values = curve(formula, case)
    steepest = max(1 / case.warmup, 1 / (case.total - case.warmup))
    jumps = [abs(b - a) for a, b in pairwise(values)]
    return max(0.0, max(jumps) - steepest), 8 * EPS


@LINEAR.law
@COSINE.law
def its_sum_is_half_the_steps(formula, case):
    """Σ f(t) = T/2 over t = 0 … T, whatever the warm-up is (1 or more)."""
    return abs(math.fsum(curve(formula, case)) - case.total / 2), 4 * case.total * EPS


@GOOGLE.law
def its_jump_is_w_over_t(formula, case):
    """At the end of the warm-up: from the 1 that the line would reach to 1 - w/T."""
    return abs(formula(case.warmup, *case) - (1 - case.warmup / case.total)), 0


@GOOGLE.law
def without_a_warm_up_it_is_the_linear_one(formula, case):
    cold = Times(0, case.total)
    return farthest(curve(formula, cold), curve(linear_schedule, cold)), 4 * EPS


@CONSTANT.law
def it_stays_at_the_peak(formula, case):
    return sum(abs(f - 1) for f in curve(formula, case, 2 * case.total)[case.warmup :]), 0


@COSINE.law
def half_a_cosine_is_antisymmetric(formula, case):
    """f(w + x) + f(T - x) = 1, and half way it is 1/2 and steepest."""
    v = curve(formula, case)[case.warmup :]
    return max(abs(a + b - 1) for a, b in zip(v, v[::-1], strict=True)), 8 * EPS


@COSINE.law
def a_cosine_bends_in_proportion(formula, case):
    """f(t+1) + f(t-1) - 1 = 2 cos(π / (T-w)) (f(t) - 1/2): the recurrence of the cosine."""
    v = [f - 0.5 for f in curve(formula, case)[case.warmup :]]
    factor = 2 * math.cos(math.pi / (case.total - case.warmup))
    bends = [abs(a + c - factor * b) for a, b, c in zip(v, v[1:], v[2:], strict=False)]
    return max([0.0, *bends]), 16 * EPS


@INVERSE_ROOT.law
def four_times_as_late_is_half_as_fast(formula, case):
    later = [formula(4 * t, *case) / formula(t, *case) for t in range(case.warmup, case.total)]
    return max(abs(ratio - 0.5) for ratio in later), 4 * EPS


@INVERSE_ROOT.law
def the_total_is_not_used(formula, case):
    return farthest(curve(formula, case), curve(formula, Times(case.warmup, 1), case.total)), 0


class Moment(NamedTuple):
    step: int
    warmup: int
    total: int


def moment(draw: Draw, warmup: int, total: int) -> Moment:
    """A step near the start, the peak or the end, or anywhere."""
    near = draw.choice([0, warmup, total])
    step = draw.choice([near + draw.integer(-9, 9), draw.integer(0, total)])
    return Moment(max(0, step), warmup, total)


MOMENTS: dict[str, Callable[[Draw], Moment]] = {
    "a short run": lambda draw: moment(draw, draw.integer(1, 40), draw.integer(41, 100)),
    "a million steps": lambda draw: moment(draw, draw.integer(1, 10**5), 10**6 + 3),
    "odd long runs": lambda draw: moment(draw, 10**9 + 7, 3 * 10**12 + draw.integer(1, 999)),
    "almost all warm-up": lambda draw: moment(draw, 10**6, 10**6 + draw.integer(1, 9)),
}
PRECISE = (torch.float64,)  # plain Python floats


@LINEAR.accuracy(MOMENTS, PRECISE)
def a_line_is_rounded_once(formula, case):
    """A quotient of two whole numbers, against the fraction itself."""
    t, w, T = case
    exact = Fraction(t, w) if t < w else Fraction(max(T - t, 0), T - w)
    return abs(Fraction(formula(*case)) - exact), float(exact) * EPS / 2


@GOOGLE.accuracy(MOMENTS, PRECISE)
def a_difference_from_one_is_rounded_twice(formula, case):
    t, w, T = case
    exact = Fraction(t, w) if t < w else 1 - Fraction(min(t, T), T)
    return abs(Fraction(formula(*case)) - exact), EPS / 2


@CONSTANT.accuracy(MOMENTS, PRECISE)
def a_share_is_rounded_once(formula, case):
    exact = Fraction(min(case.step, case.warmup), case.warmup)
    return abs(Fraction(formula(*case)) - exact), float(exact) * EPS / 2


@COSINE.accuracy(MOMENTS, PRECISE)
def a_cosine_is_right_to_the_last_place_of_one(formula, case):
    return abs(formula(*case) - spec.cosine_schedule(*case)), 2 * EPS


@INVERSE_ROOT.accuracy(MOMENTS, PRECISE)
def the_square_of_the_root_is_the_fraction(formula, case):
    t, w, _ = case
    exact = Fraction(t, w) ** 2 if t < w else Fraction(w, t)
    return abs(Fraction(formula(*case)) ** 2 - exact), 1.5 * float(exact) * EPS


def wrong_for(
    proofs: tuple[Proof, ...], *laws: Callable[..., Any], source: str = ""
) -> Callable[[Any], Any]:
    """One mistake for several schedules: `wrong(schedule)` is the wrong version of each."""

    def add(wrong):
        for proof in proofs:
            proof.mistake(*laws, source=source, name=wrong.__name__)(wrong(proof.formula))
        return wrong

    return add


@wrong_for(SCHEDULES, it_starts_at_zero, warm_up_is_a_straight_line)
def no_warm_up(schedule):
    return lambda t, w, T: schedule(t, 0, T)


@wrong_for(SCHEDULES, it_stays_between_zero_and_one, warm_up_is_a_straight_line)
def twice_as_fast(schedule):
    return lambda t, w, T: 2 * schedule(t, w, T)


@wrong_for(SCHEDULES, warm_up_is_a_straight_line)
def quadratic_warm_up(schedule):
    return lambda t, w, T: schedule(t, w, T) ** 2 if t < w else schedule(t, w, T)


@wrong_for(SCHEDULES, time_has_no_unit, warm_up_is_a_straight_line)
def one_step_of_warm_up_more(schedule):
    return lambda t, w, T: schedule(t, w + 1, T + 1)


@wrong_for(SCHEDULES, without_a_warm_up_it_starts_at_its_peak)
def one_step_of_warm_up_at_least(schedule):
    return lambda t, w, T: schedule(t, max(w, 1), T)


@wrong_for((LINEAR, COSINE), it_peaks_at_the_end_of_the_warm_up, its_warm_up_is_torchs_linear_rate)
@wrong_for((GOOGLE, CONSTANT), it_starts_at_zero, its_warm_up_is_torchs_linear_rate)
@wrong_for((INVERSE_ROOT,), it_starts_at_zero, it_peaks_at_the_end_of_the_warm_up)
def counted_from_one(schedule):
    return lambda t, w, T: schedule(t + 1, w, T)


@LINEAR.mistake(
    there_is_no_jump,
    it_peaks_at_the_end_of_the_warm_up,
    it_is_the_lower_of_two_lines,
    its_decay_is_torchs_polynomial_of_power_one,
    source="https://github.com/huggingface/transformers/issues/324",
)
def bert_adams_jump(t, w, T):
    """warmup_linear of pytorch_pretrained_bert: 1 - t/T after the warm-up."""
    return google_schedule(t, w, T)


@LINEAR.mistake(
    it_stays_between_zero_and_one,
    it_ends_at_zero,
    source="https://github.com/huggingface/transformers/issues/324",
)
def below_zero_after_the_end(t, w, T):
    return t / w if t < w else (T - t) / (T - w)


@LINEAR.mistake(
    its_sum_is_half_the_steps,
    it_is_the_lower_of_two_lines,
    source="https://github.com/deepset-ai/FARM/issues/46",
)
def steps_rounded_down_in_every_epoch(t, w, T):
    """T counted as fewer steps than there are: the last ones have rate 0."""
    return linear_schedule(t, w, T - 1 if w < T - 1 else T)


@LINEAR.mistake(it_ends_at_zero, its_sum_is_half_the_steps, a_line_is_rounded_once)
def decay_over_all_steps_after_the_warm_up(t, w, T):
    return t / w if t < w else max(0.0, 1 - (t - w) / T)


@LINEAR.mistake(time_has_no_unit)
def one_more_step_than_there_is(t, w, T):
    return t / w if t < w else max(0.0, (T - t) / (T - w + 1))


@LINEAR.mistake(decay_is_a_straight_line, its_decay_is_torchs_polynomial_of_power_one)
def a_cosine_for_a_line(t, w, T):
    return cosine_schedule(t, w, T)


@LINEAR.mistake(it_rises_and_then_never_again)
def a_saw(t, w, T):
    """It starts over after the last step."""
    return linear_schedule(t % (T + 1), w, T)


@GOOGLE.mistake(
    its_jump_is_w_over_t,
    its_decay_is_torchs_polynomial_from_the_start,
    it_is_a_decay_over_all_steps_whose_begin_is_overwritten,
    source="https://github.com/google-research/bert/pull/1374",
)
def without_the_jump(t, w, T):
    """Better, but not what BERT was trained with."""
    return linear_schedule(t, w, T)


@GOOGLE.mistake(it_ends_at_zero)
def google_below_zero(t, w, T):
    return t / w if t < w else 1 - t / T


@GOOGLE.mistake(decay_is_a_straight_line, without_a_warm_up_it_is_the_linear_one)
def polynomial_of_power_two(t, w, T):
    return t / w if t < w else max(0.0, 1 - t / T) ** 2


@GOOGLE.mistake(a_difference_from_one_is_rounded_twice)
def time_in_half_precision(t, w, T):
    return google_schedule(round(t, -3), w, T)


@CONSTANT.mistake(
    it_stays_at_the_peak,
    it_is_torchs_constant_rate,
    it_is_the_share_of_the_warm_up_that_is_done,
    a_share_is_rounded_once,
)
def a_decay_where_none_is_wanted(t, w, T):
    return linear_schedule(t, w, T)


@CONSTANT.mistake(there_is_no_jump, it_peaks_at_the_end_of_the_warm_up)
def half_after_the_warm_up(t, w, T):
    return t / w if t < w else 0.5 * constant_schedule(t, w, T)


@CONSTANT.mistake(it_rises_and_then_never_again)
def warm_up_again_after_the_end(t, w, T):
    return constant_schedule(t % (T + 1), w, T)


@COSINE.mistake(it_ends_at_zero, it_rises_and_then_never_again)
def cosine_that_rises_again(t, w, T):
    return t / w if t < w else (1 + math.cos(math.pi * (t - w) / (T - w))) / 2


@COSINE.mistake(
    half_a_cosine_is_antisymmetric,
    its_sum_is_half_the_steps,
    its_decay_is_torchs_cosine,
    it_is_the_square_of_a_cosine,
)
def quarter_of_a_cosine(t, w, T):
    return t / w if t < w else max(0.0, math.cos(math.pi / 2 * min(1, (t - w) / max(1, T - w))))


@COSINE.mistake(a_cosine_bends_in_proportion, a_cosine_is_right_to_the_last_place_of_one)
def smooth_step(t, w, T):
    """Antisymmetric with slope 0 at both ends, but no cosine."""
    x = min(1, max(0, (t - w) / (T - w)))
    return t / w if t < w else 1 - x * x * (3 - 2 * x)


@INVERSE_ROOT.mistake(
    four_times_as_late_is_half_as_fast,
    it_is_the_lower_of_a_line_and_an_inverse_root,
    the_square_of_the_root_is_the_fraction,
)
def root_of_the_steps_since_the_warm_up(t, w, T):
    return t / w if t < w else 1 / math.sqrt(max(1, t - w))


@INVERSE_ROOT.mistake(it_rises_and_then_never_again)
def root_turned_over(t, w, T):
    return t / w if t < w else min(1.0, math.sqrt(t / (2 * w)))


@INVERSE_ROOT.mistake(the_total_is_not_used)
def zero_after_the_end(t, w, T):
    return inverse_square_root_schedule(t, w, T) if t < T else 0.0
