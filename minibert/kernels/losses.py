"""The cross-entropy of many classes, a few rows at a time, so intermediate results stay in cache.

M rows that are scored · R rows of a part · C classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minibert import losses as book
from minibert.functional import at_least_float32
from minibert.kernels.products import fixed_arithmetic

PART = 2**18  # logits of a part, a megabyte in float32


def smoothed_cross_entropy(logits_MC: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
    """`minibert.losses.smoothed_cross_entropy`; for its gradient it keeps only the logits."""
    fits_M = (labels_M == -100) | ((labels_M >= 0) & (labels_M < logits_MC.shape[1]))
    if fixed_arithmetic() == "book" or not (0 <= smoothing < 1 and bool(fits_M.all())):
        return book.smoothed_cross_entropy(logits_MC, labels_M, smoothing)  # or says what is wrong
    loss: Tensor = _Smoothed.apply(logits_MC, labels_M, smoothing)
    return loss


class _Smoothed(torch.autograd.Function):
    """-log p[label] = log Σ exp(logits) - logits[label]; the slope is p less the smoothed label."""

    @staticmethod
    def forward(ctx: Any, logits_MC: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
        counted_M = labels_M != -100
        label_M1 = torch.where(counted_M, labels_M, 0)[:, None]
        losses_M = at_least_float32(logits_MC.new_empty(len(logits_MC)))
        for rows in _parts(logits_MC):
            logits_RC = at_least_float32(logits_MC[rows])
            logits_RC = logits_RC - logits_RC.amax(1, keepdim=True)  # a common shift cancels
            wanted_R = logits_RC.gather(1, label_M1[rows])[:, 0]
            if smoothing > 0:
                wanted_R = (1 - smoothing) * wanted_R + smoothing * logits_RC.mean(1)
            losses_M[rows] = logits_RC.logsumexp(1) - wanted_R
        ctx.save_for_backward(logits_MC, label_M1, counted_M)
        ctx.smoothing = smoothing
        return torch.where(counted_M, losses_M, 0).sum() / counted_M.sum().clamp(min=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits_MC, label_M1, counted_M = ctx.saved_tensors
        share_M1 = counted_M[:, None] * (upstream[0] / counted_M.sum().clamp(min=1))
        slope_MC = torch.empty_like(logits_MC)
        for rows in _parts(logits_MC):
            slope_RC = at_least_float32(logits_MC[rows]).softmax(1)
            slope_RC -= ctx.smoothing / logits_MC.shape[1]
            certain_R1 = torch.full_like(share_M1[rows], 1 - ctx.smoothing)
            slope_RC.scatter_add_(1, label_M1[rows], -certain_R1)
            slope_MC[rows] = slope_RC.mul_(share_M1[rows])
        return slope_MC, None, None


def _parts(logits_MC: Tensor) -> list[slice]:
    size = max(1, PART // logits_MC.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits_MC), size)]
