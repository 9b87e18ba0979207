"""Distillation: a small student learns to compute what a large teacher computes, layer by layer.

B batch · S tokens · D the student's width · E the teacher's · N the student's heads · H the
teacher's · C classes · L the student's layers.

`matching` holds the losses; here is which layer learns from which, and how much each term counts.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import AttentionTrace, merge_heads
from minibert.encoder import BlockTrace, EncoderTrace
from minibert.functional import at_least_float32, log_softmax
from minibert.matching import (
    attention_loss,
    cosine_loss,
    hidden_loss,
    patient_loss,
    prediction_loss,
    relation_loss,
)
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
        TinyBERT's code requires counts that divide; its lists count attention layers from 0.

    Raises
        ValueError  the rule is unknown, or gives a layer that the teacher does not have.

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


class DistillationTerms(NamedTuple):
    """One number per sample for each term; a term that does not apply is None."""

    embedding_B: Tensor | None = None
    hidden_B: Tensor | None = None
    attention_B: Tensor | None = None
    cosine_B: Tensor | None = None
    patient_B: Tensor | None = None
    minilm_v1_B: Tensor | None = None
    minilm_v2_B: Tensor | None = None
    prediction_B: Tensor | None = None
    label_B: Tensor | None = None


class TermWeights(NamedTuple):
    """How much each term counts in L_i; 0 switches it off. By default TinyBERT's terms, equally."""

    embedding: float = 1.0
    hidden: float = 1.0
    attention: float = 1.0
    cosine: float = 0.0
    patient: float = 0.0
    minilm_v1: float = 0.0
    minilm_v2: float = 0.0
    prediction: float = 1.0
    label: float = 0.0


def intermediate_terms(
    student: EncoderTrace,
    teacher: EncoderTrace,
    keep_BS: Tensor,
    layers: tuple[int, ...],
    projection: LinearWeights | None,
    weights: TermWeights,
    mode: str = "masked",
    relation_heads: int | None = None,
) -> DistillationTerms:
    """What is compared inside the two encoders: the first stage, without labels or predictions.

    Formula
        embedding  hidden_loss(state 0, teacher state 0); `mode` applies to this and the next two
        hidden     Σ_m hidden_loss(state m, teacher state g(m)), m = 1 … L
        attention  Σ_m attention_loss(scores m, teacher scores g(m))
        cosine     cosine_loss(state L, teacher state g(L))
        patient    Σ_m patient_loss(state m, teacher state g(m)), m = 1 … L - 1
        minilm_v1  relation_loss(Q, K) + relation_loss(V, V), of layers L and g(L), A = N = H
        minilm_v2  relation_loss(Q, Q) + relation_loss(K, K) + relation_loss(V, V), of the same

    Shapes
        keep_BS         bool [B, S]
        layers          g(1) … g(L), from `layer_map`
        projection      one map D → E for all states, as TinyBERT's code has it; None where D = E
        relation_heads  int A of minilm_v2; by default the greatest that divides both N and H
        return          DistillationTerms; None where the weight is 0, prediction and label

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3, and those that the losses name.

    Accuracy
        |error| <= the sum of what the losses of the layers promise

    Raises
        ValueError  widths, heads, layers or mode do not fit.

    >>> own, other = EncoderTrace(torch.zeros(1, 2, 3), ()), EncoderTrace(torch.ones(1, 2, 3), ())
    >>> intermediate_terms(own, other, torch.ones(1, 2) > 0, (), None, TermWeights(1, 0, 0))[0]
    tensor([1.])
    """
    layers = layer_map(len(student.blocks), len(teacher.blocks), layers)
    pairs = [(student.blocks[m], teacher.blocks[g - 1]) for m, g in enumerate(layers)]
    states = [(own.hidden_BSD, other.hidden_BSD) for own, other in pairs]
    terms = {}
    if weights.embedding:
        embedded = student.embedded_BSD, teacher.embedded_BSD
        terms["embedding_B"] = hidden_loss(*embedded, projection, keep_BS, mode)
    if weights.hidden:
        losses_LB = [hidden_loss(*pair, projection, keep_BS, mode) for pair in states]
        terms["hidden_B"] = torch.stack(losses_LB).sum(0)
    if weights.attention:
        losses_LB = [
            attention_loss(own.attention.scores_BNSR, other.attention.scores_BNSR, keep_BS, mode)
            for own, other in pairs
        ]
        terms["attention_B"] = torch.stack(losses_LB).sum(0)
    if weights.cosine:
        terms["cosine_B"] = cosine_loss(*states[-1], projection, keep_BS)
    if weights.patient:
        terms["patient_B"] = _patient_term(states, projection)
    if weights.minilm_v1 or weights.minilm_v2:
        terms = terms | _relation_terms(*pairs[-1], keep_BS, weights, relation_heads)
    return DistillationTerms(**terms)


def _patient_term(
    states: list[tuple[Tensor, Tensor]], projection: LinearWeights | None
) -> Tensor:
    if len(states) < 2:
        raise ValueError(
            "intermediate_terms: the patient loss is of every layer but the last, and the student "
            "has no other; give it the weight 0"
        )
    return torch.stack([patient_loss(*pair, projection) for pair in states[:-1]]).sum(0)


def _relation_terms(
    own: BlockTrace,
    other: BlockTrace,
    keep_BS: Tensor,
    weights: TermWeights,
    relation_heads: int | None,
) -> dict[str, Tensor]:
    mine, theirs = _merged(own.attention), _merged(other.attention)
    n_heads, teacher_heads = (x.attention.query_BNSK.shape[1] for x in (own, other))

    def relation(x: str, y: str, n_relation_heads: int) -> Tensor:
        return relation_loss(mine[x], mine[y], theirs[x], theirs[y], keep_BS, n_relation_heads)

    terms = {}
    if weights.minilm_v1:
        if n_heads != teacher_heads:
            raise ValueError(
                f"intermediate_terms: minilm_v1 compares head with head, but the student has "
                f"{n_heads} and the teacher {teacher_heads}; minilm_v2 compares any two"
            )
        terms["minilm_v1_B"] = relation("Q", "K", n_heads) + relation("V", "V", n_heads)
    if weights.minilm_v2:
        a = math.gcd(n_heads, teacher_heads) if relation_heads is None else relation_heads
        terms["minilm_v2_B"] = (
            relation("Q", "Q", a) + relation("K", "K", a) + relation("V", "V", a)
        )
    return terms


def _merged(attention: AttentionTrace) -> dict[str, Tensor]:
    """Queries, keys and values, with the heads side by side."""
    return {
        "Q": merge_heads(attention.query_BNSK),
        "K": merge_heads(attention.key_BNRK),
        "V": merge_heads(attention.value_BNRK),
    }


def prediction_terms(
    logits_BC: Tensor,
    teacher_logits_BC: Tensor,
    labels_B: Tensor | None,
    weights: TermWeights,
    temperature: float = 1.0,
    mode: str = "masked",
    temperature_squared: bool = False,
) -> DistillationTerms:
    """What the student's answers are compared with: the teacher's, and the labels if they count.

    Formula
        prediction  prediction_loss(logits, teacher logits) at temperature T, with or without T²
        label       C > 1  - log softmax(logits)[label], or 0 where the label is -100
                    C = 1  (logit - label)²
        A term of weight 0 is not computed.

    Shapes
        logits_BC          float [B, C]
        teacher_logits_BC  float [B, C]  no gradient flows here
        labels_B           one a sample, int64 if C > 1, float if C = 1; None where none counts
        temperature        float > 0     of the first term only
        return             DistillationTerms with no other term

    Source
        Hinton et al. 2015, arXiv:1503.02531, section 2: soft targets and hard ones. The label's
        term is one sample's share of `cross_entropy` or `squared_error`.

    Accuracy
        |error| <= that of `prediction_loss`; (4 + C/2 + 2 L) eps, or 2 L eps where C = 1

    Raises
        ValueError  labels have a weight but there are none, or a label is neither -100 nor a class.

    >>> zero_12, label_1 = torch.zeros(1, 2), torch.tensor([1])
    >>> prediction_terms(zero_12, zero_12, label_1, TermWeights(prediction=0, label=1)).label_B
    tensor([0.6931])
    """
    terms = {}
    if weights.prediction:
        terms["prediction_B"] = prediction_loss(
            logits_BC, teacher_logits_BC, temperature, mode, temperature_squared
        )
    if weights.label:
        if labels_B is None:
            raise ValueError(
                f"prediction_terms: labels have the weight {weights.label:g}, but there are none"
            )
        terms["label_B"] = _label_loss(logits_BC, labels_B)
    return DistillationTerms(**terms)


def _label_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """`cross_entropy` or `squared_error` before their mean: one number per sample."""
    batch, n_classes = logits_BC.shape
    if labels_B.shape != (batch,):
        raise ValueError(
            f"prediction_terms: labels have the shape {list(labels_B.shape)}, but must be [{batch}]"
        )
    wide_BC = at_least_float32(logits_BC)
    if n_classes == 1:
        difference_B = wide_BC[:, 0] - at_least_float32(labels_B)
        return difference_B * difference_B
    counted_B = labels_B != -100
    if bool((counted_B & ((labels_B < 0) | (labels_B >= n_classes))).any()):
        raise ValueError(
            f"prediction_terms: labels run from {int(labels_B.min())} to {int(labels_B.max())}, "
            f"but must be -100 or 0 to {n_classes - 1}"
        )
    losses_B = -log_softmax(wide_BC).gather(1, labels_B.clamp(min=0)[:, None])[:, 0]
    return torch.where(counted_B, losses_B, 0)


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
        |error| <= 5 eps Σ_k |weight_k| |term_ki|, and the smallest normal number

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
