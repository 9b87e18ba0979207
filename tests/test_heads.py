"""What the laws of `heads` do not say: refusals, defaults, shapes, dtypes."""

import dataclasses

import pytest
import torch

from minibert.functional import dropout
from minibert.heads import (
    mlm_logits,
    multiple_choice_logits,
    nsp_logits,
    pooled,
    regression_values,
    sequence_logits,
    span_logits,
    token_logits,
)
from minibert.laws.heads import (
    C,
    D,
    S,
    V,
    choice_case,
    map_of,
    mlm_case,
    nsp_case,
    pooled_case,
    regression_case,
    sequence_case,
    span_case,
    token_case,
)
from minibert.laws.law import RandomDraw, in_dtype
from minibert.laws.measure import differing, fresh, normal
from minibert.parameters import LinearWeights

DRAW = RandomDraw("tests")
MLM = mlm_case(DRAW)


@pytest.mark.parametrize(
    ("head", "shape", "classes"),
    [
        (pooled, (2, S, D), D),
        (nsp_logits, (2, D), 2),
        (sequence_logits, (2, D), C),
        (token_logits, (2, S, D), C),
        (span_logits, (2, S, D), 2),
        (regression_values, (2, D), 1),
    ],
)
def test_a_head_for_another_width_is_refused(head, shape, classes):
    message = r"^linear: x has width 5, but the weight maps from 4$"
    with pytest.raises(ValueError, match=message):
        head(normal(0, *shape), LinearWeights(normal(1, classes, 4), normal(2, classes)))


def test_mlm_logits_refuse_another_width():
    with pytest.raises(ValueError, match=r"^linear: x has width 4, but the weight maps from 5$"):
        mlm_logits(*MLM._replace(hidden=MLM.hidden[..., :4]))
    with pytest.raises(ValueError, match=r"^linear: x has width 5, but the weight maps from 4$"):
        mlm_logits(*MLM._replace(words=MLM.words[:, :4]))


@pytest.mark.parametrize("rows", [2, 3])
def test_regression_refuses_a_head_for_classes(rows):
    message = rf"^regression_values: the head has {rows} rows, but needs one$"
    with pytest.raises(ValueError, match=message):
        regression_values(normal(0, 3, D), map_of(DRAW, rows))


def test_regression_refuses_a_head_without_rows():
    message = r"^regression_values: the head has 0 rows, but needs one$"
    with pytest.raises(ValueError, match=message):
        regression_values(normal(0, 3, D), map_of(DRAW, 0))


@pytest.mark.parametrize("n_choices", [4, 5, 12, 0, -1, -2])
def test_multiple_choice_refuses_a_remainder(n_choices):
    message = (
        "^multiple_choice_logits: 6 texts do not divide into questions "
        rf"of {n_choices} choices$"
    )
    with pytest.raises(ValueError, match=message):
        multiple_choice_logits(normal(0, 6, D), map_of(DRAW, 1), n_choices)


@pytest.mark.parametrize(("n_choices", "shape"), [(1, (6, 1)), (2, (3, 2)), (6, (1, 6))])
def test_multiple_choice_takes_every_divisor(n_choices, shape):
    found = multiple_choice_logits(normal(0, 6, D), map_of(DRAW, 1), n_choices)
    assert found.shape == shape


WITH_DROPOUT = [
    pytest.param(sequence_logits, sequence_case(DRAW), id="sequence"),
    pytest.param(token_logits, token_case(DRAW), id="token"),
    pytest.param(regression_values, regression_case(DRAW), id="regression"),
    pytest.param(multiple_choice_logits, choice_case(DRAW), id="multiple choice"),
]


@pytest.mark.parametrize(("head", "case"), WITH_DROPOUT)
def test_neither_rate_nor_generator_is_given_by_default(head, case):
    plain, x = head(*case), 3 + case.x.abs()
    assert differing(head(*case, 0.5), plain) == 0
    assert differing(head(*case, generator=fresh(3)), plain) == 0
    assert differing(head(x, *case[1:], 0.5, fresh(3)), head(x, *case[1:])) > 0
    dropped = head(dropout(x, 0.5, fresh(3)), *case[1:])
    assert differing(head(x, *case[1:], 0.5, fresh(3)), dropped) == 0


def test_heads_have_the_shapes_that_they_promise():
    assert pooled(*pooled_case(DRAW)).shape == (3, D)
    assert mlm_logits(*MLM).shape == (2, S, V)
    assert nsp_logits(*nsp_case(DRAW)).shape == (3, 2)
    assert sequence_logits(normal(0, 3, D), map_of(DRAW, C)).shape == (3, C)
    assert token_logits(normal(0, 3, S, D), map_of(DRAW, C)).shape == (3, S, C)
    assert regression_values(normal(0, 3, D), map_of(DRAW, 1)).shape == (3,)
    assert [part.shape for part in span_logits(*span_case(DRAW))] == [(3, S), (3, S)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_have_the_dtype_of_the_weights(dtype):
    assert mlm_logits(*in_dtype(MLM, dtype)).dtype == dtype
    assert pooled(*in_dtype(pooled_case(DRAW), dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_both_names_of_the_tanh_form_are_known(name):
    erf, tanh = (
        MLM._replace(config=dataclasses.replace(MLM.config, hidden_act=act))
        for act in ("gelu", name)
    )
    assert differing(mlm_logits(*erf), mlm_logits(*tanh)) > 0
