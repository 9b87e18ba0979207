"""Adam, clipping and schedules, each proven five ways: spec, reference, laws, gradient, mistakes.

That a loss falls proves nothing about an optimiser: most wrong Adams converge as well. These laws
are exact statements about single steps.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import spec_training as spec
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from proof import EPS, as_tensor, check, differing, distance, fewer, holds, normal, rejects, seeds
from torch import Tensor

from minibert.config import BertConfig
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
from minibert.parameters import (
    decayed_length,
    flat_layout,
    is_decayed,
    named_tensors,
    weight_shapes,
)

FORMS = ["momentum", "google", "kingma", "adamw", "adam_l2"]
RATE = 0.01


# ---------------------------------------------------------------------------------- adam_form


@pytest.mark.parametrize(
    ("name", "eps", "corrected", "decay", "decoupled"),
    [
        ("momentum", 1e-8, False, 0.0, True),
        ("google", 1e-6, False, 0.01, True),
        ("kingma", 1e-8, True, 0.0, True),
        ("adamw", 1e-8, True, 0.01, True),
        ("adam_l2", 1e-8, True, 0.01, False),
    ],
)
def test_adam_form_is_the_published_one(name, eps, corrected, decay, decoupled):
    assert adam_form(name) == AdamOptions(0.9, 0.999, eps, corrected, decay, decoupled)


def test_adam_form_refuses_other_names():
    message = "'adam' is not one of momentum, google, kingma, adamw, adam_l2"
    with pytest.raises(ValueError, match=message):
        adam_form("adam")


# ---------------------------------------------------------------------------------- adam_step


class Run(NamedTuple):
    """A start, a gradient for each step, and the form of Adam."""

    start: Tensor
    gradients: Tensor
    options: AdamOptions


def run_case(seed: int, scale: float = 1.0, steps: int = 7, form: str = "kingma") -> Run:
    """Gradients of a scale at which eps matters (1e-7) or does not."""
    gradients = normal(seed + 1, steps, 5, scale=scale)
    return Run(normal(seed, 5), gradients, adam_form(form)._replace(weight_decay=0.0))


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
    """What every step added."""
    after = path(step, run, **arguments)
    return after - torch.cat([run.start[None], after[:-1]])


def rounding(run: Run) -> float:
    """A step of size η is subtracted from parameters of size |θ|."""
    return 16 * EPS * float(run.start.abs().max() + 10 * RATE * len(run.gradients))


runs = st.builds(run_case, seeds, st.sampled_from([1e-9, 1e-7, 1.0, 1e6]))


@pytest.mark.parametrize("form", FORMS)
@fewer(4)
@given(seed=seeds, scale=st.sampled_from([1e-7, 1.0, 1e6]))
def test_adam_step_is_its_spec(form, seed, scale):
    run = run_case(seed, scale)._replace(options=adam_form(form)._replace(weight_decay=0.3))
    _, β1, β2, ε, corrected, decay, decoupled = "", *run.options
    if form in ("momentum", "kingma"):
        decay = 0.0
        run = run._replace(options=adam_form(form))
    expected = [
        spec.adam_path(
            float(run.start[p]), lambda t, p=p: float(run.gradients[t - 1, p]),
            len(run.gradients), RATE, β1, β2, ε, corrected, decay, decoupled,
        )
        for p in range(5)
    ]
    check(distance(path(adam_step, run), as_tensor(expected).T), rounding(run), "Adam and its spec")


def torch_path(run: Run, optimizer, **options) -> Tensor:
    leaf = run.start.clone().requires_grad_()
    optimizer = optimizer([leaf], lr=RATE, betas=(0.9, 0.999), foreach=False, **options)
    visited = []
    for gradient in run.gradients:
        leaf.grad = gradient.clone()
        optimizer.step()
        visited.append(leaf.detach().clone())
    return torch.stack(visited)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
@pytest.mark.parametrize(
    ("form", "optimizer", "options"),
    [
        ("kingma", torch.optim.Adam, {"eps": 1e-8}),
        ("adamw", torch.optim.AdamW, {"eps": 1e-8, "weight_decay": 0.01}),
        ("adam_l2", torch.optim.Adam, {"eps": 1e-8, "weight_decay": 0.01}),
    ],
)
def test_adam_step_is_the_reference(form, optimizer, options, scale):
    run = run_case(3, scale, steps=100)._replace(options=adam_form(form))
    error = distance(path(adam_step, run), torch_path(run, optimizer, **options))
    check(error, 1e-12, f"100 steps of {form} and of {optimizer.__name__}")


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
@pytest.mark.parametrize("form", ["momentum", "google"])
def test_adam_step_without_correction_is_the_reference(form, scale):
    """torch always corrects; with η r and ε / √(1-β₂ᵗ) at step t its step is the uncorrected one.

    r = (1-β₁ᵗ) / √(1-β₂ᵗ), and torch's decay 1 - η r wd needs wd / r.
    """
    run = run_case(4, scale, steps=100)._replace(options=adam_form(form))
    leaf = run.start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], betas=(0.9, 0.999), foreach=False)
    visited = []
    for t, gradient in enumerate(run.gradients, 1):
        root = math.sqrt(1 - 0.999**t)
        ratio = (1 - 0.9**t) / root
        optimizer.param_groups[0].update(
            lr=RATE * ratio, eps=run.options.eps / root,
            weight_decay=run.options.weight_decay / ratio,
        )
        leaf.grad = gradient.clone()
        optimizer.step()
        visited.append(leaf.detach().clone())
    check(distance(path(adam_step, run), torch.stack(visited)), 1e-12, f"100 steps of {form}")


def google_adam(θ: Tensor, gradients: Tensor, rate: float) -> Tensor:
    """AdamWeightDecayOptimizer of google-research/bert, optimization.py, in NumPy's arithmetic."""
    p, m, v, visited = θ.numpy().copy(), 0.0, 0.0, []
    for g in gradients.numpy():
        m = 0.9 * m + (1.0 - 0.9) * g
        v = 0.999 * v + (1.0 - 0.999) * (g * g)
        update = m / (v**0.5 + 1e-6)
        update = update + 0.01 * p
        p = p - rate * update
        visited.append(torch.from_numpy(p))
    return torch.stack(visited)


@pytest.mark.parametrize("scale", [1e-7, 1.0])
def test_adam_step_is_googles(scale):
    run = run_case(5, scale, steps=100)._replace(options=adam_form("google"))
    expected = google_adam(run.start, run.gradients, RATE)
    check(distance(path(adam_step, run), expected), 1e-12, "100 steps of google")


# laws of every form


def a_zero_gradient_moves_nothing(step, run):
    return differing(path(step, run, lambda i, θ: 0 * θ), run.start.expand_as(run.gradients)), 0


def parameters_do_not_know_each_other(step, run):
    parts = [
        path(step, Run(run.start[part], run.gradients[:, part], run.options))
        for part in (slice(0, 2), slice(2, 5))
    ]
    return differing(torch.cat(parts, 1), path(step, run)), 0


def signs_may_be_turned(step, run):
    turned = path(step, Run(-run.start, -run.gradients, run.options))
    return differing(-turned, path(step, run)), 0


def eps_is_in_the_unit_of_the_gradient(step, run):
    """Gradients and eps 4 times as large: the same steps."""
    scaled = Run(run.start, 4 * run.gradients, run.options._replace(eps=4 * run.options.eps))
    return differing(path(step, scaled), path(step, run)), 0


def the_step_grows_with_the_rate(step, run):
    gap = 4 * moves(step, run) - moves(step, run, rate=4 * RATE)
    return float(gap.abs().max()), 4 * rounding(run)


def a_rate_of_zero_stands_still(step, run):
    return differing(path(step, run, rate=0.0), run.start.expand_as(run.gradients)), 0


def a_stopped_run_goes_on_as_if_it_had_not_stopped(step, run):
    """The state is all that a step knows of the past; it goes through a file in the middle."""
    parameters, state = run.start, initial_adam_state(run.start)
    for i, gradient in enumerate(run.gradients):
        if i == len(run.gradients) // 2:
            saved = torch.stack([state.mean_P, state.square_P]).numpy().tobytes()
            moments = torch.frombuffer(bytearray(saved), dtype=torch.float64).view(2, -1)
            state = AdamState(*moments, state.steps)
        parameters, state = step(parameters, gradient, state, RATE, run.options)
    return differing(parameters, path(step, run)[-1]), 0


def steps_are_bounded(step, run):
    """|Δ| ≤ η (1-β₁) / √((1-β₂)(1-β₁²/β₂)) = 7.27 η, by Cauchy and Schwarz, in every form.

    Kingma and Ba's 3.16 η is about one gradient among zeros; a history can be less kind.
    """
    β1, β2 = run.options.beta1, run.options.beta2
    largest = RATE * (1 - β1) / math.sqrt((1 - β2) * (1 - β1 * β1 / β2))
    return max(0.0, float(moves(step, run).abs().max()) - largest), rounding(run)


ANY_FORM_LAWS = [
    a_zero_gradient_moves_nothing,
    parameters_do_not_know_each_other,
    signs_may_be_turned,
    eps_is_in_the_unit_of_the_gradient,
    the_step_grows_with_the_rate,
    a_rate_of_zero_stands_still,
    a_stopped_run_goes_on_as_if_it_had_not_stopped,
    steps_are_bounded,
]

# laws of bias correction


def the_first_step_is_that_of_the_sign(step, run):
    """-η g / (|g| + ε), whatever β₁ and β₂ are."""
    g = run.gradients[0]
    expected = -RATE * g / (g.abs() + run.options.eps)
    return distance(moves(step, run)[0], expected), rounding(run)


def a_constant_gradient_makes_equal_steps(step, run):
    constant = run.gradients[0]
    found = moves(step, run, gradients=lambda i, θ: constant)
    return distance(found, found[:1].expand_as(found)), rounding(run)


def without_memory_it_is_the_sign(step, run):
    forgetful = run._replace(options=run.options._replace(beta1=0.0, beta2=0.0, eps=0.0))
    return distance(moves(step, forgetful), -RATE * run.gradients.sign()), rounding(run)


def moments_are_weighted_means_of_the_past(step, run):
    """With eps = 0: the move is -η times mean over root of mean square, weights (1-β) β^(t-i)."""
    options = run.options._replace(eps=0.0, beta1=0.7, beta2=0.95)
    t = len(run.gradients)
    means = []
    for β, values in ((0.7, run.gradients), (0.95, run.gradients.square())):
        weights = as_tensor([β ** (t - i) for i in range(1, t + 1)])
        means.append((weights[:, None] * values).sum(0) / weights.sum())
    expected = -RATE * means[0] / means[1].sqrt()
    return distance(moves(step, run._replace(options=options))[-1], expected), 4 * rounding(run)


CORRECTED_LAWS = [
    the_first_step_is_that_of_the_sign,
    a_constant_gradient_makes_equal_steps,
    without_memory_it_is_the_sign,
    moments_are_weighted_means_of_the_past,
]

# laws of the form without correction


def uncorrected(run: Run, eps: float | None = None) -> Run:
    options = run.options._replace(bias_correction=False)
    return run._replace(options=options if eps is None else options._replace(eps=eps))


def the_first_uncorrected_step_is_root_ten_times_as_long(step, run):
    """(1-β₁) g / (√(1-β₂) |g| + ε), √10 = 3.16 times η where ε does not matter."""
    g, eps = run.gradients[0], run.options.eps
    exact = -RATE * 0.1 * g / (math.sqrt(0.001) * g.abs() + eps)
    root_ten = -RATE * math.sqrt(10) * g.sign()
    gaps = [
        distance(moves(step, uncorrected(run))[0], exact),
        distance(moves(step, uncorrected(run, 0.0))[0], root_ten),
    ]
    return sum(gaps), 64 * rounding(run)


def the_ratio_to_the_corrected_step_is_known(step, run):
    """(1-β₁ᵗ) / √(1-β₂ᵗ) at step t, for every history of gradients."""
    corrected = moves(step, run._replace(options=run.options._replace(eps=0.0)))
    t = torch.arange(1, len(run.gradients) + 1, dtype=torch.float64)[:, None]
    ratio = (1 - 0.9**t) / torch.sqrt(1 - 0.999**t)
    return distance(moves(step, uncorrected(run, 0.0)), ratio * corrected), 32 * rounding(run)


UNCORRECTED_LAWS = [
    the_first_uncorrected_step_is_root_ten_times_as_long,
    the_ratio_to_the_corrected_step_is_known,
]

# laws of weight decay


def decaying(run: Run, decoupled: bool, decay: float = 0.3) -> Run:
    return run._replace(options=run.options._replace(weight_decay=decay, decoupled=decoupled))


def decoupled_decay_alone_is_geometric(step, run):
    """θ (1 - η wd)^t where the gradient is 0."""
    t = torch.arange(1, len(run.gradients) + 1, dtype=torch.float64)[:, None]
    expected = run.start * (1 - RATE * 0.3) ** t
    return distance(path(step, decaying(run, True), lambda i, θ: 0 * θ), expected), rounding(run)


def decoupled_decay_takes_a_share_of_the_old_value(step, run):
    """Added to Adam's own step, and not to the moments; the old value counts, not the new one."""
    arguments = run.gradients[0], initial_adam_state(run.start), RATE
    plain, plain_state = step(run.start, *arguments, run.options)
    found, state = step(run.start, *arguments, decaying(run, True, 0.4).options)
    moments = differing(torch.stack(state[:2]), torch.stack(plain_state[:2]))
    return distance(found, plain - RATE * 0.4 * run.start) + moments, rounding(run)


def decoupled_decay_ignores_the_scale_of_the_loss(step, run):
    """With eps = 0 a loss 64 times as large takes the same path: the decay does not fade."""
    run = decaying(run._replace(options=run.options._replace(eps=0.0)), True)
    return differing(path(step, run._replace(gradients=64 * run.gradients)), path(step, run)), 0


def l2_decay_is_part_of_the_gradient(step, run):
    """wd θ comes in before the moments, as the gradient of wd/2 ‖θ‖²."""
    loss_with_price = path(step, run, lambda i, θ: run.gradients[i] + 0.3 * θ)
    return differing(path(step, decaying(run, False)), loss_with_price), 0


def l2_decay_alone_is_an_adam_step(step, run):
    """Its first step is η wd θ / (|wd θ| + ε): as long for small weights as for large ones."""
    pull = 0.3 * run.start
    expected = -RATE * pull / (pull.abs() + run.options.eps)
    found = moves(step, decaying(run, False), gradients=lambda i, θ: 0 * θ)[0]
    return distance(found, expected), rounding(run)


def l2_decay_and_its_opposite_cancel(step, run):
    found = path(step, decaying(run, False), lambda i, θ: -(0.3 * θ))
    return differing(found, run.start.expand_as(found)), 0


DECOUPLED_LAWS = [
    decoupled_decay_alone_is_geometric,
    decoupled_decay_takes_a_share_of_the_old_value,
    decoupled_decay_ignores_the_scale_of_the_loss,
]
L2_LAWS = [
    l2_decay_is_part_of_the_gradient,
    l2_decay_alone_is_an_adam_step,
    l2_decay_and_its_opposite_cancel,
]


@pytest.mark.parametrize("form", ["momentum", "google", "kingma"])
@pytest.mark.parametrize("law", ANY_FORM_LAWS)
@fewer(4)
@given(seed=seeds, scale=st.sampled_from([1e-7, 1.0, 1e6]))
def test_adam_step_law(law, form, seed, scale):
    holds(law, adam_step, run_case(seed, scale, form=form))


@pytest.mark.parametrize("law", CORRECTED_LAWS + UNCORRECTED_LAWS + DECOUPLED_LAWS + L2_LAWS)
@fewer(4)
@given(run=runs)
def test_adam_step_law_of_its_form(law, run):
    holds(law, adam_step, run)


def test_the_uncorrected_step_is_longest_at_the_twelfth():
    ratios = [(1 - 0.9**t) / math.sqrt(1 - 0.999**t) for t in range(1, 5001)]
    assert max(ratios) == ratios[11]
    assert round(ratios[0], 2) == 3.16
    assert round(ratios[11], 2) == 6.57
    run = run_case(1, steps=12)._replace(options=AdamOptions(eps=0.0, bias_correction=False))
    constant = moves(adam_step, run, gradients=lambda i, θ: run.gradients[0])[11]
    check(distance(constant.abs() / RATE, as_tensor([ratios[11]] * 5)), 1e-12, "step 12")


def written_anew(**wrong):
    """Adam with single pieces replaced: how the moments, their correction and the step are made."""

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
        m = mean / (1 - β1**counted) if corrected and "m_as_it_is" not in wrong else mean
        v = square / (1 - β2**counted) if corrected and "v_as_it_is" not in wrong else square
        update = wrong.get("update", lambda m, v, eps, g: m / (v.sqrt() + eps))(m, v, eps, gradient)
        after = parameters - rate * update
        if decay and decoupled:
            after = wrong.get("decay", lambda p, after: after - rate * decay * p)(parameters, after)
        return after, AdamState(mean, square, steps)

    variant.__name__ = next(iter(wrong), "adam")
    return variant


def test_adam_written_anew_is_adam():
    """Otherwise the mistakes below would prove nothing."""
    for form in FORMS:
        run = run_case(2)._replace(options=adam_form(form))
        check(distance(path(written_anew(), run), path(adam_step, run)), rounding(run), form)


def with_options(**changed):
    """The right Adam with an option taken for another."""

    def variant(parameters, gradient, state, rate, options):
        return adam_step(parameters, gradient, state, rate, options._replace(**changed))

    return variant


def eps_before_the_correction(parameters, gradient, state, rate, options):
    """ε̂ of Kingma and Ba's remark after algorithm 1: another ε by √(1-β₂ᵗ)."""
    root = math.sqrt(1 - options.beta2 ** (state.steps + 1))
    changed = options._replace(eps=options.eps / root) if options.bias_correction else options
    return adam_step(parameters, gradient, state, rate, changed)


def no_memory_of_steps(parameters, gradient, state, rate, options):
    """The counter is not handed on, so every step is corrected like the first."""
    after, new = adam_step(parameters, gradient, state._replace(steps=0), rate, options)
    return after, new._replace(steps=0)


def rate_squared(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, rate * rate, options)


def rate_never_below_a_thousandth(parameters, gradient, state, rate, options):
    return adam_step(parameters, gradient, state, max(rate, 1e-3), options)


def last_gradient_kept_beside_the_state(parameters, gradient, state, rate, options):
    """A memory in the function: a run that is resumed in a new process goes another way."""
    kept = last_gradient_kept_beside_the_state.__dict__
    last, kept["gradient"] = kept.get("gradient", 0 * gradient), gradient
    return adam_step(parameters, (gradient + last) / 2, state, rate, options)


def norm_of_the_whole_gradient(parameters, gradient, state, rate, options):
    """One speed for all parameters instead of one for each."""
    return adam_step(parameters, gradient / gradient.norm(), state, rate, options)


def l2_and_decoupled_swapped(parameters, gradient, state, rate, options):
    changed = options._replace(decoupled=not options.decoupled)
    return adam_step(parameters, gradient, state, rate, changed)


def signed_square(v, g):
    return 0.999 * v + 0.001 * g


MISTAKES = [
    ("without correction", with_options(bias_correction=False), the_first_step_is_that_of_the_sign),
    ("correction where none is wanted", with_options(bias_correction=True),
     the_first_uncorrected_step_is_root_ten_times_as_long),
    ("the ratio is 1", with_options(bias_correction=True),
     the_ratio_to_the_corrected_step_is_known),
    ("mean not corrected", written_anew(m_as_it_is=True), the_first_step_is_that_of_the_sign),
    ("square not corrected", written_anew(v_as_it_is=True), a_constant_gradient_makes_equal_steps),
    ("steps counted one ahead", written_anew(counted=lambda t: t + 1),
     the_first_step_is_that_of_the_sign),
    ("steps not handed on", no_memory_of_steps, a_constant_gradient_makes_equal_steps),
    ("eps inside the root", written_anew(update=lambda m, v, eps, g: m / (v + eps).sqrt()),
     eps_is_in_the_unit_of_the_gradient),
    ("eps squared inside the root",
     written_anew(update=lambda m, v, eps, g: m / (v + eps * eps).sqrt()),
     the_first_step_is_that_of_the_sign),
    ("eps before the correction", eps_before_the_correction, the_first_step_is_that_of_the_sign),
    ("no eps", written_anew(update=lambda m, v, eps, g: m / v.sqrt()),
     a_zero_gradient_moves_nothing),
    ("eps fixed at 1e-8", with_options(eps=1e-8), eps_is_in_the_unit_of_the_gradient),
    ("no root", written_anew(update=lambda m, v, eps, g: m / (v + eps)),
     without_memory_it_is_the_sign),
    ("no mean", written_anew(update=lambda m, v, eps, g: g / (v.sqrt() + eps)),
     moments_are_weighted_means_of_the_past),
    ("betas swapped", with_options(beta1=0.999, beta2=0.9), moments_are_weighted_means_of_the_past),
    ("weights of the mean swapped", written_anew(mean=lambda m, g: 0.1 * m + 0.9 * g),
     moments_are_weighted_means_of_the_past),
    ("mean without 1 - beta", written_anew(mean=lambda m, g: 0.9 * m + g),
     the_first_step_is_that_of_the_sign),
    ("square not squared", written_anew(square=signed_square), signs_may_be_turned),
    ("largest square kept", written_anew(square=lambda v, g: torch.maximum(v, 0.001 * g * g)),
     moments_are_weighted_means_of_the_past),
    ("uphill", written_anew(update=lambda m, v, eps, g: -m / (v.sqrt() + eps)),
     the_first_step_is_that_of_the_sign),
    ("mean without 1 - beta, length", written_anew(mean=lambda m, g: 0.9 * m + g),
     steps_are_bounded),
    ("rate squared", rate_squared, the_step_grows_with_the_rate),
    ("a smallest rate", rate_never_below_a_thousandth, a_rate_of_zero_stands_still),
    ("hidden memory", last_gradient_kept_beside_the_state,
     a_stopped_run_goes_on_as_if_it_had_not_stopped),
    ("one speed for all", norm_of_the_whole_gradient, parameters_do_not_know_each_other),
    ("L2 for decoupled", l2_and_decoupled_swapped, decoupled_decay_alone_is_geometric),
    ("L2 for decoupled, moments", l2_and_decoupled_swapped,
     decoupled_decay_takes_a_share_of_the_old_value),
    ("L2 for decoupled, scale", l2_and_decoupled_swapped,
     decoupled_decay_ignores_the_scale_of_the_loss),
    ("decoupled for L2", l2_and_decoupled_swapped, l2_decay_alone_is_an_adam_step),
    ("decoupled for L2, cancelling", l2_and_decoupled_swapped, l2_decay_and_its_opposite_cancel),
    ("decay of the new value", written_anew(decay=lambda p, after: after * (1 - RATE * 0.4)),
     decoupled_decay_takes_a_share_of_the_old_value),
    ("decay without the rate", written_anew(decay=lambda p, after: after - 0.3 * p),
     decoupled_decay_alone_is_geometric),
    ("no decay", with_options(weight_decay=0.0), l2_decay_is_part_of_the_gradient),
    ("no decoupled decay", with_options(weight_decay=0.0), decoupled_decay_alone_is_geometric),
]


@pytest.mark.parametrize(
    ("mistake", "law"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_adam_step_rejects(mistake, law):
    mistake.__name__ = getattr(mistake, "__name__", "variant")
    cases = [run_case(seed, scale) for seed in (1, 2) for scale in (1e-7, 1)]
    rejects(law, mistake, adam_step, cases)


@fewer(4)
@given(seed=seeds)
def test_adam_step_finds_the_least_squares_solution(seed):
    """Not a proof of the formula, but of the direction: with a falling rate it arrives."""
    target = normal(seed, 3)
    parameters, state = torch.zeros(3).double(), initial_adam_state(torch.zeros(3).double())
    for t in range(400):
        rate = 0.1 * linear_schedule(t, 10, 400)
        parameters, state = adam_step(parameters, parameters - target, state, rate, AdamOptions())
    check(distance(parameters, target), 1e-2, "minimum of a parabola")


def test_adam_step_leaves_its_arguments_alone():
    run = run_case(6)._replace(options=AdamOptions(weight_decay=0.1, decoupled=False))
    state = AdamState(normal(1, 5), normal(2, 5).abs(), 3)
    arguments = [run.start, run.gradients[0], *state[:2]]
    before = [x.clone() for x in arguments]
    _, new = adam_step(run.start, run.gradients[0], state, RATE, run.options)
    assert all(torch.equal(a, b) for a, b in zip(before, arguments, strict=True))
    assert (state.steps, new.steps) == (3, 4)


def test_the_initial_state_is_two_tensors_of_zeros():
    state = initial_adam_state(torch.ones(2, 3, dtype=torch.float64))
    assert state.steps == 0
    assert state.mean_P.data_ptr() != state.square_P.data_ptr()
    for moment in state[:2]:
        assert torch.equal(moment, torch.zeros(2, 3, dtype=torch.float64))
        assert moment.dtype == torch.float64


def test_shapes_do_not_matter():
    run = run_case(7)
    column, _ = adam_step(
        run.start[:, None], run.gradients[0][:, None], initial_adam_state(run.start[:, None]),
        RATE, run.options,
    )
    assert torch.equal(column[:, 0], path(adam_step, run)[0])


# ----------------------------------------------------------- which parameters decay (parameters)


def whole_model():
    config = BertConfig(vocab_size=11, hidden_size=12, num_hidden_layers=2, intermediate_size=7)
    parts = ("pooler", "mlm", "nsp", "classifier", "span")
    return weight_shapes(config, parts, fit_width=5)


def matrices_decay_and_vectors_do_not(formula, shapes):
    """Biases and the gains of LayerNorm are vectors; matrices and tables are not."""
    named = list(named_tensors(shapes))
    return float(sum(formula(name) != (tensor.dim() == 2) for name, tensor in named)), 0


def whole_names_compared(name):
    """pytorchic-bert: `n not in no_decay` with whole names, so that everything decays."""
    return name not in ("bias_O", "gain_D", "bias_D", "bias_V")


def checkpoint_names_searched(name):
    """The names of the TensorFlow variables, of which ours has only one."""
    return "LayerNorm" not in name and "layer_norm" not in name and "bias" not in name


def norms_only(name):
    return "norm" not in name


def tables_left_out(name):
    return name.endswith("weight_OI")


@pytest.mark.parametrize(
    "mistake", [whole_names_compared, checkpoint_names_searched, norms_only, tables_left_out]
)
def test_is_decayed_rejects(mistake):
    rejects(matrices_decay_and_vectors_do_not, mistake, is_decayed, [whole_model()])


def test_decayed_parameters_lie_together_at_the_front():
    """So one step is two calls, and each parameter is in exactly one of them."""
    shapes = whole_model()
    layout = flat_layout(shapes)
    border = decayed_length(layout)
    slots = sorted(layout.values())
    assert slots[0].start == 0
    assert all(a.end == b.start for a, b in pairwise(slots))
    assert set(layout) == {name for name, _ in named_tensors(shapes)}
    assert all(is_decayed(name) == (slot.end <= border) for name, slot in layout.items())


# ---------------------------------------------------------------- global_norm, and clipping by it


class Clip(NamedTuple):
    gradients: tuple[Tensor, ...]
    limit: float


def clip_case(seed: int, limit: float = 1.0, scale: float = 1.0) -> Clip:
    shapes = [(3, 5), (7,), (), (2, 1, 3)]
    parts = tuple(normal(seed + i, *shape, scale=scale) for i, shape in enumerate(shapes))
    return Clip(parts, limit)


clips = st.builds(
    clip_case, seeds, st.sampled_from([1e-3, 1.0, 6.0, 1e4]), st.sampled_from([1e-200, 1.0, 1e200])
)


def as_lists(parts: tuple[Tensor, ...]) -> list[list[float]]:
    return [part.flatten().tolist() for part in parts]


@given(case=clips)
def test_global_norm_is_its_spec(case):
    expected = spec.global_norm(as_lists(case.gradients))
    found = float(global_norm(case.gradients))
    check(abs(found / expected - 1), 16 * EPS, "global_norm and its spec")


@given(seed=seeds)
def test_global_norm_is_the_reference(seed):
    gradients = clip_case(seed).gradients
    expected = torch.linalg.vector_norm(torch.cat([part.flatten() for part in gradients]))
    check(distance(global_norm(gradients), expected, expected), 16 * EPS, "and vector_norm")


def test_global_norm_of_nothing_but_zeros_is_zero():
    assert global_norm((torch.zeros(3), torch.zeros(2, 2))) == 0


def test_global_norm_is_not_finite_where_a_gradient_is_not():
    for bad in (math.nan, math.inf, -math.inf):
        assert not global_norm((torch.ones(3), torch.tensor([1.0, bad]))).isfinite()


def test_global_norm_of_half_precision_is_summed_in_float32():
    """4096 squares of 1 + 2⁻⁷: in bfloat16 each would be rounded by up to 1 in 256."""
    gradient = torch.full((4096,), 1 + 2**-7, dtype=torch.bfloat16)
    assert global_norm((gradient,)) == 64 * (1 + 2**-7)


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@given(case=clips)
def test_clip_by_global_norm_is_its_spec(case):
    expected = as_tensor([x for part in spec.clip_by_global_norm(*case_lists(case)) for x in part])
    found, _ = clip_by_global_norm(*case)
    check(distance(flat(found), expected, expected.abs()), 16 * EPS, "clipping and its spec")


def case_lists(case: Clip):
    return as_lists(case.gradients), case.limit


@given(seed=seeds, limit=st.sampled_from([1e-3, 1.0, 6.0, 1e4]))
def test_clip_by_global_norm_is_the_reference(seed, limit):
    """torch divides by ‖g‖ + 1e-6; with a limit that much larger its factor is ours."""
    case = clip_case(seed, limit)
    leaves = [torch.zeros_like(part).requires_grad_() for part in case.gradients]
    for leaf, part in zip(leaves, case.gradients, strict=True):
        leaf.grad = part.clone()
    norm = float(global_norm(case.gradients))
    assume(abs(norm - limit) > 1e-3)
    torch_norm = torch.nn.utils.clip_grad_norm_(leaves, limit * (norm + 1e-6) / norm)
    found, our_norm = clip_by_global_norm(*case)
    check(abs(float(our_norm) - float(torch_norm)), 16 * EPS * norm, "norm of clip_grad_norm_")
    expected = flat(tuple(leaf.grad for leaf in leaves))
    check(distance(flat(found), expected, expected.abs()), 32 * EPS, "clip_grad_norm_")


def the_length_is_the_limit_or_less(formula, case):
    """Exactly min(‖g‖, c), and the length before is reported."""
    before = spec.global_norm(as_lists(case.gradients))
    found, reported = formula(*case)
    after = spec.global_norm(as_lists(found))
    wanted = min(before, case.limit)
    return abs(after / wanted - 1) + abs(float(reported) / before - 1), 32 * EPS


def short_gradients_are_left_alone(formula, case):
    generous = 2 * spec.global_norm(as_lists(case.gradients))
    found, _ = formula(case.gradients, generous)
    return differing(flat(found), flat(case.gradients)), 0


def the_direction_stays(formula, case):
    """One common factor, between 0 and 1."""
    old, (found, _) = flat(case.gradients), formula(*case)
    factors = flat(found) / old
    outside = float(((factors <= 0) | (factors > 1)).sum())
    return float(factors.max() - factors.min()) / float(factors.max()) + outside, 8 * EPS


def cutting_into_tensors_does_not_matter(formula, case):
    whole, _ = formula((flat(case.gradients),), case.limit)
    parts, _ = formula(*case)
    return distance(whole[0], flat(parts), flat(parts).abs()), 16 * EPS


def twice_is_once(formula, case):
    once, _ = formula(*case)
    twice, _ = formula(once, case.limit)
    return distance(flat(twice), flat(once), flat(once).abs()), 16 * EPS


def only_the_direction_of_long_gradients_counts(formula, case):
    limit = spec.global_norm(as_lists(case.gradients)) / 3
    louder = tuple(8 * part for part in case.gradients)
    once, _ = formula(case.gradients, limit)
    found, _ = formula(louder, limit)
    return distance(flat(found), flat(once), flat(once).abs()), 16 * EPS


CLIP_LAWS = [
    the_length_is_the_limit_or_less,
    short_gradients_are_left_alone,
    the_direction_stays,
    cutting_into_tensors_does_not_matter,
    twice_is_once,
    only_the_direction_of_long_gradients_counts,
]


@pytest.mark.parametrize("law", CLIP_LAWS)
@given(case=clips)
def test_clip_by_global_norm_law(law, case):
    holds(law, clip_by_global_norm, case)


def each_tensor_by_its_own_norm(gradients, limit):
    """BertAdam of pytorch_pretrained_bert, and so TinyBERT's code."""
    clipped = tuple(clip_by_global_norm((part,), limit)[0][0] for part in gradients)
    return clipped, global_norm(gradients)


def each_number_alone(gradients, limit):
    return tuple(part.clamp(-limit, limit) for part in gradients), global_norm(gradients)


def norm_and_a_millionth(gradients, limit):
    """torch.nn.utils.clip_grad_norm_."""
    norm = global_norm(gradients)
    factor = (limit / (norm + 1e-6)).clamp(max=1)
    return tuple(part * factor for part in gradients), norm


def always_scaled_to_the_limit(gradients, limit):
    norm = global_norm(gradients)
    return tuple(part * (limit / norm) for part in gradients), norm


def norm_of_absolute_values(gradients, limit):
    norm = flat(gradients).abs().sum()
    return tuple(part * (limit / norm).clamp(max=1) for part in gradients), norm


def norm_after_clipping_reported(gradients, limit):
    clipped, _ = clip_by_global_norm(gradients, limit)
    return clipped, global_norm(clipped)


def square_not_rooted(gradients, limit):
    norm = global_norm(gradients)
    return tuple(part * (limit / norm**2).clamp(max=1) for part in gradients), norm


def largest_norm_of_a_tensor(gradients, limit):
    largest = torch.stack([part.norm() for part in gradients]).max()
    factor = (limit / largest).clamp(max=1)
    return tuple(part * factor for part in gradients), global_norm(gradients)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (each_tensor_by_its_own_norm, the_direction_stays),
        (each_tensor_by_its_own_norm, cutting_into_tensors_does_not_matter),
        (each_number_alone, the_direction_stays),
        (norm_and_a_millionth, the_length_is_the_limit_or_less),
        (norm_and_a_millionth, twice_is_once),
        (norm_and_a_millionth, only_the_direction_of_long_gradients_counts),
        (always_scaled_to_the_limit, short_gradients_are_left_alone),
        (norm_of_absolute_values, the_length_is_the_limit_or_less),
        (norm_after_clipping_reported, the_length_is_the_limit_or_less),
        (square_not_rooted, only_the_direction_of_long_gradients_counts),
        (largest_norm_of_a_tensor, cutting_into_tensors_does_not_matter),
    ],
)
def test_clip_by_global_norm_rejects(mistake, law):
    rejects(law, mistake, clip_by_global_norm, [clip_case(seed) for seed in range(4)])


def test_clip_by_global_norm_survives_squares_that_overflow():
    found, norm = clip_by_global_norm((torch.tensor([3e30, -4e30]),), 1.0)
    assert norm == 5e30
    assert torch.allclose(found[0], torch.tensor([0.6, -0.8]), rtol=3e-7, atol=0)


def test_clip_by_global_norm_keeps_types_and_arguments():
    gradients = (torch.full((4,), 3.0, dtype=torch.bfloat16), torch.full((2,), 5.0))
    before = [part.clone() for part in gradients]
    found, norm = clip_by_global_norm(gradients, 1.0)
    assert [part.dtype for part in found] == [torch.bfloat16, torch.float32]
    assert norm.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(before, gradients, strict=True))


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_clip_by_global_norm_refuses_a_limit_not_above_zero(bad):
    with pytest.raises(ValueError, match=f"max_norm is {bad}, but must be above 0"):
        clip_by_global_norm((torch.ones(2),), bad)


# ---------------------------------------------------------------------------------- schedules


class Times(NamedTuple):
    warmup: int
    total: int


def times_case(warmup: int, rest: int) -> Times:
    return Times(warmup, warmup + rest)


times = st.builds(times_case, st.integers(1, 40), st.integers(1, 160))
TIMES = [Times(1, 2), Times(3, 20), Times(10, 100), Times(7, 13)]
SCHEDULES = {
    linear_schedule: spec.linear_schedule,
    google_schedule: spec.google_schedule,
    constant_schedule: spec.constant_schedule,
    cosine_schedule: spec.cosine_schedule,
    inverse_square_root_schedule: spec.inverse_square_root_schedule,
}
ALL_SCHEDULES = list(SCHEDULES)


def curve(schedule, case: Times, last: int | None = None) -> list[float]:
    """f(0), f(1), …, f(T)."""
    return [schedule(t, *case) for t in range((last or case.total) + 1)]


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
@fewer(4)
@given(warmup=st.integers(0, 30), total=st.integers(0, 60))
def test_schedule_is_its_spec(schedule, warmup, total):
    """Also where the warm-up is 0, as long as the training, or longer."""
    for t in range(total + 5):
        expected = SCHEDULES[schedule](t, warmup, total)
        check(abs(schedule(t, warmup, total) - expected), 8 * EPS, f"{schedule.__name__} at {t}")


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (linear_schedule, "get_linear_schedule_with_warmup"),
        (cosine_schedule, "get_cosine_schedule_with_warmup"),
        (constant_schedule, "get_constant_schedule_with_warmup"),
        (inverse_square_root_schedule, "get_inverse_sqrt_schedule"),
    ],
)
@pytest.mark.parametrize("case", TIMES)
def test_schedule_is_the_reference(schedule, name, case):
    optimization = pytest.importorskip(
        "transformers.optimization", reason="transformers holds the reference schedules"
    )
    arguments = {"num_warmup_steps": case.warmup}
    if schedule in (linear_schedule, cosine_schedule):
        arguments["num_training_steps"] = case.total
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    factor = getattr(optimization, name)(optimizer, **arguments).lr_lambdas[0]
    for t in range(case.total + 1):
        check(abs(schedule(t, *case) - factor(t)), 8 * EPS, f"{name} at step {t}")


def it_starts_at_zero(schedule, case):
    return schedule(0, *case), 0


def it_peaks_at_the_end_of_the_warm_up(schedule, case):
    return abs(schedule(case.warmup, *case) - 1), 0


def it_ends_at_zero(schedule, case):
    return sum(abs(schedule(case.total + later, *case)) for later in (0, 1, 1000)), 0


def it_stays_between_zero_and_one(schedule, case):
    values = curve(schedule, case, 2 * case.total)
    return max(0.0, -min(values), max(values) - 1), 0


def warm_up_is_a_straight_line(schedule, case):
    values = curve(schedule, case)[: case.warmup]
    return sum(abs(f - t / case.warmup) for t, f in enumerate(values)), case.warmup * EPS


def decay_is_a_straight_line(schedule, case):
    """Second differences are 0 from the end of the warm-up on."""
    v = curve(schedule, case)[case.warmup :]
    bends = [a - 2 * b + c for a, b, c in zip(v, v[1:], v[2:], strict=False)]
    return max([0.0, *map(abs, bends)]), 8 * EPS


def there_is_no_jump(schedule, case):
    """No step is larger than the slope of either line."""
    values = curve(schedule, case)
    steepest = max(1 / case.warmup, 1 / (case.total - case.warmup))
    jumps = [abs(b - a) for a, b in pairwise(values)]
    return max(0.0, max(jumps) - steepest), 8 * EPS


def its_sum_is_half_the_steps(schedule, case):
    """Σ f(t) = T/2 over t = 0 … T, whatever the warm-up is (1 or more)."""
    return abs(math.fsum(curve(schedule, case)) - case.total / 2), 4 * case.total * EPS


def time_has_no_unit(schedule, case):
    """f(k t; k w, k T) = f(t; w, T)."""
    scaled = [schedule(8 * t, 8 * case.warmup, 8 * case.total) for t in range(case.total + 1)]
    return max(abs(a - b) for a, b in zip(scaled, curve(schedule, case), strict=True)), 8 * EPS


def it_rises_and_then_never_again(schedule, case):
    values = curve(schedule, case, 2 * case.total)
    up, down = values[: case.warmup + 1], values[case.warmup :]
    wrong = sum(b <= a for a, b in pairwise(up))
    return wrong + sum(b > a for a, b in pairwise(down)), 0


def googles_jump_is_w_over_t(schedule, case):
    """At the end of the warm-up: from the 1 that the line would reach to 1 - w/T."""
    return abs(schedule(case.warmup, *case) - (1 - case.warmup / case.total)), 0


def half_a_cosine_is_antisymmetric(schedule, case):
    """f(w + x) + f(T - x) = 1, and half way it is 1/2 and steepest."""
    v = curve(schedule, case)[case.warmup :]
    return max(abs(a + b - 1) for a, b in zip(v, v[::-1], strict=True)), 8 * EPS


def a_cosine_bends_in_proportion(schedule, case):
    """f(t+1) + f(t-1) - 1 = 2 cos(π / (T-w)) (f(t) - 1/2): the recurrence of the cosine."""
    v = [f - 0.5 for f in curve(schedule, case)[case.warmup :]]
    factor = 2 * math.cos(math.pi / (case.total - case.warmup))
    bends = [abs(a + c - factor * b) for a, b, c in zip(v, v[1:], v[2:], strict=False)]
    return max([0.0, *bends]), 16 * EPS


def four_times_as_late_is_half_as_fast(schedule, case):
    later = [schedule(4 * t, *case) / schedule(t, *case) for t in range(case.warmup, case.total)]
    return max(abs(ratio - 0.5) for ratio in later), 4 * EPS


def it_stays_at_the_peak(schedule, case):
    return sum(abs(f - 1) for f in curve(schedule, case, 2 * case.total)[case.warmup :]), 0


COMMON = [
    it_starts_at_zero,
    it_stays_between_zero_and_one,
    warm_up_is_a_straight_line,
    time_has_no_unit,
]
PROPER = [it_peaks_at_the_end_of_the_warm_up, there_is_no_jump, it_rises_and_then_never_again]
SCHEDULE_LAWS = {
    linear_schedule: [
        *COMMON, *PROPER, it_ends_at_zero, decay_is_a_straight_line, its_sum_is_half_the_steps,
    ],
    google_schedule: [*COMMON, it_ends_at_zero, decay_is_a_straight_line, googles_jump_is_w_over_t],
    constant_schedule: [*COMMON, *PROPER, it_stays_at_the_peak],
    cosine_schedule: [
        *COMMON, it_peaks_at_the_end_of_the_warm_up, it_rises_and_then_never_again,
        it_ends_at_zero, its_sum_is_half_the_steps, half_a_cosine_is_antisymmetric,
        a_cosine_bends_in_proportion,
    ],
    inverse_square_root_schedule: [
        *COMMON, it_peaks_at_the_end_of_the_warm_up, it_rises_and_then_never_again,
        four_times_as_late_is_half_as_fast,
    ],
}


@pytest.mark.parametrize(
    ("schedule", "law"), [(f, law) for f, laws in SCHEDULE_LAWS.items() for law in laws]
)
@fewer(4)
@given(case=times)
def test_schedule_law(schedule, law, case):
    holds(law, schedule, case)


def bert_adams_jump(t, w, T):
    """warmup_linear of pytorch_pretrained_bert: 1 - t/T after the warm-up."""
    return google_schedule(t, w, T)


def decay_from_the_start_of_the_training(t, w, T):
    return t / w if t < w else max(0.0, (T - t) / T)


def counted_from_one(t, w, T):
    return linear_schedule(t + 1, w, T)


def never_below_zero_forgotten(t, w, T):
    return t / w if t < w else (T - t) / (T - w)


def decay_over_all_steps_after_the_warm_up(t, w, T):
    return t / w if t < w else max(0.0, 1 - (t - w) / T)


def one_more_step_than_there_is(t, w, T):
    return t / w if t < w else max(0.0, (T - t) / (T - w + 1))


def quadratic_warm_up(t, w, T):
    return (t / w) ** 2 if t < w else linear_schedule(t, w, T)


def warm_up_as_a_part_of_training(t, w, T):
    """A fraction where a number of steps is meant: the warm-up never happens."""
    return linear_schedule(t, 0, T)


def cosine_that_rises_again(t, w, T):
    return t / w if t < w else (1 + math.cos(math.pi * (t - w) / (T - w))) / 2


def quarter_of_a_cosine(t, w, T):
    return t / w if t < w else max(0.0, math.cos(math.pi / 2 * min(1, (t - w) / (T - w))))


def smooth_step(t, w, T):
    """Antisymmetric with slope 0 at both ends, but no cosine."""
    x = min(1, max(0, (t - w) / (T - w)))
    return t / w if t < w else 1 - x * x * (3 - 2 * x)


def root_of_the_steps_since_the_warm_up(t, w, T):
    return t / w if t < w else 1 / math.sqrt(max(1, t - w))


def google_without_a_jump(t, w, T):
    return linear_schedule(t, w, T)


@pytest.mark.parametrize(
    ("schedule", "mistake", "law"),
    [
        (linear_schedule, bert_adams_jump, there_is_no_jump),
        (linear_schedule, bert_adams_jump, it_peaks_at_the_end_of_the_warm_up),
        (linear_schedule, decay_from_the_start_of_the_training, its_sum_is_half_the_steps),
        (linear_schedule, counted_from_one, it_starts_at_zero),
        (linear_schedule, counted_from_one, it_peaks_at_the_end_of_the_warm_up),
        (linear_schedule, never_below_zero_forgotten, it_stays_between_zero_and_one),
        (linear_schedule, decay_over_all_steps_after_the_warm_up, it_ends_at_zero),
        (linear_schedule, decay_over_all_steps_after_the_warm_up, its_sum_is_half_the_steps),
        (linear_schedule, one_more_step_than_there_is, time_has_no_unit),
        (linear_schedule, quadratic_warm_up, warm_up_is_a_straight_line),
        (linear_schedule, warm_up_as_a_part_of_training, it_starts_at_zero),
        (linear_schedule, cosine_schedule, decay_is_a_straight_line),
        (google_schedule, google_without_a_jump, googles_jump_is_w_over_t),
        (cosine_schedule, cosine_that_rises_again, it_ends_at_zero),
        (cosine_schedule, cosine_that_rises_again, it_rises_and_then_never_again),
        (cosine_schedule, quarter_of_a_cosine, half_a_cosine_is_antisymmetric),
        (cosine_schedule, quarter_of_a_cosine, its_sum_is_half_the_steps),
        (cosine_schedule, smooth_step, a_cosine_bends_in_proportion),
        (inverse_square_root_schedule, root_of_the_steps_since_the_warm_up,
         four_times_as_late_is_half_as_fast),
        (constant_schedule, linear_schedule, it_stays_at_the_peak),
    ],
)
def test_schedule_rejects(schedule, mistake, law):
    rejects(law, mistake, schedule, TIMES)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_without_a_warm_up_a_schedule_starts_at_its_peak(schedule):
    assert schedule(0, 0, 10) == 1


def test_google_and_linear_agree_without_a_warm_up():
    assert curve(google_schedule, Times(0, 40)) == pytest.approx(
        curve(linear_schedule, Times(0, 40)), rel=0, abs=4 * EPS
    )


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
@pytest.mark.parametrize(("step", "warmup"), [(-1, 2), (3, -2)])
def test_schedule_refuses_negative_steps(schedule, step, warmup):
    message = f"step {step} and warm-up {warmup} must not be negative"
    with pytest.raises(ValueError, match=message):
        schedule(step, warmup, 10)
