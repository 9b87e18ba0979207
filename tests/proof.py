"""What the proofs have in common: inputs, distances, gradients, and the verdict on a law.

A law is a function `law(formula, case) -> (error, bound)`. It holds when error <= bound. The
formula is an argument, so the same law is proven for ours and must fail for each known mistake: a
law that no mistake can break proves nothing.

Bounds are counted in EPS, the distance from 1 to the next float64; a computation of n roundings
may be n EPS off, times the size of what was rounded. A bound of 0 means bit for bit.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

EPS = 2.0**-52
EPS_32 = 2.0**-23
Law = Callable[[Any, Any], tuple[float, float]]


def normal(seed: int, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Normal numbers in float64; equal seeds give equal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale + offset


seeds = st.integers(0, 2**32 - 1)


def fewer(divisor: int) -> settings:
    """For tests that are slow per case: a share of the examples of the profile in force."""
    return settings(max_examples=max(1, settings.default.max_examples // divisor))


def tensors(
    shapes: Sequence[tuple[int, ...]],
    scales: Sequence[float] = (1.0,),
    offsets: Sequence[float] = (0.0,),
) -> st.SearchStrategy[Tensor]:
    """Normal tensors of these shapes; every other one does not lie in one piece in memory."""

    def built(seed: int, shape: tuple[int, ...], scale: float, offset: float) -> Tensor:
        x = normal(seed, *shape, scale=scale, offset=offset)
        return x.mT.contiguous().mT if seed % 2 and x.ndim > 1 else x

    choices = (st.sampled_from(list(values)) for values in (shapes, scales, offsets))
    return st.builds(built, seeds, *choices)


def distance(a: Tensor, b: Tensor, unit: Tensor | float = 1.0) -> float:
    """The largest |a - b| / unit; equal infinities are at distance 0, a NaN is never near."""
    assert a.shape == b.shape, f"shapes {list(a.shape)} and {list(b.shape)}"
    gap = torch.where(a == b, 0, (a.double() - b.double()).abs() / unit)
    return float(gap.max()) if gap.numel() else 0.0


def differing(a: Tensor, b: Tensor) -> float:
    """How many numbers are not the same bit for bit."""
    assert a.shape == b.shape, f"shapes {list(a.shape)} and {list(b.shape)}"
    return float((a != b).sum())


def check(error: float, bound: float, claim: str) -> None:
    assert error <= bound, f"{claim}: the error is {error:.3g}, the bound {bound:.3g}"


def holds(law: Law, formula: Any, case: Any) -> None:
    """Assert a law for one case."""
    check(*law(formula, case), law.__name__)


def rejects(law: Law, mistake: Any, formula: Any, cases: Iterable[Any]) -> None:
    """Assert that the law holds for the formula in all cases, and for the mistake not in all."""
    broken = False
    for case in cases:
        holds(law, formula, case)
        error, bound = law(mistake, case)
        broken = broken or not error <= bound
    assert broken, f"{law.__name__} lets the mistake {mistake.__name__} pass"


def over_rows(formula: Callable[..., Any], x: Any, *arguments: Any) -> Any:
    """A spec for one vector, applied to every vector along the last axis of nested lists."""
    if isinstance(x[0], list):
        return [over_rows(formula, part, *arguments) for part in x]
    return formula(x, *arguments)


def as_tensor(nested: Any) -> Tensor:
    return torch.tensor(nested, dtype=torch.float64)


def gradients(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor
) -> tuple[Tensor, ...]:
    """The gradient of Σ upstream · formula(inputs) to each input, by autograd."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(formula(*leaves), leaves, upstream)


def slope(
    formula: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    upstream: Tensor,
    directions: Sequence[Tensor],
) -> float:
    """How fast Σ upstream · formula grows along a direction through all inputs, by autograd."""
    found = gradients(formula, inputs, upstream)
    return float(sum((g * d).sum() for g, d in zip(found, directions, strict=True)))


def slope_of_spec(
    spec: Callable[..., Any],
    inputs: Sequence[Tensor],
    upstream: Tensor,
    directions: Sequence[Tensor],
    step: float,
) -> float:
    """The same from differences of the spec alone, which shares no line with the formula.

    (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h is right up to f⁽⁵⁾ h⁴ / 30, 3e-14 f⁽⁵⁾ at 1e-3.
    """

    def value(t: float) -> float:
        moved = [(x + t * d).tolist() for x, d in zip(inputs, directions, strict=True)]
        return float((as_tensor(spec(*moved)) * upstream).sum())

    near = value(step) - value(-step)
    far = value(2 * step) - value(-2 * step)
    return (8 * near - far) / (12 * step)


def check_slope(
    formula: Callable[..., Tensor],
    spec: Callable[..., Any],
    inputs: Sequence[Tensor],
    seed: int,
    tolerance: float = 1e-11,
) -> None:
    """Assert that autograd of the formula and differences of the spec see the same slope.

    Upstream gradient and direction are random: a wrong entry anywhere shows in the one number.
    """
    output = formula(*inputs)
    upstream = normal(seed + 1, *output.shape)
    directions = [normal(seed + 2 + i, *x.shape) for i, x in enumerate(inputs)]
    # one step through all inputs together has length 1: f⁽⁵⁾ must not grow with their number
    length = math.sqrt(sum(float((d * d).sum()) for d in directions)) or 1.0
    directions = [d / length for d in directions]
    found = slope(formula, inputs, upstream, directions)
    size = 1 + float((upstream * output).abs().sum())
    for step in (1e-3, 2e-4):  # the short one where the formula bends within the long one
        expected = slope_of_spec(spec, inputs, upstream, directions, step)
        error, bound = abs(found - expected), tolerance * (size + abs(expected))
        if error <= bound:
            break
    check(error, bound, "slope of autograd and of the spec")
