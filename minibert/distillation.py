"""TinyBERT: a small student learns to compute what a large teacher computes, layer by layer.

B batch · S tokens · R = S · D the student's width · E the teacher's · N the student's heads ·
H the teacher's heads · C classes · L the student's layers.

Every loss is one number per sample, so L(s, t) = Σ_i L_i(s_i, t_i) is a plain sum, and a batch may
be cut into parts without changing it. All are computed in float32 at least, and eps under Accuracy
is that precision's unless it says another. Two modes:

masked    (default) means over real tokens only: padding changes nothing.
tinybert  as the official code computes: means over all positions, so padded tokens are compared
          too. Only the scores of hidden keys, and any score <= -100, count as 0 on both sides;
          the prediction loss is divided by the number of classes as well.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minibert.encoder import EncoderTrace
from minibert.functional import at_least_float32, linear
from minibert.losses import soft_cross_entropy
from minibert.parameters import LinearWeights


def layer_map(
    student_layers: int, teacher_layers: int, rule: str | tuple[int, ...] = "uniform"
) -> tuple[int, ...]:
    """Which of the teacher's layers each of the student's layers learns from, counted from 1.

    Formula
        uniform  g(m) = ⌈m · teacher / student⌉
        top      g(m) = teacher - student + m
        bottom   g(m) = m
        or the tuple (g(1), …, g(student)) itself. g(0) = 0, the embeddings, always.

    Shapes
        student_layers, teacher_layers  int  L, and how many the teacher has
        rule                            a name, or the layers themselves
        return                          L integers, each from 1 to teacher_layers

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3 and table 4; ⌈·⌉ is ours, for layer counts
        that do not divide.

    Differs
        TinyBERT's code requires that they divide; its lists count attention layers from 0.

    Raises
        ValueError  no such rule, or a layer that the teacher does not have.

    >>> layer_map(4, 12), layer_map(4, 6), layer_map(4, 6, "top")
    ((3, 6, 9, 12), (2, 3, 5, 6), (3, 4, 5, 6))
    """
    steps = range(1, student_layers + 1)
    if not isinstance(rule, str):
        layers = tuple(rule)
    elif rule == "uniform":
        layers = tuple(-(-m * teacher_layers // student_layers) for m in steps)
    elif rule == "top":
        layers = tuple(teacher_layers - student_layers + m for m in steps)
    elif rule == "bottom":
        layers = tuple(steps)
    else:
        raise ValueError(f"layer_map: the rule is {rule!r}, but must be uniform, top or bottom")
    if len(layers) != student_layers or not all(1 <= g <= teacher_layers for g in layers):
        raise ValueError(
            f"layer_map: {layers} does not give each of {student_layers} student layers "
            f"one of the teacher's layers 1 to {teacher_layers}"
        )
    return layers


def grouped_heads(teacher_scores_BHSR: Tensor, n_heads: int) -> Tensor:
    """The teacher's scores for a student with fewer heads: each learns the mean of a group.

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
        The same function serves the embedding loss (state 0) and every layer's.

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
        ValueError  the widths do not fit, or no such mode.

    >>> x_BSD, keep_BS = torch.ones(1, 2, 3), torch.tensor([[True, False]])
    >>> hidden_loss(x_BSD, x_BSD * 3, None, keep_BS)
    tensor([4.])
    """
    _check_mode(mode)
    if mode == "masked":
        # hidden before it is mapped, so that not even a NaN in the padding reaches a gradient
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
        masked    1/(N n²) Σ_n Σ_{s, r kept} (a_nsr - t_nsr)²,  n² = pairs of kept tokens
        tinybert  1/(N S R) Σ_n Σ_{s, r} (a' - t')²,  x' = 0 where r is hidden or x <= -100,
                  else x. Padded keys count in the mean, as 0; padded queries like real ones.

    Shapes
        scores_BNSR          float [B, N, S, R]  QKᵀ/√K before mask and softmax
        teacher_scores_BHSR  float [B, H, S, R]  no gradient flows here; H a multiple of N
        keep_BS              bool [B, S]
        return               float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, equation for L_attn: the scores, not the probabilities.

    Differs
        code that compares probabilities, or scores with a -10000 mask in them, is another loss.

    Accuracy
        |error| <= mean(2 |a - t| e + e²) + (3 + NSR/2) L eps, e of `grouped_heads`; tinybert: H = N

    Raises
        ValueError  N does not divide H, or no such mode.

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


def prediction_loss(
    logits_BC: Tensor, teacher_logits_BC: Tensor, temperature: float = 1.0, mode: str = "masked"
) -> Tensor:
    """How far the student's answer is from the teacher's.

    Formula
        C > 1  masked    - Σ_c p_c log q_c         (soft cross-entropy at temperature T)
               tinybert  - 1/C Σ_c p_c log q_c     (the code's mean over classes)
        C = 1  (student - teacher)²                (regression: the teacher's output, not labels)

    Shapes
        logits_BC          float [B, C]
        teacher_logits_BC  float [B, C]  no gradient flows here
        temperature        float > 0
        return             float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3.1 (prediction layer distillation).

    Differs
        TinyBERT's code compares regression outputs with the labels, which its authors call a bug
        (Pretrained-Language-Model issue 128). No factor T².

    Accuracy
        |error| <= that of `soft_cross_entropy` (1/C of it in tinybert), or 2 L eps where C = 1

    Raises
        ValueError  no such mode, the shapes differ, or (C > 1) the temperature is not above 0.

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
    return loss_B / logits_BC.shape[1] if mode == "tinybert" else loss_B


class DistillationTerms(NamedTuple):
    """One number per sample for each term; a term that does not apply is None."""

    embedding_B: Tensor | None = None
    hidden_B: Tensor | None = None
    attention_B: Tensor | None = None
    prediction_B: Tensor | None = None


class TermWeights(NamedTuple):
    """How much each term counts in L_i; 0 switches it off. TinyBERT weighs all alike."""

    embedding: float = 1.0
    hidden: float = 1.0
    attention: float = 1.0
    prediction: float = 1.0


def intermediate_terms(
    student: EncoderTrace,
    teacher: EncoderTrace,
    keep_BS: Tensor,
    layers: tuple[int, ...],
    projection: LinearWeights | None,
    weights: TermWeights,
    mode: str = "masked",
) -> DistillationTerms:
    """TinyBERT's first stage: embeddings, hidden states and attention scores, no labels.

    Formula
        embedding  hidden_loss(student state 0, teacher state 0)
        hidden     Σ_m hidden_loss(student state m, teacher state g(m))
        attention  Σ_m attention_loss(student scores m, teacher scores g(m))
        A term of weight 0 is not computed.

    Shapes
        keep_BS     bool [B, S]
        layers      g(1) … g(L), from `layer_map`
        projection  one map D → E for all states, as TinyBERT's code has it; None where D = E
        return      DistillationTerms without a prediction

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3; general_distill.py of the official code.

    Accuracy
        |error| <= the sum of what the losses of the layers promise

    Raises
        ValueError  widths, heads, layers or mode do not fit.

    >>> x_BSD, keep_BS = torch.ones(1, 2, 3), torch.tensor([[True, True]])
    >>> student, teacher = EncoderTrace(x_BSD, ()), EncoderTrace(x_BSD * 3, ())
    >>> intermediate_terms(student, teacher, keep_BS, (), None, TermWeights(hidden=0, attention=0))
    DistillationTerms(embedding_B=tensor([4.]), hidden_B=None, attention_B=None, prediction_B=None)
    """
    layers = layer_map(len(student.blocks), len(teacher.blocks), layers)
    embedding_B = hidden_B = attention_B = None
    if weights.embedding:
        embedding_B = hidden_loss(
            student.embedded_BSD, teacher.embedded_BSD, projection, keep_BS, mode
        )
    pairs = [(student.blocks[m], teacher.blocks[g - 1]) for m, g in enumerate(layers)]
    if weights.hidden:
        losses_LB = [
            hidden_loss(own.hidden_BSD, other.hidden_BSD, projection, keep_BS, mode)
            for own, other in pairs
        ]
        hidden_B = torch.stack(losses_LB).sum(0)
    if weights.attention:
        losses_LB = [
            attention_loss(own.attention.scores_BNSR, other.attention.scores_BNSR, keep_BS, mode)
            for own, other in pairs
        ]
        attention_B = torch.stack(losses_LB).sum(0)
    return DistillationTerms(embedding_B, hidden_B, attention_B)


def distillation_loss(terms: DistillationTerms, weights: TermWeights) -> Tensor:
    """L_i(s_i, t_i), the weighted sum of the terms, for every sample i.

    Formula
        L_i = Σ_k weight_k · term_ki;  L(s, t) = Σ_i L_i is its `.sum()`

    Shapes
        terms   float [B] each, or None
        return  float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3 (the sum over layers with λ_m = 1).

    Accuracy
        |error| <= 3 eps Σ_k |weight_k| |term_ki|, and the smallest normal number

    Raises
        ValueError  there is no term at all.

    >>> distillation_loss(DistillationTerms(hidden_B=torch.tensor([1.0])), TermWeights(hidden=3))
    tensor([3.])
    """
    weighted = [
        weight * term_B
        for weight, term_B in zip(weights, terms, strict=True)
        if term_B is not None
    ]
    if not weighted:
        raise ValueError("distillation_loss: every term is switched off; give one a weight above 0")
    return torch.stack(weighted).sum(0)
