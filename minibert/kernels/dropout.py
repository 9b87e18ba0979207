"""Dropout with cheap random numbers: sixteen bits for each, where torch.rand spends a float.

Booleans are slow on a CPU: torch.where takes ten times as long as a bitwise "and" with -1 (all bits
are ones) or 0.
"""

from typing import Any

import torch
from torch import Tensor

from minibert.packed import BITS

LEVELS = 2**16


def keep_mask(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """-1 where a number of x stays, else 0: each with probability 1 - rate, to within 2^-17."""
    dropped_levels = round(rate * LEVELS)
    if dropped_levels == LEVELS:
        return torch.zeros_like(x, dtype=torch.int8)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits are random
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    return draws.ge_(dropped_levels - LEVELS // 2).neg_().to(torch.int8)


def dropped(x: Tensor, keep: Tensor | None, rate: float) -> Tensor:
    """x / (1 - rate) where it is kept, 0 elsewhere; x itself if nothing is dropped."""
    if keep is None:
        return x
    bits = BITS[x.element_size()]
    return (x.view(bits) & keep.to(bits)).view(x.dtype) * (1 / (1 - rate))


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """`minibert.functional.dropout` with other draws; its gradient keeps one byte per number."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate is {rate}, but must be at least 0 and below 1")
    if generator is None or rate == 0:
        return x
    y: Tensor = _Dropout.apply(x, keep_mask(x, rate, generator), rate)
    return y


class _Dropout(torch.autograd.Function):
    """What is dropped gives no gradient either."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, rate: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.rate = rate
        return dropped(x, keep, rate)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return dropped(upstream[0], keep, ctx.rate), None, None
