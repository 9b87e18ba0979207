"""Distillation: a small student learns a task from a teacher, in TinyBERT's two stages.

1. intermediate: the student's embeddings, states and attention scores follow the teacher's.
2. prediction: its answers follow the teacher's, which are computed once and kept on disk.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.data.readers import Dataset, Example, Task, read_dataset
from minibert.data.tokenizer import Encoding
from minibert.distillation import TermWeights, layer_map
from minibert.hub import model_folder
from minibert.kernels.encoder import prepared
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.comparison import compared
from minibert.training.evaluation import (
    all_logits,
    encodings_of,
    evaluated,
    labels_of,
    measured,
)
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions, train
from minibert.training.objectives import IntermediateObjective, PredictionObjective
from minibert.training.progress import Display
from minibert.training.runs import written_whole
from minibert.training.students import new_student, student_config
from minibert.training.trainable import Trainable


@dataclass(frozen=True)
class DistilOptions:
    """The recipe; the defaults are for a 4x128 student of a 6-layer, 384-wide teacher."""

    intermediate: TrainingOptions
    prediction: TrainingOptions
    batch_size: int = 32
    max_length: int = 128
    layers: str | tuple[int, ...] = "uniform"
    term_weights: TermWeights = field(default_factory=TermWeights)
    mode: str = "masked"
    temperature: float = 1.0
    init_embeddings: str = "pca"


def check_teacher(teacher: Bert, task: Task, dev_set: Dataset, max_length: int) -> dict[str, float]:
    """The teacher's metrics on the development set, if it is fit to teach this task.

    Raises
        CheckpointError  it has no classifier, other labels, or knows no more than a constant.
    """
    metrics = evaluated(teacher, dev_set, max_length)
    labels_X = labels_of(dev_set)
    blind = 0.0
    if "accuracy" in metrics and task.select_by == "accuracy":
        blind = float(labels_X.bincount().max()) / len(labels_X)
    if metrics[task.select_by] <= blind + 0.02:
        raise CheckpointError(
            f"the teacher's {task.select_by} on {dev_set.path} is {metrics[task.select_by]:.3f}, "
            f"but one constant answer already has {blind:.3f}: its head seems untrained; run "
            "minibert finetune on it first"
        )
    return metrics


def losses_that_apply(
    student: BertConfig, teacher: BertConfig, options: DistilOptions
) -> list[tuple[str, str, str]]:
    """One row per loss: its name, whether it is used, and why; heads that fit nowhere are refused.

    Raises
        CheckpointError  the layers or heads of this pair cannot be mapped.
    """
    try:
        layers = layer_map(student.num_hidden_layers, teacher.num_hidden_layers, options.layers)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    staged = options.intermediate.epochs > 0
    own, other = student.num_attention_heads, teacher.num_attention_heads
    if staged and options.term_weights.attention and other % own:
        legal = [n for n in range(1, other + 1) if other % n == 0]
        raise CheckpointError(
            f"{own} student heads cannot share {other} teacher heads evenly; choose one of {legal} "
            "(--student LxDxN), or switch the attention loss off with --attention-weight 0"
        )
    widths = f"{student.hidden_size} wide, the teacher {teacher.hidden_size}"
    projected = "; a learned map between" if student.hidden_size != teacher.hidden_size else ""
    heads = f"{own} heads, the teacher {other}"
    if own != other and other % own == 0:
        heads += f"; each learns the mean of {other // own}"
    path = ", ".join(f"{m} ← {g}" for m, g in enumerate(layers, start=1))
    weights = options.term_weights

    def use(weight: float) -> str:
        return f"weight {weight:g}" if weight and staged else "off"

    return [
        ("embedding", use(weights.embedding), widths + projected),
        ("hidden", use(weights.hidden), f"layers {path}"),
        ("attention", use(weights.attention), heads),
        ("prediction", f"T = {options.temperature:g}", f"{student.num_labels} outputs each"),
    ]


def cached_logits(
    path: Path, encodings: Sequence[Encoding], teacher: Bert, dtype: torch.dtype
) -> Tensor:
    """The teacher's logits for every text, computed once and kept in a file for the next run."""
    n, n_labels = len(encodings), teacher.config.num_labels
    if path.exists():
        try:
            logits_XC = load_file(path)["logits"]
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it") from None
        if logits_XC.shape == (n, n_labels):
            return logits_XC
    logits_XC = all_logits(encodings, teacher.weights, teacher.config, dtype)
    with written_whole(path) as staged:
        save_file({"logits": logits_XC}, staged)
    return logits_XC


def distil(
    teacher: Bert,
    student: BertConfig,
    texts: Sequence[Example],
    dev_set: Dataset,
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a student on `texts` from the teacher alone; no label of `texts` is used.

    The best student on `dev_set` is saved to `out`. Returns its metrics and the epoch.
    """
    pairs = Dataset(Path("texts"), dev_set.task, tuple(texts))
    encodings = encodings_of(pairs, teacher.tokenizer, options.max_length)
    dev_encodings = encodings_of(dev_set, teacher.tokenizer, options.max_length)
    dev_labels_X = labels_of(dev_set)
    pad_id = student.pad_token_id
    place = torch.device(device)

    weights = new_student(
        student, teacher.weights, options.intermediate.seed, options.init_embeddings
    )
    if options.intermediate.epochs:
        teaching = prepared(teacher.weights, options.intermediate.dtype)
        trainable = Trainable(weights, device)
        train(
            IntermediateObjective(
                encodings,
                options.batch_size,
                options.intermediate.seed,
                pad_id,
                place,
                student,
                teaching,
                teacher.config,
                layer_map(
                    student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers
                ),
                options.term_weights,
                options.mode,
            ),
            trainable,
            options.intermediate,
            out,
            "intermediate",
            display,
        )
        weights = trainable.finished_weights()

    display.say(f"the teacher answers {len(encodings):,} texts once")
    logits_XC = cached_logits(
        out / "teacher_logits.safetensors", encodings, teacher, options.prediction.dtype
    )

    def evaluate(weights: BertWeights) -> dict[str, float]:
        logits_XC = all_logits(dev_encodings, weights, student, options.prediction.dtype)
        return measured(dev_set.task, logits_XC, dev_labels_X)

    def keep(weights: BertWeights) -> None:
        model = dataclasses.replace(teacher, config=student, weights=weights)
        model.save_pretrained(out)

    progress = train(
        PredictionObjective(
            encodings,
            options.batch_size,
            options.prediction.seed,
            pad_id,
            place,
            student,
            logits_XC,
            options.temperature,
            options.mode,
        ),
        # The projection has done its work; the student that is kept does not carry it.
        Trainable(weights._replace(fit_dense=None), device),
        options.prediction,
        out,
        "prediction",
        display,
        evaluate,
        dev_set.task.select_by,
        keep,
    )
    return {
        "task": dev_set.task.name,
        "n": len(dev_set),
        "metrics": progress.best_metrics,
        "best_epoch": progress.best_epoch,
        "model": str(out),
    }


class Pair(NamedTuple):
    """A teacher that knows its task, the student to be, and the data."""

    teacher_folder: Path
    teacher: Bert
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
    """The pre-flight: read everything, say what applies, and refuse what cannot work.

    Raises
        CheckpointError  the teacher or the student does not fit the data, or each other.
        DataError        a file or a row cannot be used.
    """
    folder = model_folder(teacher_name)
    teacher = Bert.from_pretrained(folder).to(device)
    names = tuple(teacher.config.id2label.values()) if task in (None, "classify") else None
    if teacher.head == "regression":
        names = None
    train_set = read_dataset(train_path, task, names, limit)
    dev_set = read_dataset(dev_path, train_set.task.name, train_set.task.label_names or None)
    display.say(train_set.summary())
    display.say(dev_set.summary())
    student = student_config(student_shape, teacher.config)
    table = losses_that_apply(student, teacher.config, options)
    metrics = check_teacher(teacher, train_set.task, dev_set, options.max_length)
    known = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    display.say(f"teacher on dev: {known}")
    for name, use, why in table:
        display.say(f"  {name:<11} {use:<10} {why}")
    return Pair(folder, teacher, student, train_set, dev_set)


def distil_and_compare(
    pair: Pair,
    labels_too: bool,
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """Distil, and train the same student on labels alone if that is wanted; measure all of them.

    Returns the student's metrics and a row for each model, as `minibert distill` prints them.
    """
    teacher, student, train_set, dev_set = pair[1:]
    models: dict[str, Path] = {"teacher": pair.teacher_folder}
    if labels_too:
        own = new_student(
            student, teacher.weights, options.prediction.seed, options.init_embeddings
        )
        finetune(
            Bert(student, own._replace(fit_dense=None), teacher.head, teacher.tokenizer),
            train_set, dev_set, out / "labels", options.prediction, options.batch_size,
            options.max_length, display, device, "labels",
        )  # fmt: skip
        models["student, labels alone"] = out / "labels"
    result = distil(teacher, student, train_set.examples, dev_set, out, options, display, device)
    models["student, distilled"] = out
    rows = compared(models, dev_set, options.max_length, options.prediction.dtype, device)
    try_it = ["minibert", "predict", "--model", str(out), dev_set.examples[0].first]
    if train_set.task.pair:
        try_it[-1] += f"\t{dev_set.examples[0].second}"
        try_it.insert(-1, "--pair")
    return result | {"models": rows, "next": shlex.join(try_it)}
