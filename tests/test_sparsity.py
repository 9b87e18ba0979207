"""What the laws of `sparsity` do not say: refusals, dtypes, shapes, numbers that are not finite."""

import math
import re
from typing import Any

import pytest
import torch

from minibert.laws.measure import normal
from minibert.parameters import AttentionWeights, LinearWeights
from minibert.sparsity import (
    cubic_sparsity,
    fewest_bits,
    gate_gradients,
    keep_heads,
    keep_largest,
    keep_largest_of_rows,
    keep_n_of_m,
    movement_scores,
    soft_threshold,
)

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 4), (0,), (0, 4)])
def test_a_choice_is_boolean_and_has_the_shape_of_its_scores(dtype, shape):
    score = normal(0, *shape).to(dtype)
    keep = keep_largest(score, 0.5)
    assert (keep.dtype, keep.shape) == (torch.bool, shape)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 8), (0, 4), (3, 0)])
def test_rows_may_have_any_axes_before_them(shape):
    score = normal(0, *shape)
    for keep in (keep_largest_of_rows(score, 0.5), keep_n_of_m(score, 2, 4)):
        assert keep.shape == shape
        assert bool((keep.sum(-1) == shape[-1] / 2).all())


def test_zeros_of_either_sign_are_equal():
    assert keep_largest(torch.tensor([0.0, -0.0, 0.0, -0.0]), 0.5).tolist() == [0, 0, 1, 1]


def test_what_is_no_number_is_kept_and_so_seen():
    score = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert keep_largest(score, 0.75).tolist() == [False, True, False, False]


def test_a_weight_that_is_no_number_stays_none():
    found = soft_threshold(torch.tensor([math.nan, math.inf, -math.inf, 0.1]), 0.5)
    assert found[0].isnan()
    assert found[1:].tolist() == [math.inf, -math.inf, 0.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes_stay_but_for_sums(dtype):
    weight, gradient = normal(0, 3, 4).to(dtype), normal(1, 3, 4).to(dtype)
    assert soft_threshold(weight, 0.3).dtype == dtype
    assert movement_scores(weight, weight, gradient, 0.3).dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    assert gate_gradients(weight, gradient, 2).dtype == wide


def test_a_float_is_a_float_also_of_nothing():
    assert [type(fewest_bits(n, z)) for n, z in ((0, 0), (3, 0), (3, 1))] == [float] * 3


def identity(width: int) -> LinearWeights:
    return LinearWeights(torch.eye(width), torch.zeros(width))


FOUR = AttentionWeights(*(identity(4) for _ in range(4)))
BETWEEN = "needs step >= 0, begin <= end, and sparsities from 0 to 1"


def cubic(*arguments: Any) -> tuple[Any, tuple[Any, ...], str]:
    step, begin, end, final, initial = arguments
    message = f"step {step} of {begin} to {end}, from {initial} to {final}; {BETWEEN}"
    return cubic_sparsity, arguments, f"cubic_sparsity: {message}"


REFUSED = [
    cubic(-1, 0, 4, 0.5, 0.0),
    cubic(0, 5, 4, 0.5, 0.0),
    cubic(0, 0, 4, 1.01, 0.0),
    cubic(0, 0, 4, -0.01, 0.0),
    cubic(0, 0, 4, 0.5, 1.01),
    cubic(0, 0, 4, 0.5, -0.01),
    cubic(0, 0, 4, math.nan, 0.0),
    cubic(0, 0, 4, 0.5, math.nan),
    *(
        (choose, (torch.ones(2, 3), s), f"{name}: the sparsity is {s}, but must be from 0 to 1")
        for choose in (keep_largest, keep_largest_of_rows)
        for name in ("keep_largest",)
        for s in (-0.01, 1.01, math.nan)
    ),
    *(
        (keep_n_of_m, (torch.ones(2, 6), n, m), f"keep_n_of_m: {n} of every {m} in rows of 6 {NO}")
        for NO in ("cannot be kept",)
        for n, m in ((2, 4), (-1, 3), (4, 3), (0, 0), (-2, -2), (0, -1))
    ),
    *(
        (
            soft_threshold,
            (torch.ones(2), t),
            f"soft_threshold: the threshold is {t}, but must be at least 0",
        )
        for t in (-0.01, math.nan)
    ),
    *(
        (
            gate_gradients,
            (torch.ones(2, 6), torch.ones(2, 6), n),
            f"gate_gradients: 6 inputs do not divide into {n} groups",
        )
        for n in (0, 4, -1, 7)
    ),
    *(
        (
            keep_heads,
            (FOUR, torch.tensor([0]), n),
            f"keep_heads: width 4 does not divide into {n} heads",
        )
        for n in (0, 3, -1, 5)
    ),
    *(
        (fewest_bits, (n, z), f"fewest_bits: {z} zeros among {n} weights")
        for n, z in ((3, 4), (3, -1), (-1, -1))
    ),
]


@pytest.mark.parametrize(("formula", "arguments", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(formula, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        formula(*arguments)


def test_the_ends_of_what_is_allowed_are_allowed():
    assert cubic_sparsity(0, 0, 0, 1.0, 0.0) == 1.0
    assert cubic_sparsity(0, 1, 2, 0.0, 1.0) == 1.0
    assert keep_n_of_m(torch.ones(1, 2), 1, 1).all()
    assert soft_threshold(torch.ones(1), 0.0).item() == 1.0
    assert gate_gradients(torch.ones(2, 1), torch.ones(2, 1), 1).item() == 2.0
    assert keep_heads(FOUR, torch.arange(1), 1).query.weight_OI.shape == (4, 4)
    assert fewest_bits(0, 0) == 0.0


def test_no_zeros_are_wanted_unless_it_is_said():
    assert cubic_sparsity(0, 1, 2, 0.5) == 0.0
