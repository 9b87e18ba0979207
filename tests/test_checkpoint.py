"""Which key is which weight, what may be passed over, and what must never load."""

import json
import os
import pickle
import struct
import warnings
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
    Stored,
    key_of,
    load_weights,
    match_keys,
    path_of,
    shortened,
    stored_tensors,
)
from minibert.config import BertConfig, CheckpointError
from minibert.files import read_config, read_json, save_folder, stored_in
from minibert.parameters import (
    BertWeights,
    flatten,
    initial_weights,
    named_tensors,
    views_of,
    weight_shapes,
)

CONFIG = BertConfig(
    vocab_size=11,
    hidden_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=10,
    max_position_embeddings=7,
    type_vocab_size=3,
    id2label={0: "a", 1: "b", 2: "c"},
)
PICKLE = r"pytorch_model\.bin is a pickle"
PARTS = ("pooler", "mlm", "nsp", "classifier", "span")
SHAPES = weight_shapes(CONFIG, PARTS, fit_width=8)
FULL = initial_weights(SHAPES, 0.02, torch.Generator().manual_seed(1))
KEYS = {key_of(path): tensor for path, tensor in named_tensors(FULL)}


def in_memory(tensors: dict[str, Tensor]) -> dict[str, Stored]:
    return {
        key: Stored(tuple(t.shape), str(t.dtype).removeprefix("torch."), lambda t=t: t)
        for key, t in tensors.items()
    }


def same(first: BertWeights, second: BertWeights) -> bool:
    one, two = dict(named_tensors(first)), dict(named_tensors(second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def loads_as(tensors: dict[str, Tensor], shapes: BertWeights = SHAPES) -> BertWeights:
    return load_weights(in_memory(tensors), shapes)[0]


def write_safetensors(folder: Path, tensors: dict[str, Tensor] = KEYS) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


# --- the table


def test_the_table_is_reversible() -> None:
    assert len(KEY_OF_PATH) == len(PATH_OF_KEY)
    paths = [path for path, _ in named_tensors(weight_shapes(BertConfig(), PARTS, fit_width=9))]
    assert len(paths) == 12 * 16 + 5 + 2 + 5 + 4 * 2
    for prefix in ("bert.", ""):
        assert [path_of(key_of(path, prefix)) for path in paths] == paths


@pytest.mark.parametrize(
    "key",
    [
        "bert.encoder.layer.0.gamma",
        "bert.encoder.layer.00.output.dense.weight",
        "bert.encoder.layer..output.dense.weight",
        "bert.encoder.layer.#.output.dense.weight",
        "bert.bert.pooler.dense.weight",
        "pooler.dense.gamma",
        "distilbert.transformer.layer.0.attention.q_lin.weight",
        "",
    ],
)
def test_other_names_have_no_path(key: str) -> None:
    assert path_of(key) is None


# --- the traps


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_the_prefix_may_be_there_or_not(prefix: str) -> None:
    renamed = {prefix + key.removeprefix("bert."): KEYS[key] for key in KEYS if key[:5] == "bert."}
    others = {key: tensor for key, tensor in KEYS.items() if key[:5] != "bert."}
    weights, report = load_weights(in_memory(renamed | others), SHAPES)
    assert same(weights, FULL)
    assert {row.status for row in report.rows} == {"used"}


def test_gamma_and_beta_are_renamed_under_layer_norm_and_nowhere_else() -> None:
    def old(key: str) -> str:
        if ".LayerNorm." not in key:
            return key
        return key.replace(".LayerNorm.weight", ".LayerNorm.gamma").replace(
            ".LayerNorm.bias", ".LayerNorm.beta"
        )

    weights, report = load_weights(in_memory({old(k): t for k, t in KEYS.items()}), SHAPES)
    assert same(weights, FULL)
    assert [row.key for row in report.of("renamed")] == sorted(
        old(key) for key in KEYS if "LayerNorm" in key
    )
    assert (
        report.of("renamed")[-1].note
        == "the name today is cls.predictions.transform.LayerNorm.weight"
    )
    elsewhere = KEYS | {"bert.pooler.dense.beta": torch.zeros(6)}
    with pytest.raises(CheckpointError, match=r"unexpected: bert\.pooler\.dense\.beta"):
        loads_as(elsewhere)


def test_one_weight_under_two_names_is_refused() -> None:
    twice = KEYS | {"bert.embeddings.LayerNorm.gamma": torch.ones(6)}
    with pytest.raises(CheckpointError, match=r"is the same weight"):
        loads_as(twice)


@pytest.mark.parametrize("name", ["embeddings.position_ids", "bert.embeddings.position_ids"])
@pytest.mark.parametrize("shape", [(7,), (1, 7)])
def test_position_ids_are_ignored_if_they_count_up(name: str, shape: tuple[int, ...]) -> None:
    stored = in_memory(KEYS | {name: torch.arange(7).view(shape)})
    weights, report = load_weights(stored, SHAPES)
    assert same(weights, FULL)
    assert [row.key for row in report.of("ignored")] == [name]


@pytest.mark.parametrize("ids", [torch.arange(1, 8), torch.arange(6), torch.zeros(1, 7)])
def test_position_ids_in_another_order_are_refused(ids: Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"position_ids is not the buffer 0, 1, 2"):
        loads_as(KEYS | {"embeddings.position_ids": ids})


def test_a_tied_decoder_may_be_missing_or_equal_but_not_different() -> None:
    words, bias = KEYS["bert.embeddings.word_embeddings.weight"], KEYS["cls.predictions.bias"]
    copy = {
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": bias.clone(),
    }
    weights, report = load_weights(in_memory(KEYS | copy), SHAPES)
    assert same(weights, FULL)
    assert {row.key for row in report.of("ignored")} == set(copy)
    for key, tensor in copy.items():
        with pytest.raises(CheckpointError, match=f"{key} is not a copy of"):
            loads_as(KEYS | copy | {key: tensor + 1e-6})
        with pytest.raises(CheckpointError, match=f"misfit: {key}"):
            loads_as(KEYS | copy | {key: tensor[1:].clone()})


def test_the_decoder_bias_stands_in_for_the_bias() -> None:
    bias = torch.randn(11, generator=torch.Generator().manual_seed(3))
    tensors = KEYS | {"cls.predictions.decoder.bias": bias}
    del tensors["cls.predictions.bias"]
    weights, report = load_weights(in_memory(tensors), SHAPES)
    assert weights.mlm is not None
    assert torch.equal(weights.mlm.bias_V, bias)
    assert [row.key for row in report.of("renamed")] == ["cls.predictions.decoder.bias"]


def test_parts_that_were_not_asked_for_are_ignored_and_named() -> None:
    shapes = weight_shapes(CONFIG, ())
    extra = {"cls.predictions.decoder.weight": torch.zeros(1), "fit_denses.0.weight": torch.ones(1)}
    weights, report = load_weights(in_memory(KEYS | extra), shapes)
    assert weights.pooler is None
    ignored = {row.key: row.note for row in report.of("ignored")}
    assert set(ignored) == {k for k in KEYS if not k.startswith(("bert.emb", "bert.enc"))} | set(
        extra
    )
    assert ignored["fit_dense.weight"] == "the model was not asked for its part 'fit_dense'"
    assert "'mlm'" in ignored["cls.predictions.decoder.weight"]


# --- faults: every one is found, and named


@pytest.mark.parametrize("key", KEYS)
def test_each_missing_weight_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"^missing: {key}$"):
        loads_as({name: tensor for name, tensor in KEYS.items() if name != key})


@pytest.mark.parametrize("key", KEYS)
def test_each_weight_of_another_size_or_type_is_named(key: str) -> None:
    longer = torch.cat([KEYS[key], KEYS[key][:1]])
    flat = KEYS[key].reshape(1, -1)
    for wrong in (longer, flat, KEYS[key].to(torch.int8), KEYS[key].to(torch.float8_e4m3fn)):
        if wrong.shape == KEYS[key].shape and wrong.dtype == KEYS[key].dtype:
            continue
        with pytest.raises(CheckpointError, match=rf"^misfit: {key} \([a-z0-9_]+ of size \["):
            loads_as(KEYS | {key: wrong})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_each_weight_that_is_not_finite_is_named(key: str, value: float) -> None:
    poisoned = KEYS[key].clone()
    poisoned.view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=f"^not finite .*: {key}$"):
        loads_as(KEYS | {key: poisoned})


def test_a_number_that_float32_cannot_hold_is_not_finite() -> None:
    key = "bert.pooler.dense.bias"
    with pytest.raises(CheckpointError, match="not finite"):
        loads_as(KEYS | {key: torch.full((6,), 1e300, dtype=torch.float64)})


def test_an_unknown_key_and_a_layer_too_many_are_named() -> None:
    layer = "bert.encoder.layer.2.output.dense.bias"
    with pytest.raises(CheckpointError) as caught:
        loads_as(KEYS | {layer: torch.zeros(6), "lora.A": torch.zeros(1)})
    assert layer in str(caught.value)
    assert "lora.A (no weight of a BERT with this config)" in str(caught.value)


def test_all_faults_are_told_at_once_and_many_are_shortened() -> None:
    tensors = {"a": torch.zeros(1), "bert.pooler.dense.bias": torch.zeros(1)}
    report = match_keys(in_memory(tensors), SHAPES)
    text = report.explained()
    assert text.startswith("missing: ")
    assert "unexpected: a" in text
    assert "misfit: bert.pooler.dense.bias (float32 of size [1], but must be floats" in text
    assert f"and {len(KEYS) - 1 - 16} more" in text
    assert shortened(["x"] * 3) == "x, x, x"


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


# --- files


def test_a_folder_round_trip_is_exact(tmp_path: Path) -> None:
    save_folder(tmp_path / "new" / "model", CONFIG, FULL)
    folder = tmp_path / "new" / "model"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert same(load_weights(stored_in(folder), SHAPES)[0], FULL)
    loaded = read_config(folder)
    assert loaded.to_dict() == CONFIG.to_dict() | {"dtype": "float32"}


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
    write_shards(tmp_path)
    assert same(load_weights(stored_in(tmp_path), SHAPES)[0], FULL)


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
    with pytest.raises(CheckpointError, match=f"do not agree on who holds {key}"):
        stored_in(tmp_path)
    write_index(tmp_path, {name: file for name, file in file_of.items() if name != key})
    with pytest.raises(CheckpointError, match=f"do not agree on who holds {key}"):
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
        pytest.raises(CheckpointError, match="no table of names"),
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
        ('{"vocab_size": 30522, "vocab_size": 1000000000000}', "'vocab_size' is there twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is there twice"),
        ('{"layer_norm_eps": NaN}', "NaN is no finite number"),
        ('{"layer_norm_eps": -Infinity}', "-Infinity is no finite number"),
        ('{"layer_norm_eps": 1e400}', "1e400 is no finite number"),
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
        "there is no folder 'google-bert/bert-base-uncased', and no model of that id could be had "
        "from huggingface.co (ConnectionError: Name or service not known)"
    )


def test_the_cache_alone_is_asked_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"could be had from the cache \("):
        hub.model_folder("no-owner-of-this-name/no-model", local_files_only=True)


@pytest.mark.real
def test_the_real_teacher_matches_key_by_key(teacher_dir: Path) -> None:
    config = read_config(teacher_dir)
    stored = stored_in(teacher_dir)
    weights, report = load_weights(stored, weight_shapes(config))
    assert len(report.of("used")) == 6 * 16 + 5 + 2
    assert [row.key for row in report.rows if row.status != "used"] == ["embeddings.position_ids"]
    assert sum(tensor.numel() for _, tensor in named_tensors(weights)) == 22_713_216
