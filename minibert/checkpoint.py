"""Checkpoints: which key of a file is which weight, and loading without surprises.

Keys, sizes and types are those of `transformers`, so either program opens the other's files.
Nothing is allocated before every size has been compared with what the model needs, and no key is
skipped silently: the `LoadReport` has a row for each.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import CheckpointError
from minibert.parameters import BertWeights, named_tensors, with_tensors

# The one table that maps our names to those of `transformers`; # is the number of a layer.
TENSORS = {
    "embeddings.word_VD": "bert.embeddings.word_embeddings.weight",
    "embeddings.position_PD": "bert.embeddings.position_embeddings.weight",
    "embeddings.type_TD": "bert.embeddings.token_type_embeddings.weight",
    "mlm.bias_V": "cls.predictions.bias",
}
NORMS = {
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "blocks.#.attention_norm": "bert.encoder.layer.#.attention.output.LayerNorm",
    "blocks.#.output_norm": "bert.encoder.layer.#.output.LayerNorm",
    "mlm.norm": "cls.predictions.transform.LayerNorm",
}
LINEARS = {
    "blocks.#.attention.query": "bert.encoder.layer.#.attention.self.query",
    "blocks.#.attention.key": "bert.encoder.layer.#.attention.self.key",
    "blocks.#.attention.value": "bert.encoder.layer.#.attention.self.value",
    "blocks.#.attention.output": "bert.encoder.layer.#.attention.output.dense",
    "blocks.#.intermediate": "bert.encoder.layer.#.intermediate.dense",
    "blocks.#.output": "bert.encoder.layer.#.output.dense",
    "pooler": "bert.pooler.dense",
    "mlm.transform": "cls.predictions.transform.dense",
    "nsp": "cls.seq_relationship",
    "classifier": "classifier",
    "span": "qa_outputs",
    "fit_dense": "fit_dense",
}
KEY_OF_PATH = (
    TENSORS
    | {f"{path}.gain_D": f"{key}.weight" for path, key in NORMS.items()}
    | {f"{path}.bias_D": f"{key}.bias" for path, key in NORMS.items()}
    | {f"{path}.weight_OI": f"{key}.weight" for path, key in LINEARS.items()}
    | {f"{path}.bias_O": f"{key}.bias" for path, key in LINEARS.items()}
)
PATH_OF_KEY = {key: path for path, key in KEY_OF_PATH.items()}

# What some files store twice: the key of the copy, and the weight that it must equal.
COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_VD",
    "cls.predictions.decoder.bias": "mlm.bias_V",
}
FAULTS = ("missing", "unexpected", "misfit")
OPTIONAL_PARTS = frozenset(BertWeights._field_defaults)
FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
TYPES = FLOATS | {"I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class Stored(NamedTuple):
    """One tensor of a file: its size and type are known, its numbers are still on disk."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


class KeyReport(NamedTuple):
    """What becomes of one key: used, renamed, ignored, new, or a fault, and why.

    Faults are missing, unexpected and misfit. `path` is the place in `BertWeights`; an ignored key
    that has one is a copy and must equal the weight there.
    """

    key: str
    status: str
    path: str = ""
    note: str = ""


class LoadReport(NamedTuple):
    """One row for each key of the file and for each weight that the file lacks, and remarks."""

    rows: tuple[KeyReport, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, *statuses: str) -> tuple[KeyReport, ...]:
        """The rows with one of these statuses."""
        return tuple(row for row in self.rows if row.status in statuses)

    @property
    def faults(self) -> tuple[KeyReport, ...]:
        """The rows that prevent loading."""
        return self.of(*FAULTS)

    def explained(self) -> str:
        """All faults in one sentence."""
        parts = []
        for status in FAULTS:
            names = [f"{row.key} ({row.note})" if row.note else row.key for row in self.of(status)]
            if names:
                parts.append(f"{status}: {shortened(names)}")
        return "; ".join(parts)


def key_of(path: str, prefix: str = "bert.") -> str:
    """The checkpoint key of the weight at a path of `BertWeights`.

    A model without a head is stored without a prefix: `prefix=""`.

    Raises
        KeyError  the path is no weight of a BERT.

    >>> key_of("blocks.3.attention.query.weight_OI")
    'bert.encoder.layer.3.attention.self.query.weight'
    """
    pattern, number = _split_number(path)
    key = KEY_OF_PATH[pattern].replace("#", number)
    return prefix + key.removeprefix("bert.") if key.startswith("bert.") else key


def path_of(key: str) -> str | None:
    """The path in `BertWeights` of a checkpoint key in any of its spellings; None if it has none.

    The prefix `bert.` may be missing, and `LayerNorm.gamma` and `LayerNorm.beta` are read as
    weight and bias, but only there: elsewhere `gamma` is another model's parameter.

    >>> path_of("embeddings.LayerNorm.gamma"), path_of("encoder.gamma")
    ('embeddings.norm.gain_D', None)
    """
    if key.startswith(("embeddings.", "encoder.", "pooler.")):
        key = "bert." + key
    pattern, number = _split_number(_modern(key))
    path = PATH_OF_KEY.get(pattern)
    if path is None or ("#" in path) != bool(number):
        return None
    return path.replace("#", number)


def _modern(key: str) -> str:
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if key.endswith(f".LayerNorm.{old}"):
            key = key.removesuffix(old) + new
    return key


def _split_number(name: str) -> tuple[str, str]:
    """A name with its layer number replaced by #, and the number."""
    match = re.search(r"\.(0|[1-9][0-9]{0,5})\.", name)
    if not match:
        return name, ""
    return name[: match.start(1)] + "#" + name[match.end(1) :], match[1]


def match_keys(stored: Mapping[str, Stored], shapes: BertWeights) -> LoadReport:
    """Compare what a file holds with what a model needs, from names, sizes and types alone.

    Only keys known to be harmless are ignored: the buffer `position_ids`, a second copy of a tied
    weight, parts that the model was not asked for, and projections of another distillation
    (`fit_denses`). Any other mismatch is a fault.

    >>> from minibert.parameters import LinearWeights
    >>> shapes = BertWeights((), (), pooler=LinearWeights(torch.empty(2, 3), torch.empty(2)))
    >>> match_keys({"pooler.dense.weight": Stored((2, 3), "float32", lambda: None)}, shapes).faults
    (KeyReport(key='bert.pooler.dense.bias', status='missing', path='pooler.bias_O', note=''),)
    """
    wanted = {path: tuple(tensor.shape) for path, tensor in named_tensors(shapes)}
    rows: list[KeyReport] = []
    found: dict[str, str] = {}
    for key in sorted(stored):
        row = _match_key(key, stored, wanted)
        if row.status in ("used", "renamed") and found.setdefault(row.path, key) != key:
            row = row._replace(status="unexpected", note=f"{found[row.path]} is the same weight")
        rows.append(row)
    present = {row.path for row in rows if row.status in ("used", "renamed", "misfit")}
    missing = [KeyReport(key_of(path), "missing", path) for path in wanted if path not in present]
    return LoadReport((*rows, *missing))


def _match_key(
    key: str, stored: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]]
) -> KeyReport:
    if key.removeprefix("bert.") == "embeddings.position_ids":
        return KeyReport(key, "ignored", note="the buffer 0, 1, 2, …")
    if re.fullmatch(r"fit_denses\.[0-9]+\.(weight|bias)", key):
        return KeyReport(key, "ignored", note="projections of another distillation")
    path = path_of(key) or COPIES.get(key)
    part = "mlm" if key in COPIES else str(path).partition(".")[0]
    if part in OPTIONAL_PARTS and not any(name.startswith(f"{part}.") for name in wanted):
        return KeyReport(key, "ignored", note=f"the model was not asked for its part {part!r}")
    if path not in wanted:
        return KeyReport(key, "unexpected", note="no weight of a BERT with this config")
    assert path is not None
    shape, dtype, _ = stored[key]
    if shape != wanted[path] or dtype not in FLOATS.values():
        note = f"{dtype} of size {list(shape)}, but must be floats of size {list(wanted[path])}"
        return KeyReport(key, "misfit", path, note)
    if key in COPIES and (path != "mlm.bias_V" or "cls.predictions.bias" in stored):
        return KeyReport(key, "ignored", path, f"a copy of {key_of(path)}")
    if key in (key_of(path), key_of(path, prefix="")):
        return KeyReport(key, "used", path)
    return KeyReport(key, "renamed", path, f"the name today is {key_of(path)}")


def load_weights(
    stored: Mapping[str, Stored], shapes: BertWeights, dtype: torch.dtype = torch.float32
) -> tuple[BertWeights, LoadReport]:
    """Read exactly the weights of `shapes` (from `weight_shapes`) out of a file, as `dtype`.

    Accuracy
        |error| <= eps / 2 |x|, eps that of `dtype`; exact if the file's type is no wider than it

    Raises
        CheckpointError  a weight is missing, unexpected, of the wrong size or type, or not finite;
                         a copy of a tied weight differs from it; positions are not in order.

    >>> from minibert.parameters import LinearWeights
    >>> shapes = BertWeights((), (), span=LinearWeights(torch.empty(2, 3), torch.empty(2)))
    >>> load_weights({}, shapes)
    Traceback (most recent call last):
    minibert.config.CheckpointError: missing: qa_outputs.weight, qa_outputs.bias
    """
    report = match_keys(stored, shapes)
    if report.faults:
        raise CheckpointError(report.explained())
    rows = report.of("used", "renamed")
    # copy=True: what a file reader returns may be a view of the file itself.
    tensors = {row.path: stored[row.key].read().to(dtype, copy=True) for row in rows}
    bad = [row.key for row in rows if not _is_finite(tensors[row.path])]
    if bad:
        raise CheckpointError(f"not finite (NaN or infinity): {shortened(bad)}")
    for row in report.of("ignored"):
        expected = tensors.get(row.path)
        if row.key.endswith("position_ids"):
            expected = torch.arange(len(tensors["embeddings.position_PD"]))[None]
        if expected is not None and not _equal(stored[row.key].read(), expected):
            raise CheckpointError(f"{row.key} is not {row.note}, as it is in every BERT")
    types = Counter(stored[row.key].dtype for row in rows)
    own = str(dtype).removeprefix("torch.")
    notes = [
        f"{n} tensors of {name} were read as {own}" for name, n in types.items() if name != own
    ]
    return with_tensors(shapes, tensors), report._replace(notes=tuple(notes))


def _is_finite(x: Tensor) -> bool:
    """Whether no number is infinite or NaN (min and max return any NaN); no copy is made."""
    return x.numel() == 0 or bool(torch.isfinite(x.min()) and torch.isfinite(x.max()))


def _equal(copy: Tensor, original: Tensor) -> bool:
    same_size = copy.numel() == original.numel()
    return same_size and bool((copy.view(original.shape).to(original.dtype) == original).all())


def shortened(names: list[str], most: int = 16) -> str:
    """The names, joined by commas, at most `most` of them.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Name, size and type of every tensor in a safetensors file; no number is read yet.

    Raises
        CheckpointError  there is no such file, or it is damaged.

    >>> stored_tensors(Path("no such file"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    minibert.config.CheckpointError: no such file is missing, damaged or no safetensors: ...
    """
    try:
        file = safe_open(path, framework="pt")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {
            key: Stored(
                tuple(part.get_shape()),
                TYPES.get(part.get_dtype(), part.get_dtype()),
                partial(file.get_tensor, key),
            )
            for key, part in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is missing, damaged or no safetensors: {error}") from None


def save_weights(path: Path, weights: BertWeights) -> None:
    """Write the weights to a safetensors file under the keys of `transformers`.

    A model with a head has the prefix `bert.`, a bare one has none; a tied weight is stored once.

    Raises
        OSError  the disk is full or does not allow writing.

    >>> from tempfile import TemporaryDirectory
    >>> from minibert.config import BertConfig
    >>> from minibert.parameters import initial_weights, weight_shapes
    >>> shapes = weight_shapes(BertConfig(vocab_size=7, hidden_size=12, num_hidden_layers=1))
    >>> weights = initial_weights(shapes, 0.02, torch.Generator().manual_seed(0))
    >>> with TemporaryDirectory() as folder:
    ...     save_weights(Path(folder) / "model.safetensors", weights)
    ...     stored_tensors(Path(folder) / "model.safetensors")["pooler.dense.bias"].shape
    (12,)
    """
    has_head = any((weights.mlm, weights.nsp, weights.classifier, weights.span))
    prefix = "bert." if has_head else ""
    tensors = {
        key_of(name, prefix): tensor.detach().cpu().contiguous()
        for name, tensor in named_tensors(weights)
    }
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors raises for a full disk
        raise OSError(f"{path} cannot be written: {error}") from None
