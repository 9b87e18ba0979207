"""Inputs in search of a case that tells a mutant from its original, and what came of each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minibert.laws.law import Draw
from minibert.laws.measure import normal, seed_of

SHAPES = [(), (1,), (7,), (3, 5), (2, 1, 3), (0, 3), (2, 3, 2, 2)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
ODD_NUMBERS = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-300, 1e300, 1e4, -1e4]


def any_tensor(draw: Draw) -> Tensor:
    """Normal or odd numbers, of rank 0 to 4, in one piece or not, in three precisions."""
    x = normal(seed_of(draw), *draw.choice(SHAPES), scale=draw.choice([1e-3, 1.0, 50.0]))
    if draw.integer(0, 1):
        odd = torch.tensor([draw.choice(ODD_NUMBERS) for _ in range(x.numel())])
        chosen = normal(seed_of(draw), *x.shape) > draw.choice([-9.0, 0.0, 1.0])
        x = torch.where(chosen, odd.view(x.shape).double(), x)
    x = x.to(draw.choice(DTYPES))
    return x.mT.contiguous().mT if x.ndim > 1 and draw.integer(0, 1) else x


def rows(draw: Draw) -> tuple[Tensor]:
    """One tensor with a last axis; every fourth time a row of it is hidden."""
    x = any_tensor(draw)
    x = x[None] if x.ndim == 0 else x
    if x.numel() and not draw.integer(0, 3):
        x = x.clone()
        x.reshape(-1, x.shape[-1])[0] = -math.inf
    return (x,)


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Everything that can be seen from outside: result, gradients, or the refusal in words."""
    leaves = [a.clone().requires_grad_() if is_real(a) else a for a in arguments]
    try:
        result = function(*leaves)
        seen = [described(result)]
        if isinstance(result, Tensor) and result.requires_grad:
            inputs = [leaf for leaf in leaves if is_real(leaf)]
            upstream = normal(3, *result.shape).to(result.dtype)
            found = torch.autograd.grad(result, inputs, upstream, allow_unused=True)
            seen += [described(gradient) for gradient in found]
        return seen
    except Exception as problem:
        return type(problem), str(problem)


def is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def described(value: Any) -> Any:
    """A value that can be compared, NaN included, bit for bit."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.detach().double().numpy().tobytes()
    if isinstance(value, tuple | list):
        return [described(part) for part in value]
    return repr(value)
