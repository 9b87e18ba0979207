"""Attention: every token asks every other token, and takes a weighted mean of the answers.

B batch · S asking tokens (queries) · R tokens asked (keys) · D width · N heads · K = D/N, the
width of a head; Q_n, K_n and V_n in formulas are the queries, keys and values of head n.
One implementation serves self-attention (R = S), cross-attention (keys and values from another
sequence) and, through the mask bias, padding and causal order.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.functional import dropout, linear, softmax
from minibert.parameters import AttentionWeights


class AttentionTrace(NamedTuple):
    """Everything that one attention layer computed, for inspection and for distillation."""

    query_BNSK: Tensor
    key_BNRK: Tensor
    value_BNRK: Tensor
    scores_BNSR: Tensor
    probabilities_BNSR: Tensor
    output_BSD: Tensor


def split_heads(x_BSD: Tensor, n_heads: int) -> Tensor:
    """Cut every vector into N heads; head n is the slice [n K, (n + 1) K).

    Shapes
        x_BSD    float [B, S, D]
        n_heads  int  N, a divisor of D
        return   float [B, N, S, K]  K = D / N

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.

    Raises
        ValueError  D does not divide into N heads.

    >>> split_heads(torch.arange(4.0).view(1, 1, 4), 2)[0, 1]
    tensor([[2., 3.]])
    """
    batch, tokens, width = x_BSD.shape
    if n_heads < 1 or width % n_heads:
        raise ValueError(f"split_heads: width {width} does not divide into {n_heads} heads")
    # BSD -split-> BSNK -heads first-> BNSK
    return x_BSD.view(batch, tokens, n_heads, width // n_heads).transpose(1, 2)


def merge_heads(x_BNSK: Tensor) -> Tensor:
    """Lay the heads side by side again; the inverse of `split_heads`.

    Shapes
        x_BNSK  float [B, N, S, K]
        return  float [B, S, D]  D = N K

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2 (Concat).

    >>> x_BSD = torch.arange(12.0).view(1, 3, 4)
    >>> bool((merge_heads(split_heads(x_BSD, 2)) == x_BSD).all())
    True
    """
    batch, heads, tokens, width = x_BNSK.shape
    # BNSK -tokens first-> BSNK -join-> BSD
    return x_BNSK.transpose(1, 2).reshape(batch, tokens, heads * width)


def padding_bias(keep_BR: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The additive mask that hides padding: 0 where a token is kept, -inf where not.

    Formula
        bias_r = 0 if keep_r else -inf;  after softmax a hidden key has probability exactly 0

    Shapes
        keep_BR  bool [B, R]  True for a real token
        return   float [B, 1, 1, R]  the same for all heads and all queries

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3 (masking with -∞).

    Differs
        google-research/bert adds -10000: beside visible scores of -10000 a hidden key still gets
        weight, and a fully hidden row spreads over its padding.

    Raises
        ValueError  keep is not boolean: an additive mask taken for a boolean one hides nothing.

    >>> padding_bias(torch.tensor([[True, False]]))
    tensor([[[[0., -inf]]]])
    """
    if keep_BR.dtype != torch.bool:
        raise ValueError(f"padding_bias: keep has dtype {keep_BR.dtype}, but must be torch.bool")
    bias_BR = torch.where(keep_BR, 0.0, -math.inf).to(dtype)
    return bias_BR[:, None, None, :]


def causal_bias(
    n_queries: int,
    n_keys: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """The additive mask that hides the future: query s sees keys 0 to s + (R - S).

    Formula
        bias_sr = 0 if r <= s + R - S else -inf
        With R > S the queries are the last S of R tokens, as in step-by-step generation.

    Shapes
        n_queries, n_keys  int  S, R
        return             float [1, 1, S, R]

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.

    >>> causal_bias(2, 3)
    tensor([[[[0., 0., -inf],
              [0., 0., 0.]]]])
    """
    query_S1 = torch.arange(n_queries, device=device)[:, None]
    key_1R = torch.arange(n_keys, device=device)[None, :]
    sees_SR = key_1R <= query_S1 + (n_keys - n_queries)
    bias_SR = torch.where(sees_SR, 0.0, -math.inf).to(dtype)
    return bias_SR[None, None]


def attention_scores(query_BNSK: Tensor, key_BNRK: Tensor) -> Tensor:
    """How well each query fits each key, before any mask.

    Formula
        score_sr = q_s · k_r / √K
        A dot product of K independent terms of variance 1 has variance K; divided by √K it has 1
        again, so that softmax does not pick the largest score alone (K = 768/12 = 64 in BERT-base).

    Shapes
        query_BNSK  float [B, N, S, K]
        key_BNRK    float [B, N, R, K]
        return      float [B, N, S, R]

    Source
        Vaswani et al. 2017, arXiv:1706.03762, equation 1.

    Differs
        `output_attentions` of `transformers` returns probabilities; TinyBERT compares scores.

    Accuracy
        |error| <= (K + 1)/2 eps Σ |q| |k| / √K, eps that of the dtype

    >>> attention_scores(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4)).item()
    2.0
    """
    # BNRK -transpose-> BNKR
    return query_BNSK @ key_BNRK.transpose(2, 3) / math.sqrt(query_BNSK.shape[-1])


def attention_probabilities(scores_BNSR: Tensor, mask_bias_BNSR: Tensor) -> Tensor:
    """How much each query takes from each key.

    Formula
        p_s = softmax(score_s + bias_s) over the keys r

    Shapes
        scores_BNSR     float [B, N, S, R]
        mask_bias_BNSR  float broadcast to [B, N, S, R]; 0 or -inf
        return          float [B, N, S, R]  rows sum to 1; a row with no key to see is all 0.
                        Its dtype is that of scores + mask, the one that both promote to.

    Source
        Vaswani et al. 2017, arXiv:1706.03762, equation 1.

    Differs
        elsewhere a fully hidden row is NaN (with -inf) or the softmax of its padding (with -10000).

    Accuracy
        |error| <= (4 + R/2 + max(score) - score) eps p over what is seen, eps that of float32 at
        most, and one rounding to the dtype; what is hidden is exactly 0

    >>> bias = padding_bias(torch.tensor([[True, False]]))
    >>> attention_probabilities(torch.zeros(1, 1, 1, 2), bias)
    tensor([[[[1., 0.]]]])
    """
    return softmax(scores_BNSR + mask_bias_BNSR)


def keys_and_values(
    memory_BRD: Tensor, weights: AttentionWeights, n_heads: int
) -> tuple[Tensor, Tensor]:
    """The keys and values of a memory: computed once, they can be kept and queried again.

    Formula
        K = W_k memory, V = W_v memory, cut into heads
        Row r comes from token r alone, so a longer memory has the old rows, then the new ones, up
        to rounding: a matrix product may add in an order that depends on the matrices' sizes.

    Shapes
        memory_BRD  float [B, R, D]
        n_heads     int  N, a divisor of the width of either map
        return      float [B, N, R, K], float [B, N, R, K]  keys, then values

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; kept from step to step: Shazeer 2019,
        arXiv:1911.02150, section 2.4.

    Accuracy
        |error| <= (D + 1) eps (Σ |w| |memory| + |b|), that of `linear`

    Raises
        ValueError  a width does not divide into N heads.

    >>> from minibert.parameters import LinearWeights
    >>> one = LinearWeights(torch.eye(2), torch.zeros(2))
    >>> weights = AttentionWeights(one, one, one._replace(bias_O=torch.ones(2)), one)
    >>> keys_and_values(torch.tensor([[[1.0, 2.0]]]), weights, 1)
    (tensor([[[[1., 2.]]]]), tensor([[[[2., 3.]]]]))
    """
    key_BNRK = split_heads(linear(memory_BRD, *weights.key), n_heads)
    value_BNRK = split_heads(linear(memory_BRD, *weights.value), n_heads)
    return key_BNRK, value_BNRK


def attend(
    hidden_BSD: Tensor,
    key_BNRK: Tensor,
    value_BNRK: Tensor,
    mask_bias_BNSR: Tensor,
    weights: AttentionWeights,
    n_heads: int,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> AttentionTrace:
    """Attend to keys and values that `keys_and_values` has already computed.

    Formula
        output = W_o concat_n( dropout(softmax(Q_n K_nᵀ / √K + bias)) V_n ),  Q = W_q hidden
        A decoder appends the keys and values of its newest word, then uses that word as the query.

    Shapes
        hidden_BSD      float [B, S, D]  who asks
        key_BNRK        float [B, N, R, K]
        value_BNRK      float [B, N, R, K]
        mask_bias_BNSR  float broadcast to [B, N, S, R]; for the last words `causal_bias(S, R)`
        n_heads         int  N, that of the keys; N K need not be D
        dropout_rate    float 0 <= rate < 1, of the probabilities
        return          AttentionTrace; `scores` before the mask, `probabilities` before dropout

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.

    Accuracy
        |error| <= that of `multi_head_attention`, its keys and values being exact

    Raises
        ValueError  the queries do not divide into N heads, or keys or values do not have N heads.

    >>> from minibert.parameters import LinearWeights
    >>> one, bias = LinearWeights(torch.eye(1), torch.zeros(1)), torch.zeros(1, 1, 1, 2)
    >>> x_B1D, kept = torch.ones(1, 1, 1), torch.tensor([[[[3.0], [3.0]]]])
    >>> attend(x_B1D, kept, kept, bias, AttentionWeights(one, one, one, one), 1).output_BSD.item()
    3.0
    """
    if not key_BNRK.shape[1] == value_BNRK.shape[1] == n_heads:
        raise ValueError(
            f"attend: {key_BNRK.shape[1]} heads of keys and {value_BNRK.shape[1]} of values, "
            f"but {n_heads} of queries"
        )
    query_BNSK = split_heads(linear(hidden_BSD, *weights.query), n_heads)
    scores_BNSR = attention_scores(query_BNSK, key_BNRK)
    probabilities_BNSR = attention_probabilities(scores_BNSR, mask_bias_BNSR)
    taken_BNSK = dropout(probabilities_BNSR, dropout_rate, generator) @ value_BNRK
    output_BSD = linear(merge_heads(taken_BNSK), *weights.output)
    return AttentionTrace(
        query_BNSK, key_BNRK, value_BNRK, scores_BNSR, probabilities_BNSR, output_BSD
    )


def multi_head_attention(
    hidden_BSD: Tensor,
    memory_BRD: Tensor,
    mask_bias_BNSR: Tensor,
    weights: AttentionWeights,
    n_heads: int,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> AttentionTrace:
    """N attentions side by side, each on its own slice of three linear maps.

    Formula
        Q = W_q hidden, K = W_k memory, V = W_v memory, cut into heads
        output = W_o concat_n( dropout(softmax(Q_n K_nᵀ / √K + bias)) V_n )

    Shapes
        hidden_BSD      float [B, S, D]  who asks
        memory_BRD      float [B, R, D]  who is asked; hidden itself in self-attention
        mask_bias_BNSR  float broadcast to [B, N, S, R]; 0 or -inf
        n_heads         int  N, a divisor of the maps' outputs (D, or less where heads are pruned)
        dropout_rate    float 0 <= rate < 1, of the probabilities
        return          AttentionTrace; `scores` before the mask, `probabilities` before dropout

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; dropout on the probabilities as in
        google-research/bert, modeling.py.

    Accuracy
        |error| <= the roundings of each step, enlarged by the steps after it (laws/rounding.py);
        an error of a score, eps Σ |q| |k| / √K, is a relative one of its probability

    Raises
        ValueError  the outputs of a map do not divide into N heads.

    >>> from minibert.parameters import LinearWeights
    >>> one = LinearWeights(torch.eye(2), torch.zeros(2))
    >>> x_BSD, bias = torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 1, 1, 1)
    >>> multi_head_attention(x_BSD, x_BSD, bias, AttentionWeights(one, one, one, one), 2).output_BSD
    tensor([[[1., 2.]]])
    """
    key_BNRK, value_BNRK = keys_and_values(memory_BRD, weights, n_heads)
    return attend(
        hidden_BSD, key_BNRK, value_BNRK, mask_bias_BNSR, weights, n_heads, dropout_rate, generator
    )
