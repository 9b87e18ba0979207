"""Laws of `attention`: heads, masks, scores, probabilities, and many heads side by side."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.attention import (
    attend,
    attention_probabilities,
    attention_scores,
    causal_bias,
    keys_and_values,
    merge_heads,
    multi_head_attention,
    padding_bias,
    split_heads,
)
from minibert.functional import dropout, linear
from minibert.laws import rounding, spec
from minibert.laws.functional import PRECISIONS
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_lists,
    as_tensor,
    differing,
    distance,
    fresh,
    gradients,
    normal,
    order_of,
    seed_of,
    slopes,
    tensor,
)
from minibert.parameters import AttentionWeights, LinearWeights, named_tensors, with_tensors

# B, N, S, R and K all differ and are prime, so that no swapped axis fits by chance.
B, N, S, R, K = 2, 3, 5, 7, 11
NOTHING_ROUNDED = "it moves numbers and rounds none"
NOTHING_COMPUTED = "it is 0 or -inf, which no precision rounds"
NO_NUMBER_GOES_IN = "no input is a real number, so there is no gradient"


def parts_of(structure: Any) -> list[Tensor]:
    """The tensors of a named structure, to be moved all at once."""
    return [part for _, part in named_tensors(structure)]


def with_parts(structure: Any, parts: Sequence[Any]) -> Any:
    """The structure with its tensors replaced by others, or by lists of floats."""
    names = [name for name, _ in named_tensors(structure)]
    return with_tensors(structure, dict(zip(names, parts, strict=True)))


# ----------------------------------------------------------------------------------- split_heads


class SplitCase(NamedTuple):
    x: Tensor
    n_heads: int


def split_case(draw: Draw) -> SplitCase:
    shape, n_heads = draw.choice([((2, 5, 33), 3), ((3, 2, 10), 5), ((1, 3, 6), 6), ((2, 7, 4), 1)])
    return SplitCase(tensor(draw, shape), n_heads)


SPLIT_HEADS = Proof(split_heads, split_case, without={"accuracy": NOTHING_ROUNDED})


def spec_of_split(x, n_heads):
    return [spec.split_heads(sentence, n_heads) for sentence in x]


@SPLIT_HEADS.spec
def a_head_is_its_part_of_every_vector(formula, case):
    expected = as_tensor(spec_of_split(case.x.tolist(), case.n_heads))
    return differing(formula(*case), expected), 0


@SPLIT_HEADS.reference
def heads_are_torchs_chunks(formula, case):
    return differing(formula(*case), torch.stack(case.x.chunk(case.n_heads, -1), 1)), 0


@SPLIT_HEADS.law
def head_n_is_slice_n(formula, case):
    heads, width = formula(*case), case.x.shape[-1] // case.n_heads
    slices = [case.x[..., n * width : (n + 1) * width] for n in range(case.n_heads)]
    return sum(differing(heads[:, n], part) for n, part in enumerate(slices)), 0


@SPLIT_HEADS.law
def tokens_keep_their_order(formula, case):
    order = order_of(case.x.shape[1])
    left = formula(case.x[:, order], case.n_heads)
    return differing(left, formula(*case)[:, :, order]), 0


@SPLIT_HEADS.law
def sentences_keep_their_order(formula, case):
    return differing(formula(case.x.flip(0), case.n_heads), formula(*case).flip(0)), 0


@SPLIT_HEADS.law
def merging_undoes_splitting(formula, case):
    return differing(merge_heads(formula(*case)), case.x), 0


@SPLIT_HEADS.law
def one_head_is_everything(formula, case):
    return differing(formula(case.x, 1)[:, 0], case.x), 0


def changed_one_by_one(x: Tensor) -> Tensor:
    """An elementwise operation."""
    return torch.where(x > 0, x * x, 3 - x)


@SPLIT_HEADS.law
def what_acts_on_each_number_alone_may_come_before_or_after_the_cut(formula, case):
    before = formula(changed_one_by_one(case.x), case.n_heads)
    return differing(before, changed_one_by_one(formula(*case))), 0


@SPLIT_HEADS.gradient
def its_gradient_lays_the_heads_side_by_side(formula, case):
    upstream = normal(7, *formula(*case).shape)
    (found,) = gradients(lambda x: formula(x, case.n_heads), [case.x], upstream)
    return differing(found, torch.cat(upstream.unbind(1), -1)), 0


@SPLIT_HEADS.gradient
def its_slope_is_that_of_the_parts(formula, case):
    return slopes(
        lambda x: formula(x, case.n_heads), lambda x: spec_of_split(x, case.n_heads), [case.x]
    )


@SPLIT_HEADS.mistake(
    head_n_is_slice_n,
    tokens_keep_their_order,
    a_head_is_its_part_of_every_vector,
    source="https://github.com/reczoo/FuxiCTR/issues/30",
)
def heads_and_tokens_swapped(x, n_heads):
    """A view as heads without moving the axis: viewing it back hides the mistake."""
    batch, tokens, width = x.shape
    return x.reshape(batch, n_heads, tokens, width // n_heads)


@SPLIT_HEADS.mistake(head_n_is_slice_n, heads_are_torchs_chunks, merging_undoes_splitting)
def every_nth_feature(x, n_heads):
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, width // n_heads, n_heads).permute(0, 3, 1, 2)


@SPLIT_HEADS.mistake(head_n_is_slice_n, merging_undoes_splitting)
def heads_from_the_end(x, n_heads):
    return split_heads(x, n_heads).flip(1)


@SPLIT_HEADS.mistake(one_head_is_everything, heads_are_torchs_chunks)
def features_laid_out_before_tokens(x, n_heads):
    """A view to [B, N, K, S], then an exchange of the last two axes."""
    batch, tokens, width = x.shape
    return x.reshape(batch, n_heads, width // n_heads, tokens).mT


@SPLIT_HEADS.mistake(
    what_acts_on_each_number_alone_may_come_before_or_after_the_cut, one_head_is_everything
)
def heads_of_length_one(x, n_heads):
    return F.normalize(split_heads(x, n_heads), dim=-1)


@SPLIT_HEADS.mistake(sentences_keep_their_order)
def sentences_by_place(x, n_heads):
    return split_heads(x * torch.arange(1, len(x) + 1)[:, None, None], n_heads)


@SPLIT_HEADS.mistake(its_gradient_lays_the_heads_side_by_side, its_slope_is_that_of_the_parts)
def first_head_not_trained(x, n_heads):
    heads = split_heads(x, n_heads)
    return torch.cat((heads[:, :1].detach(), heads[:, 1:]), 1)


# ----------------------------------------------------------------------------------- merge_heads


def merge_case(draw: Draw) -> Tensor:
    shape = draw.choice([(2, 3, 5, 11), (3, 5, 2, 2), (1, 6, 3, 1), (2, 1, 7, 4)])
    return tensor(draw, shape)


MERGE_HEADS = Proof(merge_heads, merge_case, without={"accuracy": NOTHING_ROUNDED})


def spec_of_merge(x):
    return [spec.merge_heads(sentence) for sentence in x]


@MERGE_HEADS.spec
def a_token_is_its_parts_in_the_order_of_heads(formula, x):
    return differing(formula(x), as_tensor(spec_of_merge(x.tolist()))), 0


@MERGE_HEADS.reference
def it_is_torchs_concatenation(formula, x):
    return differing(formula(x), torch.cat(x.unbind(1), -1)), 0


@MERGE_HEADS.law
def splitting_undoes_merging(formula, x):
    return differing(split_heads(formula(x), x.shape[1]), x), 0


@MERGE_HEADS.law
def a_head_stays_in_its_slice(formula, x):
    changed = x.clone()
    changed[:, -1] += 1
    moved = (formula(changed) != formula(x)).float()
    inside = torch.zeros_like(moved)
    inside[..., -x.shape[-1] :] = 1
    return differing(moved, inside), 0


@MERGE_HEADS.law
def merged_tokens_keep_their_order(formula, x):
    order = order_of(x.shape[2])
    return differing(formula(x[:, :, order]), formula(x)[:, order]), 0


@MERGE_HEADS.law
def what_acts_on_each_number_alone_may_come_before_or_after_the_merge(formula, x):
    return differing(formula(changed_one_by_one(x)), changed_one_by_one(formula(x))), 0


@MERGE_HEADS.gradient
def its_gradient_cuts_into_heads(formula, x):
    upstream = normal(7, *formula(x).shape)
    (found,) = gradients(formula, [x], upstream)
    return differing(found, torch.stack(upstream.chunk(x.shape[1], -1), 1)), 0


@MERGE_HEADS.gradient
def its_slope_is_that_of_the_joined_parts(formula, x):
    return slopes(formula, spec_of_merge, [x])


@MERGE_HEADS.mistake(
    a_token_is_its_parts_in_the_order_of_heads,
    merged_tokens_keep_their_order,
    splitting_undoes_merging,
    source="https://github.com/jsbaan/transformer-from-scratch/pull/6",
)
def merged_without_moving_the_axis(x):
    batch, heads, tokens, width = x.shape
    return x.reshape(batch, tokens, heads * width)


@MERGE_HEADS.mistake(it_is_torchs_concatenation, a_head_stays_in_its_slice)
def heads_interleaved(x):
    batch, heads, tokens, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, tokens, heads * width)


@MERGE_HEADS.mistake(it_is_torchs_concatenation, splitting_undoes_merging)
def heads_merged_from_the_end(x):
    return merge_heads(x.flip(1))


@MERGE_HEADS.mistake(what_acts_on_each_number_alone_may_come_before_or_after_the_merge)
def divided_by_the_root_of_the_heads_merged(x):
    return merge_heads(x) / math.sqrt(x.shape[1])


@MERGE_HEADS.mistake(its_gradient_cuts_into_heads, its_slope_is_that_of_the_joined_parts)
def last_head_not_trained(x):
    return merge_heads(torch.cat((x[:, :-1], x[:, -1:].detach()), 1))


# ---------------------------------------------------------------------------------- padding_bias


def random_keep(seed: int, rows: int, columns: int) -> Tensor:
    """Some hidden, at least one visible in every row, and not always the first."""
    draws = normal(seed, rows, columns)
    return (draws > 0) | (draws == draws.amax(-1, keepdim=True))


def any_keep(draw: Draw) -> Tensor:
    """bool [B, R], among them rows of nothing but padding and rows without any."""
    rows, columns = draw.choice([(3, 7), (2, 5), (1, 1), (1, 3)])
    seed, kind = seed_of(draw), draw.choice(["some", "none", "all", "any"])
    keep = random_keep(seed, rows, columns)
    if kind == "any":
        return as_tensor([[draw.integer(0, 1) for _ in range(columns)] for _ in range(rows)]) > 0
    if kind != "some":
        keep[0] = kind == "all"
    return keep


PADDING_BIAS = Proof(
    padding_bias,
    any_keep,
    without={"gradient": NO_NUMBER_GOES_IN, "accuracy": NOTHING_COMPUTED},
)


@PADDING_BIAS.spec
def it_is_0_where_kept_and_minus_infinity_where_not(formula, keep):
    expected = as_tensor([[spec.hides_padding(row, 1)] for row in keep.tolist()])
    return differing(formula(keep), expected), 0


@PADDING_BIAS.reference
def it_is_torchs_masked_fill(formula, keep):
    expected = torch.zeros(keep.shape).masked_fill(~keep, -math.inf)
    return differing(formula(keep), expected[:, None, None]), 0


def hostile_scores(keep: Tensor) -> Tensor:
    """Hidden keys have a score of 1e4, kept ones of -1e4; as many queries as keys."""
    return torch.where(keep, -1e4, 1e4)[:, None, None].expand(-1, N, keep.shape[1], -1)


@PADDING_BIAS.law
def no_score_overcomes_it(formula, keep):
    """Not even one of 1e4 against visible ones of -1e4."""
    p = torch.softmax(hostile_scores(keep) + formula(keep), -1)[keep.any(-1)]
    hidden = ~keep[keep.any(-1)][:, None, None].expand_as(p)
    return differing(p[hidden], torch.zeros_like(p[hidden])), 0


@PADDING_BIAS.law
def scores_of_kept_tokens_keep_their_bits(formula, keep):
    scores = normal(3, len(keep), N, S, keep.shape[-1])
    seen = keep[:, None, None].expand_as(scores)
    return differing((scores + formula(keep, torch.float64))[seen], scores[seen]), 0


@PADDING_BIAS.law
def two_masks_added_hide_what_either_hides(formula, keep):
    other = keep.roll(1, -1)
    return differing(formula(keep) + formula(other), formula(keep & other)), 0


@PADDING_BIAS.law
def padding_alone_leaves_nothing_to_take(formula, keep):
    nobody = torch.zeros_like(keep)
    p = attention_probabilities(hostile_scores(keep), formula(nobody))
    return differing(p, torch.zeros_like(p)), 0


@PADDING_BIAS.law
def all_heads_and_queries_see_the_same_keys(formula, keep):
    """One row broadcasts to all of them, even to queries that are padding themselves."""
    batch, n_keys = keep.shape
    p = attention_probabilities(normal(3, batch, N, n_keys, n_keys), formula(keep))
    return differing(p > 0, keep[:, None, None].expand_as(p)), 0


@PADDING_BIAS.mistake(
    no_score_overcomes_it,
    padding_alone_leaves_nothing_to_take,
    source="https://github.com/huggingface/transformers/issues/10484",
)
def minus_ten_thousand(keep, dtype=torch.float32):
    return (1 - keep.to(dtype))[:, None, None] * -10000


@PADDING_BIAS.mistake(
    two_masks_added_hide_what_either_hides,
    padding_alone_leaves_nothing_to_take,
    source="https://github.com/huggingface/transformers/pull/17306",
)
def the_smallest_number_of_the_dtype(keep, dtype=torch.float32):
    return (~keep[:, None, None]).to(dtype) * torch.finfo(dtype).min


@PADDING_BIAS.mistake(
    scores_of_kept_tokens_keep_their_bits,
    it_is_torchs_masked_fill,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def kept_and_hidden_exchanged(keep, dtype=torch.float32):
    return padding_bias(~keep, dtype)


@PADDING_BIAS.mistake(
    it_is_0_where_kept_and_minus_infinity_where_not,
    no_score_overcomes_it,
    source="https://github.com/lucidrains/memory-compressed-attention/issues/2",
)
def plus_infinity(keep, dtype=torch.float32):
    return -padding_bias(keep, dtype)


@PADDING_BIAS.mistake(
    all_heads_and_queries_see_the_same_keys,
    no_score_overcomes_it,
    source="https://github.com/hyunwoongko/transformer/pull/40",
)
def on_the_side_of_the_queries(keep, dtype=torch.float32):
    """[B, 1, R, 1]: with as many queries as keys it broadcasts without an error."""
    return padding_bias(keep, dtype).mT


@PADDING_BIAS.mistake(scores_of_kept_tokens_keep_their_bits, no_score_overcomes_it)
def ones_and_zeros(keep, dtype=torch.float32):
    return keep[:, None, None].to(dtype)


@PADDING_BIAS.mistake(scores_of_kept_tokens_keep_their_bits)
def logarithm_of_the_mask_plus_a_little(keep, dtype=torch.float32):
    return torch.log(keep[:, None, None].to(dtype) + 1e-9)


# ----------------------------------------------------------------------------------- causal_bias


class CausalCase(NamedTuple):
    n_queries: int
    n_keys: int


def causal_case(draw: Draw) -> CausalCase:
    return CausalCase(draw.integer(1, 7), draw.integer(1, 7))


CAUSAL_BIAS = Proof(
    causal_bias,
    causal_case,
    without={"gradient": NO_NUMBER_GOES_IN, "accuracy": NOTHING_COMPUTED},
)


@CAUSAL_BIAS.spec
def query_s_sees_the_keys_up_to_its_own_place(formula, case):
    return differing(formula(*case), as_tensor([[spec.hides_future(*case)]])), 0


@CAUSAL_BIAS.reference
def it_is_torchs_lower_triangle(formula, case):
    seen = torch.ones(*case).tril(case.n_keys - case.n_queries) > 0
    expected = torch.zeros(*case).masked_fill(~seen, -math.inf)
    return differing(formula(*case), expected[None, None]), 0


@CAUSAL_BIAS.law
def the_last_query_sees_every_key(formula, case):
    return differing(formula(*case)[0, 0, -1], torch.zeros(case.n_keys)), 0


@CAUSAL_BIAS.law
def each_query_sees_one_key_more_than_the_one_before(formula, case):
    places = torch.arange(case.n_queries) + case.n_keys - case.n_queries + 1
    return differing((formula(*case)[0, 0] == 0).sum(-1), places.clamp(min=0)), 0


@CAUSAL_BIAS.law
def one_step_is_a_row_of_all_steps(formula, case):
    """Query r of R, asked when there are r + 1 tokens, sees the same keys as among all."""
    whole = formula(case.n_keys, case.n_keys)[0, 0]
    steps = [formula(1, r + 1)[0, 0, 0] for r in range(case.n_keys)]
    return sum(differing(step, whole[r, : r + 1]) for r, step in enumerate(steps)), 0


@CAUSAL_BIAS.law
def a_larger_score_in_the_future_stays_hidden(formula, case):
    bias = formula(*case)
    p = attention_probabilities(torch.where(bias == 0, -1e4, 1e4), bias)
    return float(p[bias != 0].abs().sum()), 0


@CAUSAL_BIAS.mistake(the_last_query_sees_every_key, query_s_sees_the_keys_up_to_its_own_place)
def only_the_past_without_the_present(n_queries, n_keys):
    return causal_bias(n_queries + 1, n_keys)[:, :, :-1]


@CAUSAL_BIAS.mistake(
    one_step_is_a_row_of_all_steps,
    each_query_sees_one_key_more_than_the_one_before,
    it_is_torchs_lower_triangle,
)
def places_counted_from_the_start(n_queries, n_keys):
    seen = torch.ones(n_queries, n_keys).tril() > 0
    return torch.zeros(n_queries, n_keys).masked_fill(~seen, -math.inf)[None, None]


@CAUSAL_BIAS.mistake(
    each_query_sees_one_key_more_than_the_one_before,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def past_and_future_exchanged(n_queries, n_keys):
    return causal_bias(n_queries, n_keys).flip(-1, -2)


@CAUSAL_BIAS.mistake(a_larger_score_in_the_future_stays_hidden)
def minus_ten_thousand_for_the_future(n_queries, n_keys):
    return causal_bias(n_queries, n_keys).clamp(min=-10000)


@CAUSAL_BIAS.mistake(each_query_sees_one_key_more_than_the_one_before)
def nothing_hidden(n_queries, n_keys):
    return torch.zeros(1, 1, n_queries, n_keys)


# ------------------------------------------------------------------------------ attention_scores


class ScoreCase(NamedTuple):
    query: Tensor
    key: Tensor


def score_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> ScoreCase:
    """K = 11 features, or two, or a single one."""
    width = draw.choice([K, K, 2, 1])
    return ScoreCase(
        normal(seed_of(draw), B, N, S, width, scale=scale, offset=offset),
        normal(seed_of(draw), B, N, R, width, scale=scale),
    )


def cancelling(draw: Draw) -> ScoreCase:
    """Every product comes twice, once with each sign, so that the exact score is 0."""
    query, key = score_case(draw, 30.0)
    return ScoreCase(torch.cat((query, query), -1), torch.cat((key, -key), -1))


def score_bound(case: ScoreCase) -> Tensor:
    return rounding.scores(*map(rounding.exact, case)).error


ATTENTION_SCORES = Proof(attention_scores, score_case)


def spec_of_scores(query, key):
    return [
        [spec.scores(q, k) for q, k in zip(qs, ks, strict=True)]
        for qs, ks in zip(query, key, strict=True)
    ]


@ATTENTION_SCORES.spec
def a_score_is_a_dot_product_over_the_root_of_k(formula, case):
    expected = as_tensor(spec_of_scores(*(part.tolist() for part in case)))
    return distance(formula(*case), expected, score_bound(case)), 1


@ATTENTION_SCORES.reference
def it_is_torchs_einsum_over_the_root(formula, case):
    expected = torch.einsum("bnsk,bnrk->bnsr", *case) / case.key.shape[-1] ** 0.5
    return distance(formula(*case), expected, score_bound(case)), 2


@ATTENTION_SCORES.law
def zero_features_halve_the_scores(formula, case):
    """3K zeros after K features keep q · k and double √K."""
    padded = formula(*(F.pad(part, (0, 3 * part.shape[-1])) for part in case))
    return distance(padded, formula(*case) / 2, score_bound(case)), 1


@ATTENTION_SCORES.law
def doubling_query_or_key_doubles_the_score(formula, case):
    """A power of two leaves every digit in place."""
    twice = 2 * formula(*case)
    error = differing(formula(2 * case.query, case.key), twice)
    return error + differing(formula(case.query, 2 * case.key), twice), 0


@ATTENTION_SCORES.law
def query_and_key_may_change_places(formula, case):
    return distance(formula(case.key, case.query), formula(*case).mT, score_bound(case).mT), 2


@ATTENTION_SCORES.law
def features_may_be_reordered_together(formula, case):
    order = order_of(case.query.shape[-1])
    moved = formula(*(part[..., order] for part in case))
    return distance(moved, formula(*case), score_bound(case)), 2


@ATTENTION_SCORES.law
def a_score_depends_on_its_query_and_key_alone(formula, case):
    changed = ScoreCase(case.query.clone(), case.key.clone())
    changed.query[:, :, 1:] *= -100
    changed.key[:, :, :-1] += 7
    left, right = formula(*changed)[..., 0, -1], formula(*case)[..., 0, -1]
    return distance(left, right, score_bound(case)[..., 0, -1]), 2


@ATTENTION_SCORES.law(cases=seed_of, cost=20)
def scores_of_independent_features_have_variance_one(formula, seed):
    """For every K. 300 queries share 300 keys, so the products are not quite independent."""
    gaps = [abs(float(formula(*normal(seed, 2, 1, 1, 300, width)).var()) - 1) for width in (2, 64)]
    return max(gaps), 6 * math.sqrt(4 / 300)


@ATTENTION_SCORES.gradient
def its_gradients_are_products_over_the_root(formula, case):
    """dQ = u K / √K,  dK = uᵀ Q / √K"""
    upstream, root = normal(8, B, N, S, R), math.sqrt(case.key.shape[-1])
    to_query, to_key = gradients(formula, case, upstream)
    error = distance(to_query, upstream @ case.key / root)
    return error + distance(to_key, upstream.mT @ case.query / root), 200 * EPS


@ATTENTION_SCORES.gradient(cost=3)
def its_slope_is_that_of_dot_products_over_the_root(formula, case):
    one = [part[:1, :2] for part in case]
    return slopes(formula, spec_of_scores, one)


@ATTENTION_SCORES.accuracy(
    {
        "normal": score_case,
        "tiny": lambda draw: score_case(draw, 1e-15),
        "scores of ±1e4": lambda draw: score_case(draw, 100.0),
        "a large offset": lambda draw: score_case(draw, 1.0, 1e4),
        "cancelling terms": cancelling,
        "equal": lambda draw: ScoreCase(torch.ones(1, 1, 3, K) / 3, torch.ones(1, 1, 2, K) * 1e4),
    }
)
def a_score_is_exact_up_to_the_size_of_its_terms(formula, case):
    expected = as_tensor(spec_of_scores(*(part.double().tolist() for part in case)))
    return distance(formula(*case), expected, score_bound(case)), 1


@ATTENTION_SCORES.mistake(
    zero_features_halve_the_scores,
    a_score_is_a_dot_product_over_the_root_of_k,
    scores_of_independent_features_have_variance_one,
    its_gradients_are_products_over_the_root,
    source="https://github.com/mlc-ai/mlc-llm/pull/3426",
)
def unscaled(query, key):
    return query @ key.mT


@ATTENTION_SCORES.mistake(
    zero_features_halve_the_scores,
    it_is_torchs_einsum_over_the_root,
    scores_of_independent_features_have_variance_one,
    its_slope_is_that_of_dot_products_over_the_root,
)
def divided_by_k(query, key):
    return query @ key.mT / query.shape[-1]


@ATTENTION_SCORES.mistake(
    a_score_is_a_dot_product_over_the_root_of_k,
    source="https://github.com/karpathy/ng-video-lecture/pull/6",
)
def divided_by_the_root_of_d(query, key):
    """As if the heads had not been split."""
    return query @ key.mT / math.sqrt(query.shape[-1] * query.shape[1])


@ATTENTION_SCORES.mistake(
    a_score_is_a_dot_product_over_the_root_of_k,
    zero_features_halve_the_scores,
    source="https://github.com/tenstorrent/tt-metal/pull/56789",
)
def divided_by_the_root_of_the_number_of_heads(query, key):
    return query @ key.mT / math.sqrt(query.shape[1])


@ATTENTION_SCORES.mistake(query_and_key_may_change_places)
def divided_by_the_root_of_the_number_of_keys(query, key):
    return query @ key.mT / math.sqrt(key.shape[-2])


@ATTENTION_SCORES.mistake(doubling_query_or_key_doubles_the_score)
def cosines(query, key):
    return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT


@ATTENTION_SCORES.mistake(features_may_be_reordered_together)
def features_in_two_orders(query, key):
    return attention_scores(query, key.flip(-1))


@ATTENTION_SCORES.mistake(a_score_depends_on_its_query_and_key_alone)
def keys_centred(query, key):
    return attention_scores(query, key - key.mean(-2, keepdim=True))


@ATTENTION_SCORES.mistake(
    a_score_is_exact_up_to_the_size_of_its_terms, a_score_is_a_dot_product_over_the_root_of_k
)
def scale_of_twelve_bits(query, key):
    return query @ key.mT * (1 / math.sqrt(query.shape[-1]) * (1 + 2.0**-4))


@ATTENTION_SCORES.mistake(
    its_gradients_are_products_over_the_root, its_slope_is_that_of_dot_products_over_the_root
)
def keys_not_trained(query, key):
    return attention_scores(query, key.detach())


# ----------------------------------------------------------------------- attention_probabilities


class MaskedCase(NamedTuple):
    scores: Tensor
    bias: Tensor


KINDS = ("padding", "causal", "any", "hidden")


def mask_of(kind: str, seed: int) -> Tensor:
    """An additive mask in float64; only "hidden" has queries that see no key."""
    if kind == "causal":
        return causal_bias(S, R, torch.float64)
    if kind == "any":
        keep = random_keep(seed, B * S, R)
        return torch.where(keep, 0.0, -math.inf).double().view(B, 1, S, R)
    keep = random_keep(seed, B, R)
    keep[0] &= kind != "hidden"
    return padding_bias(keep, torch.float64)


def masked_case(
    draw: Draw, scale: float = 1.0, offset: float = 0.0, kinds: tuple[str, ...] = KINDS
) -> MaskedCase:
    scores = normal(seed_of(draw), B, N, S, R, scale=scale, offset=offset)
    return MaskedCase(scores, mask_of(draw.choice(kinds), seed_of(draw)))


def seeing(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> MaskedCase:
    return masked_case(draw, scale, offset, KINDS[:3])


def seen_of(case: MaskedCase) -> Tensor:
    """bool [B, N, S, R]"""
    return (case.bias == 0).expand_as(case.scores)


def probability_bound(case: MaskedCase) -> Tensor:
    given = rounding.exact(case.scores)
    return rounding.softmax(given._replace(value=given.value + case.bias.double())).error


ATTENTION_PROBABILITIES = Proof(attention_probabilities, masked_case)


def rows_of_bias(bias: Tensor) -> list[Any]:
    """One full mask per sentence: [B][S][R]."""
    return bias[:, 0].expand(-1, S, R).expand(B, S, R).tolist()


def spec_of_probabilities(scores, bias):
    return [
        [spec.probabilities(head, row) for head in heads]
        for heads, row in zip(scores, bias, strict=False)
    ]


@ATTENTION_PROBABILITIES.spec
def they_are_the_softmax_of_what_is_seen(formula, case):
    lists = case.scores.tolist(), rows_of_bias(case.bias)
    expected = as_tensor(spec_of_probabilities(*lists))
    return distance(formula(*case), expected, probability_bound(case)), 1


@ATTENTION_PROBABILITIES.reference
def they_are_torchs_softmax_where_a_key_is_seen(formula, case):
    seen = seen_of(case).any(-1)
    expected = F.softmax(case.scores + case.bias, -1)[seen]
    return distance(formula(*case)[seen], expected, probability_bound(case)[seen]), 2


@ATTENTION_PROBABILITIES.law
def rows_sum_to_one_or_are_all_zero(formula, case):
    p, expected = formula(*case), seen_of(case).any(-1).double()
    return distance(p.sum(-1), expected) + float((p < 0).sum()), 2 * R * EPS


@ATTENTION_PROBABILITIES.law
def hidden_keys_get_nothing_whatever_their_score(formula, case):
    seen = seen_of(case)
    p = formula(torch.where(seen, case.scores - 1e4, 1e4), case.bias)
    return float(p[~seen].abs().sum()), 0


@ATTENTION_PROBABILITIES.law
def scores_of_hidden_keys_change_no_bit(formula, case):
    changed = torch.where(seen_of(case), case.scores, -case.scores - 100)
    return differing(formula(changed, case.bias), formula(*case)), 0


@ATTENTION_PROBABILITIES.law
def a_query_that_sees_nothing_takes_nothing(formula, case):
    bias = torch.full((B, 1, S, 1), -math.inf).double()
    return differing(formula(case.scores, bias), torch.zeros_like(case.scores)), 0


@ATTENTION_PROBABILITIES.law
def ratios_of_visible_keys_ignore_the_mask(formula, case):
    """The share of hidden keys goes to the others in proportion."""
    seen, free = seen_of(case), formula(case.scores, torch.zeros_like(case.bias))
    left = torch.where(seen, free, 0)
    expected = left / left.sum(-1, keepdim=True).clamp(min=1e-300)
    return distance(formula(*case), expected), 8 * R * EPS


@ATTENTION_PROBABILITIES.law
def a_number_added_to_all_scores_of_a_query_cancels(formula, case):
    moved = case.scores + normal(3, B, N, S, 1)
    return distance(formula(moved, case.bias), formula(*case)), 64 * EPS


@ATTENTION_PROBABILITIES.law
def the_mask_alone_shares_equally(formula, case):
    seen = seen_of(case).double()
    expected = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    return differing(formula(torch.zeros_like(case.scores), case.bias), expected), 0


@ATTENTION_PROBABILITIES.law
def half_precision_probabilities_are_float32_rounded_once(formula, case):
    error = 0.0
    for dtype in (torch.float16, torch.bfloat16):
        half = [part.to(dtype) for part in case]
        error += differing(formula(*half), formula(*(part.float() for part in half)).to(dtype))
    return error, 0


@ATTENTION_PROBABILITIES.law
def their_dtype_is_that_of_the_scores_plus_the_mask(formula, case):
    wrong = 0
    for one, other in product(PRECISIONS, PRECISIONS):
        found = formula(case.scores.to(one), case.bias.to(other)).dtype
        wrong += found != torch.promote_types(one, other)
    return wrong, 0


@ATTENTION_PROBABILITIES.gradient
def its_jacobian_is_that_of_softmax_and_0_where_hidden(formula, case):
    """da = p (u - Σ p u)"""
    upstream, seen = normal(8, B, N, S, R), seen_of(case)
    (found,) = gradients(lambda scores: formula(scores, case.bias), [case.scores], upstream)
    p = torch.where(seen, F.softmax(case.scores + case.bias, -1), 0)
    closed = p * (upstream - (p * upstream).sum(-1, keepdim=True))
    return distance(found, closed) + float(found[~seen].abs().sum()), 50 * EPS


@ATTENTION_PROBABILITIES.gradient(cost=4)
def its_slope_is_that_of_the_softmax_of_what_is_seen(formula, case):
    bias = rows_of_bias(case.bias)
    return slopes(
        lambda scores: formula(scores, case.bias[:1]),
        lambda scores: spec_of_probabilities(scores, bias),
        [case.scores[:1, :2]],
    )


@ATTENTION_PROBABILITIES.accuracy(
    {
        "normal": seeing,
        "tiny": lambda draw: seeing(draw, 1e-30),
        "large": lambda draw: seeing(draw, 50.0),
        "scores of ±1e4": lambda draw: seeing(draw, 1e4),
        "equal": lambda draw: seeing(draw, 0.0, 3.0),
        "a large offset": lambda draw: seeing(draw, 1.0, 1e4),
        "fully masked": lambda draw: masked_case(draw, kinds=("hidden",)),
    },
    torch_twin=lambda scores, bias: F.softmax(scores + bias, -1),
)
def each_probability_keeps_its_digits_under_the_mask(formula, case):
    lists = case.scores.double().tolist(), rows_of_bias(case.bias)
    expected = as_tensor(spec_of_probabilities(*lists))
    return distance(formula(*case), expected, probability_bound(case)), 1


@ATTENTION_PROBABILITIES.mistake(
    rows_sum_to_one_or_are_all_zero,
    ratios_of_visible_keys_ignore_the_mask,
    source="https://github.com/huggingface/pytorch-image-models/pull/2236",
)
def mask_after_softmax(scores, bias):
    return torch.where(bias == 0, torch.softmax(scores, -1), 0)


@ATTENTION_PROBABILITIES.mistake(
    hidden_keys_get_nothing_whatever_their_score,
    they_are_torchs_softmax_where_a_key_is_seen,
    source="https://github.com/georg-wolflein/good-features/pull/1",
)
def mask_multiplied(scores, bias):
    return torch.softmax(scores * (bias == 0), -1)


@ATTENTION_PROBABILITIES.mistake(
    hidden_keys_get_nothing_whatever_their_score,
    a_query_that_sees_nothing_takes_nothing,
    source="https://github.com/huggingface/transformers/issues/10484",
)
def mask_of_minus_ten_thousand(scores, bias):
    return torch.softmax(scores + bias.clamp(min=-1e4), -1)


@ATTENTION_PROBABILITIES.mistake(
    scores_of_hidden_keys_change_no_bit, hidden_keys_get_nothing_whatever_their_score
)
def mask_of_minus_ten(scores, bias):
    return torch.softmax(scores + bias.clamp(min=-10), -1)


@ATTENTION_PROBABILITIES.mistake(
    the_mask_alone_shares_equally,
    its_jacobian_is_that_of_softmax_and_0_where_hidden,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def mask_inverted(scores, bias):
    return attention_probabilities(scores, torch.where(bias == 0, -math.inf, 0.0))


@ATTENTION_PROBABILITIES.mistake(scores_of_hidden_keys_change_no_bit, the_mask_alone_shares_equally)
def mask_ignored(scores, bias):
    return torch.softmax(scores, -1)


@ATTENTION_PROBABILITIES.mistake(
    a_query_that_sees_nothing_takes_nothing,
    they_are_the_softmax_of_what_is_seen,
    source="https://github.com/pytorch/pytorch/pull/131060",
    nan=True,
)
def nan_for_a_query_that_sees_nothing(scores, bias):
    return torch.softmax(scores + bias, -1)


@ATTENTION_PROBABILITIES.mistake(
    rows_sum_to_one_or_are_all_zero,
    a_number_added_to_all_scores_of_a_query_cancels,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
)
def softmax_over_the_queries(scores, bias):
    return torch.softmax(scores + bias.clamp(min=-1e4), -2)


@ATTENTION_PROBABILITIES.mistake(their_dtype_is_that_of_the_scores_plus_the_mask)
def dtype_of_the_scores_alone(scores, bias):
    return attention_probabilities(scores, bias).to(scores.dtype)


@ATTENTION_PROBABILITIES.mistake(
    half_precision_probabilities_are_float32_rounded_once,
    each_probability_keeps_its_digits_under_the_mask,
)
def summed_in_half_precision(scores, bias):
    masked = scores + bias
    weights = torch.exp(masked - masked.amax(-1, keepdim=True).clamp(min=-6e4))
    return weights / weights.sum(-1, keepdim=True).clamp(min=1)


@ATTENTION_PROBABILITIES.mistake(
    its_jacobian_is_that_of_softmax_and_0_where_hidden,
    its_slope_is_that_of_the_softmax_of_what_is_seen,
)
def denominator_not_trained(scores, bias):
    weights = torch.where(bias == 0, torch.exp(scores), 0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300).detach()


# -------------------------------------------------------- scaled dot-product attention as a whole


class Case(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor


def take(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return attention_probabilities(attention_scores(query, key), bias) @ value


def attention_case(
    draw: Draw,
    scale: float = 1.0,
    value_scale: float = 1.0,
    kinds: tuple[str, ...] = KINDS[:3],
) -> Case:
    return Case(
        normal(seed_of(draw), B, N, S, K, scale=scale),
        normal(seed_of(draw), B, N, R, K, scale=scale),
        normal(seed_of(draw), B, N, R, K, scale=value_scale),
        mask_of(draw.choice(kinds), seed_of(draw)),
    )


def rounded_attention(
    query: rounding.Rounded, key: rounding.Rounded, value: rounding.Rounded, bias: Tensor
) -> rounding.Rounded:
    scores = rounding.scores(query, key)
    masked = scores._replace(value=scores.value + bias.double())
    return rounding.product(rounding.softmax(masked), value)


def attention_bound(case: Case) -> Tensor:
    query, key, value = (rounding.exact(part) for part in case[:3])
    return rounded_attention(query, key, value, case.bias).error


ATTENTION = Proof(
    take,
    attention_case,
    of=(attention_scores, attention_probabilities),
    name="scaled_dot_product_attention",
)


def spec_of_attention(query, key, value, bias):
    """`spec.attention` over sentences and heads."""
    return [
        [spec.attention(q, k, v, row) for q, k, v in zip(qs, ks, vs, strict=True)]
        for qs, ks, vs, row in zip(query, key, value, bias, strict=False)
    ]


@ATTENTION.spec(cost=2)
def it_is_the_weighted_mean_of_values(formula, case):
    lists = [part.tolist() for part in case[:3]]
    expected = as_tensor(spec_of_attention(*lists, rows_of_bias(case.bias)))
    return distance(formula(*case), expected, attention_bound(case)), 1


@ATTENTION.reference
def it_is_torchs_scaled_dot_product_attention(formula, case):
    expected = F.scaled_dot_product_attention(*case[:3], attn_mask=case.bias)
    return distance(formula(*case), expected, attention_bound(case)), 2


def visible(case: Case) -> Tensor:
    """bool [B, N, S, R]"""
    return (case.bias == 0).expand(B, N, S, R)


def in_full(case: Case) -> Case:
    return case._replace(bias=case.bias.expand(B, 1, S, R))


@ATTENTION.law
def results_lie_between_visible_values(formula, case):
    seen, y = visible(case)[..., None], formula(*case)
    value = case.value[:, :, None]  # B N 1 R K
    low = torch.where(seen, value, math.inf).amin(-2)
    high = torch.where(seen, value, -math.inf).amax(-2)
    outside = torch.relu(low - y) + torch.relu(y - high)
    return distance(outside, torch.zeros_like(y), attention_bound(case)), 1


@ATTENTION.law
def constant_values_pass_through(formula, case):
    constant = case._replace(value=case.value[:, :, :1].expand_as(case.value))
    y = formula(*constant)
    return distance(y, case.value[:, :, :1].expand_as(y), attention_bound(constant)), 1


@ATTENTION.law
def the_order_of_keys_does_not_matter(formula, case):
    order, bias = order_of(R), in_full(case).bias
    moved = Case(case.query, case.key[:, :, order], case.value[:, :, order], bias[..., order])
    return distance(formula(*moved), formula(*case), attention_bound(case)), 2


@ATTENTION.law
def the_order_of_queries_is_kept(formula, case):
    order, full = order_of(S), in_full(case)
    moved = full._replace(query=case.query[:, :, order], bias=full.bias[:, :, order])
    bound = attention_bound(full)[:, :, order]
    return distance(formula(*moved), formula(*full)[:, :, order], bound), 2


@ATTENTION.law
def hidden_keys_have_no_influence(formula, case):
    """Changing keys and values that no query sees changes no bit."""
    hidden = ~visible(case).any(2)[..., None]  # B N R 1
    changed = case._replace(
        key=torch.where(hidden, 1e4, case.key), value=torch.where(hidden, -1e4, case.value)
    )
    return differing(formula(*changed), formula(*case)), 0


@ATTENTION.law
def hiding_a_key_is_deleting_it(formula, case):
    keep = visible(case)[0, 0, -1]  # what the last query of the first sentence sees
    deleted = Case(
        case.query[:1, :, -1:],
        case.key[:1, :, keep],
        case.value[:1, :, keep],
        torch.zeros(1, 1, 1, int(keep.sum()), dtype=torch.float64),
    )
    bound = attention_bound(case)[:1, :, -1:]
    return distance(formula(*case)[:1, :, -1:], formula(*deleted), bound), 2


@ATTENTION.law
def adding_one_vector_to_all_keys_cancels(formula, case):
    moved = case._replace(key=case.key + 3 * normal(4, K))
    return distance(formula(*moved), formula(*case), attention_bound(moved)), 2


@ATTENTION.law
def zero_features_are_half_the_query(formula, case):
    """3K zeros after K features keep q · k and double √K: the same as half the query."""
    padded = Case(F.pad(case.query, (0, 3 * K)), F.pad(case.key, (0, 3 * K)), *case[2:])
    halved = case._replace(query=case.query / 2)
    return distance(formula(*padded), formula(*halved), attention_bound(halved)), 2


@ATTENTION.law
def two_keys_are_a_sigmoid(formula, case):
    key, value = case.key[:, :, :2], case.value[:, :, :2]
    pair = Case(case.query, key, value, torch.zeros(1, 1, 1, 2, dtype=torch.float64))
    gap = ((key[:, :, None, 0] - key[:, :, None, 1]) * case.query).sum(-1) / math.sqrt(K)
    share = 1 / (1 + torch.exp(-gap))[..., None]
    expected = share * value[:, :, :1] + (1 - share) * value[:, :, 1:]
    return distance(formula(*pair), expected, attention_bound(pair)), 2


@ATTENTION.law
def a_query_of_zero_takes_the_mean(formula, case):
    seen = visible(case).double()
    expected = seen @ case.value / seen.sum(-1, keepdim=True)
    still = case._replace(query=torch.zeros_like(case.query))
    return distance(formula(*still), expected, attention_bound(still)), 1


@ATTENTION.law
def doubled_keys_change_nothing(formula, case):
    twice = [torch.cat((part, part), 2) for part in case[1:3]]
    doubled = Case(case.query, *twice, torch.cat((case.bias, case.bias), -1))
    return distance(formula(*doubled), formula(*case), attention_bound(doubled)), 2


@ATTENTION.law
def results_are_linear_in_values(formula, case):
    other = normal(6, *case.value.shape)
    left = formula(*case._replace(value=2 * case.value - 3 * other))
    right = 2 * formula(*case) - 3 * formula(*case._replace(value=other))
    bound = attention_bound(case._replace(value=2 * case.value.abs() + 3 * other.abs()))
    return distance(left, right, bound), 2


@ATTENTION.law
def sentences_and_heads_do_not_see_each_other(formula, case):
    full, changed = in_full(case), [part.clone() for part in in_full(case)]
    for part in changed[:3]:
        part[0, 1:] *= -2
        part[1:] += 1
    changed[3] = torch.cat((full.bias[:1], full.bias[1:].flip(-1)))
    return differing(formula(*changed)[0, 0], formula(*full)[0, 0]), 0


@ATTENTION.gradient
def its_gradients_have_a_closed_form(formula, case):
    """dV = Pᵀ u;  dA = P (u Vᵀ - Σ P u Vᵀ);  dQ = dA K / √K;  dK = dAᵀ Q / √K"""
    query, key, value, bias = case
    upstream = normal(8, B, N, S, K)
    p = F.softmax(query @ key.mT / math.sqrt(K) + bias, -1)
    to_p = upstream @ value.mT
    to_scores = p * (to_p - (p * to_p).sum(-1, keepdim=True)) / math.sqrt(K)
    closed = to_scores @ key, to_scores.mT @ query, p.mT @ upstream
    found = gradients(lambda *parts: formula(*parts, bias), case[:3], upstream)
    return sum(map(distance, found, closed)), 1000 * EPS


@ATTENTION.gradient(cost=6)
def its_slope_is_that_of_the_weighted_mean(formula, case):
    bias = rows_of_bias(case.bias)
    return slopes(
        lambda *parts: formula(*parts, case.bias[:1]),
        lambda *parts: spec_of_attention(*parts, bias),
        [part[:1, :1] for part in case[:3]],
    )


@ATTENTION.accuracy(
    {
        "normal": attention_case,
        "tiny": lambda draw: attention_case(draw, 1e-15, 1e-15),
        "scores of ±1e2": lambda draw: attention_case(draw, 6.0),
        "scores of ±1e4": lambda draw: attention_case(draw, 60.0),
        "large values": lambda draw: attention_case(draw, 1.0, 1e4),
        "equal": lambda draw: attention_case(draw, 0.0),
        "fully masked": lambda draw: attention_case(draw, kinds=("hidden",)),
    },
    torch_twin=lambda query, key, value, bias: F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias
    ),
    cost=2,
)
def it_is_exact_up_to_the_rounding_of_its_scores(formula, case):
    lists = [part.double().tolist() for part in case[:3]]
    expected = as_tensor(spec_of_attention(*lists, rows_of_bias(case.bias)))
    return distance(formula(*case), expected, attention_bound(case)), 1


def weigh(scores: Tensor, bias: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(scores + bias, -1) @ value


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / math.sqrt(query.shape[-1])


@ATTENTION.mistake(
    zero_features_are_half_the_query,
    its_gradients_have_a_closed_form,
    source="https://github.com/mlc-ai/mlc-llm/pull/3426",
)
def without_the_root(query, key, value, bias):
    return weigh(query @ key.mT, bias, value)


@ATTENTION.mistake(
    zero_features_are_half_the_query,
    two_keys_are_a_sigmoid,
    it_is_torchs_scaled_dot_product_attention,
)
def scaled_by_the_width(query, key, value, bias):
    return weigh(query @ key.mT / query.shape[-1], bias, value)


@ATTENTION.mistake(
    two_keys_are_a_sigmoid,
    it_is_the_weighted_mean_of_values,
    source="https://github.com/karpathy/ng-video-lecture/pull/6",
)
def scaled_by_the_model_width(query, key, value, bias):
    """√D for √K: as if the heads had not been split."""
    return weigh(query @ key.mT / math.sqrt(query.shape[-1] * query.shape[1]), bias, value)


@ATTENTION.mistake(
    constant_values_pass_through,
    adding_one_vector_to_all_keys_cancels,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
)
def softmax_over_queries(query, key, value, bias):
    return torch.softmax(scores_of(query, key) + bias.clamp(min=-1e4), -2) @ value


@ATTENTION.mistake(
    constant_values_pass_through,
    source="https://github.com/huggingface/pytorch-image-models/pull/2236",
)
def mask_on_the_probabilities(query, key, value, bias):
    return torch.where(bias == 0, torch.softmax(scores_of(query, key), -1), 0) @ value


@ATTENTION.mistake(
    results_lie_between_visible_values,
    it_is_the_weighted_mean_of_values,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def visible_and_hidden_exchanged(query, key, value, bias):
    return weigh(scores_of(query, key), torch.where(bias == 0, -1e4, 0.0), value)


@ATTENTION.mistake(hidden_keys_have_no_influence, hiding_a_key_is_deleting_it)
def hidden_by_ten(query, key, value, bias):
    return weigh(scores_of(query, key), bias.clamp(min=-10), value)


@ATTENTION.mistake(
    hidden_keys_have_no_influence,
    source="https://github.com/huggingface/transformers/issues/10484",
)
def hidden_by_ten_thousand(query, key, value, bias):
    return weigh(scores_of(query, key), bias.clamp(min=-1e4), value)


@ATTENTION.mistake(
    hiding_a_key_is_deleting_it,
    source="https://github.com/georg-wolflein/good-features/pull/1",
)
def scores_times_the_mask(query, key, value, bias):
    return torch.softmax(scores_of(query, key) * (bias == 0), -1) @ value


@ATTENTION.mistake(hidden_keys_have_no_influence, a_query_of_zero_takes_the_mean)
def no_mask_at_all(query, key, value, bias):
    return weigh(scores_of(query, key), 0 * bias.clamp(min=-1), value)


@ATTENTION.mistake(results_are_linear_in_values)
def values_for_keys(query, key, value, bias):
    return take(query, value, key, bias)


@ATTENTION.mistake(constant_values_pass_through)
def keys_for_values(query, key, value, bias):
    return take(query, key, key, bias)


@ATTENTION.mistake(a_query_of_zero_takes_the_mean, it_is_the_weighted_mean_of_values)
def future_seen_by_one(query, key, value, bias):
    return take(query, key, value, bias.roll(1, -2) if bias.shape[-2] > 1 else bias)


@ATTENTION.mistake(doubled_keys_change_nothing, two_keys_are_a_sigmoid)
def scaled_by_the_number_of_keys(query, key, value, bias):
    return weigh(query @ key.mT / math.sqrt(key.shape[-2]), bias, value)


@ATTENTION.mistake(the_order_of_keys_does_not_matter)
def near_keys_favoured(query, key, value, bias):
    return weigh(scores_of(query, key) + torch.arange(key.shape[-2]), bias, value)


@ATTENTION.mistake(the_order_of_queries_is_kept)
def later_queries_sharper(query, key, value, bias):
    return take(query * torch.arange(query.shape[-2])[:, None], key, value, bias)


@ATTENTION.mistake(
    sentences_and_heads_do_not_see_each_other,
    source="https://github.com/PetrochukM/PyTorch-NLP/issues/2",
)
def softmax_over_the_batch(query, key, value, bias):
    return torch.softmax(scores_of(query, key) + bias.clamp(min=-1e4), 0) @ value


@ATTENTION.mistake(it_is_exact_up_to_the_rounding_of_its_scores)
def scores_in_eight_bits(query, key, value, bias):
    scores = scores_of(query, key)
    return weigh(scores.to(torch.float8_e4m3fn).to(scores.dtype), bias, value)


@ATTENTION.mistake(its_gradients_have_a_closed_form, its_slope_is_that_of_the_weighted_mean)
def scores_not_trained(query, key, value, bias):
    return take(query.detach(), key.detach(), value, bias)


# ------------------------------------------------------------------------------- keys_and_values

HEADS, WIDTH = 3, 15  # a head is 5 wide
MAPS = [(15, 3, 5), (15, 2, 5), (7, 3, 2), (11, 1, 4)]  # D, N, K: N K is D in the first alone


def attention_weights(
    seed: int, width: int = WIDTH, scale: float = 1.0, joined: int = 0
) -> AttentionWeights:
    """No bias is 0, so that forgetting one shows. `joined` is N K if it differs from the width."""
    joined = joined or width
    shapes = [(joined, width)] * 3 + [(width, joined)]
    maps = [
        LinearWeights(normal(seed + i, o, n, scale=scale / math.sqrt(n)), normal(seed + 9 + i, o))
        for i, (o, n) in enumerate(shapes)
    ]
    return AttentionWeights(*maps)


class MemoryCase(NamedTuple):
    memory: Tensor
    weights: AttentionWeights
    n_heads: int


def memory_case(draw: Draw, scale: float = 1.0, weight_scale: float = 1.0) -> MemoryCase:
    width, n_heads, size = draw.choice(MAPS)
    return MemoryCase(
        normal(seed_of(draw), B, R, width, scale=scale),
        attention_weights(seed_of(draw), width, weight_scale, n_heads * size),
        n_heads,
    )


def kept(memory, weights, n_heads):
    """[2, B, N, R, K], keys first."""
    return torch.stack(keys_and_values(memory, weights, n_heads))


def rounded_map(x: rounding.Rounded, map_: LinearWeights, n_heads: int) -> rounding.Rounded:
    """A linear map whose results are cut into heads."""
    y = rounding.linear(x, *map_)
    return y._replace(value=split_heads(y.value, n_heads), error=split_heads(y.error, n_heads))


def memory_bound(case: MemoryCase) -> Tensor:
    memory, w = rounding.exact(case.memory), case.weights
    return torch.stack([rounded_map(memory, m, case.n_heads).error for m in (w.key, w.value)])


KEYS_AND_VALUES = Proof(kept, memory_case, of=(keys_and_values,))


def spec_of_kept(memory, weights, n_heads):
    pairs = [spec.keys_and_values(sentence, weights, n_heads) for sentence in memory]
    return [list(part) for part in zip(*pairs, strict=True)]


def wide_lists(weights: AttentionWeights) -> Any:
    return as_lists(with_parts(weights, [part.double() for part in parts_of(weights)]))


@KEYS_AND_VALUES.spec
def they_are_slices_of_two_maps(formula, case):
    lists = case.memory.tolist(), wide_lists(case.weights), case.n_heads
    return distance(formula(*case), as_tensor(spec_of_kept(*lists)), memory_bound(case)), 1


@KEYS_AND_VALUES.reference
def they_are_torchs_linear_maps_in_chunks(formula, case):
    maps = case.weights.key, case.weights.value
    parts = [F.linear(case.memory, *m).unflatten(-1, (case.n_heads, -1)) for m in maps]
    expected = torch.stack(parts).transpose(2, 3)
    return distance(formula(*case), expected, memory_bound(case)), 2


@KEYS_AND_VALUES.law
def the_memory_may_come_in_parts(formula, case):
    """In two parts, and token by token: equal up to rounding, not bit for bit."""
    whole, error = formula(*case), 0.0
    for sizes in ([3, R - 3], [1] * R):
        parts = [formula(m, *case[1:]) for m in case.memory.split(sizes, 1)]
        error = max(error, distance(torch.cat(parts, 3), whole, memory_bound(case)))
    return error, 2


@KEYS_AND_VALUES.law
def a_row_depends_on_its_own_token_alone(formula, case):
    """Every other token is changed; this one's row keeps every bit."""
    others = torch.arange(R) != 4
    changed = torch.where(others[:, None], 3 - 2 * case.memory, case.memory)
    found = formula(changed, *case[1:])[:, :, :, 4]
    return differing(found, formula(*case)[:, :, :, 4]), 0


@KEYS_AND_VALUES.law
def rows_come_in_the_order_of_tokens(formula, case):
    order = order_of(R)
    found = formula(case.memory[:, order], *case[1:])
    return distance(found, formula(*case)[:, :, :, order], memory_bound(case)[:, :, :, order]), 2


@KEYS_AND_VALUES.law
def memories_keep_to_their_sentences(formula, case):
    changed = torch.cat((case.memory[:1], -2 * case.memory[1:]))
    return differing(formula(changed, *case[1:])[:, 0], formula(*case)[:, 0]), 0


def twice(map_: LinearWeights) -> LinearWeights:
    return LinearWeights(2 * map_.weight_OI, 2 * map_.bias_O)


@KEYS_AND_VALUES.law
def maps_of_queries_and_results_have_no_part(formula, case):
    w = case.weights
    other = w._replace(query=twice(w.query), output=twice(w.output))
    return differing(formula(*case._replace(weights=other)), formula(*case)), 0


@KEYS_AND_VALUES.law
def exchanging_the_maps_exchanges_keys_and_values(formula, case):
    w = case.weights
    other = w._replace(key=w.value, value=w.key)
    return differing(formula(*case._replace(weights=other)), formula(*case).flip(0)), 0


@KEYS_AND_VALUES.law
def a_memory_of_zeros_offers_the_two_biases(formula, case):
    found = formula(torch.zeros_like(case.memory), *case[1:])
    biases = torch.stack((case.weights.key.bias_O, case.weights.value.bias_O))
    expected = biases.view(2, 1, case.n_heads, 1, -1).expand_as(found)
    return differing(found, expected), 0


@KEYS_AND_VALUES.law
def rows_are_affine_in_tokens(formula, case):
    """f(2 m) + f(0) = 2 f(m)"""
    none, doubled = formula(0 * case.memory, *case[1:]), formula(2 * case.memory, *case[1:])
    return distance(doubled + none, 2 * formula(*case), memory_bound(case)), 4


@KEYS_AND_VALUES.gradient
def its_gradients_are_sums_of_products(formula, case):
    """dW = Σ u mᵀ and db = Σ u for either map, dm = u_k W_k + u_v W_v; 0 for the other two maps."""
    upstream = normal(8, *formula(*case).shape)
    to_memory, *to_parts = gradients(
        lambda m, *parts: formula(m, with_parts(case.weights, parts), case.n_heads),
        [case.memory, *parts_of(case.weights)],
        upstream,
    )
    u_key, u_value = (merge_heads(part) for part in upstream)
    w = case.weights
    error = distance(to_memory, u_key @ w.key.weight_OI + u_value @ w.value.weight_OI)
    still = LinearWeights(*map(torch.zeros_like, w.query))
    maps = [
        LinearWeights(torch.einsum("bro,bri->oi", u, case.memory), u.sum((0, 1)))
        for u in (u_key, u_value)
    ]
    expected = AttentionWeights(still, *maps, LinearWeights(*map(torch.zeros_like, w.output)))
    return error + sum(map(distance, to_parts, parts_of(expected))), 2000 * EPS


@KEYS_AND_VALUES.gradient(cost=4)
def its_slope_is_that_of_two_maps(formula, case):
    return slopes(
        lambda m, *parts: formula(m, with_parts(case.weights, parts), case.n_heads),
        lambda m, *parts: spec_of_kept(m, with_parts(case.weights, parts), case.n_heads),
        [case.memory[:1, :3], *parts_of(case.weights)],
    )


@KEYS_AND_VALUES.accuracy(
    {
        "normal": memory_case,
        "tiny": lambda draw: memory_case(draw, 1e-15),
        "large": lambda draw: memory_case(draw, 1e4),
        "large weights": lambda draw: memory_case(draw, weight_scale=100.0),
        "equal": lambda draw: memory_case(draw, 0.0),
    }
)
def a_row_is_exact_up_to_its_own_terms(formula, case):
    lists = case.memory.double().tolist(), wide_lists(case.weights), case.n_heads
    return distance(formula(*case), as_tensor(spec_of_kept(*lists)), memory_bound(case)), 1


@KEYS_AND_VALUES.mistake(they_are_slices_of_two_maps, a_memory_of_zeros_offers_the_two_biases)
def values_before_keys(memory, weights, n_heads):
    return kept(memory, weights, n_heads).flip(0)


@KEYS_AND_VALUES.mistake(a_memory_of_zeros_offers_the_two_biases, its_slope_is_that_of_two_maps)
def no_bias_of_the_keys(memory, w, n_heads):
    still = w.key._replace(bias_O=0 * w.key.bias_O)
    return kept(memory, w._replace(key=still), n_heads)


@KEYS_AND_VALUES.mistake(
    a_memory_of_zeros_offers_the_two_biases, they_are_torchs_linear_maps_in_chunks
)
def no_bias_of_the_values(memory, w, n_heads):
    still = w.value._replace(bias_O=0 * w.value.bias_O)
    return kept(memory, w._replace(value=still), n_heads)


@KEYS_AND_VALUES.mistake(
    exchanging_the_maps_exchanges_keys_and_values, its_gradients_are_sums_of_products
)
def keys_taken_for_values(memory, weights, n_heads):
    return kept(memory, weights._replace(value=weights.key), n_heads)


@KEYS_AND_VALUES.mistake(
    maps_of_queries_and_results_have_no_part, exchanging_the_maps_exchanges_keys_and_values
)
def keys_by_the_map_of_queries(memory, weights, n_heads):
    return kept(memory, weights._replace(key=weights.query), n_heads)


@KEYS_AND_VALUES.mistake(
    a_row_depends_on_its_own_token_alone, rows_come_in_the_order_of_tokens,
    the_memory_may_come_in_parts,
)
def kept_without_moving_the_axis(memory, w, n_heads):
    """A view as [B, N, R, K]: the right shape, but tokens of one head land in another."""
    maps = [linear(memory, *map_) for map_ in (w.key, w.value)]
    return torch.stack([heads_and_tokens_swapped(x, n_heads) for x in maps])


@KEYS_AND_VALUES.mistake(they_are_slices_of_two_maps, they_are_torchs_linear_maps_in_chunks)
def every_nth_number_of_a_row(memory, w, n_heads):
    return torch.stack([every_nth_feature(linear(memory, *m), n_heads) for m in (w.key, w.value)])


@KEYS_AND_VALUES.mistake(they_are_slices_of_two_maps, its_slope_is_that_of_two_maps)
def keys_over_the_root_already(memory, weights, n_heads):
    """The scores are divided by the root once more."""
    key, value = kept(memory, weights, n_heads)
    return torch.stack((key / math.sqrt(key.shape[-1]), value))


@KEYS_AND_VALUES.mistake(rows_are_affine_in_tokens, they_are_torchs_linear_maps_in_chunks)
def keys_of_length_one(memory, weights, n_heads):
    key, value = kept(memory, weights, n_heads)
    return torch.stack((F.normalize(key, dim=-1), value))


@KEYS_AND_VALUES.mistake(the_memory_may_come_in_parts, a_row_depends_on_its_own_token_alone)
def keys_without_their_mean(memory, weights, n_heads):
    """It changes no probability in one call, but every one if keys are kept for later calls."""
    key, value = kept(memory, weights, n_heads)
    return torch.stack((key - key.mean(2, keepdim=True), value))


@KEYS_AND_VALUES.mistake(the_memory_may_come_in_parts, rows_come_in_the_order_of_tokens)
def tokens_numbered_from_the_start_of_each_part(memory, weights, n_heads):
    places = torch.arange(memory.shape[1], dtype=memory.dtype)[:, None]
    return kept(memory + places, weights, n_heads)


@KEYS_AND_VALUES.mistake(rows_come_in_the_order_of_tokens, the_memory_may_come_in_parts)
def rows_of_the_token_before(memory, weights, n_heads):
    return kept(memory.roll(1, 1), weights, n_heads)


@KEYS_AND_VALUES.mistake(memories_keep_to_their_sentences)
def memory_of_the_next_sentence(memory, weights, n_heads):
    return kept(memory.roll(-1, 0), weights, n_heads)


@KEYS_AND_VALUES.mistake(its_gradients_are_sums_of_products, its_slope_is_that_of_two_maps)
def what_is_kept_is_not_trained(memory, weights, n_heads):
    """A detached cache: right in decoding, wrong in training."""
    key, value = kept(memory, weights, n_heads)
    return torch.stack((key.detach(), value))


@KEYS_AND_VALUES.mistake(a_row_is_exact_up_to_its_own_terms)
def kept_in_eight_bits(memory, weights, n_heads):
    found = kept(memory, weights, n_heads)
    return found.clamp(-448, 448).to(torch.float8_e4m3fn).to(found.dtype)


# ---------------------------------------------------------------------------------------- attend


class HeadsCase(NamedTuple):
    hidden: Tensor
    memory: Tensor
    bias: Tensor
    weights: AttentionWeights
    n_heads: int


def heads_case(
    draw: Draw, scale: float = 1.0, weight_scale: float = 1.0, kind: str = "padding"
) -> HeadsCase:
    return HeadsCase(
        normal(seed_of(draw), B, S, WIDTH, scale=scale),
        normal(seed_of(draw), B, R, WIDTH, scale=scale),
        mask_of(kind, seed_of(draw)),
        attention_weights(seed_of(draw), scale=weight_scale),
        HEADS,
    )


class AskingCase(NamedTuple):
    hidden: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    weights: AttentionWeights
    n_heads: int


def asking_case(
    draw: Draw,
    scale: float = 1.0,
    weight_scale: float = 1.0,
    kinds: tuple[str, ...] = KINDS[:3],
) -> AskingCase:
    width, n_heads, size = draw.choice(MAPS)
    return AskingCase(
        normal(seed_of(draw), B, S, width, scale=scale),
        normal(seed_of(draw), B, n_heads, R, size, scale=scale),
        normal(seed_of(draw), B, n_heads, R, size, scale=scale),
        mask_of(draw.choice(kinds), seed_of(draw)),
        attention_weights(seed_of(draw), width, weight_scale, n_heads * size),
        n_heads,
    )


def asked(hidden, key, value, bias, weights, n_heads):
    return attend(hidden, key, value, bias, weights, n_heads).output_BSD


def rounded_asking(
    hidden: rounding.Rounded,
    key: rounding.Rounded,
    value: rounding.Rounded,
    bias: Tensor,
    weights: AttentionWeights,
    n_heads: int,
) -> rounding.Rounded:
    query = rounded_map(hidden, weights.query, n_heads)
    taken = rounded_attention(query, key, value, bias)
    merged = taken._replace(value=merge_heads(taken.value), error=merge_heads(taken.error))
    return rounding.linear(merged, *weights.output)


def asking_bound(case: AskingCase) -> Tensor:
    hidden, key, value = (rounding.exact(part) for part in case[:3])
    return rounded_asking(hidden, key, value, *case[3:]).error


ATTEND = Proof(asked, asking_case, of=(attend,))


def spec_of_asking(hidden, key, value, bias, weights, n_heads):
    return [
        spec.attend(x, k, v, row, weights, n_heads)
        for x, k, v, row in zip(hidden, key, value, bias, strict=False)
    ]


def exact_answers(case: AskingCase) -> Tensor:
    given = [part.double().tolist() for part in case[:3]]
    lists = *given, rows_of_bias(case.bias), wide_lists(case.weights), case.n_heads
    return as_tensor(spec_of_asking(*lists))


@ATTEND.spec(cost=3)
def queries_are_slices_of_one_map_and_another_joins_what_they_take(formula, case):
    return distance(formula(*case), exact_answers(case), asking_bound(case)), 1


@ATTEND.reference
def it_is_torchs_attention_between_two_linear_maps(formula, case):
    query = F.linear(case.hidden, *case.weights.query).unflatten(-1, (case.n_heads, -1))
    taken = F.scaled_dot_product_attention(
        query.transpose(1, 2), case.key, case.value, attn_mask=case.bias
    )
    expected = F.linear(taken.transpose(1, 2).flatten(2), *case.weights.output)
    return distance(formula(*case), expected, asking_bound(case)), 2


def from_memory(case: HeadsCase) -> AskingCase:
    key, value = keys_and_values(case.memory, case.weights, case.n_heads)
    return AskingCase(case.hidden, key, value, *case[2:])


@ATTEND.reference(cases=heads_case)
def of_a_memory_it_is_torchs_multi_head_attention(formula, case):
    return distance(formula(*from_memory(case)), torchs_heads(case), heads_bound(case)), 2


def torchs_heads(case: HeadsCase) -> Tensor:
    w, by_token = case.weights, [part.transpose(0, 1) for part in case[:2]]
    output, _ = F.multi_head_attention_forward(
        by_token[0],
        by_token[1],
        by_token[1],
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
    return output.transpose(0, 1)


@ATTEND.law(cases=heads_case)
def keeping_keys_and_values_changes_no_bit(formula, case):
    return differing(formula(*from_memory(case)), output_of(*case)), 0


def in_order(case: HeadsCase) -> HeadsCase:
    """Self-attention under a causal mask: each word sees the words up to itself."""
    return case._replace(hidden=case.memory, bias=causal_bias(R, R, torch.float64))


@ATTEND.law(cases=heads_case)
def word_after_word_is_all_at_once(formula, case):
    """Each step appends one word's keys and values: equal up to rounding, not bit for bit."""
    steps, pair = [], [torch.zeros(B, HEADS, 0, WIDTH // HEADS).double()] * 2
    for r in range(R):
        word = case.memory[:, r : r + 1]
        new = keys_and_values(word, case.weights, HEADS)
        pair = [torch.cat(both, 2) for both in zip(pair, new, strict=True)]
        bias = causal_bias(1, r + 1, torch.float64)
        steps.append(formula(word, *pair, bias, case.weights, HEADS))
    whole = in_order(case)
    return distance(torch.cat(steps, 1), formula(*from_memory(whole)), heads_bound(whole)), 2


@ATTEND.law(cases=heads_case)
def words_may_come_in_parts(formula, case):
    """Only the last words are queries, with the keys and values of all words."""
    whole, first = in_order(case), 3
    asking = from_memory(whole)
    last = asking._replace(
        hidden=case.memory[:, first:], bias=causal_bias(R - first, R, torch.float64)
    )
    bound = heads_bound(whole)[:, first:]
    return distance(formula(*last), formula(*asking)[:, first:], bound), 2


@ATTEND.law
def what_is_kept_may_be_reordered(formula, case):
    order = order_of(R)
    moved = case._replace(
        key=case.key[:, :, order], value=case.value[:, :, order], bias=case.bias[..., order]
    )
    return distance(formula(*moved), formula(*case), asking_bound(case)), 2


@ATTEND.law
def what_nobody_sees_changes_no_bit(formula, case):
    hidden = (case.bias != 0).expand(B, 1, S, R).all(2)[..., None]  # B 1 R 1
    changed = case._replace(
        key=torch.where(hidden, 1e4, case.key), value=torch.where(hidden, -1e4, case.value)
    )
    return differing(formula(*changed), formula(*case)), 0


@ATTEND.law
def who_sees_nothing_gets_the_last_bias(formula, case):
    found = formula(*case._replace(bias=mask_of("hidden", 3)))[0]
    return differing(found, case.weights.output.bias_O.expand_as(found)), 0


@ATTEND.law
def equal_values_pass_whatever_is_asked(formula, case):
    equal = case._replace(value=case.value[:, :, :1].expand_as(case.value))
    joined = merge_heads(case.value[:, :, :1])
    expected = joined @ case.weights.output.weight_OI.T + case.weights.output.bias_O
    found = formula(*equal)
    return distance(found, expected.expand_as(found), asking_bound(equal)), 2


@ATTEND.law
def one_vector_added_to_all_keys_cancels(formula, case):
    moved = case._replace(key=case.key + 3 * normal(4, case.key.shape[-1]))
    return distance(formula(*moved), formula(*case), asking_bound(moved)), 2


@ATTEND.law
def answers_are_affine_in_values(formula, case):
    """f(2 v - 3 v') = 2 f(v) - 3 f(v') + 2 f(0)"""
    other = normal(6, *case.value.shape)
    left = formula(*case._replace(value=2 * case.value - 3 * other))
    right = 2 * formula(*case) - 3 * formula(*case._replace(value=other))
    right = right + 2 * formula(*case._replace(value=0 * other))
    bound = asking_bound(case._replace(value=2 * case.value.abs() + 3 * other.abs()))
    return distance(left, right, bound), 10


@ATTEND.law
def each_head_asks_alone(formula, case):
    """With its rows of the first map and its columns of the last, and the results added up."""
    w, size = case.weights, case.key.shape[-1]
    expected = w.output.bias_O.expand(case.hidden.shape)
    for n in range(case.n_heads):
        rows = slice(n * size, (n + 1) * size)
        query = case.hidden @ w.query.weight_OI[rows].T + w.query.bias_O[rows]
        taken = take(query[:, None], case.key[:, n, None], case.value[:, n, None], case.bias)
        expected = expected + taken[:, 0] @ w.output.weight_OI[:, rows].T
    return distance(formula(*case), expected, asking_bound(case)), 2


@ATTEND.law
def sentences_ask_their_own_memory(formula, case):
    changed = [torch.cat((part[:1], -2 * part[1:])) for part in case[:3]]
    return differing(formula(*changed, *case[3:])[0], formula(*case)[0]), 0


@ATTEND.law
def maps_of_keys_and_values_have_no_part(formula, case):
    """They have been used already, when the keys and values were computed."""
    w = case.weights
    other = w._replace(key=twice(w.key), value=twice(w.value))
    return differing(formula(*case._replace(weights=other)), formula(*case)), 0


@ATTEND.gradient
def its_gradients_run_back_through_two_maps(formula, case):
    """t = u W_o in heads;  dV = Pᵀ t;  dA = P (t Vᵀ - Σ P t Vᵀ) / √K;  dK = dAᵀ Q;  dQ = dA K"""
    hidden, key, value, bias, w, n_heads = case
    upstream = normal(8, *hidden.shape)
    found = gradients(
        lambda x, k, v, *parts: formula(x, k, v, bias, with_parts(w, parts), n_heads),
        [hidden, key, value, *parts_of(w)],
        upstream,
    )
    query = split_heads(F.linear(hidden, *w.query), n_heads)
    p = F.softmax(query @ key.mT / math.sqrt(key.shape[-1]) + bias, -1)
    to_taken = split_heads(upstream @ w.output.weight_OI, n_heads)
    to_p = to_taken @ value.mT
    to_scores = p * (to_p - (p * to_p).sum(-1, keepdim=True)) / math.sqrt(key.shape[-1])
    to_query = merge_heads(to_scores @ key)
    sums = [
        LinearWeights(torch.einsum("bso,bsi->oi", u, x), u.sum((0, 1)))
        for u, x in ((to_query, hidden), (upstream, merge_heads(p @ value)))
    ]
    still = [LinearWeights(*map(torch.zeros_like, m)) for m in (w.key, w.value)]
    expected = [to_query @ w.query.weight_OI, to_scores.mT @ query, p.mT @ to_taken]
    expected += parts_of(AttentionWeights(sums[0], *still, sums[1]))
    return sum(map(distance, found, expected)), 4000 * EPS


@ATTEND.gradient(cost=20)
def its_slope_is_that_of_what_heads_take(formula, case):
    bias = [rows[:2] for rows in rows_of_bias(case.bias)]
    shown = case.bias[:1, :, :2]
    return slopes(
        lambda x, k, v, *parts: formula(
            x, k, v, shown, with_parts(case.weights, parts), case.n_heads
        ),
        lambda x, k, v, *parts: spec_of_asking(
            x, k, v, bias, with_parts(case.weights, parts), case.n_heads
        ),
        [case.hidden[:1, :2], case.key[:1], case.value[:1], *parts_of(case.weights)],
    )


@ATTEND.accuracy(
    {
        "normal": asking_case,
        "tiny": lambda draw: asking_case(draw, 1e-15),
        "large": lambda draw: asking_case(draw, 30.0),
        "sharp": lambda draw: asking_case(draw, weight_scale=8.0),
        "equal": lambda draw: asking_case(draw, 0.0),
        "fully masked": lambda draw: asking_case(draw, kinds=("hidden",)),
    },
    cost=3,
)
def every_step_of_asking_keeps_its_digits(formula, case):
    return distance(formula(*case), exact_answers(case), asking_bound(case)), 1


def asked_by(
    split=split_heads,
    scores=attention_scores,
    probabilities=attention_probabilities,
    merge=merge_heads,
):
    """attend with one step replaced."""

    def formula(hidden, key, value, bias, w, n_heads):
        query = split(linear(hidden, *w.query), n_heads)
        taken = probabilities(scores(query, key), bias) @ value
        return linear(merge(taken), *w.output)

    return formula


@ATTEND.mistake(
    one_vector_added_to_all_keys_cancels, answers_are_affine_in_values,
    keeping_keys_and_values_changes_no_bit,
)
def keys_and_values_exchanged(hidden, key, value, *rest):
    return asked(hidden, value, key, *rest)


@ATTEND.mistake(equal_values_pass_whatever_is_asked, maps_of_keys_and_values_have_no_part)
def values_of_the_asker(hidden, key, value, bias, w, n_heads):
    own = torch.cat((hidden, hidden, hidden), 1)[:, : key.shape[2]]
    return asked(hidden, key, split_heads(linear(own, *w.value), n_heads), bias, w, n_heads)


@ATTEND.mistake(
    maps_of_keys_and_values_have_no_part,
    queries_are_slices_of_one_map_and_another_joins_what_they_take,
)
def bias_of_the_values_added_again(hidden, key, value, bias, w, n_heads):
    again = value + w.value.bias_O.view(n_heads, 1, -1)
    return asked(hidden, key, again, bias, w, n_heads)


@ATTEND.mistake(each_head_asks_alone, of_a_memory_it_is_torchs_multi_head_attention)
def no_bias_of_the_queries(hidden, key, value, bias, w, n_heads):
    still = w.query._replace(bias_O=0 * w.query.bias_O)
    return asked(hidden, key, value, bias, w._replace(query=still), n_heads)


@ATTEND.mistake(who_sees_nothing_gets_the_last_bias, equal_values_pass_whatever_is_asked)
def no_last_map(hidden, key, value, bias, w, n_heads):
    one = LinearWeights(torch.eye(*w.output.weight_OI.shape).to(hidden), 0 * w.output.bias_O)
    return asked(hidden, key, value, bias, w._replace(output=one), n_heads)


@ATTEND.mistake(who_sees_nothing_gets_the_last_bias, answers_are_affine_in_values)
def squared_before_the_last_map(hidden, key, value, bias, w, n_heads):
    answer = asked(hidden, key, value, bias, w, n_heads)
    return answer * answer


for words, laws, wrong in (
    (
        "queries_cut_by_a_view",
        (each_head_asks_alone, word_after_word_is_all_at_once),
        asked_by(split=heads_and_tokens_swapped),
    ),
    (
        "what_heads_take_merged_by_a_view",
        (each_head_asks_alone, words_may_come_in_parts),
        asked_by(merge=merged_without_moving_the_axis),
    ),
    (
        "scores_without_the_root",
        (it_is_torchs_attention_between_two_linear_maps, each_head_asks_alone),
        asked_by(scores=lambda query, key: query @ key.mT),
    ),
    (
        "root_of_all_heads_together",
        (
            queries_are_slices_of_one_map_and_another_joins_what_they_take,
            its_gradients_run_back_through_two_maps,
        ),
        asked_by(
            scores=lambda query, key: query @ key.mT / math.sqrt(query.shape[1] * key.shape[-1])
        ),
    ),
    (
        "scores_multiplied_by_the_mask",
        (what_nobody_sees_changes_no_bit, word_after_word_is_all_at_once),
        asked_by(probabilities=lambda scores, bias: torch.softmax(scores * (bias == 0), -1)),
    ),
    (
        "mask_after_the_softmax",
        (equal_values_pass_whatever_is_asked,),
        asked_by(
            probabilities=lambda scores, bias: torch.where(
                bias == 0, torch.softmax(scores, -1), 0
            )
        ),
    ),
    (
        "hidden_keys_left_with_a_little",
        (what_nobody_sees_changes_no_bit, who_sees_nothing_gets_the_last_bias),
        asked_by(
            probabilities=lambda scores, bias: torch.softmax(scores + bias.clamp(min=-1e4), -1)
        ),
    ),
    (
        "softmax_over_those_who_ask",
        (words_may_come_in_parts, equal_values_pass_whatever_is_asked),
        asked_by(
            probabilities=lambda scores, bias: torch.softmax(scores + bias.clamp(min=-1e4), -2)
        ),
    ),
    (
        "near_words_favoured",
        (what_is_kept_may_be_reordered,),
        asked_by(
            probabilities=lambda scores, bias: torch.softmax(
                scores + bias.clamp(min=-1e4) + torch.arange(scores.shape[-1]), -1
            )
        ),
    ),
    (
        "scores_over_the_root_of_the_number_of_keys",
        (word_after_word_is_all_at_once, it_is_torchs_attention_between_two_linear_maps),
        asked_by(scores=lambda query, key: query @ key.mT / math.sqrt(key.shape[-2])),
    ),
):
    ATTEND.mistake(*laws, name=words)(wrong)


@ATTEND.mistake(
    word_after_word_is_all_at_once, what_nobody_sees_changes_no_bit,
    source="https://github.com/Mikyx-1/TinyLLM/issues/17",
)
def no_mask_over_what_is_kept(hidden, key, value, bias, w, n_heads):
    """Right for one new word, which may see everything; of several, each sees later ones too."""
    return asked(hidden, key, value, 0 * bias.clamp(min=-1), w, n_heads)


@ATTEND.mistake(words_may_come_in_parts, word_after_word_is_all_at_once)
def later_words_ask_louder(hidden, *rest):
    places = torch.arange(1, hidden.shape[1] + 1, dtype=hidden.dtype)
    return asked(hidden * places[:, None], *rest)


@ATTEND.mistake(sentences_ask_their_own_memory)
def keys_of_the_neighbour(hidden, key, *rest):
    return asked(hidden, key.roll(1, 0), *rest)


@ATTEND.mistake(every_step_of_asking_keeps_its_digits)
def answers_from_eight_bits(hidden, key, value, *rest):
    return asked(hidden, key, value.to(torch.float8_e4m3fn).to(value.dtype), *rest)


@ATTEND.mistake(its_gradients_run_back_through_two_maps, its_slope_is_that_of_what_heads_take)
def keys_held_still(hidden, key, *rest):
    return asked(hidden, key.detach(), *rest)


# -------------------------------------------------------------------------- multi_head_attention


def output_of(hidden, memory, bias, weights, n_heads):
    return multi_head_attention(hidden, memory, bias, weights, n_heads).output_BSD


def heads_bound(case: HeadsCase) -> Tensor:
    memory, w = rounding.exact(case.memory), case.weights
    key, value = (rounded_map(memory, map_, case.n_heads) for map_ in (w.key, w.value))
    return rounded_asking(rounding.exact(case.hidden), key, value, *case[2:]).error


MULTI_HEAD_ATTENTION = Proof(
    output_of, heads_case, of=(multi_head_attention,), name="multi_head_attention"
)


def spec_of_heads(hidden, memory, bias, weights, n_heads):
    return [
        spec.multi_head_attention(x, m, row, weights, n_heads)
        for x, m, row in zip(hidden, memory, bias, strict=False)
    ]


def lists_of(case: HeadsCase) -> list[Any]:
    given = [part.double().tolist() for part in case[:2]]
    return [*given, rows_of_bias(case.bias), wide_lists(case.weights), case.n_heads]


@MULTI_HEAD_ATTENTION.spec(cost=3)
def heads_are_slices_of_three_maps_and_a_fourth_joins_them(formula, case):
    expected = as_tensor(spec_of_heads(*lists_of(case)))
    return distance(formula(*case), expected, heads_bound(case)), 1


@MULTI_HEAD_ATTENTION.reference
def it_is_torchs_multi_head_attention(formula, case):
    return distance(formula(*case), torchs_heads(case), heads_bound(case)), 2


@MULTI_HEAD_ATTENTION.law
def n_heads_are_n_single_attentions(formula, case):
    """Each head alone, with its rows of three maps and its columns of the fourth, then added up."""
    w, width = case.weights, WIDTH // HEADS
    expected = w.output.bias_O.expand(B, S, WIDTH)
    for n in range(HEADS):
        rows = slice(n * width, (n + 1) * width)
        q = case.hidden @ w.query.weight_OI[rows].T + w.query.bias_O[rows]
        k = case.memory @ w.key.weight_OI[rows].T + w.key.bias_O[rows]
        v = case.memory @ w.value.weight_OI[rows].T + w.value.bias_O[rows]
        taken = take(q[:, None], k[:, None], v[:, None], case.bias)[:, 0]
        expected = expected + taken @ w.output.weight_OI[:, rows].T
    return distance(formula(*case), expected, heads_bound(case)), 2


@MULTI_HEAD_ATTENTION.law
def heads_may_change_places(formula, case):
    """Reordering heads in Q, K, V and in the columns of the output map changes nothing."""
    order = torch.arange(WIDTH).view(HEADS, -1).roll(1, 0).reshape(-1)
    moved = [LinearWeights(m.weight_OI[order], m.bias_O[order]) for m in case.weights[:3]]
    output = case.weights.output._replace(weight_OI=case.weights.output.weight_OI[:, order])
    weights = AttentionWeights(*moved, output)
    return distance(formula(*case._replace(weights=weights)), formula(*case), heads_bound(case)), 2


@MULTI_HEAD_ATTENTION.law
def the_key_bias_cancels(formula, case):
    key = case.weights.key
    moved = case._replace(weights=case.weights._replace(key=key._replace(bias_O=key.bias_O + 5)))
    return distance(formula(*moved), formula(*case), heads_bound(moved)), 2


@MULTI_HEAD_ATTENTION.law
def equal_values_come_out_whatever_the_scores(formula, case):
    """Equal memories, W_v = W_o = 1: the value comes out."""
    one = LinearWeights(torch.eye(WIDTH).double(), torch.zeros(WIDTH).double())
    memory = case.memory[:, :1].expand_as(case.memory)
    shown = case._replace(memory=memory, weights=case.weights._replace(value=one, output=one))
    y = formula(*shown)
    return distance(y, memory[:, :1].expand_as(y), heads_bound(shown)), 1


@MULTI_HEAD_ATTENTION.law
def sentences_do_not_see_each_other(formula, case):
    """The first sentence keeps its bits when the second one changes."""
    hidden, memory = case.hidden.clone(), case.memory.clone()
    hidden[1], memory[1] = 100 * hidden[1], -memory[1]
    changed = formula(*case._replace(hidden=hidden, memory=memory))
    return differing(changed[0], formula(*case)[0]), 0


@MULTI_HEAD_ATTENTION.law
def hidden_memories_change_no_bit(formula, case):
    seen = (case.bias == 0)[:, 0, 0, :, None]  # B R 1
    changed = case._replace(memory=torch.where(seen, case.memory, 1e4))
    return differing(formula(*changed), formula(*case)), 0


@MULTI_HEAD_ATTENTION.law
def memories_may_be_reordered(formula, case):
    order = order_of(R)
    moved = case._replace(memory=case.memory[:, order], bias=case.bias[..., order])
    return distance(formula(*moved), formula(*case), heads_bound(case)), 2


@MULTI_HEAD_ATTENTION.law
def a_query_that_sees_nothing_gives_the_last_bias(formula, case):
    hidden = case._replace(bias=mask_of("hidden", 3))
    found = formula(*hidden)[0]
    return differing(found, case.weights.output.bias_O.expand_as(found)), 0


@MULTI_HEAD_ATTENTION.gradient
def gradients_of_the_last_map_are_products(formula, case):
    """dW_o = Σ u mᵀ, db_o = Σ u; the key bias, which cancels, has gradient 0."""
    upstream = normal(8, B, S, WIDTH)
    found = gradients(
        lambda *parts: formula(*case[:3], with_parts(case.weights, parts), HEADS),
        parts_of(case.weights),
        upstream,
    )
    given = with_parts(case.weights, found)
    still = LinearWeights(torch.eye(WIDTH).double(), torch.zeros(WIDTH).double())
    merged = output_of(*case[:3], case.weights._replace(output=still), HEADS)
    expected = torch.einsum("bso,bsi->oi", upstream, merged)
    error = distance(given.output.weight_OI, expected)
    error += distance(given.output.bias_O, upstream.sum((0, 1)))
    return error + float(given.key.bias_O.abs().max()), 2000 * EPS


@MULTI_HEAD_ATTENTION.gradient(cost=20)
def its_slope_is_that_of_the_joined_heads(formula, case):
    """With respect to the two inputs and all eight weight tensors at once."""
    bias = [rows[:2] for rows in rows_of_bias(case.bias)]
    return slopes(
        lambda x, m, *parts: formula(x, m, case.bias[:1], with_parts(case.weights, parts), HEADS),
        lambda x, m, *parts: spec_of_heads(x, m, bias, with_parts(case.weights, parts), HEADS),
        [case.hidden[:1, :2], case.memory[:1], *parts_of(case.weights)],
    )


@MULTI_HEAD_ATTENTION.accuracy(
    {
        "normal": heads_case,
        "tiny": lambda draw: heads_case(draw, 1e-15),
        "large": lambda draw: heads_case(draw, 30.0),
        "sharp": lambda draw: heads_case(draw, weight_scale=8.0),
        "equal": lambda draw: heads_case(draw, 0.0),
        "fully masked": lambda draw: heads_case(draw, kind="hidden"),
    },
    cost=3,
)
def each_step_keeps_its_digits(formula, case):
    expected = as_tensor(spec_of_heads(*lists_of(case)))
    return distance(formula(*case), expected, heads_bound(case)), 1


def with_steps(split, merge, scale=None):
    """multi_head_attention with one step replaced."""

    def formula(hidden, memory, bias, w, n_heads):
        q, k, v = (
            split(linear(x, *map_), n_heads)
            for x, map_ in zip((hidden, memory, memory), w[:3], strict=True)
        )
        scores = q @ k.mT / math.sqrt(scale or q.shape[-1])
        return linear(merge(attention_probabilities(scores, bias) @ v), *w.output)

    return formula


@MULTI_HEAD_ATTENTION.mistake(
    n_heads_are_n_single_attentions,
    heads_may_change_places,
    source="https://github.com/649453932/Chinese-Text-Classification-Pytorch/issues/53",
)
def heads_cut_by_a_view(*case):
    return with_steps(heads_and_tokens_swapped, lambda x: x.reshape(B, S, WIDTH))(*case)


@MULTI_HEAD_ATTENTION.mistake(
    n_heads_are_n_single_attentions,
    heads_may_change_places,
    it_is_torchs_multi_head_attention,
    source="https://github.com/ajhalthor/Transformer-Neural-Network/pull/4",
)
def heads_merged_by_a_view(*case):
    return with_steps(split_heads, merged_without_moving_the_axis)(*case)


@MULTI_HEAD_ATTENTION.mistake(
    n_heads_are_n_single_attentions,
    heads_are_slices_of_three_maps_and_a_fourth_joins_them,
    source="https://github.com/FareedKhan-dev/train-llm-from-scratch/pull/3",
)
def root_of_the_model_width(*case):
    return with_steps(split_heads, merge_heads, WIDTH)(*case)


@MULTI_HEAD_ATTENTION.mistake(n_heads_are_n_single_attentions, it_is_torchs_multi_head_attention)
def one_wide_head(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias, weights, 1)


@MULTI_HEAD_ATTENTION.mistake(
    heads_may_change_places, a_query_that_sees_nothing_gives_the_last_bias
)
def no_output_map(hidden, memory, bias, weights, n_heads):
    one = LinearWeights(torch.eye(WIDTH).double(), torch.zeros(WIDTH).double())
    return output_of(hidden, memory, bias, weights._replace(output=one), n_heads)


@MULTI_HEAD_ATTENTION.mistake(
    heads_are_slices_of_three_maps_and_a_fourth_joins_them,
    a_query_that_sees_nothing_gives_the_last_bias,
)
def no_last_bias(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias, weights, n_heads) - weights.output.bias_O


@MULTI_HEAD_ATTENTION.mistake(
    the_key_bias_cancels, heads_are_slices_of_three_maps_and_a_fourth_joins_them
)
def key_and_value_maps_exchanged(hidden, memory, bias, w, n_heads):
    return output_of(hidden, memory, bias, w._replace(key=w.value, value=w.key), n_heads)


@MULTI_HEAD_ATTENTION.mistake(the_key_bias_cancels, gradients_of_the_last_map_are_products)
def query_and_key_maps_exchanged(hidden, memory, bias, w, n_heads):
    return output_of(hidden, memory, bias, w._replace(query=w.key, key=w.query), n_heads)


@MULTI_HEAD_ATTENTION.mistake(
    equal_values_come_out_whatever_the_scores, n_heads_are_n_single_attentions
)
def values_from_the_asker(hidden, memory, bias, weights, n_heads):
    asked = torch.cat((hidden, hidden[:, : R - S]), 1)
    trace = multi_head_attention(hidden, memory, bias, weights, n_heads)
    values = split_heads(linear(asked, *weights.value), n_heads)
    return linear(merge_heads(trace.probabilities_BNSR @ values), *weights.output)


@MULTI_HEAD_ATTENTION.mistake(
    n_heads_are_n_single_attentions,
    hidden_memories_change_no_bit,
    source="https://github.com/lsdefine/attention-is-all-you-need-keras/issues/36",
)
def mask_of_another_sentence(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory, bias.roll(1, 0), weights, n_heads)


@MULTI_HEAD_ATTENTION.mistake(
    hidden_memories_change_no_bit,
    memories_may_be_reordered,
    source="https://github.com/hyunwoongko/transformer/pull/40",
)
def mask_on_queries(hidden, memory, bias, weights, n_heads):
    """Queries are masked as if they were keys; the mask is finite, so no NaN gives it away."""
    return output_of(hidden, memory, bias[..., :S].mT.clamp(min=-1e4), weights, n_heads)


@MULTI_HEAD_ATTENTION.mistake(a_query_that_sees_nothing_gives_the_last_bias)
def mean_over_padding(hidden, memory, bias, weights, n_heads):
    """With every key hidden, a finite mask spreads the weight over all of them."""
    return output_of(hidden, memory, bias.clamp(min=-1e9), weights, n_heads)


@MULTI_HEAD_ATTENTION.mistake(
    sentences_do_not_see_each_other,
    source="https://github.com/PetrochukM/PyTorch-NLP/issues/2",
)
def memories_of_the_neighbour(hidden, memory, bias, weights, n_heads):
    return output_of(hidden, memory.roll(1, 0), bias, weights, n_heads)


@MULTI_HEAD_ATTENTION.mistake(each_step_keeps_its_digits)
def values_in_eight_bits(hidden, memory, bias, weights, n_heads):
    rounded = memory.to(torch.float8_e4m3fn).to(memory.dtype)
    return output_of(hidden, rounded, bias, weights, n_heads)


@MULTI_HEAD_ATTENTION.mistake(
    gradients_of_the_last_map_are_products, its_slope_is_that_of_the_joined_heads
)
def last_map_not_trained(hidden, memory, bias, weights, n_heads):
    still = LinearWeights(*(part.detach() for part in weights.output))
    return output_of(hidden, memory, bias, weights._replace(output=still), n_heads)


# The same in training, where some probabilities are dropped before they weight the values.


class DroppingHeads(NamedTuple):
    given: HeadsCase
    rate: float
    seed: int


def dropping_heads(draw: Draw) -> DroppingHeads:
    return DroppingHeads(heads_case(draw), draw.choice([0.3, 0.5, 0.7]), seed_of(draw))


HEADS_WITH_DROPOUT = Proof(
    multi_head_attention,
    dropping_heads,
    of=(multi_head_attention, attend),
    name="multi_head_attention_with_dropout",
)


def in_training(formula: Any, case: DroppingHeads, shift: int = 0) -> Any:
    """The trace with a fresh generator, seeded with the case's seed plus `shift`."""
    return formula(*case.given, case.rate, fresh(case.seed + shift))


@HEADS_WITH_DROPOUT.law
def dropout_falls_on_the_probabilities_before_they_weigh_the_values(formula, case):
    """Each probability has a draw of its own, in order; what is kept is divided by 1 - p."""
    given, plain = case.given, multi_head_attention(*case.given)
    draws = torch.rand(plain.probabilities_BNSR.shape, generator=fresh(case.seed))
    kept = torch.where(draws >= case.rate, plain.probabilities_BNSR, 0) / (1 - case.rate)
    merged = merge_heads(kept @ plain.value_BNRK)
    expected = merged @ given.weights.output.weight_OI.T + given.weights.output.bias_O
    unit = heads_bound(given) / (1 - case.rate)
    return distance(in_training(formula, case).output_BSD, expected, unit), 2


@HEADS_WITH_DROPOUT.law
def the_trace_shows_the_probabilities_before_dropout(formula, case):
    """And everything before them is as in evaluation."""
    seen, plain = in_training(formula, case), formula(*case.given)
    return sum(map(differing, seen[:5], plain[:5])), 0


@HEADS_WITH_DROPOUT.law
def nothing_is_dropped_without_both_a_rate_and_a_generator(formula, case):
    given, plain = case.given, output_of(*case.given)
    outputs = [
        formula(*given),
        formula(*given, case.rate),
        formula(*given, generator=fresh(case.seed)),
        formula(*given, 0.0, fresh(case.seed)),
    ]
    return sum(differing(trace.output_BSD, plain) for trace in outputs), 0


@HEADS_WITH_DROPOUT.law
def the_generator_decides_what_is_dropped(formula, case):
    """Equal seeds drop alike, other seeds do not; torch's global generator is left untouched."""
    before = torch.get_rng_state()
    first, again, other = (in_training(formula, case, shift).output_BSD for shift in (0, 0, 1))
    drawn = differing(torch.get_rng_state(), before)
    return differing(first, again) + float(differing(first, other) == 0) + drawn, 0


def with_dropout(scores=None, probabilities=dropout, taken=None, output=None):
    """multi_head_attention with dropout in other places, or of another kind."""

    def formula(hidden, memory, bias, w, n_heads, rate=0.0, generator=None):
        def drop(x, how):
            return how(x, rate, generator) if how else x

        plain = multi_head_attention(hidden, memory, bias, w, n_heads)
        shown = attention_probabilities(drop(plain.scores_BNSR, scores), bias)
        weighed = drop(drop(shown, probabilities) @ plain.value_BNRK, taken)
        result = drop(linear(merge_heads(weighed), *w.output), output)
        return plain._replace(output_BSD=result)

    return formula


HEADS_WITH_DROPOUT.mistake(
    dropout_falls_on_the_probabilities_before_they_weigh_the_values,
    the_generator_decides_what_is_dropped,
    name="no_dropout",
)(with_dropout(probabilities=None))

HEADS_WITH_DROPOUT.mistake(
    dropout_falls_on_the_probabilities_before_they_weigh_the_values,
    name="dropout_after_the_product_with_the_values",
)(with_dropout(probabilities=None, taken=dropout))

HEADS_WITH_DROPOUT.mistake(
    dropout_falls_on_the_probabilities_before_they_weigh_the_values,
    name="dropout_on_the_output",
)(with_dropout(probabilities=None, output=dropout))

HEADS_WITH_DROPOUT.mistake(
    dropout_falls_on_the_probabilities_before_they_weigh_the_values,
    name="dropout_on_the_scores",
)(with_dropout(scores=dropout, probabilities=None))


def kept_at_the_rate(x, rate, generator):
    return dropout(x, 1 - rate, generator) if rate else x


def not_scaled(x, rate, generator):
    return dropout(x, rate, generator) * (1 - rate)


def scaled_to_a_sum_of_one(x, rate, generator):
    left = dropout(x, rate, generator)
    return left / left.sum(-1, keepdim=True).clamp(min=EPS)


def alike_in_every_head(x, rate, generator):
    return x * dropout(torch.ones_like(x[:, :1]), rate, generator)


def alike_for_every_query(x, rate, generator):
    return x * dropout(torch.ones_like(x[:, :, :1]), rate, generator)


for other_dropout in (
    kept_at_the_rate,
    not_scaled,
    scaled_to_a_sum_of_one,
    alike_in_every_head,
    alike_for_every_query,
):
    HEADS_WITH_DROPOUT.mistake(
        dropout_falls_on_the_probabilities_before_they_weigh_the_values,
        name=other_dropout.__name__,
    )(with_dropout(probabilities=other_dropout))


@HEADS_WITH_DROPOUT.mistake(the_trace_shows_the_probabilities_before_dropout)
def probabilities_shown_after_dropout(hidden, memory, bias, w, n_heads, rate=0.0, generator=None):
    again = generator and fresh(generator.initial_seed())
    trace = multi_head_attention(hidden, memory, bias, w, n_heads, rate, generator)
    return trace._replace(probabilities_BNSR=dropout(trace.probabilities_BNSR, rate, again))


@HEADS_WITH_DROPOUT.mistake(
    nothing_is_dropped_without_both_a_rate_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def dropout_in_evaluation(hidden, memory, bias, w, n_heads, rate=0.0, generator=None):
    return multi_head_attention(hidden, memory, bias, w, n_heads, rate, generator or fresh(1))


HEADS_WITH_DROPOUT.mistake(
    the_generator_decides_what_is_dropped, name="draws_from_the_source_that_everyone_shares"
)(with_dropout(probabilities=lambda x, rate, generator: F.dropout(x, rate, generator is not None)))
