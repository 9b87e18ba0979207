"""Matching: which parts of student and teacher are compared, with one loss for each.

B batch · S tokens · R = S · D the student's width · E the teacher's · N the student's heads ·
H the teacher's heads · A relation heads, whatever N and H are · C classes · M tokens compared.

Every loss is one number per sample, so L(s, t) = Σ_i L_i(s_i, t_i) is a plain sum, and splitting a
batch does not change it. All are computed in at least float32, and eps under Accuracy is of that
precision unless another is named. TinyBERT's three losses come in two modes:

masked    (default) means over real tokens only, so that padding changes nothing; the losses
          without a mode do the same.
tinybert  as the official code does: means over all positions, so padded tokens are compared too,
          except that scores of hidden keys, and any score <= -100, count as 0 on either side;
          the prediction loss is also divided by the number of classes.
"""

import math

import torch
from torch import Tensor

from minibert.attention import attention_scores, split_heads
from minibert.functional import at_least_float32, linear
from minibert.losses import kl_divergence, soft_cross_entropy
from minibert.parameters import LinearWeights


def grouped_heads(teacher_scores_BHSR: Tensor, n_heads: int) -> Tensor:
    """The teacher's scores for a student with fewer heads: each of its heads learns a group's mean.

    Formula
        target_n = mean of the teacher's heads n·H/N … (n+1)·H/N - 1

    Shapes
        teacher_scores_BHSR  float [B, H, S, R]
        n_heads              int N, a divisor of H
        return               float [B, N, S, R]

    Source
        Ours: TinyBERT pairs heads one to one and has no answer for other counts.

    Accuracy
        |error| <= (H/N + 1)/2 eps mean |score| and the smallest normal number, in the dtype given

    Raises
        ValueError  N does not divide H; the message names the counts that do.

    >>> grouped_heads(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), 1).item()
    2.0
    """
    batch, heads, queries, keys = teacher_scores_BHSR.shape
    if n_heads < 1 or heads % n_heads:
        legal = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(
            f"grouped_heads: {n_heads} student heads cannot share {heads} teacher heads evenly; "
            f"legal counts: {legal}"
        )
    grouped = teacher_scores_BHSR.view(batch, n_heads, heads // n_heads, queries, keys)
    return grouped.mean(2)


def _check_mode(mode: str) -> None:
    if mode not in ("masked", "tinybert"):
        raise ValueError(f"the distillation mode is {mode!r}, but must be masked or tinybert")


def hidden_loss(
    hidden_BSD: Tensor,
    teacher_hidden_BSE: Tensor,
    projection: LinearWeights | None,
    keep_BS: Tensor,
    mode: str = "masked",
) -> Tensor:
    """How far the student's state, mapped to the teacher's width, is from the teacher's.

    Formula
        masked    1/(n E) Σ_{s kept} ‖W h_s + b - t_s‖²,  n = number of kept tokens
        tinybert  1/(S E) Σ_s        ‖W h_s + b - t_s‖²
        W and b (`fit_dense`) are trained too, then thrown away. State 0 gives the embedding loss.

    Shapes
        hidden_BSD          float [B, S, D]
        teacher_hidden_BSE  float [B, S, E]  no gradient flows here
        projection          weight_OI [E, D], bias_O [E]; None where D = E and none is wanted
        keep_BS             bool [B, S]
        return              float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3.1 (hidden states based distillation).

    Differs
        the paper has one matrix for embeddings and one for layers; its code shares one, with bias.

    Accuracy
        |error| <= mean(2 |d| e + e²) + (3 + S E/2) L eps,  d = W h + b - t,
        e = (D + 1) eps (Σ |W| |h| + |b|), eps that of the projection's dtype; 0 without one

    Raises
        ValueError  the widths do not fit, or the mode is unknown.

    >>> x_BSD, keep_BS = torch.ones(1, 2, 3), torch.tensor([[True, False]])
    >>> hidden_loss(x_BSD, x_BSD * 3, None, keep_BS)
    tensor([4.])
    """
    _check_mode(mode)
    if mode == "masked":
        # padding becomes 0 before the map, so that not even a NaN in it reaches a gradient
        hidden_BSD = torch.where(keep_BS[:, :, None], hidden_BSD, 0)
    mapped_BSE = hidden_BSD if projection is None else linear(hidden_BSD, *projection)
    if mapped_BSE.shape != teacher_hidden_BSE.shape:
        raise ValueError(
            f"hidden_loss: the student's state {list(mapped_BSE.shape)} does not fit the "
            f"teacher's {list(teacher_hidden_BSE.shape)}; a projection maps D to E"
        )
    target_BSE = at_least_float32(teacher_hidden_BSE.detach())
    difference_BSE = at_least_float32(mapped_BSE) - target_BSE
    if mode == "tinybert":
        return (difference_BSE * difference_BSE).mean((1, 2))
    difference_BSE = torch.where(keep_BS[:, :, None], difference_BSE, 0)
    summed_B = (difference_BSE * difference_BSE).mean(2).sum(1)
    return summed_B / keep_BS.sum(1).clamp(min=1)


def attention_loss(
    scores_BNSR: Tensor, teacher_scores_BHSR: Tensor, keep_BS: Tensor, mode: str = "masked"
) -> Tensor:
    """How far the student's raw attention scores are from the teacher's.

    Formula
        masked    1/(N n²) Σ_h Σ_{s, r kept} (a_hsr - t_hsr)²,  n² = pairs of kept tokens
        tinybert  1/(N S R) Σ_h Σ_{s, r} (a' - t')²,  x' = 0 where r is hidden or x <= -100,
                  else x. Padded keys count in the mean, as 0; padded queries like real ones.

    Shapes
        scores_BNSR          float [B, N, S, R]  QKᵀ/√K before mask and softmax
        teacher_scores_BHSR  float [B, H, S, R]  no gradient flows here; H a multiple of N
        keep_BS              bool [B, S]
        return               float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, equation for L_attn: the scores, not the probabilities.

    Differs
        code that compares probabilities, or scores plus a -10000 mask, computes another loss.

    Accuracy
        |error| <= mean(2 |a - t| e + e²) + (3 + NSR/2) L eps, e of `grouped_heads`; tinybert: H = N

    Raises
        ValueError  N does not divide H, or the mode is unknown.

    >>> scores_BNSR, keep_BS = torch.zeros(1, 1, 2, 2), torch.tensor([[True, False]])
    >>> attention_loss(scores_BNSR, scores_BNSR + 2, keep_BS)
    tensor([4.])
    >>> attention_loss(scores_BNSR, scores_BNSR + 2, keep_BS, "tinybert")
    tensor([2.])
    """
    _check_mode(mode)
    scores_BNSR = at_least_float32(scores_BNSR)
    teacher_scores_BHSR = at_least_float32(teacher_scores_BHSR.detach())
    target_BNSR = grouped_heads(teacher_scores_BHSR, scores_BNSR.shape[1])
    if mode == "tinybert":
        hidden_B11R = ~keep_BS[:, None, None, :]
        scores_BNSR = torch.where(hidden_B11R | (scores_BNSR <= -100), 0, scores_BNSR)
        target_BNSR = torch.where(hidden_B11R | (target_BNSR <= -100), 0, target_BNSR)
        difference_BNSR = scores_BNSR - target_BNSR
        return (difference_BNSR * difference_BNSR).mean((1, 2, 3))
    pairs_B1SR = keep_BS[:, None, :, None] & keep_BS[:, None, None, :]
    difference_BNSR = torch.where(pairs_B1SR, scores_BNSR - target_BNSR, 0)
    summed_B = (difference_BNSR * difference_BNSR).mean(1).sum((1, 2))
    return summed_B / pairs_B1SR.sum((1, 2, 3)).clamp(min=1)


def relation_loss(
    left_BSD: Tensor,
    right_BSD: Tensor,
    teacher_left_BSE: Tensor,
    teacher_right_BSE: Tensor,
    keep_BS: Tensor,
    n_relation_heads: int,
) -> Tensor:
    """MiniLM: how tokens relate to one another; tables of tokens by tokens, whatever the widths.

    Formula
        p_asr = softmax_r(u_as · v_ar / √(E/A)), q_asr = softmax_r(x_as · y_ar / √(D/A)), r kept;
        x_a, y_a = slice a of A of left and right, u_a, v_a = those of the teacher
        1/(A n) Σ_a Σ_{s kept} Σ_r p_asr (log p_asr - log q_asr),  n = number of kept tokens

    Shapes
        left_BSD, right_BSD                  float [B, S, D]  queries, keys or values, all heads
        teacher_left_BSE, teacher_right_BSE  float [B, S, E]  no gradient flows here
        keep_BS                              bool [B, S]
        n_relation_heads                     int A, any divisor of D and E, whatever N and H are
        return                               float [B]

    Source
        Wang et al. 2020, arXiv:2002.10957 (QK and VV, A = heads); 2021, arXiv:2012.15828 (any A).

    Differs
        kl_div's "batchmean" would sum over heads and tokens, so long texts would weigh more.

    Accuracy
        |error| <= mean of (9 + R + A S/2 + z) eps Σ_r p (1 + |log p|) (1 + |log p| + |log q|),
        z = 2 (K + 1) max_r Σ |x| |y| / √K, K = D/A or E/A, whichever is more; for z eps < 1

    Raises
        ValueError  A does not divide both widths; the message names the counts that do.

    >>> x_BSD, keep_BS = torch.eye(2)[None], torch.tensor([[True, True]])
    >>> relation_loss(x_BSD, x_BSD, x_BSD * 3, x_BSD, keep_BS, 1)
    tensor([0.1362])
    """
    _check_relation_heads(n_relation_heads, left_BSD.shape[2], teacher_left_BSE.shape[2])
    student_BASR = _relations(left_BSD, right_BSD, keep_BS, n_relation_heads)
    teacher_BASR = _relations(teacher_left_BSE, teacher_right_BSE, keep_BS, n_relation_heads)
    batch, tokens = keep_BS.shape
    # BASR -one row for every query of every head-> MR
    cost_M = kl_divergence(teacher_BASR.view(-1, tokens), student_BASR.view(-1, tokens))
    # a padded query is 0 on both sides: its relations are the same, and cost nothing
    summed_B = cost_M.view(batch, -1).sum(1)
    return summed_B / (n_relation_heads * keep_BS.sum(1).clamp(min=1))


def _check_relation_heads(n_heads: int, width: int, teacher_width: int) -> None:
    common = math.gcd(width, teacher_width)
    if n_heads < 1 or common % n_heads:
        legal = [n for n in range(1, common + 1) if common % n == 0]
        raise ValueError(
            f"relation_loss: {n_heads} relation heads do not divide both widths, {width} and "
            f"{teacher_width}; legal counts: {legal}"
        )


def _relations(left_BSI: Tensor, right_BSI: Tensor, keep_BS: Tensor, n_heads: int) -> Tensor:
    """The scores of every relation head of one side, of width I; -inf where a key is hidden."""
    # a padded token becomes 0, so that not even a NaN in it reaches a gradient
    left_BASK, right_BARK = (
        split_heads(torch.where(keep_BS[:, :, None], at_least_float32(x), 0), n_heads)
        for x in (left_BSI, right_BSI)
    )
    return torch.where(
        keep_BS[:, None, None, :], attention_scores(left_BASK, right_BARK), -math.inf
    )


def cosine_loss(
    hidden_BSD: Tensor,
    teacher_hidden_BSE: Tensor,
    projection: LinearWeights | None,
    keep_BS: Tensor,
) -> Tensor:
    """How far the student's state points away from the teacher's, whatever their lengths.

    Formula
        1/n Σ_{s kept} (1 - cos(W h_s + b, t_s)),  n = number of kept tokens
        cos(x, y) = x · y / (‖x‖ ‖y‖); a vector of zeros is taken to have length 1, so it
        costs 1, and its gradient is -y/‖y‖.

    Shapes
        hidden_BSD          float [B, S, D]
        teacher_hidden_BSE  float [B, S, E]  no gradient flows here
        projection          weight_OI [E, D], bias_O [E]; None where D = E and none is wanted
        keep_BS             bool [B, S]
        return              float [B]        from 0 to 2

    Source
        Sanh et al. 2019, arXiv:1910.01108 (L_cos); its code takes the last states.

    Differs
        torch's CosineEmbeddingLoss adds 1e-12 to squared lengths: a slope of 1e6 at a state of 0.

    Accuracy
        |error| <= mean(2 ‖e‖ / ‖W h + b‖) + (5 + E + (1 + S/2) L) eps, with e of `hidden_loss`

    Raises
        ValueError  the widths do not fit.

    >>> x_BSD, keep_BS = torch.eye(2)[None], torch.tensor([[True, True]])
    >>> cosine_loss(x_BSD, torch.tensor([[[3.0, 0.0], [5.0, 0.0]]]), None, keep_BS)
    tensor([0.5000])
    """
    # padding becomes 0, so that not even a NaN in it reaches a gradient, and its cosine is 0
    hidden_BSD, teacher_hidden_BSE = (
        torch.where(keep_BS[:, :, None], x, 0) for x in (hidden_BSD, teacher_hidden_BSE)
    )
    own_BSE, other_BSE = _directions("cosine_loss", hidden_BSD, teacher_hidden_BSE, projection)
    cost_BS = keep_BS.to(own_BSE.dtype) - (own_BSE * other_BSE).sum(2)
    return cost_BS.sum(1) / keep_BS.sum(1).clamp(min=1)


def patient_loss(
    hidden_BSD: Tensor, teacher_hidden_BSE: Tensor, projection: LinearWeights | None
) -> Tensor:
    """How far apart the directions of student and teacher are at the first token, [CLS].

    Formula
        ‖x/‖x‖ - t/‖t‖‖²,  x = W h_0 + b and t of the first token
        = 2 (1 - cos(x, t)) where neither is 0; a vector of zeros is taken to have length 1

    Shapes
        hidden_BSD          float [B, S, D]
        teacher_hidden_BSE  float [B, S, E]  no gradient flows here
        projection          weight_OI [E, D], bias_O [E]; None where D = E and none is wanted
        return              float [B]        from 0 to 4

    Source
        Sun et al. 2019, arXiv:1908.09355 (L_PT), of every layer but the last.

    Differs
        the paper's code computes 1/E of it, in half precision, and has no projection, so D = E.

    Accuracy
        |error| <= 2 ‖d‖ δ + δ² + (2 + E/2) L eps,  d = x/‖x‖ - t/‖t‖,
        δ = 2 ‖e‖ / ‖x‖ + (5 + E/2) eps, with e of `hidden_loss`

    Raises
        ValueError  the widths do not fit.

    >>> x_BSD = torch.eye(2)[None]
    >>> patient_loss(x_BSD, torch.tensor([[[0.0, 3.0], [5.0, 0.0]]]), None)
    tensor([2.])
    """
    own_B1E, other_B1E = _directions(
        "patient_loss", hidden_BSD[:, :1], teacher_hidden_BSE[:, :1], projection
    )
    difference_B1E = own_B1E - other_B1E
    return (difference_B1E * difference_B1E).sum((1, 2))


def _directions(
    name: str,
    hidden_BMD: Tensor,
    teacher_hidden_BME: Tensor,
    projection: LinearWeights | None,
) -> tuple[Tensor, Tensor]:
    """Both sides at the teacher's width, with every vector scaled to length 1."""
    mapped_BME = hidden_BMD if projection is None else linear(hidden_BMD, *projection)
    if mapped_BME.shape != teacher_hidden_BME.shape:
        raise ValueError(
            f"{name}: the student's state {list(mapped_BME.shape)} does not fit the teacher's "
            f"{list(teacher_hidden_BME.shape)}; a projection maps D to E"
        )
    return _unit(mapped_BME), _unit(teacher_hidden_BME.detach())


def _unit(x_BME: Tensor) -> Tensor:
    """Every vector divided by its length; a vector of zeros is taken to have length 1.

    Any other vector is first divided by its largest magnitude, so no square overflows or vanishes.
    """
    wide_BME = at_least_float32(x_BME)
    top_BM1 = wide_BME.abs().amax(2, keepdim=True).detach()
    scaled_BME = wide_BME / torch.where(top_BM1 == 0, 1, top_BM1)
    # The largest square is 1, so only a vector of zeros has a sum below 1.
    square_BM1 = (scaled_BME * scaled_BME).sum(2, keepdim=True).clamp(min=1)
    return scaled_BME / torch.sqrt(square_BM1)


def prediction_loss(
    logits_BC: Tensor,
    teacher_logits_BC: Tensor,
    temperature: float = 1.0,
    mode: str = "masked",
    temperature_squared: bool = False,
) -> Tensor:
    """How far the student's answer is from the teacher's.

    Formula
        C > 1  masked    - Σ_c p_c log q_c         (soft cross-entropy at temperature T)
               tinybert  - 1/C Σ_c p_c log q_c     (the code's mean over classes)
        C = 1  (student - teacher)²                (regression: the teacher's output, not labels)
        C > 1 times T² where temperature_squared: see `losses.soft_cross_entropy`

    Shapes
        logits_BC          float [B, C]
        teacher_logits_BC  float [B, C]  no gradient flows here
        temperature        float > 0     T
        return             float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3.1; T²: Hinton et al. 2015, arXiv:1503.02531,
        section 2.

    Differs
        TinyBERT's code compares regression outputs with the labels, which its authors call a bug
        (Pretrained-Language-Model issue 128). It has no T²; DistilBERT's code has it.

    Accuracy
        |error| <= that of `soft_cross_entropy` (T² or 1/C of it), or 2 L eps where C = 1

    Raises
        ValueError  unknown mode, the shapes differ, or (C > 1) the temperature is not above 0.

    >>> prediction_loss(torch.zeros(1, 2), torch.zeros(1, 2), mode="tinybert")
    tensor([0.3466])
    """
    _check_mode(mode)
    if logits_BC.shape != teacher_logits_BC.shape:
        raise ValueError(
            f"prediction_loss: student {list(logits_BC.shape)} and teacher "
            f"{list(teacher_logits_BC.shape)} differ; both must have one output per class"
        )
    if logits_BC.shape[1] == 1:
        target_BC = at_least_float32(teacher_logits_BC.detach())
        difference_B = (at_least_float32(logits_BC) - target_BC)[:, 0]
        return difference_B * difference_B
    loss_B = soft_cross_entropy(teacher_logits_BC, logits_BC, temperature)
    if temperature_squared:
        loss_B = temperature * temperature * loss_B
    return loss_B / logits_BC.shape[1] if mode == "tinybert" else loss_B
