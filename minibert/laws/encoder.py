"""Laws of `encoder`: embeddings, feed-forward, the block, and the whole encoder."""

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.attention import attention_probabilities, multi_head_attention, padding_bias
from minibert.config import BertConfig
from minibert.encoder import (
    BlockTrace,
    EncoderTrace,
    block,
    embeddings,
    encode,
    encode_traced,
    feed_forward,
)
from minibert.functional import dropout, gelu_erf, gelu_tanh, layer_norm, linear
from minibert.laws import rounding, spec
from minibert.laws.attention import parts_of, random_keep, with_parts
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_lists,
    as_tensor,
    differing,
    distance,
    eps_of,
    fresh,
    gradients,
    integers,
    normal,
    order_of,
    over_rows,
    seed_of,
    slopes,
)
from minibert.parameters import (
    BertWeights,
    BlockWeights,
    EmbeddingWeights,
    LayerNormWeights,
    LinearWeights,
    named_tensors,
    weight_shapes,
)
from minibert.sparsity import keep_heads

B, S = 2, 7
CONFIG = BertConfig(
    vocab_size=23,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=11,
    max_position_embeddings=13,
    type_vocab_size=3,
)
# The smallest that still has two heads, two blocks and no two sizes alike: for finite differences
# of the spec, which run the encoder eight times.
SMALL = BertConfig(
    vocab_size=7,
    hidden_size=4,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=5,
    max_position_embeddings=6,
    type_vocab_size=3,
)
V, D, T = CONFIG.vocab_size, CONFIG.hidden_size, CONFIG.type_vocab_size
TIMES = 16  # the error of many steps may be this many times that of rounding the weights


def with_act(config: BertConfig, hidden_act: str) -> BertConfig:
    return dataclasses.replace(config, hidden_act=hidden_act)


def random_weights(
    seed: int,
    config: BertConfig = CONFIG,
    scale: float = 0.4,
    dtype: torch.dtype = torch.float64,
) -> BertWeights:
    """No bias is 0 and no gain is 1, so that forgetting one shows."""
    shapes = weight_shapes(config, parts=())
    drawn = [
        normal(seed + i, *part.shape, scale=scale, offset=float(name.endswith("gain_D")))
        for i, (name, part) in enumerate(named_tensors(shapes))
    ]
    weights: BertWeights = with_parts(shapes, [part.to(dtype) for part in drawn])
    return weights


def wide_lists(weights: Any) -> Any:
    """The weights in float64, as the lists that a spec takes."""
    return as_lists(with_parts(weights, [part.double() for part in parts_of(weights)]))


def plain_norm(width: int = D) -> LayerNormWeights:
    return LayerNormWeights(torch.ones(width).double(), torch.zeros(width).double())


# ------------------------------------------------------------------------------------ embeddings


class EmbeddingCase(NamedTuple):
    ids: Tensor
    types: Tensor
    weights: EmbeddingWeights
    config: BertConfig


def embedding_case(draw: Draw, scale: float = 0.4, offset: float = 0.0) -> EmbeddingCase:
    weights = random_weights(seed_of(draw), scale=scale).embeddings
    return EmbeddingCase(
        integers(seed_of(draw), V, B, S),
        integers(seed_of(draw), T, B, S),
        weights._replace(word_VD=weights.word_VD + offset),
        dataclasses.replace(CONFIG, layer_norm_eps=draw.choice([1e-12, 1e-5])),
    )


EMBEDDINGS = Proof(embeddings, embedding_case)


def rounded_embeddings(case: EmbeddingCase) -> rounding.Rounded:
    w, places = case.weights, torch.arange(case.ids.shape[1]).expand_as(case.ids)
    word, position = rounding.exact(w.word_VD[case.ids]), rounding.exact(w.position_PD[places])
    summed = rounding.add(rounding.add(word, position), rounding.exact(w.type_TD[case.types]))
    return rounding.layer_norm(summed, *w.norm, case.config.layer_norm_eps)


def embedding_bound(case: EmbeddingCase) -> Tensor:
    return rounded_embeddings(case).error


def spec_of_embeddings(case: EmbeddingCase, weights: Any = None) -> list[Any]:
    weights = weights or wide_lists(case.weights)
    rows = zip(case.ids.tolist(), case.types.tolist(), strict=True)
    return [spec.embeddings(*row, weights, case.config.layer_norm_eps) for row in rows]


@EMBEDDINGS.spec
def they_are_word_and_place_and_sentence_normalised(formula, case):
    expected = as_tensor(spec_of_embeddings(case))
    return distance(formula(*case), expected, embedding_bound(case)), 1


@EMBEDDINGS.reference
def they_are_torchs_embeddings_and_layer_norm(formula, case):
    w = case.weights
    summed = F.embedding(case.ids, w.word_VD) + w.position_PD[:S] + F.embedding(case.types, w[2])
    expected = F.layer_norm(summed, (D,), *w.norm, case.config.layer_norm_eps)
    return distance(formula(*case), expected, embedding_bound(case)), 4


def with_table(case: EmbeddingCase, **tables: Any) -> EmbeddingCase:
    return case._replace(weights=case.weights._replace(**tables))


@EMBEDDINGS.law
def they_are_sums_of_one_hot_products(formula, case):
    w = case.weights
    summed = (
        torch.eye(len(w.word_VD)).double()[case.ids] @ w.word_VD
        + torch.eye(len(w.position_PD)).double()[:S] @ w.position_PD
        + torch.eye(len(w.type_TD)).double()[case.types] @ w.type_TD
    )
    expected = layer_norm(summed, *w.norm, case.config.layer_norm_eps)
    return distance(formula(*case), expected, embedding_bound(case)), 1


@EMBEDDINGS.law
def a_vector_may_move_between_tables(formula, case):
    w, moved = case.weights, normal(3, D)
    left = with_table(case, word_VD=w.word_VD + moved, position_PD=w.position_PD - moved)
    right = with_table(case, position_PD=w.position_PD - moved, type_TD=w.type_TD + moved)
    plain = formula(*case)
    error = distance(formula(*left), plain, embedding_bound(left))
    return error + distance(formula(*right), plain, embedding_bound(right)), 4


@EMBEDDINGS.law
def tokens_without_a_place_are_refused(formula, case):
    places = len(case.weights.position_PD)
    ids, types = (part[:, :1].repeat(1, places + 1) for part in case[:2])
    formula(ids[:, :places], types[:, :places], *case[2:])
    try:
        formula(ids, types, *case[2:])
    except (ValueError, IndexError):
        return 0, 0
    return 1, 0


@EMBEDDINGS.law
def later_tokens_do_not_matter(formula, case):
    prefix = formula(case.ids[:, :3], case.types[:, :3], *case[2:])
    return differing(formula(*case)[:, :3], prefix), 0


@EMBEDDINGS.law
def sentences_are_embedded_alone(formula, case):
    alone = formula(case.ids[1:], case.types[1:], *case[2:])
    return differing(formula(*case)[1:], alone), 0


@EMBEDDINGS.law
def one_word_differs_by_its_place(formula, case):
    """The same word with the same type at two places: equal only without position embeddings."""
    y = formula(torch.full_like(case.ids, 5), torch.zeros_like(case.types), *case[2:])
    return float(distance(y[:, 0], y[:, 1]) < 0.01), 0


@EMBEDDINGS.law
def one_word_differs_by_its_sentence(formula, case):
    y, z = (formula(case.ids, torch.full_like(case.types, t), *case[2:]) for t in (0, 1))
    return float((y - z).abs().amax(-1).min() < 1e-4), 0


@EMBEDDINGS.law
def the_last_place_has_the_last_row(formula, case):
    """P tokens use the whole position table; the first one takes row 0."""
    places = len(case.weights.position_PD)
    zeros = torch.zeros(1, places, dtype=torch.int64)
    table = torch.zeros_like(case.weights.position_PD)
    y = formula(zeros, zeros, *with_table(case, position_PD=table)[2:])
    table[0], table[-1] = normal(4, D), normal(5, D)
    moved = formula(zeros, zeros, *with_table(case, position_PD=table)[2:]) != y
    expected = torch.zeros(1, places, dtype=torch.bool)
    expected[0, 0] = expected[0, -1] = True
    return differing(moved.any(-1), expected), 0


@EMBEDDINGS.law
def every_vector_is_normalised(formula, case):
    """Its mean is 0, its mean square v / (v + ε)."""
    case = with_table(case, norm=plain_norm())
    y, w = formula(*case), case.weights
    summed = w.word_VD[case.ids] + w.position_PD[:S] + w.type_TD[case.types]
    variance = summed.var(-1, correction=0)
    expected = variance / (variance + case.config.layer_norm_eps)
    unit = embedding_bound(case).amax(-1)
    error = distance(y.mean(-1), torch.zeros_like(variance), unit)
    return error + distance((y * y).mean(-1), expected, unit), 4


def embeddings_of_tables(formula, case):
    """The embeddings as a function of the three tables."""
    return lambda word, position, kind: formula(
        *with_table(case, word_VD=word, position_PD=position, type_TD=kind)
    )


@EMBEDDINGS.gradient
def a_row_collects_the_gradients_of_its_tokens(formula, case):
    """Those of the sum, which torch's own layer norm gives; unused rows get exactly 0."""
    w, upstream = case.weights, normal(7, B, S, D)
    summed = w.word_VD[case.ids] + w.position_PD[:S] + w.type_TD[case.types]
    eps = case.config.layer_norm_eps
    (to_sum,) = gradients(lambda x: F.layer_norm(x, (D,), *w.norm, eps), [summed], upstream)
    places = torch.arange(S).expand(B, S)
    found = gradients(embeddings_of_tables(formula, case), w[:3], upstream)
    error = 0.0
    for gradient, rows in zip(found, (case.ids, places, case.types), strict=True):
        expected = torch.zeros_like(gradient).index_add(0, rows.reshape(-1), to_sum.view(-1, D))
        error += distance(gradient, expected)
        unused = torch.ones(len(gradient), dtype=torch.bool).index_fill(0, rows.unique(), False)
        error += float(gradient[unused].abs().sum())
    return error, 1e-11


@EMBEDDINGS.gradient(cost=20)
def its_slope_is_that_of_the_normalised_sum(formula, case):
    one = case._replace(ids=case.ids[:1, :4], types=case.types[:1, :4])
    w = case.weights
    wide = with_parts(w, [2 * w.word_VD, 2 * w.position_PD, 2 * w.type_TD, *w.norm])
    return slopes(
        lambda *parts: formula(*one._replace(weights=with_parts(w, parts))),
        lambda *parts: spec_of_embeddings(one, with_parts(w, parts)),
        parts_of(wide),
    )


@EMBEDDINGS.accuracy(
    {
        "normal": embedding_case,
        "of a fresh model": lambda draw: embedding_case(draw, 0.02),
        "tiny": lambda draw: embedding_case(draw, 1e-6),
        "large": lambda draw: embedding_case(draw, 1e4),
        "a large offset": lambda draw: embedding_case(draw, 0.4, 100.0),
    },
)
def they_are_exact_up_to_the_rounding_of_the_sum(formula, case):
    expected = as_tensor(spec_of_embeddings(case))
    return distance(formula(*case), expected, embedding_bound(case)), 1


@EMBEDDINGS.mistake(one_word_differs_by_its_place, a_vector_may_move_between_tables)
def no_positions(ids, types, w, config):
    return embeddings(ids, types, w._replace(position_PD=0 * w.position_PD), config)


@EMBEDDINGS.mistake(
    a_vector_may_move_between_tables,
    one_word_differs_by_its_sentence,
    a_row_collects_the_gradients_of_its_tokens,
    source="https://github.com/huggingface/transformers/issues/263",
)
def no_types(ids, types, w, config):
    return embeddings(ids, types, w._replace(type_TD=0 * w.type_TD), config)


@EMBEDDINGS.mistake(
    they_are_word_and_place_and_sentence_normalised,
    one_word_differs_by_its_sentence,
    source="https://github.com/huggingface/transformers/issues/15735",
)
def every_sentence_is_the_first(ids, types, w, config):
    return embeddings(ids, torch.zeros_like(types), w, config)


@EMBEDDINGS.mistake(tokens_without_a_place_are_refused)
def places_begin_anew(ids, types, w, config):
    table = w.position_PD.repeat(2, 1)
    return embeddings(ids, types, w._replace(position_PD=table), config)


@EMBEDDINGS.mistake(later_tokens_do_not_matter)
def types_by_place(ids, types, w, config):
    return embeddings(ids, types.sort(-1).values, w, config)


@EMBEDDINGS.mistake(sentences_are_embedded_alone)
def words_less_the_mean_of_the_batch(ids, types, w, config):
    words = w.word_VD[ids] - w.word_VD[ids].mean((0, 1))
    summed = words + w.position_PD[: ids.shape[1]] + w.type_TD[types]
    return layer_norm(summed, *w.norm, config.layer_norm_eps)


@EMBEDDINGS.mistake(
    a_vector_may_move_between_tables,
    they_are_word_and_place_and_sentence_normalised,
    the_last_place_has_the_last_row,
)
def sinusoids(ids, types, w, config):
    place = torch.arange(len(w.position_PD)).double()[:, None]
    table = torch.sin(place / 10000 ** (torch.arange(D) / D))
    return embeddings(ids, types, w._replace(position_PD=table + 0 * w.position_PD), config)


@EMBEDDINGS.mistake(later_tokens_do_not_matter, they_are_torchs_embeddings_and_layer_norm)
def positions_from_the_end(ids, types, w, config):
    table = w.position_PD[: ids.shape[1]].flip(0)
    return embeddings(ids, types, w._replace(position_PD=table), config)


@EMBEDDINGS.mistake(
    they_are_sums_of_one_hot_products,
    the_last_place_has_the_last_row,
    source="https://github.com/huggingface/sentence-transformers/pull/3879",
)
def positions_from_the_wrong_row(ids, types, w, config):
    return embeddings(ids, types, w._replace(position_PD=w.position_PD.roll(-1, 0)), config)


@EMBEDDINGS.mistake(a_vector_may_move_between_tables, they_are_sums_of_one_hot_products)
def words_scaled_by_the_root_of_the_width(ids, types, w, config):
    return embeddings(ids, types, w._replace(word_VD=w.word_VD * math.sqrt(D)), config)


@EMBEDDINGS.mistake(
    every_vector_is_normalised,
    they_are_word_and_place_and_sentence_normalised,
    source="https://github.com/codertimo/BERT-pytorch/blob/"
    "0867d0f026e68445247dfd3f21001a320dd5cb7c/bert_pytorch/model/embedding/bert.py",
)
def no_norm(ids, types, w, config):
    return w.word_VD[ids] + w.position_PD[: ids.shape[1]] + w.type_TD[types]


@EMBEDDINGS.mistake(every_vector_is_normalised, they_are_torchs_embeddings_and_layer_norm)
def norm_with_the_eps_of_pytorch(ids, types, w, config):
    return layer_norm(no_norm(ids, types, w, config), *w.norm, 1e-5)


@EMBEDDINGS.mistake(every_vector_is_normalised, a_vector_may_move_between_tables)
def norm_before_the_sum(ids, types, w, config):
    words = layer_norm(w.word_VD[ids], *w.norm, config.layer_norm_eps)
    return words + w.position_PD[: ids.shape[1]] + w.type_TD[types]


@EMBEDDINGS.mistake(they_are_exact_up_to_the_rounding_of_the_sum)
def tables_in_eight_bits(ids, types, w, config):
    words = w.word_VD.to(torch.float8_e4m3fn).to(w.word_VD.dtype)
    return embeddings(ids, types, w._replace(word_VD=words), config)


@EMBEDDINGS.mistake(
    a_row_collects_the_gradients_of_its_tokens,
    its_slope_is_that_of_the_normalised_sum,
    source="https://github.com/d2l-ai/d2l-en/pull/2121",
)
def positions_not_trained(ids, types, w, config):
    return embeddings(ids, types, w._replace(position_PD=w.position_PD.detach()), config)


@EMBEDDINGS.mistake(a_row_collects_the_gradients_of_its_tokens)
def row_zero_not_trained(ids, types, w, config):
    """As `padding_idx` does it; every other row is right."""
    words = torch.cat((w.word_VD[:1].detach(), w.word_VD[1:]))
    return embeddings(ids, types, w._replace(word_VD=words), config)


# ---------------------------------------------------------------------------------- feed_forward


class FeedCase(NamedTuple):
    x: Tensor
    weights: BlockWeights
    hidden_act: str


def feed_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> FeedCase:
    x = normal(seed_of(draw), B, S, D, scale=scale, offset=offset)
    act = draw.choice(["gelu", "gelu_new", "gelu_pytorch_tanh"])
    return FeedCase(x, random_weights(seed_of(draw)).blocks[0], act)


def rounded_feed(x: rounding.Rounded, w: BlockWeights, hidden_act: str) -> rounding.Rounded:
    inner = rounding.gelu(rounding.linear(x, *w.intermediate), hidden_act != "gelu")
    return rounding.linear(inner, *w.output)


def feed_bound(case: FeedCase) -> Tensor:
    return rounded_feed(rounding.exact(case.x), *case[1:]).error


FEED_FORWARD = Proof(feed_forward, feed_case)


def spec_of_feed_forward(x, weights, hidden_act):
    return over_rows(spec.feed_forward, x, weights, hidden_act)


@FEED_FORWARD.spec
def it_is_two_maps_with_a_gelu_between(formula, case):
    lists = case.x.tolist(), wide_lists(case.weights), case.hidden_act
    return distance(formula(*case), as_tensor(spec_of_feed_forward(*lists)), feed_bound(case)), 1


@FEED_FORWARD.reference
def it_is_torchs_linear_gelu_linear(formula, case):
    approximate = "none" if case.hidden_act == "gelu" else "tanh"
    inner = F.gelu(F.linear(case.x, *case.weights.intermediate), approximate=approximate)
    expected = F.linear(inner, *case.weights.output)
    return distance(formula(*case), expected, feed_bound(case)), 2


@FEED_FORWARD.law
def tokens_are_fed_alone(formula, case):
    changed = case.x.clone()
    changed[:, 1:], changed[1] = -3 * changed[:, 1:], 1e3
    return differing(formula(*case._replace(x=changed))[0, 0], formula(*case)[0, 0]), 0


@FEED_FORWARD.law
def the_second_map_is_linear(formula, case):
    """A power of two leaves every digit in place."""
    output = LinearWeights(*(4 * part for part in case.weights.output))
    scaled = formula(*case._replace(weights=case.weights._replace(output=output)))
    return differing(scaled, 4 * formula(*case)), 0


@FEED_FORWARD.law
def a_silent_first_map_leaves_the_last_bias(formula, case):
    first = LinearWeights(*(0 * part for part in case.weights.intermediate))
    y = formula(*case._replace(weights=case.weights._replace(intermediate=first)))
    return differing(y, case.weights.output.bias_O.expand_as(y)), 0


def gelu_by_hand(x: float, hidden_act: str) -> float:
    if hidden_act == "gelu":
        return x / 2 * math.erfc(-x / math.sqrt(2))
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@FEED_FORWARD.law
def the_name_chooses_the_form_of_gelu(formula, case):
    """W_1 = 0 and b_1 = ±2.69892, where the two forms are furthest apart; they differ by 4.7e-4."""
    at = 2.69892
    bias = at * (-1.0) ** torch.arange(CONFIG.intermediate_size).double()
    first = LinearWeights(0 * case.weights.intermediate.weight_OI, bias)
    weights = case.weights._replace(intermediate=first)
    inner = as_tensor([gelu_by_hand(b, case.hidden_act) for b in bias.tolist()])
    expected = linear(inner, *weights.output)
    y = formula(case.x, weights, case.hidden_act)
    return distance(y, expected.expand_as(y)), 100 * EPS


@FEED_FORWARD.law
def inner_features_may_be_reordered(formula, case):
    order, w = order_of(CONFIG.intermediate_size), case.weights
    first = LinearWeights(w.intermediate.weight_OI[order], w.intermediate.bias_O[order])
    output = w.output._replace(weight_OI=w.output.weight_OI[:, order])
    moved = case._replace(weights=w._replace(intermediate=first, output=output))
    return distance(formula(*moved), formula(*case), feed_bound(case)), 2


@FEED_FORWARD.gradient
def gradients_of_the_second_map_are_products(formula, case):
    """dW_2 = Σ u gelu(h)ᵀ,  db_2 = Σ u"""
    upstream, w = normal(8, B, S, D), case.weights
    _, to_weight, to_bias = gradients(
        lambda x, *parts: formula(x, w._replace(output=LinearWeights(*parts)), case.hidden_act),
        [case.x, *w.output],
        upstream,
    )
    gelu = gelu_erf if case.hidden_act == "gelu" else gelu_tanh
    inner = gelu(linear(case.x, *w.intermediate))
    error = distance(to_weight, torch.einsum("bso,bsi->oi", upstream, inner))
    return error + distance(to_bias, upstream.sum((0, 1))), 2000 * EPS


@FEED_FORWARD.gradient(cost=6)
def its_slope_is_that_of_two_maps(formula, case):
    """With respect to the input and all four tensors of the two maps."""
    w = case.weights

    def rebuilt(parts):
        return w._replace(intermediate=LinearWeights(*parts[:2]), output=LinearWeights(*parts[2:]))

    return slopes(
        lambda x, *parts: formula(x, rebuilt(parts), case.hidden_act),
        lambda x, *parts: spec_of_feed_forward(x, rebuilt(parts), case.hidden_act),
        [case.x[:1, :2], *w.intermediate, *w.output],
    )


@FEED_FORWARD.accuracy(
    {
        "normal": feed_case,
        "tiny": lambda draw: feed_case(draw, 1e-30),
        "large": lambda draw: feed_case(draw, 1e4),
        "a large offset": lambda draw: feed_case(draw, 1.0, 1e3),
        "equal": lambda draw: feed_case(draw, 0.0, 3.0),
    },
)
def two_maps_keep_their_digits(formula, case):
    lists = case.x.double().tolist(), wide_lists(case.weights), case.hidden_act
    return distance(formula(*case), as_tensor(spec_of_feed_forward(*lists)), feed_bound(case)), 1


def fed_with(gelu):
    """feed_forward with another function between the maps."""
    return lambda x, w: linear(gelu(linear(x, *w.intermediate)), *w.output)


@FEED_FORWARD.mistake(
    the_name_chooses_the_form_of_gelu,
    it_is_two_maps_with_a_gelu_between,
    source="https://github.com/Blaizzy/mlx-embeddings/issues/81",
)
def tanh_form_for_gelu(x, w, hidden_act):
    return feed_forward(x, w, "gelu_new")


@FEED_FORWARD.mistake(the_name_chooses_the_form_of_gelu, it_is_torchs_linear_gelu_linear)
def erf_form_for_gelu_new(x, w, hidden_act):
    return feed_forward(x, w, "gelu")


@FEED_FORWARD.mistake(
    the_name_chooses_the_form_of_gelu,
    source="https://github.com/patrick-kidger/equinox/blob/"
    "1b853a7ae766ac4c814997982a48ca85586d5d6b/examples/bert.ipynb",
)
def erf_and_tanh_exchanged(x, w, hidden_act):
    return feed_forward(x, w, "gelu_new" if hidden_act == "gelu" else "gelu")


@FEED_FORWARD.mistake(
    it_is_two_maps_with_a_gelu_between,
    the_name_chooses_the_form_of_gelu,
    its_slope_is_that_of_two_maps,
)
def relu_for_gelu(x, w, hidden_act):
    return fed_with(torch.relu)(x, w)


@FEED_FORWARD.mistake(the_name_chooses_the_form_of_gelu, it_is_torchs_linear_gelu_linear)
def sigmoid_form_of_gelu(x, w, hidden_act):
    return fed_with(lambda a: a * torch.sigmoid(1.702 * a))(x, w)


@FEED_FORWARD.mistake(it_is_two_maps_with_a_gelu_between, the_second_map_is_linear)
def gelu_after_the_second_map(x, w, hidden_act):
    return gelu_erf(linear(linear(x, *w.intermediate), *w.output))


@FEED_FORWARD.mistake(a_silent_first_map_leaves_the_last_bias)
def no_second_bias(x, w, hidden_act):
    return feed_forward(x, w, hidden_act) - w.output.bias_O


@FEED_FORWARD.mistake(inner_features_may_be_reordered, it_is_two_maps_with_a_gelu_between)
def no_gelu_for_the_first_half(x, w, hidden_act):
    return fed_with(lambda a: torch.cat((a[..., :5], gelu_erf(a[..., 5:])), -1))(x, w)


@FEED_FORWARD.mistake(tokens_are_fed_alone)
def convolved_over_neighbours(x, w, hidden_act):
    return feed_forward(x + x.roll(1, 1), w, hidden_act)


@FEED_FORWARD.mistake(two_maps_keep_their_digits)
def inner_numbers_in_eight_bits(x, w, hidden_act):
    gelu = gelu_erf if hidden_act == "gelu" else gelu_tanh
    return fed_with(lambda a: gelu(a.clamp(-400, 400).to(torch.float8_e4m3fn).to(a.dtype)))(x, w)


@FEED_FORWARD.mistake(gradients_of_the_second_map_are_products, its_slope_is_that_of_two_maps)
def second_map_not_trained(x, w, hidden_act):
    still = LinearWeights(*(part.detach() for part in w.output))
    return feed_forward(x, w._replace(output=still), hidden_act)


# ----------------------------------------------------------------------------------------- block


class BlockCase(NamedTuple):
    hidden: Tensor
    bias: Tensor
    weights: BlockWeights
    config: BertConfig


def keep_of(draw: Draw) -> Tensor:
    """Two sentences: one that ends in padding, or both with gaps."""
    if draw.integer(0, 3):
        return torch.arange(S) < torch.tensor([[S], [draw.integer(1, S - 1)]])
    return random_keep(seed_of(draw), B, S)


def block_case(
    draw: Draw, scale: float = 3.0, offset: float = 0.0, weight_scale: float = 0.4
) -> BlockCase:
    config = with_act(CONFIG, draw.choice(["gelu", "gelu_new"]))
    config = dataclasses.replace(config, layer_norm_eps=draw.choice([1e-12, 1e-5]))
    return BlockCase(
        normal(seed_of(draw), B, S, D, scale=scale, offset=offset),
        padding_bias(keep_of(draw), torch.float64),
        random_weights(seed_of(draw), scale=weight_scale).blocks[0],
        config,
    )


def erf_block_case(draw: Draw) -> BlockCase:
    case = block_case(draw)
    return case._replace(config=with_act(case.config, "gelu"))


def block_output(hidden, bias, weights, config):
    return block(hidden, bias, weights, config).hidden_BSD


def block_bound(case: BlockCase) -> Tensor:
    bias = case.bias.double()
    return TIMES * rounding.sensitivity(
        lambda x, *parts: block_output(x, bias, with_parts(case.weights, parts), case.config),
        [case.hidden, *parts_of(case.weights)],
        eps_of(case.hidden),
    )


BLOCK = Proof(block_output, block_case, of=(block,), name="block", cost=2)


def spec_of_block(hidden, bias, weights, config):
    heads, act = config.num_attention_heads, config.hidden_act
    return [
        spec.block(x, row * len(x), weights, heads, config.layer_norm_eps, act)
        for x, row in zip(hidden, bias, strict=True)
    ]


def lists_of_block(case: BlockCase) -> list[Any]:
    given = [case.hidden.double().tolist(), case.bias[:, 0].tolist(), wide_lists(case.weights)]
    return [*given, case.config]


@BLOCK.spec
def it_is_attention_and_feed_forward_each_added_and_normalised(formula, case):
    expected = as_tensor(spec_of_block(*lists_of_block(case)))
    return distance(formula(*case), expected, block_bound(case)), 1


def reference_layer(w: BlockWeights, config: BertConfig) -> torch.nn.TransformerEncoderLayer:
    """torch's encoder layer with these weights, post-norm as in the paper."""
    layer = torch.nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
        norm_first=False,
        dtype=w.output.bias_O.dtype,
    )
    maps = w.attention[:3]
    state = {
        "self_attn.in_proj_weight": torch.cat([m.weight_OI for m in maps]),
        "self_attn.in_proj_bias": torch.cat([m.bias_O for m in maps]),
    }
    pairs = {
        "self_attn.out_proj": w.attention.output,
        "linear1": w.intermediate,
        "linear2": w.output,
        "norm1": w.attention_norm,
        "norm2": w.output_norm,
    }
    for name, (weight, bias) in pairs.items():
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    layer.load_state_dict(state)
    return layer.requires_grad_(False)


@BLOCK.reference(cases=erf_block_case)
def it_is_torchs_encoder_layer(formula, case):
    layer = reference_layer(case.weights, case.config)
    expected = layer(case.hidden, src_key_padding_mask=case.bias[:, 0, 0] != 0)
    return distance(formula(*case), expected, block_bound(case)), 2


def plain_norms(weights: BlockWeights) -> BlockWeights:
    return weights._replace(attention_norm=plain_norm(), output_norm=plain_norm())


def silent(weights: BlockWeights) -> BlockWeights:
    """Sub-layers that return 0: what is left is the two residual sums and their norms."""
    attention = weights.attention
    output = LinearWeights(*(0 * part for part in attention.output))
    fed = LinearWeights(*(0 * part for part in weights.output))
    return weights._replace(attention=attention._replace(output=output), output=fed)


@BLOCK.law
def outputs_are_normalised(formula, case):
    """The norm comes last: every output vector has mean 0 and mean square v / (v + ε)."""
    y = formula(*case._replace(weights=plain_norms(case.weights)))
    square = (y * y).mean(-1)
    error = float(y.mean(-1).abs().max()) + distance(square, torch.ones_like(square))
    return error, 1e-10 + 100 * case.config.layer_norm_eps


@BLOCK.law
def with_silent_sublayers_two_norms_remain(formula, case):
    """Also at a standard deviation of 1e-6, where the eps of the norm counts."""
    w, eps, error = silent(case.weights), case.config.layer_norm_eps, 0.0
    for scale in (1.0, 1e-6):
        hidden = scale * case.hidden
        expected = layer_norm(layer_norm(hidden, *w.attention_norm, eps), *w.output_norm, eps)
        quiet = case._replace(hidden=hidden, weights=w)
        error += distance(formula(*quiet), expected, block_bound(quiet))
    return error, 1


@BLOCK.law
def tokens_may_be_reordered(formula, case):
    """A block knows no positions: order enters only through the position table."""
    order = order_of(S)
    moved = case._replace(hidden=case.hidden[:, order], bias=case.bias[..., order])
    return distance(formula(*moved), formula(*case)[:, order], block_bound(case)[:, order]), 2


@BLOCK.law
def hidden_tokens_have_no_influence(formula, case):
    seen = (case.bias == 0)[:, 0, 0, :, None]
    changed = case._replace(hidden=torch.where(seen, case.hidden, 1e4))
    seen = seen.expand(B, S, D)
    return differing(formula(*changed)[seen], formula(*case)[seen]), 0


@BLOCK.law
def hidden_tokens_still_ask(formula, case):
    """Padding sees what is kept, as any token does: it is hidden as a key, not as a query."""
    everyone = torch.zeros_like(case.bias)
    only = case._replace(hidden=case.hidden[:, :1].expand(B, S, D))
    return distance(formula(*only), formula(*only._replace(bias=everyone)), block_bound(only)), 2


@BLOCK.law
def other_sentences_change_no_bit(formula, case):
    hidden = case.hidden.clone()
    hidden[1] = -50 * hidden[1]
    return differing(formula(*case._replace(hidden=hidden))[0], formula(*case)[0]), 0


@BLOCK.law
def the_last_bias_is_added_last(formula, case):
    norm = case.weights.output_norm
    moved = case.weights._replace(output_norm=norm._replace(bias_D=norm.bias_D + 5))
    error = distance(formula(*case._replace(weights=moved)), formula(*case) + 5, block_bound(case))
    return error, 2


@BLOCK.law
def a_head_that_is_gone_is_a_head_that_is_not_heard(formula, case):
    """Without it the maps are smaller, and the output is the same as with 0 in its columns."""
    K, output = case.config.head_width, case.weights.attention.output
    deaf = output.weight_OI.clone()
    deaf[:, K : 2 * K] = 0
    attention = case.weights.attention._replace(output=output._replace(weight_OI=deaf))
    whole = case._replace(weights=case.weights._replace(attention=attention))
    rest = torch.tensor([n for n in range(case.config.num_attention_heads) if n != 1])
    smaller = keep_heads(attention, rest, case.config.num_attention_heads)
    gone = case._replace(weights=case.weights._replace(attention=smaller))
    return distance(formula(*gone), formula(*whole), block_bound(whole)), 2


@BLOCK.law
def a_scaled_input_is_normalised_away(formula, case):
    """With silent sub-layers and eps far below the variance the scale of x cancels."""
    config = dataclasses.replace(case.config, layer_norm_eps=1e-15)
    quiet = case._replace(weights=silent(case.weights), config=config)
    scaled = quiet._replace(hidden=quiet.hidden * 1024)
    return distance(formula(*scaled), formula(*quiet)), 1e-10


@BLOCK.gradient
def gradients_of_the_last_norm_are_sums(formula, case):
    """dg = Σ u ŷ, db = Σ u, with ŷ the output without gain and bias."""
    upstream, w = normal(8, B, S, D), case.weights
    _, to_gain, to_bias = gradients(
        lambda x, *parts: formula(
            x, case.bias, w._replace(output_norm=LayerNormWeights(*parts)), case.config
        ),
        [case.hidden, *w.output_norm],
        upstream,
    )
    normed = block_output(*case._replace(weights=w._replace(output_norm=plain_norm())))
    error = distance(to_gain, (upstream * normed).sum((0, 1)))
    return error + distance(to_bias, upstream.sum((0, 1))), 1e-11


@BLOCK.gradient
def gradients_pass_silent_sublayers_through_two_norms(formula, case):
    """What is left is the residual path; torch's own layer norm gives its gradient."""
    w, eps, upstream = silent(case.weights), case.config.layer_norm_eps, normal(8, B, S, D)

    def two_norms(x):
        x = F.layer_norm(x, (D,), *w.attention_norm, eps)
        return F.layer_norm(x, (D,), *w.output_norm, eps)

    (expected,) = gradients(two_norms, [case.hidden], upstream)
    (found,) = gradients(lambda x: formula(x, case.bias, w, case.config), [case.hidden], upstream)
    return distance(found, expected, 1 + expected.abs().amax()), 1e-12


def steady(case: BlockCase) -> BlockCase:
    """Two tokens of one sentence, of scale 1: nothing curves within a finite-difference step."""
    return case._replace(hidden=case.hidden[:1, :2] / 3, bias=case.bias[:1, :, :, :2])


@BLOCK.gradient(cost=30)
def its_slope_is_that_of_a_block(formula, case):
    """With respect to the input and all sixteen weight tensors at once."""
    one = steady(case)
    bias = one.bias[:, 0].tolist()
    return slopes(
        lambda x, *parts: formula(x, one.bias, with_parts(one.weights, parts), one.config),
        lambda x, *parts: spec_of_block(x, bias, with_parts(one.weights, parts), one.config),
        [one.hidden, *parts_of(one.weights)],
    )


@BLOCK.accuracy(
    {
        "normal": block_case,
        "tiny": lambda draw: block_case(draw, 1e-6),
        "large": lambda draw: block_case(draw, 30.0),
        "a large offset": lambda draw: block_case(draw, 1.0, 100.0),
        "equal": lambda draw: block_case(draw, 0.0, 3.0),
        "of a fresh model": lambda draw: block_case(draw, 1.0, 0.0, 0.02),
        "sharp": lambda draw: block_case(draw, 3.0, 0.0, 2.0),
    },
    cost=4,
)
def it_loses_little_more_than_rounding_what_goes_in(formula, case):
    expected = as_tensor(spec_of_block(*lists_of_block(case)))
    return distance(formula(*case), expected, block_bound(case)), 1


def attend(hidden, bias, w, config):
    heads = config.num_attention_heads
    return multi_head_attention(hidden, hidden, bias, w.attention, heads).output_BSD


def normed(x, norm, config):
    return layer_norm(x, *norm, config.layer_norm_eps)


def feed(x, w, config):
    return feed_forward(x, w, config.hidden_act)


@BLOCK.mistake(
    outputs_are_normalised,
    with_silent_sublayers_two_norms_remain,
    a_scaled_input_is_normalised_away,
    it_is_torchs_encoder_layer,
    source="https://github.com/harvardnlp/annotated-transformer/blob/"
    "0a91a254735c07532e23733dce8a693e504f3a08/the_annotated_transformer.py",
)
def pre_norm(hidden, bias, w, config):
    attended = hidden + attend(normed(hidden, w.attention_norm, config), bias, w, config)
    return attended + feed(normed(attended, w.output_norm, config), w, config)


@BLOCK.mistake(
    with_silent_sublayers_two_norms_remain,
    gradients_pass_silent_sublayers_through_two_norms,
    source="https://github.com/codertimo/BERT-pytorch/blob/"
    "0867d0f026e68445247dfd3f21001a320dd5cb7c/bert_pytorch/model/utils/sublayer.py",
)
def no_first_residual(hidden, bias, w, config):
    attended = normed(attend(hidden, bias, w, config), w.attention_norm, config)
    return normed(attended + feed(attended, w, config), w.output_norm, config)


@BLOCK.mistake(
    with_silent_sublayers_two_norms_remain,
    it_is_attention_and_feed_forward_each_added_and_normalised,
)
def no_second_residual(hidden, bias, w, config):
    attended = normed(hidden + attend(hidden, bias, w, config), w.attention_norm, config)
    return normed(feed(attended, w, config), w.output_norm, config)


@BLOCK.mistake(
    with_silent_sublayers_two_norms_remain,
    the_last_bias_is_added_last,
    source="https://github.com/graykode/nlp-tutorial/blob/"
    "c8dafc6a0e55a856845babbde7a646d8e72a0306/5-2.BERT/BERT.py",
)
def feed_forward_alone(hidden, bias, w, config):
    """No residual and no norm in the second half."""
    attended = normed(hidden + attend(hidden, bias, w, config), w.attention_norm, config)
    return feed(attended, w, config)


@BLOCK.mistake(with_silent_sublayers_two_norms_remain, it_is_torchs_encoder_layer)
def second_residual_from_the_input(hidden, bias, w, config):
    attended = normed(hidden + attend(hidden, bias, w, config), w.attention_norm, config)
    return normed(hidden + feed(attended, w, config), w.output_norm, config)


@BLOCK.mistake(the_last_bias_is_added_last, gradients_of_the_last_norm_are_sums)
def norms_exchanged(hidden, bias, w, config):
    swapped = w._replace(attention_norm=w.output_norm, output_norm=w.attention_norm)
    return block_output(hidden, bias, swapped, config)


@BLOCK.mistake(the_last_bias_is_added_last)
def one_norm_for_both(hidden, bias, w, config):
    return block_output(hidden, bias, w._replace(output_norm=w.attention_norm), config)


@BLOCK.mistake(
    with_silent_sublayers_two_norms_remain,
    it_is_attention_and_feed_forward_each_added_and_normalised,
    source="https://github.com/keras-team/keras-hub/issues/642",
)
def eps_of_pytorch_inside_the_block(hidden, bias, w, config):
    return block_output(hidden, bias, w, dataclasses.replace(config, layer_norm_eps=1e-5))


@BLOCK.mistake(hidden_tokens_have_no_influence)
def no_mask(hidden, bias, w, config):
    return block_output(hidden, torch.zeros_like(bias), w, config)


@BLOCK.mistake(
    hidden_tokens_still_ask,
    it_is_attention_and_feed_forward_each_added_and_normalised,
    source="https://github.com/patrick-kidger/equinox/blob/"
    "1b853a7ae766ac4c814997982a48ca85586d5d6b/examples/bert.ipynb",
)
def mask_on_queries_and_keys(hidden, bias, w, config):
    """The outer product of the mask with itself: a padded query has no key to see."""
    return block_output(hidden, bias + bias.mT, w, config)


@BLOCK.mistake(
    hidden_tokens_have_no_influence,
    source="https://github.com/hyunwoongko/transformer/pull/40",
)
def mask_on_queries_instead_of_keys(hidden, bias, w, config):
    return block_output(hidden, bias.mT, w, config)


@BLOCK.mistake(a_head_that_is_gone_is_a_head_that_is_not_heard)
def width_shared_among_the_heads_that_are_left(hidden, bias, w, config):
    """Scores over √(D / A) for A heads left, though a head is as wide as before."""
    n_left = len(w.attention.query.bias_O) // config.head_width
    scale = math.sqrt(config.head_width * n_left / config.hidden_size)
    query = LinearWeights(*(scale * part for part in w.attention.query))
    scaled = w._replace(attention=w.attention._replace(query=query))
    return block_output(hidden, bias, scaled, config)


@BLOCK.mistake(other_sentences_change_no_bit, outputs_are_normalised)
def norm_over_the_batch(hidden, bias, w, config):
    y = block_output(hidden, bias, w, config)
    return (y - y.mean((0, 1))) / y.std((0, 1))


@BLOCK.mistake(tokens_may_be_reordered)
def sees_only_the_past(hidden, bias, w, config):
    past = torch.zeros(S, S).masked_fill(torch.ones(S, S).triu(1) > 0, -1e9)
    return block_output(hidden, bias + past[None, None], w, config)


@BLOCK.mistake(it_loses_little_more_than_rounding_what_goes_in)
def attended_in_eight_bits(hidden, bias, w, config):
    attended = normed(hidden + attend(hidden, bias, w, config), w.attention_norm, config)
    attended = attended.to(torch.float8_e4m3fn).to(hidden.dtype)
    return normed(attended + feed(attended, w, config), w.output_norm, config)


@BLOCK.mistake(its_slope_is_that_of_a_block, gradients_pass_silent_sublayers_through_two_norms)
def residual_not_trained(hidden, bias, w, config):
    attended = hidden.detach() + attend(hidden, bias, w, config)
    attended = normed(attended, w.attention_norm, config)
    return normed(attended + feed(attended, w, config), w.output_norm, config)


@BLOCK.mistake(
    gradients_of_the_last_norm_are_sums,
    source="https://github.com/graykode/nlp-tutorial/blob/"
    "c8dafc6a0e55a856845babbde7a646d8e72a0306/5-2.BERT/BERT.py",
    name="norm_made_anew_in_every_call",
)
def last_norm_not_trained(hidden, bias, w, config):
    """Its weights are not parameters: no gradient reaches them."""
    still = LayerNormWeights(*(part.detach() for part in w.output_norm))
    return block_output(hidden, bias, w._replace(output_norm=still), config)


# ---------------------------------------------------------------------------------------- encode


class Case(NamedTuple):
    """Two sentences; where `keep` is False there is padding."""

    ids: Tensor
    keep: Tensor
    types: Tensor
    weights: BertWeights
    config: BertConfig


def case_of(
    draw: Draw,
    scale: float = 0.4,
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    config: BertConfig = CONFIG,
) -> Case:
    acts = ["gelu", "gelu_new"]
    return Case(
        integers(seed_of(draw), config.vocab_size, B, S),
        keep_of(draw),
        integers(seed_of(draw), config.type_vocab_size, B, S),
        random_weights(seed_of(draw), config, scale, draw.choice(dtypes)),
        with_act(config, draw.choice(acts)),
    )


def in_two_precisions(draw: Draw) -> Case:
    return case_of(draw, dtypes=(torch.float64, torch.float32))


def encode_bound(case: Case) -> Tensor:
    return TIMES * rounding.sensitivity(
        lambda *parts: encode(*case._replace(weights=with_parts(case.weights, parts))),
        parts_of(case.weights),
        eps_of(case.weights.embeddings.word_VD),
    )


ENCODE = Proof(encode, case_of, cost=4)


def spec_of_encode(case: Case, weights: Any = None) -> list[Any]:
    config, weights = case.config, weights or wide_lists(case.weights)
    heads, act = config.num_attention_heads, config.hidden_act
    rows = zip(case.ids.tolist(), case.keep.tolist(), case.types.tolist(), strict=True)
    return [spec.encode(*row, weights, heads, config.layer_norm_eps, act) for row in rows]


@ENCODE.spec
def it_is_embeddings_and_one_block_after_another(formula, case):
    expected = as_tensor(spec_of_encode(case))
    return distance(formula(*case), expected, encode_bound(case)), 1


def erf_case(draw: Draw) -> Case:
    case = case_of(draw)
    return case._replace(config=with_act(case.config, "gelu"))


def reference_states(case: Case) -> list[Tensor]:
    """Every state, computed by torch's modules; a separate test compares with `transformers`."""
    w, config = case.weights.embeddings, case.config
    summed = F.embedding(case.ids, w.word_VD) + w.position_PD[:S] + F.embedding(case.types, w[2])
    states = [F.layer_norm(summed, (D,), *w.norm, config.layer_norm_eps)]
    for weights in case.weights.blocks:
        layer = reference_layer(weights, config)
        states.append(layer(states[-1], src_key_padding_mask=~case.keep))
    return states


@ENCODE.reference(cases=erf_case)
def it_is_torchs_layers_one_after_another(formula, case):
    return distance(formula(*case), reference_states(case)[-1], encode_bound(case)), 2


def other_padding(case: Case) -> Case:
    """Another id and another type wherever a token is hidden."""
    return case._replace(
        ids=torch.where(case.keep, case.ids, (case.ids + 1) % V),
        types=torch.where(case.keep, case.types, (case.types + 1) % T),
    )


@ENCODE.law(cases=in_two_precisions)
def padding_changes_no_bit_of_what_is_kept(formula, case):
    left, right = formula(*other_padding(case)), formula(*case)
    return differing(left[case.keep], right[case.keep]), 0


def longer(case: Case, extra: int) -> Case:
    ids, keep, types = (F.pad(part, (0, extra)) for part in case[:3])
    return case._replace(ids=ids, keep=keep, types=types)


@ENCODE.law(cases=in_two_precisions)
def more_padding_changes_nothing_but_rounding(formula, case):
    """Other lengths are summed in another order."""
    bound, plain, error = encode_bound(case)[case.keep], formula(*case)[case.keep], 0.0
    for extra in (1, 6):
        wider = formula(*longer(case, extra))[:, :S][case.keep]
        error = max(error, distance(wider, plain, bound))
    return error, 1


@ENCODE.law(cases=in_two_precisions)
def a_batch_changes_nothing_but_rounding(formula, case):
    """Alone, or among five copies of the batch."""
    one = case._replace(ids=case.ids[:1], keep=case.keep[:1], types=case.types[:1])
    many = Case(*(part.repeat(5, 1) for part in case[:3]), *case[3:])
    plain, bound = formula(*case), encode_bound(case)
    error = distance(formula(*one)[0], plain[0], bound[0])
    return max(error, distance(formula(*many)[-B:], plain, bound)), 1


@ENCODE.law(cases=in_two_precisions)
def other_rows_change_no_bit(formula, case):
    ids, keep, types = (part.clone() for part in case[:3])
    ids[1], keep[1], types[1] = (ids[1] + 7) % V, True, 0
    changed = formula(*case._replace(ids=ids, keep=keep, types=types))
    return differing(changed[0], formula(*case)[0]), 0


@ENCODE.law(cases=in_two_precisions)
def the_order_of_the_batch_changes_nothing_but_rounding(formula, case):
    """A row at the edge of a matrix may be added up in another order than one in the middle."""
    moved = Case(*(part.flip(0) for part in case[:3]), *case[3:])
    return distance(formula(*moved), formula(*case).flip(0), encode_bound(case).flip(0)), 1


@ENCODE.law(cases=in_two_precisions)
def two_runs_give_the_same_bits(formula, case):
    return differing(formula(*case), formula(*case)), 0


@ENCODE.law
def order_matters(formula, case):
    """Swapping two words does more than swap their two outputs."""
    ids = torch.arange(S).repeat(B, 1)
    swapped = ids.clone()
    swapped[:, [0, 1]] = ids[:, [1, 0]]
    everyone, types = torch.ones_like(case.keep), torch.zeros_like(case.types)
    y = formula(ids, everyone, types, *case[3:])
    z = formula(swapped, everyone, types, *case[3:])
    return float(distance(z[:, [1, 0]], y[:, :2]) < 1e-3 or distance(z[:, 2:], y[:, 2:]) < 1e-6), 0


@ENCODE.law
def without_positions_order_does_not_matter(formula, case):
    tables = case.weights.embeddings
    flat = tables._replace(position_PD=torch.zeros_like(tables.position_PD))
    flat = case._replace(weights=case.weights._replace(embeddings=flat))
    order = order_of(S, 2)
    moved = Case(*(part[:, order] for part in flat[:3]), *flat[3:])
    return distance(formula(*moved), formula(*flat)[:, order], encode_bound(flat)[:, order]), 2


@ENCODE.law
def words_may_be_renumbered(formula, case):
    order, tables = order_of(V, 3), case.weights.embeddings
    weights = case.weights._replace(embeddings=tables._replace(word_VD=tables.word_VD[order]))
    renumbered = case._replace(weights=weights)
    return differing(formula(*renumbered), formula(*case._replace(ids=order[case.ids]))), 0


@ENCODE.law
def every_layer_counts(formula, case):
    """Running the first block alone gives another state, and so does exchanging the blocks."""
    first, second = case.weights.blocks
    equal = 0.0
    for blocks in ((first,), (second, first), (first, first)):
        other = formula(*case._replace(weights=case.weights._replace(blocks=blocks)))
        equal += distance(other, formula(*case)) < 1e-3
    return equal, 0


@ENCODE.law
def the_types_of_both_sentences_count(formula, case):
    other = case._replace(types=(case.types + 1) % T)
    return float(distance(formula(*other), formula(*case)) < 1e-3), 0


@ENCODE.gradient
def padding_trains_nothing(formula, case):
    """Rows that only padding uses get exactly 0 if no loss uses the outputs at padding."""
    hidden = torch.where(case.keep, case.ids % (V - 1), V - 1)
    types = torch.where(case.keep, case.types % (T - 1), T - 1)
    case = case._replace(ids=hidden, types=types)
    upstream = normal(7, B, S, D) * case.keep[..., None]
    found = gradients(
        lambda *parts: formula(*case._replace(weights=with_parts(case.weights, parts))),
        parts_of(case.weights),
        upstream,
    )
    tables = with_parts(case.weights, found).embeddings
    nowhere = torch.zeros(len(tables.position_PD), dtype=torch.bool)
    nowhere[:S], nowhere[S:] = ~case.keep.any(0), True
    trained = tables.word_VD[-1].abs().sum() + tables.type_TD[-1].abs().sum()
    return float(trained + tables.position_PD[nowhere].abs().sum()), 0


@ENCODE.gradient
def every_weight_is_trained(formula, case):
    """All but the key biases, whose influence the softmax cancels."""
    everyone = case._replace(keep=torch.ones_like(case.keep))
    found = gradients(
        lambda *parts: formula(*everyone._replace(weights=with_parts(case.weights, parts))),
        parts_of(case.weights),
        normal(7, B, S, D),
    )
    names = [name for name, _ in named_tensors(case.weights)]
    small = [name for name, g in zip(names, found, strict=True) if g.abs().max() < 1e-6]
    expected = [name for name in names if name.endswith("attention.key.bias_O")]
    return float(small != expected), 0


def small_case(draw: Draw) -> Case:
    """One sentence of four tokens, the last one padding, in the smallest of encoders."""
    case = case_of(draw, config=SMALL)
    ids, types = case.ids[:1, :4], case.types[:1, :4]
    return case._replace(ids=ids, types=types, keep=torch.arange(4)[None] < 3)


@ENCODE.gradient(cases=small_case, cost=60)
def its_slope_is_that_of_block_after_block(formula, case):
    """Through the whole encoder, with respect to all of its weights at once."""
    return slopes(
        lambda *parts: formula(*case._replace(weights=with_parts(case.weights, parts))),
        lambda *parts: spec_of_encode(case, with_parts(case.weights, parts)),
        parts_of(case.weights),
        tolerance=1e-10,  # two blocks and five norms curve more than one
    )


def sharp_case(draw: Draw) -> Case:
    """Queries and keys ten times as large: scores of ±100, one key takes nearly everything."""
    case = case_of(draw)

    def sharpened(b: BlockWeights) -> BlockWeights:
        louder = [LinearWeights(*(10 * part for part in map_)) for map_ in b.attention[:2]]
        return b._replace(attention=b.attention._replace(query=louder[0], key=louder[1]))

    blocks = tuple(sharpened(b) for b in case.weights.blocks)
    return case._replace(weights=case.weights._replace(blocks=blocks))


def outlier_case(draw: Draw) -> Case:
    """One feature a hundred times as large as the others, as trained models have them."""
    case = case_of(draw)

    def loud(norm: LayerNormWeights) -> LayerNormWeights:
        factor = torch.ones(D).double()
        factor[4] = 100
        return norm._replace(gain_D=norm.gain_D * factor)

    tables = case.weights.embeddings
    blocks = tuple(b._replace(output_norm=loud(b.output_norm)) for b in case.weights.blocks)
    return case._replace(weights=BertWeights(tables._replace(norm=loud(tables.norm)), blocks))


HARD_MODELS = {
    "normal": case_of,
    "of a fresh model": lambda draw: case_of(draw, 0.02),
    "wide": lambda draw: case_of(draw, 1.0),
    "tiny": lambda draw: case_of(draw, 1e-6),
    "sharp": sharp_case,
    "an outlying feature": outlier_case,
    "one token": lambda draw: case_of(draw)._replace(keep=torch.arange(S).expand(B, S) < 1),
}


@ENCODE.accuracy(HARD_MODELS, cost=8)
def it_loses_little_more_than_rounding_its_weights(formula, case):
    expected = as_tensor(spec_of_encode(case))
    return distance(formula(*case), expected, encode_bound(case)), 1


@ENCODE.mistake(
    padding_changes_no_bit_of_what_is_kept,
    more_padding_changes_nothing_but_rounding,
    padding_trains_nothing,
)
def mask_forgotten(ids, keep, types, weights, config):
    return encode(ids, torch.ones_like(keep), types, weights, config)


@ENCODE.mistake(words_may_be_renumbered, it_is_embeddings_and_one_block_after_another)
def padding_found_by_id_zero(ids, keep, types, weights, config):
    """It hides a real token with that id, and shows padding with another id."""
    return encode(ids, ids != 0, types, weights, config)


def with_positions(weights, table):
    return weights._replace(embeddings=weights.embeddings._replace(position_PD=table))


@ENCODE.mistake(order_matters)
def positions_forgotten(ids, keep, types, weights, config):
    table = torch.zeros_like(weights.embeddings.position_PD)
    return encode(ids, keep, types, with_positions(weights, table), config)


@ENCODE.mistake(without_positions_order_does_not_matter, it_is_torchs_layers_one_after_another)
def positions_of_vaswani(ids, keep, types, weights, config):
    place = torch.arange(len(weights.embeddings.position_PD)).double()[:, None]
    table = torch.sin(place / 10000 ** (torch.arange(D) / D))
    return encode(ids, keep, types, with_positions(weights, table), config)


@ENCODE.mistake(more_padding_changes_nothing_but_rounding)
def positions_counted_from_the_end(ids, keep, types, weights, config):
    table = weights.embeddings.position_PD[: ids.shape[1]].flip(0)
    return encode(ids, keep, types, with_positions(weights, table), config)


@ENCODE.mistake(
    the_types_of_both_sentences_count,
    source="https://github.com/huggingface/transformers/issues/263",
)
def types_forgotten(ids, keep, types, weights, config):
    return encode(ids, keep, torch.zeros_like(types), weights, config)


@ENCODE.mistake(other_rows_change_no_bit, a_batch_changes_nothing_but_rounding)
def sequence_for_batch(ids, keep, types, weights, config):
    """Batch and tokens taken for each other, as when `batch_first` is forgotten."""
    swapped = encode(ids.mT, keep.mT | True, types.mT, weights, config)
    return swapped.transpose(0, 1)


@ENCODE.mistake(the_order_of_the_batch_changes_nothing_but_rounding)
def mask_of_the_first_sentence(ids, keep, types, weights, config):
    return encode(ids, keep[:1].expand_as(keep), types, weights, config)


@ENCODE.mistake(
    two_runs_give_the_same_bits,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def dropout_in_evaluation(ids, keep, types, weights, config):
    generator = torch.Generator()
    generator.seed()  # from the clock or a random device: no two are alike
    return encode(ids, keep, types, weights, config, generator)


@ENCODE.mistake(every_layer_counts, it_is_embeddings_and_one_block_after_another)
def one_block_for_all_layers(ids, keep, types, weights, config):
    shared = weights.blocks[:1] * len(weights.blocks)
    return encode(ids, keep, types, weights._replace(blocks=shared), config)


@ENCODE.mistake(
    it_is_embeddings_and_one_block_after_another,
    it_is_torchs_layers_one_after_another,
    its_slope_is_that_of_block_after_block,
)
def blocks_in_reverse(ids, keep, types, weights, config):
    return encode(ids, keep, types, weights._replace(blocks=weights.blocks[::-1]), config)


@ENCODE.mistake(it_is_embeddings_and_one_block_after_another)
def last_block_left_out(ids, keep, types, weights, config):
    return encode(ids, keep, types, weights._replace(blocks=weights.blocks[:-1]), config)


@ENCODE.mistake(it_loses_little_more_than_rounding_its_weights)
def weights_in_eight_bits(ids, keep, types, weights, config):
    small = [part.to(torch.float8_e4m3fn).to(part.dtype) for part in parts_of(weights)]
    return encode(ids, keep, types, with_parts(weights, small), config)


@ENCODE.mistake(every_weight_is_trained, its_slope_is_that_of_block_after_block)
def first_block_not_trained(ids, keep, types, weights, config):
    still = with_parts(weights.blocks[0], [part.detach() for part in parts_of(weights.blocks[0])])
    return encode(ids, keep, types, weights._replace(blocks=(still, *weights.blocks[1:])), config)


# --------------------------------------------------------------------------------- encode_traced

ENCODE_TRACED = Proof(encode_traced, case_of, cost=4)


def spec_of_states(case: Case, weights: Any = None) -> list[Any]:
    """The embeddings and the output of each block: [L + 1][B][S][D]."""
    weights = weights or wide_lists(case.weights)
    shorter = (weights._replace(blocks=weights.blocks[:n]) for n in range(len(weights.blocks) + 1))
    return [spec_of_encode(case, part) for part in shorter]


def states_of(trace: EncoderTrace) -> Tensor:
    return torch.stack(trace.hiddens_LBSD)


def states_bound(case: Case) -> Tensor:
    return TIMES * rounding.sensitivity(
        lambda *parts: states_of(
            encode_traced(*case._replace(weights=with_parts(case.weights, parts)))
        ),
        parts_of(case.weights),
        eps_of(case.weights.embeddings.word_VD),
    )


@ENCODE_TRACED.spec
def its_states_are_those_after_each_block(formula, case):
    expected = as_tensor(spec_of_states(case))
    return distance(states_of(formula(*case)), expected, states_bound(case)), 1


@ENCODE_TRACED.reference(cases=erf_case)
def its_states_are_those_of_torchs_layers(formula, case):
    expected = torch.stack(reference_states(case))
    return distance(states_of(formula(*case)), expected, states_bound(case)), 4


@ENCODE_TRACED.law(cases=in_two_precisions)
def its_last_state_is_what_encode_returns(formula, case):
    trace = formula(*case)
    error = differing(trace.hidden_BSD, encode(*case))
    return error + differing(trace.hiddens_LBSD[-1], trace.hidden_BSD), 0


@ENCODE_TRACED.law(cases=in_two_precisions)
def each_state_follows_from_the_one_before(formula, case):
    """Bit for bit, with everything that a block computes along the way."""
    trace, tables = formula(*case), case.weights.embeddings
    states = trace.hiddens_LBSD
    error = differing(states[0], embeddings(case.ids, case.types, tables, case.config))
    bias = padding_bias(case.keep, states[0].dtype)
    for state, seen, weights in zip(states, trace.blocks, case.weights.blocks, strict=False):
        again = block(state, bias, weights, case.config)
        error += sum(map(differing, parts_of(seen), parts_of(again)))
    return error + abs(len(trace.blocks) - len(case.weights.blocks)), 0


@ENCODE_TRACED.law
def scores_are_those_before_the_mask(formula, case):
    """All of them finite; under the mask they give the probabilities."""
    bias, error = padding_bias(case.keep, torch.float64), 0.0
    for seen in (trace.attention for trace in formula(*case).blocks):
        error += float((~seen.scores_BNSR.isfinite()).sum())
        probabilities = attention_probabilities(seen.scores_BNSR, bias)
        error += differing(seen.probabilities_BNSR, probabilities)
    return error, 0


@ENCODE_TRACED.law
def the_state_between_is_input_plus_attention_normalised(formula, case):
    trace, error = formula(*case), 0.0
    for x, seen, w in zip(trace.hiddens_LBSD, trace.blocks, case.weights.blocks, strict=False):
        expected = normed(x + seen.attention.output_BSD, w.attention_norm, case.config)
        error += differing(seen.attended_BSD, expected)
    return error, 0


@ENCODE_TRACED.gradient(cases=small_case, cost=100)
def the_slope_of_every_state_is_that_of_the_spec(formula, case):
    return slopes(
        lambda *parts: states_of(formula(*case._replace(weights=with_parts(case.weights, parts)))),
        lambda *parts: spec_of_states(case, with_parts(case.weights, parts)),
        parts_of(case.weights),
        tolerance=1e-10,
    )


@ENCODE_TRACED.accuracy(HARD_MODELS, cost=8)
def every_state_loses_little_more_than_rounding_the_weights(formula, case):
    expected = as_tensor(spec_of_states(case))
    return distance(states_of(formula(*case)), expected, states_bound(case)), 1


def with_blocks(trace, change):
    return trace._replace(blocks=tuple(map(change, trace.blocks)))


@ENCODE_TRACED.mistake(
    its_states_are_those_after_each_block,
    its_states_are_those_of_torchs_layers,
    each_state_follows_from_the_one_before,
)
def states_before_the_norm(*case):
    trace = encode_traced(*case)
    summed = no_norm(case[0], case[2], case[3].embeddings, case[4])
    return trace._replace(embedded_BSD=summed)


@ENCODE_TRACED.mistake(
    its_states_are_those_after_each_block, the_state_between_is_input_plus_attention_normalised
)
def states_between_handed_out_as_states(*case):
    return with_blocks(
        encode_traced(*case), lambda seen: seen._replace(hidden_BSD=seen.attended_BSD)
    )


@ENCODE_TRACED.mistake(its_last_state_is_what_encode_returns)
def states_one_too_early(*case):
    ids, keep, types, weights, config = case
    first = encode_traced(ids, keep, types, weights, config)
    return first._replace(blocks=(first.blocks[0], first.blocks[0]))


@ENCODE_TRACED.mistake(scores_are_those_before_the_mask)
def scores_after_the_mask(*case):
    bias = padding_bias(case[1], torch.float64)

    def masked(seen):
        attention = seen.attention
        scores = attention.scores_BNSR + bias
        return seen._replace(attention=attention._replace(scores_BNSR=scores))

    return with_blocks(encode_traced(*case), masked)


@ENCODE_TRACED.mistake(scores_are_those_before_the_mask, each_state_follows_from_the_one_before)
def probabilities_for_scores(*case):
    def exchanged(seen):
        shown = seen.attention.probabilities_BNSR
        return seen._replace(attention=seen.attention._replace(scores_BNSR=shown))

    return with_blocks(encode_traced(*case), exchanged)


@ENCODE_TRACED.mistake(the_slope_of_every_state_is_that_of_the_spec)
def states_not_trained(*case):
    trace = encode_traced(*case)
    return trace._replace(embedded_BSD=trace.embedded_BSD.detach())


@ENCODE_TRACED.mistake(every_state_loses_little_more_than_rounding_the_weights)
def states_kept_in_eight_bits(*case):
    def rounded(seen):
        state = seen.hidden_BSD.to(torch.float8_e4m3fn).to(seen.hidden_BSD.dtype)
        return seen._replace(hidden_BSD=state)

    return with_blocks(encode_traced(*case), rounded)


# --------------------------------------------------------------------------------- with dropout

# Every formula again, as in training: with its arguments in evaluation and a generator.


class Training(NamedTuple):
    """A formula's arguments in evaluation, with rates of dropout, and a seed of its draws."""

    given: Any
    seed: int


def with_rates(config: BertConfig, hidden: float, attention: float) -> BertConfig:
    return dataclasses.replace(
        config, hidden_dropout_prob=hidden, attention_probs_dropout_prob=attention
    )


def training(cases: Any) -> Any:
    """Cases whose two rates differ."""

    def drawn(draw: Draw) -> Training:
        given, rates = cases(draw), draw.choice([(0.3, 0.5), (0.5, 0.3), (0.5, 0.0), (0.7, 0.2)])
        return Training(given._replace(config=with_rates(given.config, *rates)), seed_of(draw))

    return drawn


def in_training(formula: Any, case: Training, shift: int = 0) -> Any:
    """The result with a fresh generator, seeded with the case's seed plus `shift`."""
    return formula(*case.given, fresh(case.seed + shift))


def without_rates(case: Training) -> Any:
    return case.given._replace(config=with_rates(case.given.config, 0.0, 0.0))


def differing_parts(a: Any, b: Any) -> float:
    """How many numbers of two tensors or traces are not the same bit for bit."""
    return sum(map(differing, parts_of(a), parts_of(b)))


EMBEDDINGS_WITH_DROPOUT = Proof(
    embeddings, training(embedding_case), name="embeddings_with_dropout"
)
BLOCK_WITH_DROPOUT = Proof(block, training(block_case), name="block_with_dropout", cost=2)
ENCODE_WITH_DROPOUT = Proof(encode, training(case_of), name="encode_with_dropout", cost=2)
ENCODE_TRACED_WITH_DROPOUT = Proof(
    encode_traced, training(case_of), name="encode_traced_with_dropout", cost=2
)


@EMBEDDINGS_WITH_DROPOUT.law
@BLOCK_WITH_DROPOUT.law
@ENCODE_WITH_DROPOUT.law
@ENCODE_TRACED_WITH_DROPOUT.law
def nothing_is_dropped_without_both_rates_and_a_generator(formula, case):
    plain = formula(*without_rates(case))
    error = differing_parts(formula(*case.given), plain)
    return error + differing_parts(formula(*without_rates(case), fresh(case.seed)), plain), 0


@EMBEDDINGS_WITH_DROPOUT.law
@BLOCK_WITH_DROPOUT.law
@ENCODE_WITH_DROPOUT.law
@ENCODE_TRACED_WITH_DROPOUT.law
def the_generator_decides_what_is_dropped(formula, case):
    """Equal seeds drop alike, other seeds do not; torch's global generator is left untouched."""
    before = torch.get_rng_state()
    first, again, other = (in_training(formula, case, shift) for shift in (0, 0, 1))
    drawn = differing(torch.get_rng_state(), before)
    return differing_parts(first, again) + float(differing_parts(first, other) == 0) + drawn, 0


# The embeddings: one dropout, after the norm.


@EMBEDDINGS_WITH_DROPOUT.law
def dropout_falls_on_what_is_normalised(formula, case):
    """After the norm, at the rate of the hidden states, with one draw for each number."""
    rate, plain = case.given.config.hidden_dropout_prob, embeddings(*case.given)
    draws = torch.rand(plain.shape, generator=fresh(case.seed))
    expected = torch.where(draws >= rate, plain, 0) / (1 - rate)
    unit = embedding_bound(case.given) / (1 - rate)
    return distance(in_training(formula, case), expected, unit), 2


@EMBEDDINGS_WITH_DROPOUT.mistake(
    dropout_falls_on_what_is_normalised, the_generator_decides_what_is_dropped
)
def no_dropout_of_embeddings(ids, types, w, config, generator=None):
    return embeddings(ids, types, w, config)


@EMBEDDINGS_WITH_DROPOUT.mistake(dropout_falls_on_what_is_normalised)
def dropout_before_the_norm(ids, types, w, config, generator=None):
    summed = no_norm(ids, types, w, config)
    return normed(dropout(summed, config.hidden_dropout_prob, generator), w.norm, config)


@EMBEDDINGS_WITH_DROPOUT.mistake(dropout_falls_on_what_is_normalised)
def dropout_of_the_words_alone(ids, types, w, config, generator=None):
    words = dropout(w.word_VD, config.hidden_dropout_prob, generator)
    return embeddings(ids, types, w._replace(word_VD=words), config)


@EMBEDDINGS_WITH_DROPOUT.mistake(dropout_falls_on_what_is_normalised)
def dropout_of_whole_tokens(ids, types, w, config, generator=None):
    y = embeddings(ids, types, w, config)
    return y * dropout(torch.ones_like(y[..., :1]), config.hidden_dropout_prob, generator)


@EMBEDDINGS_WITH_DROPOUT.mistake(dropout_falls_on_what_is_normalised)
def embeddings_dropped_at_the_rate_of_attention(ids, types, w, config, generator=None):
    y = embeddings(ids, types, w, config)
    return dropout(y, config.attention_probs_dropout_prob, generator)


@EMBEDDINGS_WITH_DROPOUT.mistake(
    nothing_is_dropped_without_both_rates_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def embeddings_dropped_in_evaluation(ids, types, w, config, generator=None):
    return embeddings(ids, types, w, config, generator or fresh(1))


@EMBEDDINGS_WITH_DROPOUT.mistake(the_generator_decides_what_is_dropped)
def embeddings_dropped_by_the_source_that_everyone_shares(ids, types, w, config, generator=None):
    y, rate = embeddings(ids, types, w, config), config.hidden_dropout_prob
    return F.dropout(y, rate, training=generator is not None)


# The block: three dropouts, one after another from one generator.


def generator_after(seed: int, *dropouts: tuple[tuple[int, ...], float]) -> torch.Generator:
    """A generator as these dropouts leave it, each of a shape and a rate; rate 0 draws nothing."""
    generator = fresh(seed)
    for shape, rate in dropouts:
        if rate:
            torch.rand(shape, generator=generator)
    return generator


@BLOCK_WITH_DROPOUT.law
def attention_drops_first_and_at_a_rate_of_its_own(formula, case):
    hidden, bias, w, config = case.given
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    expected = multi_head_attention(
        hidden, hidden, bias, w.attention, heads, rate, fresh(case.seed)
    )
    return differing_parts(in_training(formula, case).attention, expected), 0


def dropouts_of_attention(case: BlockCase) -> tuple[tuple[int, ...], float]:
    batch, tokens, _ = case.hidden.shape
    shape = (batch, case.config.num_attention_heads, tokens, tokens)
    return shape, case.config.attention_probs_dropout_prob


@BLOCK_WITH_DROPOUT.law
def what_attention_adds_is_dropped_before_the_sum(formula, case):
    hidden, _, w, config = case.given
    trace, rate = in_training(formula, case), config.hidden_dropout_prob
    generator = generator_after(case.seed, dropouts_of_attention(case.given))
    draws = torch.rand(hidden.shape, generator=generator)
    kept = torch.where(draws >= rate, trace.attention.output_BSD, 0) / (1 - rate)
    expected = normed(hidden + kept, w.attention_norm, config)
    return distance(trace.attended_BSD, expected, 1 + expected.abs()), 64 * EPS


@BLOCK_WITH_DROPOUT.law
def what_is_fed_forward_is_dropped_before_the_sum(formula, case):
    hidden, _, w, config = case.given
    trace, rate = in_training(formula, case), config.hidden_dropout_prob
    generator = generator_after(case.seed, dropouts_of_attention(case.given), (hidden.shape, rate))
    draws = torch.rand(hidden.shape, generator=generator)
    kept = torch.where(draws >= rate, feed(trace.attended_BSD, w, config), 0) / (1 - rate)
    expected = normed(trace.attended_BSD + kept, w.output_norm, config)
    return distance(trace.hidden_BSD, expected, 1 + expected.abs()), 64 * EPS


def dropped_and_added(x, output, rate, generator):
    return x + dropout(output, rate, generator)


def block_with_dropout(after_attention=dropped_and_added, after_feed=dropped_and_added, rates=None):
    """block with dropout in other places; `rates` changes those of attention and hidden states."""

    def formula(hidden, bias, w, config, generator=None):
        own = config.attention_probs_dropout_prob, config.hidden_dropout_prob
        attention_rate, rate = rates(*own) if rates else own
        attention = multi_head_attention(
            hidden, hidden, bias, w.attention, config.num_attention_heads, attention_rate, generator
        )
        attended = after_attention(hidden, attention.output_BSD, rate, generator)
        attended = normed(attended, w.attention_norm, config)
        output = after_feed(attended, feed(attended, w, config), rate, generator)
        return BlockTrace(attention, attended, normed(output, w.output_norm, config))

    return formula


def added(x, output, rate, generator):
    return x + output


def added_and_dropped(x, output, rate, generator):
    return dropout(x + output, rate, generator)


def input_dropped_and_added(x, output, rate, generator):
    return dropout(x, rate, generator) + output


def rewound(generator, number=0):
    """The generator back at its initial seed."""
    return generator and fresh(generator.initial_seed())


def dropped_by_the_first_draws(x, output, rate, generator):
    return x + dropout(output, rate, rewound(generator))


BLOCK_WITH_DROPOUT.mistake(
    what_attention_adds_is_dropped_before_the_sum, name="no_dropout_after_attention"
)(block_with_dropout(after_attention=added))

BLOCK_WITH_DROPOUT.mistake(
    what_is_fed_forward_is_dropped_before_the_sum,
    source="https://github.com/graykode/nlp-tutorial/blob/"
    "c8dafc6a0e55a856845babbde7a646d8e72a0306/5-2.BERT/BERT.py",
    name="no_dropout_after_the_feed_forward",
)(block_with_dropout(after_feed=added))

BLOCK_WITH_DROPOUT.mistake(
    what_attention_adds_is_dropped_before_the_sum,
    what_is_fed_forward_is_dropped_before_the_sum,
    name="dropout_round_the_residual_sum",
)(block_with_dropout(added_and_dropped, added_and_dropped))

BLOCK_WITH_DROPOUT.mistake(
    what_attention_adds_is_dropped_before_the_sum,
    what_is_fed_forward_is_dropped_before_the_sum,
    name="dropout_on_the_residual",
)(block_with_dropout(input_dropped_and_added, input_dropped_and_added))

BLOCK_WITH_DROPOUT.mistake(
    attention_drops_first_and_at_a_rate_of_its_own, name="attention_dropout_removed"
)(block_with_dropout(rates=lambda attention, hidden: (0.0, hidden)))

BLOCK_WITH_DROPOUT.mistake(
    attention_drops_first_and_at_a_rate_of_its_own, name="attention_dropped_at_the_hidden_rate"
)(block_with_dropout(rates=lambda attention, hidden: (hidden, hidden)))

BLOCK_WITH_DROPOUT.mistake(
    what_attention_adds_is_dropped_before_the_sum,
    what_is_fed_forward_is_dropped_before_the_sum,
    name="hidden_states_dropped_at_the_rate_of_attention",
)(block_with_dropout(rates=lambda attention, hidden: (attention, attention)))

BLOCK_WITH_DROPOUT.mistake(
    what_is_fed_forward_is_dropped_before_the_sum, name="the_same_draws_after_both_sublayers"
)(block_with_dropout(dropped_by_the_first_draws, dropped_by_the_first_draws))


@BLOCK_WITH_DROPOUT.mistake(what_is_fed_forward_is_dropped_before_the_sum)
def dropout_between_the_two_maps(hidden, bias, w, config, generator=None):
    trace = block_with_dropout(after_feed=added)(hidden, bias, w, config, generator)
    rate, attended = config.hidden_dropout_prob, trace.attended_BSD
    fed = fed_with(lambda a: dropout(gelu_erf(a), rate, generator))(attended, w)
    return trace._replace(hidden_BSD=normed(attended + fed, w.output_norm, config))


@BLOCK_WITH_DROPOUT.mistake(what_attention_adds_is_dropped_before_the_sum)
def hidden_draws_before_those_of_attention(hidden, bias, w, config, generator=None):
    """Right on average, but a seed gives other numbers than before."""
    ones = dropout(torch.ones_like(hidden), config.hidden_dropout_prob, generator)
    return block_with_dropout(lambda x, output, *_: x + ones * output)(
        hidden, bias, w, config, generator
    )


@BLOCK_WITH_DROPOUT.mistake(the_generator_decides_what_is_dropped)
def block_that_passes_no_generator_on(hidden, bias, w, config, generator=None):
    return block(hidden, bias, w, config)


@BLOCK_WITH_DROPOUT.mistake(
    nothing_is_dropped_without_both_rates_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def attention_dropped_in_evaluation(hidden, bias, w, config, generator=None):
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    attention = multi_head_attention(
        hidden, hidden, bias, w.attention, heads, rate, generator or fresh(1)
    )
    return block(hidden, bias, w, config, generator)._replace(attention=attention)


# The encoder: one generator for the embeddings and for every block.


def traced_by_hand(case: Case, generator: torch.Generator) -> EncoderTrace:
    """What embeddings and blocks compute if each draws on from where the one before stopped."""
    ids, keep, types, weights, config = case
    embedded = embeddings(ids, types, weights.embeddings, config, generator)
    bias, state, blocks = padding_bias(keep, embedded.dtype), embedded, []
    for w in weights.blocks:
        blocks.append(block(state, bias, w, config, generator))
        state = blocks[-1].hidden_BSD
    return EncoderTrace(embedded, tuple(blocks))


@ENCODE_WITH_DROPOUT.law
def the_embeddings_draw_first_and_then_block_after_block(formula, case):
    expected = traced_by_hand(case.given, fresh(case.seed)).hidden_BSD
    return differing(in_training(formula, case), expected), 0


def encode_with(of_embeddings, of_block):
    """encode with other generators for the embeddings and for block n."""

    def formula(ids, keep, types, weights, config, generator=None):
        first = of_embeddings(generator)
        state = embeddings(ids, types, weights.embeddings, config, first)
        bias = padding_bias(keep, state.dtype)
        for number, w in enumerate(weights.blocks):
            state = block(state, bias, w, config, of_block(generator, number)).hidden_BSD
        return state

    return formula


def itself(generator, number=0):
    return generator


def none_at_all(generator, number=0):
    return None


ENCODE_WITH_DROPOUT.mistake(
    the_embeddings_draw_first_and_then_block_after_block,
    the_generator_decides_what_is_dropped,
    name="no_generator_passed_on",
)(encode_with(none_at_all, none_at_all))

ENCODE_WITH_DROPOUT.mistake(
    the_embeddings_draw_first_and_then_block_after_block,
    name="no_generator_for_the_embeddings",
)(encode_with(none_at_all, itself))

ENCODE_WITH_DROPOUT.mistake(
    the_embeddings_draw_first_and_then_block_after_block, name="no_generator_for_the_blocks"
)(encode_with(itself, none_at_all))

ENCODE_WITH_DROPOUT.mistake(
    the_embeddings_draw_first_and_then_block_after_block, name="dropout_in_the_first_block_alone"
)(encode_with(itself, lambda generator, number: None if number else generator))

ENCODE_WITH_DROPOUT.mistake(
    the_embeddings_draw_first_and_then_block_after_block, name="the_same_draws_for_every_block"
)(encode_with(itself, rewound))

ENCODE_WITH_DROPOUT.mistake(
    nothing_is_dropped_without_both_rates_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
    name="blocks_dropped_in_evaluation",
)(encode_with(itself, lambda generator, number: generator or fresh(number)))


@ENCODE_TRACED_WITH_DROPOUT.law
def every_state_follows_by_the_draws_after_those_before_it(formula, case):
    """Bit for bit, with everything that a block computes along the way."""
    expected = traced_by_hand(case.given, fresh(case.seed))
    return differing_parts(in_training(formula, case), expected), 0


@ENCODE_TRACED_WITH_DROPOUT.law
def encode_draws_alike(formula, case):
    return differing(in_training(formula, case).hidden_BSD, in_training(encode, case)), 0


@ENCODE_TRACED_WITH_DROPOUT.mistake(
    encode_draws_alike,
    the_generator_decides_what_is_dropped,
    every_state_follows_by_the_draws_after_those_before_it,
)
def trace_in_evaluation(ids, keep, types, weights, config, generator=None):
    return encode_traced(ids, keep, types, weights, config)


@ENCODE_TRACED_WITH_DROPOUT.mistake(every_state_follows_by_the_draws_after_those_before_it)
def embeddings_shown_before_dropout(ids, keep, types, weights, config, generator=None):
    trace = encode_traced(ids, keep, types, weights, config, generator)
    return trace._replace(embedded_BSD=embeddings(ids, types, weights.embeddings, config))


@ENCODE_TRACED_WITH_DROPOUT.mistake(
    encode_draws_alike, every_state_follows_by_the_draws_after_those_before_it
)
def the_same_draws_in_every_block(ids, keep, types, weights, config, generator=None):
    embedded = embeddings(ids, types, weights.embeddings, config, generator)
    bias, trace = padding_bias(keep, embedded.dtype), EncoderTrace(embedded, ())
    for w in weights.blocks:
        seen = block(trace.hiddens_LBSD[-1], bias, w, config, rewound(generator))
        trace = trace._replace(blocks=(*trace.blocks, seen))
    return trace


@ENCODE_TRACED_WITH_DROPOUT.mistake(nothing_is_dropped_without_both_rates_and_a_generator)
def trace_always_in_training(ids, keep, types, weights, config, generator=None):
    return encode_traced(ids, keep, types, weights, config, generator or fresh(1))
