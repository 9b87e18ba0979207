"""Sparse tensors in a file: one bit for each weight says whether it is 0; only the others follow.

A tensor KEY becomes three: `KEY.shape`, `KEY.mask` with eight weights in each byte, the first in
the lowest bit, and `KEY.values`. minibert reads such a file like any other; `transformers` would
initialise at random what it does not find, so the file has a name that it does not look for.
`minibert export` writes either form from the other.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from safetensors.torch import load_file
from torch import Tensor

from minibert.checkpoint import Stored
from minibert.config import CheckpointError
from minibert.sparsity import fewest_bits

PARTS = ("shape", "mask", "values")
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # a float as the whole number of its bits


class Size(NamedTuple):
    """The size of sparse tensors: weights and zeros, and bytes in full, packed and at the least.

    The least is the bytes of the nonzero values plus `sparsity.fewest_bits` for their places.
    """

    weights: int
    zeros: int
    full: int
    packed: int
    least: float


def packed_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each packed if that makes it smaller."""
    found: dict[str, Tensor] = {}
    for key, tensor in load_file(path).items():
        if tensor.element_size() not in BITS:
            found[key] = tensor
            continue
        parts = {f"{key}.{name}": part for name, part in zip(PARTS, _parts(tensor), strict=True)}
        found |= parts if _bytes(parts) < _bytes({key: tensor}) else {key: tensor}
    return found


def _parts(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, mask and values. A zero is recognised by its bits, as -0 is another number."""
    values = tensor.reshape(-1)
    keep = values.view(BITS[tensor.element_size()]) != 0
    mask = numpy.packbits(keep.cpu().numpy(), bitorder="little")
    return torch.tensor(tensor.shape, dtype=torch.int64), torch.from_numpy(mask), values[keep]


def with_unpacked(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a file by their own names, however they are stored.

    Raises
        CheckpointError  a part of a packed tensor is missing, or its parts do not fit each other.
    """
    found = dict(stored)
    for mask_key in [key for key in stored if key.endswith(".mask")]:
        key = mask_key.removesuffix(".mask")
        parts = []
        for name in PARTS:
            if f"{key}.{name}" not in found:
                raise CheckpointError(f"{key} is packed, but its part {key}.{name} is missing")
            if key in stored:
                raise CheckpointError(f"{key} is stored twice, packed and unpacked")
            parts.append(found.pop(f"{key}.{name}"))
        shape, mask, values = parts
        if shape.dtype != "int64" or len(shape.shape) != 1 or mask.dtype != "uint8":
            raise CheckpointError(f"{key} is packed, but its shape or mask has a wrong type")
        size = tuple(shape.read().tolist())
        if min(size, default=0) < 0 or mask.shape != (-(-math.prod(size) // 8),):
            raise CheckpointError(f"{key} is packed, but its mask does not fit its shape {size}")
        found[key] = Stored(size, values.dtype, partial(_unpacked, key, size, mask, values))
    return found


def _unpacked(key: str, size: tuple[int, ...], mask: Stored, values: Stored) -> Tensor:
    bits = numpy.unpackbits(mask.read().numpy(), bitorder="little").astype(bool)
    count, kept = math.prod(size), values.read()
    if bits[count:].any() or int(bits.sum()) != kept.numel() or kept.dim() != 1:
        raise CheckpointError(f"{key} is packed, but its mask does not fit its values")
    full = torch.zeros(count, dtype=kept.dtype)
    full[torch.from_numpy(bits[:count])] = kept
    return full.view(size)


def size_of(tensors: Mapping[str, Tensor]) -> Size:
    """The size of those tensors that packing makes smaller."""
    sizes = []
    for tensor in tensors.values():
        parts = dict(zip(PARTS, _parts(tensor), strict=True))
        packed, full, n = _bytes(parts), _bytes({"": tensor}), tensor.numel()
        zeros = n - len(parts["values"])
        least = (n - zeros) * tensor.element_size() + fewest_bits(n, zeros) / 8
        if packed < full:
            sizes.append(Size(n, zeros, full, packed, least))
    return Size(*(sum(column) for column in zip(*sizes, strict=True))) if sizes else Size(*[0] * 5)


def size_sentence(size: Size) -> str:
    """How many zeros there are, and the bytes of each form; empty for a dense model."""
    if not size.weights:
        return ""
    return (
        f"{size.zeros:,} of {size.weights:,} weights are 0; {size.full:,} bytes in full, "
        f"{size.packed:,} packed, {size.least:,.0f} at the least"
    )


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors.values())
