"""What the laws of `distillation` do not say: refusals, defaults, dtypes, any two shapes."""

import inspect
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.distillation import (
    DistillationTerms,
    TermWeights,
    attention_loss,
    distillation_loss,
    grouped_heads,
    hidden_loss,
    intermediate_terms,
    layer_map,
    prediction_loss,
)
from minibert.encoder import BlockTrace, EncoderTrace
from minibert.laws import distillation as laws
from minibert.laws.distillation import ALL, kept, pair_of, trace
from minibert.laws.law import RandomDraw, in_dtype
from minibert.laws.measure import normal
from minibert.parameters import LinearWeights

CASES = [
    (hidden_loss, laws.hidden_case(RandomDraw("hidden"))),
    (attention_loss, laws.attention_case(RandomDraw("attention"))),
    (prediction_loss, laws.classes_only(RandomDraw("prediction"))),
]
IDS = [formula.__name__ for formula, _ in CASES]
MODES = ["masked", "tinybert"]
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


# ------------------------------------------------------------------------------ grouped_heads


@pytest.mark.parametrize("heads", [-1, 0, 5, 8, 24])
def test_grouped_heads_names_the_legal_counts(heads):
    message = (
        f"grouped_heads: {heads} student heads cannot share 12 teacher heads evenly; "
        "legal counts: [1, 2, 3, 4, 6, 12]"
    )
    with pytest.raises(ValueError, match=whole(message)):
        grouped_heads(torch.zeros(1, 12, 2, 2), heads)


# ---------------------------------------------------------------------- hidden_loss and its like


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (None, "the student's state [3, 5, 2] does not fit the teacher's [3, 5, 7]"),
        (
            LinearWeights(torch.ones(6, 2), torch.ones(6)),
            "the student's state [3, 5, 6] does not fit the teacher's [3, 5, 7]",
        ),
    ],
)
def test_hidden_loss_refuses_widths_that_do_not_fit(projection, message):
    message = f"hidden_loss: {message}; a projection maps D to E"
    with pytest.raises(ValueError, match=whole(message)):
        hidden_loss(torch.ones(3, 5, 2), torch.ones(3, 5, 7), projection, kept([5, 1, 3], 5))


def test_hidden_loss_refuses_a_projection_from_another_width():
    projection = LinearWeights(torch.ones(7, 3), torch.ones(7))
    with pytest.raises(ValueError, match="width 2, but the weight maps from 3"):
        hidden_loss(torch.ones(3, 5, 2), torch.ones(3, 5, 7), projection, kept([5, 1, 3], 5))


def test_not_even_a_nan_in_the_padding_reaches_a_gradient():
    generator = torch.Generator().manual_seed(0)
    hidden_BSD = torch.randn(2, 3, 5, generator=generator)
    hidden_BSD[:, 2] = math.nan
    hidden_BSD.requires_grad_()
    weight_OI = torch.randn(7, 5, generator=generator).requires_grad_()
    projection = LinearWeights(weight_OI, torch.zeros(7))
    keep_BS = torch.tensor([[True, True, False]] * 2)
    target_BSE = torch.randn(2, 3, 7, generator=generator)
    hidden_loss(hidden_BSD, target_BSE, projection, keep_BS).sum().backward()
    assert weight_OI.grad is not None
    assert hidden_BSD.grad is not None
    assert weight_OI.grad.isfinite().all()
    assert hidden_BSD.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_attention_loss_does_not_hide_a_visible_nan(mode):
    case = laws.attention_case(RandomDraw("attention"))
    case.scores[0, 0, 0, 0] = math.nan
    assert attention_loss(*case, mode).isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("mode", MODES)
def test_attention_loss_refuses_heads_that_do_not_share_evenly(mode):
    message = (
        "grouped_heads: 5 student heads cannot share 12 teacher heads evenly; "
        "legal counts: [1, 2, 3, 4, 6, 12]"
    )
    with pytest.raises(ValueError, match=whole(message)):
        attention_loss(torch.zeros(1, 5, 2, 2), torch.zeros(1, 12, 2, 2), kept([2], 2), mode)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((5, 1), (5, 3)), ((5, 1), (1, 1)), ((5, 3), (5, 1)), ((5, 2), (5, 3))],
)
def test_prediction_loss_refuses_other_outputs(student, teacher):
    message = (
        f"prediction_loss: student {list(student)} and teacher {list(teacher)} differ; "
        "both must have one output per class"
    )
    with pytest.raises(ValueError, match=whole(message)):
        prediction_loss(torch.zeros(student), torch.zeros(teacher))


def test_prediction_loss_refuses_a_temperature_not_above_zero():
    message = "soft_cross_entropy: the temperature is 0, but must be above 0"
    with pytest.raises(ValueError, match=whole(message)):
        prediction_loss(torch.zeros(5, 2), torch.zeros(5, 2), 0)


def test_a_regression_knows_no_temperature():
    one_B1 = torch.ones(5, 1)
    assert torch.equal(prediction_loss(one_B1, 3 * one_B1, 0), torch.full((5,), 4.0))


@pytest.mark.parametrize(("formula", "case"), CASES, ids=IDS)
def test_losses_refuse_an_unknown_mode(formula, case):
    with pytest.raises(ValueError, match=whole(UNKNOWN_MODE)):
        formula(*case, "unmasked")


@pytest.mark.parametrize("formula", [*(formula for formula, _ in CASES), intermediate_terms])
def test_the_mode_is_masked_unless_given(formula):
    assert inspect.signature(formula).parameters["mode"].default == "masked"


def test_the_temperature_is_one_unless_given():
    logits, teacher = normal(0, 2, 3), normal(1, 2, 3)
    assert torch.equal(prediction_loss(logits, teacher), prediction_loss(logits, teacher, 1.0))
    assert not torch.equal(prediction_loss(logits, teacher), prediction_loss(logits, teacher, 2.0))


def test_terms_and_weights_come_in_pairs():
    terms = DistillationTerms(hidden_B=torch.ones(2))
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(terms[:2], TermWeights())
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(terms, TermWeights()[:2])


def test_a_teacher_without_heads_has_no_legal_count():
    with pytest.raises(ValueError, match=whole(
        "grouped_heads: 0 student heads cannot share 0 teacher heads evenly; legal counts: []"
    )):
        grouped_heads(torch.zeros(1, 0, 2, 2), 0)


def tensors_of(part) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else list(part) if isinstance(part, tuple) else []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("formula", "case"), CASES, ids=IDS)
def test_a_distillation_loss_leaves_its_arguments_alone(formula, case, mode):
    tensors = [x for part in case for x in tensors_of(part)]
    before = [x.clone() for x in tensors]
    formula(*case, mode)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("formula", "case"), CASES, ids=IDS)
def test_a_distillation_loss_of_half_precision_is_computed_in_float32(formula, case, mode):
    """Only the projection itself runs in the type of the model."""
    if formula is hidden_loss:
        case = laws.without_a_projection(case, 0)
    half = in_dtype(tuple(case), torch.bfloat16)
    found = formula(*half, mode)
    assert found.dtype == torch.float32
    assert torch.equal(found, formula(*in_dtype(half, torch.float32), mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("formula", "case"), CASES, ids=IDS)
def test_a_distillation_loss_of_float64_stays_float64(formula, case, mode):
    assert formula(*case, mode).dtype == torch.float64


# ------------------------------------------------------------------------- intermediate_terms


def test_all_terms_weigh_one_unless_given():
    assert TermWeights() == (1.0, 1.0, 1.0, 1.0)


def test_all_terms_are_missing_unless_given():
    assert DistillationTerms() == (None, None, None, None)


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
    weights = TermWeights(0.0, 0.0, 0.0, 0.0)._replace(**{name: 1.0})
    with pytest.raises(ValueError, match=whole(UNKNOWN_MODE)):
        intermediate_terms(*pair_of(0), weights, "unmasked")


# -------------------------------------------------------------------------- distillation_loss


def test_distillation_loss_refuses_to_have_no_term():
    message = "distillation_loss: every term is switched off; give one a weight above 0"
    with pytest.raises(ValueError, match=whole(message)):
        distillation_loss(DistillationTerms(), ALL)
