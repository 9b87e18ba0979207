"""Inputs in search of a case that tells a mutant from its original, and what came of each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minibert.laws.law import Draw
from minibert.laws.measure import normal, seed_of
from minibert.parameters import LinearWeights, named_tensors, with_tensors

SHAPES = [(), (1,), (7,), (3, 5), (2, 1, 3), (0, 3), (2, 3, 2, 2)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
ODD_NUMBERS = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-300, 1e300, 1e4, -1e4]


def any_tensor(draw: Draw) -> Tensor:
    """Normal or odd numbers, of rank 0 to 4, in one piece or not, in three precisions."""
    x = normal(seed_of(draw), *draw.choice(SHAPES), scale=draw.choice([1e-3, 1.0, 50.0]))
    x = with_odd_numbers(draw, x).to(draw.choice(DTYPES))
    return x.mT.contiguous().mT if x.ndim > 1 and draw.integer(0, 1) else x


def with_odd_numbers(draw: Draw, x: Tensor) -> Tensor:
    """In every second case some or all numbers are zeros, infinities, NaN or very large."""
    if not draw.integer(0, 1):
        return x
    odd = torch.tensor([draw.choice(ODD_NUMBERS) for _ in range(x.numel())])
    chosen = normal(seed_of(draw), *x.shape) > draw.choice([-9.0, 0.0, 1.0])
    return torch.where(chosen, odd.view(x.shape).double(), x)


def rows(draw: Draw) -> tuple[Tensor]:
    """One tensor with a last axis; every fourth time a row of it is hidden."""
    x = any_tensor(draw)
    x = x[None] if x.ndim == 0 else x
    if x.numel() and not draw.integer(0, 3):
        x = x.clone()
        x.reshape(-1, x.shape[-1])[0] = -math.inf
    return (x,)


def hidden_states(draw: Draw) -> tuple[Any, ...]:
    """Student, teacher, projection or none, and what is kept: everything, nothing or some.

    Now and then the widths do not fit, or no mode is given.
    """
    batch, tokens = draw.choice([(2, 3), (1, 1), (3, 5), (2, 1)])
    width, teacher_width = draw.choice([(2, 2), (2, 3), (3, 1)])
    dtype = draw.choice(DTYPES)
    hidden = with_odd_numbers(draw, normal(seed_of(draw), batch, tokens, width)).to(dtype)
    teacher = with_odd_numbers(draw, normal(seed_of(draw), batch, tokens, teacher_width)).to(dtype)
    projection = LinearWeights(
        normal(seed_of(draw), teacher_width, width).to(dtype),
        normal(seed_of(draw), teacher_width).to(dtype),
    )
    keep = normal(seed_of(draw), batch, tokens) > draw.choice([-9.0, 0.0, 9.0])
    none = width == teacher_width and draw.integer(0, 1)
    if not draw.integer(0, 9):
        teacher = teacher[..., 1:]
    given = hidden, teacher, None if none else projection, keep
    mode = draw.choice(["masked", "masked", "", "tinybert", "other"])
    return (*given, mode) if mode else given


def relations(draw: Draw) -> tuple[Any, ...]:
    """Left and right of student and teacher, what is kept, and relation heads that may not fit."""
    batch, tokens = draw.choice([(2, 3), (1, 1), (3, 5), (2, 1)])
    widths, heads = draw.choice([((2, 4), 2), ((3, 6), 3), ((2, 3), 1), ((2, 3), 2), ((4, 4), 0)])
    dtype, scale = draw.choice(DTYPES), draw.choice([1e-3, 1.0, 50.0])
    sides = [
        with_odd_numbers(draw, normal(seed_of(draw), batch, tokens, width, scale=scale)).to(dtype)
        for width in (widths[0], widths[0], widths[1], widths[1])
    ]
    keep = normal(seed_of(draw), batch, tokens) > draw.choice([-9.0, 0.0, 0.0, 9.0])
    return (*sides, keep, heads)


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Everything that can be seen from outside: result, gradients, or the refusal in words."""
    named = {
        name: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor
        for place, argument in enumerate(arguments)
        for name, tensor in named_tensors(argument, str(place))
    }
    changed = [with_tensors(part, named, str(place)) for place, part in enumerate(arguments)]
    try:
        result = function(*changed)
        seen = [described(result)]
        if isinstance(result, Tensor) and result.requires_grad:
            leaves = [tensor for tensor in named.values() if tensor.requires_grad]
            upstream = normal(3, *result.shape).to(result.dtype)
            found = torch.autograd.grad(result, leaves, upstream, allow_unused=True)
            seen += [described(gradient) for gradient in found]
        return seen
    except Exception as problem:
        return type(problem), str(problem)


def described(value: Any) -> Any:
    """A value that can be compared, NaN included, bit for bit."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.detach().double().numpy().tobytes()
    if isinstance(value, tuple | list):
        return [described(part) for part in value]
    return repr(value)
