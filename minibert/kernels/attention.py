"""Attention on packed sentences, with a hand-written gradient.

T tokens of a batch · n sentences of a group, R tokens in each (R queries, R keys) · D width ·
N heads · K = D/N · X = n N: every head of every sentence is one small matrix problem.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minibert.functional import at_least_float32
from minibert.kernels.dropout import dropout, dropped, keep_mask
from minibert.kernels.packing import Group, Packing

CACHED_SCORES = 1_000_000  # scores computed at once: 4 MB in float32 stay in the cache
SCORES_ON_GPU = 100_000_000  # there, starting each piece costs more than the cache saves


def attention(
    qkv_T3D: Tensor,
    packing: Packing,
    n_heads: int,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The core of `minibert.attention.multi_head_attention`, without its four linear maps.

    Formula
        context = concat_n( dropout(softmax(Q_n K_nᵀ / √K + bias)) V_n )

    Shapes
        qkv_T3D       float [T, 3 D]  queries, keys and values of each token side by side
        n_heads       int  N, a divisor of D
        dropout_rate  float 0 <= rate < 1, of the probabilities
        return        float [T, D]
    """
    rate = 0.0 if generator is None else dropout_rate
    if not packing.groups:
        return qkv_T3D.chunk(3, -1)[0]  # no token at all
    if torch.is_grad_enabled() and qkv_T3D.requires_grad:
        context_TD: Tensor = _Attention.apply(qkv_T3D, packing, n_heads, rate, generator)
        return context_TD
    return _joined(
        [_context(qkv_T3D, group, n_heads, rate, generator) for group in packing.groups]
    )


def attention_of_first(
    qkv_T3D: Tensor,
    packing: Packing,
    n_heads: int,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`attention` in which only the first token of each row is a query.

    The softmax runs over the tokens of a row wherever they are in the run, so nothing is padded.

    Shapes
        qkv_T3D  float [T, 3 D]
        return   float [B, D]  in the order of the batch; computed in float32 at least
    """
    row_T = packing.row_T(qkv_T3D.device)
    query_TD, key_TD, value_TD = at_least_float32(qkv_T3D).chunk(3, -1)
    query_BD = query_TD.index_select(0, packing.first_B(qkv_T3D.device))
    shape_TNK = (len(row_T), n_heads, query_BD.shape[1] // n_heads)
    products_TNK = (query_BD.index_select(0, row_T) * key_TD).view(shape_TNK)
    scores_TN = products_TNK.sum(-1) / math.sqrt(products_TNK.shape[-1])
    row_TN = row_T[:, None].expand_as(scores_TN)
    least_BN = scores_TN.new_full((len(query_BD), n_heads), -math.inf)
    top_BN = least_BN.scatter_reduce(0, row_TN, scores_TN.detach(), "amax")
    weights_TN = torch.exp(scores_TN - top_BN.index_select(0, row_T))
    total_BN = torch.zeros_like(top_BN).index_add(0, row_T, weights_TN)
    probabilities_TN = weights_TN / total_BN.index_select(0, row_T)
    taken_TN = dropout(probabilities_TN, dropout_rate, generator)
    taken_TD = (taken_TN[:, :, None] * value_TD.view(shape_TNK)).flatten(1)
    context_BD = torch.zeros_like(query_BD).index_add(0, row_T, taken_TD)
    return context_BD.to(qkv_T3D.dtype)


class _Saved(NamedTuple):
    """What the gradient of one group needs: probabilities, and which of them were kept."""

    probabilities_XRR: Tensor
    keep_XRR: Tensor | None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv_T3D: Tensor,
        packing: Packing,
        n_heads: int,
        rate: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        saved: list[Tensor | None] = []
        contexts = []
        for group in packing.groups:
            context_tD, kept = _context_and_saved(qkv_T3D, group, n_heads, rate, generator)
            contexts.append(context_tD)
            saved.extend(kept)
        ctx.save_for_backward(qkv_T3D, *saved)
        ctx.packing, ctx.n_heads, ctx.rate = packing, n_heads, rate
        return _joined(contexts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dcontext_TD,) = upstream
        qkv_T3D, *saved = ctx.saved_tensors
        gradients = [
            _gradient(dcontext_TD, qkv_T3D, group, _Saved(*saved[2 * i : 2 * i + 2]), ctx)
            for i, group in enumerate(ctx.packing.groups)
        ]
        return _joined(gradients), None, None, None, None


def _joined(of_groups: list[Tensor]) -> Tensor:
    return of_groups[0] if len(of_groups) == 1 else torch.cat(of_groups)


def _heads(x_TC: Tensor, group: Group, parts: int, n_heads: int) -> Tensor:
    """[parts, X, R, K]: the tokens of a group as one matrix per head and sentence."""
    x_tC = x_TC[group.start : group.end]
    if group.places_Q is not None:
        x_tC = x_tC.index_select(0, group.places_Q)
    shape = (group.sentences, group.length, parts, n_heads, -1)
    # nRpNK -parts first, heads before places-> pnNRK
    x_pnNRK = x_tC.view(shape).permute(2, 0, 3, 1, 4)
    return x_pnNRK.reshape(parts, group.sentences * n_heads, group.length, -1)


def _tokens(x_pXRK: Tensor, group: Group) -> Tensor:
    """[t, C]: the inverse of `_heads`."""
    parts = x_pXRK.shape[0]
    shape = (parts, group.sentences, -1, group.length, x_pXRK.shape[-1])
    # pnNRK -places before parts and heads-> nRpNK
    x_nRpNK = x_pXRK.view(shape).permute(1, 3, 0, 2, 4)
    x_tC = x_nRpNK.reshape(group.sentences * group.length, -1)
    return x_tC if group.tokens_t is None else x_tC.index_select(0, group.tokens_t)


def _probabilities(query_XRK: Tensor, key_XRK: Tensor, bias_X1R: Tensor | None) -> Tensor:
    scale = 1 / math.sqrt(query_XRK.shape[-1])
    key_XKR = key_XRK.transpose(1, 2)
    if bias_X1R is None:
        empty = query_XRK.new_empty(1)
        scores_XRR = torch.baddbmm(empty, query_XRK, key_XKR, beta=0, alpha=scale)
    else:
        scores_XRR = torch.baddbmm(bias_X1R, query_XRK, key_XKR, alpha=scale)
    return torch.softmax(scores_XRR, -1, out=scores_XRR)


def _bias(group: Group, n_heads: int) -> Tensor | None:
    """[X, 1, R]: the bias of each sentence, once for each of its heads."""
    if group.bias_n11R is None:
        return None
    return group.bias_n11R.expand(-1, n_heads, -1, -1).reshape(-1, 1, group.length)


def _context(
    qkv_T3D: Tensor, group: Group, n_heads: int, rate: float, generator: torch.Generator | None
) -> Tensor:
    """[t, D] of one group, a few matrix problems at a time: their scores stay in the cache."""
    if rate:
        return _context_and_saved(qkv_T3D, group, n_heads, rate, generator)[0]
    query_XRK, key_XRK, value_XRK = _heads(qkv_T3D, group, 3, n_heads)
    bias_X1R = _bias(group, n_heads)
    most = CACHED_SCORES if qkv_T3D.is_cpu else SCORES_ON_GPU
    step = max(1, most // group.length**2)
    pieces = []
    for start in range(0, query_XRK.shape[0], step):
        part = slice(start, start + step)
        bias = None if bias_X1R is None else bias_X1R[part]
        probabilities = _probabilities(query_XRK[part], key_XRK[part], bias)
        pieces.append(torch.bmm(probabilities, value_XRK[part]))
    return _tokens(_joined(pieces)[None], group)


def _context_and_saved(
    qkv_T3D: Tensor, group: Group, n_heads: int, rate: float, generator: torch.Generator | None
) -> tuple[Tensor, _Saved]:
    """[t, D] of one group, and what its gradient needs."""
    query_XRK, key_XRK, value_XRK = _heads(qkv_T3D, group, 3, n_heads)
    probabilities_XRR = _probabilities(query_XRK, key_XRK, _bias(group, n_heads))
    keep_XRR = keep_mask(probabilities_XRR, rate, generator) if rate else None
    taken_XRR = dropped(probabilities_XRR, keep_XRR, rate)
    context_tD = _tokens(torch.bmm(taken_XRR, value_XRK)[None], group)
    return context_tD, _Saved(probabilities_XRR, keep_XRR)


def _gradient(
    dcontext_TD: Tensor, qkv_T3D: Tensor, group: Group, saved: _Saved, ctx: Any
) -> Tensor:
    """d qkv [t, 3 D] of one group, from the chain rule written out."""
    probabilities_XRR, keep_XRR = saved
    query_XRK, key_XRK, value_XRK = _heads(qkv_T3D, group, 3, ctx.n_heads)
    (dcontext_XRK,) = _heads(dcontext_TD, group, 1, ctx.n_heads)
    if group.places_Q is not None:
        # Padding repeats a token's gradient; nothing may flow through these copies.
        dcontext_XRK = _without_padding(dcontext_XRK, group, ctx.n_heads)
    taken_XRR = dropped(probabilities_XRR, keep_XRR, ctx.rate)
    dvalue_XRK = torch.bmm(taken_XRR.transpose(1, 2), dcontext_XRK)
    dtaken_XRR = torch.bmm(dcontext_XRK, value_XRK.transpose(1, 2))
    dprobabilities_XRR = dropped(dtaken_XRR, keep_XRR, ctx.rate)
    # softmax: ds_r = p_r (dp_r - Σ_j p_j dp_j)
    dscores_XRR = torch._softmax_backward_data(
        dprobabilities_XRR, probabilities_XRR, -1, probabilities_XRR.dtype
    )
    scale, empty = 1 / math.sqrt(query_XRK.shape[-1]), query_XRK.new_empty(1)
    dquery_XRK = torch.baddbmm(empty, dscores_XRR, key_XRK, beta=0, alpha=scale)
    dkey_XRK = torch.baddbmm(empty, dscores_XRR.transpose(1, 2), query_XRK, beta=0, alpha=scale)
    return _tokens(torch.stack((dquery_XRK, dkey_XRK, dvalue_XRK)), group)


def _without_padding(x_XRK: Tensor, group: Group, n_heads: int) -> Tensor:
    assert group.bias_n11R is not None
    padding_n1R1 = (group.bias_n11R != 0).transpose(2, 3)
    x_nNRK = x_XRK.view(group.sentences, n_heads, group.length, -1)
    return x_nNRK.masked_fill_(padding_n1R1, 0).view_as(x_XRK)
