"""What the laws of `distillation` do not say: refusals, defaults, dtypes, any two shapes."""

import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.distillation import (
    DistillationTerms,
    TermWeights,
    distillation_loss,
    intermediate_terms,
    layer_map,
    prediction_terms,
)
from minibert.encoder import BlockTrace, EncoderTrace
from minibert.laws.distillation import ALL, NONE, OTHERS, answer_case, pair_of, trace
from minibert.laws.law import RandomDraw, in_dtype

UNKNOWN_MODE = "the distillation mode is 'unmasked', but must be masked or tinybert"


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


# ---------------------------------------------------------------------------------- layer_map


def test_layer_map_is_uniform_unless_given():
    assert layer_map(4, 12) == layer_map(4, 12, "uniform") == (3, 6, 9, 12)


@pytest.mark.parametrize("layers", [(12, 2, 2), [12, 2, 2], (1, 12, 1)])
def test_layer_map_takes_the_layers_themselves(layers):
    assert layer_map(3, 12, layers) == tuple(layers)


def test_a_student_without_layers_has_nothing_to_map():
    assert layer_map(0, 12) == ()


@pytest.mark.parametrize(
    ("student", "teacher", "rule", "layers"),
    [
        (3, 12, (4, 8), "(4, 8)"),
        (3, 12, (4, 8, 9, 12), "(4, 8, 9, 12)"),
        (2, 12, (0, 12), "(0, 12)"),
        (2, 12, (6, 13), "(6, 13)"),
        (2, 12, (-1, 12), "(-1, 12)"),
        (5, 4, "top", "(0, 1, 2, 3, 4)"),
        (5, 4, "bottom", "(1, 2, 3, 4, 5)"),
    ],
)
def test_layer_map_refuses_layers_that_are_not_there(student, teacher, rule, layers):
    message = (
        f"layer_map: {layers} does not give each of {student} student layers "
        f"one of the teacher's layers 1 to {teacher}"
    )
    with pytest.raises(ValueError, match=whole(message)):
        layer_map(student, teacher, rule)


@pytest.mark.parametrize("rule", ["middle", "Top", ""])
def test_layer_map_refuses_a_rule_that_is_none(rule):
    message = f"layer_map: the rule is {rule!r}, but must be uniform, top or bottom"
    with pytest.raises(ValueError, match=whole(message)):
        layer_map(4, 12, rule)


# ------------------------------------------------------------------------- intermediate_terms


def test_tinyberts_terms_weigh_one_unless_given():
    on = {name for name, weight in TermWeights()._asdict().items() if weight == 1.0}
    assert on == {"embedding", "hidden", "attention", "prediction"}
    assert sum(TermWeights()) == 4.0


def test_all_terms_are_missing_unless_given():
    assert DistillationTerms() == (None,) * 9


def test_terms_are_named_after_their_weights():
    assert DistillationTerms._fields == tuple(f"{name}_B" for name in TermWeights._fields)


@pytest.mark.parametrize("formula", [intermediate_terms, prediction_terms])
def test_the_mode_is_masked_unless_given(formula):
    assert inspect.signature(formula).parameters["mode"].default == "masked"


SHAPES = [
    ((4, 4, 128), (6, 12, 384)),
    ((4, 12, 312), (12, 12, 768)),
    ((3, 2, 74), (6, 12, 384)),
    ((5, 3, 51), (4, 9, 45)),
    ((1, 1, 2), (24, 16, 1024)),
    ((6, 12, 384), (6, 12, 384)),
]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_intermediate_terms_of_any_two_shapes(student, teacher):
    """Layers × heads × width. A teacher made from the student costs nothing, another one does."""
    case = pair_of(5, student, teacher)
    found = intermediate_terms(*case, ALL)
    assert all(bool((term_B > 0.1).all()) for term_B in found[:3])

    def image(x_BSD: Tensor) -> Tensor:
        return F.linear(x_BSD, *case.projection)

    blocks = list(case.teacher.blocks)
    pairs = dict(zip(case.layers, case.student.blocks, strict=True))
    for g, own in pairs.items():
        scores = own.attention.scores_BNSR.repeat_interleave(teacher[1] // student[1], 1)
        attention = own.attention._replace(scores_BNSR=scores)
        blocks[g - 1] = BlockTrace(attention, own.attended_BSD, image(own.hidden_BSD))
    copied = EncoderTrace(image(case.student.embedded_BSD), tuple(blocks))
    learners = tuple(pairs[g] for g in case.layers)  # where two layers share a teacher layer
    student_trace = case.student._replace(blocks=learners)
    exact = intermediate_terms(
        student_trace, copied, case.keep, case.layers, case.projection, ALL
    )
    assert all(bool((term_B < 1e-20).all()) for term_B in exact[:3])


@pytest.mark.parametrize("layers", [(0, 3, 6), (2, 4), (2, 4, 6, 6), (2, 4, 7)])
def test_intermediate_terms_refuses_layers_that_are_not_there(layers):
    """Not even 0: a list counted from 0 would quietly take the teacher's last layer first."""
    message = (
        f"layer_map: {layers} does not give each of 3 student layers "
        "one of the teacher's layers 1 to 6"
    )
    with pytest.raises(ValueError, match=whole(message)):
        intermediate_terms(*pair_of(0)._replace(layers=layers), ALL)


@pytest.mark.parametrize(
    ("change", "mode", "message"),
    [
        (
            {"projection": None},
            "masked",
            "hidden_loss: the student's state [2, 5, 5] does not fit the teacher's [2, 5, 7]; "
            "a projection maps D to E",
        ),
        (
            {"student": trace(0, 3, 4, 5)},
            "masked",
            "grouped_heads: 4 student heads cannot share 2 teacher heads evenly; "
            "legal counts: [1, 2]",
        ),
        ({}, "unmasked", UNKNOWN_MODE),
    ],
)
def test_intermediate_terms_refuses_what_does_not_fit(change, mode, message):
    with pytest.raises(ValueError, match=whole(message)):
        intermediate_terms(*pair_of(0)._replace(**change), ALL, mode)


@pytest.mark.parametrize("name", ["hidden", "attention", "embedding"])
def test_an_unknown_mode_is_refused_by_every_term(name):
    with pytest.raises(ValueError, match=whole(UNKNOWN_MODE)):
        intermediate_terms(*pair_of(0), NONE._replace(**{name: 1.0}), "unmasked")


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_relations_of_any_two_shapes(student, teacher):
    """With the heads that both have in common, and with one for all; patience needs two layers."""
    case = pair_of(5, student, teacher)
    weights = NONE._replace(cosine=1.0, minilm_v2=1.0, patient=float(student[0] > 1))
    for heads in (None, 1):
        found = intermediate_terms(*case, weights, "masked", heads)
        there = [term_B for term_B in found if term_B is not None]
        assert len(there) == 2 + (student[0] > 1)
        assert all(bool((term_B > 1e-3).all()) for term_B in there)


def test_minilm_v1_needs_equal_heads():
    message = (
        "intermediate_terms: minilm_v1 compares head with head, but the student has 2 and the "
        "teacher 4; minilm_v2 compares any two"
    )
    case = pair_of(0, teacher=(6, 4, 7))
    with pytest.raises(ValueError, match=whole(message)):
        intermediate_terms(*case, NONE._replace(minilm_v1=1.0))
    found = intermediate_terms(*case, NONE._replace(minilm_v2=1.0))
    assert found.minilm_v2_B is not None


@pytest.mark.parametrize("heads", [0, 4])
def test_relation_heads_must_divide_both_widths(heads):
    message = (
        f"relation_loss: {heads} relation heads do not divide both widths, 4 and 6; "
        "legal counts: [1, 2]"
    )
    with pytest.raises(ValueError, match=whole(message)):
        intermediate_terms(*pair_of(0), OTHERS, "masked", heads)


def test_patience_needs_a_layer_before_the_last():
    message = (
        "intermediate_terms: the patient loss is of every layer but the last, and the student "
        "has no other; give it the weight 0"
    )
    case = pair_of(0, student=(1, 2, 5))
    with pytest.raises(ValueError, match=whole(message)):
        intermediate_terms(*case, NONE._replace(patient=1.0))


def test_parts_that_nothing_compares_may_be_missing():
    """A teacher's trace from a file holds only what is asked for."""
    case = pair_of(0)
    blocks = [
        BlockTrace(None, None, block.hidden_BSD if g in case.layers else None)
        for g, block in enumerate(case.teacher.blocks, 1)
    ]
    teacher = EncoderTrace(None, tuple(blocks))
    weights = NONE._replace(hidden=1.0, cosine=1.0, patient=1.0)
    found = intermediate_terms(*case._replace(teacher=teacher), weights)
    whole_trace = intermediate_terms(*case, weights)
    assert all(
        a is b is None or torch.equal(a, b) for a, b in zip(found, whole_trace, strict=True)
    )


# --------------------------------------------------------------------------- prediction_terms


def test_labels_with_a_weight_must_be_there():
    message = "prediction_terms: labels have the weight 0.5, but there are none"
    logits_BC = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=whole(message)):
        prediction_terms(logits_BC, logits_BC, None, NONE._replace(label=0.5))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shape", [(2, 1), (3,), ()])
def test_a_label_for_each_sample(classes, shape):
    message = f"prediction_terms: labels have the shape {list(shape)}, but must be [2]"
    logits_BC = torch.zeros(2, classes)
    with pytest.raises(ValueError, match=whole(message)):
        prediction_terms(
            logits_BC, logits_BC, torch.zeros(shape, dtype=torch.int64), NONE._replace(label=1.0)
        )


@pytest.mark.parametrize(
    ("labels", "run"), [([0, -1], "-1 to 0"), ([0, 3], "0 to 3"), ([-100, 7], "-100 to 7")]
)
def test_labels_without_a_class_are_refused(labels, run):
    message = f"prediction_terms: labels run from {run}, but must be -100 or 0 to 2"
    logits_BC = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=whole(message)):
        prediction_terms(
            logits_BC, logits_BC, torch.tensor(labels), NONE._replace(label=1.0)
        )


def test_the_temperature_is_one_and_not_squared_unless_given():
    logits, teacher, labels, weights, *_ = answer_case(RandomDraw("answers"), (3,))
    found = prediction_terms(logits, teacher, labels, weights)
    same = prediction_terms(logits, teacher, labels, weights, 1.0, "masked", False)
    other = prediction_terms(logits, teacher, labels, weights, 2.0)
    squared = prediction_terms(logits, teacher, labels, weights, 2.0, "masked", True)
    assert torch.equal(found.prediction_B, same.prediction_B)
    assert not torch.equal(found.prediction_B, other.prediction_B)
    assert torch.equal(4 * other.prediction_B, squared.prediction_B)


@pytest.mark.parametrize("classes", [1, 3])
def test_answers_of_half_precision_are_compared_in_float32(classes):
    case = in_dtype(answer_case(RandomDraw("answers"), (classes,)), torch.bfloat16)
    wide = in_dtype(case, torch.float32)
    pairs = zip(prediction_terms(*case)[7:], prediction_terms(*wide)[7:], strict=True)
    for found_B, expected_B in pairs:
        assert found_B.dtype == torch.float32
        assert torch.equal(found_B, expected_B)


# -------------------------------------------------------------------------- distillation_loss


def test_distillation_loss_refuses_to_have_no_term():
    message = "distillation_loss: every term is switched off; give one a weight above 0"
    with pytest.raises(ValueError, match=whole(message)):
        distillation_loss(DistillationTerms(), ALL)


def test_terms_and_weights_come_in_pairs():
    terms = DistillationTerms(hidden_B=torch.ones(2))
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(terms[:2], TermWeights())
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(terms, TermWeights()[:2])
