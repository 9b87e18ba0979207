"""Sparsity: weights that are exactly 0, and heads and units that are removed altogether.

Two things decide which weights are pruned: a score for each (its size, or what training does to
it) and a pattern (anywhere, equally many in every row, or n of every m). A penalty alone, λ‖θ‖² of
`losses`, makes weights small but none 0.
P weights, of any shape · O, I the sides of a linear map · G groups of inputs · A kept heads ·
U kept units · N heads · K width of a head.
"""

import math

import torch
from torch import Tensor

from minibert.functional import at_least_float32
from minibert.parameters import AttentionWeights, BlockWeights, LinearWeights


def cubic_sparsity(step: int, begin: int, end: int, final: float, initial: float = 0.0) -> float:
    """The share of weights to be 0 by now: it rises fast, then more slowly, so the rest can adapt.

    Formula
        s = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))³ for t_0 < t < t_1
        s_i up to t_0, s_f from t_1 on

    Shapes
        step            int >= 0  t
        begin, end      int  t_0 <= t_1
        final, initial  float from 0 to 1, s_f and s_i
        return          float

    Source
        Zhu and Gupta 2017, arXiv:1710.01878, equation 1.

    Accuracy
        |error| <= eps (s/2 + 7/2 |s_f - s|), eps that of a Python float; none at either end

    Raises
        ValueError  step < 0, end < begin, or a sparsity is not from 0 to 1.

    >>> [round(cubic_sparsity(step, 0, 4, 0.8), 4) for step in (0, 1, 2, 4, 9)]
    [0.0, 0.4625, 0.7, 0.8, 0.8]
    """
    if step < 0 or end < begin or not (0 <= initial <= 1 and 0 <= final <= 1):
        raise ValueError(
            f"cubic_sparsity: step {step} of {begin} to {end}, from {initial} to {final}; needs "
            "step >= 0, begin <= end, and sparsities from 0 to 1"
        )
    if step >= end:
        return final
    if step <= begin:
        return initial
    left = (end - step) / (end - begin)
    return final + (initial - final) * left**3


def keep_largest(score_P: Tensor, sparsity: float) -> Tensor:
    """Keep the weights with the largest scores; the number pruned is exact, even with ties.

    Formula
        keep_i = rank_i >= round(s n) for n weights, ranked from 0 by rising score; of equal scores
        the first has the lowest rank, and NaN ranks above all. Halves are rounded to even.
        With score |w| it is magnitude pruning.

    Shapes
        score_P   float [...]
        sparsity  float from 0 to 1, s
        return    bool [...]  True where a weight is kept

    Source
        Han et al. 2015, arXiv:1506.02626 (magnitude); Zhu and Gupta 2017, arXiv:1710.01878.

    Differs
        programs that use a threshold prune or keep all equal scores together.

    Raises
        ValueError  the sparsity is not from 0 to 1.

    >>> keep_largest(torch.tensor([[0.1, -3.0], [2.0, 0.1]]).abs(), 0.5)
    tensor([[False,  True],
            [ True, False]])
    """
    return keep_largest_of_rows(score_P.reshape(-1)[None], sparsity).reshape(score_P.shape)


def keep_largest_of_rows(score_OI: Tensor, sparsity: float) -> Tensor:
    """`keep_largest` within each row, so that every output keeps the same number of inputs.

    Formula
        keep_oi = rank_oi >= round(s I), ranked within row o as `keep_largest` ranks

    Shapes
        score_OI  float [..., I]
        sparsity  float from 0 to 1, s
        return    bool [..., I]

    Source
        Zhu and Gupta 2017, arXiv:1710.01878, section 3; by rows, as hardware that gives every
        output the same work needs it.

    Raises
        ValueError  the sparsity is not from 0 to 1.

    >>> keep_largest_of_rows(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), 0.5)
    tensor([[False,  True],
            [ True, False]])
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"keep_largest: the sparsity is {sparsity}, but must be from 0 to 1")
    # along the last axis: the input of each rank 0, 1, …; its inverse is the rank of each input
    ranks_OI = score_OI.argsort(stable=True).argsort()
    return ranks_OI >= round(sparsity * score_OI.shape[-1])


def keep_n_of_m(score_OI: Tensor, n: int, m: int) -> Tensor:
    """Keep the n largest of every m neighbours in a row; 2 of 4 is the pattern that GPUs speed up.

    Formula
        keep_oi = rank_oi >= m - n, ranked within the m inputs i // m as `keep_largest` ranks

    Shapes
        score_OI  float [..., I]
        n, m      int  0 <= n <= m, m >= 1, and m divides I
        return    bool [..., I]  True for n of the inputs g m to g m + m - 1, for every g

    Source
        Mishra et al. 2021, arXiv:2104.08378, section 3.

    Raises
        ValueError  m does not divide I, or n is not from 0 to m.

    >>> keep_n_of_m(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 2, 4)
    tensor([[ True, False,  True, False]])
    """
    width = score_OI.shape[-1]
    if not 0 <= n <= m or m < 1 or width % m:
        raise ValueError(f"keep_n_of_m: {n} of every {m} in rows of {width} cannot be kept")
    return keep_largest_of_rows(score_OI.reshape(-1, m), (m - n) / m).reshape(score_OI.shape)


def soft_threshold(weight_P: Tensor, threshold: float) -> Tensor:
    """Move every weight towards 0 by the same amount, and stop there: the step of an L1 penalty.

    Formula
        w = sign(w) max(|w| - t, 0) = w - min(max(w, -t), t)
        It is the w' with the smallest t |w'| + (w' - w)² / 2. Used with t = η λ after each step of
        size η, it reduces loss + λ |θ|₁, and many weights become exactly 0, not only small.

    Shapes
        weight_P   float [...]
        threshold  float >= 0, t
        return     float [...]

    Source
        Tibshirani 1996; Parikh and Boyd 2014, Proximal algorithms, section 6.5.2.

    Accuracy
        |error| <= eps/2 (|w'| + t), as t is rounded to the dtype too; 0 where |w| <= t

    Raises
        ValueError  the threshold is negative.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    if not threshold >= 0:
        raise ValueError(f"soft_threshold: the threshold is {threshold}, but must be at least 0")
    return weight_P - weight_P.clamp(min=-threshold, max=threshold)


def movement_scores(
    score_P: Tensor, weight_P: Tensor, gradient_P: Tensor, learning_rate: float
) -> Tensor:
    """Weights that training moves away from 0 gain score, those that it moves towards 0 lose score.

    Formula
        S = S - η w ⊙ ∂L/∂w',  w' = w ⊙ keep(S)
        This takes the gradient of S as if the choice keep(S) were S itself (straight-through), so
        a weight that is pruned now can come back.

    Shapes
        score_P        float [...]  S, 0 at first
        weight_P       float [...]  w, also where it is left out
        gradient_P     float [...]  ∂L/∂w', of the weights that were used
        learning_rate  float  η
        return         float [...]

    Source
        Sanh et al. 2020, arXiv:2005.07683, equation 3.

    Accuracy
        |error| <= eps (|S'|/2 + 2 |η w g|), with the new score S' and g = ∂L/∂w'

    >>> movement_scores(torch.zeros(2), torch.tensor([2.0, 2.0]), torch.tensor([-1.0, 1.0]), 0.5)
    tensor([ 1., -1.])
    """
    return score_P - learning_rate * weight_P * gradient_P


def gate_gradients(weight_OI: Tensor, gradient_OI: Tensor, n_groups: int) -> Tensor:
    """The gradient of the loss for a gate on each head or unit, from the map that takes it in.

    Formula
        ∂L/∂ξ_g = Σ_o Σ_{i of g} W_oi ∂L/∂W_oi at ξ = 1
        for y = Σ_g ξ_g W_g x_g + b, a gate ξ_g in front of each group. |∂L/∂ξ_g|, averaged over
        batches, says how much is lost without the group. For heads, W is attention's output map
        and n_groups is N; for feed-forward units, W is the second map and n_groups is F.

    Shapes
        weight_OI    float [O, I]
        gradient_OI  float [O, I]
        n_groups     int  G, a divisor of I; group g is the inputs [g I/G, (g + 1) I/G)
        return       float [G]  in float32 at least

    Source
        Michel et al. 2019, arXiv:1905.10650, equation 2, where |·| is taken of each sentence.

    Accuracy
        |error| <= (O I / G + 1)/2 eps Σ |W ∂L/∂W| over the group, eps that of float32 at most

    Raises
        ValueError  the inputs do not divide into n_groups groups.

    >>> gate_gradients(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), 2)
    tensor([ 3., -2.])
    """
    width = weight_OI.shape[1]
    if n_groups < 1 or width % n_groups:
        raise ValueError(f"gate_gradients: {width} inputs do not divide into {n_groups} groups")
    product_OI = at_least_float32(weight_OI) * at_least_float32(gradient_OI)
    return product_OI.sum(0).reshape(n_groups, width // n_groups).sum(1)


def keep_heads(weights: AttentionWeights, heads_A: Tensor, n_heads: int) -> AttentionWeights:
    """Attention with only some of its heads, the same as if the contexts of the others were 0.

    Formula
        rows of W_q, W_k, W_v and columns of W_o: those n K + k for the heads n that are kept
        Σ_n W_o[:, n] context_n loses the terms of the other heads, and nothing else changes.

    Shapes
        weights  AttentionWeights  maps D → N K, and N K → D
        heads_A  int64 [A]  which heads are kept, in their new order
        n_heads  int  N, before
        return   AttentionWeights  maps D → A K, and A K → D; `multi_head_attention` takes A heads

    Source
        Michel et al. 2019, arXiv:1905.10650, section 2.3.

    Raises
        ValueError  the maps do not divide into N heads.

    >>> two = LinearWeights(torch.eye(2), torch.zeros(2))
    >>> keep_heads(AttentionWeights(two, two, two, two), torch.tensor([1]), 2).query.weight_OI
    tensor([[0., 1.]])
    """
    width = weights.output.weight_OI.shape[1]
    if n_heads < 1 or width % n_heads:
        raise ValueError(f"keep_heads: width {width} does not divide into {n_heads} heads")
    size = width // n_heads
    kept = torch.stack([heads_A * size + k for k in range(size)], 1).reshape(-1)
    query, key, value = (
        LinearWeights(part.weight_OI.index_select(0, kept), part.bias_O.index_select(0, kept))
        for part in weights[:3]
    )
    output = LinearWeights(weights.output.weight_OI.index_select(1, kept), weights.output.bias_O)
    return AttentionWeights(query, key, value, output)


def keep_units(weights: BlockWeights, units_U: Tensor) -> BlockWeights:
    """A block whose feed-forward has only some of its units, the same as if the others added 0.

    Formula
        rows of W_1, b_1 and columns of W_2: those of the units that are kept

    Shapes
        weights  BlockWeights  feed-forward maps D → F → D
        units_U  int64 [U]  which are kept, in their new order
        return   BlockWeights  feed-forward maps D → U → D, the rest as it was

    Source
        Michel et al. 2019, arXiv:1905.10650, section 2.3, there for heads.

    >>> from minibert.config import BertConfig
    >>> from minibert.parameters import weight_shapes
    >>> block = weight_shapes(BertConfig(hidden_size=12, intermediate_size=7)).blocks[0]
    >>> keep_units(block, torch.arange(3, device="meta")).output.weight_OI.shape
    torch.Size([12, 3])
    """
    first, second = weights.intermediate, weights.output
    return weights._replace(
        intermediate=LinearWeights(
            first.weight_OI.index_select(0, units_U), first.bias_O.index_select(0, units_U)
        ),
        output=second._replace(weight_OI=second.weight_OI.index_select(1, units_U)),
    )


def fewest_bits(n_weights: int, n_zeros: int) -> float:
    """The fewest bits, on average, that tell which weights are 0 if only their share is known.

    Formula
        n H(z/n),  H(s) = -s log₂ s - (1 - s) log₂(1 - s); one bit a weight is as good only at 1/2

    Shapes
        n_weights  int >= 0  n
        n_zeros    int  0 <= z <= n
        return     float

    Source
        Shannon 1948, A mathematical theory of communication, section 6.

    Accuracy
        |error| <= eps (n + 2 bits), eps that of a Python float

    Raises
        ValueError  there are more zeros than weights, or n_zeros is negative.

    >>> fewest_bits(8, 4), round(fewest_bits(100, 90), 2)
    (8.0, 46.9)
    """
    if not 0 <= n_zeros <= n_weights:
        raise ValueError(f"fewest_bits: {n_zeros} zeros among {n_weights} weights")
    parts = (n_zeros, n_weights - n_zeros)
    return math.fsum(part * math.log2(n_weights / part) for part in parts if part)
