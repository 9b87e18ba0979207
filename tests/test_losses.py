"""What the laws of `losses` do not say: refusals, defaults, dtypes, arguments left alone."""

import inspect
import math
import re

import pytest
import torch
from torch import Tensor

from minibert.laws import losses as laws
from minibert.laws.law import RandomDraw, in_dtype
from minibert.losses import (
    cross_entropy,
    kl_divergence,
    l2_penalty,
    mlm_loss,
    nsp_loss,
    smoothed_cross_entropy,
    soft_cross_entropy,
    span_loss,
    sparse_training_loss,
    squared_error,
)

CASES = [
    (cross_entropy, laws.hard_case),
    (smoothed_cross_entropy, laws.smoothed_case),
    (mlm_loss, laws.mlm_case),
    (nsp_loss, laws.nsp_case),
    (span_loss, laws.span_case),
    (squared_error, laws.error_case),
    (kl_divergence, laws.soft_case),
    (soft_cross_entropy, laws.soft_case),
    (l2_penalty, laws.penalty_case),
    (sparse_training_loss, laws.sparse_case),
]
CALLS = [(formula, cases(RandomDraw(formula.__name__))) for formula, cases in CASES]
IDS = [formula.__name__ for formula, _ in CALLS]
SOFT = [kl_divergence, soft_cross_entropy]


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    ("labels", "run"),
    [
        ([0, -1], "-1 to 0"),
        ([0, 3], "0 to 3"),
        ([-100, 7], "-100 to 7"),
        ([1, -99], "-99 to 1"),
        ([-101, -100], "-101 to -100"),
    ],
)
def test_cross_entropy_refuses_labels_without_a_class(labels, run):
    message = f"cross_entropy: labels run from {run}, but must be -100 or 0 to 2"
    with pytest.raises(ValueError, match=whole(message)):
        cross_entropy(torch.zeros(2, 3), torch.tensor(labels))


def test_smoothed_cross_entropy_refuses_labels_without_a_class():
    message = "smoothed_cross_entropy: labels run from 0 to 3, but must be -100 or 0 to 2"
    with pytest.raises(ValueError, match=whole(message)):
        smoothed_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]), 0.1)


@pytest.mark.parametrize("bad", [-0.1, 1, 1.5, math.nan, -math.inf])
def test_smoothed_cross_entropy_refuses_a_smoothing_that_leaves_the_label_nothing(bad):
    message = f"smoothed_cross_entropy: the smoothing is {bad}, but must be in [0, 1)"
    with pytest.raises(ValueError, match=whole(message)):
        smoothed_cross_entropy(torch.zeros(1, 3), torch.tensor([0]), bad)


def test_an_impossible_class_costs_infinity_where_it_has_a_share():
    """As in torch; a row that does not count costs nothing even so."""
    logits, labels = torch.tensor([[0.0, -math.inf], [0.0, 0.0]]), torch.tensor([0, 1])
    assert smoothed_cross_entropy(logits, labels, 0.1) == math.inf
    hidden = torch.tensor([-100, 1])
    assert abs(float(smoothed_cross_entropy(logits, hidden, 0.1)) - math.log(2)) < 1e-6


def test_losses_of_labels_refuse_what_cross_entropy_refuses():
    message = whole("cross_entropy: labels run from 2 to 2, but must be -100 or 0 to 1")
    two_B = torch.tensor([2])
    with pytest.raises(ValueError, match=message):
        nsp_loss(torch.zeros(1, 2), two_B)
    with pytest.raises(ValueError, match=message):
        mlm_loss(torch.zeros(1, 1, 2), two_B[None])
    with pytest.raises(ValueError, match=message):
        span_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0 * two_B, two_B)
    with pytest.raises(ValueError, match=message):
        span_loss(torch.zeros(1, 2), torch.zeros(1, 2), two_B, 0 * two_B)


def test_no_rows_cost_nothing():
    none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert cross_entropy(*none) == 0
    assert smoothed_cross_entropy(*none, 0.1) == 0


def test_squared_error_refuses_to_broadcast():
    message = whole("squared_error: shapes [3, 1] and [3] differ")
    with pytest.raises(ValueError, match=message):
        squared_error(torch.zeros(3, 1), torch.zeros(3))


@pytest.mark.parametrize("formula", SOFT)
def test_the_temperature_is_one_unless_given(formula):
    teacher, student, _ = laws.soft_case(RandomDraw("temperature"))
    assert inspect.signature(formula).parameters["temperature"].default == 1
    assert torch.equal(formula(teacher, student), formula(teacher, student, 1.0))


@pytest.mark.parametrize("formula", SOFT)
@pytest.mark.parametrize("bad", [0, -1.0, math.nan])
def test_soft_losses_refuse_a_temperature_not_above_zero(formula, bad):
    message = f"{formula.__name__}: the temperature is {bad}, but must be above 0"
    with pytest.raises(ValueError, match=whole(message)):
        formula(torch.zeros(1, 2), torch.zeros(1, 2), bad)


@pytest.mark.parametrize("formula", SOFT)
def test_soft_losses_refuse_other_shapes(formula):
    message = f"{formula.__name__}: teacher [3, 2] and student [1, 2] differ"
    with pytest.raises(ValueError, match=whole(message)):
        formula(torch.zeros(3, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_loss_leaves_its_arguments_alone(formula, case):
    before = [part.clone() if isinstance(part, Tensor) else part for part in case]
    formula(*case)
    for old, new in zip(before, case, strict=True):
        assert torch.equal(torch.as_tensor(old), torch.as_tensor(new))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_loss_of_half_precision_is_computed_in_float32(formula, case, dtype):
    half = in_dtype(case, dtype)
    found = formula(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, formula(*in_dtype(half, torch.float32)))


@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_loss_of_float64_stays_float64(formula, case):
    assert formula(*case).dtype == torch.float64
