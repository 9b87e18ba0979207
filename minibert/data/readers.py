"""Readers of labelled sentences: the tasks of GLUE, and any classification or regression.

A reader counts what it reads and stops at the first bad row, with file, line number and reason:
a row skipped in silence is a score that nobody can reproduce. Neither torch nor numpy is loaded.
"""

import dataclasses
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minibert.data.tables import (
    COLA,
    COLUMNS,
    FORMATS,
    DataError,
    decode,
    read_bytes,
    read_table,
    split_lines,
)


class Example(NamedTuple):
    """One row: a sentence or a pair of them, and its class index, its score, or None."""

    first: str
    second: str | None
    label: int | float | None


@dataclass(frozen=True)
class Task:
    """What is to be predicted, and how success is measured.

    `label_names` is empty for a regression, and for `classify` until a training file names them;
    `select_by` is the metric that picks the best model on the development set.
    """

    name: str
    regression: bool
    pair: bool
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    select_by: str


# Tasks and metrics of GLUE: Wang et al. 2018, arXiv:1804.07461, table 1; label names: the card of
# the hub's data set nyu-mll/glue. F1 counts class 1.
TASKS = {
    task.name: task
    for task in (
        Task("sst2", False, False, ("negative", "positive"), ("accuracy",), "accuracy"),
        Task(
            "cola", False, False, ("unacceptable", "acceptable"),
            ("matthews_correlation", "accuracy"), "matthews_correlation",
        ),
        Task("mrpc", False, True, ("not_equivalent", "equivalent"), ("f1", "accuracy"), "f1"),
        Task("stsb", True, True, (), ("pearson", "spearman"), "pearson"),
        Task("classify", False, False, (), ("accuracy",), "accuracy"),
        Task("regress", True, False, (), ("pearson", "spearman"), "pearson"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """What one file holds; `task` knows the label names and whether the rows are pairs."""

    path: Path
    task: Task
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def summary(self) -> str:
        """What was read, in one line: file, task, rows, and rows of each class."""
        counts = Counter(example.label for example in self.examples)
        classes = [f"{name}: {counts[i]:,}" for i, name in enumerate(self.task.label_names)]
        listed = f" ({', '.join(classes)})" if classes else ""
        return f"{self.path}: {self.task.name}, {len(self):,} rows{listed}"


SPLITS = {"train": (("train",),), "dev": (("dev", "validation", "valid", "val"), ("test",))}
# Stricter than float(), which also takes "nan", "1_0" and the digits of other scripts.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def find_split(folder_or_file: str | Path, split: str) -> Path:
    """The training ("train") or development ("dev") file of a folder; a file stands for itself.

    A development file is called dev, validation, valid or val; test serves where there is none.
    Two candidates are an error: which of them to trust is not ours to guess.
    """
    path = Path(folder_or_file)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in FORMATS and f.is_file())
    for names in SPLITS[split]:
        # The Hugging Face hub numbers the pieces of a parquet file, also when there is one.
        found = [f for f in files if f.stem.lower().removesuffix("-00000-of-00001") in names]
        if len(found) > 1:
            listed = ", ".join(file.name for file in found)
            raise DataError(f"{path}: {len(found)} files could be {split}: {listed}; give one file")
        if found:
            return found[0]
    wanted = " or ".join(name for group in SPLITS[split] for name in group)
    listed = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
    raise DataError(
        f"{path}: no {split} file; need {wanted} with the ending "
        f"{' or '.join(FORMATS)}; the folder holds {listed}"
    )


def read_dataset(
    path: str | Path,
    task: str | None = None,
    label_names: Sequence[str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read and check a whole labelled file; `limit` then keeps its first rows.

    Without `task` the header decides (`find_task`). `label_names` are the classes of a training
    file or of a model: a label must be one of them or, where no name is itself a number, an index
    into them. Without them `classify` collects the names, sorted, from the whole file.

    Raises
        DataError  the file or one of its rows cannot be used: file, line number, reason.
    """
    path = Path(path)
    if task is not None and task not in TASKS:
        raise DataError(f"task {task!r} is unknown; choose from {', '.join(TASKS)}")
    if limit is not None and limit < 1:
        raise DataError(f"{path}: a limit of {limit} rows was asked for; it must be at least 1")
    table = read_table(path, task)
    spec = TASKS[task or find_task(table.header)]
    names = _class_names(spec, path, label_names)
    columns = {what: _find_column(path, table.header, what) for what in COLUMNS}
    pair = columns["second sentence"] is not None
    if spec.name not in ("classify", "regress") and pair != spec.pair:
        raise DataError(
            f"{path}: {spec.name} needs {'two sentences' if spec.pair else 'one sentence'} a row, "
            f"but the columns are {', '.join(table.header)}"
        )
    examples = []
    for number, row in table.rows:
        try:
            texts = {w: None if c is None else cell_text(row[c], w) for w, c in columns.items()}
            label = _label(str(texts["label"]), spec, names, guessed=task is None)
        except ValueError as error:
            raise DataError(f"{path}, {table.unit} {number}: {error}") from None
        examples.append(Example(str(texts["sentence"]), texts["second sentence"], label))
    if not examples:
        raise DataError(f"{path}: the file holds a header and no row; at least one is needed")
    if not spec.regression and not names:
        names = _collect_names(path, {str(example.label) for example in examples})
        index = {name: i for i, name in enumerate(names)}
        examples = [e._replace(label=index[str(e.label)]) for e in examples]
    spec = dataclasses.replace(spec, label_names=names, pair=pair)
    return Dataset(path, spec, tuple(examples[:limit]))


def find_task(header: tuple[str, ...]) -> str:
    """The task that the columns clearly identify, or else the general `classify` or `regress`.

    SST-2's header, sentence and label, is also that of any other classification of sentences. It
    reads as `classify`, which gives the same class indices and the same metric.

    >>> find_task(("sentence1", "sentence2", "score"))
    'regress'
    """
    if header == COLA:
        return "cola"
    if {"quality", "#1 string", "#2 string"} <= set(header):
        return "mrpc"
    if {"genre", "sentence1", "sentence2", "score"} <= set(header):
        return "stsb"
    return "regress" if "score" in header else "classify"


def read_texts(path: str | Path) -> list[str]:
    """The lines of a plain text file ("-" is standard input), for prediction.

    A blank line is an error, for answers are matched to lines by their number.
    """
    standard_input = str(path) == "-"
    name = "standard input" if standard_input else str(path)
    if standard_input and sys.stdin is None:
        raise DataError("standard input is closed; give texts as arguments, or --file FILE")
    text = decode(sys.stdin.buffer.read() if standard_input else read_bytes(Path(path)), name)
    texts = []
    for number, line in enumerate(split_lines(text), 1):
        try:
            texts.append(cell_text(line, "text"))
        except ValueError as error:
            raise DataError(f"{name}, line {number}: {error}") from None
    return texts


# --- What a row means ------------------------------------------------------------------------


def _find_column(path: Path, header: tuple[str, ...], what: str) -> str | None:
    found = [name for name in header if name in COLUMNS[what]]
    if len(found) > 1:
        raise DataError(f"{path}: columns {', '.join(found)} could all be the {what}; keep one")
    if not found and what != "second sentence":
        hint = "; to read unlabelled text, use predict" if what == "label" else ""
        raise DataError(
            f"{path}: no column for the {what}: need {' or '.join(COLUMNS[what])}, "
            f"but the columns are {', '.join(name[:40] for name in header)}{hint}"
        )
    return found[0] if found else None


def cell_text(value: Any, what: str) -> str:
    """The text of one cell or line; a ValueError says what is wrong with it."""
    if isinstance(value, float) and math.isnan(value):  # how pandas writes that there is none
        raise ValueError(f"the {what} is missing, NaN")
    if what == "label" and isinstance(value, bool | int | float):
        value = json.dumps(value)  # in JSON and parquet labels have a type; in TSV they are text
    if not isinstance(value, str):
        raise ValueError(f"the {what} is {value!r}, but must be text")
    if "\0" in value:
        raise ValueError(f"the {what} holds a NUL character, so the file may be damaged")
    value.encode()  # half a surrogate pair, hidden in a JSON escape, would stop the tokenizer later
    if not (text := value.strip()):
        raise ValueError(f"the {what} is empty")
    return text


def _label(text: str, task: Task, names: tuple[str, ...], guessed: bool) -> Any:
    if task.regression:
        value = float(text) if NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            raise ValueError(f"the label is {text[:40]!r}, but {task.name} needs a number")
        if task.name == "stsb" and not 0 <= value <= 5:
            raise ValueError(f"the label is {text}, but a score of stsb lies between 0 and 5")
        return value
    if names:
        if text in names:
            return names.index(text)
        if text in map(str, range(len(names))) and not any(map(NUMBER.fullmatch, names)):
            return int(text)
        raise ValueError(f"the label is {text[:40]!r}, but the classes are {', '.join(names)}")
    if guessed and NUMBER.fullmatch(text) and not text.lstrip("+-").isdigit():
        raise ValueError(
            f"the label {text} may be a class or a score: use task classify or regress"
        )
    return text  # becomes an index when the whole file has been seen


def _class_names(task: Task, path: Path, given: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(given or task.label_names)
    if task.label_names and len(names) != len(task.label_names):
        raise DataError(
            f"{path}: {task.name} has {len(task.label_names)} classes, but {len(names)} were "
            f"given: {', '.join(names)}"
        )
    if task.regression and names:
        raise DataError(
            f"{path}: {task.name} has scores, but was given classes: {', '.join(names)}"
        )
    return names


def _collect_names(path: Path, found: set[str]) -> tuple[str, ...]:
    if len(found) < 2:
        raise DataError(f"{path}: every label is {min(found)!r}; a classifier needs two classes")
    numeric = all(re.fullmatch(r"[+-]?\d{1,18}", name, re.ASCII) for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if numeric else 0, name)))
