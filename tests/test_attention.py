"""What the laws of `attention` do not say: refusals, defaults, dtypes, the trace."""

import math
import re

import pytest
import torch

from minibert.attention import (
    AttentionTrace,
    attend,
    attention_probabilities,
    attention_scores,
    causal_bias,
    keys_and_values,
    multi_head_attention,
    padding_bias,
    split_heads,
)
from minibert.laws.attention import (
    HEADS,
    WIDTH,
    B,
    R,
    S,
    heads_and_tokens_swapped,
    heads_case,
    parts_of,
    with_parts,
)
from minibert.laws.law import RandomDraw
from minibert.laws.measure import distance, fresh, normal
from minibert.parameters import named_tensors

CASE = heads_case(RandomDraw("tests"))


def test_a_view_with_swapped_heads_passes_every_round_trip():
    """Why `head_n_is_slice_n` is needed: a round trip alone is blind."""
    x = normal(0, 2, 5, 33)
    assert torch.equal(heads_and_tokens_swapped(x, 3).reshape(2, 5, 33), x)


@pytest.mark.parametrize("n_heads", [0, -1, -3, 2, 34, 66])
def test_split_heads_refuses_a_remainder(n_heads):
    message = rf"^split_heads: width 33 does not divide into {n_heads} heads$"
    with pytest.raises(ValueError, match=message):
        split_heads(normal(0, 2, 5, 33), n_heads)


def test_multi_head_attention_refuses_a_remainder():
    message = r"^split_heads: width 15 does not divide into 4 heads$"
    with pytest.raises(ValueError, match=message):
        multi_head_attention(*CASE._replace(n_heads=4))


def test_keys_and_values_refuse_a_remainder():
    message = r"^split_heads: width 15 does not divide into 4 heads$"
    with pytest.raises(ValueError, match=message):
        keys_and_values(CASE.memory, CASE.weights, 4)


def test_attend_refuses_queries_that_leave_a_remainder():
    kept = normal(0, B, 4, R, 5)
    message = r"^split_heads: width 15 does not divide into 4 heads$"
    with pytest.raises(ValueError, match=message):
        attend(CASE.hidden, kept, kept, CASE.bias, CASE.weights, 4)


@pytest.mark.parametrize(("of_keys", "of_values"), [(1, 3), (3, 1), (1, 1), (5, 5)])
def test_attend_refuses_other_heads_than_those_that_ask(of_keys, of_values):
    """One head of keys would be broadcast to all three without a word."""
    key, value = normal(0, B, of_keys, R, 5), normal(0, B, of_values, R, 5)
    message = f"attend: {of_keys} heads of keys and {of_values} of values, but 3 of queries"
    with pytest.raises(ValueError, match=f"^{message}$"):
        attend(CASE.hidden, key, value, CASE.bias, CASE.weights, HEADS)


def test_what_is_kept_comes_back_in_the_trace():
    key, value = keys_and_values(CASE.memory, CASE.weights, HEADS)
    trace = attend(CASE.hidden, key, value, CASE.bias, CASE.weights, HEADS)
    assert trace.key_BNRK is key
    assert trace.value_BNRK is value
    expected = multi_head_attention(*CASE)
    assert all(torch.equal(a, b) for a, b in zip(trace, expected, strict=True))


def test_attend_drops_as_multi_head_attention_does():
    """Nothing by default, nor without a generator."""
    given = CASE.hidden, *keys_and_values(CASE.memory, CASE.weights, HEADS), *CASE[2:]
    plain = attend(*given).output_BSD
    assert torch.equal(attend(*given, 0.5).output_BSD, plain)
    assert torch.equal(attend(*given, generator=fresh(1)).output_BSD, plain)
    dropped = attend(*given, 0.5, fresh(1)).output_BSD
    assert torch.equal(dropped, multi_head_attention(*CASE, 0.5, fresh(1)).output_BSD)
    assert not torch.equal(dropped, plain)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_padding_bias_refuses_an_additive_mask(dtype):
    message = f"padding_bias: keep has dtype {dtype}, but must be torch.bool"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        padding_bias(torch.ones(1, 2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_mask_biases_have_the_asked_type(dtype):
    keep = torch.tensor([[True, False]])
    for bias in (padding_bias(keep, dtype), causal_bias(2, 2, dtype)):
        assert bias.dtype == dtype
        assert bias[0, 0, 0].tolist() == [0, -math.inf]


def test_mask_biases_are_float32_on_the_cpu_by_default():
    for bias in (padding_bias(torch.tensor([[True, False]])), causal_bias(2, 3)):
        assert bias.dtype == torch.float32
        assert bias.device.type == "cpu"


def test_causal_bias_goes_where_it_is_asked_to():
    """A device without storage is enough to see it."""
    assert causal_bias(2, 3, device=torch.device("meta")).device.type == "meta"


def test_padding_bias_lies_where_its_mask_lies():
    keep = torch.ones(1, 3, dtype=torch.bool, device="meta")
    assert padding_bias(keep).device.type == "meta"


def test_more_queries_than_keys_leave_the_first_ones_without_any():
    p = attention_probabilities(normal(0, 1, 1, 3, 2), causal_bias(3, 2, torch.float64))
    assert p[0, 0, 0].tolist() == [0, 0]
    assert p[0, 0, 1].tolist() == [1, 0]
    assert abs(float(p[0, 0, 2].sum()) - 1) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_result_has_the_dtype_of_its_input(dtype):
    query = torch.ones(1, 1, 2, 3, dtype=dtype)
    scores = attention_scores(query, query)
    assert scores.dtype == dtype
    assert attention_probabilities(scores, causal_bias(2, 2, dtype)).dtype == dtype
    weights = with_parts(CASE.weights, [part.to(dtype) for part in parts_of(CASE.weights)])
    given = [part.to(dtype) for part in CASE[:3]]
    trace = multi_head_attention(*given, weights, HEADS)
    assert {tensor.dtype for _, tensor in named_tensors(trace)} == {dtype}


def test_the_trace_holds_each_step():
    trace = multi_head_attention(*CASE)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(trace)}
    assert shapes == {
        "query_BNSK": (B, HEADS, S, 5),
        "key_BNRK": (B, HEADS, R, 5),
        "value_BNRK": (B, HEADS, R, 5),
        "scores_BNSR": (B, HEADS, S, R),
        "probabilities_BNSR": (B, HEADS, S, R),
        "output_BSD": (B, S, WIDTH),
    }
    assert isinstance(trace, AttentionTrace)
    assert trace.scores_BNSR.isfinite().all()  # before the mask
    expected = attention_scores(trace.query_BNSK, trace.key_BNRK)
    assert torch.equal(trace.scores_BNSR, expected)
    hidden_key = (CASE.bias != 0).expand_as(trace.probabilities_BNSR)
    assert (trace.probabilities_BNSR[hidden_key] == 0).all()
    probabilities = attention_probabilities(trace.scores_BNSR, CASE.bias)
    assert torch.equal(probabilities, trace.probabilities_BNSR)


def test_the_trace_holds_the_three_maps_in_their_order():
    trace = multi_head_attention(*CASE)
    names = ("query", "key", "value")
    for name, seen in zip(names, trace[:3], strict=True):
        given = CASE.hidden if name == "query" else CASE.memory
        weight, bias = getattr(CASE.weights, name)
        assert distance(seen, split_heads(given @ weight.T + bias, HEADS)) < 1e-13, name
