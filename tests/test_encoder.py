"""The encoder, proven five ways: spec, reference, laws, gradient, known mistakes."""

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
    as_tensor,
    check,
    check_slope,
    differing,
    distance,
    fewer,
    gradients,
    holds,
    normal,
    rejects,
    seeds,
)
from torch import Tensor

from minibert.attention import multi_head_attention, padding_bias
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
from minibert.functional import gelu_erf, gelu_tanh, layer_norm, linear
from minibert.parameters import (
    BertWeights,
    LayerNormWeights,
    LinearWeights,
    named_tensors,
    weight_shapes,
    with_tensors,
)

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
TANH = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": "gelu_new"})
D, EPS_LN = CONFIG.hidden_size, CONFIG.layer_norm_eps
BOUND = 200 * EPS  # each of 13 sums and norms adds a few EPS; outputs of a norm have size 1 to 5


def random_weights(seed: int, config: BertConfig = CONFIG) -> BertWeights:
    """No bias is 0 and no gain is 1, so that forgetting one shows."""
    shapes = weight_shapes(config, parts=())
    named = enumerate(named_tensors(shapes))
    drawn = {
        name: normal(seed + i, *t.shape, scale=0.4, offset=float(name.endswith("gain_D")))
        for i, (name, t) in named
    }
    return with_tensors(shapes, drawn)


def listed(weights):
    return with_tensors(weights, {name: t.tolist() for name, t in named_tensors(weights)})


class Case(NamedTuple):
    """Two sentences: one of S tokens, one that ends in padding."""

    ids: Tensor
    keep: Tensor
    types: Tensor
    weights: BertWeights
    config: BertConfig


def case_of(seed: int, config: BertConfig = CONFIG) -> Case:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(CONFIG.vocab_size, (B, S), generator=generator)
    types = torch.randint(CONFIG.type_vocab_size, (B, S), generator=generator)
    length = int(torch.randint(1, S, (), generator=generator))
    keep = torch.arange(S) < torch.tensor([[S], [length]])
    return Case(ids, keep, types, random_weights(seed), config)


cases = st.builds(case_of, seeds, st.sampled_from([CONFIG, TANH]))
few = fewer(3)


# -------------------------------------------------------------------------------- embeddings


class EmbeddingCase(NamedTuple):
    ids: Tensor
    types: Tensor
    weights: object
    config: BertConfig


def embedding_case(seed: int) -> EmbeddingCase:
    case = case_of(seed)
    return EmbeddingCase(case.ids, case.types, case.weights.embeddings, CONFIG)


@given(seed=seeds)
@few
def test_embeddings_are_their_spec(seed):
    case = embedding_case(seed)
    rows = zip(case.ids.tolist(), case.types.tolist(), strict=True)
    expected = [spec.embeddings(*row, listed(case.weights), EPS_LN) for row in rows]
    check(distance(embeddings(*case), as_tensor(expected)), BOUND, "embeddings and their spec")


def with_table(case: EmbeddingCase, **tables: Tensor) -> EmbeddingCase:
    return case._replace(weights=case.weights._replace(**tables))


def they_are_sums_of_one_hot_products(formula, case):
    """With a gain of 1 and a bias of 0 the norm is undone by the deviation of the sum."""
    w = case.weights
    summed = (
        torch.eye(len(w.word_VD)).double()[case.ids] @ w.word_VD
        + torch.eye(len(w.position_PD)).double()[:S] @ w.position_PD
        + torch.eye(len(w.type_TD)).double()[case.types] @ w.type_TD
    )
    expected = layer_norm(summed, *w.norm, case.config.layer_norm_eps)
    return distance(formula(*case), expected), BOUND


def a_vector_may_move_between_tables(formula, case):
    w, moved = case.weights, normal(3, D)
    left = with_table(case, word_VD=w.word_VD + moved, position_PD=w.position_PD - moved)
    right = with_table(case, position_PD=w.position_PD - moved, type_TD=w.type_TD + moved)
    error = distance(formula(*left), formula(*case))
    return error + distance(formula(*right), formula(*case)), 2 * BOUND


def later_tokens_do_not_matter(formula, case):
    prefix = formula(case.ids[:, :3], case.types[:, :3], *case[2:])
    return differing(formula(*case)[:, :3], prefix), 0


def one_word_differs_by_its_place(formula, case):
    """Equal words of equal type at two places: equal only if there are no positions."""
    y = formula(torch.full_like(case.ids, 5), torch.zeros_like(case.types), *case[2:])
    return float(distance(y[:, 0], y[:, 1]) < 0.01), 0


def every_vector_is_normalised(formula, case):
    norm = LayerNormWeights(torch.ones(D).double(), torch.zeros(D).double())
    y = formula(*with_table(case, norm=norm))
    square = (y * y).mean(-1)
    return float(y.mean(-1).abs().max()) + distance(square, torch.ones_like(square)), 1e-10


def only_used_rows_are_trained(formula, case):
    upstream = normal(7, B, S, D)
    w = case.weights
    found = gradients(
        lambda word, position, kind: formula(
            *with_table(case, word_VD=word, position_PD=position, type_TD=kind)
        ),
        [w.word_VD, w.position_PD, w.type_TD],
        upstream,
    )
    used = [case.ids.unique().tolist(), list(range(S)), case.types.unique().tolist()]
    wrong = 0
    for gradient, rows in zip(found, used, strict=True):
        moved = gradient.abs().sum(-1) > 0
        wrong += [i for i, m in enumerate(moved.tolist()) if m] != rows
    return float(wrong), 0


EMBEDDINGS_LAWS = [
    they_are_sums_of_one_hot_products,
    a_vector_may_move_between_tables,
    later_tokens_do_not_matter,
    one_word_differs_by_its_place,
    every_vector_is_normalised,
    only_used_rows_are_trained,
]


@pytest.mark.parametrize("law", EMBEDDINGS_LAWS)
@given(seed=seeds)
@few
def test_embeddings_law(law, seed):
    holds(law, embeddings, embedding_case(seed))


def no_positions(ids, types, w, config):
    return embeddings(ids, types, w._replace(position_PD=0 * w.position_PD), config)


def no_types(ids, types, w, config):
    return embeddings(ids, types, w._replace(type_TD=0 * w.type_TD), config)


def types_by_place(ids, types, w, config):
    return embeddings(ids, types.sort(-1).values, w, config)


def sinusoids(ids, types, w, config):
    place = torch.arange(len(w.position_PD)).double()[:, None]
    table = torch.sin(place / 10000 ** (torch.arange(D) / D))
    return embeddings(ids, types, w._replace(position_PD=table + 0 * w.position_PD), config)


def positions_from_the_end(ids, types, w, config):
    table = w.position_PD[: ids.shape[1]].flip(0)
    return embeddings(ids, types, w._replace(position_PD=table), config)


def words_scaled_by_the_root_of_the_width(ids, types, w, config):
    return embeddings(ids, types, w._replace(word_VD=w.word_VD * math.sqrt(D)), config)


def no_norm(ids, types, w, config):
    return w.word_VD[ids] + w.position_PD[: ids.shape[1]] + w.type_TD[types]


def norm_with_the_eps_of_pytorch(ids, types, w, config):
    return layer_norm(no_norm(ids, types, w, config), *w.norm, 1e-5)


def norm_before_the_sum(ids, types, w, config):
    words = layer_norm(w.word_VD[ids], *w.norm, config.layer_norm_eps)
    return words + w.position_PD[: ids.shape[1]] + w.type_TD[types]


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (no_positions, one_word_differs_by_its_place),
        (no_positions, a_vector_may_move_between_tables),
        (no_types, a_vector_may_move_between_tables),
        (no_types, only_used_rows_are_trained),
        (types_by_place, later_tokens_do_not_matter),
        (sinusoids, a_vector_may_move_between_tables),
        (sinusoids, only_used_rows_are_trained),
        (positions_from_the_end, later_tokens_do_not_matter),
        (words_scaled_by_the_root_of_the_width, a_vector_may_move_between_tables),
        (no_norm, every_vector_is_normalised),
        (norm_with_the_eps_of_pytorch, every_vector_is_normalised),
        (norm_before_the_sum, every_vector_is_normalised),
    ],
)
def test_embeddings_rejects(mistake, law):
    rejects(law, mistake, embeddings, [embedding_case(seed) for seed in range(3)])


def test_embeddings_refuse_what_is_beyond_their_tables():
    ids, types, weights, config = embedding_case(0)
    with pytest.raises(ValueError, match=r"14 tokens, but the model knows only 13 positions"):
        embeddings(torch.zeros(1, 14).long(), torch.zeros(1, 14).long(), weights, config)
    with pytest.raises(ValueError, match=r"to 23, but the table has rows 0 to 22"):
        embeddings(ids.clone().fill_(23), types, weights, config)
    with pytest.raises(ValueError, match=r"to 3, but the table has rows 0 to 2"):
        embeddings(ids, types.clone().fill_(3), weights, config)
    with pytest.raises(ValueError, match=r"ids run from -1"):
        encode(ids.clone().fill_(-1), ids >= 0, types, random_weights(0), config)


# ------------------------------------------------------------------------------- feed-forward


@given(seed=seeds, act=st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh"]))
@few
def test_feed_forward_is_its_spec(seed, act):
    x, weights = normal(seed, B, S, D), random_weights(seed).blocks[0]
    rows = [[spec.feed_forward(v, listed(weights), act) for v in row] for row in x.tolist()]
    found = feed_forward(x, weights, act)
    check(distance(found, as_tensor(rows)), BOUND, "feed_forward and its spec")


@pytest.mark.parametrize(
    ("act", "gelu", "other"),
    [
        ("gelu", gelu_erf, gelu_tanh),
        ("gelu_new", gelu_tanh, gelu_erf),
        ("gelu_pytorch_tanh", gelu_tanh, gelu_erf),
    ],
)
def test_feed_forward_uses_the_activation_of_that_name(act, gelu, other):
    """`gelu` is the erf form; the two differ by up to 4.7e-4, far above any rounding."""
    x, w = normal(1, B, S, D), random_weights(2).blocks[0]
    found = feed_forward(x, w, act)
    assert distance(found, linear(gelu(linear(x, *w.intermediate)), *w.output)) == 0
    assert distance(found, linear(other(linear(x, *w.intermediate)), *w.output)) > 1e-5


# -------------------------------------------------------------------------------------- block


class BlockCase(NamedTuple):
    hidden: Tensor
    bias: Tensor
    weights: object
    config: BertConfig


def block_case(seed: int, config: BertConfig = CONFIG) -> BlockCase:
    case = case_of(seed)
    bias = padding_bias(case.keep, torch.float64)
    return BlockCase(normal(seed, B, S, D, scale=3), bias, case.weights.blocks[0], config)


block_cases = st.builds(block_case, seeds, st.sampled_from([CONFIG, TANH]))


def block_output(hidden, bias, weights, config):
    return block(hidden, bias, weights, config).hidden_BSD


def spec_of_block(hidden, bias, weights, config):
    heads, act = config.num_attention_heads, config.hidden_act
    return [
        spec.block(x, row * S, weights, heads, config.layer_norm_eps, act)
        for x, row in zip(hidden, bias, strict=True)
    ]


@given(case=block_cases)
@few
def test_block_is_its_spec(case):
    lists = (case.hidden.tolist(), case.bias[:, 0].tolist(), listed(case.weights))
    expected = as_tensor(spec_of_block(*lists, case.config))
    check(distance(block_output(*case), expected), BOUND, "block and its spec")


def reference_layer(w) -> torch.nn.TransformerEncoderLayer:
    """The encoder layer of torch with these weights, post-norm as the paper has it."""
    layer = torch.nn.TransformerEncoderLayer(
        D,
        CONFIG.num_attention_heads,
        CONFIG.intermediate_size,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=EPS_LN,
        batch_first=True,
        norm_first=False,
        dtype=torch.float64,
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
    return layer


@given(seed=seeds)
@few
def test_block_is_the_reference(seed):
    hidden, bias, w, config = block_case(seed)
    expected = reference_layer(w)(hidden, src_key_padding_mask=bias[:, 0, 0] != 0)
    found = block_output(hidden, bias, w, config)
    check(distance(found, expected.detach()), BOUND, "block and nn.TransformerEncoderLayer")


def plain_norms(weights):
    norm = LayerNormWeights(torch.ones(D).double(), torch.zeros(D).double())
    return weights._replace(attention_norm=norm, output_norm=norm)


def silent(weights):
    """Sub-layers that answer 0: what is left is the two residual sums and their norms."""
    attention = weights.attention
    output = LinearWeights(0 * attention.output.weight_OI, 0 * attention.output.bias_O)
    fed = LinearWeights(0 * weights.output.weight_OI, 0 * weights.output.bias_O)
    return weights._replace(attention=attention._replace(output=output), output=fed)


def outputs_are_normalised(formula, case):
    """The norm comes last: every output vector has mean 0 and mean square 1."""
    y = formula(*case._replace(weights=plain_norms(case.weights)))
    square = (y * y).mean(-1)
    return float(y.mean(-1).abs().max()) + distance(square, torch.ones_like(square)), 1e-10


def with_silent_sublayers_two_norms_remain(formula, case):
    w = silent(case.weights)
    expected = layer_norm(case.hidden, *w.attention_norm, case.config.layer_norm_eps)
    expected = layer_norm(expected, *w.output_norm, case.config.layer_norm_eps)
    return distance(formula(*case._replace(weights=w)), expected), BOUND


def tokens_may_be_reordered(formula, case):
    """A block knows no places: order enters through the position table alone."""
    order = torch.randperm(S, generator=torch.Generator().manual_seed(1))
    moved = case._replace(hidden=case.hidden[:, order], bias=case.bias[..., order])
    return distance(formula(*moved), formula(*case)[:, order]), BOUND


def hidden_tokens_have_no_influence(formula, case):
    seen = (case.bias == 0)[:, 0, 0, :, None]
    changed = case._replace(hidden=torch.where(seen, case.hidden, 1e4))
    visible = seen.expand(B, S, D)
    return differing(formula(*changed)[visible], formula(*case)[visible]), 0


def sentences_do_not_see_each_other(formula, case):
    hidden = case.hidden.clone()
    hidden[1] = -50 * hidden[1]
    return differing(formula(*case._replace(hidden=hidden))[0], formula(*case)[0]), 0


def the_last_bias_is_added_last(formula, case):
    norm = case.weights.output_norm
    moved = case.weights._replace(output_norm=norm._replace(bias_D=norm.bias_D + 5))
    return distance(formula(*case._replace(weights=moved)), formula(*case) + 5), BOUND


def a_scaled_input_is_normalised_away(formula, case):
    """With silent sub-layers and eps far below the variance the scale of x cancels."""
    quiet = case._replace(weights=silent(case.weights))
    scaled = quiet._replace(hidden=quiet.hidden * 1024)
    return distance(formula(*scaled), formula(*quiet)), 1e-10


BLOCK_LAWS = [
    outputs_are_normalised,
    with_silent_sublayers_two_norms_remain,
    tokens_may_be_reordered,
    hidden_tokens_have_no_influence,
    sentences_do_not_see_each_other,
    the_last_bias_is_added_last,
    a_scaled_input_is_normalised_away,
]


@pytest.mark.parametrize("law", BLOCK_LAWS)
@given(case=block_cases)
@few
def test_block_law(law, case):
    holds(law, block_output, case)


def attend(hidden, bias, w, config):
    heads = config.num_attention_heads
    return multi_head_attention(hidden, hidden, bias, w.attention, heads).output_BSD


def pre_norm(hidden, bias, w, config):
    normed = layer_norm(hidden, *w.attention_norm, config.layer_norm_eps)
    attended = hidden + attend(normed, bias, w, config)
    normed = layer_norm(attended, *w.output_norm, config.layer_norm_eps)
    return attended + feed_forward(normed, w, config.hidden_act)


def no_first_residual(hidden, bias, w, config):
    attended = layer_norm(attend(hidden, bias, w, config), *w.attention_norm, EPS_LN)
    return layer_norm(
        attended + feed_forward(attended, w, config.hidden_act), *w.output_norm, EPS_LN
    )


def no_second_residual(hidden, bias, w, config):
    attended = hidden + attend(hidden, bias, w, config)
    attended = layer_norm(attended, *w.attention_norm, EPS_LN)
    return layer_norm(feed_forward(attended, w, config.hidden_act), *w.output_norm, EPS_LN)


def second_residual_from_the_input(hidden, bias, w, config):
    attended = hidden + attend(hidden, bias, w, config)
    attended = layer_norm(attended, *w.attention_norm, EPS_LN)
    return layer_norm(hidden + feed_forward(attended, w, config.hidden_act), *w.output_norm, EPS_LN)


def norms_swapped(hidden, bias, w, config):
    swapped = w._replace(attention_norm=w.output_norm, output_norm=w.attention_norm)
    return block_output(hidden, bias, swapped, config)


def one_norm_for_both(hidden, bias, w, config):
    return block_output(hidden, bias, w._replace(output_norm=w.attention_norm), config)


def no_mask(hidden, bias, w, config):
    return block_output(hidden, torch.zeros_like(bias), w, config)


def norm_over_the_batch(hidden, bias, w, config):
    y = block_output(hidden, bias, w, config)
    return (y - y.mean((0, 1))) / y.std((0, 1))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (pre_norm, outputs_are_normalised),
        (pre_norm, with_silent_sublayers_two_norms_remain),
        (pre_norm, a_scaled_input_is_normalised_away),
        (no_first_residual, with_silent_sublayers_two_norms_remain),
        (no_second_residual, with_silent_sublayers_two_norms_remain),
        (second_residual_from_the_input, with_silent_sublayers_two_norms_remain),
        (norms_swapped, the_last_bias_is_added_last),
        (one_norm_for_both, the_last_bias_is_added_last),
        (no_mask, hidden_tokens_have_no_influence),
        (norm_over_the_batch, sentences_do_not_see_each_other),
    ],
)
def test_block_rejects(mistake, law):
    rejects(law, mistake, block_output, [block_case(seed) for seed in range(3)])


@given(case=block_cases, seed=seeds)
@fewer(12)
def test_block_gradient(case, seed):
    """To the input and to all sixteen tensors of weights at once."""
    names = [name for name, _ in named_tensors(case.weights)]
    bias = case.bias[:1, 0].tolist()

    def rebuilt(parts):
        return with_tensors(case.weights, dict(zip(names, parts, strict=True)))

    check_slope(
        lambda x, *parts: block_output(x, case.bias[:1], rebuilt(parts), case.config),
        lambda x, *parts: spec_of_block(x, bias, rebuilt(parts), case.config),
        [case.hidden[:1] / 3, *(tensor for _, tensor in named_tensors(case.weights))],
        seed,
    )


# ------------------------------------------------------------------------------------- encode


def spec_of_encode(case: Case, weights=None):
    config, weights = case.config, weights or listed(case.weights)
    heads, act = config.num_attention_heads, config.hidden_act
    rows = zip(case.ids.tolist(), case.keep.tolist(), case.types.tolist(), strict=True)
    return [spec.encode(*row, weights, heads, config.layer_norm_eps, act) for row in rows]


@given(case=cases)
@few
def test_encode_is_its_spec(case):
    expected = as_tensor(spec_of_encode(case))
    check(distance(encode(*case), expected), BOUND, "encode and its spec")


@given(seed=seeds)
@few
def test_encode_is_the_reference(seed):
    """Made of torch's modules; `transformers` is compared in test_parity_transformers.py."""
    ids, keep, types, weights, config = case_of(seed)
    w = weights.embeddings
    summed = F.embedding(ids, w.word_VD) + w.position_PD[:S] + F.embedding(types, w.type_TD)
    expected = F.layer_norm(summed, (D,), *w.norm, EPS_LN)
    for block_weights in weights.blocks:
        expected = reference_layer(block_weights)(expected, src_key_padding_mask=~keep)
    found = encode(ids, keep, types, weights, config)
    check(distance(found, expected.detach()), BOUND, "encode and torch's modules")


def padding_has_no_influence(formula, case):
    """Neither ids nor types of hidden tokens reach a token that is kept: not one bit."""
    changed = case._replace(
        ids=torch.where(case.keep, case.ids, (case.ids + 1) % CONFIG.vocab_size),
        types=torch.where(case.keep, case.types, (case.types + 1) % CONFIG.type_vocab_size),
    )
    return differing(formula(*changed)[case.keep], formula(*case)[case.keep]), 0


def more_padding_changes_nothing(formula, case):
    """Other lengths add in another order, so rounding may differ."""
    wider = case._replace(
        ids=F.pad(case.ids, (0, 5)),
        keep=F.pad(case.keep, (0, 5)),
        types=F.pad(case.types, (0, 5)),
    )
    return distance(formula(*wider)[:, :S][case.keep], formula(*case)[case.keep]), BOUND


def alone_or_in_a_batch_is_the_same(formula, case):
    one = case._replace(ids=case.ids[:1], keep=case.keep[:1], types=case.types[:1])
    return distance(formula(*one)[0], formula(*case)[0]), BOUND


def the_content_of_other_rows_changes_no_bit(formula, case):
    ids, keep = case.ids.clone(), case.keep.clone()
    ids[1], keep[1] = (ids[1] + 7) % CONFIG.vocab_size, True
    return differing(formula(*case._replace(ids=ids, keep=keep))[0], formula(*case)[0]), 0


def order_matters(formula, case):
    """Exchanging two words moves more than the two outputs with them."""
    ids = torch.arange(S).repeat(B, 1)
    swapped = ids.clone()
    swapped[:, [0, 1]] = ids[:, [1, 0]]
    everyone = torch.ones_like(case.keep)
    types = torch.zeros_like(case.types)
    y = formula(ids, everyone, types, *case[3:])
    z = formula(swapped, everyone, types, *case[3:])
    return float(distance(z[:, [1, 0]], y[:, :2]) < 1e-3 or distance(z[:, 2:], y[:, 2:]) < 1e-6), 0


def without_positions_order_does_not_matter(formula, case):
    table = torch.zeros_like(case.weights.embeddings.position_PD)
    flat = case.weights._replace(embeddings=case.weights.embeddings._replace(position_PD=table))
    order = torch.randperm(S, generator=torch.Generator().manual_seed(2))
    moved = Case(case.ids[:, order], case.keep[:, order], case.types[:, order], flat, case.config)
    return distance(formula(*moved), formula(*case._replace(weights=flat))[:, order]), BOUND


def words_may_be_renumbered(formula, case):
    order = torch.randperm(CONFIG.vocab_size, generator=torch.Generator().manual_seed(3))
    tables = case.weights.embeddings
    weights = case.weights._replace(embeddings=tables._replace(word_VD=tables.word_VD[order]))
    renumbered = case._replace(weights=weights)
    return differing(formula(*renumbered), formula(*case._replace(ids=order[case.ids]))), 0


def every_layer_counts(formula, case):
    """Running the first block alone gives another state, and so does exchanging the blocks."""
    first, second = case.weights.blocks
    equal = 0.0
    for blocks in ((first,), (second, first), (first, first)):
        other = formula(*case._replace(weights=case.weights._replace(blocks=blocks)))
        equal += distance(other, formula(*case)) < 1e-3
    return equal, 0


ENCODE_LAWS = [
    padding_has_no_influence,
    more_padding_changes_nothing,
    alone_or_in_a_batch_is_the_same,
    the_content_of_other_rows_changes_no_bit,
    order_matters,
    without_positions_order_does_not_matter,
    words_may_be_renumbered,
    every_layer_counts,
]


@pytest.mark.parametrize("law", ENCODE_LAWS)
@given(case=cases)
@few
def test_encode_law(law, case):
    holds(law, encode, case)


def mask_forgotten(ids, keep, types, weights, config):
    return encode(ids, torch.ones_like(keep), types, weights, config)


def mask_from_id_zero(ids, keep, types, weights, config):
    """Padding found by its id hides a real token of that id."""
    return encode(ids, ids != 0, types, weights, config)


def positions_forgotten(ids, keep, types, weights, config):
    tables = weights.embeddings
    bare = tables._replace(position_PD=torch.zeros_like(tables.position_PD))
    return encode(ids, keep, types, weights._replace(embeddings=bare), config)


def positions_counted_from_the_end(ids, keep, types, weights, config):
    tables = weights.embeddings
    table = tables.position_PD[: ids.shape[1]].flip(0)
    moved = weights._replace(embeddings=tables._replace(position_PD=table))
    return encode(ids, keep, types, moved, config)


def sequence_for_batch(ids, keep, types, weights, config):
    """Batch and tokens taken for each other, as when `batch_first` is forgotten."""
    swapped = encode(ids.mT, keep.mT | True, types.mT, weights, config)
    return swapped.transpose(0, 1)


def one_block_for_all_layers(ids, keep, types, weights, config):
    shared = weights.blocks[:1] * len(weights.blocks)
    return encode(ids, keep, types, weights._replace(blocks=shared), config)


def blocks_in_reverse(ids, keep, types, weights, config):
    return encode(ids, keep, types, weights._replace(blocks=weights.blocks[::-1]), config)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (mask_forgotten, padding_has_no_influence),
        (mask_forgotten, more_padding_changes_nothing),
        (mask_from_id_zero, words_may_be_renumbered),
        (positions_forgotten, order_matters),
        (positions_counted_from_the_end, more_padding_changes_nothing),
        (sequence_for_batch, the_content_of_other_rows_changes_no_bit),
        (sequence_for_batch, alone_or_in_a_batch_is_the_same),
        (one_block_for_all_layers, every_layer_counts),
    ],
)
def test_encode_rejects(mistake, law):
    rejects(law, mistake, encode, [case_of(seed) for seed in range(3)])


@pytest.mark.parametrize("mistake", [one_block_for_all_layers, blocks_in_reverse])
def test_the_spec_tells_the_order_of_blocks(mistake):
    case = case_of(4)
    assert distance(mistake(*case), as_tensor(spec_of_encode(case))) > 1e-3


@given(seed=seeds)
@fewer(20)
def test_encode_gradient(seed):
    """Through the whole encoder, to every one of its weights at once."""
    case = case_of(seed)
    one = case._replace(ids=case.ids[1:], keep=case.keep[1:], types=case.types[1:])
    names = [name for name, _ in named_tensors(case.weights)]

    def rebuilt(parts):
        return with_tensors(case.weights, dict(zip(names, parts, strict=True)))

    check_slope(
        lambda *parts: encode(*one._replace(weights=rebuilt(parts))),
        lambda *parts: spec_of_encode(one, rebuilt(parts)),
        [tensor for _, tensor in named_tensors(case.weights)],
        seed,
    )


def test_encode_refuses_what_does_not_fit():
    case = case_of(0)
    with pytest.raises(ValueError, match=r"keep has dtype torch\.int64, but must be torch\.bool"):
        encode(*case._replace(keep=case.keep.long()))
    with pytest.raises(ValueError, match=r"14 tokens, but the model knows only 13 positions"):
        encode_traced(
            *case._replace(ids=torch.zeros(2, 14).long(), types=torch.zeros(2, 14).long())
        )
    with pytest.raises(ValueError, match=r"ids run from .* but the table has rows 0 to 22"):
        encode_traced(*case._replace(ids=case.ids + 23))
    with pytest.raises(ValueError, match=r"keep has dtype"):
        encode_traced(*case._replace(keep=case.keep.double()))


def test_encode_stays_finite_in_float32_and_near_float64():
    """float32 keeps 24 bits; a dozen sums and norms lose a few of them."""
    case = case_of(8)
    narrow = with_tensors(case.weights, {n: t.float() for n, t in named_tensors(case.weights)})
    found = encode(*case._replace(weights=narrow))
    assert found.dtype == torch.float32
    check(distance(found, encode(*case)), 1e-5, "float32 and float64")


# -------------------------------------------------------------------------------------- trace


@given(case=cases)
@few
def test_encode_is_the_last_state_of_the_trace(case):
    trace = encode_traced(*case)
    assert isinstance(trace, EncoderTrace)
    assert differing(encode(*case), trace.hidden_BSD) == 0
    assert len(trace.hiddens_LBSD) == CONFIG.num_hidden_layers + 1
    assert trace.hiddens_LBSD[0] is trace.embedded_BSD
    assert trace.hiddens_LBSD[-1] is trace.hidden_BSD


def test_each_state_of_the_trace_follows_from_the_one_before():
    case = case_of(2)
    trace = encode_traced(*case)
    bias = padding_bias(case.keep, torch.float64)
    tables = case.weights.embeddings
    assert differing(trace.embedded_BSD, embeddings(case.ids, case.types, tables, CONFIG)) == 0
    for number, weights in enumerate(case.weights.blocks):
        again = block(trace.hiddens_LBSD[number], bias, weights, CONFIG)
        for (name, seen), (_, expected) in zip(
            named_tensors(trace.blocks[number]), named_tensors(again), strict=True
        ):
            assert differing(seen, expected) == 0, name


def test_the_trace_names_what_it_holds():
    trace = encode_traced(*case_of(0))
    assert isinstance(trace.blocks[0], BlockTrace)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(trace)}
    inside = {
        "attention.query_BNSK": (B, 3, S, 5),
        "attention.key_BNRK": (B, 3, S, 5),
        "attention.value_BNRK": (B, 3, S, 5),
        "attention.scores_BNSR": (B, 3, S, S),
        "attention.probabilities_BNSR": (B, 3, S, S),
        "attention.output_BSD": (B, S, D),
        "attended_BSD": (B, S, D),
        "hidden_BSD": (B, S, D),
    }
    expected = {"embedded_BSD": (B, S, D)}
    for number in range(CONFIG.num_hidden_layers):
        expected |= {f"blocks.{number}.{name}": shape for name, shape in inside.items()}
    assert shapes == expected


# ------------------------------------------------------------------------------------ dropout


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_a_generator_nothing_is_dropped():
    """Rates that would drop nearly everything leave no trace in evaluation."""
    case = case_of(1)
    values = CONFIG.to_dict()
    heavy = {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 0.9}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    expected = encode(*case._replace(config=BertConfig.from_dict(values | none)), fresh(0))
    found = encode(*case._replace(config=BertConfig.from_dict(values | heavy)))
    assert differing(found, expected) == 0


@pytest.mark.parametrize("function", [encode, lambda *a: encode_traced(*a).hidden_BSD])
def test_the_generator_decides_everything(function):
    case = case_of(1)
    before = torch.get_rng_state()
    first, again, other = (function(*case, fresh(seed)) for seed in (5, 5, 6))
    assert differing(first, again) == 0
    assert differing(first, other) > 0
    assert differing(first, encode(*case)) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_encode_and_its_trace_draw_alike():
    case = case_of(3)
    assert differing(encode(*case, fresh(9)), encode_traced(*case, fresh(9)).hidden_BSD) == 0


def test_dropout_falls_on_four_places():
    """After the embeddings' norm, on the probabilities, and on both sub-layers before the sum."""
    case, rate = case_of(1), 0.5
    values = CONFIG.to_dict() | {"num_hidden_layers": 1}
    hidden = BertConfig.from_dict(
        values | {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": 0.0}
    )
    trace = encode_traced(*case._replace(config=hidden), fresh(2))
    generator = fresh(2)

    def dropped(x):
        return torch.where(torch.rand(x.shape, generator=generator) >= rate, x / (1 - rate), 0)

    w = case.weights.blocks[0]
    x = dropped(embeddings(case.ids, case.types, case.weights.embeddings, CONFIG))
    bias = padding_bias(case.keep, torch.float64)
    a = layer_norm(x + dropped(attend(x, bias, w, CONFIG)), *w.attention_norm, EPS_LN)
    y = layer_norm(a + dropped(feed_forward(a, w, "gelu")), *w.output_norm, EPS_LN)
    check(distance(trace.embedded_BSD, x), BOUND, "embeddings")
    check(distance(trace.blocks[0].attended_BSD, a), BOUND, "after attention")
    check(distance(trace.blocks[0].hidden_BSD, y), BOUND, "after feed-forward")
    attention = BertConfig.from_dict(
        values | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": rate}
    )
    one = encode_traced(*case._replace(config=attention), fresh(2))
    none = encode_traced(*case)
    assert differing(one.embedded_BSD, none.embedded_BSD) == 0
    seen, plain = one.blocks[0].attention, none.blocks[0].attention
    assert differing(seen.probabilities_BNSR, plain.probabilities_BNSR) == 0
    assert differing(seen.output_BSD, plain.output_BSD) > 0
