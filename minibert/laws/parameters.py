"""Laws of `parameters`: shapes, names, which weights decay, their initial values and places."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from minibert.config import BertConfig
from minibert.laws import spec_training as spec
from minibert.laws.config import pruned_or_not
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import EPS, as_tensor, differing, distance, eps_of, fresh, seed_of
from minibert.parameters import (
    BertWeights,
    FlatSlot,
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
NO_FORMULA = {
    "gradient": "it moves numbers about and computes none",
    "accuracy": "it moves numbers about and rounds none",
}
NAMES_ONLY = NO_FORMULA | {"reference": "the names are this project's own"}


def named(structure: Any) -> dict[str, Tensor]:
    return dict(named_tensors(structure))


def count(structure: Any) -> int:
    return sum(tensor.numel() for _, tensor in named_tensors(structure))


# --------------------------------------------------------------------------------- weight_shapes


class Model(NamedTuple):
    config: BertConfig
    parts: tuple[str, ...]
    fit_width: int | None


def model_of(draw: Draw) -> Model:
    """A model of small and mostly different sizes; in some, layers have lost heads or units."""
    heads, layers, units = draw.integer(1, 5), draw.integer(1, 4), draw.integer(1, 29)
    config = BertConfig(
        vocab_size=draw.integer(1, 37),
        hidden_size=heads * draw.integer(1, 7),
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=units,
        max_position_embeddings=draw.integer(1, 17),
        type_vocab_size=draw.integer(1, 3),
        id2label={index: str(index) for index in range(draw.integer(1, 5))},
        pruned=pruned_or_not(draw, layers, heads, units),
    )
    parts = tuple(part for part in PARTS if draw.integer(0, 1))
    return Model(config, parts, draw.choice([None, 1, 19]))


def unpruned_model(draw: Draw) -> Model:
    model = model_of(draw)
    return model._replace(config=dataclasses.replace(model.config, pruned=None))


def linear_shapes(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight_OI": (out, into), f"{name}.bias_O": (out,)}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gain_D": (width,), f"{name}.bias_D": (width,)}


def shapes_by_name(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model, in order, written out independently."""
    config, parts, fit_width = model
    D, N, L = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    heads, units = config.pruned or ([range(N)] * L, [config.intermediate_size] * L)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_VD": (config.vocab_size, D),
        "embeddings.position_PD": (config.max_position_embeddings, D),
        "embeddings.type_TD": (config.type_vocab_size, D),
        **norm_shapes("embeddings.norm", D),
    }
    for layer in range(L):
        A, F = len(heads[layer]) * D // N, units[layer]
        for name in ("query", "key", "value"):
            shapes |= linear_shapes(f"blocks.{layer}.attention.{name}", A, D)
        shapes |= linear_shapes(f"blocks.{layer}.attention.output", D, A)
        shapes |= norm_shapes(f"blocks.{layer}.attention_norm", D)
        shapes |= linear_shapes(f"blocks.{layer}.intermediate", F, D)
        shapes |= linear_shapes(f"blocks.{layer}.output", D, F)
        shapes |= norm_shapes(f"blocks.{layer}.output_norm", D)
    if "pooler" in parts:
        shapes |= linear_shapes("pooler", D, D)
    if "mlm" in parts:
        shapes |= linear_shapes("mlm.transform", D, D) | norm_shapes("mlm.norm", D)
        shapes["mlm.bias_V"] = (config.vocab_size,)
    for name, out in (("nsp", 2), ("classifier", len(config.id2label)), ("span", 2)):
        if name in parts:
            shapes |= linear_shapes(name, out, D)
    if fit_width is not None:
        shapes |= linear_shapes("fit_dense", fit_width, D)
    return shapes


WEIGHT_SHAPES = Proof(weight_shapes, model_of, without=NO_FORMULA)


@WEIGHT_SHAPES.spec
def each_tensor_has_its_name_and_shape(formula, model):
    found = [(name, tuple(x.shape)) for name, x in named_tensors(formula(*model))]
    return float(found != list(shapes_by_name(model).items())), 0


@WEIGHT_SHAPES.reference(cases=unpruned_model, cost=2)
def a_block_is_as_large_as_torchs_encoder_layer(formula, model):
    """torch keeps query, key and value in one matrix of 3D rows."""
    config = model.config
    layer = nn.TransformerEncoderLayer(
        config.hidden_size, config.num_attention_heads, config.intermediate_size, device="meta"
    )
    theirs = sum(tensor.numel() for tensor in layer.parameters())
    return sum(abs(count(block) - theirs) for block in formula(*model).blocks), 0


@WEIGHT_SHAPES.law
def the_number_of_parameters_has_a_formula(formula, model):
    """(V + P + T + 2) D + L (4 D² + 2 F D + 9 D + F), and the decoder is the word table.

    A pruned layer has 4 D + 3 fewer for each row of a lost head, 2 D + 1 for each lost unit.
    """
    config = model.config
    V, D, F = config.vocab_size, config.hidden_size, config.intermediate_size
    P, T, L = config.max_position_embeddings, config.type_vocab_size, config.num_hidden_layers
    expected = (V + P + T + 2) * D + L * (4 * D * D + 2 * F * D + 9 * D + F)
    if config.pruned is not None:
        rows = L * D - sum(map(len, config.pruned.heads)) * config.head_width
        expected -= rows * (4 * D + 3) + (L * F - sum(config.pruned.units)) * (2 * D + 1)
    found = count(formula(config, ())), count(formula(config, ("mlm",)))
    return abs(found[0] - expected) + abs(found[1] - found[0] - (D * D + 3 * D + V)), 0


@WEIGHT_SHAPES.law
def a_part_that_was_not_asked_for_is_none(formula, model):
    shapes = formula(*model)
    wrong = sum((getattr(shapes, part) is not None) != (part in model.parts) for part in PARTS)
    return wrong + ((shapes.fit_dense is None) != (model.fit_width is None)), 0


@WEIGHT_SHAPES.law
def shapes_take_no_memory(formula, model):
    return sum(not tensor.is_meta for _, tensor in named_tensors(formula(*model))), 0


@WEIGHT_SHAPES.law
def only_the_pooler_is_there_by_itself(formula, model):
    shapes, asked = formula(model.config), formula(model.config, ("pooler",), None)
    return float(named(shapes).keys() != named(asked).keys()), 0


def reshaped(model: BertWeights, name: str, shape: tuple[int, ...]) -> BertWeights:
    return with_tensors(model, named(model) | {name: torch.empty(shape, device="meta")})


@WEIGHT_SHAPES.mistake(the_number_of_parameters_has_a_formula, each_tensor_has_its_name_and_shape)
def tied_decoder_stored_twice(config, parts=("pooler",), fit_width=None):
    """A decoder matrix beside the word table: V D parameters too many, and two copies to drift."""
    shapes = weight_shapes(config, parts, fit_width)
    if shapes.mlm is None:
        return shapes
    table = torch.empty(config.vocab_size, config.hidden_size, device="meta")
    return shapes._replace(mlm=(shapes.mlm, table))


@WEIGHT_SHAPES.mistake(the_number_of_parameters_has_a_formula, each_tensor_has_its_name_and_shape)
def one_block_for_all_layers(config, parts=("pooler",), fit_width=None):
    """ALBERT's sharing."""
    shapes = weight_shapes(config, parts, fit_width)
    return shapes._replace(blocks=shapes.blocks[:1])


@WEIGHT_SHAPES.mistake(the_number_of_parameters_has_a_formula, each_tensor_has_its_name_and_shape)
def room_for_what_was_pruned(config, parts=("pooler",), fit_width=None):
    return weight_shapes(dataclasses.replace(config, pruned=None), parts, fit_width)


@WEIGHT_SHAPES.mistake(each_tensor_has_its_name_and_shape)
def weights_stored_as_in_by_out(config, parts=("pooler",), fit_width=None):
    """TensorFlow's kernels."""
    shapes = weight_shapes(config, parts, fit_width)
    turned = {name: x.mT if name.endswith("weight_OI") else x for name, x in named(shapes).items()}
    return with_tensors(shapes, turned)


@WEIGHT_SHAPES.mistake(
    each_tensor_has_its_name_and_shape,
    source="https://github.com/ml-explore/mlx-examples/blob/0d3697913ce74616d579931193c122805487fc07/bert/model.py",
)
def two_token_types_always(config, parts=("pooler",), fit_width=None):
    shapes = weight_shapes(config, parts, fit_width)
    return reshaped(shapes, "embeddings.type_TD", (2, config.hidden_size))


@WEIGHT_SHAPES.mistake(
    a_block_is_as_large_as_torchs_encoder_layer,
    source="https://github.com/graykode/nlp-tutorial/blob/c8dafc6a0e55a856845babbde7a646d8e72a0306/5-2.BERT/BERT.py",
)
def no_norm_after_the_feed_forward(config, parts=("pooler",), fit_width=None):
    shapes = weight_shapes(config, parts, fit_width)
    bare = tuple(block[:-1] for block in shapes.blocks)
    return shapes._replace(blocks=bare)


@WEIGHT_SHAPES.mistake(a_part_that_was_not_asked_for_is_none)
def every_head_always(config, parts=("pooler",), fit_width=None):
    return weight_shapes(config, PARTS, fit_width)


@WEIGHT_SHAPES.mistake(only_the_pooler_is_there_by_itself)
def no_pooler_by_itself(config, parts=(), fit_width=None):
    return weight_shapes(config, parts, fit_width)


@WEIGHT_SHAPES.mistake(shapes_take_no_memory)
def numbers_in_the_place_of_shapes(config, parts=("pooler",), fit_width=None):
    return initial_weights(weight_shapes(config, parts, fit_width), 0.02, fresh(0))


# ------------------------------------------------------------- named_tensors and with_tensors


class Pair(NamedTuple):
    """Traces and distillation terms are named by the same two functions as weights."""

    a: Any
    b: Any


def nesting(draw: Draw, depth: int = 3) -> Any:
    """Nested pairs and tuples, with tensors and None as leaves."""
    kind = draw.choice(["tensor", "none", "pair", "tuple"] if depth else ["tensor", "none"])
    if kind == "tensor":
        return torch.tensor([draw.integer(0, 9)])
    if kind == "none":
        return None
    if kind == "pair":
        return Pair(nesting(draw, depth - 1), nesting(draw, depth - 1))
    return tuple(nesting(draw, depth - 1) for _ in range(draw.integer(0, 3)))


def structure_of(draw: Draw) -> Any:
    return Pair(torch.tensor([7]), Pair(nesting(draw), nesting(draw)))


NAMED_TENSORS = Proof(named_tensors, structure_of, without=NO_FORMULA)


def walked(part: Any, path: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Every tensor's path and identity, by a walk over the fields."""
    if isinstance(part, Tensor):
        return [(".".join(path), id(part))]
    if isinstance(part, Pair):
        return walked(part.a, (*path, "a")) + walked(part.b, (*path, "b"))
    if part is None:
        return []
    return [found for i, inner in enumerate(part) for found in walked(inner, (*path, str(i)))]


@NAMED_TENSORS.spec
def a_name_is_the_path_of_fields_and_indices(formula, structure):
    return float([(name, id(x)) for name, x in formula(structure)] != walked(structure)), 0


@NAMED_TENSORS.reference
def the_tensors_are_those_of_torchs_tree(formula, structure):
    leaves = [id(x) for x in _pytree.tree_leaves(structure) if x is not None]
    return float([id(x) for _, x in formula(structure)] != leaves), 0


@NAMED_TENSORS.law
def no_name_occurs_twice(formula, structure):
    names = [name for name, _ in formula(structure)]
    return len(names) - len(set(names)), 0


@NAMED_TENSORS.law
def a_prefix_stands_in_front(formula, structure):
    """Names within a part are those within the whole."""
    inner = [f"b.{name}" for name, _ in formula(structure.b)]
    given = [name for name, _ in formula(structure.b, "b")]
    whole = [name for name, _ in formula(structure)]
    return float(given != inner) + float(whole != ["a", *inner]), 0


@NAMED_TENSORS.mistake(a_name_is_the_path_of_fields_and_indices, no_name_occurs_twice)
def last_fields_only(structure, prefix=""):
    return ((name.rpartition(".")[2], x) for name, x in named_tensors(structure, prefix))


@NAMED_TENSORS.mistake(a_prefix_stands_in_front, a_name_is_the_path_of_fields_and_indices)
def sorted_by_name(structure, prefix=""):
    return iter(sorted(named_tensors(structure, prefix), reverse=True))


@NAMED_TENSORS.mistake(the_tensors_are_those_of_torchs_tree)
def not_into_plain_tuples(structure, prefix=""):
    return (pair for pair in named_tensors(structure, prefix) if pair[0][-1] in "ab")


@NAMED_TENSORS.mistake(a_prefix_stands_in_front)
def prefix_forgotten(structure, prefix=""):
    return named_tensors(structure)


WITH_TENSORS = Proof(with_tensors, structure_of, without=NO_FORMULA)


@WITH_TENSORS.spec
def a_tensor_comes_to_the_place_of_its_name(formula, structure):
    others = {name: torch.zeros(()) for name in named(structure)}
    return float(walked(formula(structure, others)) != [(n, id(x)) for n, x in others.items()]), 0


@WITH_TENSORS.reference
def it_is_torchs_map_over_the_tree(formula, structure):
    doubled = _pytree.tree_map(lambda x: None if x is None else 2 * x, structure)
    found = formula(structure, {name: 2 * x for name, x in named_tensors(structure)})
    return float(found != doubled), 0


@WITH_TENSORS.law
def its_own_tensors_give_the_structure_again(formula, structure):
    return float(formula(structure, named(structure)) != structure), 0


@WITH_TENSORS.law
def every_tuple_keeps_its_kind(formula, structure):
    def kinds(part: Any) -> Any:
        return (type(part), *map(kinds, part)) if isinstance(part, tuple) else type(part)

    return float(kinds(formula(structure, named(structure))) != kinds(structure)), 0


@WITH_TENSORS.law
def a_name_that_is_not_there_is_refused(formula, structure):
    rest = dict(list(named(structure).items())[1:])
    try:
        formula(structure, rest)
    except KeyError:
        return 0, 0
    return 1, 0


@WITH_TENSORS.mistake(
    a_name_that_is_not_there_is_refused,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/issues/52",
)
def missing_tensors_stay_as_they_were(structure, tensors, prefix=""):
    return with_tensors(structure, named(structure) | tensors, prefix)


@WITH_TENSORS.mistake(
    a_tensor_comes_to_the_place_of_its_name,
    it_is_torchs_map_over_the_tree,
    its_own_tensors_give_the_structure_again,
)
def in_the_order_of_arrival(structure, tensors, prefix=""):
    """By position and not by name."""
    values = list(tensors.values())
    return with_tensors(structure, dict(zip(tensors, values[::-1], strict=True)), prefix)


@WITH_TENSORS.mistake(every_tuple_keeps_its_kind)
def plain_tuples_all_over(structure, tensors, prefix=""):
    def plain(part: Any) -> Any:
        return tuple(map(plain, part)) if isinstance(part, tuple) else part

    return plain(with_tensors(structure, tensors, prefix))


# ------------------------------------------------------------------------------------ is_decayed


def shapes_of(draw: Draw) -> BertWeights:
    return weight_shapes(*model_of(draw))


def whole_model(draw: Draw) -> BertWeights:
    """Every part is there."""
    return weight_shapes(model_of(draw).config, PARTS, fit_width=19)


IS_DECAYED = Proof(is_decayed, whole_model, without=NAMES_ONLY)


@IS_DECAYED.spec
def matrices_decay_and_vectors_do_not(formula, shapes):
    """Biases and the gains of LayerNorm are vectors; matrices and tables are not."""
    return sum(formula(name) != (x.dim() == 2) for name, x in named_tensors(shapes)), 0


@IS_DECAYED.law
def a_name_decides_wherever_it_stands(formula, shapes):
    """Anything may stand in front of it, even the name of something that does not decay."""
    moved = [f"LayerNorm.bias.{name}" for name in named(shapes)]
    pairs = zip(named(shapes), moved, strict=True)
    return sum(formula(name) != formula(other) for name, other in pairs), 0


@IS_DECAYED.law
def names_are_compared_whole(formula, shapes):
    """The list is no pattern: a name that only contains one of its names is not on it."""
    return sum(formula(f"{name}{end}") for name in named(shapes) for end in ("2", "_", ".x")), 0


@IS_DECAYED.mistake(
    matrices_decay_and_vectors_do_not,
    source="https://github.com/dhlee347/pytorchic-bert/pull/22",
)
def whole_paths_against_a_list_of_fields(name):
    """`name not in no_decay`, where name is the whole path: always true, so everything decays."""
    return name not in ("bias_O", "gain_D", "bias_D", "bias_V")


@IS_DECAYED.mistake(
    matrices_decay_and_vectors_do_not,
    a_name_decides_wherever_it_stands,
    names_are_compared_whole,
    source="https://github.com/deepspeedai/DeepSpeedExamples/pull/755",
)
def a_pattern_of_other_names(name):
    """LayerNorm and bias, as in the TensorFlow variables; ours are called norm and gain_D."""
    return "LayerNorm" not in name and "bias" not in name


@IS_DECAYED.mistake(
    matrices_decay_and_vectors_do_not,
    source="https://github.com/facebookresearch/BalancingGroups/issues/6",
)
def the_two_groups_exchanged(name):
    return not is_decayed(name)


@IS_DECAYED.mistake(matrices_decay_and_vectors_do_not)
def norms_only_left_out(name):
    return "norm" not in name


@IS_DECAYED.mistake(matrices_decay_and_vectors_do_not)
def tables_left_out(name):
    return name.endswith("weight_OI")


# ------------------------------------------------------------------------------ truncated_normal

N = 40_000
# Of a standard normal cut off at ±2: variance 1 - 4 φ(2) / (2 Φ(2) - 1).
REMAINING = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


class Begin(NamedTuple):
    std: float
    seed: int


def begin(draw: Draw) -> Begin:
    return Begin(draw.choice([0.02, 1.0, 7.0]), seed_of(draw))


TRUNCATED_NORMAL = Proof(
    truncated_normal,
    begin,
    without={"gradient": "a random number depends on no input"},
    cost=5,
)


def sample(formula, case: Begin, dtype: torch.dtype = torch.float64) -> Tensor:
    return formula((N,), case.std, fresh(case.seed), dtype)


def spec_of_draws(count: int, case: Begin) -> Tensor:
    """The shares come from the generator, one for each number, in order."""
    shares = torch.rand(count, generator=fresh(case.seed), dtype=torch.float64).tolist()
    return as_tensor([spec.truncated_normal(share, case.std) for share in shares])


@TRUNCATED_NORMAL.spec
def a_share_u_lies_below_it(formula, case):
    found = formula((3, 5), case.std, fresh(case.seed), torch.float64).reshape(-1)
    return distance(found / case.std, spec_of_draws(15, case) / case.std), 64 * EPS


@TRUNCATED_NORMAL.reference
def it_is_distributed_as_torchs(formula, case):
    """Two samples of n: by Kolmogorov and Smirnov their shares differ by less than 3.3 √(2/n)."""
    theirs = nn.init.trunc_normal_(
        torch.empty(N, dtype=torch.float64), 0.0, case.std, -2 * case.std, 2 * case.std,
        fresh(case.seed + 1),
    )
    ours = sample(formula, case).sort().values
    below = torch.searchsorted(ours, theirs.sort().values) / N
    return float((below - torch.arange(N) / N).abs().max()), 3.3 * math.sqrt(2 / N)


@TRUNCATED_NORMAL.law
def nothing_lies_beyond_two_widths(formula, case):
    return float(sample(formula, case).abs().max() / case.std), 2 * (1 + 4 * EPS)


@TRUNCATED_NORMAL.law
def the_deviation_is_0_88(formula, case):
    """s of n draws has standard error σ √((κ - 1) / 4n); six are allowed; κ < 3 without tails."""
    deviation = float(sample(formula, case).std() / case.std)
    return abs(deviation - REMAINING), 6 * REMAINING * math.sqrt(2 / (4 * N))


@TRUNCATED_NORMAL.law
def the_mean_is_zero(formula, case):
    return abs(float(sample(formula, case).mean() / case.std)), 6 * REMAINING / math.sqrt(N)


@TRUNCATED_NORMAL.law
def its_distribution_function_is_uniform(formula, case):
    """Dvoretzky, Kiefer, Wolfowitz: the largest gap exceeds ε with chance 2 exp(-2 n ε²)."""
    x = sample(formula, case) / (case.std * math.sqrt(2))
    u = torch.sort((torch.erf(x) / math.erf(math.sqrt(2)) + 1) / 2).values
    gap = (u - (torch.arange(N).double() + 0.5) / N).abs().max() - 0.5 / N
    return float(gap), math.sqrt(math.log(2 / 1e-9) / (2 * N))


@TRUNCATED_NORMAL.law
def a_width_only_scales(formula, case):
    wide = sample(formula, case._replace(std=1024 * case.std))
    return differing(wide, 1024 * sample(formula, case)), 0


@TRUNCATED_NORMAL.law
def neighbours_are_uncorrelated(formula, case):
    x = sample(formula, case) / (case.std * REMAINING)
    return abs(float((x[1:] * x[:-1]).mean())), 6 / math.sqrt(N)


@TRUNCATED_NORMAL.law
def the_generator_decides(formula, case):
    first, again = sample(formula, case), sample(formula, case)
    other = sample(formula, case._replace(seed=case.seed ^ 1))
    return differing(first, again) + float((other == first).double().mean() > 0.01), 0


@TRUNCATED_NORMAL.law
def less_precision_is_the_same_draws_rounded(formula, case):
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    rounded = [sample(formula, case).to(kind) for kind in kinds]
    found = [sample(formula, case, kind) for kind in kinds]
    wrong = sum(x.dtype != kind for x, kind in zip(found, kinds, strict=True))
    return wrong + sum(differing(*pair) for pair in zip(found, rounded, strict=True)), 0


class Width(NamedTuple):
    std: Tensor
    seed: int


def near(std: float) -> Callable[[Draw], Width]:
    return lambda draw: Width(as_tensor(std * draw.real(0.5, 1)), seed_of(draw))


WIDTHS = {"BERT's 0.02": near(0.02), "tiny": near(1e-30), "large": near(1e30)}


@TRUNCATED_NORMAL.accuracy(WIDTHS, cost=2)
def a_draw_is_rounded_once(formula, case):
    """From float64, whose own error is at most 64 of its eps times the width."""
    std = float(case.std)
    found = formula((15,), std, fresh(case.seed), case.std.dtype)
    expected = spec_of_draws(15, Begin(std, case.seed))
    return distance(found, expected, 0.51 * eps_of(found) * expected.abs() + 64 * EPS * std), 1


@TRUNCATED_NORMAL.mistake(
    nothing_lies_beyond_two_widths,
    the_deviation_is_0_88,
    it_is_distributed_as_torchs,
    a_share_u_lies_below_it,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/blob/e670706c041246b975a3646bc6a27c48786f6c15/TinyBERT/transformer/modeling.py",
)
def plain_normal(shape, std, generator, dtype):
    return torch.randn(shape, generator=generator, dtype=dtype) * std


@TRUNCATED_NORMAL.mistake(its_distribution_function_is_uniform)
def clipped_normal(shape, std, generator, dtype):
    return plain_normal(shape, std, generator, dtype).clamp(-2 * std, 2 * std)


@TRUNCATED_NORMAL.mistake(its_distribution_function_is_uniform, the_deviation_is_0_88)
def uniform(shape, std, generator, dtype):
    return (torch.rand(shape, generator=generator, dtype=dtype) * 4 - 2) * std


@TRUNCATED_NORMAL.mistake(nothing_lies_beyond_two_widths, a_share_u_lies_below_it)
def widened_to_keep_the_deviation(shape, std, generator, dtype):
    """Keras' VarianceScaling."""
    return truncated_normal(shape, std / REMAINING, generator, dtype)


@TRUNCATED_NORMAL.mistake(a_width_only_scales, the_deviation_is_0_88)
def variance_for_deviation(shape, std, generator, dtype):
    return truncated_normal(shape, math.sqrt(std), generator, dtype)


@TRUNCATED_NORMAL.mistake(a_width_only_scales, nothing_lies_beyond_two_widths)
def cut_off_at_two_and_not_at_two_widths(shape, std, generator, dtype):
    """The bounds of torch.nn.init.trunc_normal_ are absolute, -2 and 2 unless told otherwise."""
    return nn.init.trunc_normal_(torch.empty(shape, dtype=dtype), std=std, generator=generator)


@TRUNCATED_NORMAL.mistake(the_deviation_is_0_88)
def cut_off_at_one_and_a_half(shape, std, generator, dtype):
    limit = math.erf(1.5 / math.sqrt(2))
    u = torch.rand(shape, generator=generator, dtype=dtype) * 2 * limit - limit
    return torch.erfinv(u) * std * math.sqrt(2)


@TRUNCATED_NORMAL.mistake(the_mean_is_zero)
def positive_half(shape, std, generator, dtype):
    return truncated_normal(shape, std, generator, dtype).abs()


@TRUNCATED_NORMAL.mistake(neighbours_are_uncorrelated)
def one_number_for_all(shape, std, generator, dtype):
    return truncated_normal((1,), std, generator, dtype).expand(shape)


@TRUNCATED_NORMAL.mistake(the_generator_decides)
def fixed_seed(shape, std, generator, dtype):
    return truncated_normal(shape, std, fresh(0), dtype)


@TRUNCATED_NORMAL.mistake(less_precision_is_the_same_draws_rounded, a_draw_is_rounded_once)
def drawn_in_less_precision(shape, std, generator, dtype):
    """Each precision draws other numbers, with few distinct values."""
    limit = math.erf(math.sqrt(2))
    u = (torch.rand(shape, generator=generator, dtype=torch.float32) * 2 - 1) * limit
    return (torch.erfinv(u.to(dtype).float()) * std * math.sqrt(2)).to(dtype)


# ------------------------------------------------------------------------------- initial_weights


class Start(NamedTuple):
    shapes: BertWeights
    std: float
    seed: int


def start(draw: Draw) -> Start:
    return Start(shapes_of(draw), draw.choice([0.02, 0.5]), seed_of(draw))


def large_start(draw: Draw) -> Start:
    """Enough numbers for their deviation to tell 0.88 from 1."""
    config = BertConfig(
        vocab_size=211,
        hidden_size=60,
        num_hidden_layers=2,
        intermediate_size=67,
        max_position_embeddings=71,
    )
    return Start(weight_shapes(config, PARTS, 19), draw.choice([0.02, 0.5]), seed_of(draw))


INITIAL_WEIGHTS = Proof(
    initial_weights,
    start,
    without={
        "gradient": "a random number depends on no input",
        "accuracy": "every number is 0, 1 or from truncated_normal",
    },
    cost=2,
)


def begun(formula, case: Start) -> dict[str, Tensor]:
    return named(formula(case.shapes, case.std, fresh(case.seed), torch.float64))


@INITIAL_WEIGHTS.spec
def gains_are_1_biases_0_and_matrices_truncated_normal(formula, case):
    """One after the other from the one generator, in the order of their names."""
    generator, wrong = fresh(case.seed), 0.0
    for name, x in begun(formula, case).items():
        shape = named(case.shapes)[name].shape
        if "gain" in name:
            expected = torch.ones(shape)
        elif "bias" in name:
            expected = torch.zeros(shape)
        else:
            expected = truncated_normal(tuple(shape), case.std, generator, torch.float64)
        wrong += differing(x, expected.double())
    return wrong, 0


@INITIAL_WEIGHTS.reference
def norms_begin_as_torchs_norm(formula, case):
    """Gain 1 and bias 0; torch initialises matrices differently, see the mistakes."""
    ours, norm = formula(case.shapes, case.std, fresh(case.seed)), nn.LayerNorm(1)
    error = 0.0
    for ours_norm in (ours.embeddings.norm, ours.blocks[0].attention_norm):
        error += distance(ours_norm.gain_D, norm.weight.detach().expand_as(ours_norm.gain_D))
        error += distance(ours_norm.bias_D, norm.bias.detach().expand_as(ours_norm.bias_D))
    return error, 0


@INITIAL_WEIGHTS.law(cases=large_start, cost=10)
def every_matrix_has_the_same_deviation(formula, case):
    """0.88 std whatever its shape; without tails, n draws stay within six standard errors."""
    worst = 0.0
    for name, x in begun(formula, case).items():
        if is_decayed(name):
            allowed = 6 * REMAINING * math.sqrt(1 / (2 * x.numel()))
            worst = max(worst, abs(float(x.std()) / case.std - REMAINING) / allowed)
            worst = max(worst, float(x.abs().max()) / (2 * case.std * (1 + 4 * EPS)))
    return worst, 1


@INITIAL_WEIGHTS.law
def no_two_numbers_that_are_drawn_are_equal(formula, case):
    """Blocks share one structure of shapes; their weights must not be the same."""
    tensors = begun(formula, case)
    numbers = torch.cat([x.reshape(-1) for name, x in tensors.items() if is_decayed(name)])
    return numbers.numel() - numbers.unique().numel(), 0


@INITIAL_WEIGHTS.law
def the_generator_alone_decides(formula, case):
    before = torch.get_rng_state()
    first, again, other = (
        flatten(formula(case.shapes, case.std, fresh(case.seed + i))) for i in (0, 0, 1)
    )
    untouched = torch.equal(torch.get_rng_state(), before)
    return differing(first, again) + torch.equal(first, other) + (not untouched), 0


@INITIAL_WEIGHTS.law
def names_shapes_and_precision_are_as_asked_for(formula, case):
    """float32 where nothing is asked for."""
    plain = named(formula(case.shapes, case.std, fresh(0)))
    half = named(formula(case.shapes, case.std, fresh(0), torch.float16))
    shapes = {name: x.shape for name, x in named_tensors(case.shapes)}
    wrong = sum({name: x.shape for name, x in found.items()} != shapes for found in (plain, half))
    wrong += sum(x.dtype != torch.float32 for x in plain.values())
    return wrong + sum(x.dtype != torch.float16 for x in half.values()), 0


def begun_otherwise(which: Callable[[str], bool], value: Callable[..., Tensor]) -> Any:
    """The right initial weights, except for the tensors whose names are chosen."""

    def variant(shapes, std, generator, dtype=torch.float32):
        right = named(initial_weights(shapes, std, generator, dtype))
        wrong = {name: value(x, std, generator) for name, x in right.items() if which(name)}
        return with_tensors(shapes, right | wrong)

    return variant


def drawn_uniformly(x: Tensor, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1) * limit


INITIAL_WEIGHTS.mistake(
    every_matrix_has_the_same_deviation,
    gains_are_1_biases_0_and_matrices_truncated_normal,
    name="xavier",
)(begun_otherwise(is_decayed, lambda x, std, g: drawn_uniformly(x, (6 / sum(x.shape)) ** 0.5, g)))

INITIAL_WEIGHTS.mistake(every_matrix_has_the_same_deviation, name="linear_layers_of_torch")(
    begun_otherwise(is_decayed, lambda x, std, g: drawn_uniformly(x, x.shape[-1] ** -0.5, g))
)

INITIAL_WEIGHTS.mistake(
    every_matrix_has_the_same_deviation,
    source="https://github.com/huggingface/transformers/pull/26441",
    name="tables_with_deviation_1",
)(
    begun_otherwise(
        lambda name: name.endswith("word_VD"),
        lambda x, std, g: truncated_normal(tuple(x.shape), 1.0, g, x.dtype),
    )
)

INITIAL_WEIGHTS.mistake(
    every_matrix_has_the_same_deviation,
    gains_are_1_biases_0_and_matrices_truncated_normal,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/blob/e670706c041246b975a3646bc6a27c48786f6c15/TinyBERT/transformer/modeling.py",
    name="plain_normal_matrices",
)(begun_otherwise(is_decayed, lambda x, std, g: plain_normal(x.shape, std, g, x.dtype)))

INITIAL_WEIGHTS.mistake(
    gains_are_1_biases_0_and_matrices_truncated_normal, name="biases_drawn_too"
)(begun_otherwise(lambda name: "bias" in name, lambda x, std, g: drawn_uniformly(x, std, g)))

INITIAL_WEIGHTS.mistake(
    norms_begin_as_torchs_norm,
    gains_are_1_biases_0_and_matrices_truncated_normal,
    name="gains_begin_at_0",
)(begun_otherwise(lambda name: "gain" in name, lambda x, std, g: 0 * x))

INITIAL_WEIGHTS.mistake(
    norms_begin_as_torchs_norm, name="gains_drawn_as_weights"
)(begun_otherwise(lambda name: "gain" in name, lambda x, std, g: x + drawn_uniformly(x, std, g)))


@INITIAL_WEIGHTS.mistake(
    no_two_numbers_that_are_drawn_are_equal,
    source="https://github.com/pytorch/pytorch/issues/72253",
)
def copies_of_one_layer(shapes, std, generator, dtype=torch.float32):
    weights = initial_weights(shapes, std, generator, dtype)
    return weights._replace(blocks=weights.blocks[:1] * len(weights.blocks))


@INITIAL_WEIGHTS.mistake(the_generator_alone_decides)
def from_the_global_generator(shapes, std, generator, dtype=torch.float32):
    return initial_weights(shapes, std, torch.default_generator, dtype)


@INITIAL_WEIGHTS.mistake(the_generator_alone_decides)
def with_a_fixed_seed(shapes, std, generator, dtype=torch.float32):
    return initial_weights(shapes, std, fresh(0), dtype)


@INITIAL_WEIGHTS.mistake(names_shapes_and_precision_are_as_asked_for)
def always_in_float32(shapes, std, generator, dtype=torch.float32):
    return initial_weights(shapes, std, generator)


# ------------------------------------------------------------------ flat_layout, decayed_length


FLAT_LAYOUT = Proof(flat_layout, shapes_of, without=NAMES_ONLY)


def slots_in_order(shapes: BertWeights) -> Iterator[tuple[str, FlatSlot]]:
    """Matrices and tables in the order of their names, then vectors: end to end."""
    end = 0
    for vectors in (False, True):
        for name, x in named_tensors(shapes):
            if (x.dim() == 1) == vectors:
                yield name, FlatSlot(end, end + x.numel(), tuple(x.shape))
                end += x.numel()


@FLAT_LAYOUT.spec
def matrices_lie_first_and_vectors_after_them(formula, shapes):
    return float(list(formula(shapes).items()) != list(slots_in_order(shapes))), 0


@FLAT_LAYOUT.law
def each_number_has_one_place(formula, shapes):
    """No gap, no overlap, nothing left out."""
    uses = torch.zeros(count(shapes) + 1)
    for slot in formula(shapes).values():
        uses[slot.start : slot.end] += 1
    return float((uses[:-1] != 1).sum() + uses[-1]), 0


@FLAT_LAYOUT.law
def each_name_has_room_for_its_shape(formula, shapes):
    layout = formula(shapes)
    wrong = float(set(layout) != set(named(shapes)))
    for name, x in named_tensors(shapes):
        slot = layout.get(name, FlatSlot(0, 0, ()))
        wrong += slot.end - slot.start != x.numel() or slot.shape != tuple(x.shape)
    return wrong, 0


@FLAT_LAYOUT.mistake(matrices_lie_first_and_vectors_after_them)
def in_the_order_of_the_names(shapes):
    """So decayed and undecayed parameters are mixed."""
    layout, start = {}, 0
    for name, x in named_tensors(shapes):
        layout[name] = FlatSlot(start, start + x.numel(), tuple(x.shape))
        start += x.numel()
    return layout


@FLAT_LAYOUT.mistake(each_number_has_one_place)
def a_gap_after_each_tensor(shapes):
    """Rounded up to eight numbers, as some libraries do."""
    layout, start = {}, 0
    for name, slot in flat_layout(shapes).items():
        size = slot.end - slot.start
        layout[name] = FlatSlot(start, start + size, slot.shape)
        start += -(-size // 8) * 8
    return {name: slot for name, slot in layout.items() if slot.end <= count(shapes)}


@FLAT_LAYOUT.mistake(each_number_has_one_place, matrices_lie_first_and_vectors_after_them)
def one_number_shared_by_neighbours(shapes):
    layout = flat_layout(shapes)
    return {
        name: slot._replace(start=max(0, slot.start - 1), end=max(1, slot.end - 1))
        if slot.start
        else slot
        for name, slot in layout.items()
    }


@FLAT_LAYOUT.mistake(each_name_has_room_for_its_shape)
def ends_included(shapes):
    return {n: slot._replace(end=slot.end - 1) for n, slot in flat_layout(shapes).items()}


@FLAT_LAYOUT.mistake(each_name_has_room_for_its_shape)
def one_slot_for_equal_shapes(shapes):
    """Keyed by shape: tensors of the same shape share one slot."""
    by_shape = {slot.shape: name for name, slot in flat_layout(shapes).items()}
    return {n: slot for n, slot in flat_layout(shapes).items() if by_shape[slot.shape] == n}


DECAYED_LENGTH = Proof(decayed_length, shapes_of, without=NAMES_ONLY)


@DECAYED_LENGTH.spec
def it_is_the_number_of_numbers_in_matrices(formula, shapes):
    matrices = sum(x.numel() for _, x in named_tensors(shapes) if x.dim() == 2)
    return abs(formula(flat_layout(shapes)) - matrices), 0


@DECAYED_LENGTH.law
def no_slot_lies_across_the_border(formula, shapes):
    """And exactly the slots before it decay."""
    layout = flat_layout(shapes)
    border = formula(layout)
    across = sum(slot.start < border < slot.end for slot in layout.values())
    return across + sum(is_decayed(n) != (slot.end <= border) for n, slot in layout.items()), 0


@DECAYED_LENGTH.law
def without_matrices_it_is_zero(formula, shapes):
    vectors = {n: slot for n, slot in flat_layout(shapes).items() if len(slot.shape) == 1}
    return abs(formula(vectors)) + abs(formula({})), 0


@DECAYED_LENGTH.mistake(it_is_the_number_of_numbers_in_matrices, no_slot_lies_across_the_border)
def start_of_the_last_matrix(layout):
    return max((slot.start for name, slot in layout.items() if is_decayed(name)), default=0)


@DECAYED_LENGTH.mistake(no_slot_lies_across_the_border, without_matrices_it_is_zero)
def everything_decays(layout):
    return max((slot.end for slot in layout.values()), default=0)


# ----------------------------------------------------------------------------- flatten, views_of


def numbered(draw: Draw) -> BertWeights:
    """Weights in which all numbers are different."""
    shapes, tensors, end = shapes_of(draw), {}, 0
    for name, x in named_tensors(shapes):
        tensors[name] = torch.arange(end, end + x.numel()).view(x.shape).double()
        end += x.numel()
    return with_tensors(shapes, tensors)


FLATTEN = Proof(flatten, numbered, without=NO_FORMULA)


@FLATTEN.spec
def each_tensor_lies_row_by_row_in_its_slot(formula, weights):
    found = formula(weights).tolist()
    wrong = 0
    for name, slot in slots_in_order(weights):
        rows = named(weights)[name].tolist()
        if len(slot.shape) == 2:
            rows = [number for row in rows for number in row]
        wrong += found[slot.start : slot.end] != rows
    return wrong + abs(len(found) - count(weights)), 0


@FLATTEN.reference
def it_is_torchs_vector_of_parameters(formula, weights):
    """In our order: matrices first."""
    ordered = [named(weights)[name] for name, _ in slots_in_order(weights)]
    return differing(formula(weights), nn.utils.parameters_to_vector(ordered)), 0


@FLATTEN.law
def views_of_it_are_the_structure_again(formula, weights):
    views = named(views_of(formula(weights), weights))
    return sum(differing(views[name], x) for name, x in named_tensors(weights)), 0


@FLATTEN.law
def it_is_a_copy(formula, weights):
    """Overwriting it leaves the structure unchanged."""
    before = {name: x.clone() for name, x in named_tensors(weights)}
    formula(weights).fill_(-1)
    return sum(differing(x, before[name]) for name, x in named_tensors(weights)), 0


@FLATTEN.law
def how_a_tensor_lies_in_memory_does_not_matter(formula, weights):
    turned = {name: x.mT.contiguous().mT for name, x in named_tensors(weights) if x.dim() == 2}
    other = with_tensors(weights, named(weights) | turned)
    return differing(formula(other), formula(weights)), 0


@FLATTEN.mistake(
    each_tensor_lies_row_by_row_in_its_slot,
    it_is_torchs_vector_of_parameters,
    views_of_it_are_the_structure_again,
)
def joined_in_the_order_of_the_names(weights):
    return torch.cat([x.reshape(-1) for _, x in named_tensors(weights)])


@FLATTEN.mistake(each_tensor_lies_row_by_row_in_its_slot, views_of_it_are_the_structure_again)
def column_by_column(weights):
    turned = {name: x.mT if x.dim() == 2 else x for name, x in named_tensors(weights)}
    return torch.cat([turned[name].reshape(-1) for name in flat_layout(weights)])


@FLATTEN.mistake(how_a_tensor_lies_in_memory_does_not_matter)
def as_it_lies_in_memory(weights):
    tensors = [named(weights)[name] for name in flat_layout(weights)]
    return torch.cat([x.as_strided((x.numel(),), (1,)) for x in tensors])


@FLATTEN.mistake(it_is_a_copy)
def the_structures_own_memory(weights):
    """If a structure already lies in one piece, some libraries return that memory itself."""
    flat = flatten(weights)
    for name, view in named_tensors(views_of(flat, weights)):
        named(weights)[name].set_(view)
    return flat


VIEWS_OF = Proof(views_of, numbered, of=(views_of,), without=NO_FORMULA)


@VIEWS_OF.spec
def each_view_reads_its_slot_row_by_row(formula, weights):
    flat = torch.arange(count(weights)).double()
    views, wrong = named(formula(flat, weights)), 0.0
    for name, slot in slots_in_order(weights):
        wrong += differing(views[name].reshape(-1), flat[slot.start : slot.end])
        wrong += views[name].shape != slot.shape
    return wrong, 0


@VIEWS_OF.reference
def it_is_torchs_vector_to_parameters(formula, weights):
    flat = torch.arange(count(weights)).double()
    ordered = {name: torch.empty(slot.shape).double() for name, slot in slots_in_order(weights)}
    nn.utils.vector_to_parameters(flat, ordered.values())
    views = named(formula(flat, weights))
    return sum(differing(views[name], x) for name, x in ordered.items()), 0


@VIEWS_OF.law
def flattened_they_are_the_tensor_again(formula, weights):
    flat = flatten(weights)
    return differing(flatten(formula(flat, weights)), flat), 0


@VIEWS_OF.law
def writing_to_one_writes_to_the_other(formula, weights):
    """Both ways."""
    flat, wrong = flatten(weights), 0.0
    layout = flat_layout(weights)
    for number, (name, view) in enumerate(named_tensors(formula(flat, weights))):
        slot = layout[name]
        view.fill_(-number - 1)
        wrong += float((flat[slot.start : slot.end] != -number - 1).sum())
        flat[slot.start] = 0.5
        wrong += float(view.reshape(-1)[0] != 0.5) + (not view.is_contiguous())
    return wrong, 0


@VIEWS_OF.law
def one_step_on_the_flat_tensor_is_a_step_of_every_weight(formula, weights):
    """Why the layout exists: leaves are views of one buffer, and so are their gradients."""
    flat = flatten(weights)
    leaves = {n: v.detach().requires_grad_() for n, v in named_tensors(formula(flat, weights))}
    sum((x * x).sum() for x in leaves.values()).backward()
    flat -= 0.25 * flatten(with_tensors(weights, {n: x.grad for n, x in leaves.items()}))
    return sum(differing(x.detach(), named(weights)[n] / 2) for n, x in leaves.items()), 0


@VIEWS_OF.law
def a_tensor_of_another_length_is_refused(formula, weights):
    accepted, flat = 0, flatten(weights)
    for other in (flat[:-1], torch.cat((flat, flat[:1])), flat[None]):
        try:
            formula(other, weights)
            accepted += 1
        except ValueError:
            pass
    return accepted, 0


@VIEWS_OF.mistake(writing_to_one_writes_to_the_other)
def copies_and_not_views(flat, structure):
    views = views_of(flat, structure)
    return with_tensors(views, {name: view.clone() for name, view in named_tensors(views)})


@VIEWS_OF.mistake(
    one_step_on_the_flat_tensor_is_a_step_of_every_weight, writing_to_one_writes_to_the_other
)
def a_copy_of_the_whole(flat, structure):
    return views_of(flat.clone(), structure)


@VIEWS_OF.mistake(
    each_view_reads_its_slot_row_by_row,
    it_is_torchs_vector_to_parameters,
    flattened_they_are_the_tensor_again,
)
def sliced_in_the_order_of_the_names(flat, structure):
    views, start = {}, 0
    for name, x in named_tensors(structure):
        views[name] = flat[start : start + x.numel()].view(x.shape)
        start += x.numel()
    return with_tensors(structure, views)


@VIEWS_OF.mistake(a_tensor_of_another_length_is_refused)
def what_is_too_long_is_cut(flat, structure):
    return views_of(flat.reshape(-1)[: count(structure)], structure)


@VIEWS_OF.mistake(each_view_reads_its_slot_row_by_row)
def square_matrices_turned(flat, structure):
    """Only the shapes are right."""
    views = views_of(flat, structure)
    turned = {n: v.mT for n, v in named_tensors(views) if v.dim() == 2 and len(v) == len(v.mT)}
    return with_tensors(views, named(views) | turned)
