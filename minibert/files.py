"""Reading and writing model folders: strict JSON, weights in three formats, all-or-nothing saves.

A folder holds `config.json`, the weights and the vocabulary, named as `transformers` names them.
"""

import json
import math
import os
import re
import shutil
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.checkpoint import Stored, save_weights, shortened, stored_tensors
from minibert.config import BertConfig, CheckpointError
from minibert.packed import packed_file, with_unpacked
from minibert.parameters import BertWeights
from minibert.writing import flush

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PACKED_FILE = "model.packed.safetensors"  # no name that transformers would open
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, strictly: no key twice, no NaN or infinity.

    Raises
        CheckpointError  the file is missing or does not hold such an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} occurs twice")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{number} is not finite")
        return float(number)

    try:
        values = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=unique,
            parse_float=finite,
            parse_constant=finite,
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path} cannot be read: {reason}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not a JSON object")
    return values


def read_config(folder: Path) -> BertConfig:
    """The config of a model folder.

    Raises
        CheckpointError  there is none, or it asks for something that minibert does not compute.
    """
    values = read_json(folder / CONFIG_FILE)
    if values.get("model_type") == "encoder-decoder":
        raise CheckpointError(
            f"{folder} is a translator, not a BERT; it is for minibert translate, export, and "
            "evaluate --task translation"
        )
    try:
        return BertConfig.from_dict(values)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from None


def stored_in(folder: Path) -> dict[str, Stored]:
    """Name, size and type of every tensor of a model folder; no number is read yet.

    The first of these that exists is read: `model.safetensors`, the packed file, an index of
    several files, `pytorch_model.bin`. The last is a pickle: it is read with `weights_only=True`
    and a warning, and never in place of a damaged file.

    Raises
        CheckpointError  there are no weights in the folder, or they are damaged.
    """
    for name, read in READERS.items():
        if (folder / name).exists():
            return read(folder / name)
    raise CheckpointError(
        f"{folder} holds no weights: it needs {WEIGHTS_FILE}, {INDEX_FILE} or {PICKLE_FILE}"
    )


def bytes_of_weights(folder: Path) -> int:
    """The size of the files that `stored_in` reads."""
    path = next(folder / name for name in READERS if (folder / name).exists())
    if path.name != INDEX_FILE:
        return path.stat().st_size
    shards = set(read_json(path)["weight_map"].values())
    return sum((folder / name).stat().st_size for name in shards)


def _stored_packed(path: Path) -> dict[str, Stored]:
    stored = stored_tensors(path)
    with safe_open(path, framework="pt") as file:
        known = (file.metadata() or {}).get("checksum")
    try:
        if known != str(checksum({key: part.read() for key, part in stored.items()})):
            raise CheckpointError("damaged, its checksum is wrong; export it again")
        return with_unpacked(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _stored_in_shards(path: Path) -> dict[str, Stored]:
    file_of_key = read_json(path).get("weight_map")
    if not isinstance(file_of_key, dict) or not file_of_key:
        raise CheckpointError(f"{path} has no weight_map of keys and file names")
    stored: dict[str, Stored] = {}
    for name in sorted({str(name) for name in file_of_key.values()}):
        # A plain name: an index must not lead out of its own folder.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
            raise CheckpointError(f"{path}: {name!r} is not the name of a file beside it")
        shard = stored_tensors(path.parent / name)
        differ = shard.keys() ^ {key for key, file in file_of_key.items() if file == name}
        if differ:
            keys = shortened(sorted(differ))
            raise CheckpointError(f"{path} and {name} disagree on which holds {keys}")
        stored |= shard
    return stored


def _stored_in_pickle(path: Path) -> dict[str, Stored]:
    warnings.warn(
        f"{path.name} is a pickle, a format that can carry code; prefer {WEIGHTS_FILE}",
        stacklevel=2,
    )

    @cache
    def load(device: str) -> dict[str, Tensor]:
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # a damaged pickle can raise anything at all
            reason = f"it is damaged or holds more than tensors ({type(error).__name__})"
            raise CheckpointError(f"{path} cannot be read: {reason}") from None

    sizes = load("meta")  # names, sizes and types, without storage
    if not isinstance(sizes, dict) or not all(isinstance(t, Tensor) for t in sizes.values()):
        raise CheckpointError(f"{path} is not a dict of tensors")
    file_size = path.stat().st_size
    for key, tensor in sizes.items():
        if tensor.numel() * tensor.element_size() > file_size:
            raise CheckpointError(f"{path}: {key} claims to be larger than the whole file")
    return {
        str(key): Stored(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            partial(lambda name: load("cpu")[name], key),
        )
        for key, tensor in sizes.items()
    }


# The first that exists is read.
READERS = {
    WEIGHTS_FILE: stored_tensors,
    PACKED_FILE: _stored_packed,
    INDEX_FILE: _stored_in_shards,
    PICKLE_FILE: _stored_in_pickle,
}


def save_folder(
    folder: Path,
    config: BertConfig,
    weights: BertWeights,
    add_files: Callable[[Path], None] = lambda staged: None,
    packed: bool = False,
) -> None:
    """Write a BERT to a folder, with the files that `add_files` writes into the folder it is given.

    Raises
        OSError  the disk is full or not writable; the model that was there is untouched.
    """
    write = partial(save_weights, weights=weights)
    save_whole(folder, _stored_config(config, weights), write, add_files, packed)


def save_whole(
    folder: Path,
    config: Mapping[str, Any],
    write_weights: Callable[[Path], None],
    add_files: Callable[[Path], None],
    packed: bool = False,
) -> None:
    """Write a model's config, weights and other files, all of them or nothing.

    `packed` writes sparse tensors as `minibert.packed` describes.

    Everything is first written in full to a hidden folder inside and flushed, then renamed, the
    weights last. Whenever somebody looks, or the power fails, the folder holds the old model or the
    new one or, if the config or the form of the weights changes, for a moment no weights: never the
    weights of one with the config of the other.

    Raises
        OSError  the disk is full or not writable; the model that was there is untouched.
    """
    weights_file = PACKED_FILE if packed else WEIGHTS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".saving-*"):
        shutil.rmtree(leftover)  # of a process that was killed
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        staged = Path(name)
        add_files(staged)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (staged / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_weights(staged / weights_file)
        if packed:
            tensors = packed_file(staged / weights_file)
            save_tensors(staged / weights_file, tensors, checksum=str(checksum(tensors)))
        # safetensors makes its file private; those who may read the config may read it too.
        (staged / weights_file).chmod((staged / CONFIG_FILE).stat().st_mode)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        for file in files:
            flush(file)
        places = {file: folder / file.relative_to(staged) for file in files}
        weights = places.pop(staged / weights_file)
        changes = any(_bytes(place) != file.read_bytes() for file, place in places.items())
        other_form = {WEIGHTS_FILE, PACKED_FILE} - {weights_file}
        for file_name in READERS if changes else other_form:
            (folder / file_name).unlink(missing_ok=True)
        for file, place in places.items():
            place.parent.mkdir(exist_ok=True)
            os.replace(file, place)
        os.replace(staged / weights_file, weights)
    for place in {folder, *(place.parent for place in places.values())}:
        flush(place)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors to a safetensors file, with one entry of `metadata` in its header.

    One only, as the library writes several in random order; by default it is the `format`, "pt".

    Raises
        OSError  the disk is full or not writable.
    """
    ready = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        save_file(ready, path, metadata=metadata or {"format": "pt"})
    except SafetensorError as error:  # what safetensors raises for a full disk
        raise OSError(f"{path} cannot be written: {error}") from None


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """A number that a flipped bit changes; the file format itself would not detect one."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _stored_config(config: BertConfig, weights: BertWeights) -> dict[str, Any]:
    """The config as it is written: with the dtype that the weights have now.

    The config of a folder that once held float16 says so; transformers would round to it again.
    """
    values = config.to_dict()
    values.pop("torch_dtype", None)
    return values | {"dtype": str(weights.embeddings.word_VD.dtype).removeprefix("torch.")}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
