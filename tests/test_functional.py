"""What the laws of `functional` do not say: refusals, random sources, dtypes."""

import math

import pytest
import torch

from minibert.functional import dropout, embedding, layer_norm, linear
from minibert.laws.measure import fresh


def test_linear_refuses_another_width():
    with pytest.raises(ValueError, match=r"^linear: x has width 4, but the weight maps from 3$"):
        linear(torch.ones(2, 7, 4), torch.ones(5, 3), torch.ones(5))


def test_layer_norm_refuses_another_width():
    message = r"^layer_norm: x has width 4, but the gain has shape \[3\]$"
    with pytest.raises(ValueError, match=message):
        layer_norm(torch.ones(2, 7, 4), torch.ones(3), torch.ones(3), 1e-12)


def test_dropout_leaves_the_global_source_alone():
    before = torch.get_rng_state()
    dropout(torch.ones(5), 0.5, fresh(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_at_rate_zero_draws_nothing():
    generator = fresh(0)
    x = torch.ones(3)
    assert dropout(x, 0, generator) is x
    assert torch.equal(generator.get_state(), fresh(0).get_state())


def test_dropout_keeps_a_number_whose_draw_is_the_rate_itself():
    draws = torch.rand(5, generator=fresh(0))
    for index, rate in enumerate(draws.tolist()):
        assert dropout(torch.ones(5), rate, fresh(0))[index] > 0


def test_dropout_draws_where_its_input_lies():
    """The device "meta" holds no numbers, and lets no other device in."""
    assert dropout(torch.ones(5, device="meta"), 0.5, fresh(0)).device.type == "meta"


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, math.nan])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_dropout_refuses_a_rate_that_is_none(rate, generator):
    message = rf"^dropout: the rate is {rate}, but must be at least 0 and below 1$"
    with pytest.raises(ValueError, match=message):
        dropout(torch.ones(3), rate, generator)


@pytest.mark.parametrize("bad", [-1, 4, -(2**40)])
def test_embedding_refuses_ids_outside_the_table(bad):
    low, high = min(0, bad), max(0, bad)
    message = rf"^embedding: ids run from {low} to {high}, but the table has rows 0 to 3$"
    with pytest.raises(ValueError, match=message):
        embedding(torch.tensor([[0, bad]]), torch.ones(4, 3))
