"""Which head a folder holds, and loading a whole model with the head that is wanted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minibert.checkpoint import (
    KeyReport,
    LoadReport,
    Stored,
    key_of,
    load_weights,
    match_keys,
    path_of,
)
from minibert.config import BertConfig, CheckpointError
from minibert.data.tokenizer import Tokenizer
from minibert.files import read_config, stored_in
from minibert.hub import VOCABULARY_FILES
from minibert.parameters import BertWeights, initial_weights, named_tensors, weight_shapes


class Head(NamedTuple):
    """What `transformers` calls a model with this head, and which parts it has."""

    architecture: str
    parts: tuple[str, ...]


HEADS: Mapping[str, Head] = {
    "encoder": Head("BertModel", ("pooler",)),
    "mlm": Head("BertForMaskedLM", ("mlm",)),
    "nsp": Head("BertForNextSentencePrediction", ("pooler", "nsp")),
    "pretraining": Head("BertForPreTraining", ("pooler", "mlm", "nsp")),
    "classification": Head("BertForSequenceClassification", ("pooler", "classifier")),
    "regression": Head("BertForSequenceClassification", ("pooler", "classifier")),
    "token_classification": Head("BertForTokenClassification", ("classifier",)),
    "question_answering": Head("BertForQuestionAnswering", ("span",)),
    "multiple_choice": Head("BertForMultipleChoice", ("pooler", "classifier")),
}


def head_named_in(config: BertConfig) -> str:
    """The head that `architectures` names; with a single label a classifier is a regression.

    Raises
        CheckpointError  minibert knows no model of that name.

    >>> head_named_in(BertConfig(architectures=("BertForMaskedLM",)))
    'mlm'
    """
    regresses = config.problem_type == "regression" or config.num_labels == 1
    if "BertForSequenceClassification" in config.architectures and regresses:
        return "regression"
    for name, head in HEADS.items():
        if head.architecture in config.architectures:
            return name
    known = ", ".join(dict.fromkeys(head.architecture for head in HEADS.values()))
    raise CheckpointError(
        f"architectures is {', '.join(config.architectures)}, but minibert knows {known}; "
        "say which part to load with head, such as head='encoder'"
    )


def head_shapes(
    config: BertConfig, head: str, parts: Sequence[str] | None = None, fit_width: int | None = None
) -> BertWeights:
    """The shapes of a model with this head, or of only the given parts of it.

    >>> head_shapes(BertConfig(), "multiple_choice").classifier.weight_OI.shape
    torch.Size([1, 768])
    """
    if head == "multiple_choice":  # one number for each choice, however many labels are named
        config = config.with_labels(("score",))
    return weight_shapes(config, tuple(HEADS[head].parts if parts is None else parts), fit_width)


def shapes_in_file(
    config: BertConfig,
    head: str,
    stored: Mapping[str, Stored],
    new_head: bool = False,
    fit_dense: bool = False,
) -> BertWeights:
    """The shapes that a file has to provide for this head.

    An encoder takes a pooler only if the file has one, since many are trained without; so does a
    new head, whose other parts are drawn at random.

    Raises
        CheckpointError  a regression has several outputs.
    """
    if head == "regression" and config.num_labels != 1:
        raise CheckpointError(
            f"a regression with {config.num_labels} outputs; minibert knows regressions with one"
        )
    paths = [path_of(key) or "" for key in stored]
    has_pooler = any(path.startswith("pooler.") for path in paths)
    parts = HEADS[head].parts
    if new_head or head == "encoder":
        parts = ("pooler",) if has_pooler and "pooler" in parts else ()
    width = None
    if fit_dense:
        matrix = stored.get("fit_dense.weight")
        if matrix is None or len(matrix.shape) != 2:
            raise CheckpointError("fit_dense was asked for, but the file has no fit_dense.weight")
        width = matrix.shape[0]
    return head_shapes(config, head, parts, width)


class Loaded(NamedTuple):
    """A model out of a folder, without its vocabulary."""

    config: BertConfig
    weights: BertWeights
    head: str
    report: LoadReport


def load_model(
    folder: Path,
    head: str | None = None,
    new_head: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    fit_dense: bool = False,
) -> Loaded:
    """Read config and weights of a folder; the arguments are those of `Bert.from_pretrained`.

    Raises
        CheckpointError  the folder is damaged or incomplete, or holds something that is not part
                         of this model; all keys are named.
    """
    for choice in (head, new_head):
        if choice is not None:
            check_head(choice)
    if labels is not None and new_head is None:
        raise ValueError("labels are those of a new head; give new_head, too")
    config, stored = read_config(folder), stored_in(folder)
    if new_head is not None:
        config = _with_labels(config, new_head, labels)
    advice = ""
    try:
        head = new_head or head or head_named_in(config)
        shapes = shapes_in_file(config, head, stored, new_head is not None, fit_dense)
        advice = _advice(stored, shapes, head)
        weights, report = load_weights(stored, shapes, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}{advice}") from None
    if new_head is not None:
        weights, report = _with_new_parts(config, new_head, weights, report, seed, dtype)
    return Loaded(config, weights, head, report)


class Inspection(NamedTuple):
    """What a folder holds, whether or not it can be loaded: `error` says why not."""

    config: BertConfig
    head: str
    stored: dict[str, Stored]
    report: LoadReport
    error: str | None


def inspect_folder(folder: Path, head: str | None = None) -> Inspection:
    """Match every key and check every number of a folder, without giving up at the first fault.

    Raises
        CheckpointError  there is no config, or no weights, that can be read at all.
    """
    config, stored = read_config(folder), stored_in(folder)
    head = head or head_named_in(config)
    check_head(head)
    shapes = shapes_in_file(config, head, stored)
    report, error = match_keys(stored, shapes), None
    try:
        report = load_weights(stored, shapes)[1]
    except CheckpointError as fault:
        error = f"{folder}: {fault}{_advice(stored, shapes, head)}"
    notes = vocabulary_notes(folder)
    try:
        if not notes:
            check_vocabulary(Tokenizer.from_folder(folder), config)
    except CheckpointError as fault:
        error = error or str(fault)
    report = report._replace(notes=(*report.notes, *notes))
    return Inspection(config, head, stored, report, error)


def vocabulary_notes(folder: Path) -> tuple[str, ...]:
    """A remark where a folder has no vocabulary."""
    if any((folder / file).exists() for file in VOCABULARY_FILES[:2]):
        return ()
    return ("neither vocab.txt nor tokenizer.json is there, so the model cannot read text",)


def check_vocabulary(tokenizer: Tokenizer | None, config: BertConfig) -> None:
    """Refuse a vocabulary with more pieces than the model has word vectors."""
    if tokenizer is not None and len(tokenizer.pieces) > config.vocab_size:
        raise CheckpointError(
            f"the vocabulary has {len(tokenizer.pieces)} pieces, but the model has only "
            f"{config.vocab_size} word vectors; this is the vocabulary of another model"
        )


def check_head(head: str) -> None:
    """Refuse a head that does not exist."""
    if head not in HEADS:
        raise ValueError(f"there is no head {head!r}; known: {', '.join(HEADS)}")


def _with_labels(config: BertConfig, head: str, labels: Sequence[str] | None) -> BertConfig:
    """The config of a model that gets a new head."""
    names = tuple(labels or config.id2label.values())
    if head == "regression":
        return config.with_labels(names if len(names) == 1 else ("LABEL_0",), "regression")
    kind = "single_label_classification" if head == "classification" else None
    return config.with_labels(names, kind)


def _with_new_parts(
    config: BertConfig,
    head: str,
    weights: BertWeights,
    report: LoadReport,
    seed: int,
    dtype: torch.dtype,
) -> tuple[BertWeights, LoadReport]:
    """Draw the parts of the head that the file did not deliver, and report them as new."""
    generator = torch.Generator().manual_seed(seed)
    shapes: Any = head_shapes(config, head)
    rows = []
    for part in HEADS[head].parts:
        if getattr(weights, part) is None:
            fresh = initial_weights(
                getattr(shapes, part), config.initializer_range, generator, dtype
            )
            values: dict[str, Any] = {part: fresh}
            weights = weights._replace(**values)
            paths = [path for path, _ in named_tensors(fresh, part)]
            rows += [
                KeyReport(key_of(path), "new", path, f"drawn from seed {seed}") for path in paths
            ]
    return weights, report._replace(rows=(*report.rows, *rows))


def _advice(stored: Mapping[str, Stored], shapes: BertWeights, head: str) -> str:
    """How to load anyway, if the only fault is that the head is missing."""
    faults = match_keys(stored, shapes).faults
    lacking = [row.path for row in faults if row.status == "missing"]
    of_head = [path for path in lacking if path.partition(".")[0] in HEADS[head].parts]
    if not faults or len(of_head) < len(faults):
        return ""
    return f"; load with head='encoder', or give it an untrained one with new_head={head!r}"
