"""Linear maps in eight bits at the speed of the machine: the twin of `minibert.quantization`.

Processors with VNNI instructions multiply four bytes at once where they multiply one float. The
product leaves 32-bit sums, and scaling them takes time too unless they are still in the cache.
T tokens, t of them at a time · I, O in and out of one linear map.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.functional import at_least_float32
from minibert.parameters import LinearWeights
from minibert.quantization import quantized_rows

TOKENS = 512  # at a time: fewer waste time at the start of each product, more leave the cache
LONGEST = 133_144  # the longest sum that 32 bits are sure to hold


class Int8Linear(NamedTuple):
    """A linear map made ready for many calls: integers, and one scale for each output."""

    weight_IO: Tensor
    scale_O: Tensor
    bias_O: Tensor


def prepared_int8(weights: LinearWeights) -> Int8Linear:
    """The map in eight bits; it shares no memory with its origin and has no gradient."""
    weight_OI, scale_O1 = quantized_rows(weights.weight_OI.detach())
    bias_O = at_least_float32(weights.bias_O.detach()).clone()
    return Int8Linear(weight_OI.contiguous().T, scale_O1[:, 0], bias_O)


def int8_linear(x_TI: Tensor, weights: Int8Linear) -> Tensor:
    """`minibert.quantization.quantized_linear`, for inference only.

    Accuracy
        the whole numbers and their sums are the book's; then |error| <= 3 eps (|product| + |b|),
        and half precision is float32 rounded once
    """
    if x_TI.shape[-1] != weights.weight_IO.shape[0]:
        raise ValueError(
            f"int8_linear: x has width {x_TI.shape[-1]}, "
            f"but the weight maps from {weights.weight_IO.shape[0]}"
        )
    y_TO = x_TI.new_empty(x_TI.shape[0], weights.bias_O.shape[0])
    for x_tI, y_tO in zip(x_TI.split(TOKENS), y_TO.split(TOKENS), strict=True):
        q_tI, scale_t1 = _quantized(x_tI)
        wide_tO = _sums(q_tI, weights.weight_IO).to(scale_t1.dtype).mul_(scale_t1)
        out_tO = y_tO if y_tO.dtype == wide_tO.dtype else wide_tO
        y_tO.copy_(torch.addcmul(weights.bias_O, wide_tO, weights.scale_O, out=out_tO))
    return y_TO


def _quantized(x_tI: Tensor) -> tuple[Tensor, Tensor]:
    """`minibert.quantization.quantized_rows` bit for bit, with less memory traffic."""
    wide_tI = at_least_float32(x_tI)
    largest_t1 = torch.maximum(wide_tI.amax(-1, keepdim=True), -wide_tI.amin(-1, keepdim=True))
    scale_t1 = (largest_t1 / 127).clamp_(min=2.0**-126)
    return (wide_tI / scale_t1).round_().to(torch.int8), scale_t1


def _sums(q_tI: Tensor, weight_IO: Tensor) -> Tensor:
    """Exact sums of products of integers."""
    # A GPU's product of bytes refuses few tokens, and widths that are no multiple of 8.
    if q_tI.is_cpu and weight_IO.shape[0] <= LONGEST and _products_are_exact():
        return torch._int_mm(q_tI, weight_IO)
    return q_tI.double() @ weight_IO.double()  # exact below 2^53, and slow


@functools.cache
def _products_are_exact() -> bool:
    """Whether the processor adds products in 32 bits.

    Without VNNI, oneDNN adds pairs of them in 16 bits, where 2 · 255 · 127 does not fit.
    """
    extreme = torch.full((64, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(extreme, extreme) == 64 * 127**2).all())
