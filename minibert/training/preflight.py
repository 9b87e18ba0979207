"""Before a distillation starts: read everything, say what will happen and why, refuse the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from minibert.config import BertConfig, CheckpointError
from minibert.data.readers import DataError, Dataset, Task, read_dataset
from minibert.data.tokenizer import Tokenizer
from minibert.distillation import layer_map
from minibert.hub import model_folder
from minibert.model import Bert
from minibert.pretrained import vocabulary_notes
from minibert.training.distil import INTERMEDIATE_TERMS, DistilOptions, check_heads
from minibert.training.evaluation import (
    evaluated,
    has_unnamed_labels,
    label_names_for,
    labels_of,
    measured,
)
from minibert.training.progress import Display
from minibert.training.students import new_student, student_config


class Pair(NamedTuple):
    """A teacher with its metrics on the task, the config of the future student, and the data."""

    teacher_folder: Path
    teacher: Bert
    teacher_metrics: dict[str, float]
    student: BertConfig
    train_set: Dataset
    dev_set: Dataset


def checked_pair(
    teacher_name: str,
    train_path: Path,
    dev_path: Path,
    task: str | None,
    student_shape: str,
    limit: int | None,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> Pair:
    """Read teacher and data, and say what applies.

    Raises
        CheckpointError  the teacher or the student does not fit the data, or each other.
        DataError        a file or a row cannot be used.
    """
    folder = model_folder(teacher_name)
    teacher = Bert.from_pretrained(folder).to(device)
    train_set = read_dataset(train_path, task, label_names_for(teacher, task), limit)
    dev_set = read_dataset(dev_path, train_set.task.name, train_set.task.label_names or None)
    display.say(train_set.summary())
    display.say(dev_set.summary())
    student = student_config(student_shape, teacher.config, options.dropout)
    losses_that_apply(student, teacher.config, options)  # refuses before time is spent
    metrics = check_teacher(teacher, train_set.task, dev_set, options.max_length)
    known = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    display.say(f"teacher on dev: {known}")
    for line in explained(student, teacher, options):
        display.say(line)
    if train_set.task.label_names and has_unnamed_labels(teacher.config):
        taken = "  ".join(f"{k} {name}" for k, name in enumerate(train_set.task.label_names))
        display.say(f"the teacher's labels have no names; they are taken as {taken}")
    return Pair(folder, teacher, metrics, student, train_set, dev_set)


def check_teacher(teacher: Bert, task: Task, dev_set: Dataset, max_length: int) -> dict[str, float]:
    """The teacher's metrics on the development set, if it is fit to teach this task.

    Raises
        CheckpointError  it has no classifier, other labels, or is no better than a constant answer.
        DataError        all texts have the same label or score.
    """
    metrics = evaluated(teacher, dev_set, max_length)
    labels_X = labels_of(dev_set)
    if len(labels_X.unique()) == 1:
        raise DataError(
            f"{dev_set.path}: every row has the same {'score' if task.regression else 'label'}, so "
            "a constant answer is right; add rows with others"
        )
    blind = 0.0  # the best score of a constant answer; for a regression, no correlation
    if not task.regression:
        for always_C in torch.eye(len(task.label_names)):
            constant = measured(task, always_C.repeat(len(labels_X), 1), labels_X)
            blind = max(blind, constant[task.select_by])
    if metrics[task.select_by] <= blind + 0.02:
        raise CheckpointError(
            f"the teacher's {task.select_by} on {dev_set.path} is {metrics[task.select_by]:.3f}, "
            f"but a constant answer already reaches {blind:.3f}: its head seems untrained, or its "
            "labels in another order; run minibert finetune on it first"
        )
    return metrics


def explained(student: BertConfig, teacher: Bert, options: DistilOptions) -> list[str]:
    """What a person should know before the run: vocabulary, labels, the map, and the losses.

    Raises
        CheckpointError  this student cannot be compared with this teacher, or not start this way.
    """
    rows = losses_that_apply(student, teacher.config, options)
    if options.intermediate.epochs:
        check_heads(student, teacher.config, options.term_weights)
    if options.start.folder is not None:
        _check_vocabulary(options.start.folder, teacher)
    layers = layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers)
    new_student(student, teacher.weights, 0, options.start, layers)  # or it says why not
    lines = []
    if teacher.tokenizer is not None:
        case = "lower case" if teacher.tokenizer.lowercase else "cased"
        lines.append(f"vocabulary: {len(teacher.tokenizer.pieces):,} pieces, {case}")
    if teacher.weights.classifier is not None and teacher.config.num_labels > 1:
        named = teacher.config.id2label.items()
        lines.append("labels: " + "  ".join(f"{number} {name}" for number, name in named))
    lines += drawn_map(student, teacher.config, layers)
    return lines + [f"  {name:<11} {use:<10} {why}" for name, use, why in rows]


def _check_vocabulary(folder: str, teacher: Bert) -> None:
    if vocabulary_notes(Path(folder)) or teacher.tokenizer is None:
        return
    if Tokenizer.from_folder(folder).pieces != teacher.tokenizer.pieces:
        raise CheckpointError(
            f"--init-student {folder} has another vocabulary than the teacher, so its embeddings "
            "are those of other words; start from a student of this teacher's vocabulary"
        )


def drawn_map(student: BertConfig, teacher: BertConfig, layers: Sequence[int]) -> list[str]:
    """The layer map as three lines: the teacher's layers above, what learns from them below.

    >>> teacher, student = BertConfig(num_hidden_layers=3), BertConfig(num_hidden_layers=2)
    >>> print(*drawn_map(student, teacher, (2, 3)), sep="\\n")
      teacher  emb   1   2   3   12 heads, 768 wide
                │        │   │
      student  emb       1   2   12 heads, 768 wide
    """
    learners = {0: "emb"} | {
        layer: ",".join(str(m) for m, g in enumerate(layers, 1) if g == layer) for layer in layers
    }
    columns = range(teacher.num_hidden_layers + 1)
    cells = [["emb", *map(str, columns[1:])], ["│" if c in learners else "" for c in columns],
             [learners.get(c, "") for c in columns]]  # fmt: skip
    widths = [max(len(row[c]) for row in cells) for c in columns]
    names = ("teacher", "", "student")
    sizes = [f"{c.num_attention_heads} heads, {c.hidden_size} wide" for c in (teacher, student)]
    lines = []
    for name, row, size in zip(names, cells, (sizes[0], "", sizes[1]), strict=True):
        drawn = "   ".join(cell.center(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {name:<7}  {drawn}   {size}".rstrip())
    return lines


def losses_that_apply(
    student: BertConfig, teacher: BertConfig, options: DistilOptions
) -> list[tuple[str, str, str]]:
    """One row per loss: its name, whether it is used, and why; heads that do not fit are refused.

    Raises
        CheckpointError  the layers or heads of this pair cannot be mapped.
    """
    try:
        layers = layer_map(student.num_hidden_layers, teacher.num_hidden_layers, options.layers)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    staged = options.intermediate.epochs > 0
    weights = options.term_weights
    _check_losses(student, teacher, options)
    widths = f"{student.hidden_size} wide, the teacher {teacher.hidden_size}"
    if student.hidden_size != teacher.hidden_size:
        widths += "; a learned map between"
    own, other = student.num_attention_heads, teacher.num_attention_heads
    heads = f"{own} heads, the teacher {other}"
    if own != other and other % own == 0:
        group = other // own
        means = (f"{n + 1} ← {n * group + 1}–{(n + 1) * group}" for n in range(own))
        heads += f"; each learns a mean: {', '.join(means)}"
    path = ", ".join(f"{m} ← {g}" for m, g in enumerate(layers, start=1))
    last = f"layer {len(layers)} ← {layers[-1]}"
    reasons = {
        "embedding": widths,
        "hidden": f"layers {path}",
        "attention": heads,
        "cosine": f"{last}, only the directions of states",
        "patient": f"[CLS] of layers {path.rpartition(', ')[0] or 'none'}",
        "minilm_v1": f"{last}, attention and value relations, head by head",
        "minilm_v2": f"{last}, query, key and value relations in any number of heads",
    }
    rows = []
    for name in INTERMEDIATE_TERMS:
        weight = getattr(weights, name)
        if weight or name in ("embedding", "hidden", "attention"):
            use = f"weight {weight:g}" if weight and staged else "off"
            rows.append((name, use, reasons[name]))
    rows.append(("prediction", *_prediction_row(student, options)))
    if weights.label:
        rows.append(("label", f"weight {weights.label:g}", "on texts that have a label"))
    return rows


def _prediction_row(student: BertConfig, options: DistilOptions) -> tuple[str, str]:
    weight = options.term_weights.prediction
    use = f"weight {weight:g}" if weight else "off"
    if student.num_labels == 1:
        return use, "one score each, squared error; a temperature does not apply"
    squared = ", times T²" if options.temperature_squared else ""
    return use, f"{student.num_labels} outputs each, T = {options.temperature:g}{squared}"


def _check_losses(student: BertConfig, teacher: BertConfig, options: DistilOptions) -> None:
    own, other = student.num_attention_heads, teacher.num_attention_heads
    if options.start.layers == "teacher" and own != other:
        raise CheckpointError(
            f"--init-layers teacher needs equal heads, but the student has {own} and the teacher "
            f"{other}"
        )
    if not options.intermediate.epochs:
        return
    if options.term_weights.attention and other % own:
        legal = [n for n in range(1, other + 1) if other % n == 0]
        raise CheckpointError(
            f"{own} student heads cannot share {other} teacher heads evenly; choose one of {legal} "
            "(--student LxDxN), or switch the attention loss off with --attention-weight 0"
        )
    if options.term_weights.minilm_v1 and own != other:
        raise CheckpointError(
            f"MiniLM's first form compares head with head, but the student has {own} and the "
            f"teacher {other}; use --minilm-v2-weight, which does not need equal heads"
        )
    if options.term_weights.patient and student.num_hidden_layers < 2:
        raise CheckpointError(
            "the patient loss compares every layer but the last, and a student of one layer has no "
            "other; switch it off with --patient-weight 0"
        )
    relations = options.relation_heads
    if options.term_weights.minilm_v2 and relations is not None:
        for who, width in (("student", student.hidden_size), ("teacher", teacher.hidden_size)):
            if width % relations:
                raise CheckpointError(
                    f"--relation-heads {relations} does not divide the {who}'s width {width}"
                )
