"""Ragged batches without padding: the tokens of all sentences as one run.

B rows · S places in a row · T tokens that are kept · n sentences of one group · R the longest
length in a group · Q = n R places of it. Linear maps, norms and GELU see tokens one by one, so for
them a batch is just T vectors. Only attention must know where a sentence ends. It works on groups
of sentences of similar length, each padded to the longest of its group; in a group of equal
lengths nothing is padded.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP_SPREAD = 2.0  # how much longer than its shortest sentence the longest of a group may be


class Group(NamedTuple):
    """Sentences that attention computes together: the tokens `start` to `end` of the run.

    `places_Q` is None if all have the same length. Otherwise it names a token for each of the Q
    places (at padding the sentence's last one), `tokens_t` names the place of each token, and
    `bias_n11R` hides the padding.
    """

    start: int
    end: int
    sentences: int
    length: int
    places_Q: Tensor | None = None
    tokens_t: Tensor | None = None
    bias_n11R: Tensor | None = None


class Packing(NamedTuple):
    """Where the tokens of a batch went. `places_T` is None if every place of [B, S] is a token."""

    shape: Sequence[int]
    places_T: Tensor | None
    groups: tuple[Group, ...]

    def row_T(self, device: torch.device) -> Tensor:
        """The row of the batch that each token came from."""
        rows, places = self.shape
        if self.places_T is None:
            return torch.arange(rows, device=device).repeat_interleave(places)
        return self.places_T // places

    def first_B(self, device: torch.device) -> Tensor:
        """Where in the run the first place of each row is; all rows must keep it."""
        rows, places = self.shape
        if self.places_T is None:
            return torch.arange(rows, device=device) * places
        first_B = (self.places_T % places == 0).nonzero()[:, 0]  # in the order of the run
        return torch.empty_like(first_B).scatter_(0, self.places_T[first_B] // places, first_B)


def packed(keep_BS: Tensor, dtype: torch.dtype = torch.float32) -> Packing:
    """Leave out what is not kept, and put sentences of similar length side by side.

    `dtype` is that of the scores, to which the bias is added.

    Raises
        ValueError  keep is not boolean.
    """
    if keep_BS.dtype != torch.bool:
        raise ValueError(f"packed: keep has dtype {keep_BS.dtype}, but must be torch.bool")
    rows, places = keep_BS.shape
    lengths_B = keep_BS.sum(1)
    lengths = lengths_B.tolist()
    if rows and all(length == places for length in lengths):
        return Packing((rows, places), None, (Group(0, rows * places, rows, places),))
    order_B = torch.argsort(lengths_B, stable=True)
    row_T, place_T = keep_BS[order_B].nonzero(as_tuple=True)
    places_T = order_B[row_T] * places + place_T
    groups, start = [], 0
    for cut in _similar(sorted(length for length in lengths if length)):
        groups.append(_group(start, cut, dtype, keep_BS.device))
        start += sum(cut)
    return Packing((rows, places), places_T, tuple(groups))


def unpacked(x_TD: Tensor, packing: Packing) -> Tensor:
    """[B, S, D] again; what was left out is 0."""
    rows, places = packing.shape
    if packing.places_T is not None:
        empty_XD = x_TD.new_zeros(rows * places, x_TD.shape[1])
        x_TD = empty_XD.index_copy(0, packing.places_T, x_TD)
    return x_TD.view(rows, places, x_TD.shape[1])


def _similar(lengths: list[int]) -> list[list[int]]:
    """Cut ascending lengths where they have grown by the spread."""
    cuts: list[list[int]] = []
    for length in lengths:
        if not cuts or length > cuts[-1][0] * GROUP_SPREAD:
            cuts.append([])
        cuts[-1].append(length)
    return cuts


def _group(start: int, lengths: list[int], dtype: torch.dtype, device: torch.device) -> Group:
    longest, end = lengths[-1], start + sum(lengths)
    if lengths[0] == longest:
        return Group(start, end, len(lengths), longest)
    lengths_n1 = torch.tensor(lengths, device=device)[:, None]
    place_R = torch.arange(longest, device=device)
    first_n1 = lengths_n1.cumsum(0) - lengths_n1
    kept_nR = place_R < lengths_n1
    places_nR = first_n1 + torch.minimum(place_R, lengths_n1 - 1)
    bias_nR = torch.where(kept_nR, 0.0, -math.inf).to(dtype)
    return Group(
        start,
        end,
        len(lengths),
        longest,
        places_Q=places_nR.reshape(-1),
        tokens_t=kept_nR.reshape(-1).nonzero()[:, 0],
        bias_n11R=bias_nR[:, None, None],
    )
