"""How far rounding may move the result of a formula, estimated in two ways.

**Running error analysis** (Wilkinson), for a formula of few steps: every number carries a bound on
its error. A step takes over the errors of its input, amplified as it amplifies any change, and adds
its own roundings; a sum of n terms has n of them, each half an eps of the size of the terms. The
resulting bound holds for every order of summation. Observed errors are smaller, as some roundings
go up and some go down, and with every step the bound exceeds them by more.

**Sensitivity**, for a formula of many steps: move every input number by one eps, up or down, and
see how far the result moves. Merely storing the inputs in a dtype may move it as far, so a formula
is computed well if its own roundings move it only a few times as far.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.laws.measure import eps_of, normal

FLOOR = 1e-37  # float32 and bfloat16 lose digits below their smallest normal number


# ------------------------------------------------------------------------ running error analysis


class Rounded(NamedTuple):
    """Exact numbers in float64, a bound on the error of each computed one, and their precision."""

    value: Tensor
    error: Tensor
    eps: float

    @property
    def size(self) -> Tensor:
        """The largest absolute value that a computed number may have."""
        return self.value.abs() + self.error

    @property
    def wide_eps(self) -> float:
        """The precision inside softmax, GELU and layer norm, which compute in float32 at least."""
        return min(self.eps, 2.0**-23)

    def stored(self, value: Tensor, error: Tensor) -> "Rounded":
        """Another number of the same precision, rounded to it at the end."""
        return Rounded(value, error + self.eps / 2 * (value.abs() + error) + FLOOR, self.eps)


def exact(x: Tensor) -> Rounded:
    """An input: it has no error."""
    wide = x.double()
    return Rounded(wide, torch.zeros_like(wide), eps_of(x))


def linear(x: Rounded, weight_OI: Tensor, bias_O: Tensor) -> Rounded:
    """I products, I - 1 sums and the bias: I + 1 roundings of the size of the terms."""
    weight, bias = weight_OI.double(), bias_O.double()
    size = x.size @ weight.abs().T + bias.abs()
    own = (weight.shape[1] + 1) / 2 * x.eps * size
    return Rounded(x.value @ weight.T + bias, x.error @ weight.abs().T + own + FLOOR, x.eps)


def add(x: Rounded, y: Rounded) -> Rounded:
    return x.stored(x.value + y.value, x.error + y.error)


def product(x: Rounded, y: Rounded) -> Rounded:
    """A product of matrices; the n terms of each sum lie along the last axis of x."""
    size = x.size @ y.size
    error = size - x.value.abs() @ y.value.abs() + x.value.shape[-1] / 2 * x.eps * size
    return Rounded(x.value @ y.value, error + FLOOR, x.eps)


def scores(query: Rounded, key: Rounded) -> Rounded:
    """Products of K terms over √K."""
    summed = product(query, key._replace(value=key.value.mT, error=key.error.mT))
    root = math.sqrt(query.value.shape[-1])
    return query.stored(summed.value / root, summed.error / root)


def softmax(x: Rounded) -> Rounded:
    """exp turns an absolute error of its argument into a relative one."""
    seen = x.value > -math.inf
    top = torch.where(seen, x.value, -math.inf).amax(-1, keepdim=True)
    gap = torch.where(seen, top - x.value, 0)
    moved = torch.where(seen, x.error, 0)
    moved = moved + moved.amax(-1, keepdim=True)
    moved = moved + (4 + x.value.shape[-1] / 2 + gap) * x.wide_eps
    total = torch.where(seen, torch.exp(-gap), 0).sum(-1, keepdim=True).clamp(min=1)
    log_p = -gap - torch.log(total)
    p = torch.where(seen, torch.exp(log_p), 0)
    most = torch.where(seen, torch.exp((log_p + moved).clamp(max=0)), 0)
    return x.stored(p, torch.maximum(most - p, -p * torch.expm1(-moved)))


def gelu(x: Rounded, tanh: bool) -> Rounded:
    """Its slope is at most 1.13; below 0 the tanh form has cancellation, the erf form has none."""
    v = x.value
    if tanh:
        y = v / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        own = 4 * v.abs()
    else:
        y = v / 2 * torch.erfc(-v / math.sqrt(2))
        own = (16 + 2 * v * v) * y.abs()
    return x.stored(y, 1.13 * x.error + own * x.wide_eps)


def tanh(x: Rounded) -> Rounded:
    """Its slope is 1 - tanh², largest where the argument comes nearest to 0."""
    nearest = (x.value.abs() - x.error).clamp(min=0)
    y = torch.tanh(x.value)
    return x.stored(y, (1 - torch.tanh(nearest) ** 2) * x.error + x.eps * y.abs())


def layer_norm(x: Rounded, gain_D: Tensor, bias_D: Tensor, eps: float) -> Rounded:
    """An error of x is divided by the deviation, and the deviation has an error of its own.

    A normalised number is never above √D, so no error is above twice that.
    """
    width = x.value.shape[-1]
    centred = x.value - x.value.mean(-1, keepdim=True)
    sigma = torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    moved = x.error + x.error.mean(-1, keepdim=True)
    # the mean is subtracted twice, so an offset counts only with the square of eps
    moved = moved + (width * x.wide_eps) ** 2 / 4 * x.value.abs().amax(-1, keepdim=True)
    spread = torch.sqrt((moved * moved).mean(-1, keepdim=True))
    y = centred / sigma
    error = (moved + y.abs() * spread) / (sigma - spread).clamp(min=1e-300)
    error = error + (2 + width / 2) * x.wide_eps * (y.abs() + y.abs().amax(-1, keepdim=True))
    error = error.clamp(max=2 * math.sqrt(width)) * gain_D.double().abs()
    value = y * gain_D.double() + bias_D.double()
    own = x.wide_eps * ((y * gain_D.double()).abs() + bias_D.double().abs())
    return x.stored(value, error + own)


# ---------------------------------------------------------------------------------- sensitivity


def sensitivity(
    formula: Callable[..., Tensor], parts: Sequence[Tensor], eps: float, draws: int = 8
) -> Tensor:
    """How far a sentence [S, D] of the result moves if each input number moves by one eps.

    Its largest move stands for all its numbers; the rounding of the result itself is added.
    """
    wide = [part.double() for part in parts]
    value = formula(*wide)
    moved = torch.zeros_like(value)
    for draw in range(draws):
        signs = [normal(1000 * draw + i, *part.shape).sign() for i, part in enumerate(wide)]
        shifted = [part * (1 + eps * sign) for part, sign in zip(wide, signs, strict=True)]
        moved = torch.maximum(moved, (formula(*shifted) - value).abs())
    return moved.amax((-2, -1), keepdim=True) + eps / 2 * value.abs() + FLOOR
