"""Adam in every published form, clipping, and learning-rate schedules.

P parameters, of any shape: the formulas apply to each number separately, so one call on the
flat tensor updates a whole model. Schedules count steps from 0, as loops do; Adam's t begins at 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.functional import at_least_float32


class AdamState(NamedTuple):
    """What Adam remembers: two running means per parameter, and how many steps it has made."""

    mean_P: Tensor
    square_P: Tensor
    steps: int


class AdamOptions(NamedTuple):
    """The options in which the published forms differ; `adam_form` gives those of each form."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    bias_correction: bool = True
    weight_decay: float = 0.0
    decoupled: bool = True


def adam_form(name: str) -> AdamOptions:
    """The options of one published form of Adam; change single ones with `._replace`.

    momentum  m/(√v + ε), no bias correction, no decay, ε = 1e-8
    google    the same with ε = 1e-6 and decoupled decay 0.01, as BERT was trained
    kingma    bias correction, ε = 1e-8
    adamw     bias correction and decoupled decay 0.01
    adam_l2   bias correction, and the decay 0.01 added to the gradient

    Decoupled decay shrinks the parameters themselves and never enters the two running means.

    Source
        google, and momentum's formula: google-research/bert, optimization.py. kingma: Kingma and
        Ba 2015, arXiv:1412.6980, algorithm 1. adamw, adam_l2: Loshchilov and Hutter 2019,
        arXiv:1711.05101, algorithm 2.

    Raises
        ValueError  no form has that name.

    >>> adam_form("google").eps
    1e-06
    """
    forms = {
        "momentum": AdamOptions(bias_correction=False),
        "google": AdamOptions(eps=1e-6, bias_correction=False, weight_decay=0.01),
        "kingma": AdamOptions(),
        "adamw": AdamOptions(weight_decay=0.01),
        "adam_l2": AdamOptions(weight_decay=0.01, decoupled=False),
    }
    if name not in forms:
        raise ValueError(f"adam_form: {name!r} is not one of {', '.join(forms)}")
    return forms[name]


def initial_adam_state(parameters_P: Tensor) -> AdamState:
    """The state before the first step: all zeros.

    Shapes
        parameters_P  float [...]
        return        AdamState of the same shape

    Source
        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.

    >>> initial_adam_state(torch.ones(2)).mean_P
    tensor([0., 0.])
    """
    zeros_P = torch.zeros_like(parameters_P)
    return AdamState(zeros_P, zeros_P.clone(), 0)


def adam_step(
    parameters_P: Tensor,
    gradient_P: Tensor,
    state: AdamState,
    learning_rate: float,
    options: AdamOptions,
) -> tuple[Tensor, AdamState]:
    """One step against the gradient, with a step size of its own for each parameter.

    Formula
        g = g + wd θ                               only where decay is not decoupled (L2)
        m = β₁ m + (1 - β₁) g
        v = β₂ v + (1 - β₂) g ⊙ g
        m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)      t = 1, 2, …; without bias correction m̂ = m, v̂ = v
        θ = θ - η (m̂ / (√v̂ + ε) + wd θ)            wd θ only where decay is decoupled

    Shapes
        parameters_P   float [...]    θ, not changed; for what decays: `parameters.is_decayed`
        gradient_P     float [...]    g
        state          AdamState      not changed
        learning_rate  float          η
        return         the new θ and the new state

    Source
        Kingma and Ba 2015, arXiv:1412.6980; without correction: google-research/bert,
        optimization.py, called "mostly an oversight" by its author in issue 153.

    Differs
        with constant g a step is η; without correction 3.16 η at t = 1, at most 6.57 η (t = 12).

    Accuracy
        |error| <= eps (|θ|/2 + 8 η ((β₁|m| + (1-β₁)|g|) / (1-β₁ᵗ) / (√v̂ + ε) + wd |θ|))
        with the new θ in the first place; g² must not overflow, and L2 rounds its g first.

    >>> theta_P, g_P = torch.tensor([1.0, 1.0]), torch.tensor([5.0, -0.1])
    >>> adam_step(theta_P, g_P, initial_adam_state(theta_P), 0.1, adam_form("kingma"))[0]
    tensor([0.9000, 1.1000])
    """
    if options.weight_decay and not options.decoupled:
        gradient_P = gradient_P + options.weight_decay * parameters_P
    steps = state.steps + 1
    mean_P = options.beta1 * state.mean_P + (1 - options.beta1) * gradient_P
    square_P = options.beta2 * state.square_P + (1 - options.beta2) * gradient_P * gradient_P
    mean_hat_P, square_hat_P = mean_P, square_P
    if options.bias_correction:
        mean_hat_P = mean_P / (1 - options.beta1**steps)
        square_hat_P = square_P / (1 - options.beta2**steps)
    update_P = mean_hat_P / (torch.sqrt(square_hat_P) + options.eps)
    if options.weight_decay and options.decoupled:
        update_P = update_P + options.weight_decay * parameters_P
    return parameters_P - learning_rate * update_P, AdamState(mean_P, square_P, steps)


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """The Euclidean length of all gradients taken as one long vector.

    Formula
        a √(Σ (g_i / a)²) with a = max |g_i|, so that no square overflows; 0 for all zeros

    Shapes
        gradients  at least one float tensor, of any shapes, none empty
        return     float []  computed in float32 at least

    Source
        Pascanu et al. 2013, arXiv:1211.5063, section 3.2.

    Accuracy
        |error| <= (n/4 + 2) eps ‖g‖ for n numbers, eps that of float32 for anything less

    >>> global_norm((torch.tensor([3e30]), torch.tensor([4e30])))
    tensor(5.0000e+30)
    """
    wide = [at_least_float32(gradient) for gradient in gradients]
    largest = torch.stack([gradient.abs().max() for gradient in wide]).max()
    if largest == 0:
        return largest
    scaled = [gradient / largest for gradient in wide]
    squares = torch.stack([(part * part).sum() for part in scaled])
    return largest * torch.sqrt(squares.sum())


def clip_by_global_norm(
    gradients: tuple[Tensor, ...], max_norm: float
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Shorten the gradient to at most a given length; its direction stays the same.

    Formula
        g = g · min(1, c / ‖g‖), one factor for all tensors

    Shapes
        gradients  float tensors of any shapes, not changed
        max_norm   float > 0  c
        return     the clipped gradients, and ‖g‖ before clipping

    Source
        Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; c = 1 in google-research/bert.

    Differs
        TinyBERT's code clips each tensor by its own norm, which changes the direction.
        torch's version adds 1e-6 to the norm.

    Accuracy
        |error| <= (eps + (n/4 + 2) eps₃₂) |g| for n numbers and the new g, eps that of its
        dtype and eps₃₂ the same or that of float32, whichever is smaller

    Raises
        ValueError  max_norm is not above 0.

    >>> clip_by_global_norm((torch.tensor([3.0, 4.0]),), 1.0)
    ((tensor([0.6000, 0.8000]),), tensor(5.))
    """
    if max_norm <= 0:
        raise ValueError(f"clip_by_global_norm: max_norm is {max_norm}, but must be above 0")
    norm = global_norm(gradients)
    if norm <= max_norm:
        return gradients, norm
    return tuple(gradient * (max_norm / norm) for gradient in gradients), norm


def _warming(step: int, warmup: int) -> bool:
    if step < 0 or warmup < 0:
        raise ValueError(f"schedule: step {step} and warm-up {warmup} must not be negative")
    return step < warmup


def linear_schedule(step: int, warmup: int, total: int) -> float:
    """Up in a straight line, then down in a straight line to 0: continuous.

    Formula
        f(t) = t / w                t < w
               (T - t) / (T - w)    w <= t < T
               0                    t >= T

    Shapes
        step, warmup, total  int  t from 0, w, T
        return               float in [0, 1], the factor of the peak learning rate

    Source
        huggingface/transformers, get_linear_schedule_with_warmup.

    Accuracy
        |error| <= eps f / 2, eps that of a Python float: one rounding

    Raises
        ValueError  step or warm-up is negative.

    >>> [linear_schedule(t, 2, 6) for t in (0, 1, 2, 4, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if _warming(step, warmup):
        return step / warmup
    return (total - step) / (total - warmup) if step < total else 0.0


def google_schedule(step: int, warmup: int, total: int) -> float:
    """As BERT was trained: the decay counts from step 0, so the rate jumps at the end of warm-up.

    Formula
        f(t) = t / w        t < w
               1 - t / T    w <= t < T   (a drop from 1 to 1 - w/T at t = w)
               0            t >= T

    Shapes
        step, warmup, total  int  t from 0, w, T
        return               float in [0, 1]

    Source
        google-research/bert, optimization.py (polynomial_decay, then warm-up over it).

    Accuracy
        |error| <= eps / 2, eps that of a Python float

    Raises
        ValueError  step or warm-up is negative.

    >>> [google_schedule(t, 2, 8) for t in (0, 1, 2, 8)]
    [0.0, 0.5, 0.75, 0.0]
    """
    if _warming(step, warmup):
        return step / warmup
    return 1 - step / total if step < total else 0.0


def constant_schedule(step: int, warmup: int, total: int) -> float:
    """Up in a straight line, then level.

    Formula
        f(t) = t / w if t < w else 1

    Shapes
        step, warmup, total  int  t from 0, w; T is not used
        return               float in [0, 1]

    Source
        huawei-noah/Pretrained-Language-Model, TinyBERT/task_distill.py (schedule "none" in its
        first stage).

    Accuracy
        |error| <= eps f / 2, eps that of a Python float: one rounding

    Raises
        ValueError  step or warm-up is negative.

    >>> [constant_schedule(t, 2, 8) for t in (0, 1, 2, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return step / warmup if _warming(step, warmup) else 1.0


def cosine_schedule(step: int, warmup: int, total: int) -> float:
    """Up in a straight line, then down along half a cosine.

    Formula
        f(t) = t / w                              t < w
               (1 + cos(π (t - w) / (T - w))) / 2    w <= t < T
               0                                  t >= T

    Shapes
        step, warmup, total  int  t from 0, w, T
        return               float in [0, 1]

    Source
        Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, one period.

    Accuracy
        |error| <= 2 eps, eps that of a Python float

    Raises
        ValueError  step or warm-up is negative.

    >>> [round(cosine_schedule(t, 2, 6), 3) for t in (1, 2, 4, 6)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if _warming(step, warmup):
        return step / warmup
    if step >= total:
        return 0.0
    return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def inverse_square_root_schedule(step: int, warmup: int, total: int) -> float:
    """Up in a straight line, then down as 1/√t: the schedule of the original Transformer.

    Formula
        f(t) = t / w if t < w else √(max(w, 1) / max(t, 1));  1 at t = w

    Shapes
        step, warmup, total  int  t from 0, w; T is not used
        return               float in [0, 1]

    Source
        Vaswani et al. 2017, arXiv:1706.03762, equation 3, scaled so that its peak is 1.

    Accuracy
        |error| <= 3 eps f / 4, eps that of a Python float

    Raises
        ValueError  step or warm-up is negative.

    >>> [inverse_square_root_schedule(t, 4, 0) for t in (2, 4, 16)]
    [0.5, 1.0, 0.5]
    """
    if _warming(step, warmup):
        return step / warmup
    return math.sqrt(max(warmup, 1) / max(step, 1))
