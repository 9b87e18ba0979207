"""How far apart two results are, in numbers that a law can compare with its bound.

Bounds are counted in EPS, the distance from 1 to the next float64; a computation of n roundings may
be off by n EPS times the size of what was rounded. A bound of 0 means equal bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.laws.law import Draw
from minibert.parameters import named_tensors, with_tensors

EPS = 2.0**-52


def eps_of(x: Tensor) -> float:
    """The distance from 1 to the next number of this precision: 2^-52, 2^-23, 2^-10 or 2^-7."""
    return float(torch.finfo(x.dtype).eps)


# ---------------------------------------------------------------------------------- random inputs


def seed_of(draw: Draw) -> int:
    return draw.integer(0, 2**32 - 1)


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Normal numbers in float64; equal seeds give equal numbers."""
    return torch.randn(shape, generator=fresh(seed), dtype=torch.float64) * scale + offset


def integers(seed: int, high: int, *shape: int) -> Tensor:
    """Whole numbers from 0 to high - 1."""
    return torch.randint(high, shape, generator=fresh(seed))


def order_of(n: int, seed: int = 1) -> Tensor:
    """The numbers 0 to n - 1 in some order."""
    return torch.randperm(n, generator=fresh(seed))


def tensor(draw: Draw, shape: tuple[int, ...], scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Normal numbers; half of these tensors are not contiguous in memory."""
    seed = seed_of(draw)
    x = normal(seed, *shape, scale=scale, offset=offset)
    return x.mT.contiguous().mT if seed % 2 and x.ndim > 1 else x


# ------------------------------------------------------------------------------------ comparisons


def distance(a: Tensor, b: Tensor, unit: Tensor | float = 1.0) -> float:
    """The largest |a - b| / unit; equal infinities are at distance 0, a NaN is never near."""
    if a.shape != b.shape:
        return math.inf
    gap = torch.where(a == b, 0, (a.double() - b.double()).abs() / unit)
    return float(gap.detach().max()) if gap.numel() else 0.0


def differing(a: Tensor, b: Tensor) -> float:
    """How many numbers are not the same bit for bit."""
    return float((a != b).sum()) if a.shape == b.shape else math.inf


def as_tensor(nested: Any) -> Tensor:
    return torch.tensor(nested, dtype=torch.float64)


def as_lists(structure: Any) -> Any:
    """The same named structure with nested lists of floats at its leaves, as a spec takes it."""
    lists: Any = {name: tensor.tolist() for name, tensor in named_tensors(structure)}
    return with_tensors(structure, lists)


def over_rows(formula: Callable[..., Any], x: Any, *arguments: Any) -> Any:
    """A spec for one vector, applied to every vector along the last axis of nested lists."""
    if isinstance(x[0], list):
        return [over_rows(formula, part, *arguments) for part in x]
    return formula(x, *arguments)


# -------------------------------------------------------------------------------------- gradients


def gradients(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor
) -> tuple[Tensor, ...]:
    """The gradient of Σ upstream · formula(inputs) for each input, by autograd, or 0 if none."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(
        formula(*leaves), leaves, upstream, allow_unused=True, materialize_grads=True
    )


def slope_of_spec(
    spec: Callable[..., Any],
    inputs: Sequence[Tensor],
    upstream: Tensor,
    directions: Sequence[Tensor],
    step: float,
) -> float:
    """The slope of Σ upstream · spec along a direction, from finite differences of the spec alone.

    (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h is off by f⁽⁵⁾ h⁴ / 30, or 3e-14 f⁽⁵⁾ at 1e-3.
    """

    def value(t: float) -> float:
        moved = [(x + t * d).tolist() for x, d in zip(inputs, directions, strict=True)]
        return float((as_tensor(spec(*moved)) * upstream).sum())

    near = value(step) - value(-step)
    far = value(2 * step) - value(-2 * step)
    return (8 * near - far) / (12 * step)


def slopes(
    formula: Callable[..., Tensor],
    spec: Callable[..., Any],
    inputs: Sequence[Tensor],
    tolerance: float = 1e-11,
) -> tuple[float, float]:
    """Autograd of the formula against finite differences of the spec, which shares no code with it.

    Upstream gradient and direction are random, so a wrong entry anywhere shows in this one number.
    The spec takes nested lists. Returns error and bound, as a law does.
    """
    output = formula(*inputs)
    upstream = normal(101, *output.shape)
    directions = [normal(102 + i, *x.shape) for i, x in enumerate(inputs)]
    # the direction has length 1 over all inputs together: f⁽⁵⁾ must not grow with their number
    length = math.sqrt(sum(float((d * d).sum()) for d in directions)) or 1.0
    directions = [d / length for d in directions]
    found = gradients(formula, inputs, upstream)
    slope = float(sum((g * d).sum() for g, d in zip(found, directions, strict=True)))
    size = 1 + float((upstream * output.detach()).abs().sum())
    for step in (1e-3, 2e-4):  # the short one if the formula curves within the long one
        expected = slope_of_spec(spec, inputs, upstream, directions, step)
        error, bound = abs(slope - expected), tolerance * (size + abs(expected))
        if error <= bound:
            break
    return error, bound
