"""Laws of `decoder`: its weights, its memory, one layer, and decoding word by word."""

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.attention import attend, causal_bias, keys_and_values, padding_bias
from minibert.config import BertConfig
from minibert.decoder import (
    BlockMemory,
    CrossWeights,
    DecoderBlockTrace,
    DecoderMemory,
    DecoderWeights,
    decode,
    decode_traced,
    decoder_block,
    decoder_shapes,
    empty_memory,
)
from minibert.encoder import block, embeddings, feed_forward
from minibert.functional import dropout, layer_norm
from minibert.heads import mlm_logits
from minibert.laws import rounding, spec
from minibert.laws.attention import parts_of, random_keep, with_parts
from minibert.laws.encoder import TIMES, plain_norm, wide_lists, with_act
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    eps_of,
    fresh,
    gradients,
    integers,
    normal,
    order_of,
    seed_of,
    slopes,
)
from minibert.parameters import (
    BlockWeights,
    LayerNormWeights,
    LinearWeights,
    named_tensors,
    weight_shapes,
)

# B sentences, U words, R tokens of the encoder's text: no two sizes of the model are alike.
B, U, R = 2, 4, 7
CONFIG = BertConfig(
    vocab_size=13,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=11,
    max_position_embeddings=17,
    type_vocab_size=3,
)
SMALL = BertConfig(  # for finite differences of the spec
    vocab_size=7,
    hidden_size=4,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=5,
    max_position_embeddings=6,
    type_vocab_size=3,
)
V, D = CONFIG.vocab_size, CONFIG.hidden_size
ONE_BY_ONE, IN_PARTS = (1,) * U, (1, 2, 1)


def random_weights(
    seed: int, config: BertConfig = CONFIG, scale: float = 0.4
) -> DecoderWeights:
    """No bias is 0 and no gain is 1, so that forgetting one shows."""
    shapes = decoder_shapes(config)
    drawn = [
        normal(seed + i, *part.shape, scale=scale, offset=float(name.endswith("gain_D")))
        for i, (name, part) in enumerate(named_tensors(shapes))
    ]
    weights: DecoderWeights = with_parts(shapes, drawn)
    return weights


def silent_map(map_: LinearWeights) -> LinearWeights:
    return LinearWeights(*(0 * part for part in map_))


# -------------------------------------------------------------------------------- decoder_shapes


def any_config(draw: Draw) -> BertConfig:
    heads = draw.integer(1, 3)
    return BertConfig(
        vocab_size=draw.integer(11, 13),
        hidden_size=heads * draw.integer(2, 3),
        num_hidden_layers=draw.integer(2, 4),
        num_attention_heads=heads,
        intermediate_size=draw.integer(17, 19),
        max_position_embeddings=draw.integer(23, 29),
    )


NO_VALUES = {
    "gradient": "a shape has no gradient",
    "accuracy": "shapes are whole numbers and nothing is rounded",
}
DECODER_SHAPES = Proof(decoder_shapes, any_config, without=NO_VALUES, cost=2)


def sizes_of(structure: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(part.shape)) for name, part in named_tensors(structure)]


@DECODER_SHAPES.spec
def every_layer_has_four_maps_and_a_norm_more_than_a_bert(formula, config):
    d, found = config.hidden_size, sizes_of(formula(config).cross)
    expected = []
    for layer in range(config.num_hidden_layers):
        for name in ("query", "key", "value", "output"):
            expected.append((f"{layer}.attention.{name}.weight_OI", (d, d)))
            expected.append((f"{layer}.attention.{name}.bias_O", (d,)))
        expected += [(f"{layer}.norm.gain_D", (d,)), (f"{layer}.norm.bias_D", (d,))]
    return float(found != expected), 0


@DECODER_SHAPES.reference
def its_layers_have_as_many_numbers_as_torchs(formula, config):
    theirs = torch.nn.TransformerDecoderLayer(
        config.hidden_size, config.num_attention_heads, config.intermediate_size, device="meta"
    )
    shapes = formula(config)
    ours = sum(part.numel() for part in parts_of((shapes.bert.blocks, shapes.cross)))
    return abs(ours - config.num_hidden_layers * sum(p.numel() for p in theirs.parameters())), 0


@DECODER_SHAPES.law
def what_is_not_cross_is_a_bert_with_a_masked_word_head(formula, config):
    expected = sizes_of(weight_shapes(config, ("mlm",)))
    return float(sizes_of(formula(config).bert) != expected), 0


@DECODER_SHAPES.law
def no_number_is_stored(formula, config):
    return sum(part.device.type != "meta" for part in parts_of(formula(config))), 0


@DECODER_SHAPES.mistake(
    every_layer_has_four_maps_and_a_norm_more_than_a_bert,
    its_layers_have_as_many_numbers_as_torchs,
)
def one_cross_attention_for_all_layers(config):
    shapes = decoder_shapes(config)
    return shapes._replace(cross=shapes.cross[:1])


@DECODER_SHAPES.mistake(what_is_not_cross_is_a_bert_with_a_masked_word_head)
def a_pooler_for_a_head(config):
    return decoder_shapes(config)._replace(bert=weight_shapes(config))


@DECODER_SHAPES.mistake(no_number_is_stored)
def shapes_with_storage(config):
    shapes = decoder_shapes(config)
    return with_parts(shapes, [torch.empty(part.shape) for part in parts_of(shapes)])


# ---------------------------------------------------------------------------------- empty_memory


class Text(NamedTuple):
    """The encoder's states of two sentences; `keep` is False at padding."""

    encoded: Tensor
    keep: Tensor
    weights: DecoderWeights
    config: BertConfig


def keep_of(draw: Draw) -> Tensor:
    if draw.integer(0, 3):
        return torch.arange(R) < torch.tensor([[R], [draw.integer(1, R - 1)]])
    return random_keep(seed_of(draw), B, R)


def text_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> Text:
    encoded = normal(seed_of(draw), B, R, D, scale=scale, offset=offset)
    return Text(encoded, keep_of(draw), random_weights(seed_of(draw)), CONFIG)


EMPTY_MEMORY = Proof(empty_memory, text_case, cost=4)


def pairs_of(memory: DecoderMemory) -> Tensor:
    """Keys and values of the encoder's text, layer by layer."""
    return torch.stack([torch.stack(b[2:]) for b in memory.blocks])


def spec_of_pairs(encoded: Any, cross: Any, config: BertConfig) -> list[Any]:
    found = []
    for layer in cross:
        pairs = [
            spec.keys_and_values(M, layer.attention, config.num_attention_heads) for M in encoded
        ]
        found.append([[key for key, _ in pairs], [value for _, value in pairs]])
    return found


def exact_pairs(case: Text) -> Tensor:
    cross = wide_lists(case.weights.cross)
    return as_tensor(spec_of_pairs(case.encoded.double().tolist(), cross, case.config))


def pairs_bound(case: Text) -> Tensor:
    x, heads = rounding.exact(case.encoded), case.config.num_attention_heads

    def of(map_: LinearWeights) -> Tensor:
        return rounding.linear(x, *map_).error.unflatten(-1, (heads, -1)).transpose(1, 2)

    return torch.stack(
        [torch.stack([of(c.attention.key), of(c.attention.value)]) for c in case.weights.cross]
    )


@EMPTY_MEMORY.spec(cost=4)
def every_layer_maps_the_encoders_states_to_keys_and_values_of_its_own(formula, case):
    return distance(pairs_of(formula(*case)), exact_pairs(case), pairs_bound(case)), 1


@EMPTY_MEMORY.reference
def they_are_torchs_linear_maps_cut_into_heads(formula, case):
    heads, expected = case.config.num_attention_heads, []
    for layer in case.weights.cross:
        maps = (layer.attention.key, layer.attention.value)
        mapped = [F.linear(case.encoded, *map_).unflatten(-1, (heads, -1)) for map_ in maps]
        expected.append(torch.stack([part.transpose(1, 2) for part in mapped]))
    return distance(pairs_of(formula(*case)), torch.stack(expected), pairs_bound(case)), 2


@EMPTY_MEMORY.law
def it_remembers_no_word(formula, case):
    memory = formula(*case)
    heads = case.config.num_attention_heads
    shape = (B, heads, 0, D // heads)
    own = [part for b in memory.blocks for part in b[:2]]
    return memory.n_words + sum(tuple(part.shape) != shape for part in own), 0


@EMPTY_MEMORY.law
def padding_is_hidden_and_nothing_else(formula, case):
    return differing(formula(*case).cross_bias_B11R, padding_bias(case.keep, torch.float64)), 0


@EMPTY_MEMORY.law
def layers_do_not_share_their_maps(formula, case):
    """Reordering the layers reorders their keys and values."""
    moved = case._replace(weights=case.weights._replace(cross=case.weights.cross[::-1]))
    return differing(pairs_of(formula(*moved)), pairs_of(formula(*case)).flip(0)), 0


@EMPTY_MEMORY.law
def texts_are_remembered_alone(formula, case):
    changed = torch.cat([case.encoded[:1], -3 * case.encoded[1:]])
    left, right = (formula(*case._replace(encoded=x)) for x in (changed, case.encoded))
    return differing(pairs_of(left)[:, :, 0], pairs_of(right)[:, :, 0]), 0


@EMPTY_MEMORY.gradient
def gradients_of_its_maps_are_products(formula, case):
    """dW = Σ u mᵀ and db = Σ u for the keys and for the values of each layer."""
    upstream = normal(8, *pairs_of(formula(*case)).shape)
    maps = [map_ for c in case.weights.cross for map_ in c.attention[1:3]]

    def of(*parts):
        cross = []
        for n, layer in enumerate(case.weights.cross):
            key, value = (LinearWeights(*parts[4 * n + i : 4 * n + i + 2]) for i in (0, 2))
            attention = layer.attention._replace(key=key, value=value)
            cross.append(layer._replace(attention=attention))
        weights = case.weights._replace(cross=tuple(cross))
        return pairs_of(formula(*case._replace(weights=weights)))

    found = gradients(of, [part for map_ in maps for part in map_], upstream)
    expected = []
    for u in upstream.flatten(0, 1):  # B N R K
        to_map = u.transpose(1, 2).flatten(2)
        expected += [torch.einsum("bro,bri->oi", to_map, case.encoded), to_map.sum((0, 1))]
    return sum(map(distance, found, expected)), 2000 * EPS


@EMPTY_MEMORY.gradient(cost=20)
def its_slope_is_that_of_two_maps_a_layer(formula, case):
    one = case._replace(encoded=case.encoded[:1, :2], keep=case.keep[:1, :2] | True)
    cross = case.weights.cross
    return slopes(
        lambda x, *parts: pairs_of(
            formula(
                x, one.keep, one.weights._replace(cross=with_parts(cross, parts)), one.config
            )
        ),
        lambda x, *parts: spec_of_pairs(x, with_parts(cross, parts), one.config),
        [one.encoded, *parts_of(cross)],
    )


@EMPTY_MEMORY.accuracy(
    {
        "normal": text_case,
        "tiny": lambda draw: text_case(draw, 1e-15),
        "large": lambda draw: text_case(draw, 1e4),
        "a large offset": lambda draw: text_case(draw, 1.0, 1e3),
    },
    cost=4,
)
def keys_and_values_of_a_text_keep_their_digits(formula, case):
    return distance(pairs_of(formula(*case)), exact_pairs(case), pairs_bound(case)), 1


def with_pairs(memory: DecoderMemory, change: Any) -> DecoderMemory:
    """The memory with other keys and values of the encoder's text in each layer."""
    blocks = tuple(BlockMemory(*b[:2], *change(*b[2:])) for b in memory.blocks)
    return memory._replace(blocks=blocks)


@EMPTY_MEMORY.mistake(
    every_layer_maps_the_encoders_states_to_keys_and_values_of_its_own,
    they_are_torchs_linear_maps_cut_into_heads,
)
def maps_of_the_words_for_those_of_the_text(encoded, keep, w, config):
    own = zip(w.cross, w.bert.blocks, strict=True)
    cross = tuple(c._replace(attention=b.attention) for c, b in own)
    return empty_memory(encoded, keep, w._replace(cross=cross), config)


@EMPTY_MEMORY.mistake(layers_do_not_share_their_maps)
def one_map_for_all_layers(encoded, keep, w, config):
    return empty_memory(encoded, keep, w._replace(cross=w.cross[:1] * len(w.cross)), config)


@EMPTY_MEMORY.mistake(every_layer_maps_the_encoders_states_to_keys_and_values_of_its_own)
def keys_for_values(encoded, keep, w, config):
    return with_pairs(empty_memory(encoded, keep, w, config), lambda k, v: (v, k))


@EMPTY_MEMORY.mistake(it_remembers_no_word)
def a_word_of_zeros_to_begin_with(encoded, keep, w, config):
    memory = empty_memory(encoded, keep, w, config)
    return memory._replace(
        blocks=tuple(BlockMemory(*(0 * part[:, :, :1] for part in b[2:]), *b[2:])
                     for b in memory.blocks)
    )


@EMPTY_MEMORY.mistake(padding_is_hidden_and_nothing_else)
def padding_asked(encoded, keep, w, config):
    return empty_memory(encoded, keep | True, w, config)


@EMPTY_MEMORY.mistake(texts_are_remembered_alone)
def states_less_the_mean_of_the_batch(encoded, keep, w, config):
    return empty_memory(encoded - encoded.mean(0), keep, w, config)


@EMPTY_MEMORY.mistake(its_slope_is_that_of_two_maps_a_layer)
def encoder_not_trained_through_the_decoder(encoded, keep, w, config):
    return empty_memory(encoded.detach(), keep, w, config)


@EMPTY_MEMORY.mistake(gradients_of_its_maps_are_products, its_slope_is_that_of_two_maps_a_layer)
def values_of_a_text_not_trained(encoded, keep, w, config):
    return with_pairs(empty_memory(encoded, keep, w, config), lambda k, v: (k, v.detach()))


@EMPTY_MEMORY.mistake(keys_and_values_of_a_text_keep_their_digits)
def remembered_in_eight_bits(encoded, keep, w, config):
    return with_pairs(
        empty_memory(encoded, keep, w, config),
        lambda *pair: (p.clamp(-400, 400).to(torch.float8_e4m3fn).to(p.dtype) for p in pair),
    )


# --------------------------------------------------------------------------------- decoder_block


class Layer(NamedTuple):
    """All U words of two texts as they enter one layer, and the encoder's states of two others."""

    hidden: Tensor
    encoded: Tensor
    keep: Tensor
    weights: BlockWeights
    cross: CrossWeights
    config: BertConfig


def layer_case(
    draw: Draw, scale: float = 3.0, offset: float = 0.0, weight_scale: float = 0.4
) -> Layer:
    config = with_act(CONFIG, draw.choice(["gelu", "gelu_new"]))
    config = dataclasses.replace(config, layer_norm_eps=draw.choice([1e-12, 1e-5]))
    weights = random_weights(seed_of(draw), scale=weight_scale)
    return Layer(
        normal(seed_of(draw), B, U, D, scale=scale, offset=offset),
        normal(seed_of(draw), B, R, D),
        keep_of(draw),
        weights.bert.blocks[0],
        weights.cross[0],
        config,
    )


def erf_layer_case(draw: Draw) -> Layer:
    case = layer_case(draw)
    return case._replace(config=with_act(case.config, "gelu"))


def memory_of_layer(case: Layer) -> BlockMemory:
    key, value = keys_and_values(
        case.encoded, case.cross.attention, case.config.num_attention_heads
    )
    return BlockMemory(key[:, :, :0], key[:, :, :0], key, value)


def layer_in_parts(formula: Any, case: Layer, *sizes: int) -> Tensor:
    """The states of all words, given in parts, each with the memory of the parts before it."""
    memory, states = memory_of_layer(case), []
    bias = padding_bias(case.keep, case.hidden.dtype)
    for part in case.hidden.split(sizes or case.hidden.shape[1], 1):
        trace, memory = formula(part, memory, bias, *case[3:])
        states.append(trace.hidden_BSD)
    return torch.cat(states, 1)


def weights_of_layer(case: Layer) -> list[Tensor]:
    return parts_of((case.weights, case.cross))


def with_layer_parts(case: Layer, hidden: Any, encoded: Any, *parts: Any) -> Layer:
    weights, cross = with_parts((case.weights, case.cross), parts)
    return case._replace(hidden=hidden, encoded=encoded, weights=weights, cross=cross)


def layer_bound(case: Layer) -> Tensor:
    return TIMES * rounding.sensitivity(
        lambda *parts: layer_in_parts(decoder_block, with_layer_parts(case, *parts)),
        [case.hidden, case.encoded, *weights_of_layer(case)],
        eps_of(case.hidden),
        draws=4,
    )


DECODER_BLOCK = Proof(decoder_block, layer_case, cost=6)


def spec_of_layer(case: Layer) -> list[Any]:
    """The spec of a case with lists for tensors."""
    config = case.config
    return [
        spec.decoder_block(
            X, M, keep, case.weights, case.cross,
            config.num_attention_heads, config.layer_norm_eps, config.hidden_act,
        )
        for X, M, keep in zip(case.hidden, case.encoded, case.keep.tolist(), strict=True)
    ]  # fmt: skip


def exact_layer(case: Layer) -> Tensor:
    given = [case.hidden, case.encoded, *weights_of_layer(case)]
    return as_tensor(spec_of_layer(with_layer_parts(case, *(x.double().tolist() for x in given))))


@DECODER_BLOCK.spec(cost=8)
def it_is_two_attentions_and_a_feed_forward_each_added_and_normalised(formula, case):
    return distance(layer_in_parts(formula, case), exact_layer(case), layer_bound(case)), 1


def reference_layer(w: BlockWeights, c: CrossWeights, config: BertConfig) -> Any:
    """torch's decoder layer with these weights, post-norm as in the paper."""
    layer = torch.nn.TransformerDecoderLayer(
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
    state = {}
    for name, attention in (("self_attn", w.attention), ("multihead_attn", c.attention)):
        maps = attention[:3]
        state[f"{name}.in_proj_weight"] = torch.cat([m.weight_OI for m in maps])
        state[f"{name}.in_proj_bias"] = torch.cat([m.bias_O for m in maps])
    pairs = {
        "self_attn.out_proj": w.attention.output,
        "multihead_attn.out_proj": c.attention.output,
        "linear1": w.intermediate,
        "linear2": w.output,
        "norm1": w.attention_norm,
        "norm2": c.norm,
        "norm3": w.output_norm,
    }
    for name, (weight, bias) in pairs.items():
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    layer.load_state_dict(state)
    return layer.requires_grad_(False)


def through_torch(layer: Any, hidden: Tensor, encoded: Tensor, keep: Tensor) -> Tensor:
    future = torch.ones(hidden.shape[1], hidden.shape[1]).triu(1) > 0
    found: Tensor = layer(hidden, encoded, tgt_mask=future, memory_key_padding_mask=~keep)
    return found


@DECODER_BLOCK.reference(cases=erf_layer_case)
def it_is_torchs_decoder_layer(formula, case):
    layer = reference_layer(case.weights, case.cross, case.config)
    expected = through_torch(layer, *case[:3])
    return distance(layer_in_parts(formula, case), expected, layer_bound(case)), 2


@DECODER_BLOCK.law
def later_words_change_no_bit(formula, case):
    later = case._replace(hidden=torch.cat([case.hidden[:, :2], -9 * case.hidden[:, 2:]], 1))
    left, right = (layer_in_parts(formula, each)[:, :2] for each in (later, case))
    return differing(left, right), 0


@DECODER_BLOCK.law
def one_word_after_another_is_all_at_once(formula, case):
    """Up to rounding: a product of one row may be summed in another order than one of many."""
    left = layer_in_parts(formula, case, *ONE_BY_ONE)
    return distance(left, layer_in_parts(formula, case), layer_bound(case)), 1


@DECODER_BLOCK.law
def words_may_come_in_parts(formula, case):
    left = layer_in_parts(formula, case, *IN_PARTS)
    return distance(left, layer_in_parts(formula, case), layer_bound(case)), 1


@DECODER_BLOCK.law
def hidden_places_of_the_text_change_no_bit(formula, case):
    changed = case._replace(encoded=torch.where(case.keep[..., None], case.encoded, 1e4))
    return differing(layer_in_parts(formula, changed), layer_in_parts(formula, case)), 0


@DECODER_BLOCK.law
def more_hidden_places_change_nothing_but_rounding(formula, case):
    encoded = torch.cat([case.encoded, normal(3, B, 3, D)], 1)
    wider = case._replace(encoded=encoded, keep=F.pad(case.keep, (0, 3)))
    return distance(
        layer_in_parts(formula, wider), layer_in_parts(formula, case), layer_bound(case)
    ), 1


@DECODER_BLOCK.law
def tokens_of_the_text_may_be_reordered(formula, case):
    """The decoder knows their positions from their states alone: the only mask is for padding."""
    order = order_of(R)
    moved = case._replace(encoded=case.encoded[:, order], keep=case.keep[:, order])
    return distance(
        layer_in_parts(formula, moved), layer_in_parts(formula, case), layer_bound(case)
    ), 1


@DECODER_BLOCK.law
def other_texts_change_no_bit_of_a_layer(formula, case):
    hidden, encoded, keep = (part.clone() for part in case[:3])
    hidden[1], encoded[1], keep[1] = -5 * hidden[1], 2 - encoded[1], True
    changed = case._replace(hidden=hidden, encoded=encoded, keep=keep)
    return differing(layer_in_parts(formula, changed)[0], layer_in_parts(formula, case)[0]), 0


@DECODER_BLOCK.law
def a_silent_cross_attention_leaves_the_encoders_block_under_a_causal_bias(formula, case):
    """Its norm remains. Normalising a normalised state only applies gain and bias, but for eps."""
    config = dataclasses.replace(case.config, layer_norm_eps=1e-15)
    w, attention = case.weights, case.cross.attention
    attention = attention._replace(output=silent_map(attention.output))
    decoder = case._replace(
        weights=w._replace(attention_norm=plain_norm()),
        cross=case.cross._replace(attention=attention),
        config=config,
    )
    encoder = w._replace(attention_norm=case.cross.norm)
    bias = causal_bias(U, U, torch.float64)
    expected = block(case.hidden, bias, encoder, config).hidden_BSD
    return distance(layer_in_parts(formula, decoder), expected), 1e-10


def silent(case: Layer) -> Layer:
    """Sub-layers that return 0: what is left is three residual sums and their norms."""
    w, c = case.weights, case.cross
    attention, asked = (x._replace(output=silent_map(x.output)) for x in (w[0], c[0]))
    weights = w._replace(attention=attention, output=silent_map(w.output))
    return case._replace(weights=weights, cross=c._replace(attention=asked))


def normed(x: Tensor, norm: LayerNormWeights, config: BertConfig) -> Tensor:
    return layer_norm(x, *norm, config.layer_norm_eps)


@DECODER_BLOCK.law
def with_silent_sublayers_three_norms_remain(formula, case):
    """Also at a standard deviation of 1e-6, where the eps of the norm counts."""
    error = 0.0
    for scale in (1.0, 1e-6):
        quiet = silent(case)._replace(hidden=scale * case.hidden)
        expected = quiet.hidden
        for norm in (case.weights.attention_norm, case.cross.norm, case.weights.output_norm):
            expected = normed(expected, norm, case.config)
        error += distance(layer_in_parts(formula, quiet), expected, layer_bound(quiet))
    return error, 1


@DECODER_BLOCK.law
def the_last_norm_comes_last(formula, case):
    """Without its gain and bias every state has mean 0 and mean square v / (v + ε)."""
    plain = case._replace(weights=case.weights._replace(output_norm=plain_norm()))
    y = layer_in_parts(formula, plain)
    square = (y * y).mean(-1)
    error = float(y.mean(-1).abs().max()) + distance(square, torch.ones_like(square))
    return error, 1e-10 + 100 * case.config.layer_norm_eps


@DECODER_BLOCK.law
def its_memory_grows_by_the_new_words_and_in_nothing_else(formula, case):
    memory, heads = memory_of_layer(case), case.config.num_attention_heads
    bias, expected, error = padding_bias(case.keep, torch.float64), memory, 0.0
    for part in case.hidden.split(IN_PARTS, 1):
        _, memory = formula(part, memory, bias, *case[3:])
        new = keys_and_values(part, case.weights.attention, heads)
        own = [torch.cat(both, 2) for both in zip(expected[:2], new, strict=True)]
        expected = BlockMemory(*own, *expected[2:])
        error += sum(map(differing, memory, expected))
    return error, 0


@DECODER_BLOCK.law
def its_state_follows_from_what_the_trace_shows(formula, case):
    """No weight on later words or padding; the state follows bit for bit from both attentions."""
    bias, w = padding_bias(case.keep, torch.float64), case.weights
    trace, _ = formula(case.hidden, memory_of_layer(case), bias, *case[3:])
    future = causal_bias(U, U) != 0
    seen = float((trace.attention.probabilities_BNSR * future).abs().sum())
    seen += float((trace.cross.probabilities_BNSR * (bias != 0)).abs().sum())
    attended = normed(case.hidden + trace.attention.output_BSD, w.attention_norm, case.config)
    crossed = normed(attended + trace.cross.output_BSD, case.cross.norm, case.config)
    fed = feed_forward(crossed, w, case.config.hidden_act)
    expected = normed(crossed + fed, w.output_norm, case.config)
    return seen + differing(trace.hidden_BSD, expected), 0


@DECODER_BLOCK.gradient
def gradients_of_its_last_norm_are_sums(formula, case):
    """dg = Σ u ŷ, db = Σ u, with ŷ the state without gain and bias."""
    upstream, w = normal(8, B, U, D), case.weights

    def with_norm(*parts):
        return case._replace(weights=w._replace(output_norm=LayerNormWeights(*parts)))

    found = gradients(
        lambda *parts: layer_in_parts(formula, with_norm(*parts)), w.output_norm, upstream
    )
    plain = layer_in_parts(decoder_block, with_norm(*plain_norm()))
    error = distance(found[0], (upstream * plain).sum((0, 1)))
    return error + distance(found[1], upstream.sum((0, 1))), 1e-11


@DECODER_BLOCK.gradient
def nothing_is_learnt_from_later_words_or_hidden_places(formula, case):
    """If only the first two words count in the loss, the others get a gradient of exactly 0."""
    upstream = normal(8, B, U, D)
    upstream[:, 2:] = 0
    to_hidden, to_encoded = gradients(
        lambda x, m: layer_in_parts(formula, case._replace(hidden=x, encoded=m)),
        case[:2],
        upstream,
    )
    return float(to_hidden[:, 2:].abs().sum() + to_encoded[~case.keep].abs().sum()), 0


@DECODER_BLOCK.gradient(cost=60)
def its_slope_is_that_of_three_sublayers(formula, case):
    """With respect to the words, the encoder's states and all weight tensors at once."""
    one = case._replace(
        hidden=case.hidden[:1, :2] / 3, encoded=case.encoded[:1, :3], keep=case.keep[:1, :3] | True
    )
    return slopes(
        lambda *parts: layer_in_parts(formula, with_layer_parts(one, *parts)),
        lambda *parts: spec_of_layer(with_layer_parts(one, *parts)),
        [one.hidden, one.encoded, *weights_of_layer(one)],
    )


@DECODER_BLOCK.accuracy(
    {
        "normal": layer_case,
        "tiny": lambda draw: layer_case(draw, 1e-6),
        "large": lambda draw: layer_case(draw, 30.0),
        "a large offset": lambda draw: layer_case(draw, 1.0, 100.0),
        "of a fresh model": lambda draw: layer_case(draw, 1.0, 0.0, 0.02),
        "sharp": lambda draw: layer_case(draw, 3.0, 0.0, 2.0),
    },
    cost=6,
)
def a_layer_loses_little_more_than_rounding_what_goes_in(formula, case):
    """All words at once, and one by one."""
    expected, bound = exact_layer(case), layer_bound(case)
    found = [layer_in_parts(formula, case, *sizes) for sizes in ((), ONE_BY_ONE)]
    return max(distance(each, expected, bound) for each in found), 1


def layer_by(
    past: Any = causal_bias,
    text: Any = lambda memory, attended, c, heads: memory[2:],
    asks: Any = lambda x, attended: attended,
    stays: Any = lambda x, attended: attended,
    grown: Any = lambda old, new: torch.cat([old, new], 2),
    seen: Any = lambda bias, words: bias,
    norm: Any = normed,
    after: Any = lambda state: state,
    drops: Any = (dropout, dropout, dropout),
):
    """decoder_block with one step replaced.

    `past` is the mask of the words, `text` the keys and values of cross-attention, `asks` its
    queries and `stays` what its output is added to, `grown` a memory with new words, `seen` the
    mask of the text, `norm` the norm of cross-attention, `after` what follows it, `drops` dropout.
    """

    def formula(hidden, memory, bias, w, c, config, generator=None):
        heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob

        def dropped(change, number):
            return drops[number](change, config.hidden_dropout_prob, generator)

        new = keys_and_values(hidden, w.attention, heads)
        own = [grown(*both) for both in zip(memory[:2], new, strict=True)]
        mask = past(hidden.shape[1], own[0].shape[2], hidden.dtype)
        first = attend(hidden, *own, mask, w.attention, heads, rate, generator)
        attended = normed(hidden + dropped(first.output_BSD, 0), w.attention_norm, config)
        pair = text(memory, attended, c, heads)
        shown = seen(bias, attended)
        cross = attend(
            asks(hidden, attended), *pair, shown, c.attention, heads, rate, generator
        )
        crossed = stays(hidden, attended) + dropped(cross.output_BSD, 1)
        crossed = after(norm(crossed, c.norm, config))
        fed = dropped(feed_forward(crossed, w, config.hidden_act), 2)
        state = normed(crossed + fed, w.output_norm, config)
        return DecoderBlockTrace(first, cross, state), BlockMemory(*own, *memory[2:])

    return formula


def sees_everything(n_queries, n_keys, dtype):
    return torch.zeros(1, 1, n_queries, n_keys, dtype=dtype)


def sees_one_word_too_far(n_queries, n_keys, dtype):
    return causal_bias(n_queries, n_keys + 1, dtype)[..., :-1]


def sees_not_itself(n_queries, n_keys, dtype):
    return F.pad(causal_bias(n_queries, n_keys - 1, dtype), (0, 1), value=-torch.inf)


def sees_itself_alone(n_queries, n_keys, dtype):
    return causal_bias(n_queries, n_keys, dtype) + causal_bias(n_keys, n_keys, dtype).mT[
        ..., n_keys - n_queries :, :
    ]


def counted_from_the_first_word(n_queries, n_keys, dtype):
    """Query s sees keys 0 to s, however many words are remembered."""
    return causal_bias(n_keys, n_keys, dtype)[..., :n_queries, :]


def text_by_place(bias, words):
    """The causal mask is put on the text as well."""
    return bias + causal_bias(words.shape[1], bias.shape[-1], bias.dtype)


def mask_of_the_neighbour(bias, words):
    return bias.roll(1, 0)


def own_words_for_the_text(memory, attended, c, heads):
    """Keys and values of cross-attention from the decoder's own states, as many as the text has."""
    places = torch.arange(memory[2].shape[2]) % attended.shape[1]
    return keys_and_values(attended[:, places], c.attention, heads)


SEEN = {
    "no_causal_mask": "https://github.com/huggingface/transformers/issues/48745",
    "mask_counted_from_the_first_word": "https://github.com/pytorch/pytorch/issues/144858",
    "padding_of_the_text_asked": "https://github.com/keras-team/keras-io/pull/1046",
    "decoder_without_a_causal_mask": "https://github.com/huggingface/transformers/issues/48745",
    "places_begin_at_0_for_every_part": "https://github.com/huggingface/transformers/pull/15751",
}

for words, laws, wrong in (
    (
        "no_causal_mask",
        (
            later_words_change_no_bit,
            one_word_after_another_is_all_at_once,
            nothing_is_learnt_from_later_words_or_hidden_places,
            its_state_follows_from_what_the_trace_shows,
        ),
        layer_by(past=sees_everything),
    ),
    (
        "mask_one_word_too_far",
        (later_words_change_no_bit, it_is_torchs_decoder_layer),
        layer_by(past=sees_one_word_too_far),
    ),
    (
        "mask_one_word_short",
        (
            it_is_two_attentions_and_a_feed_forward_each_added_and_normalised,
            a_silent_cross_attention_leaves_the_encoders_block_under_a_causal_bias,
            it_is_torchs_decoder_layer,
        ),
        layer_by(past=sees_not_itself),
    ),
    (
        "mask_counted_from_the_first_word",
        (one_word_after_another_is_all_at_once, words_may_come_in_parts),
        layer_by(past=counted_from_the_first_word),
    ),
    (
        "cross_keys_from_its_own_states",
        (
            it_is_two_attentions_and_a_feed_forward_each_added_and_normalised,
            it_is_torchs_decoder_layer,
            its_slope_is_that_of_three_sublayers,
        ),
        layer_by(text=own_words_for_the_text),
    ),
    (
        "padding_of_the_text_asked",
        (hidden_places_of_the_text_change_no_bit, more_hidden_places_change_nothing_but_rounding),
        layer_by(seen=lambda bias, words: 0 * bias.clamp(min=-1)),
    ),
    (
        "padding_of_the_text_left_with_a_little",
        (hidden_places_of_the_text_change_no_bit, its_state_follows_from_what_the_trace_shows),
        layer_by(seen=lambda bias, words: bias.clamp(min=-3)),
    ),
    (
        "padding_of_the_neighbour",
        (hidden_places_of_the_text_change_no_bit, other_texts_change_no_bit_of_a_layer),
        layer_by(seen=mask_of_the_neighbour),
    ),
    (
        "causal_mask_on_the_text",
        (tokens_of_the_text_may_be_reordered, one_word_after_another_is_all_at_once),
        layer_by(seen=text_by_place),
    ),
    (
        "cross_attention_asked_by_what_came_in",
        (it_is_torchs_decoder_layer, its_slope_is_that_of_three_sublayers),
        layer_by(asks=lambda x, attended: x),
    ),
    (
        "cross_residual_from_what_came_in",
        (with_silent_sublayers_three_norms_remain, it_is_torchs_decoder_layer),
        layer_by(stays=lambda x, attended: x),
    ),
    (
        "no_cross_residual",
        (
            with_silent_sublayers_three_norms_remain,
            a_silent_cross_attention_leaves_the_encoders_block_under_a_causal_bias,
        ),
        layer_by(stays=lambda x, attended: 0 * x),
    ),
    (
        "no_cross_norm",
        (
            with_silent_sublayers_three_norms_remain,
            it_is_two_attentions_and_a_feed_forward_each_added_and_normalised,
            its_state_follows_from_what_the_trace_shows,
        ),
        layer_by(norm=lambda x, norm, config: x),
    ),
    (
        "states_less_the_mean_over_the_batch",
        (other_texts_change_no_bit_of_a_layer,),
        layer_by(after=lambda state: state - state.mean(0)),
    ),
    (
        "crossed_in_eight_bits",
        (a_layer_loses_little_more_than_rounding_what_goes_in,),
        layer_by(after=lambda state: state.to(torch.float8_e4m3fn).to(state.dtype)),
    ),
    (
        "words_forgotten",
        (one_word_after_another_is_all_at_once, words_may_come_in_parts),
        layer_by(grown=lambda old, new: new),
    ),
    (
        "new_words_put_first",
        (its_memory_grows_by_the_new_words_and_in_nothing_else, words_may_come_in_parts),
        layer_by(grown=lambda old, new: torch.cat([new, old], 2)),
    ),
):
    DECODER_BLOCK.mistake(*laws, source=SEEN.get(words, ""), name=words)(wrong)


@DECODER_BLOCK.mistake(its_memory_grows_by_the_new_words_and_in_nothing_else)
def text_remembered_as_words(hidden, memory, bias, *rest):
    trace, grown = decoder_block(hidden, memory, bias, *rest)
    return trace, grown._replace(cross_key_BNRK=grown.cross_value_BNRK)


@DECODER_BLOCK.mistake(
    it_is_torchs_decoder_layer, it_is_two_attentions_and_a_feed_forward_each_added_and_normalised
)
def text_asked_before_the_words(hidden, memory, bias, w, c, config):
    """The two attentions in the other order."""
    heads = config.num_attention_heads
    cross = attend(hidden, *memory[2:], bias, c.attention, heads)
    crossed = normed(hidden + cross.output_BSD, c.norm, config)
    new = keys_and_values(crossed, w.attention, heads)
    own = [torch.cat(both, 2) for both in zip(memory[:2], new, strict=True)]
    past = causal_bias(hidden.shape[1], own[0].shape[2], hidden.dtype)
    first = attend(crossed, *own, past, w.attention, heads)
    attended = normed(crossed + first.output_BSD, w.attention_norm, config)
    fed = feed_forward(attended, w, config.hidden_act)
    state = normed(attended + fed, w.output_norm, config)
    return DecoderBlockTrace(first, cross, state), BlockMemory(*own, *memory[2:])


@DECODER_BLOCK.mistake(the_last_norm_comes_last, with_silent_sublayers_three_norms_remain)
def norms_before_the_sublayers(hidden, memory, bias, w, c, config):
    """Pre-norm, which cannot use the weights of post-norm."""
    heads, x = config.num_attention_heads, normed(hidden, w.attention_norm, config)
    new = keys_and_values(x, w.attention, heads)
    own = [torch.cat(both, 2) for both in zip(memory[:2], new, strict=True)]
    past = causal_bias(hidden.shape[1], own[0].shape[2], hidden.dtype)
    first = attend(x, *own, past, w.attention, heads)
    attended = hidden + first.output_BSD
    cross = attend(normed(attended, c.norm, config), *memory[2:], bias, c.attention, heads)
    crossed = attended + cross.output_BSD
    fed = feed_forward(normed(crossed, w.output_norm, config), w, config.hidden_act)
    return DecoderBlockTrace(first, cross, crossed + fed), BlockMemory(*own, *memory[2:])


@DECODER_BLOCK.mistake(
    a_silent_cross_attention_leaves_the_encoders_block_under_a_causal_bias,
    it_is_torchs_decoder_layer,
)
def first_two_norms_exchanged(hidden, memory, bias, w, c, config):
    swapped = w._replace(attention_norm=c.norm), c._replace(norm=w.attention_norm)
    return decoder_block(hidden, memory, bias, *swapped, config)


@DECODER_BLOCK.mistake(gradients_of_its_last_norm_are_sums, its_slope_is_that_of_three_sublayers)
def last_gain_of_a_layer_not_trained(hidden, memory, bias, w, c, config):
    still = w.output_norm._replace(gain_D=w.output_norm.gain_D.detach())
    return decoder_block(hidden, memory, bias, w._replace(output_norm=still), c, config)


# ------------------------------------------------------------------------ decode_traced and decode


class Case(NamedTuple):
    """Two texts of U words, and the encoder's states of two others; `keep` is False at padding."""

    ids: Tensor
    encoded: Tensor
    keep: Tensor
    weights: DecoderWeights
    config: BertConfig


def case_of(draw: Draw, scale: float = 0.4, config: BertConfig = CONFIG) -> Case:
    return Case(
        integers(seed_of(draw), config.vocab_size, B, U),
        normal(seed_of(draw), B, R, config.hidden_size),
        keep_of(draw),
        random_weights(seed_of(draw), config, scale),
        with_act(config, draw.choice(["gelu", "gelu_new"])),
    )


def erf_case(draw: Draw) -> Case:
    case = case_of(draw)
    return case._replace(config=with_act(case.config, "gelu"))


def small_case(draw: Draw) -> Case:
    """One text of three words beside four tokens, one of them padding, in the smallest decoder."""
    case = case_of(draw, config=SMALL)
    return case._replace(
        ids=case.ids[:1, :3], encoded=case.encoded[:1, :4], keep=torch.arange(4)[None] < 3
    )


def beginning(case: Case) -> DecoderMemory:
    return empty_memory(*case[1:])


def logits_in_parts(formula: Any, case: Case, *sizes: int) -> Tensor:
    """The logits of all words, given in parts, each with the memory of the parts before it."""
    memory, found = beginning(case), []
    for part in case.ids.split(sizes or case.ids.shape[1], 1):
        logits, memory = formula(part, memory, *case[3:])
        found.append(logits)
    return torch.cat(found, 1)


def states_in_parts(formula: Any, case: Case, *sizes: int) -> Tensor:
    """The states after each layer, [L, B, U, D]."""

    def states(*given):
        traces, memory = formula(*given)
        return torch.stack([trace.hidden_BSD for trace in traces], 2), memory

    return logits_in_parts(states, case, *sizes).permute(2, 0, 1, 3)


def with_case_parts(case: Case, encoded: Any, *parts: Any) -> Case:
    return case._replace(encoded=encoded, weights=with_parts(case.weights, parts))


def bound_of(found: Any, formula: Any, case: Case) -> Tensor:
    return TIMES * rounding.sensitivity(
        lambda *parts: found(formula, with_case_parts(case, *parts)),
        [case.encoded, *parts_of(case.weights)],
        eps_of(case.encoded),
        draws=4,
    )


def states_bound(case: Case) -> Tensor:
    return bound_of(states_in_parts, decode_traced, case)


def logits_bound(case: Case) -> Tensor:
    return bound_of(logits_in_parts, decode, case)


def spec_of_states(case: Case) -> list[Any]:
    """The spec of a case with lists for tensors: [B][L][U][D]."""
    config = case.config
    sizes = config.num_attention_heads, config.layer_norm_eps, config.hidden_act
    rows = zip(case.ids.tolist(), case.encoded, case.keep.tolist(), strict=True)
    return [spec.decoder_states(ids, M, keep, case.weights, *sizes) for ids, M, keep in rows]


def spec_of_logits(case: Case) -> list[Any]:
    mlm: Any = case.weights.bert.mlm
    words: Any = case.weights.bert.embeddings.word_VD  # all of them lists
    eps, act = case.config.layer_norm_eps, case.config.hidden_act
    return [
        [spec.mlm_logits(h, mlm, words, eps, act) for h in states[-1]]
        for states in spec_of_states(case)
    ]


def in_lists(case: Case) -> Case:
    given = [case.encoded, *parts_of(case.weights)]
    return with_case_parts(case, *(x.double().tolist() for x in given))


def exact_states(case: Case) -> Tensor:
    return as_tensor(spec_of_states(in_lists(case))).transpose(0, 1)


def exact_logits(case: Case) -> Tensor:
    return as_tensor(spec_of_logits(in_lists(case)))


def torchs_states(case: Case) -> Tensor:
    """Computed by torch's modules; a separate test compares with `transformers`."""
    w, config = case.weights.bert, case.config
    tables, length = w.embeddings, case.ids.shape[1]
    x = F.embedding(case.ids, tables.word_VD) + tables.position_PD[:length] + tables.type_TD[0]
    x, states = F.layer_norm(x, x.shape[-1:], *tables.norm, config.layer_norm_eps), []
    for weights, cross in zip(w.blocks, case.weights.cross, strict=True):
        x = through_torch(reference_layer(weights, cross, config), x, case.encoded, case.keep)
        states.append(x)
    return torch.stack(states)


def torchs_logits(case: Case) -> Tensor:
    mlm: Any = case.weights.bert.mlm
    t = F.gelu(F.linear(torchs_states(case)[-1], *mlm.transform))
    gain, bias = mlm.norm
    t = F.layer_norm(t, t.shape[-1:], gain, bias, case.config.layer_norm_eps)
    return F.linear(t, case.weights.bert.embeddings.word_VD, mlm.bias_V)


DECODE_TRACED = Proof(decode_traced, case_of, cost=8)
DECODE = Proof(decode, case_of, cost=8)


@DECODE_TRACED.spec
def its_states_are_those_after_each_layer(formula, case):
    return distance(states_in_parts(formula, case), exact_states(case), states_bound(case)), 1


@DECODE_TRACED.reference(cases=erf_case)
def its_states_are_those_of_torchs_decoder_layers(formula, case):
    return distance(states_in_parts(formula, case), torchs_states(case), states_bound(case)), 2


@DECODE_TRACED.law
def each_layer_goes_on_from_the_one_before(formula, case):
    """Bit for bit, with everything a layer computes and its memory; words come in two parts."""
    ids, _, _, w, config = case
    memory, error = beginning(case), 0.0
    for first, last in ((0, 2), (2, U)):
        known = memory
        traces, memory = formula(ids[:, first:last], known, w, config)
        tables = w.bert.embeddings
        tables = tables._replace(position_PD=tables.position_PD[first:])
        state = embeddings(ids[:, first:last], 0 * ids[:, first:last], tables, config)
        layers = zip(w.bert.blocks, w.cross, known.blocks, strict=True)
        for number, (weights, cross, old) in enumerate(layers):
            expected = decoder_block(state, old, known.cross_bias_B11R, weights, cross, config)
            shown = traces[number], memory.blocks[number]
            error += sum(map(differing, parts_of(shown), parts_of(expected)))
            state = expected[0].hidden_BSD
    return error + differing(memory.cross_bias_B11R, beginning(case).cross_bias_B11R), 0


@DECODE_TRACED.law
def its_memory_counts_the_words(formula, case):
    """And the memory that it was given stays as it was."""
    memory, error = beginning(case), 0.0
    for n in range(U):
        _, longer = formula(case.ids[:, n : n + 1], memory, *case[3:])
        error += abs(longer.n_words - n - 1) + abs(memory.n_words - n)
        memory = longer
    return error, 0


@DECODE_TRACED.law
def its_last_states_under_the_head_are_what_decode_returns(formula, case):
    w, (traces, _) = case.weights.bert, formula(case.ids, beginning(case), *case[3:])
    found = mlm_logits(traces[-1].hidden_BSD, w.mlm, w.embeddings.word_VD, case.config)
    return differing(found, logits_in_parts(decode, case)), 0


@DECODE_TRACED.law
def states_come_one_by_one_as_all_at_once(formula, case):
    left = states_in_parts(formula, case, *ONE_BY_ONE)
    return distance(left, states_in_parts(formula, case), states_bound(case)), 1


@DECODE_TRACED.gradient(cases=small_case, cost=60)
def the_slope_of_every_layer_is_that_of_the_spec(formula, case):
    return slopes(
        lambda *parts: states_in_parts(formula, with_case_parts(case, *parts)).transpose(0, 1),
        lambda *parts: spec_of_states(with_case_parts(case, *parts)),
        [case.encoded, *parts_of(case.weights)],
        tolerance=1e-10,  # two layers and seven norms curve more than one
    )


def outlying(draw: Draw) -> Case:
    """One feature of the encoder's states a hundred times as large as the others."""
    case = case_of(draw)
    return case._replace(encoded=case.encoded * torch.where(torch.arange(D) == 4, 100.0, 1.0))


HARD_MODELS = {
    "normal": case_of,
    "of a fresh model": lambda draw: case_of(draw, 0.02),
    "wide": lambda draw: case_of(draw, 1.0),
    "tiny": lambda draw: case_of(draw, 1e-6),
    "an outlying feature": outlying,
    "one token to ask": lambda draw: case_of(draw)._replace(keep=torch.arange(R).expand(B, R) < 1),
}


@DECODE_TRACED.accuracy(HARD_MODELS, cost=10)
def every_layer_loses_little_more_than_rounding_what_goes_in(formula, case):
    expected, bound = exact_states(case), states_bound(case)
    found = [states_in_parts(formula, case, *sizes) for sizes in ((), ONE_BY_ONE)]
    return max(distance(each, expected, bound) for each in found), 1


@DECODE.spec
def a_logit_is_that_of_the_last_state_under_the_head(formula, case):
    return distance(logits_in_parts(formula, case), exact_logits(case), logits_bound(case)), 1


@DECODE.reference(cases=erf_case)
def they_are_those_of_torchs_decoder_layers_and_a_head(formula, case):
    return distance(logits_in_parts(formula, case), torchs_logits(case), logits_bound(case)), 2


@DECODE.law
def future_words_change_no_bit(formula, case):
    """The logits of a word are the same bits whatever follows it."""
    ids = torch.cat([case.ids[:, :2], (case.ids[:, 2:] + 1) % V], 1)
    left, right = (logits_in_parts(formula, each) for each in (case._replace(ids=ids), case))
    return differing(left[:, :2], right[:, :2]), 0


@DECODE.law
def a_shorter_text_has_the_same_scores(formula, case):
    """Up to rounding: other lengths are summed in another order."""
    shorter = logits_in_parts(formula, case._replace(ids=case.ids[:, :2]))
    bound = logits_bound(case)[:, :2]
    return distance(shorter, logits_in_parts(formula, case)[:, :2], bound), 1


@DECODE.law
def words_come_one_by_one_as_all_at_once(formula, case):
    left = logits_in_parts(formula, case, *ONE_BY_ONE)
    return distance(left, logits_in_parts(formula, case), logits_bound(case)), 1


@DECODE.law
def words_come_in_parts_as_all_at_once(formula, case):
    left = logits_in_parts(formula, case, *IN_PARTS)
    return distance(left, logits_in_parts(formula, case), logits_bound(case)), 1


@DECODE.law
def the_next_word_stands_behind_those_remembered(formula, case):
    """Only its own row of the position table changes its logits."""
    memory = decode(case.ids[:, :2], beginning(case), *case[3:])[1]
    word, w = case.ids[:, 2:3], case.weights
    tables, plain, wrong = w.bert.embeddings, formula(word, memory, *case[3:])[0], 0
    for place in range(U):
        table = tables.position_PD.clone()
        table[place] = table[place] + normal(place, D)
        bert = w.bert._replace(embeddings=tables._replace(position_PD=table))
        moved = formula(word, memory, w._replace(bert=bert), case.config)[0]
        wrong += (differing(moved, plain) > 0) != (place == 2)
    return wrong, 0


@DECODE.law
def there_are_as_many_words_as_places_and_no_more(formula, case):
    places = len(case.weights.bert.embeddings.position_PD)
    ids = case.ids[:, :1].repeat(1, places)
    _, memory = formula(ids, beginning(case), *case[3:])
    try:
        formula(case.ids[:, :1], memory, *case[3:])
    except (ValueError, IndexError):
        return 0, 0
    return 1, 0


@DECODE.law
def padding_of_the_text_changes_no_bit(formula, case):
    changed = case._replace(encoded=torch.where(case.keep[..., None], case.encoded, 1e4))
    return differing(logits_in_parts(formula, changed), logits_in_parts(formula, case)), 0


@DECODE.law
def more_padding_of_the_text_changes_nothing_but_rounding(formula, case):
    encoded = torch.cat([case.encoded, normal(3, B, 3, D)], 1)
    wider = case._replace(encoded=encoded, keep=F.pad(case.keep, (0, 3)))
    left, right = (logits_in_parts(formula, each) for each in (wider, case))
    return distance(left, right, logits_bound(case)), 1


@DECODE.law
def other_texts_change_no_bit(formula, case):
    ids, encoded, keep = (part.clone() for part in case[:3])
    ids[1], encoded[1], keep[1] = (ids[1] + 5) % V, 2 - encoded[1], True
    changed = case._replace(ids=ids, encoded=encoded, keep=keep)
    return differing(logits_in_parts(formula, changed)[0], logits_in_parts(formula, case)[0]), 0


@DECODE.law
def the_words_vectors_serve_at_both_ends(formula, case):
    """Words may be renumbered if it is done in inputs and outputs alike."""
    order, bert = order_of(V, 3), case.weights.bert
    tables = bert.embeddings._replace(word_VD=bert.embeddings.word_VD[order])
    mlm = bert.mlm._replace(bias_V=bert.mlm.bias_V[order])
    weights = case.weights._replace(bert=bert._replace(embeddings=tables, mlm=mlm))
    left = logits_in_parts(formula, case._replace(weights=weights))
    right = logits_in_parts(formula, case._replace(ids=order[case.ids]))[..., order]
    return distance(left, right, logits_bound(case)), 1


@DECODE.law
def every_word_before_and_every_token_of_the_text_counts(formula, case):
    """Changing any of them changes the last logits."""
    case = case._replace(keep=torch.ones_like(case.keep))
    last, still = logits_in_parts(formula, case)[:, -1], 0
    for n in range(U):
        ids = case.ids.clone()
        ids[:, n] = (ids[:, n] + 1) % V
        moved = logits_in_parts(formula, case._replace(ids=ids))[:, -1]
        still += distance(moved, last) < 1e-6
    for r in range(R):
        encoded = case.encoded.clone()
        encoded[:, r] += normal(r, D)
        moved = logits_in_parts(formula, case._replace(encoded=encoded))[:, -1]
        still += distance(moved, last) < 1e-6
    return still, 0


@DECODE.gradient
def all_of_it_learns_but_key_biases(formula, case):
    """The softmax cancels their influence; a word's bias sums the gradients of all its logits."""
    case = case._replace(keep=torch.ones_like(case.keep))
    upstream = normal(7, B, U, V)
    found = gradients(
        lambda *parts: logits_in_parts(formula, with_case_parts(case, *parts)),
        [case.encoded, *parts_of(case.weights)],
        upstream,
    )
    names = [name for name, _ in named_tensors(case.weights)]
    to = dict(zip(names, found[1:], strict=True))
    small = [name for name in names if to[name].abs().max() < 1e-6]
    expected = [name for name in names if name.endswith("attention.key.bias_O")]
    error = distance(to["bert.mlm.bias_V"], upstream.sum((0, 1)))
    return error + float(small != expected) + float(found[0].abs().amax((0, 2)).min() < 1e-9), 1e-12


@DECODE.gradient(cases=small_case, cost=60)
def its_slope_is_that_of_layer_after_layer(formula, case):
    """With respect to the encoder's states and every weight at once."""
    return slopes(
        lambda *parts: logits_in_parts(formula, with_case_parts(case, *parts)),
        lambda *parts: spec_of_logits(with_case_parts(case, *parts)),
        [case.encoded, *parts_of(case.weights)],
        tolerance=1e-10,
    )


@DECODE.accuracy(HARD_MODELS, cost=10)
def it_loses_little_more_than_rounding_its_weights(formula, case):
    expected, bound = exact_logits(case), logits_bound(case)
    found = [logits_in_parts(formula, case, *sizes) for sizes in ((), ONE_BY_ONE)]
    return max(distance(each, expected, bound) for each in found), 1


def with_tables(w: DecoderWeights, **tables: Any) -> DecoderWeights:
    embedded = w.bert.embeddings._replace(**tables)
    return w._replace(bert=w.bert._replace(embeddings=embedded))


def decoded_by(
    layer: Any = decoder_block,
    kept: Any = lambda old, new: new,
    known: Any = lambda memory: memory,
    of_embeddings: Any = lambda generator: generator,
    of_layer: Any = lambda generator: generator,
):
    """decode_traced with one step replaced.

    `layer` is the layer, `kept` the memory after it, `known` the memory as it is read; the last two
    give the generators of dropout.
    """

    def formula(ids, memory, w, config, generator=None):
        tables, memory = w.bert.embeddings, known(memory)
        tables = tables._replace(position_PD=tables.position_PD[memory.n_words :])
        state = embeddings(ids, 0 * ids, tables, config, of_embeddings(generator))
        traces, blocks = [], []
        for weights, cross, old in zip(w.bert.blocks, w.cross, memory.blocks, strict=True):
            trace, new = layer(
                state, old, memory.cross_bias_B11R, weights, cross, config, of_layer(generator)
            )
            state = trace.hidden_BSD
            traces.append(trace)
            blocks.append(kept(old, new))
        return tuple(traces), memory._replace(blocks=tuple(blocks))

    return formula


def under_the_head(traced: Any):
    """decode on top of another decode_traced."""

    def formula(ids, memory, w, config, generator=None):
        traces, grown = traced(ids, memory, w, config, generator)
        state, words = traces[-1].hidden_BSD, w.bert.embeddings.word_VD
        return mlm_logits(state, w.bert.mlm, words, config), grown

    return formula


def first_places_again(ids, memory, w, config, generator=None):
    """Each new part of a text begins at position 0."""
    table, n = w.bert.embeddings.position_PD, memory.n_words
    table = torch.cat([table[:n], table, table], 0)
    return decode_traced(ids, memory, with_tables(w, position_PD=table), config, generator)


def one_place_too_late(ids, memory, w, config, generator=None):
    table = w.bert.embeddings.position_PD
    table = torch.cat([table[1:], table[:1]], 0)
    return decode_traced(ids, memory, with_tables(w, position_PD=table), config, generator)


def words_of_the_first_layer_for_all(ids, memory, w, config, generator=None):
    """One memory for all layers."""
    shared = tuple(BlockMemory(*memory.blocks[0][:2], *b[2:]) for b in memory.blocks)
    return decode_traced(ids, memory._replace(blocks=shared), w, config, generator)


def one_layer_for_all(ids, memory, w, config, generator=None):
    n, bert = len(w.cross), w.bert
    shared = w._replace(
        bert=bert._replace(blocks=bert.blocks[:1] * n), cross=w.cross[:1] * n
    )
    return decode_traced(ids, memory, shared, config, generator)


def words_without_a_type(ids, memory, w, config, generator=None):
    """Words without the vector of their type."""
    table = torch.zeros_like(w.bert.embeddings.type_TD)
    return decode_traced(ids, memory, with_tables(w, type_TD=table), config, generator)


for words, laws, wrong in (
    (
        "decoder_without_a_causal_mask",
        (
            future_words_change_no_bit,
            a_shorter_text_has_the_same_scores,
            words_come_one_by_one_as_all_at_once,
            they_are_those_of_torchs_decoder_layers_and_a_head,
        ),
        decoded_by(layer=layer_by(past=sees_everything)),
    ),
    (
        "places_begin_at_0_for_every_part",
        (
            words_come_one_by_one_as_all_at_once,
            words_come_in_parts_as_all_at_once,
            the_next_word_stands_behind_those_remembered,
            there_are_as_many_words_as_places_and_no_more,
        ),
        first_places_again,
    ),
    (
        "places_one_too_late",
        (
            the_next_word_stands_behind_those_remembered,
            a_logit_is_that_of_the_last_state_under_the_head,
        ),
        one_place_too_late,
    ),
    (
        "words_not_remembered",
        (words_come_one_by_one_as_all_at_once, words_come_in_parts_as_all_at_once),
        decoded_by(kept=lambda old, new: old),
    ),
    (
        "words_of_one_layer_for_all",
        (words_come_one_by_one_as_all_at_once,),
        words_of_the_first_layer_for_all,
    ),
    (
        "padding_of_the_text_asked_by_all_words",
        (
            padding_of_the_text_changes_no_bit,
            more_padding_of_the_text_changes_nothing_but_rounding,
        ),
        decoded_by(
            known=lambda memory: memory._replace(
                cross_bias_B11R=torch.zeros_like(memory.cross_bias_B11R)
            )
        ),
    ),
    (
        "text_of_the_neighbour",
        (other_texts_change_no_bit, a_logit_is_that_of_the_last_state_under_the_head),
        decoded_by(
            known=lambda memory: DecoderMemory(
                memory.cross_bias_B11R.roll(1, 0),
                tuple(BlockMemory(*b[:2], *(x.roll(1, 0) for x in b[2:])) for b in memory.blocks),
            )
        ),
    ),
    (
        "text_not_asked",
        (every_word_before_and_every_token_of_the_text_counts,),
        decoded_by(
            layer=layer_by(text=lambda memory, x, c, heads: [0 * part for part in memory[2:]])
        ),
    ),
    (
        "words_see_only_themselves",
        (
            every_word_before_and_every_token_of_the_text_counts,
            they_are_those_of_torchs_decoder_layers_and_a_head,
        ),
        decoded_by(layer=layer_by(past=sees_itself_alone)),
    ),
    (
        "layers_share_the_weights_of_the_first",
        (
            they_are_those_of_torchs_decoder_layers_and_a_head,
            its_slope_is_that_of_layer_after_layer,
            all_of_it_learns_but_key_biases,
        ),
        one_layer_for_all,
    ),
    (
        "type_of_the_words_left_out",
        (
            a_logit_is_that_of_the_last_state_under_the_head,
            all_of_it_learns_but_key_biases,
            its_slope_is_that_of_layer_after_layer,
        ),
        words_without_a_type,
    ),
):
    DECODE.mistake(*laws, source=SEEN.get(words, ""), name=words)(under_the_head(wrong))


@DECODE.mistake(the_words_vectors_serve_at_both_ends)
def scores_in_the_order_of_the_ids(ids, memory, w, config):
    """Every word but the first gets the logits of another word."""
    logits, grown = decode(ids, memory, w, config)
    return torch.cat([logits[..., :1], logits[..., 2:], logits[..., 1:2]], -1), grown


@DECODE.mistake(it_loses_little_more_than_rounding_its_weights)
def decoder_in_eight_bits(ids, memory, w, config):
    small = [part.to(torch.float8_e4m3fn).to(part.dtype) for part in parts_of(w)]
    return decode(ids, memory, with_parts(w, small), config)


for words, laws, wrong in (
    (
        "layers_in_reverse",
        (
            its_states_are_those_after_each_layer,
            its_states_are_those_of_torchs_decoder_layers,
            its_last_states_under_the_head_are_what_decode_returns,
            each_layer_goes_on_from_the_one_before,
        ),
        lambda ids, memory, w, config: decode_traced(
            ids,
            memory,
            w._replace(bert=w.bert._replace(blocks=w.bert.blocks[::-1]), cross=w.cross[::-1]),
            config,
        ),
    ),
    (
        "traced_places_begin_at_0_for_every_part",
        (states_come_one_by_one_as_all_at_once, each_layer_goes_on_from_the_one_before),
        first_places_again,
    ),
    (
        "memory_that_counts_nothing",
        (its_memory_counts_the_words, states_come_one_by_one_as_all_at_once),
        decoded_by(kept=lambda old, new: old),
    ),
    (
        "text_trained_by_the_first_layer_alone",
        (the_slope_of_every_layer_is_that_of_the_spec,),
        lambda ids, memory, w, config: decode_traced(
            ids,
            memory._replace(
                blocks=(
                    memory.blocks[0],
                    *(BlockMemory(*(p.detach() for p in b)) for b in memory.blocks[1:]),
                )
            ),
            w,
            config,
        ),
    ),
    (
        "layers_in_eight_bits",
        (every_layer_loses_little_more_than_rounding_what_goes_in,),
        decoded_by(
            layer=layer_by(after=lambda state: state.to(torch.float8_e4m3fn).to(state.dtype))
        ),
    ),
):
    DECODE_TRACED.mistake(*laws, name=words)(wrong)


# --------------------------------------------------------------------------------- with dropout

# The arguments of evaluation and a generator: it draws for the embeddings, then layer by layer.


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


def given_to_layer(case: Layer) -> tuple[Any, ...]:
    return (case.hidden, memory_of_layer(case), padding_bias(case.keep, torch.float64), *case[3:])


def given_to_decoder(case: Case) -> tuple[Any, ...]:
    return (case.ids, beginning(case), *case[3:])


def arguments_of(given: Any) -> tuple[Any, ...]:
    return given_to_layer(given) if isinstance(given, Layer) else given_to_decoder(given)


def in_training(formula: Any, case: Training, shift: int = 0) -> Any:
    """The result with a fresh generator, seeded with the case's seed plus `shift`."""
    return formula(*arguments_of(case.given), fresh(case.seed + shift))


def differing_parts(a: Any, b: Any) -> float:
    return sum(map(differing, parts_of(a), parts_of(b)))


BLOCK_WITH_DROPOUT = Proof(
    decoder_block, training(layer_case), name="decoder_block_with_dropout", cost=4
)
TRACED_WITH_DROPOUT = Proof(
    decode_traced, training(case_of), name="decode_traced_with_dropout", cost=6
)
DECODE_WITH_DROPOUT = Proof(decode, training(case_of), name="decode_with_dropout", cost=6)


@BLOCK_WITH_DROPOUT.law
@TRACED_WITH_DROPOUT.law
@DECODE_WITH_DROPOUT.law
def nothing_is_dropped_without_both_rates_and_a_generator(formula, case):
    still = case.given._replace(config=with_rates(case.given.config, 0.0, 0.0))
    plain = formula(*arguments_of(still))
    error = differing_parts(formula(*arguments_of(case.given)), plain)
    return error + differing_parts(formula(*arguments_of(still), fresh(case.seed)), plain), 0


@BLOCK_WITH_DROPOUT.law
@TRACED_WITH_DROPOUT.law
@DECODE_WITH_DROPOUT.law
def the_generator_decides_what_is_dropped(formula, case):
    """Equal seeds drop alike, other seeds do not; torch's global generator is left untouched."""
    before = torch.get_rng_state()
    first, again, other = (in_training(formula, case, shift) for shift in (0, 0, 1))
    drawn = differing(torch.get_rng_state(), before)
    return differing_parts(first, again) + float(differing_parts(first, other) == 0) + drawn, 0


@BLOCK_WITH_DROPOUT.law
def each_sublayer_drops_its_probabilities_and_then_its_answer(formula, case):
    """One after another from one generator, each at its rate; keys and values are never dropped."""
    hidden, memory, bias, w, c, config = given_to_layer(case.given)
    heads, at, rate = (
        config.num_attention_heads,
        config.attention_probs_dropout_prob,
        config.hidden_dropout_prob,
    )
    generator = fresh(case.seed)

    def kept(answer: Tensor) -> Tensor:
        draws = torch.rand(answer.shape, generator=generator)
        return torch.where(draws >= rate, answer, 0) / (1 - rate)

    pair = keys_and_values(hidden, w.attention, heads)
    past = causal_bias(U, U, torch.float64)
    own = attend(hidden, *pair, past, w.attention, heads, at, generator)
    attended = normed(hidden + kept(own.output_BSD), w.attention_norm, config)
    cross = attend(attended, *memory[2:], bias, c.attention, heads, at, generator)
    crossed = normed(attended + kept(cross.output_BSD), c.norm, config)
    fed = kept(feed_forward(crossed, w, config.hidden_act))
    expected = normed(crossed + fed, w.output_norm, config)
    trace, grown = in_training(formula, case)
    error = distance(trace.hidden_BSD, expected, 1 + expected.abs())
    error += distance(trace.attention.output_BSD, own.output_BSD, 1 + own.output_BSD.abs())
    error += distance(trace.cross.output_BSD, cross.output_BSD, 1 + cross.output_BSD.abs())
    return error + sum(map(distance, grown[:2], pair)), 2**10 * EPS


def no_drop(change, rate, generator):
    return change


for words, wrong in (
    ("answers_to_words_not_dropped", layer_by(drops=(no_drop, dropout, dropout))),
    ("answers_to_the_text_not_dropped", layer_by(drops=(dropout, no_drop, dropout))),
    ("what_is_fed_forward_not_dropped", layer_by(drops=(dropout, dropout, no_drop))),
    (
        "states_dropped_after_the_cross_norm",
        layer_by(after=lambda state: dropout(state, 0.1, fresh(1))),
    ),
    (
        "words_dropped_as_they_are_remembered",
        layer_by(grown=lambda old, new: torch.cat([old, dropout(new, 0.1, fresh(1))], 2)),
    ),
    (
        "layer_without_its_generator",
        lambda hidden, memory, bias, w, c, config, generator=None: decoder_block(
            hidden, memory, bias, w, c, config
        ),
    ),
):
    BLOCK_WITH_DROPOUT.mistake(
        each_sublayer_drops_its_probabilities_and_then_its_answer, name=words
    )(wrong)


@BLOCK_WITH_DROPOUT.mistake(
    each_sublayer_drops_its_probabilities_and_then_its_answer,
    nothing_is_dropped_without_both_rates_and_a_generator,
)
def layer_dropped_in_evaluation(hidden, memory, bias, w, c, config, generator=None):
    return decoder_block(hidden, memory, bias, w, c, config, fresh(1))


@BLOCK_WITH_DROPOUT.mistake(
    the_generator_decides_what_is_dropped,
    each_sublayer_drops_its_probabilities_and_then_its_answer,
)
def layer_dropped_by_the_source_that_everyone_shares(*given):
    shared = torch.default_generator if len(given) > 6 else None
    return decoder_block(*given[:6], shared)


def traced_by_hand(case: Training) -> Any:
    """What embeddings and layers compute if each draws on from where the one before stopped."""
    (ids, memory, w, config), generator = given_to_decoder(case.given), fresh(case.seed)
    state = embeddings(ids, 0 * ids, w.bert.embeddings, config, generator)
    traces = []
    for weights, cross, old in zip(w.bert.blocks, w.cross, memory.blocks, strict=True):
        bias = memory.cross_bias_B11R
        trace, _ = decoder_block(state, old, bias, weights, cross, config, generator)
        state = trace.hidden_BSD
        traces.append(trace)
    return tuple(traces)


@TRACED_WITH_DROPOUT.law
def the_embeddings_draw_first_and_then_layer_after_layer(formula, case):
    return differing_parts(in_training(formula, case)[0], traced_by_hand(case)), 0


@DECODE_WITH_DROPOUT.law
def decode_draws_as_its_states_do_and_nothing_in_the_head(formula, case):
    w, state = case.given.weights.bert, traced_by_hand(case)[-1].hidden_BSD
    expected = mlm_logits(state, w.mlm, w.embeddings.word_VD, case.given.config)
    return differing(in_training(formula, case)[0], expected), 0


def itself(generator):
    return generator


def none_at_all(generator):
    return None


def always_one(generator):
    return generator or fresh(1)


def rewound(generator):
    """The generator back at its initial seed."""
    return generator and fresh(generator.initial_seed())


def shared_by_all(generator):
    return generator and torch.default_generator


def other_generators(proof: Proof, in_order: Any, made: Any) -> None:
    """The same mistakes for the states and for the logits computed from them."""
    for words, laws, of_embeddings, of_layer in (
        ("embeddings_not_dropped", (in_order,), none_at_all, itself),
        ("layers_not_dropped", (in_order,), itself, none_at_all),
        ("the_same_draws_in_every_layer", (in_order,), itself, rewound),
        (
            "layers_dropped_by_the_source_that_everyone_shares",
            (in_order, the_generator_decides_what_is_dropped),
            itself,
            shared_by_all,
        ),
        (
            "layers_dropped_in_evaluation",
            (nothing_is_dropped_without_both_rates_and_a_generator,),
            itself,
            always_one,
        ),
    ):
        wrong = made(decoded_by(of_embeddings=of_embeddings, of_layer=of_layer))
        proof.mistake(*laws, name=words)(wrong)


other_generators(
    TRACED_WITH_DROPOUT, the_embeddings_draw_first_and_then_layer_after_layer, itself
)
other_generators(
    DECODE_WITH_DROPOUT, decode_draws_as_its_states_do_and_nothing_in_the_head, under_the_head
)
