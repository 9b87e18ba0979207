"""Named structures of weights, how they begin, and the one flat tensor they live in."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proof import EPS, check, differing, distance, fewer, holds, normal, rejects, seeds
from torch import Tensor

from minibert.config import BertConfig
from minibert.parameters import (
    BertWeights,
    FlatSlot,
    LayerNormWeights,
    LinearWeights,
    decayed_length,
    flat_layout,
    flatten,
    initial_weights,
    is_decayed,
    named_tensors,
    truncated_normal,
    views_of,
    weight_shapes,
    with_tensors,
)

PARTS = ("pooler", "mlm", "nsp", "classifier", "span")
SMALL = BertConfig(
    vocab_size=23,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=11,
    max_position_embeddings=13,
    type_vocab_size=3,
    id2label={0: "a", 1: "b", 2: "c", 3: "d", 4: "e"},
)


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(structure: Any) -> int:
    return sum(tensor.numel() for _, tensor in named_tensors(structure))


small_configs = st.builds(
    lambda vocab, heads, width, layers, inner, positions, types: BertConfig(
        vocab_size=vocab,
        hidden_size=heads * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
    ),
    *(st.integers(1, high) for high in (37, 5, 7, 4, 29, 17, 3)),
)
parts_of = st.lists(st.sampled_from(PARTS), unique=True).map(tuple)
structures = st.builds(weight_shapes, small_configs, parts_of, st.none() | st.integers(1, 19)).map(
    lambda shapes: initial_weights(shapes, 0.02, fresh(0))
)


# -------------------------------------------------------------------------------------- shapes


def test_every_name_and_shape_of_a_model():
    """V 23, D 15, F 11, P 13, T 3, C 5, fit width 19: no two axes alike."""
    config = BertConfig.from_dict(SMALL.to_dict() | {"num_hidden_layers": 1})
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in named_tensors(weight_shapes(config, PARTS, fit_width=19))
    }
    assert shapes == {
        "embeddings.word_VD": (23, 15),
        "embeddings.position_PD": (13, 15),
        "embeddings.type_TD": (3, 15),
        "embeddings.norm.gain_D": (15,),
        "embeddings.norm.bias_D": (15,),
        "blocks.0.attention.query.weight_OI": (15, 15),
        "blocks.0.attention.query.bias_O": (15,),
        "blocks.0.attention.key.weight_OI": (15, 15),
        "blocks.0.attention.key.bias_O": (15,),
        "blocks.0.attention.value.weight_OI": (15, 15),
        "blocks.0.attention.value.bias_O": (15,),
        "blocks.0.attention.output.weight_OI": (15, 15),
        "blocks.0.attention.output.bias_O": (15,),
        "blocks.0.attention_norm.gain_D": (15,),
        "blocks.0.attention_norm.bias_D": (15,),
        "blocks.0.intermediate.weight_OI": (11, 15),
        "blocks.0.intermediate.bias_O": (11,),
        "blocks.0.output.weight_OI": (15, 11),
        "blocks.0.output.bias_O": (15,),
        "blocks.0.output_norm.gain_D": (15,),
        "blocks.0.output_norm.bias_D": (15,),
        "pooler.weight_OI": (15, 15),
        "pooler.bias_O": (15,),
        "mlm.transform.weight_OI": (15, 15),
        "mlm.transform.bias_O": (15,),
        "mlm.norm.gain_D": (15,),
        "mlm.norm.bias_D": (15,),
        "mlm.bias_V": (23,),
        "nsp.weight_OI": (2, 15),
        "nsp.bias_O": (2,),
        "classifier.weight_OI": (5, 15),
        "classifier.bias_O": (5,),
        "span.weight_OI": (2, 15),
        "span.bias_O": (2,),
        "fit_dense.weight_OI": (19, 15),
        "fit_dense.bias_O": (19,),
    }


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        pytest.param((12, 768, 12, 3072), 109_482_240, id="bert-base-uncased"),
        pytest.param((6, 384, 12, 1536), 22_713_216, id="MiniLM-L6-H384"),
        pytest.param((4, 128, 4, 512), 4_782_464, id="4x128x512"),
    ],
)
def test_published_models_have_their_published_size(sizes, parameters):
    """With the pooler and the 30,522 words of bert-base-uncased."""
    layers, width, heads, inner = sizes
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    assert count(weight_shapes(config)) == parameters


@given(config=small_configs)
def test_the_number_of_parameters_is_its_formula(config):
    V, D, F = config.vocab_size, config.hidden_size, config.intermediate_size
    P, T, L = config.max_position_embeddings, config.type_vocab_size, config.num_hidden_layers
    tables = (V + P + T) * D + 2 * D
    block = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D
    assert count(weight_shapes(config, ())) == tables + L * block
    assert count(weight_shapes(config, ("pooler",))) == tables + L * block + D * D + D
    head = D * D + D + 2 * D + V  # the decoder is the word table, counted once
    assert count(weight_shapes(config, ("mlm",))) == tables + L * block + head


def test_shapes_take_no_memory():
    """The largest model that a config may describe: 10¹¹ numbers, none of them stored."""
    largest = BertConfig(
        vocab_size=2**20,
        hidden_size=8192,
        num_hidden_layers=128,
        num_attention_heads=64,
        intermediate_size=65536,
    )
    shapes = weight_shapes(largest, PARTS)
    assert count(shapes) > 10**11
    assert all(tensor.is_meta for _, tensor in named_tensors(shapes))


@given(parts=parts_of, fit_width=st.none() | st.integers(1, 19))
def test_a_part_that_was_not_asked_for_is_none(parts, fit_width):
    shapes = weight_shapes(SMALL, parts, fit_width)
    present = {part for part in PARTS if getattr(shapes, part) is not None}
    assert present == set(parts)
    assert (shapes.fit_dense is None) == (fit_width is None)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"no part of a model is named \['decoder', 'poler'\]"):
        weight_shapes(SMALL, ("poler", "nsp", "decoder"))


# ------------------------------------------------------------------------- names and structures


@given(structure=structures)
def test_names_lead_back_to_the_structure(structure):
    named = list(named_tensors(structure))
    tensors = dict(named)
    assert len(tensors) == len(named), "a name occurs twice"
    again = with_tensors(structure, tensors)
    assert type(again) is BertWeights
    assert type(again.blocks) is tuple
    for (name, before), (same, after) in zip(named, named_tensors(again), strict=True):
        assert (name, id(before)) == (same, id(after))
        part: Any = structure
        for step in name.split("."):
            part = part[int(step)] if step.isdigit() else getattr(part, step)
        assert part is before


@given(structure=structures)
def test_with_tensors_takes_all_and_only_the_given_ones(structure):
    fresh_ones = {name: torch.zeros(()) for name, _ in named_tensors(structure)}
    replaced = with_tensors(structure, fresh_ones)
    assert {name: id(t) for name, t in named_tensors(replaced)} == {
        name: id(t) for name, t in fresh_ones.items()
    }
    assert [part is None for part in replaced] == [part is None for part in structure]


class Leaf(NamedTuple):
    a: Any
    b: Any


nested = st.recursive(
    st.none() | st.integers(0, 9).map(torch.tensor),
    lambda inner: st.builds(Leaf, inner, inner) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(structure=st.builds(Leaf, nested, nested))
def test_any_nesting_of_tuples_has_names(structure):
    """Traces and distillation terms are named by the same two functions."""
    tensors = dict(named_tensors(structure))
    assert with_tensors(structure, tensors) == structure
    assert all(name.split(".")[0] in ("a", "b") for name in tensors)


def test_a_missing_name_is_refused():
    norm = LayerNormWeights(torch.ones(1), torch.zeros(1))
    with pytest.raises(KeyError, match="bias_D"):
        with_tensors(norm, {"gain_D": torch.ones(1)})


def test_which_weights_decay():
    """The explicit list; `LayerNorm` and `bias` are in no matrix's name."""
    shapes = weight_shapes(SMALL, PARTS, fit_width=19)
    decayed = {name for name, _ in named_tensors(shapes) if is_decayed(name)}
    matrices = {name for name, tensor in named_tensors(shapes) if tensor.ndim == 2}
    assert decayed == matrices
    kept = {name.rpartition(".")[2] for name, _ in named_tensors(shapes)} - {
        name.rpartition(".")[2] for name in decayed
    }
    assert kept == {"bias_O", "bias_D", "gain_D", "bias_V"}


# ------------------------------------------------------------------------------ initialisation

N = 40_000
# Of a standard normal cut off at ±2: variance 1 - 4 φ(2) / (2 Φ(2) - 1).
REMAINING = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def test_the_remaining_deviation_is_the_documented_one():
    assert round(REMAINING, 4) == 0.8796


class Draw(NamedTuple):
    std: float
    seed: int


draws = st.builds(Draw, st.sampled_from([0.02, 1.0, 7.0]), seeds)


def drawn(formula, case: Draw, dtype: torch.dtype = torch.float64) -> Tensor:
    return formula((N,), case.std, fresh(case.seed), dtype)


def nothing_lies_beyond_two_widths(formula, case):
    return float(drawn(formula, case).abs().max() / case.std), 2 * (1 + 4 * EPS)


def the_deviation_is_0_88(formula, case):
    """s of n draws is off by σ √((κ - 1) / 4n), six times at most; κ < 3 without tails."""
    deviation = float(drawn(formula, case).std() / case.std)
    return abs(deviation - REMAINING), 6 * REMAINING * math.sqrt(2 / (4 * N))


def the_mean_is_zero(formula, case):
    return abs(float(drawn(formula, case).mean() / case.std)), 6 * REMAINING / math.sqrt(N)


def its_distribution_function_is_uniform(formula, case):
    """Dvoretzky, Kiefer, Wolfowitz: the largest gap exceeds ε with chance 2 exp(-2 n ε²)."""
    x = drawn(formula, case) / (case.std * math.sqrt(2))
    u = torch.sort((torch.erf(x) / math.erf(math.sqrt(2)) + 1) / 2).values
    gap = (u - (torch.arange(N).double() + 0.5) / N).abs().max() - 0.5 / N
    return float(gap), math.sqrt(math.log(2 / 1e-9) / (2 * N))


def a_width_only_scales(formula, case):
    wide = drawn(formula, case._replace(std=1024 * case.std))
    return differing(wide, 1024 * drawn(formula, case)), 0


def neighbours_are_uncorrelated(formula, case):
    x = drawn(formula, case) / (case.std * REMAINING)
    return abs(float((x[1:] * x[:-1]).mean())), 6 / math.sqrt(N)


def the_generator_decides(formula, case):
    other = drawn(formula, case._replace(seed=case.seed ^ 1))
    same = differing(drawn(formula, case), drawn(formula, case))
    return same + float((other == drawn(formula, case)).double().mean() > 0.01), 0


NORMAL_LAWS = [
    nothing_lies_beyond_two_widths,
    the_deviation_is_0_88,
    the_mean_is_zero,
    its_distribution_function_is_uniform,
    a_width_only_scales,
    neighbours_are_uncorrelated,
    the_generator_decides,
]


@pytest.mark.parametrize("law", NORMAL_LAWS)
@given(case=draws)
@fewer(5)
def test_truncated_normal_law(law, case):
    holds(law, truncated_normal, case)


def plain_normal(shape, std, generator, dtype):
    return torch.randn(shape, generator=generator, dtype=dtype) * std


def clipped_normal(shape, std, generator, dtype):
    return plain_normal(shape, std, generator, dtype).clamp(-2 * std, 2 * std)


def uniform(shape, std, generator, dtype):
    return (torch.rand(shape, generator=generator, dtype=dtype) * 4 - 2) * std


def widened_to_keep_the_deviation(shape, std, generator, dtype):
    return truncated_normal(shape, std / REMAINING, generator, dtype)


def variance_for_deviation(shape, std, generator, dtype):
    return truncated_normal(shape, math.sqrt(std), generator, dtype)


def cut_off_at_one_and_a_half(shape, std, generator, dtype):
    limit = math.erf(1.5 / math.sqrt(2))
    u = torch.rand(shape, generator=generator, dtype=dtype) * 2 * limit - limit
    return torch.erfinv(u) * std * math.sqrt(2)


def positive_half(shape, std, generator, dtype):
    return truncated_normal(shape, std, generator, dtype).abs()


def one_number_for_all(shape, std, generator, dtype):
    return truncated_normal((1,), std, generator, dtype).expand(shape)


def fixed_seed(shape, std, generator, dtype):
    return truncated_normal(shape, std, fresh(0), dtype)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (plain_normal, nothing_lies_beyond_two_widths),
        (plain_normal, the_deviation_is_0_88),
        (clipped_normal, its_distribution_function_is_uniform),
        (uniform, its_distribution_function_is_uniform),
        (uniform, the_deviation_is_0_88),
        (widened_to_keep_the_deviation, nothing_lies_beyond_two_widths),
        (variance_for_deviation, a_width_only_scales),
        (cut_off_at_one_and_a_half, the_deviation_is_0_88),
        (positive_half, the_mean_is_zero),
        (one_number_for_all, neighbours_are_uncorrelated),
        (fixed_seed, the_generator_decides),
    ],
)
def test_truncated_normal_rejects(mistake, law):
    rejects(law, mistake, truncated_normal, [Draw(0.02, seed) for seed in (1, 2)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_narrow_types_are_the_same_draws_rounded(dtype):
    narrow = drawn(truncated_normal, Draw(0.02, 3), dtype)
    assert narrow.dtype == dtype
    assert differing(narrow, drawn(truncated_normal, Draw(0.02, 3)).to(dtype)) == 0


@given(structure_seed=seeds, std=st.sampled_from([0.02, 0.5]))
@fewer(6)
def test_initial_weights(structure_seed, std):
    shapes = weight_shapes(SMALL, PARTS, fit_width=19)
    weights = initial_weights(shapes, std, fresh(structure_seed), torch.float64)
    for (name, tensor), (same, shape) in zip(
        named_tensors(weights), named_tensors(shapes), strict=True
    ):
        assert (name, tensor.shape, tensor.dtype) == (same, shape.shape, torch.float64)
        if name.endswith("gain_D"):
            assert (tensor == 1).all(), name
        elif "bias" in name:
            assert (tensor == 0).all(), name
        else:
            # n draws of a distribution without tails: s is within six of its deviations
            off = abs(float(tensor.std()) / std - REMAINING)
            check(off, 6 * REMAINING * math.sqrt(1 / (2 * tensor.numel())), name)
            assert tensor.abs().max() <= 2 * std * (1 + 4 * EPS)
            assert tensor.unique().numel() == tensor.numel(), name


def test_no_two_matrices_begin_alike():
    """The blocks of `weight_shapes` are one object; their weights must not be."""
    weights = initial_weights(weight_shapes(SMALL, PARTS), 0.02, fresh(0))
    firsts = [t.reshape(-1)[0].item() for name, t in named_tensors(weights) if is_decayed(name)]
    assert len(set(firsts)) == len(firsts)


def test_the_generator_alone_decides_how_weights_begin():
    shapes = weight_shapes(SMALL)
    before = torch.get_rng_state()
    first, again, other = (flatten(initial_weights(shapes, 0.02, fresh(i))) for i in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == torch.float32


# --------------------------------------------------------------------------------- flat tensor


@given(structure=structures)
def test_the_flat_layout_holds_each_parameter_once(structure):
    layout = flat_layout(structure)
    named = dict(named_tensors(structure))
    assert set(layout) == set(named)
    end = 0
    for name, slot in layout.items():  # in order, without gap or overlap
        assert slot == FlatSlot(end, end + named[name].numel(), tuple(named[name].shape)), name
        end = slot.end
    assert end == count(structure)


@given(structure=structures)
def test_the_decayed_range_is_exactly_matrices_and_tables(structure):
    layout = flat_layout(structure)
    border = decayed_length(layout)
    named = dict(named_tensors(structure))
    for name, slot in layout.items():
        assert (slot.end <= border) == (named[name].ndim == 2), name
        assert slot.end <= border or slot.start >= border, name
    assert border == sum(tensor.numel() for tensor in named.values() if tensor.ndim == 2)


def test_a_structure_without_matrices_has_no_decayed_range():
    assert decayed_length(flat_layout(LayerNormWeights(torch.ones(2), torch.zeros(2)))) == 0


def numbered(structure: BertWeights) -> BertWeights:
    """Every number of the structure is another one."""
    tensors, start = {}, 0
    for name, tensor in named_tensors(structure):
        tensors[name] = torch.arange(start, start + tensor.numel()).view(tensor.shape).double()
        start += tensor.numel()
    return with_tensors(structure, tensors)


@given(structure=structures.map(numbered))
def test_flatten_and_views_are_inverse(structure):
    flat = flatten(structure)
    assert flat.shape == (count(structure),)
    assert flat.unique().numel() == flat.numel()
    views = views_of(flat, structure)
    for (name, before), (same, view) in zip(
        named_tensors(structure), named_tensors(views), strict=True
    ):
        assert name == same
        assert differing(before, view) == 0, name
    assert torch.equal(flatten(views), flat)


@given(structure=structures)
def test_views_share_the_memory_of_the_flat_tensor(structure):
    flat = flatten(structure)
    views = views_of(flat, structure)
    layout = flat_layout(structure)
    for number, (name, view) in enumerate(named_tensors(views)):
        slot = layout[name]
        view.fill_(number + 1)
        assert (flat[slot.start : slot.end] == number + 1).all(), name
        flat[slot.start] = -1
        assert view.reshape(-1)[0] == -1, name
        assert view.is_contiguous(), name


def test_flatten_copies():
    weights = LinearWeights(torch.ones(2, 3), torch.zeros(2))
    flat = flatten(weights)
    flat.zero_()
    assert weights.weight_OI.sum() == 6


def test_one_step_on_the_flat_tensor_is_a_step_of_every_weight():
    """Why the layout exists: gradients flow into leaves that are views of one buffer."""
    weights = LinearWeights(normal(0, 3, 5), normal(1, 3))
    flat, shapes = flatten(weights), weights
    leaves = with_tensors(
        shapes,
        {n: v.detach().requires_grad_() for n, v in named_tensors(views_of(flat, shapes))},
    )
    (leaves.weight_OI @ torch.ones(5).double() + leaves.bias_O).sum().backward()
    gradient = flatten(with_tensors(shapes, {n: v.grad for n, v in named_tensors(leaves)}))
    with torch.no_grad():
        flat -= 0.1 * gradient
    check(distance(leaves.weight_OI.detach(), weights.weight_OI - 0.1), 2 * EPS, "weight")
    check(distance(leaves.bias_O.detach(), weights.bias_O - 0.1), 2 * EPS, "bias")


@pytest.mark.parametrize("shape", [(7,), (9,), (0,), (2, 4), ()])
def test_a_flat_tensor_of_another_length_is_refused(shape):
    weights = LinearWeights(torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"the flat tensor has shape .* holds 8 numbers"):
        views_of(torch.zeros(shape), weights)
