"""Dropout with cheap random numbers: sixteen bits for each, where torch.rand spends a float."""

import torch
from torch import Tensor

LEVELS = 2**16


def keep_mask(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Which numbers of x stay: each one with probability 1 - rate, to within 2^-17."""
    dropped_levels = round(rate * LEVELS)
    if dropped_levels == LEVELS:
        return torch.zeros_like(x, dtype=torch.bool)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits are random
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    return draws >= dropped_levels - LEVELS // 2


def dropped(x: Tensor, keep: Tensor | None, rate: float) -> Tensor:
    """x / (1 - rate) where it is kept, 0 elsewhere; x itself if nothing is dropped."""
    return x if keep is None else torch.where(keep, x, 0) * (1 / (1 - rate))


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """`minibert.functional.dropout` with other draws; its gradient remembers one byte a number."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate is {rate}, but must be at least 0 and below 1")
    if generator is None or rate == 0:
        return x
    return dropped(x, keep_mask(x, rate, generator), rate)
