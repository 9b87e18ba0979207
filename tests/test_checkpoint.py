"""What the laws of `checkpoint` do not say: messages, files of all kinds, folders and names."""

import json
import os
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import minibert.files
from minibert import hub
from minibert.checkpoint import (
    KEY_OF_PATH,
    PATH_OF_KEY,
    KeyReport,
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
from minibert.files import bytes_of_weights, read_config, read_json, save_folder, stored_in
from minibert.laws.checkpoint import PARTS, apart, config_of, in_memory, model_of, old_name
from minibert.parameters import (
    BertWeights,
    LinearWeights,
    flatten,
    initial_weights,
    named_tensors,
    views_of,
    weight_shapes,
)

CONFIG = config_of(2)
PICKLE = r"pytorch_model\.bin is a pickle"
MODEL = model_of(2, PARTS, fitted=True, seed=1)
SHAPES, FULL, KEYS, _ = MODEL


def same(first: BertWeights, second: BertWeights) -> bool:
    return apart(first, second) == 0


def loads_as(tensors: dict[str, Tensor], shapes: BertWeights = SHAPES) -> BertWeights:
    return load_weights(in_memory(tensors), shapes)[0]


def refused(tensors: dict[str, Tensor], message: str, shapes: BertWeights = SHAPES) -> None:
    """With this message and no other word."""
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        loads_as(tensors, shapes)


def write_safetensors(folder: Path, tensors: dict[str, Tensor] = KEYS) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


# --- the table


def defaults_of(function: Callable[..., object]) -> dict[str, object]:
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_only_these_arguments_have_defaults() -> None:
    assert defaults_of(key_of) == {"prefix": "bert."}
    assert defaults_of(load_weights) == {"dtype": torch.float32}
    assert defaults_of(shortened) == {"most": 16}
    for function in (path_of, match_keys, stored_tensors, save_weights):
        assert defaults_of(function) == {}
    assert KeyReport("a", "used") == ("a", "used", "", "")
    assert LoadReport() == ((), ())


def test_the_table_holds_every_weight_once() -> None:
    assert len(KEY_OF_PATH) == len(PATH_OF_KEY) == 4 + 4 * 2 + 12 * 2
    names = [path for path, _ in named_tensors(weight_shapes(BertConfig(), PARTS, fit_width=9))]
    assert len(names) == 12 * 16 + 5 + 2 + 5 + 4 * 2


def test_a_path_of_nothing_has_no_key() -> None:
    for path in ("", "blocks", "blocks.0.attention.query", "blocks.00.output.weight_OI"):
        with pytest.raises(KeyError):
            key_of(path)


@pytest.mark.parametrize(
    "key",
    [
        "bert.encoder.layer.0.gamma",
        "bert.encoder.layer.00.output.dense.weight",
        "bert.encoder.layer..output.dense.weight",
        "bert.encoder.layer.#.output.dense.weight",
        "bert.encoder.layer.1000000.output.dense.weight",
        "bert.bert.pooler.dense.weight",
        "pooler.dense.gamma",
        "distilbert.transformer.layer.0.attention.q_lin.weight",
        "",
    ],
)
def test_other_names_have_no_path(key: str) -> None:
    assert path_of(key) is None


@pytest.mark.parametrize("number", ["0", "1", "9", "10", "999999"])
def test_a_layer_may_have_up_to_six_digits(number: str) -> None:
    path = f"blocks.{number}.output.bias_O"
    assert path_of(f"encoder.layer.{number}.output.dense.bias") == path
    assert key_of(path, "") == f"encoder.layer.{number}.output.dense.bias"


# --- what the report says


def rows_of(tensors: dict[str, Tensor], shapes: BertWeights = SHAPES) -> dict[str, KeyReport]:
    return {row.key: row for row in match_keys(in_memory(tensors), shapes).rows}


def test_an_old_name_is_told_with_the_one_of_today() -> None:
    old = {old_name(key): tensor for key, tensor in KEYS.items()}
    weights, report = load_weights(in_memory(old), SHAPES)
    assert same(weights, FULL)
    assert [row.key for row in report.of("renamed")] == sorted(set(old) - set(KEYS))
    last = report.of("renamed")[-1]
    assert last.note == "the name today is cls.predictions.transform.LayerNorm.weight"
    assert {row.note for row in report.of("used")} == {""}


def test_a_name_of_today_is_used_with_a_prefix_and_without() -> None:
    bare = {key.removeprefix("bert."): tensor for key, tensor in KEYS.items()}
    for tensors in (KEYS, bare):
        assert {row.status for row in rows_of(tensors).values()} == {"used"}


def test_every_row_that_is_no_weight_says_why() -> None:
    words = KEYS["bert.embeddings.word_embeddings.weight"]
    harmless = {
        "embeddings.position_ids": torch.arange(7),
        "fit_denses.0.weight": torch.ones(1),
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": KEYS["cls.predictions.bias"],
    }
    rows = rows_of(KEYS | harmless)
    assert [rows[key].status for key in harmless] == ["ignored"] * 4
    assert [rows[key].note for key in harmless] == [
        "the buffer 0, 1, 2, …",
        "projections of another distillation",
        "a copy of bert.embeddings.word_embeddings.weight",
        "a copy of cls.predictions.bias",
    ]
    assert [rows[key].path for key in harmless][:2] == ["", ""]


def test_parts_that_were_not_asked_for_are_ignored_and_named() -> None:
    shapes = weight_shapes(CONFIG, ())
    rows = rows_of(KEYS | {"cls.predictions.decoder.weight": torch.zeros(1)}, shapes)
    notes = {key: row.note for key, row in rows.items() if row.status == "ignored"}
    body = ("bert.embeddings", "bert.encoder")
    assert set(notes) == {key for key in rows if not key.startswith(body)}
    assert notes["fit_dense.weight"] == "the model was not asked for its part 'fit_dense'"
    decoder = "cls.predictions.decoder.weight"
    assert notes[decoder] == "the model was not asked for its part 'mlm'"


def test_only_fit_denses_with_a_number_belong_to_another_distillation() -> None:
    names = ["fit_denses.0.weight", "fit_denses.12.bias", "fit_denses.x.bias", "fit_denses.0.gain"]
    rows = rows_of(KEYS | {name: torch.ones(1) for name in names})
    statuses = [rows[name].status for name in names]
    assert statuses == ["ignored", "ignored", "unexpected", "unexpected"]


def test_the_faults_are_told_in_one_sentence() -> None:
    rows = [KeyReport("a", "misfit", "x", "too long"), KeyReport("b", "missing", "y")]
    rows += [KeyReport("c", "used", "z"), KeyReport("d", "unexpected", "", "who knows")]
    report = LoadReport((*rows, KeyReport("e", "missing", "w")))
    assert report.explained() == "missing: b, e; unexpected: d (who knows); misfit: a (too long)"
    assert [row.key for row in report.faults] == ["a", "b", "d", "e"]
    assert [row.key for row in report.of("used", "misfit")] == ["a", "c"]
    assert LoadReport().explained() == ""


def test_a_long_list_is_shortened() -> None:
    assert shortened(["x"] * 3) == "x, x, x"
    assert shortened(["x"] * 16) == ", ".join(["x"] * 16)
    assert shortened(["x"] * 18) == ", ".join(["x"] * 16) + " and 2 more"
    assert shortened([]) == ""


# --- refusals: every fault is found, and named


def test_one_weight_under_two_names_is_refused() -> None:
    key = "bert.embeddings.LayerNorm.weight"
    message = f"unexpected: {key} (bert.embeddings.LayerNorm.gamma is the same weight)"
    refused(KEYS | {"bert.embeddings.LayerNorm.gamma": torch.ones(6)}, message)


@pytest.mark.parametrize("ids", [torch.arange(1, 8), torch.arange(6), torch.zeros(1, 7)])
@pytest.mark.parametrize("name", ["embeddings.position_ids", "bert.embeddings.position_ids"])
def test_position_ids_in_another_order_are_refused(ids: Tensor, name: str) -> None:
    message = f"{name} is not the buffer 0, 1, 2, …, as it is in every BERT"
    refused(KEYS | {name: ids}, message)


def test_a_copy_that_differs_is_refused() -> None:
    for name, original in (
        ("weight", "bert.embeddings.word_embeddings.weight"),
        ("bias", "cls.predictions.bias"),
    ):
        copy = f"cls.predictions.decoder.{name}"
        message = f"{copy} is not a copy of {original}, as it is in every BERT"
        refused(KEYS | {copy: KEYS[original] + 1e-6}, message)


@pytest.mark.parametrize("key", KEYS)
def test_each_missing_weight_is_named(key: str) -> None:
    refused({name: tensor for name, tensor in KEYS.items() if name != key}, f"missing: {key}")


@pytest.mark.parametrize("key", KEYS)
def test_each_weight_of_another_size_or_type_is_named(key: str) -> None:
    longer = torch.cat([KEYS[key], KEYS[key][:1]])
    flat = KEYS[key].reshape(1, -1)
    for wrong in (longer, flat, KEYS[key].to(torch.int8), KEYS[key].to(torch.float8_e4m3fn)):
        if wrong.shape == KEYS[key].shape and wrong.dtype == KEYS[key].dtype:
            continue
        kind, size = str(wrong.dtype).removeprefix("torch."), list(wrong.shape)
        needed = f"but must be floats of size {list(KEYS[key].shape)}"
        refused(KEYS | {key: wrong}, f"misfit: {key} ({kind} of size {size}, {needed})")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_each_weight_that_is_not_finite_is_named(key: str, value: float) -> None:
    poisoned = KEYS[key].clone()
    poisoned.view(-1)[-1] = value
    refused(KEYS | {key: poisoned}, f"not finite (NaN or infinity): {key}")


def test_a_single_number_that_is_not_finite_is_named() -> None:
    rows = ("classifier.bias", "classifier.weight")
    shapes = SHAPES._replace(classifier=LinearWeights(*(x[:1] for x in SHAPES.classifier or ())))
    alone = KEYS | {key: KEYS[key][:1].clone() for key in rows}
    assert loads_as(alone, shapes).classifier is not None
    poisoned = alone | {"classifier.bias": torch.full((1,), float("nan"))}
    refused(poisoned, "not finite (NaN or infinity): classifier.bias", shapes)


def test_a_number_that_float32_cannot_hold_is_not_finite() -> None:
    key = "bert.pooler.dense.bias"
    large = torch.full((6,), 1e300, dtype=torch.float64)
    refused(KEYS | {key: large}, f"not finite (NaN or infinity): {key}")
    loaded, _ = load_weights(in_memory(KEYS | {key: large}), SHAPES, torch.float64)
    assert loaded.pooler is not None
    assert torch.equal(loaded.pooler.bias_O, large)


def test_many_weights_that_are_not_finite_are_shortened() -> None:
    refused(
        {key: tensor * float("nan") for key, tensor in KEYS.items()},
        f"not finite (NaN or infinity): {shortened(sorted(KEYS))}",
    )


def test_an_unknown_key_and_a_layer_too_many_are_named() -> None:
    layer = "bert.encoder.layer.2.output.dense.bias"
    note = "(no weight of a BERT with this config)"
    message = f"unexpected: {layer} {note}, bert.pooler.dense.beta {note}, lora.A {note}"
    more = dict.fromkeys((layer, "lora.A", "bert.pooler.dense.beta"), torch.zeros(6))
    refused(KEYS | more, message)


def test_all_faults_are_told_at_once_and_many_are_shortened() -> None:
    tensors = {"a": torch.zeros(1), "bert.pooler.dense.bias": torch.zeros(1)}
    text = match_keys(in_memory(tensors), SHAPES).explained()
    assert text.startswith("missing: bert.embeddings.word_embeddings.weight, ")
    assert f" and {len(KEYS) - 1 - 16} more; unexpected: a (no weight of" in text
    assert "; misfit: bert.pooler.dense.bias (float32 of size [1], but must be floats" in text


def test_no_number_is_read_before_all_sizes_fit() -> None:
    def never() -> Tensor:
        raise AssertionError("read")

    stored = {key: Stored((10**6, 10**6), "float32", never) for key in KEYS}
    with pytest.raises(CheckpointError, match="misfit"):
        load_weights(stored, SHAPES)
    fitting = {key: Stored(tuple(t.shape), "float32", never) for key, t in KEYS.items()}
    with pytest.raises(AssertionError, match="read"):
        load_weights(fitting, SHAPES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted_and_the_report_says_so(dtype: torch.dtype) -> None:
    stored = in_memory({key: tensor.to(dtype) for key, tensor in KEYS.items()})
    weights, report = load_weights(stored, SHAPES)
    for path, tensor in named_tensors(weights):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, KEYS[key_of(path)].to(dtype).to(torch.float32))
    name = str(dtype).removeprefix("torch.")
    assert report.notes == (f"{len(KEYS)} tensors of {name} were read as float32",)
    assert load_weights(stored, SHAPES, dtype)[1].notes == ()


def test_a_copy_is_compared_in_the_type_that_was_asked_for() -> None:
    """0.1 in float64 is not 0.1 in float32; both read as float32, they are equal."""
    words = "bert.embeddings.word_embeddings.weight"
    wide = torch.full_like(KEYS[words], 0.1, dtype=torch.float64)
    for copy, original in ((wide, wide), (wide, wide.float()), (wide.float(), wide)):
        tensors = KEYS | {"cls.predictions.decoder.weight": copy, words: original}
        assert load_weights(in_memory(tensors), SHAPES)[1].faults == ()


def test_a_type_that_torch_writes_and_no_bert_has_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"pooler.dense.bias": torch.zeros(3).to(torch.float8_e4m3fn)}, path)
    assert stored_tensors(path)["pooler.dense.bias"].dtype == "F8_E4M3"


def test_types_that_are_mixed_have_a_note_each() -> None:
    mixed = KEYS | {
        "classifier.bias": torch.zeros(3).half(),
        "qa_outputs.bias": torch.ones(2).double(),
    }
    notes = load_weights(in_memory(mixed), SHAPES)[1].notes
    assert notes == tuple(
        f"1 tensors of {name} were read as float32" for name in ("float16", "float64")
    )


# --- files


def test_a_folder_round_trip_is_exact(tmp_path: Path) -> None:
    save_folder(tmp_path / "new" / "model", CONFIG, FULL)
    folder = tmp_path / "new" / "model"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert same(load_weights(stored_in(folder), SHAPES)[0], FULL)
    loaded = read_config(folder)
    assert loaded.to_dict() == CONFIG.to_dict() | {"dtype": "float32"}


def test_a_place_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "no folder" / "model.safetensors"
    with pytest.raises(OSError, match=f"^{re.escape(str(path))} cannot be written: .*No such file"):
        save_weights(path, FULL)


def test_views_of_one_flat_tensor_are_saved_like_any_other(tmp_path: Path) -> None:
    flat = flatten(FULL).requires_grad_()
    save_folder(tmp_path, CONFIG, views_of(flat, FULL))
    weights, _ = load_weights(stored_in(tmp_path), SHAPES)
    assert same(weights, FULL)
    assert os.path.getsize(tmp_path / "model.safetensors") < flat.numel() * 4 + 20_000


def test_a_bare_model_is_stored_without_prefix_and_the_tied_table_once(tmp_path: Path) -> None:
    save_folder(tmp_path, CONFIG, FULL._replace(mlm=None, nsp=None, classifier=None, span=None))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "embeddings.word_embeddings.weight" in names
    assert not any(name.startswith("bert.") for name in names)
    save_folder(tmp_path, CONFIG, FULL)
    assert set(load_file(tmp_path / "model.safetensors")) == set(KEYS)


def test_loaded_weights_do_not_change_with_the_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path)
    weights, _ = load_weights(stored_tensors(path), SHAPES)
    path.write_bytes(b"\0" * path.stat().st_size)  # in place, as a careless program would
    assert same(weights, FULL)


def test_unknown_config_keys_are_kept_and_the_type_is_told_true(tmp_path: Path) -> None:
    values = CONFIG.to_dict() | {"cell": {"x": [1]}, "torch_dtype": "float16", "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_folder(tmp_path / "copy", read_config(tmp_path), FULL)
    written = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert written["cell"] == {"x": [1]}
    assert written["dtype"] == "float32"
    assert "torch_dtype" not in written


def test_every_truncation_and_header_flip_is_one_error_or_the_same_tensors(tmp_path: Path) -> None:
    tensors = {"pooler.dense.weight": torch.ones(3, 2), "pooler.dense.bias": torch.ones(3)}
    whole = write_safetensors(tmp_path, tensors).read_bytes()
    path = tmp_path / "broken.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"broken\.safetensors is missing, damaged or no"):
            stored_tensors(path)
    refused = 0
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(header):  # one bit of every byte, another one each time
        flipped = bytearray(whole)
        flipped[place] ^= 1 << 3 * place % 8
        path.write_bytes(flipped)
        try:
            stored = stored_tensors(path)
        except CheckpointError:
            refused += 1
            continue
        total = sum(stored[key].read().numel() for key in stored)
        assert total <= 9 * 4  # never more numbers than the file has bytes for
    assert refused > header / 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        b"PK\x03\x04 not a safetensors file at all",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_garbage_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing, damaged or no"):
        stored_in(tmp_path)


def test_a_file_that_claims_a_trillion_numbers_is_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
    header = json.dumps({"pooler.dense.weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="damaged"):
        stored_in(tmp_path)


def test_a_folder_without_weights_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no weights: it needs model\.safetensors"):
        stored_in(tmp_path)


# --- several files


def write_shards(folder: Path) -> dict[str, str]:
    keys = sorted(KEYS)
    file_of = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(file_of.values()):
        save_file({key: KEYS[key] for key in keys if file_of[key] == name}, folder / name)
    write_index(folder, file_of)
    return file_of


def write_index(folder: Path, file_of: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights_load(tmp_path: Path) -> None:
    shards = set(write_shards(tmp_path).values())
    assert same(load_weights(stored_in(tmp_path), SHAPES)[0], FULL)
    sizes = [(tmp_path / name).stat().st_size for name in shards]
    assert bytes_of_weights(tmp_path) == sum(sizes)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    assert bytes_of_weights(tmp_path) == 8, "it is read in place of the shards"


def test_an_index_that_is_wrong_is_refused(tmp_path: Path) -> None:
    file_of = write_shards(tmp_path)
    key = sorted(file_of)[0]
    for wrong in (None, [], {}, "x"):
        write_index(tmp_path, wrong)
        with pytest.raises(CheckpointError, match="no weight_map"):
            stored_in(tmp_path)
    for name in ("../model.safetensors", "/etc/passwd", "", ".hidden", "a/b", 7 * "long/" * 40):
        write_index(tmp_path, file_of | {key: name})
        with pytest.raises(CheckpointError, match="is not the name of a file beside it"):
            stored_in(tmp_path)
    write_index(tmp_path, file_of | {key: "other.safetensors"})
    with pytest.raises(CheckpointError, match=f"disagree on which holds {key}"):
        stored_in(tmp_path)
    write_index(tmp_path, {name: file for name, file in file_of.items() if name != key})
    with pytest.raises(CheckpointError, match=f"disagree on which holds {key}"):
        stored_in(tmp_path)
    write_index(tmp_path, file_of)
    (tmp_path / file_of[key]).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        stored_in(tmp_path)


# --- pickles


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_loads_with_a_warning(tmp_path: Path, zipped: bool) -> None:
    tied = KEYS | {
        "cls.predictions.decoder.weight": KEYS["bert.embeddings.word_embeddings.weight"],
        "bert.embeddings.position_ids": torch.arange(7).expand(1, -1),
    }
    path = tmp_path / "pytorch_model.bin"
    torch.save(tied, path, _use_new_zipfile_serialization=zipped)
    with pytest.warns(UserWarning, match=PICKLE):
        stored = stored_in(tmp_path)
    assert same(load_weights(stored, SHAPES)[0], FULL)


class Hostile:
    """What a pickle can do when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "was-here"
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": Hostile(mark)}, path, _use_new_zipfile_serialization=zipped)
    with (
        pytest.warns(UserWarning, match=PICKLE),
        pytest.raises(CheckpointError, match="more than tensors"),
    ):
        stored_in(tmp_path)
    path.write_bytes(pickle.dumps(Hostile(mark), protocol=2))
    with (
        pytest.warns(UserWarning, match=PICKLE),
        pytest.raises(CheckpointError, match="more than tensors"),
    ):
        stored_in(tmp_path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the pickle does act when it is opened carelessly


@pytest.mark.parametrize("value", [{"a": 1}, [torch.zeros(1)], {"m": {"a": torch.zeros(1)}}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with (
        pytest.warns(UserWarning, match=PICKLE),
        pytest.raises(CheckpointError, match="is not a dict of tensors"),
    ):
        stored_in(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pickle_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(KEYS, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 1999), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with (
            pytest.warns(UserWarning, match=PICKLE),
            pytest.raises(CheckpointError, match="cannot be read"),
        ):
            load_weights(stored_in(tmp_path), SHAPES)


def test_a_small_pickle_of_a_huge_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "pytorch_model.bin")
    with (
        pytest.warns(UserWarning, match=PICKLE),
        pytest.raises(CheckpointError, match="larger than the whole"),
    ):
        stored_in(tmp_path)


def test_a_pickle_is_no_fallback_for_a_damaged_file(tmp_path: Path) -> None:
    torch.save(KEYS, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match=r"model\.safetensors is missing, damaged"):
            stored_in(tmp_path)


# --- config.json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"vocab_size": 30522, "vocab_size": 1000000000000}', "'vocab_size' occurs twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' occurs twice"),
        ('{"layer_norm_eps": NaN}', "NaN is not finite"),
        ('{"layer_norm_eps": -Infinity}', "-Infinity is not finite"),
        ('{"layer_norm_eps": 1e400}', "1e400 is not finite"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"vocab_size": 5', "cannot be read"),
        ("", "cannot be read"),
        ("[]", "holds a list, not a JSON object"),
    ],
)
def test_json_is_read_strictly(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_json(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_config_that_is_missing_or_no_text_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: No such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**12},
        {"vocab_size": 2.5},
        {"hidden_size": True},
        {"num_attention_heads": 5},
        {"hidden_dropout_prob": 1.0},
        {"hidden_act": "relu"},
        {"model_type": "roberta"},
        {"position_embedding_type": "relative_key"},
        {"architectures": "BertModel"},
        {"architectures": [1]},
        {"problem_type": "ranking"},
        {"id2label": {"1": "a"}},
        {"pad_token_id": 11},
    ],
)
def test_an_impossible_config_names_file_key_and_value(tmp_path: Path, change: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict() | change))
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    (key,) = change
    assert str(tmp_path / "config.json") in str(caught.value)
    assert key in str(caught.value)


# --- saving over another model


def folder_of(model: int, tmp_path: Path, labels: tuple[str, ...] = ("a", "b", "c")) -> BertWeights:
    weights = initial_weights(SHAPES, 0.02, torch.Generator().manual_seed(model))
    save_folder(tmp_path, CONFIG.with_labels(labels), weights)
    return weights


def test_a_save_that_fails_while_staging_leaves_the_old_model(tmp_path: Path) -> None:
    old = folder_of(1, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def disk_full(staged: Path) -> None:
        (staged / "vocab.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_folder(tmp_path, CONFIG, FULL, disk_full)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(load_weights(stored_in(tmp_path), SHAPES)[0], old)


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("c", "b", "a")])
@pytest.mark.parametrize("survives", range(4))
def test_a_save_that_dies_between_renames_never_mixes_two_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...], survives: int
) -> None:
    """A crash after every rename in turn: the folder is the old model, the new, or has none."""
    old = folder_of(1, tmp_path)
    real, calls = os.replace, []

    def dying(source: Path, target: Path) -> None:
        if len(calls) == survives:
            raise KeyboardInterrupt
        calls.append(target)
        real(source, target)

    monkeypatch.setattr(minibert.files.os, "replace", dying)
    try:
        new = folder_of(2, tmp_path, labels)
    except KeyboardInterrupt:
        new = initial_weights(SHAPES, 0.02, torch.Generator().manual_seed(2))
    if not (tmp_path / "model.safetensors").exists():
        assert labels != ("a", "b", "c")  # only where the two models differ in their config
        return
    weights, _ = load_weights(stored_in(tmp_path), SHAPES)
    names = tuple(read_config(tmp_path).id2label.values())
    old_model = same(weights, old) and names == ("a", "b", "c")
    new_model = same(weights, new) and names == labels
    assert old_model or new_model


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".saving-dead").mkdir()
    (tmp_path / ".saving-dead" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "notes.md").write_text("mine")
    folder_of(1, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors", "notes.md"]


def test_the_weights_are_as_readable_as_the_config(tmp_path: Path) -> None:
    folder_of(1, tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


# --- names


def no_network(*args: object, **options: object) -> str:
    raise AssertionError("the network was asked")


def test_a_folder_that_exists_never_touches_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google-bert" / "bert-base-uncased").mkdir(parents=True)
    for name in (tmp_path, "google-bert/bert-base-uncased", "google-bert", Path("google-bert")):
        assert hub.model_folder(name) == Path(name)


@pytest.mark.parametrize(
    "name",
    [
        "./model",
        "../model",
        "/no/model",
        "~/no-such-model",
        "a/b/c",
        "runs/modle",
        "a b",
        "",
        "x\0y",
    ],
)
def test_what_looks_like_a_path_and_is_none_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="there is no folder") as caught:
        hub.model_folder(name)
    assert ("did you mean runs/model?" in str(caught.value)) == (name == "runs/modle")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file, but a model is a folder"):
        hub.model_folder(tmp_path / "model.safetensors")


def test_an_id_is_downloaded_without_the_pickle_unless_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(model_id: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((model_id, "pytorch_model.bin" in allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert hub.model_folder("owner/model", local_files_only=True) == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.model_folder("owner/model") == tmp_path
    assert asked == [
        ("owner/model", False, True),
        ("owner/model", True, True),
        ("owner/model", False, False),
    ]


def test_an_id_that_cannot_be_fetched_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **options: object) -> str:
        raise ConnectionError("Name or service not known\nlong story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        hub.model_folder("google-bert/bert-base-uncased")
    assert str(caught.value) == (
        "there is no folder 'google-bert/bert-base-uncased', and no such model could be "
        "loaded from huggingface.co (ConnectionError: Name or service not known)"
    )


def test_the_cache_alone_is_asked_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"could be loaded from the cache \("):
        hub.model_folder("no-owner-of-this-name/no-model", local_files_only=True)


@pytest.mark.real
def test_the_real_teacher_matches_key_by_key(teacher_dir: Path) -> None:
    config = read_config(teacher_dir)
    stored = stored_in(teacher_dir)
    weights, report = load_weights(stored, weight_shapes(config))
    assert len(report.of("used")) == 6 * 16 + 5 + 2
    assert [row.key for row in report.rows if row.status != "used"] == ["embeddings.position_ids"]
    assert sum(tensor.numel() for _, tensor in named_tensors(weights)) == 22_713_216
