"""Attention, proven five ways: spec, reference, laws, gradient, known mistakes."""

import math
from typing import NamedTuple

import pytest
import spec
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proof import (
    EPS,
    EPS_32,
    as_tensor,
    check,
    check_slope,
    differing,
    distance,
    fewer,
    holds,
    normal,
    rejects,
    seeds,
)
from torch import Tensor

from minibert.attention import (
    AttentionTrace,
    attention_probabilities,
    attention_scores,
    causal_bias,
    merge_heads,
    multi_head_attention,
    padding_bias,
    split_heads,
)
from minibert.parameters import AttentionWeights, LinearWeights, named_tensors, with_tensors

# B, N, S, R and K all differ and are prime, so that no swapped axis fits by chance.
B, N, S, R, K = 2, 3, 5, 7, 11
D = N * K


def order_of(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------- splitting and merging


def halves_by_view(x: Tensor, n_heads: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.reshape(batch, n_heads, tokens, width // n_heads)


def every_nth_feature(x: Tensor, n_heads: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.view(batch, tokens, width // n_heads, n_heads).permute(0, 3, 1, 2)


def heads_last(x: Tensor, n_heads: int) -> Tensor:
    return split_heads(x, n_heads).flip(1)


def head_n_is_slice_n(formula, x):
    heads = formula(x, N)
    return sum(differing(heads[:, n], x[..., n * K : (n + 1) * K]) for n in range(N)), 0


def tokens_keep_their_order(formula, x):
    order = order_of(x.shape[1], 1)
    return differing(formula(x[:, order], N), formula(x, N)[:, :, order]), 0


def merging_undoes_splitting(formula, x):
    return differing(merge_heads(formula(x, N)), x), 0


def one_head_is_everything(formula, x):
    return differing(formula(x, 1)[:, 0], x), 0


SPLIT_LAWS = [
    head_n_is_slice_n,
    tokens_keep_their_order,
    merging_undoes_splitting,
    one_head_is_everything,
]


@pytest.mark.parametrize("law", SPLIT_LAWS)
@given(seed=seeds)
def test_split_heads_law(law, seed):
    holds(law, split_heads, normal(seed, B, S, D))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (halves_by_view, head_n_is_slice_n),
        (halves_by_view, tokens_keep_their_order),
        (every_nth_feature, head_n_is_slice_n),
        (heads_last, head_n_is_slice_n),
    ],
)
def test_split_heads_rejects(mistake, law):
    rejects(law, mistake, split_heads, [normal(0, B, S, D)])


@given(seed=seeds)
def test_splitting_undoes_merging(seed):
    x = normal(seed, B, N, S, K)
    assert differing(split_heads(merge_heads(x), N), x) == 0


def test_a_view_with_swapped_heads_passes_every_round_trip():
    """Why `head_n_is_slice_n` is needed: a round trip alone is blind."""
    x = normal(0, B, S, D)
    assert torch.equal(halves_by_view(x, N).reshape(B, S, D), x)


@pytest.mark.parametrize("n_heads", [0, -3, 2, 34])
def test_split_heads_refuses_a_remainder(n_heads):
    with pytest.raises(ValueError, match=f"width 33 does not divide into {n_heads} heads"):
        split_heads(normal(0, B, S, D), n_heads)


# --------------------------------------------------------------------------------------- masks


@given(keep=st.lists(st.lists(st.booleans(), min_size=R, max_size=R), min_size=1, max_size=3))
def test_padding_bias_is_its_spec(keep):
    bias = padding_bias(torch.tensor(keep))
    assert bias.shape == (len(keep), 1, 1, R)
    assert [row.tolist() for row in bias[:, 0]] == [spec.hides_padding(row, 1) for row in keep]


@given(n_queries=st.integers(1, 7), n_keys=st.integers(1, 7))
def test_causal_bias_is_its_spec(n_queries, n_keys):
    bias = causal_bias(n_queries, n_keys)
    assert bias.shape == (1, 1, n_queries, n_keys)
    assert bias[0, 0].tolist() == spec.hides_future(n_queries, n_keys)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_mask_biases_have_the_asked_type(dtype):
    keep = torch.tensor([[True, False]])
    for bias in (padding_bias(keep, dtype), causal_bias(2, 2, dtype)):
        assert bias.dtype == dtype
        assert bias[0, 0, 0].tolist() == [0, -math.inf]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device: no GPU here")
def test_causal_bias_goes_where_it_is_asked_to():
    assert causal_bias(2, 3, device=torch.device("cuda")).device.type == "cuda"


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_padding_bias_refuses_an_additive_mask(dtype):
    with pytest.raises(ValueError, match=r"keep has dtype torch\.\w+, but must be torch\.bool"):
        padding_bias(torch.ones(1, 2, dtype=dtype))


# ----------------------------------------------------------------- scaled dot-product attention


class Case(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return attention_probabilities(attention_scores(query, key), bias) @ value


def random_keep(seed: int, rows: int, columns: int) -> Tensor:
    """Some hidden, in every row at least one visible, and not the first one by rule."""
    draws = normal(seed, rows, columns)
    return (draws > 0) | (draws == draws.amax(-1, keepdim=True))


def attention_case(seed: int, kind: str = "padding") -> Case:
    bias = {
        "padding": lambda: padding_bias(random_keep(seed, B, R), torch.float64),
        "causal": lambda: causal_bias(S, R, torch.float64),
        "any": lambda: (
            torch.where(random_keep(seed, B * S, R), 0.0, -math.inf).double().view(B, 1, S, R)
        ),
    }[kind]()
    return Case(
        normal(seed, B, N, S, K), normal(seed + 1, B, N, R, K), normal(seed + 2, B, N, R, K), bias
    )


attention_cases = st.builds(attention_case, seeds, st.sampled_from(["padding", "causal", "any"]))


def attention_bound(case: Case, eps: float = EPS) -> float:
    """A score of K products is (K/2 + 2) EPS |q||k| off; exp makes that relative; sums follow."""
    size = (case.query.abs() @ case.key.mT.abs()).amax() / math.sqrt(case.query.shape[-1])
    roundings = (case.query.shape[-1] / 2 + 4) * size + case.key.shape[-2] + 8
    return float(eps * roundings * case.value.abs().amax())


def spec_of_attention(query, key, value, bias):
    """`spec.attention` over sentences and heads."""
    return [
        [spec.attention(q, k, v, row) for q, k, v in zip(qs, ks, vs, strict=True)]
        for qs, ks, vs, row in zip(query, key, value, bias, strict=True)
    ]


def listed(case: Case) -> list:
    full = case.bias.expand(B, 1, S, R)[:, 0]
    return [case.query.tolist(), case.key.tolist(), case.value.tolist(), full.tolist()]


@given(case=attention_cases)
def test_attention_is_its_spec(case):
    expected = as_tensor(spec_of_attention(*listed(case)))
    check(distance(attend(*case), expected), attention_bound(case), "attention and its spec")


@given(case=attention_cases)
def test_attention_scores_are_their_spec(case):
    expected = as_tensor(
        [
            [spec.scores(q, k) for q, k in zip(qs, ks, strict=True)]
            for qs, ks in zip(case.query.tolist(), case.key.tolist(), strict=True)
        ]
    )
    unit = (case.query.abs() @ case.key.mT.abs()) / math.sqrt(K)
    error = distance(attention_scores(case.query, case.key), expected, unit)
    check(error, (K / 2 + 2) * EPS, "scores and their spec")


@given(case=attention_cases)
def test_attention_is_the_reference(case):
    expected = F.scaled_dot_product_attention(*case[:3], attn_mask=case.bias)
    check(
        distance(attend(*case), expected), 2 * attention_bound(case), "attention and the reference"
    )


@given(case=attention_cases)
def test_attention_keeps_float32_accuracy(case):
    case = Case(*(part.float() for part in case))
    expected = as_tensor(spec_of_attention(*listed(case)))
    bound = attention_bound(case, EPS_32)
    check(distance(attend(*case), expected), bound, "attention in float32")


def visible(case: Case) -> Tensor:
    """bool [B, N, S, R]"""
    return (case.bias == 0).expand(B, N, S, R)


def results_lie_between_visible_values(formula, case):
    seen, y = visible(case)[..., None], formula(*case)
    value = case.value[:, :, None]  # B N 1 R K
    low = torch.where(seen, value, math.inf).amin(-2)
    high = torch.where(seen, value, -math.inf).amax(-2)
    outside = torch.relu(low - y).amax() + torch.relu(y - high).amax()
    return float(outside), attention_bound(case)


def constant_values_pass_through(formula, case):
    constant = case.value[:, :, :1].expand_as(case.value)
    y = formula(*case._replace(value=constant))
    return distance(y, constant[:, :, :1].expand_as(y)), attention_bound(case)


def order_of_keys_does_not_matter(formula, case):
    order = order_of(R, 1)
    bias = case.bias.expand(B, 1, S, R)[..., order]
    moved = Case(case.query, case.key[:, :, order], case.value[:, :, order], bias)
    return distance(formula(*moved), formula(*case)), 2 * attention_bound(case)


def order_of_queries_is_kept(formula, case):
    order = order_of(S, 1)
    bias = case.bias.expand(B, 1, S, R)
    moved = case._replace(query=case.query[:, :, order], bias=bias[:, :, order])
    full = case._replace(bias=bias)
    return distance(formula(*moved), formula(*full)[:, :, order]), 2 * attention_bound(case)


def hidden_keys_have_no_influence(formula, case):
    """Changing keys and values that no query sees changes no bit."""
    hidden = ~visible(case).any(2)[..., None]  # B N R 1
    changed = case._replace(
        key=torch.where(hidden, 1e4, case.key), value=torch.where(hidden, -1e4, case.value)
    )
    return differing(formula(*changed), formula(*case)), 0


def hiding_a_key_is_deleting_it(formula, case):
    keep = visible(case)[0, 0, -1]  # what the last query of the first sentence sees
    deleted = Case(
        case.query[:1, :, -1:],
        case.key[:1, :, keep],
        case.value[:1, :, keep],
        torch.zeros(1, 1, 1, int(keep.sum()), dtype=torch.float64),
    )
    return distance(formula(*case)[:1, :, -1:], formula(*deleted)), 2 * attention_bound(case)


def adding_one_vector_to_all_keys_cancels(formula, case):
    moved = case._replace(key=case.key + 3 * normal(4, K))
    return distance(formula(*moved), formula(*case)), 2 * attention_bound(moved)


def zero_features_halve_the_scores(formula, case):
    """3K zeros beside K features leave q · k and double √K: the same as half the query."""
    padded = Case(F.pad(case.query, (0, 3 * K)), F.pad(case.key, (0, 3 * K)), case.value, case.bias)
    halved = case._replace(query=case.query / 2)
    return distance(formula(*padded), formula(*halved)), 2 * attention_bound(case)


def two_keys_are_a_sigmoid(formula, case):
    query, key, value = case.query, case.key[:, :, :2], case.value[:, :, :2]
    bias = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    gap = ((key[:, :, None, 0] - key[:, :, None, 1]) * query).sum(-1) / math.sqrt(K)
    share = 1 / (1 + torch.exp(-gap))[..., None]
    expected = share * value[:, :, :1] + (1 - share) * value[:, :, 1:]
    return distance(formula(query, key, value, bias), expected), 2 * attention_bound(case)


def a_query_of_zero_takes_the_mean(formula, case):
    seen = visible(case).double()
    expected = seen @ case.value / seen.sum(-1, keepdim=True)
    y = formula(*case._replace(query=torch.zeros_like(case.query)))
    return distance(y, expected), attention_bound(case)


def doubled_keys_change_nothing(formula, case):
    doubled = Case(
        case.query,
        *(torch.cat((part, part), 2) for part in case[1:3]),
        torch.cat((case.bias, case.bias), -1),
    )
    return distance(formula(*doubled), formula(*case)), 4 * attention_bound(case)


def results_are_linear_in_values(formula, case):
    other = normal(6, *case.value.shape)
    left = formula(*case._replace(value=2 * case.value - 3 * other))
    right = 2 * formula(*case) - 3 * formula(*case._replace(value=other))
    bound = attention_bound(case._replace(value=2 * case.value.abs() + 3 * other.abs()))
    return distance(left, right), 2 * bound


ATTENTION_LAWS = [
    results_lie_between_visible_values,
    constant_values_pass_through,
    order_of_keys_does_not_matter,
    order_of_queries_is_kept,
    hidden_keys_have_no_influence,
    hiding_a_key_is_deleting_it,
    adding_one_vector_to_all_keys_cancels,
    zero_features_halve_the_scores,
    two_keys_are_a_sigmoid,
    a_query_of_zero_takes_the_mean,
    doubled_keys_change_nothing,
    results_are_linear_in_values,
]


@pytest.mark.parametrize("law", ATTENTION_LAWS)
@fewer(2)
@given(case=attention_cases)
def test_attention_law(law, case):
    holds(law, attend, case)


def weigh(scores: Tensor, bias: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(scores + bias, -1) @ value


def unscaled(query, key, value, bias):
    return weigh(query @ key.mT, bias, value)


def scaled_by_the_width(query, key, value, bias):
    return weigh(query @ key.mT / query.shape[-1], bias, value)


def scaled_by_the_model_width(query, key, value, bias):
    """√D for √K: as if the heads had not been split."""
    return weigh(query @ key.mT / math.sqrt(query.shape[-1] * query.shape[1]), bias, value)


def softmax_over_queries(query, key, value, bias):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return torch.softmax(scores + bias.clamp(min=-1e4), -2) @ value


def mask_after_softmax(query, key, value, bias):
    probabilities = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)
    return torch.where(bias == 0, probabilities, 0) @ value


def mask_inverted(query, key, value, bias):
    flipped = torch.where(bias == 0, -1e4, 0.0)
    return weigh(query @ key.mT / math.sqrt(query.shape[-1]), flipped, value)


def mask_of_minus_ten(query, key, value, bias):
    return weigh(query @ key.mT / math.sqrt(query.shape[-1]), bias.clamp(min=-10), value)


def mask_multiplied(query, key, value, bias):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return torch.softmax(scores * (bias == 0), -1) @ value


def mask_ignored(query, key, value, bias):
    return weigh(query @ key.mT / math.sqrt(query.shape[-1]), 0 * bias.clamp(min=-1), value)


def values_for_keys(query, key, value, bias):
    return attend(query, value, key, bias)


def keys_for_values(query, key, value, bias):
    return attend(query, key, key, bias)


def future_seen_by_one(query, key, value, bias):
    return attend(query, key, value, bias.roll(1, -2) if bias.shape[-2] > 1 else bias)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (unscaled, zero_features_halve_the_scores),
        (scaled_by_the_width, zero_features_halve_the_scores),
        (scaled_by_the_width, two_keys_are_a_sigmoid),
        (scaled_by_the_model_width, two_keys_are_a_sigmoid),
        (softmax_over_queries, constant_values_pass_through),
        (softmax_over_queries, adding_one_vector_to_all_keys_cancels),
        (mask_after_softmax, constant_values_pass_through),
        (mask_inverted, results_lie_between_visible_values),
        (mask_of_minus_ten, hidden_keys_have_no_influence),
        (mask_of_minus_ten, hiding_a_key_is_deleting_it),
        (mask_multiplied, hiding_a_key_is_deleting_it),
        (mask_ignored, hidden_keys_have_no_influence),
        (mask_ignored, a_query_of_zero_takes_the_mean),
        (values_for_keys, results_are_linear_in_values),
        (keys_for_values, constant_values_pass_through),
        (future_seen_by_one, a_query_of_zero_takes_the_mean),
    ],
)
def test_attention_rejects(mistake, law):
    cases = [attention_case(seed, kind) for seed in range(3) for kind in ("padding", "causal")]
    rejects(law, mistake, attend, cases)


@given(case=attention_cases, seed=seeds)
@fewer(4)
def test_attention_gradient(case, seed):
    small = Case(*(part[:1, :1] for part in case[:3]), case.bias.expand(B, 1, S, R)[:1])
    bias = small.bias[:, 0].tolist()
    check_slope(
        lambda q, k, v: attend(q, k, v, small.bias),
        lambda q, k, v: spec_of_attention(q, k, v, bias),
        small[:3],
        seed,
    )


def test_scores_of_independent_features_have_variance_one():
    """q · k of K products has variance K; divided by √K it has variance 1 for every K."""
    for width in (2, 64):
        scores = attention_scores(normal(1, 1, 1, 300, width), normal(2, 1, 1, 300, width))
        # 300 queries share 300 keys, so the products are not quite independent
        assert abs(float(scores.var()) - 1) < 6 * math.sqrt(4 / 300)


@pytest.mark.parametrize("mask", ["padding", "causal"])
def test_a_row_that_sees_nothing_takes_nothing(mask):
    """More queries than keys: the first ones stand before every key."""
    scores = normal(0, 1, 1, 3, 2)
    if mask == "padding":
        bias, hidden = padding_bias(torch.tensor([[False, False]]), torch.float64), 3
    else:
        bias, hidden = causal_bias(3, 2, torch.float64), 1
    p = attention_probabilities(scores, bias)
    assert p[0, 0, :hidden].tolist() == [[0, 0]] * hidden
    check(distance(p[0, 0, hidden:].sum(-1), torch.ones(3 - hidden)), 2 * EPS, "other rows")


# ------------------------------------------------------------------------- multi-head attention


class HeadsCase(NamedTuple):
    hidden: Tensor
    memory: Tensor
    bias: Tensor
    weights: AttentionWeights
    n_heads: int


HEADS, WIDTH = 3, 15  # K = 5


def random_attention_weights(seed: int, width: int = WIDTH) -> AttentionWeights:
    parts = [
        LinearWeights(
            normal(seed + i, width, width) / math.sqrt(width), normal(seed + 9 + i, width)
        )
        for i in range(4)
    ]
    return AttentionWeights(*parts)


def heads_case(seed: int) -> HeadsCase:
    return HeadsCase(
        normal(seed, B, S, WIDTH),
        normal(seed + 1, B, R, WIDTH),
        padding_bias(random_keep(seed + 2, B, R), torch.float64),
        random_attention_weights(seed + 3),
        HEADS,
    )


heads_cases = seeds.map(heads_case)


def listed_weights(weights):
    """The same structure with nested lists at its leaves, as `spec` takes it."""
    return with_tensors(weights, {name: t.tolist() for name, t in named_tensors(weights)})


def output_of(hidden, memory, bias, weights, n_heads):
    return multi_head_attention(hidden, memory, bias, weights, n_heads).output_BSD


def spec_of_heads(hidden, memory, bias, weights, n_heads):
    return [
        spec.multi_head_attention(x, m, row * S, weights, n_heads)
        for x, m, row in zip(hidden, memory, bias, strict=True)
    ]


BOUND = 100 * EPS  # four maps of 15 terms and sums of 5 and 7 terms, on numbers of size 1 to 10


@given(case=heads_cases)
@fewer(3)
def test_multi_head_attention_is_its_spec(case):
    lists = (case.hidden.tolist(), case.memory.tolist(), case.bias[:, 0].tolist())
    expected = as_tensor(spec_of_heads(*lists, listed_weights(case.weights), HEADS))
    check(distance(output_of(*case), expected), BOUND, "multi_head_attention and its spec")


@given(case=heads_cases)
def test_multi_head_attention_is_the_reference(case):
    w = case.weights
    expected, _ = F.multi_head_attention_forward(
        case.hidden.transpose(0, 1),
        case.memory.transpose(0, 1),
        case.memory.transpose(0, 1),
        WIDTH,
        HEADS,
        torch.cat([w.query.weight_OI, w.key.weight_OI, w.value.weight_OI]),
        torch.cat([w.query.bias_O, w.key.bias_O, w.value.bias_O]),
        None,
        None,
        False,
        0.0,
        *w.output,
        key_padding_mask=case.bias[:, 0, 0] != 0,
    )
    found = output_of(*case)
    check(distance(found, expected.transpose(0, 1)), BOUND, "multi_head_attention and torch's")


def n_heads_are_n_single_attentions(formula, case):
    """Each head alone, on its rows of three maps, then its columns of the fourth: added up."""
    w, width = case.weights, WIDTH // HEADS
    expected = w.output.bias_O.expand(B, S, WIDTH)
    for n in range(HEADS):
        rows = slice(n * width, (n + 1) * width)
        q = case.hidden @ w.query.weight_OI[rows].T + w.query.bias_O[rows]
        k = case.memory @ w.key.weight_OI[rows].T + w.key.bias_O[rows]
        v = case.memory @ w.value.weight_OI[rows].T + w.value.bias_O[rows]
        taken = attend(q[:, None], k[:, None], v[:, None], case.bias)[:, 0]
        expected = expected + taken @ w.output.weight_OI[:, rows].T
    return distance(formula(*case), expected), BOUND


def heads_may_change_places(formula, case):
    """Reordering heads in Q, K, V and in the columns of the output map changes nothing."""
    order = torch.arange(WIDTH).view(HEADS, -1).roll(1, 0).reshape(-1)
    moved = [LinearWeights(m.weight_OI[order], m.bias_O[order]) for m in case.weights[:3]]
    output = case.weights.output._replace(weight_OI=case.weights.output.weight_OI[:, order])
    weights = AttentionWeights(*moved, output)
    return distance(formula(*case._replace(weights=weights)), formula(*case)), BOUND


def the_key_bias_cancels(formula, case):
    moved = case.weights.key._replace(bias_O=case.weights.key.bias_O + 5)
    weights = case.weights._replace(key=moved)
    return distance(formula(*case._replace(weights=weights)), formula(*case)), 10 * BOUND


def an_identity_at_the_end_shows_the_values(formula, case):
    """Equal values in memory, W_v = W_o = 1: the value comes out, whatever the scores are."""
    one = LinearWeights(torch.eye(WIDTH).double(), torch.zeros(WIDTH).double())
    weights = case.weights._replace(value=one, output=one)
    memory = case.memory[:, :1].expand_as(case.memory)
    y = formula(*case._replace(memory=memory, weights=weights))
    return distance(y, memory[:, :1].expand_as(y)), BOUND


def sentences_do_not_see_each_other(formula, case):
    """The first sentence keeps its bits when the second one changes."""
    hidden, memory = case.hidden.clone(), case.memory.clone()
    hidden[1], memory[1] = 100 * hidden[1], -memory[1]
    changed = formula(*case._replace(hidden=hidden, memory=memory))
    return differing(changed[0], formula(*case)[0]), 0


MULTI_HEAD_LAWS = [
    n_heads_are_n_single_attentions,
    heads_may_change_places,
    the_key_bias_cancels,
    an_identity_at_the_end_shows_the_values,
    sentences_do_not_see_each_other,
]


@pytest.mark.parametrize("law", MULTI_HEAD_LAWS)
@given(case=heads_cases)
@fewer(2)
def test_multi_head_attention_law(law, case):
    holds(law, output_of, case)


def with_parts(case_split, case_merge, scale=None):
    """multi_head_attention with one step replaced."""

    def formula(hidden, memory, bias, w, n_heads):
        q = case_split(hidden @ w.query.weight_OI.T + w.query.bias_O, n_heads)
        k = case_split(memory @ w.key.weight_OI.T + w.key.bias_O, n_heads)
        v = case_split(memory @ w.value.weight_OI.T + w.value.bias_O, n_heads)
        scores = q @ k.mT / math.sqrt(scale or q.shape[-1])
        merged = case_merge(torch.softmax(scores + bias, -1) @ v)
        return merged @ w.output.weight_OI.T + w.output.bias_O

    return formula


def heads_and_tokens_swapped(*case):
    return with_parts(halves_by_view, lambda x: x.reshape(B, S, WIDTH))(*case)


def heads_merged_without_transposing(*case):
    return with_parts(split_heads, lambda x: x.reshape(B, S, WIDTH))(*case)


def divided_by_the_root_of_d(*case):
    return with_parts(split_heads, merge_heads, WIDTH)(*case)


def one_wide_head(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias, weights, 1)


def no_output_map(hidden, memory, bias, weights, n_heads):
    one = LinearWeights(torch.eye(WIDTH).double(), torch.zeros(WIDTH).double())
    return output_of(hidden, memory, bias, weights._replace(output=one), n_heads)


def key_and_value_maps_swapped(hidden, memory, bias, w, n_heads):
    return output_of(hidden, memory, bias, w._replace(key=w.value, value=w.key), n_heads)


def query_and_key_maps_swapped(hidden, memory, bias, w, n_heads):
    return output_of(hidden, memory, bias, w._replace(query=w.key, key=w.query), n_heads)


def values_from_the_asker(hidden, memory, bias, weights, n_heads):
    wide = torch.cat((hidden, hidden[:, : R - S]), 1)
    trace = multi_head_attention(hidden, memory, bias, weights, n_heads)
    values = split_heads(wide @ weights.value.weight_OI.T + weights.value.bias_O, n_heads)
    merged = merge_heads(trace.probabilities_BNSR @ values)
    return merged @ weights.output.weight_OI.T + weights.output.bias_O


def mask_of_another_sentence(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias.roll(1, 0), weights, n_heads)


def mask_on_queries(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias[..., :S].mT.clamp(min=-1e4), weights, n_heads)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (heads_and_tokens_swapped, n_heads_are_n_single_attentions),
        (heads_and_tokens_swapped, heads_may_change_places),
        (heads_merged_without_transposing, n_heads_are_n_single_attentions),
        (heads_merged_without_transposing, heads_may_change_places),
        (divided_by_the_root_of_d, n_heads_are_n_single_attentions),
        (one_wide_head, n_heads_are_n_single_attentions),
        (no_output_map, heads_may_change_places),
        (key_and_value_maps_swapped, the_key_bias_cancels),
        (query_and_key_maps_swapped, the_key_bias_cancels),
        (values_from_the_asker, an_identity_at_the_end_shows_the_values),
        (mask_of_another_sentence, n_heads_are_n_single_attentions),
        (mask_on_queries, n_heads_are_n_single_attentions),
    ],
)
def test_multi_head_attention_rejects(mistake, law):
    rejects(law, mistake, output_of, [heads_case(seed) for seed in range(3)])


@given(seed=seeds)
@fewer(10)
def test_multi_head_attention_gradient(seed):
    """To the two inputs and to all eight tensors of weights at once."""
    case = heads_case(seed)
    names = [name for name, _ in named_tensors(case.weights)]
    bias = case.bias[:, 0].tolist()

    def rebuilt(tensors):
        return with_tensors(case.weights, dict(zip(names, tensors, strict=True)))

    check_slope(
        lambda x, m, *t: output_of(x, m, case.bias, rebuilt(t), HEADS),
        lambda x, m, *t: spec_of_heads(x, m, bias, rebuilt_lists(case.weights, names, t), HEADS),
        [case.hidden, case.memory, *(tensor for _, tensor in named_tensors(case.weights))],
        seed,
    )


def rebuilt_lists(weights, names, lists):
    return with_tensors(weights, dict(zip(names, lists, strict=True)))


def test_the_trace_holds_each_step():
    case = heads_case(5)
    trace = multi_head_attention(*case)
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
    hidden_key = (case.bias != 0).expand_as(trace.probabilities_BNSR)
    assert (trace.probabilities_BNSR[hidden_key] == 0).all()
    probabilities = attention_probabilities(trace.scores_BNSR, case.bias)
    assert torch.equal(probabilities, trace.probabilities_BNSR)


def test_dropout_falls_on_the_probabilities():
    """The trace shows them whole; the output is made of what was left of them."""
    case, rate = heads_case(6), 0.5
    trace = multi_head_attention(*case, rate, torch.Generator().manual_seed(1))
    plain = multi_head_attention(*case)
    draws = torch.rand(plain.probabilities_BNSR.shape, generator=torch.Generator().manual_seed(1))
    kept = torch.where(draws >= rate, plain.probabilities_BNSR / (1 - rate), 0)
    merged = (kept @ plain.value_BNRK).transpose(1, 2).reshape(B, S, WIDTH)
    expected = merged @ case.weights.output.weight_OI.T + case.weights.output.bias_O
    assert torch.equal(trace.probabilities_BNSR, plain.probabilities_BNSR)
    check(distance(trace.output_BSD, expected), BOUND, "output after dropout")
    assert torch.equal(multi_head_attention(*case, rate).output_BSD, plain.output_BSD)


def test_multi_head_attention_refuses_a_remainder():
    with pytest.raises(ValueError, match="width 15 does not divide into 4 heads"):
        multi_head_attention(*heads_case(0)._replace(n_heads=4))
