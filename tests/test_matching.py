"""What the laws of `matching` do not say: refusals, defaults, dtypes."""

import inspect
import math
import re

import pytest
import torch
from torch import Tensor

from minibert.laws import matching as laws
from minibert.laws.law import RandomDraw, in_dtype
from minibert.laws.matching import kept
from minibert.laws.measure import normal
from minibert.matching import (
    attention_loss,
    cosine_loss,
    grouped_heads,
    hidden_loss,
    patient_loss,
    prediction_loss,
    relation_loss,
)
from minibert.parameters import LinearWeights

CASES = [
    (hidden_loss, laws.hidden_case(RandomDraw("hidden"))),
    (attention_loss, laws.attention_case(RandomDraw("attention"))),
    (prediction_loss, laws.classes_only(RandomDraw("prediction"))),
]
IDS = [formula.__name__ for formula, _ in CASES]
MODES = ["masked", "tinybert"]
UNKNOWN_MODE = "the distillation mode is 'unmasked', but must be masked or tinybert"

# the losses that have no mode
OTHERS = [
    (relation_loss, laws.relation_case(RandomDraw("relation"))),
    (cosine_loss, laws.hidden_case(RandomDraw("cosine"))),
    (patient_loss, laws.of_first(laws.hidden_case)(RandomDraw("patient"))),
]
other_losses = pytest.mark.parametrize(
    ("formula", "case"), OTHERS, ids=[formula.__name__ for formula, _ in OTHERS]
)


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


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


@pytest.mark.parametrize("formula", [formula for formula, _ in CASES])
def test_the_mode_is_masked_unless_given(formula):
    assert inspect.signature(formula).parameters["mode"].default == "masked"


def test_the_temperature_is_one_unless_given():
    logits, teacher = normal(0, 2, 3), normal(1, 2, 3)
    assert torch.equal(prediction_loss(logits, teacher), prediction_loss(logits, teacher, 1.0))
    assert not torch.equal(prediction_loss(logits, teacher), prediction_loss(logits, teacher, 2.0))


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


# ---------------------------------------------------------------- relations, directions, patience


@pytest.mark.parametrize("heads", [-1, 0, 2, 4, 5, 12])
def test_relation_loss_names_the_legal_counts(heads):
    message = (
        f"relation_loss: {heads} relation heads do not divide both widths, 12 and 15; "
        "legal counts: [1, 3]"
    )
    own_BSD, other_BSE = torch.ones(1, 2, 12), torch.ones(1, 2, 15)
    with pytest.raises(ValueError, match=whole(message)):
        relation_loss(own_BSD, own_BSD, other_BSE, other_BSE, kept([2], 2), heads)


def test_vectors_without_numbers_have_no_relation_heads():
    empty_BSD = torch.ones(1, 2, 0)
    message = (
        "relation_loss: 0 relation heads do not divide both widths, 0 and 0; legal counts: []"
    )
    with pytest.raises(ValueError, match=whole(message)):
        relation_loss(empty_BSD, empty_BSD, empty_BSD, empty_BSD, kept([2], 2), 0)


@pytest.mark.parametrize(
    ("formula", "tokens", "rest"), [(cosine_loss, 5, [kept([5, 1, 3], 5)]), (patient_loss, 1, [])]
)
@pytest.mark.parametrize(
    ("projection", "width"), [(None, 2), (LinearWeights(torch.ones(6, 2), torch.ones(6)), 6)]
)
def test_directions_of_other_widths_are_refused(formula, tokens, rest, projection, width):
    message = (
        f"{formula.__name__}: the student's state [3, {tokens}, {width}] does not fit the "
        f"teacher's [3, {tokens}, 7]; a projection maps D to E"
    )
    with pytest.raises(ValueError, match=whole(message)):
        formula(torch.ones(3, 5, 2), torch.ones(3, 5, 7), projection, *rest)


@other_losses
def test_a_visible_nan_is_not_hidden(formula, case):
    first = case[0].clone()
    first[0, 0, 0] = math.nan
    assert formula(first, *case[1:]).isnan().tolist() == [True, False, False]


@other_losses
def test_such_a_loss_leaves_its_arguments_alone(formula, case):
    tensors = [x for part in case for x in tensors_of(part)]
    before = [x.clone() for x in tensors]
    formula(*case)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@other_losses
def test_such_a_loss_of_half_precision_is_computed_in_float32(formula, case):
    """Only the projection itself runs in the type of the model."""
    if formula is not relation_loss:
        case = laws.without_a_projection(case, 0)
    half = in_dtype(tuple(case), torch.bfloat16)
    found = formula(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, formula(*in_dtype(half, torch.float32)))
    assert formula(*case).dtype == torch.float64


def test_t_squared_is_not_there_unless_asked_for():
    logits, teacher = normal(0, 2, 3), normal(1, 2, 3)
    plain = prediction_loss(logits, teacher, 2.0)
    assert torch.equal(prediction_loss(logits, teacher, 2.0, temperature_squared=False), plain)
    assert torch.equal(prediction_loss(logits, teacher, 2.0, temperature_squared=True), 4 * plain)
