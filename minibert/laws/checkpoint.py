"""Laws of `checkpoint`: which key is which weight, and what must never load silently.

Files are tables of small random tensors, so that no two weights are alike and one that lands in
another's place shows. Their keys are written out by hand in the order of `transformers`; the book's
own table is not used. The error of a law about refusals is how many wrong files were accepted.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert.checkpoint import (
    LoadReport,
    Stored,
    key_of,
    load_weights,
    match_keys,
    path_of,
    save_weights,
    shortened,
    stored_tensors,
)
from minibert.config import BertConfig, CheckpointError
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import differing, distance, eps_of, normal, seed_of
from minibert.parameters import (
    BertWeights,
    LinearWeights,
    named_tensors,
    weight_shapes,
    with_tensors,
)

NAMES = {"gradient": "a name has no gradient", "accuracy": "nothing in a name is rounded"}
Tensors = dict[str, Tensor]

# ------------------------------------------------------------------ what `transformers` calls them

BODY_KEYS = """
    embeddings.word_embeddings.weight
    embeddings.position_embeddings.weight
    embeddings.token_type_embeddings.weight
    embeddings.LayerNorm.weight
    embeddings.LayerNorm.bias
"""
LAYER_KEYS = """
    encoder.layer.#.attention.self.query.weight
    encoder.layer.#.attention.self.query.bias
    encoder.layer.#.attention.self.key.weight
    encoder.layer.#.attention.self.key.bias
    encoder.layer.#.attention.self.value.weight
    encoder.layer.#.attention.self.value.bias
    encoder.layer.#.attention.output.dense.weight
    encoder.layer.#.attention.output.dense.bias
    encoder.layer.#.attention.output.LayerNorm.weight
    encoder.layer.#.attention.output.LayerNorm.bias
    encoder.layer.#.intermediate.dense.weight
    encoder.layer.#.intermediate.dense.bias
    encoder.layer.#.output.dense.weight
    encoder.layer.#.output.dense.bias
    encoder.layer.#.output.LayerNorm.weight
    encoder.layer.#.output.LayerNorm.bias
"""
PART_KEYS = {
    "pooler": "pooler.dense.weight pooler.dense.bias",
    "mlm": """
        cls.predictions.transform.dense.weight
        cls.predictions.transform.dense.bias
        cls.predictions.transform.LayerNorm.weight
        cls.predictions.transform.LayerNorm.bias
        cls.predictions.bias
    """,
    "nsp": "cls.seq_relationship.weight cls.seq_relationship.bias",
    "classifier": "classifier.weight classifier.bias",
    "span": "qa_outputs.weight qa_outputs.bias",
    "fit_dense": "fit_dense.weight fit_dense.bias",
}
PARTS = ("pooler", "mlm", "nsp", "classifier", "span")
DECODER = "cls.predictions.decoder."
POSITIONS = "embeddings.position_ids"


def hand_written_keys(n_layers: int, parts: Iterable[str], prefix: str) -> list[str]:
    """The keys of a model in the order of `BertWeights`."""
    keys = BODY_KEYS.split()
    for number in range(n_layers):
        keys += LAYER_KEYS.replace("#", str(number)).split()
    for part in PART_KEYS:
        keys += PART_KEYS[part].split() if part in parts else []
    body = ("embeddings.", "encoder.", "pooler.")
    return [prefix + key if key.startswith(body) else key for key in keys]


class Model(NamedTuple):
    """A model, its tensors under hand-written keys, and a number that picks one of them."""

    shapes: BertWeights
    weights: BertWeights
    tensors: Tensors
    pick: int

    @property
    def key(self) -> str:
        return list(self.tensors)[self.pick % len(self.tensors)]


def config_of(n_layers: int) -> BertConfig:
    return BertConfig(
        vocab_size=11,
        hidden_size=6,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=10,
        max_position_embeddings=7,
        type_vocab_size=3,
        id2label={0: "a", 1: "b", 2: "c"},
    )


def model_of(
    n_layers: int, parts: tuple[str, ...], fitted: bool, seed: int, prefix: str = "bert."
) -> Model:
    shapes = weight_shapes(config_of(n_layers), parts, 8 if fitted else None)
    numbers = {
        path: normal(seed + i, *tensor.shape).float()
        for i, (path, tensor) in enumerate(named_tensors(shapes))
    }
    weights = with_tensors(shapes, numbers)
    keys = hand_written_keys(n_layers, (*parts, *["fit_dense"] * fitted), prefix)
    return Model(shapes, weights, dict(zip(keys, numbers.values(), strict=True)), seed)


def model_case(draw: Draw) -> Model:
    parts = tuple(part for part in PARTS if draw.choice([True, False]))
    return model_of(draw.choice([1, 2, 11]), parts, draw.choice([True, False]), seed_of(draw))


def small_case(draw: Draw) -> Model:
    return model_of(1, PARTS, draw.choice([True, False]), seed_of(draw))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def in_memory(tensors: Tensors) -> dict[str, Stored]:
    return {
        key: Stored(tuple(t.shape), str(t.dtype).removeprefix("torch."), partial(_same, t))
        for key, t in tensors.items()
    }


def paths_of(structure: BertWeights) -> list[str]:
    return [path for path, _ in named_tensors(structure)]


def apart(found: BertWeights, wanted: BertWeights) -> float:
    """How many numbers differ."""
    ours, theirs = dict(named_tensors(found)), dict(named_tensors(wanted))
    if ours.keys() != theirs.keys():
        return math.inf
    return sum(differing(ours[path], theirs[path]) for path in ours)


# The names once more, as a tree with the fields of `BertWeights`.


def _linear(key: str) -> dict[str, Any]:
    return {"weight_OI": f"{key}.weight", "bias_O": f"{key}.bias"}


def _norm(key: str) -> dict[str, Any]:
    return {"gain_D": f"{key}.weight", "bias_D": f"{key}.bias"}


def _layer(key: str) -> dict[str, Any]:
    own = f"{key}.attention.self"
    return {
        "attention": {
            **{name: _linear(f"{own}.{name}") for name in ("query", "key", "value")},
            "output": _linear(f"{key}.attention.output.dense"),
        },
        "attention_norm": _norm(f"{key}.attention.output.LayerNorm"),
        "intermediate": _linear(f"{key}.intermediate.dense"),
        "output": _linear(f"{key}.output.dense"),
        "output_norm": _norm(f"{key}.output.LayerNorm"),
    }


def tree_of(n_layers: int, prefix: str) -> dict[str, Any]:
    tables = {"word_VD": "word", "position_PD": "position", "type_TD": "token_type"}
    where = f"{prefix}embeddings"
    return {
        "embeddings": {
            **{field: f"{where}.{name}_embeddings.weight" for field, name in tables.items()},
            "norm": _norm(f"{where}.LayerNorm"),
        },
        "blocks": {str(n): _layer(f"{prefix}encoder.layer.{n}") for n in range(n_layers)},
        "pooler": _linear(f"{prefix}pooler.dense"),
        "mlm": {
            "transform": _linear("cls.predictions.transform.dense"),
            "norm": _norm("cls.predictions.transform.LayerNorm"),
            "bias_V": "cls.predictions.bias",
        },
        "nsp": _linear("cls.seq_relationship"),
        "classifier": _linear("classifier"),
        "span": _linear("qa_outputs"),
        "fit_dense": _linear("fit_dense"),
    }


def leaf(tree: Any, path: str) -> str:
    name, _, rest = path.partition(".")
    return leaf(tree[name], rest) if rest else tree[name]


def leaves(tree: dict[str, Any], before: str = "") -> dict[str, str]:
    """Path and key of everything in a tree."""
    found: dict[str, str] = {}
    for name, part in tree.items():
        path = f"{before}{name}"
        found |= leaves(part, f"{path}.") if isinstance(part, dict) else {path: part}
    return found


def old_name(key: str) -> str:
    """The key with the names that the first checkpoints gave to the two vectors of a norm."""
    before, norm, last = key.rpartition(".LayerNorm.")
    return before + norm + {"weight": "gamma", "bias": "beta"}.get(last, last) if norm else key


def spellings(n_layers: int) -> dict[str, str]:
    """Every key that means a weight, and its path."""
    return {
        spelling: path
        for prefix in ("bert.", "")
        for path, key in leaves(tree_of(n_layers, prefix)).items()
        for spelling in (key, old_name(key))
    }


# ---------------------------------------------------------------------------------------- key_of


class Named(NamedTuple):
    """The weights of a model and the prefix under which they are stored."""

    paths: list[str]
    keys: list[str]
    prefix: str


def named_case(draw: Draw) -> Named:
    prefix = draw.choice(["bert.", "", "model."])
    parts = tuple(part for part in PARTS if draw.choice([True, False]))
    model = model_of(draw.choice([1, 2, 11, 12]), parts, draw.choice([True, False]), 1, prefix)
    return Named(paths_of(model.shapes), list(model.tensors), prefix)


KEY_OF = Proof(key_of, named_case, without=NAMES, cost=5)


@KEY_OF.spec
def its_place_in_the_tree_is_its_key(formula, case):
    tree = tree_of(12, case.prefix)
    return sum(formula(path, case.prefix) != leaf(tree, path) for path in case.paths), 0


@KEY_OF.reference
def the_keys_are_those_of_transformers_in_their_order(formula, case):
    found = [formula(path, case.prefix) for path in case.paths]
    return sum(a != b for a, b in zip(found, case.keys, strict=True)), 0


@KEY_OF.law
def no_two_weights_share_a_key(formula, case):
    return len(case.paths) - len({formula(path, case.prefix) for path in case.paths}), 0


@KEY_OF.law
def the_prefix_belongs_to_the_encoder_and_not_to_its_heads(formula, case):
    body = ("embeddings", "blocks", "pooler")
    wrong = 0
    for path in case.paths:
        with_prefix, without = formula(path, "bert."), formula(path, "")
        expected = "bert." + without if path.startswith(body) else without
        wrong += with_prefix != expected
    return wrong, 0


@KEY_OF.law
def the_number_of_a_layer_is_kept(formula, case):
    blocks = [path for path in case.paths if path.startswith("blocks.")]
    numbers = [formula(path, case.prefix).split("layer.")[1].partition(".")[0] for path in blocks]
    return sum(a != b.split(".")[1] for a, b in zip(numbers, blocks, strict=True)), 0


@KEY_OF.mistake(the_prefix_belongs_to_the_encoder_and_not_to_its_heads)
def prefix_before_the_heads_too(path, prefix="bert."):
    return prefix + key_of(path, "")


@KEY_OF.mistake(
    the_prefix_belongs_to_the_encoder_and_not_to_its_heads,
    the_keys_are_those_of_transformers_in_their_order,
)
def always_the_prefix(path, prefix="bert."):
    return key_of(path)


@KEY_OF.mistake(the_number_of_a_layer_is_kept, no_two_weights_share_a_key)
def one_digit_of_a_layer(path, prefix="bert."):
    return re.sub(r"layer\.(\d)\d*", r"layer.\1", key_of(path, prefix))


@KEY_OF.mistake(the_number_of_a_layer_is_kept)
def layers_counted_from_one(path, prefix="bert."):
    return re.sub(r"(?<=layer\.)\d+", lambda n: str(int(n[0]) + 1), key_of(path, prefix))


@KEY_OF.mistake(its_place_in_the_tree_is_its_key, the_keys_are_those_of_transformers_in_their_order)
def query_and_key_swapped(path, prefix="bert."):
    turned = {"query": "key", "key": "query"}
    return re.sub("query|key", lambda name: turned[name[0]], key_of(path, prefix))


@KEY_OF.mistake(no_two_weights_share_a_key)
def the_two_norms_of_a_layer_under_one_name(path, prefix="bert."):
    return key_of(path, prefix).replace("attention.output.LayerNorm", "output.LayerNorm")


# --------------------------------------------------------------------------------------- path_of


class Spelled(NamedTuple):
    """Keys, and the path of each, None where a key is not a weight of a BERT."""

    keys: list[str]
    paths: list[str | None]


def spelled_case(draw: Draw) -> Spelled:
    """A handful of right keys, and others that are nearly right."""
    known = list(spellings(12).items())
    chosen = [draw.choice(known) for _ in range(6)]
    near = [
        lambda key: key.replace(".weight", ".gamma").replace(".bias", ".beta"),
        lambda key: key.replace("LayerNorm", "layer_norm"),
        lambda key: re.sub(r"layer\.(\d+)", r"layer.0\1", key),
        lambda key: re.sub(r"layer\.\d+", "layer", key),
        lambda key: re.sub(r"layer\.\d+", "layer.#", key),
        lambda key: re.sub(r"layer\.\d+", "layer.1.2", key),
        lambda key: re.sub(r"layer\.\d+", "layer.-1", key),
        lambda key: "bert." + key,
        lambda key: "x" + key,
        lambda key: key + ".",
        lambda key: key.upper(),
        lambda key: key.rpartition(".")[0],
    ]
    keys = [key for key, _ in chosen] + [draw.choice(near)(key) for key, _ in chosen]
    table = dict(known)
    return Spelled(keys, [table.get(key) for key in keys])


PATH_OF = Proof(path_of, spelled_case, without=NAMES, cost=2)


@PATH_OF.spec
def a_key_in_the_table_of_all_spellings_has_its_path_and_no_other_has_one(formula, case):
    return sum(formula(key) != path for key, path in zip(*case, strict=True)), 0


@PATH_OF.reference(cases=named_case, cost=5)
def the_keys_of_transformers_lead_back_to_their_paths(formula, case):
    keys = [key.removeprefix("model.") for key in case.keys]
    return sum(formula(key) != path for key, path in zip(keys, case.paths, strict=True)), 0


@PATH_OF.law(cases=named_case, cost=5)
def it_undoes_key_of_with_and_without_the_prefix(formula, case):
    return sum(
        formula(key_of(path, prefix)) != path for path in case.paths for prefix in ("bert.", "")
    ), 0


@PATH_OF.law
def gamma_and_beta_are_old_names_under_layer_norm_and_nowhere_else(formula, case):
    wrong = 0
    for key, path in zip(*case, strict=True):
        stem, _, last = key.rpartition(".")
        for old, new in (("gamma", "weight"), ("beta", "bias")):
            if path is not None and last == new:
                wrong += formula(f"{stem}.{old}") != (path if "LayerNorm" in stem else None)
    return wrong, 0


@PATH_OF.law(cases=named_case, cost=5)
def a_head_with_the_prefix_is_another_models(formula, case):
    heads = ("cls.", "classifier.", "qa_outputs.", "fit_dense.")
    keys = [key for key in case.keys if key.startswith(heads)]
    return sum(formula("bert." + key) is not None for key in keys), 0


@PATH_OF.law
def a_number_with_a_zero_before_it_is_no_layer(formula, case):
    keys = [key.replace(".layer.", ".layer.0") for key in case.keys if ".layer." in key]
    return sum(formula(key) is not None for key in keys), 0


@PATH_OF.mistake(
    gamma_and_beta_are_old_names_under_layer_norm_and_nowhere_else,
    source="https://github.com/huggingface/transformers/issues/29554",
)
def gamma_renamed_anywhere(key):
    return path_of(key.replace("gamma", "weight").replace("beta", "bias"))


@PATH_OF.mistake(gamma_and_beta_are_old_names_under_layer_norm_and_nowhere_else)
def gamma_not_known(key):
    return None if key.endswith(("gamma", "beta")) else path_of(key)


@PATH_OF.mistake(gamma_and_beta_are_old_names_under_layer_norm_and_nowhere_else)
def gamma_and_beta_swapped(key):
    turned = {"gamma": "beta", "beta": "gamma"}
    return path_of(re.sub("gamma$|beta$", lambda name: turned[name[0]], key))


@PATH_OF.mistake(
    it_undoes_key_of_with_and_without_the_prefix,
    the_keys_of_transformers_lead_back_to_their_paths,
    source="https://github.com/torchgeo/torchgeo/issues/4036",
)
def the_prefix_must_be_there(key):
    body = key.startswith(("embeddings.", "encoder.", "pooler."))
    return None if body else path_of(key)


@PATH_OF.mistake(a_head_with_the_prefix_is_another_models)
def the_prefix_stripped_from_any_key(key):
    return path_of(key.removeprefix("bert."))


@PATH_OF.mistake(
    it_undoes_key_of_with_and_without_the_prefix,
    the_keys_of_transformers_lead_back_to_their_paths,
    a_key_in_the_table_of_all_spellings_has_its_path_and_no_other_has_one,
)
def layer_10_taken_for_layer_1(key):
    return path_of(re.sub(r"layer\.(\d)\d+", r"layer.\1", key))


@PATH_OF.mistake(a_number_with_a_zero_before_it_is_no_layer)
def numbers_read_as_numbers(key):
    return path_of(re.sub(r"(?<=layer\.)0+(?=\d)", "", key))


@PATH_OF.mistake(a_key_in_the_table_of_all_spellings_has_its_path_and_no_other_has_one)
def the_end_of_the_key_decides(key):
    place = max(key.find(start) for start in ("embeddings.", "encoder.", "pooler."))
    return path_of(key[max(0, place) :])


# ------------------------------------------------------------------------------------ match_keys


class File(NamedTuple):
    tensors: Tensors
    shapes: BertWeights


def drop(draw: Draw, tensors: Tensors) -> Tensors:
    gone = draw.choice(list(tensors))
    return {key: tensor for key, tensor in tensors.items() if key != gone}


def add(draw: Draw, tensors: Tensors) -> Tensors:
    key = draw.choice(
        ["lora.A", "bert.encoder.layer.2.output.dense.bias", "bert.pooler.dense.gamma"]
    )
    return {key: torch.zeros(6), **tensors}


def resize(draw: Draw, tensors: Tensors) -> Tensors:
    key = draw.choice(list(tensors))
    tensor = tensors[key]
    forms = [tensor[1:], tensor[None], tensor.mT if tensor.ndim == 2 else tensor[:, None]]
    return tensors | {key: draw.choice([*forms, tensor.to(torch.int8)])}


def copy_what_is_tied(draw: Draw, tensors: Tensors) -> Tensors:
    words = tensors.get("bert.embeddings.word_embeddings.weight", torch.zeros(11, 6))
    copies = {f"{DECODER}weight": words, f"{DECODER}bias": torch.zeros(11)}
    key = draw.choice(list(copies))
    tensors = {key: copies[key], **tensors}
    if draw.choice([True, False]):
        tensors.pop("cls.predictions.bias", None)
    return tensors


def add_what_is_harmless(draw: Draw, tensors: Tensors) -> Tensors:
    harmless = {
        POSITIONS: torch.arange(7),
        f"bert.{POSITIONS}": torch.arange(7)[None],
        "fit_denses.0.weight": torch.zeros(1),
        "fit_denses.x.weight": torch.zeros(1),
        "classifier.weight": torch.zeros(3, 6),
    }
    key = draw.choice(list(harmless))
    return {key: harmless[key], **tensors}


def rename(draw: Draw, tensors: Tensors) -> Tensors:
    key = draw.choice(list(tensors))
    other = draw.choice([old_name(key), key.removeprefix("bert.")])
    return {other if name == key else name: tensor for name, tensor in tensors.items()}


def name_twice(draw: Draw, tensors: Tensors) -> Tensors:
    key = draw.choice(list(tensors))
    other = draw.choice([old_name(key), key.removeprefix("bert.")])
    return {other: tensors[key], **tensors}


CHANGES = (drop, add, resize, copy_what_is_tied, add_what_is_harmless, rename, name_twice)


def file_case(draw: Draw, changes: tuple[Callable[..., Tensors], ...] = CHANGES) -> File:
    """A file of a one-layer model, with up to three changes."""
    parts = tuple(part for part in PARTS if draw.choice([True, True, False]))
    model = model_of(1, parts, draw.choice([True, False]), seed_of(draw))
    tensors = model.tensors
    for _ in range(draw.integer(0, 3)):
        tensors = draw.choice(changes)(draw, tensors)
    return File(tensors, model.shapes)


def expected_rows(case: File) -> list[tuple[str, str, str]]:
    """Key, status and path of every row: of the file's keys in order, then of what it lacks."""
    wanted = {path: tuple(tensor.shape) for path, tensor in named_tensors(case.shapes)}
    names, copies = spellings(3), {f"{DECODER}weight": "embeddings.word_VD"}
    copies[f"{DECODER}bias"] = "mlm.bias_V"
    current = set(leaves(tree_of(3, "bert.")).values()) | set(leaves(tree_of(3, "")).values())
    asked = {path.split(".")[0] for path in wanted}
    rows, there = [], set()
    for key in sorted(case.tensors):
        path = copies.get(key) or names.get(key)
        part = "mlm" if key in copies else (path or "").split(".")[0]
        tensor = case.tensors[key]
        if key in (POSITIONS, f"bert.{POSITIONS}") or re.match(r"fit_denses\.\d+\.", key):
            rows.append((key, "ignored", ""))
        elif path is None or path not in wanted:
            rows.append((key, "ignored" if path and part not in asked else "unexpected", ""))
        elif part not in asked:
            rows.append((key, "ignored", ""))
        elif tuple(tensor.shape) != wanted[path] or not tensor.is_floating_point():
            rows.append((key, "misfit", path))
            there.add(path)
        elif key == f"{DECODER}weight" or (
            key in copies and "cls.predictions.bias" in case.tensors
        ):
            rows.append((key, "ignored", path))
        else:
            new = "used" if key in current else "renamed"
            taken = path in [row[2] for row in rows if row[1] in ("used", "renamed")]
            rows.append((key, "unexpected" if taken else new, path))
            there.add(path)
    tree = tree_of(3, "bert.")
    return rows + [(leaf(tree, path), "missing", path) for path in wanted if path not in there]


def rows_of(report: LoadReport) -> list[tuple[str, str, str]]:
    return [(row.key, row.status, row.path) for row in report.rows]


MATCH_KEYS = Proof(match_keys, file_case, without=NAMES, cost=2)


@MATCH_KEYS.spec
def every_row_says_what_becomes_of_a_key(formula, case):
    return float(rows_of(formula(in_memory(case.tensors), case.shapes)) != expected_rows(case)), 0


def torch_module(tensors: Mapping[str, Tensor]) -> torch.nn.Module:
    """A module whose parameters have these names."""
    root = torch.nn.Module()
    for key, tensor in tensors.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, torch.nn.Parameter(tensor.clone()))
    return root


@MATCH_KEYS.reference(cases=lambda draw: file_case(draw, (drop, add)))
def missing_and_unexpected_are_those_of_torch(formula, case):
    wanted = dict(named_tensors(case.shapes))
    needed = {leaf(tree_of(1, "bert."), path): torch.zeros(t.shape) for path, t in wanted.items()}
    theirs = torch_module(needed).load_state_dict(case.tensors, strict=False)
    report = formula(in_memory(case.tensors), case.shapes)
    missing, unexpected = ({row.key for row in report.of(s)} for s in ("missing", "unexpected"))
    return len(missing ^ set(theirs.missing_keys)) + len(
        unexpected ^ set(theirs.unexpected_keys)
    ), 0


@MATCH_KEYS.law
def every_key_and_every_weight_has_one_row(formula, case):
    report = formula(in_memory(case.tensors), case.shapes)
    of_file = sorted(row.key for row in report.rows if row.status != "missing")
    taken = [row.path for row in report.of("used", "renamed", "missing")]
    faulty = {row.path for row in report.of("misfit")}
    lacking = set(paths_of(case.shapes)) - set(taken) - faulty
    twice = len(taken) - len(set(taken))
    return float(of_file != sorted(case.tensors)) + len(lacking) + twice, 0


@MATCH_KEYS.law(cases=model_case, cost=4)
def a_file_of_just_the_weights_has_no_fault(formula, case):
    report = formula(in_memory(case.tensors), case.shapes)
    return len(report.rows) - len(report.of("used")) + len(report.explained()), 0


@MATCH_KEYS.law(cases=model_case, cost=4)
def a_weight_that_is_not_there_is_the_one_fault(formula, case):
    others = {key: tensor for key, tensor in case.tensors.items() if key != case.key}
    faults = formula(in_memory(others), case.shapes).faults
    return float([(row.key, row.status) for row in faults] != [(case.key, "missing")]), 0


@MATCH_KEYS.law(cases=model_case, cost=4)
def a_key_that_is_nothing_is_the_one_fault(formula, case):
    more = {**case.tensors, "bert.encoder.layer.11.output.dense.bias": torch.zeros(6)}
    faults = formula(in_memory(more), case.shapes).faults
    return float([row.status for row in faults] != ["unexpected"]), 0


@MATCH_KEYS.law(cases=model_case, cost=4)
def a_weight_of_another_size_is_the_one_fault(formula, case):
    tensor = case.tensors[case.key]
    wrong = [
        tensor[1:],
        tensor[None],
        *([tensor.mT] if tensor.shape[0] != tensor.shape[-1] else []),
    ]
    if tensor.ndim == 1:
        wrong = [tensor[1:], tensor[None], tensor[:, None]]
    error = 0.0
    for other in wrong:
        faults = formula(in_memory(case.tensors | {case.key: other}), case.shapes).faults
        error += [(row.key, row.status) for row in faults] != [(case.key, "misfit")]
    return error, 0


@MATCH_KEYS.law(cases=model_case, cost=4)
def no_number_is_read(formula, case):
    reads = []
    stored = {
        key: Stored(tuple(t.shape), "float32", lambda key=key: reads.append(key))
        for key, t in case.tensors.items()
    }
    formula(stored, case.shapes)
    return len(reads), 0


def faults_passed_over(
    *statuses: str,
) -> Callable[[Mapping[str, Stored], BertWeights], LoadReport]:
    def variant(stored, shapes):
        report = match_keys(stored, shapes)
        return report._replace(rows=tuple(r for r in report.rows if r.status not in statuses))

    return variant


for status, law, source in (
    (
        "missing",
        a_weight_that_is_not_there_is_the_one_fault,
        "https://github.com/huawei-noah/Pretrained-Language-Model/issues/52",
    ),
    ("unexpected", a_key_that_is_nothing_is_the_one_fault, ""),
    ("misfit", a_weight_of_another_size_is_the_one_fault, ""),
):
    MATCH_KEYS.mistake(
        law,
        every_key_and_every_weight_has_one_row,
        every_row_says_what_becomes_of_a_key,
        name=f"{status}_passed_over",
        source=source,
    )(faults_passed_over(status))


@MATCH_KEYS.mistake(
    a_key_that_is_nothing_is_the_one_fault,
    a_weight_that_is_not_there_is_the_one_fault,
    missing_and_unexpected_are_those_of_torch,
    source="https://github.com/torchgeo/torchgeo/issues/4036",
)
def nothing_is_a_fault(stored, shapes):
    return faults_passed_over("missing", "unexpected", "misfit")(stored, shapes)


@MATCH_KEYS.mistake(
    a_weight_of_another_size_is_the_one_fault,
    missing_and_unexpected_are_those_of_torch,
    source="https://github.com/karpathy/minGPT/issues/120",
)
def only_the_number_of_keys_compared(stored, shapes):
    if len(stored) == len(paths_of(shapes)):
        return faults_passed_over("missing", "unexpected", "misfit")(stored, shapes)
    return match_keys(stored, shapes)


def as_wanted(stored, shapes, size_of):
    """What is stored, each with the size that a rule makes of its own and the wanted size."""
    wanted = {path: tuple(tensor.shape) for path, tensor in named_tensors(shapes)}
    return {
        key: part._replace(shape=size_of(part.shape, wanted[path]))
        if (path := path_of(key)) in wanted
        else part
        for key, part in stored.items()
    }


@MATCH_KEYS.mistake(a_weight_of_another_size_is_the_one_fault)
def sizes_not_compared(stored, shapes):
    return match_keys(as_wanted(stored, shapes, lambda own, wanted: wanted), shapes)


@MATCH_KEYS.mistake(a_weight_of_another_size_is_the_one_fault)
def only_how_many_numbers_compared(stored, shapes):
    def size(own, wanted):
        return wanted if math.prod(own) == math.prod(wanted) else own

    return match_keys(as_wanted(stored, shapes, size), shapes)


@MATCH_KEYS.mistake(a_weight_of_another_size_is_the_one_fault)
def transposed_is_as_good(stored, shapes):
    def size(own, wanted):
        return wanted if own == wanted[::-1] else own

    return match_keys(as_wanted(stored, shapes, size), shapes)


@MATCH_KEYS.mistake(
    a_file_of_just_the_weights_has_no_fault,
    source="https://github.com/huggingface/candle/pull/2879",
)
def the_tied_decoder_must_be_there(stored, shapes):
    report = match_keys(stored, shapes)
    if shapes.mlm is None or f"{DECODER}weight" in stored:
        return report
    row = report.rows[0]._replace(key=f"{DECODER}weight", status="missing", path="")
    return report._replace(rows=(*report.rows, row))


@MATCH_KEYS.mistake(a_file_of_just_the_weights_has_no_fault)
def two_digits_are_no_layer(stored, shapes):
    short = {re.sub(r"layer\.(\d)\d+", r"layer.\1x", key): part for key, part in stored.items()}
    return match_keys(short, shapes)


@MATCH_KEYS.mistake(no_number_is_read)
def read_to_be_measured(stored, shapes):
    for part in stored.values():
        part.read()
    return match_keys(stored, shapes)


# ---------------------------------------------------------------------------------- load_weights

LOAD_WEIGHTS = Proof(
    load_weights, model_case, without={"gradient": "a file has no gradient"}, cost=4
)
Loaded = tuple[BertWeights, LoadReport]


def loaded(formula: Callable[..., Loaded], tensors: Tensors, case: Model) -> BertWeights:
    return formula(in_memory(tensors), case.shapes, torch.float32)[0]


def accepts(formula: Callable[..., Any], *arguments: Any) -> bool:
    try:
        formula(*arguments)
    except CheckpointError:
        return False
    return True


def accepted(formula: Callable[..., Loaded], case: Model, wrong: Iterable[Tensors]) -> float:
    """How many of these files load."""
    return float(
        sum(accepts(formula, in_memory(tensors), case.shapes, torch.float32) for tensors in wrong)
    )


@LOAD_WEIGHTS.spec
def each_weight_is_found_under_any_of_its_names(formula, case):
    names = spellings(11)
    error = 0.0
    for spelled in (str, old_name, lambda key: key.removeprefix("bert.")):
        tensors = {spelled(key): tensor for key, tensor in case.tensors.items()}
        expected = {names[key]: tensor for key, tensor in tensors.items()}
        error += apart(loaded(formula, tensors, case), with_tensors(case.shapes, expected))
    return error, 0


@LOAD_WEIGHTS.reference
def a_module_of_torch_loads_the_same(formula, case):
    module = torch_module({key: torch.zeros_like(t) for key, t in case.tensors.items()})
    module.load_state_dict(case.tensors)
    theirs = list(module.state_dict().values())
    weights = loaded(formula, case.tensors, case)
    ours = [tensor for _, tensor in named_tensors(weights)]
    order = {key: place for place, key in enumerate(module.state_dict())}
    return sum(
        differing(a, theirs[order[key]]) for a, key in zip(ours, case.tensors, strict=True)
    ), 0


@LOAD_WEIGHTS.law
def a_missing_weight_is_refused(formula, case):
    others = {key: tensor for key, tensor in case.tensors.items() if key != case.key}
    return accepted(formula, case, [others, {}]), 0


@LOAD_WEIGHTS.law
def a_key_that_is_nothing_is_refused(formula, case):
    names = ["lora.A", "bert.encoder.layer.11.output.dense.bias", "bert.pooler.dense.gamma"]
    more = [{**case.tensors, name: torch.zeros(6)} for name in names]
    return accepted(formula, case, more), 0


@LOAD_WEIGHTS.law(cases=small_case, cost=5)
def another_size_is_refused(formula, case):
    """Also a transposed matrix, unless it is square, where the size cannot tell."""
    wrong = []
    for key in (case.key, "bert.encoder.layer.0.intermediate.dense.weight"):
        tensor = case.tensors[key]
        turned = [tensor.mT] if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1] else []
        wrong += [case.tensors | {key: other} for other in (tensor[1:], tensor[None], *turned)]
    return accepted(formula, case, wrong), 0


@LOAD_WEIGHTS.law
def numbers_that_are_no_floats_are_refused(formula, case):
    types = (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn)
    wrong = [case.tensors | {case.key: case.tensors[case.key].to(dtype)} for dtype in types]
    return accepted(formula, case, wrong), 0


@LOAD_WEIGHTS.law
def a_number_that_is_not_finite_is_refused(formula, case):
    """Also one that is too large for the type that it is read as."""
    wrong = []
    for value in (math.nan, math.inf, -math.inf, 1e300):
        poisoned = case.tensors[case.key].double()
        poisoned.view(-1)[-1] = value
        wrong.append(case.tensors | {case.key: poisoned})
    return accepted(formula, case, wrong), 0


@LOAD_WEIGHTS.law
def one_weight_under_two_names_is_refused(formula, case):
    norms = {old_name(key): tensor for key, tensor in case.tensors.items() if ".LayerNorm." in key}
    shorter = {
        key.removeprefix("bert."): tensor
        for key, tensor in case.tensors.items()
        if key.startswith("bert.")
    }
    return accepted(formula, case, [case.tensors | norms, case.tensors | shorter]), 0


def with_copies(case: Model) -> Tensors:
    """The file with the tied weights stored twice."""
    return case.tensors | {
        f"{DECODER}weight": case.tensors["bert.embeddings.word_embeddings.weight"].clone(),
        f"{DECODER}bias": case.tensors["cls.predictions.bias"].clone(),
    }


@LOAD_WEIGHTS.law(cases=small_case, cost=5)
def a_copy_of_a_tied_weight_may_be_there_but_must_equal_it(formula, case):
    tensors = with_copies(case)
    error = apart(loaded(formula, tensors, case), case.weights)
    wrong = []
    for name in ("weight", "bias"):
        other = tensors[DECODER + name].clone()
        other.view(-1)[case.pick % other.numel()] += 1e-6
        shorter = tensors[DECODER + name][1:].clone()
        wrong += [tensors | {DECODER + name: other}, tensors | {DECODER + name: shorter}]
    return error + accepted(formula, case, wrong), 0


@LOAD_WEIGHTS.law(cases=small_case, cost=5)
def the_bias_of_the_decoder_stands_in_for_the_missing_one(formula, case):
    tensors = {
        f"{DECODER}bias" if key == "cls.predictions.bias" else key: tensor
        for key, tensor in case.tensors.items()
    }
    return apart(loaded(formula, tensors, case), case.weights), 0


@LOAD_WEIGHTS.law(cases=small_case, cost=5)
def positions_may_be_there_but_must_count_up(formula, case):
    right = [torch.arange(7), torch.arange(7)[None]]
    wrong = [torch.arange(1, 8), torch.arange(6), torch.zeros(1, 7), torch.arange(7).flip(0)]
    error = 0.0
    for name in (POSITIONS, f"bert.{POSITIONS}"):
        error += sum(
            apart(loaded(formula, case.tensors | {name: p}, case), case.weights) for p in right
        )
        error += accepted(formula, case, [case.tensors | {name: p} for p in wrong])
    return error, 0


@LOAD_WEIGHTS.law
def the_loaded_weights_are_their_own(formula, case):
    """They do not change when the tensors that were read do, and they do not require a gradient."""
    tensors = {key: tensor.clone() for key, tensor in case.tensors.items()}
    weights = loaded(formula, tensors, case)
    for tensor in tensors.values():
        tensor.zero_()
    return apart(weights, case.weights) + sum(t.requires_grad for _, t in named_tensors(weights)), 0


@LOAD_WEIGHTS.law
def they_have_the_type_that_was_asked_for_and_the_report_says_so(formula, case):
    error = 0.0
    for own, asked in ((torch.float16, torch.float32), (torch.float32, torch.bfloat16)):
        stored = in_memory({key: tensor.to(own) for key, tensor in case.tensors.items()})
        weights, report = formula(stored, case.shapes, asked)
        error += sum(tensor.dtype != asked for _, tensor in named_tensors(weights))
        names = (str(dtype).removeprefix("torch.") for dtype in (own, asked))
        note = "{} tensors of {} were read as {}".format(len(case.tensors), *names)
        error += report.notes != (note,)
    same = formula(in_memory(case.tensors), case.shapes, torch.float32)[1]
    return error + len(same.notes), 0


@LOAD_WEIGHTS.law
def parts_that_were_not_asked_for_are_left(formula, case):
    body = case.shapes._replace(**dict.fromkeys(PART_KEYS))
    weights, report = formula(in_memory(case.tensors), body, torch.float32)
    wanted = case.weights._replace(**dict.fromkeys(PART_KEYS))
    parts = len(paths_of(case.shapes)) - len(paths_of(body))
    return apart(weights, wanted) + abs(len(report.of("ignored")) - parts), 0


class Numbers(NamedTuple):
    x: Tensor
    asked: torch.dtype


def numbers_case(draw: Draw, scale: float) -> Numbers:
    asked = draw.choice([torch.float64, torch.float32, torch.bfloat16])
    return Numbers(normal(seed_of(draw), 2, 3, scale=scale), asked)


@LOAD_WEIGHTS.accuracy(
    {
        "normal": lambda draw: numbers_case(draw, 1.0),
        "tiny": lambda draw: numbers_case(draw, 1e-30),
        "large": lambda draw: numbers_case(draw, 1e30),
    },
    dtypes=(torch.float64, torch.float32, torch.bfloat16),
)
def a_number_is_rounded_once_or_not_at_all(formula, case):
    shapes = BertWeights((), (), span=LinearWeights(torch.empty(2, 3), torch.empty(3)))
    tensors = {"qa_outputs.weight": case.x, "qa_outputs.bias": case.x[0].contiguous()}
    span = formula(in_memory(tensors), shapes, case.asked)[0].span
    eps = torch.finfo(case.asked).eps
    share = eps / 2 if eps > eps_of(case.x) else 0.0
    found, expected = (
        torch.cat((span.weight_OI, span.bias_O[None])),
        torch.cat((case.x, case.x[:1])),
    )
    return distance(found, expected, share * expected.double().abs() + 1e-300), 1


def repaired(repair: Callable[[dict[str, Stored], BertWeights], dict[str, Stored]]):
    """A loader that makes a file fit before it loads it."""

    def variant(stored, shapes, dtype=torch.float32):
        return load_weights(repair(dict(stored), shapes), shapes, dtype)

    variant.__name__ = repair.__name__
    return variant


def stored_as(tensor: Tensor) -> Stored:
    return in_memory({"": tensor})[""]


def sized(stored: dict[str, Stored], shapes: BertWeights, change: Callable[..., Tensor]) -> Any:
    """What is stored, with a change to each weight of the wrong size."""
    wanted = {path: tuple(tensor.shape) for path, tensor in named_tensors(shapes)}
    for key, part in stored.items():
        path = path_of(key)
        if path in wanted and part.shape != wanted[path]:
            stored[key] = stored_as(change(part.read(), wanted[path]))
    return stored


def without_faults(status: str) -> Callable[..., dict[str, Stored]]:
    def repair(stored, shapes):
        faults = {row.key for row in match_keys(stored, shapes).of(status)}
        return {key: part for key, part in stored.items() if key not in faults}

    return repair


@LOAD_WEIGHTS.mistake(
    a_missing_weight_is_refused,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/issues/52",
)
@repaired
def a_missing_weight_stays_as_it_began(stored, shapes):
    wanted = dict(named_tensors(shapes))
    new = {
        row.key: stored_as(normal(0, *wanted[row.path].shape).float() * 0.02)
        for row in match_keys(stored, shapes).of("missing")
    }
    return stored | new


LOAD_WEIGHTS.mistake(a_key_that_is_nothing_is_refused, name="unexpected_keys_dropped_in_silence")(
    repaired(without_faults("unexpected"))
)


@LOAD_WEIGHTS.mistake(
    another_size_is_refused, source="https://github.com/karpathy/minGPT/issues/120"
)
@repaired
def only_the_number_of_keys_compared_on_loading(stored, shapes):
    return sized(stored, shapes, lambda tensor, size: torch.zeros(size))


@LOAD_WEIGHTS.mistake(another_size_is_refused)
@repaired
def sizes_ignored_where_the_numbers_are_as_many(stored, shapes):
    def reshaped(tensor, size):
        return tensor.reshape(size) if tensor.numel() == math.prod(size) else tensor

    return sized(stored, shapes, reshaped)


@LOAD_WEIGHTS.mistake(another_size_is_refused)
@repaired
def turned_until_it_fits(stored, shapes):
    def turned(tensor, size):
        return tensor.mT if tensor.ndim == 2 and tuple(tensor.mT.shape) == size else tensor

    return sized(stored, shapes, turned)


@LOAD_WEIGHTS.mistake(each_weight_is_found_under_any_of_its_names, a_module_of_torch_loads_the_same)
@repaired
def square_matrices_transposed(stored, shapes):
    for key, part in stored.items():
        if len(part.shape) == 2 and part.shape[0] == part.shape[1]:
            stored[key] = stored_as(part.read().mT)
    return stored


@LOAD_WEIGHTS.mistake(numbers_that_are_no_floats_are_refused)
@repaired
def whole_numbers_taken_for_weights(stored, shapes):
    return {key: stored_as(part.read().float()) for key, part in stored.items()}


@LOAD_WEIGHTS.mistake(a_number_that_is_not_finite_is_refused)
@repaired
def nan_accepted(stored, shapes):
    return {
        key: stored_as(part.read().float().nan_to_num(posinf=1.0)) for key, part in stored.items()
    }


@LOAD_WEIGHTS.mistake(one_weight_under_two_names_is_refused)
@repaired
def the_last_of_two_names_wins(stored, shapes):
    names = {path_of(key) or key: key for key in stored}
    return {key: stored[key] for key in names.values()}


@LOAD_WEIGHTS.mistake(a_copy_of_a_tied_weight_may_be_there_but_must_equal_it)
@repaired
def copies_not_compared(stored, shapes):
    return {key: part for key, part in stored.items() if not key.startswith(DECODER)}


@LOAD_WEIGHTS.mistake(a_copy_of_a_tied_weight_may_be_there_but_must_equal_it)
@repaired
def the_decoder_is_the_word_table(stored, shapes):
    """The decoder's own weight in the file replaces the word table that is tied to it."""
    if f"{DECODER}weight" in stored:
        stored["bert.embeddings.word_embeddings.weight"] = stored[f"{DECODER}weight"]
    return stored


@LOAD_WEIGHTS.mistake(the_bias_of_the_decoder_stands_in_for_the_missing_one)
@repaired
def the_bias_begins_at_zero(stored, shapes):
    return (
        stored
        | {"cls.predictions.bias": stored_as(torch.zeros(11))}
        | {f"{DECODER}bias": stored_as(torch.zeros(11))}
    )


@LOAD_WEIGHTS.mistake(positions_may_be_there_but_must_count_up)
@repaired
def positions_not_compared(stored, shapes):
    return {key: part for key, part in stored.items() if not key.endswith("position_ids")}


@LOAD_WEIGHTS.mistake(the_loaded_weights_are_their_own)
def a_window_on_the_file(stored, shapes, dtype=torch.float32):
    weights, report = load_weights(stored, shapes, dtype)
    views = {row.path: stored[row.key].read() for row in report.of("used", "renamed")}
    return with_tensors(weights, views), report


@LOAD_WEIGHTS.mistake(
    they_have_the_type_that_was_asked_for_and_the_report_says_so,
    a_number_is_rounded_once_or_not_at_all,
)
def always_in_half_precision(stored, shapes, dtype=torch.float32):
    return load_weights(stored, shapes, torch.bfloat16)


@LOAD_WEIGHTS.mistake(they_have_the_type_that_was_asked_for_and_the_report_says_so)
def converted_in_silence(stored, shapes, dtype=torch.float32):
    weights, report = load_weights(stored, shapes, dtype)
    return weights, report._replace(notes=())


@LOAD_WEIGHTS.mistake(parts_that_were_not_asked_for_are_left)
@repaired
def heads_dropped_without_a_row(stored, shapes):
    ignored = {row.key for row in match_keys(stored, shapes).of("ignored")}
    return {key: part for key, part in stored.items() if key not in ignored}


@LOAD_WEIGHTS.mistake(each_weight_is_found_under_any_of_its_names, a_module_of_torch_loads_the_same)
@repaired
def layer_10_read_as_layer_1(stored, shapes):
    for key in list(stored):
        if ".layer.10." in key:
            stored[key] = stored[key.replace(".layer.10.", ".layer.1.")]
    return stored


# ------------------------------------------------------------------------------------- shortened


class Words(NamedTuple):
    names: list[str]
    most: int


def words_case(draw: Draw) -> Words:
    return Words([f"n{i}" for i in range(draw.integer(0, 9))], draw.choice([1, 2, 4, 9]))


SHORTENED = Proof(
    shortened,
    words_case,
    without=NAMES | {"reference": "no library lists names like this"},
)


@SHORTENED.spec
def it_is_the_names_with_commas_and_how_many_more(formula, case):
    text = ""
    for number, name in enumerate(case.names):
        if number < case.most:
            text += ", " * (number > 0) + name
    if len(case.names) > case.most:
        text += f" and {len(case.names) - case.most} more"
    return float(formula(*case) != text), 0


@SHORTENED.law
def no_name_is_lost_without_being_counted(formula, case):
    text = formula(*case)
    shown = sum(name in re.split("[, ]+", text) for name in case.names)
    counted = re.search(r"and (\d+) more", text)
    return abs(len(case.names) - shown - (int(counted[1]) if counted else 0)), 0


@SHORTENED.mistake(no_name_is_lost_without_being_counted)
def cut_off_in_silence(names, most=16):
    return ", ".join(names[:most])


@SHORTENED.mistake(it_is_the_names_with_commas_and_how_many_more)
def counted_even_if_none(names, most=16):
    return ", ".join(names[:most]) + f" and {max(0, len(names) - most)} more"


@SHORTENED.mistake(no_name_is_lost_without_being_counted)
def one_more_than_there_are(names, most=16):
    return shortened([*names, ""], most) if len(names) > most else shortened(names, most)


# -------------------------------------------------------------------------------- stored_tensors


class Entry(NamedTuple):
    """A tensor as the format of safetensors describes it: type, size and bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def parsed(raw: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    """A safetensors file by its specification: the header's length, the header, the numbers."""
    length = struct.unpack("<Q", raw[:8])[0]
    header, numbers = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata = header.pop("__metadata__", {})
    entries = {
        key: Entry(entry["dtype"], tuple(entry["shape"]), numbers[slice(*entry["data_offsets"])])
        for key, entry in header.items()
    }
    return entries, metadata


TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def typed_case(draw: Draw) -> Tensors:
    """A few tensors of sizes and types of all kinds."""
    sizes = [(), (0,), (1,), (3,), (2, 3), (3, 2), (2, 1, 3)]
    return {
        f"{name}.weight": (
            normal(seed_of(draw), *draw.choice(sizes), scale=50).to(draw.choice(list(TYPES)))
        )
        for name in "abcd"[: draw.integer(1, 4)]
    }


class Written:
    """A file that exists inside a `with` block."""

    def __init__(self, write: Callable[[Path], Any]) -> None:
        self.write = write

    def __enter__(self) -> Path:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "model.safetensors"
        self.write(path)
        return path

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()


def saved(tensors: Tensors) -> Written:
    return Written(lambda path: save_file(tensors, path))


def as_bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


STORED_TENSORS = Proof(
    stored_tensors,
    typed_case,
    without={
        "gradient": "a file has no gradient",
        "accuracy": "bytes are read and none is rounded",
    },
)


@STORED_TENSORS.spec
def sizes_types_and_bytes_are_those_of_the_header(formula, tensors):
    with saved(tensors) as path:
        expected, _ = parsed(path.read_bytes())
        found = formula(path)
        error = float(found.keys() != expected.keys())
        for key in found.keys() & expected.keys():
            own = {str(dtype).removeprefix("torch."): name for dtype, name in TYPES.items()}
            part = found[key]
            entry = Entry(own.get(part.dtype, ""), part.shape, as_bytes(part.read()))
            error += entry != expected[key]
    return error, 0


@STORED_TENSORS.reference
def the_tensors_are_those_that_safetensors_loads(formula, tensors):
    with saved(tensors) as path:
        theirs = load_file(path)
        found = {key: part.read() for key, part in formula(path).items()}
    if found.keys() != theirs.keys():
        return math.inf, 0
    wrong_types = sum(found[key].dtype != theirs[key].dtype for key in theirs)
    return wrong_types + sum(differing(found[key], theirs[key]) for key in theirs), 0


@STORED_TENSORS.law
def what_is_told_is_what_is_read(formula, tensors):
    with saved(tensors) as path:
        parts = formula(path).values()
        told = [(part.shape, part.dtype) for part in parts]
        read = [part.read() for part in parts]
    own = [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in read]
    return sum(a != b for a, b in zip(told, own, strict=True)), 0


@STORED_TENSORS.law(cost=2)
def a_file_that_is_cut_off_is_refused(formula, tensors):
    with saved(tensors) as path:
        whole = path.read_bytes()
        lengths = {0, 4, 8, len(whole) // 2, len(whole) - 1}
        accepted = 0
        for length in lengths:
            path.write_bytes(whole[:length])
            accepted += accepts(formula, path)
        # a file of empty tensors ends with its header, which cannot be cut off unnoticed either
    return accepted + accepts(formula, path), 0


@STORED_TENSORS.mistake(sizes_types_and_bytes_are_those_of_the_header)
def sizes_the_other_way_round(path):
    return {
        key: part._replace(shape=part.shape[::-1]) for key, part in stored_tensors(path).items()
    }


@STORED_TENSORS.mistake(what_is_told_is_what_is_read)
def all_said_to_be_float32(path):
    return {key: part._replace(dtype="float32") for key, part in stored_tensors(path).items()}


@STORED_TENSORS.mistake(
    sizes_types_and_bytes_are_those_of_the_header, the_tensors_are_those_that_safetensors_loads
)
def numbers_laid_column_by_column(path):
    def turned(part):
        x = part.read()
        return x.reshape(x.shape[::-1]).mT if x.ndim == 2 else x

    found = stored_tensors(path)
    return {key: part._replace(read=lambda part=part: turned(part)) for key, part in found.items()}


@STORED_TENSORS.mistake(sizes_types_and_bytes_are_those_of_the_header)
def every_key_reads_the_last_tensor(path):
    """A function made in a loop keeps the variable and not its value."""
    found = stored_tensors(path)
    *_, last = found.values()
    return {key: part._replace(read=last.read) for key, part in found.items()}


@STORED_TENSORS.mistake(the_tensors_are_those_that_safetensors_loads)
def read_as_float32(path):
    found = stored_tensors(path)
    return {
        key: part._replace(read=lambda part=part: part.read().float())
        for key, part in found.items()
    }


@STORED_TENSORS.mistake(a_file_that_is_cut_off_is_refused)
def a_damaged_file_is_an_empty_one(path):
    try:
        return stored_tensors(path)
    except CheckpointError:
        return {}


# ---------------------------------------------------------------------------------- save_weights

SAVE_WEIGHTS = Proof(
    save_weights,
    model_case,
    without={
        "gradient": "a file has no gradient",
        "accuracy": "bytes are written and none is rounded",
    },
    cost=5,
)


def written(formula: Callable[..., None], weights: BertWeights) -> Written:
    return Written(lambda path: formula(path, weights))


def has_head(weights: BertWeights) -> bool:
    return any(part is not None for part in weights[3:7])


def under_their_keys(case: Model) -> Tensors:
    """The tensors of a case under the keys of a saved file: without prefix if there is no head."""
    if has_head(case.weights):
        return case.tensors
    return {key.removeprefix("bert."): tensor for key, tensor in case.tensors.items()}


@SAVE_WEIGHTS.spec
def every_byte_is_that_of_a_weight_under_its_key(formula, case):
    with written(formula, case.weights) as path:
        entries, metadata = parsed(path.read_bytes())
    wanted = under_their_keys(case)
    error = float(metadata != {"format": "pt"}) + len(entries.keys() ^ wanted.keys())
    for key in entries.keys() & wanted.keys():
        expected = struct.pack(f"<{wanted[key].numel()}f", *wanted[key].reshape(-1).tolist())
        error += entries[key] != Entry("F32", tuple(wanted[key].shape), expected)
    return error, 0


@SAVE_WEIGHTS.reference
def safetensors_loads_what_was_saved(formula, case):
    wanted = under_their_keys(case)
    with written(formula, case.weights) as path:
        theirs = load_file(path)
    lost = len(theirs.keys() ^ wanted.keys())
    return lost + sum(differing(theirs[k], wanted[k]) for k in theirs.keys() & wanted.keys()), 0


@SAVE_WEIGHTS.law
def what_was_saved_loads_again(formula, case):
    with written(formula, case.weights) as path:
        weights, report = load_weights(stored_tensors(path), case.shapes)
    return apart(weights, case.weights) + len(report.rows) - len(report.of("used")), 0


@SAVE_WEIGHTS.law
def views_are_saved_like_any_other_and_alone(formula, case):
    """Of a larger tensor, transposed, requiring gradients: only their own numbers are stored."""
    views = {
        path: torch.stack((tensor.mT if tensor.ndim == 2 else tensor,) * 3)[1].requires_grad_()
        for path, tensor in named_tensors(case.weights)
    }
    turned = {path: view.mT if view.ndim == 2 else view for path, view in views.items()}
    with written(formula, with_tensors(case.weights, turned)) as path:
        entries, _ = parsed(path.read_bytes())
        theirs = load_file(path)
    wanted = under_their_keys(case)
    if theirs.keys() != wanted.keys():
        return math.inf, 0
    stored = sum(len(entry.data) for entry in entries.values())
    numbers = sum(tensor.numel() for tensor in wanted.values())
    return abs(stored - 4 * numbers) + sum(differing(theirs[k], wanted[k]) for k in wanted), 0


@SAVE_WEIGHTS.law
def a_model_with_a_head_has_the_prefix_and_a_bare_one_has_none(formula, case):
    error = 0.0
    bare = case.weights._replace(mlm=None, nsp=None, classifier=None, span=None)
    for weights in (case.weights, bare):
        with written(formula, weights) as path:
            names = load_file(path).keys()
        with_prefix = sum(name.startswith("bert.") for name in names)
        body = len(paths_of(weights._replace(**dict.fromkeys(list(PART_KEYS)[1:]))))
        error += abs(with_prefix - body * has_head(weights))
    return error, 0


@SAVE_WEIGHTS.law(cases=small_case)
def a_tied_weight_is_stored_once(formula, case):
    with written(formula, case.weights) as path:
        names = load_file(path).keys()
    return abs(len(names) - len(paths_of(case.weights))), 0


@SAVE_WEIGHTS.law
def the_type_of_the_weights_is_that_of_the_file(formula, case):
    error = 0.0
    for dtype in (torch.float64, torch.bfloat16):
        numbers = {path: tensor.to(dtype) for path, tensor in named_tensors(case.weights)}
        with written(formula, with_tensors(case.weights, numbers)) as path:
            types = {entry.dtype for entry in parsed(path.read_bytes())[0].values()}
        error += types != {TYPES[dtype]}
    return error, 0


def saved_by(key_of_path: Callable[[str, str], str], change: Callable[[Tensor], Tensor]):
    """Saving with other keys or other numbers."""

    def variant(path, weights):
        prefix = "bert." if has_head(weights) else ""
        tensors = {
            key_of_path(name, prefix): change(tensor.detach()).contiguous()
            for name, tensor in named_tensors(weights)
        }
        save_file(tensors, path, metadata={"format": "pt"})

    return variant


for name, laws, keys, change in (
    (
        "always_with_the_prefix",
        (a_model_with_a_head_has_the_prefix_and_a_bare_one_has_none,),
        lambda name, prefix: key_of(name),
        Tensor.clone,
    ),
    (
        "never_with_the_prefix",
        (a_model_with_a_head_has_the_prefix_and_a_bare_one_has_none,),
        lambda name, prefix: key_of(name, ""),
        Tensor.clone,
    ),
    (
        "under_the_names_of_the_fields",
        (safetensors_loads_what_was_saved, every_byte_is_that_of_a_weight_under_its_key),
        lambda name, prefix: name,
        Tensor.clone,
    ),
    (
        "square_matrices_turned",
        (what_was_saved_loads_again, safetensors_loads_what_was_saved),
        key_of,
        lambda x: x.mT if x.ndim == 2 and x.shape[0] == x.shape[1] else x,
    ),
    (
        "rounded_to_half_precision",
        (what_was_saved_loads_again, the_type_of_the_weights_is_that_of_the_file),
        key_of,
        Tensor.half,
    ),
    (
        "as_it_lies_in_memory",
        (views_are_saved_like_any_other_and_alone,),
        key_of,
        lambda x: x.mT.contiguous().view(x.shape) if x.ndim == 2 and not x.is_contiguous() else x,
    ),
):
    SAVE_WEIGHTS.mistake(*laws, name=name)(saved_by(keys, change))


@SAVE_WEIGHTS.mistake(a_tied_weight_is_stored_once)
def the_decoder_stored_too(path, weights):
    prefix = "bert." if has_head(weights) else ""
    tensors = {key_of(name, prefix): t.detach() for name, t in named_tensors(weights)}
    copy = {f"{DECODER}weight": weights.embeddings.word_VD.detach().clone()}
    save_file(tensors | copy, path, metadata={"format": "pt"})


@SAVE_WEIGHTS.mistake(every_byte_is_that_of_a_weight_under_its_key)
def no_word_about_the_format(path, weights):
    save_weights(path, weights)
    save_file(load_file(path), path)
