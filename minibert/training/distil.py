"""Distillation: a small student learns from a teacher, in TinyBERT's three steps.

0. general: on raw text, the student's embeddings, states and scores follow the teacher's.
1. intermediate: the same on the texts of a task, with the teacher that knows the task.
2. prediction: the student's answers follow the teacher's, which are computed once.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.data.readers import Dataset, Example, Task
from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.distillation import TermWeights, layer_map
from minibert.kernels.encoder import prepared
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.answers import n_steps_of_answers, teacher_answers
from minibert.training.evaluation import (
    all_logits,
    check_readable,
    encodings_of,
    labels_of,
    measured,
)
from minibert.training.loop import TrainingOptions, train
from minibert.training.objectives import (
    ComputedStates,
    IntermediateObjective,
    PredictionObjective,
    Teaching,
)
from minibert.training.progress import Display
from minibert.training.runs import timed_reading
from minibert.training.sparse import (
    as_kept,
    check_fits,
    lost_zeros_warning,
    sparsity_sentence,
    trainable_for,
)
from minibert.training.state_plan import StateSource, state_plan
from minibert.training.states import (
    WRITING_BATCH,
    decided,
    held_with_more,
    kept_states,
    path_of_states,
)
from minibert.training.students import Start, new_student
from minibert.training.trainable import Trainable

INTERMEDIATE_TERMS = ("embedding", "hidden", "attention", "cosine", "patient", "minilm_v1",
                      "minilm_v2")  # fmt: skip


@dataclass(frozen=True)
class DistilOptions:
    """The recipe; the defaults are for a 4x128 student of a 6-layer, 384-wide teacher.

    `intermediate_on` "labelled" leaves augmented texts to the last stage. `dropout` is the
    student's; None takes the teacher's. `cache` holds what the teacher has computed, for this run
    and for others; by default it lies in the folder of the run. Its states are kept there only if
    they take no more than `cache_bytes`.
    """

    intermediate: TrainingOptions
    prediction: TrainingOptions
    batch_size: int = 32
    max_length: int = 128
    layers: str | tuple[int, ...] = "uniform"
    term_weights: TermWeights = field(default_factory=TermWeights)
    relation_heads: int | None = None
    mode: str = "masked"
    temperature: float = 1.0
    temperature_squared: bool = False
    intermediate_on: str = "all"
    start: Start = field(default_factory=Start)
    dropout: float | None = None
    teacher_dtype: torch.dtype = torch.float32
    cache: Path | None = None
    cache_bytes: int = 8 * 10**9

    @property
    def uses_states(self) -> bool:
        """Whether anything is learned from the teacher's states."""
        return any(getattr(self.term_weights, name) for name in INTERMEDIATE_TERMS)


class LearningTexts(NamedTuple):
    """What a student learns from: tokens, and the label of each text; NaN where it has none."""

    encodings: list[Encoding]
    labels_X: Tensor

    def of_first_stage(self, which: str) -> list[Encoding]:
        """"all" texts, or the "labelled": those that augmentation did not make."""
        if which == "all":
            return self.encodings
        return [self.encodings[row] for row in (~self.labels_X.isnan()).nonzero()[:, 0].tolist()]


def learning_texts(
    examples: Sequence[Example], task: Task, tokenizer: Tokenizer | None, max_length: int
) -> LearningTexts:
    """The tokens and labels of examples, some or all of which may have no label."""
    encodings = encodings_of(Dataset(Path("texts"), task, tuple(examples)), tokenizer, max_length)
    labels = [float("nan") if one.label is None else float(one.label) for one in examples]
    return LearningTexts(encodings, torch.tensor(labels))


def state_source(
    encodings: Sequence[Encoding], teacher: Bert, student: BertConfig, options: DistilOptions
) -> StateSource:
    """The part of the teacher's states that a first stage on these texts looks at.

    Raises
        CheckpointError  as `check_heads`.
    """
    check_heads(student, teacher.config, options.term_weights)
    layers = layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers)
    plan = state_plan(layers, options.term_weights, student.num_attention_heads)
    return StateSource(encodings, teacher, plan, options.teacher_dtype)


def check_heads(student: BertConfig, teacher: BertConfig, weights: TermWeights) -> None:
    """Losses of attention compare all heads.

    Raises
        CheckpointError  such a loss has a weight, but a layer of one of the two lost heads.
    """
    if not (weights.attention or weights.minilm_v1 or weights.minilm_v2):
        return
    for name, config in (("teacher", teacher), ("student", student)):
        if {n_heads for n_heads, _ in config.heads_and_units} != {config.num_attention_heads}:
            raise CheckpointError(
                f"layers of the {name} have pruned heads, but attention losses compare all heads; "
                "give --attention-weight 0 and no --minilm-v1-weight or --minilm-v2-weight"
            )


def times_read(n_texts: int, options: DistilOptions) -> float:
    """How often a first stage reads each of `n_texts` texts; perhaps less than once."""
    steps = math.ceil(n_texts / options.batch_size)
    return options.intermediate.total(steps) / steps


def will_keep_states(
    encodings: Sequence[Encoding],
    teacher: Bert,
    student: BertConfig,
    out: Path,
    options: DistilOptions,
) -> bool:
    """Whether a first stage on these texts will read the teacher's states from a file."""
    folder, read = options.cache or out, times_read(len(encodings), options)
    source = held_with_more(folder, state_source(encodings, teacher, student, options))
    there = options.mode == "masked" and path_of_states(folder, source).exists()
    return there or decided(source, folder, options.cache_bytes, read, options.mode).stored


def intermediate_objective(
    encodings: Sequence[Encoding],
    teacher: Bert,
    student: BertConfig,
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str,
) -> IntermediateObjective:
    """What the general and the intermediate stage minimise."""
    stage = options.intermediate
    layers = layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers)
    folder = options.cache or out
    source = held_with_more(folder, state_source(encodings, teacher, student, options))
    with timed_reading(out, "states", math.ceil(len(source.texts.encodings) / WRITING_BATCH)):
        teaching: Teaching | None = kept_states(
            path_of_states(folder, source),
            source,
            options.cache_bytes,
            times_read(len(encodings), options),
            display,
            options.mode,
        )
    if teaching is None:
        ready = prepared(teacher.weights, options.teacher_dtype)
        teaching = ComputedStates(ready, teacher.config)
    return IntermediateObjective(
        encodings,
        options.batch_size,
        stage.seed,
        student.pad_token_id,
        torch.device(device),
        student,
        teaching,
        layers,
        options.term_weights,
        options.mode,
        options.relation_heads,
    )


def distil_generally(
    teacher: Bert,
    student: BertConfig,
    encodings: Sequence[Encoding],
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """General distillation: a student that any task can start from is saved to `out`.

    `options.intermediate` says how to train. The map to the teacher's width is saved with the
    student, the pooler is not: it learned nothing.
    """
    stage = options.intermediate
    weights = new_student(
        student,
        teacher.weights,
        stage.seed,
        options.start,
        layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers),
    )
    trainable = Trainable(weights._replace(pooler=None, classifier=None), device)
    objective = intermediate_objective(
        encodings, teacher, student, out, options, display, device
    )
    progress = train(objective, trainable, stage, out, "general", display)
    Bert(
        student, trainable.finished_weights(), "encoder", teacher.tokenizer
    ).save_pretrained(out)
    tokens = sum(len(one.ids) for one in encodings)
    return {"windows": len(encodings), "tokens": tokens, "steps": progress.step, "model": str(out)}


def distil(
    teacher: Bert,
    student: BertConfig,
    texts: LearningTexts,
    dev_set: Dataset,
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a student on `texts` from the teacher, and from labels only if `term_weights` say so.

    The best student on `dev_set` is saved to `out`. Returns its metrics, the epoch that made it,
    and how many steps each stage took.
    """
    dev_encodings = encodings_of(dev_set, teacher.tokenizer, options.max_length)
    check_readable(dev_encodings, student)
    dev_labels_X = labels_of(dev_set)
    layers = layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers)
    weights = new_student(
        student, teacher.weights, options.intermediate.seed, options.start, layers
    )
    if options.prediction.sparsity is not None:
        check_fits(options.prediction.sparsity, weights, student)
    first_stage = bool(options.intermediate.epochs and options.uses_states)
    if warning := lost_zeros_warning(weights, options.prediction.sparsity, first_stage):
        display.say(warning)
    steps = {}
    if first_stage:
        read = texts.of_first_stage(options.intermediate_on)
        objective = intermediate_objective(read, teacher, student, out, options, display, device)
        trainable = Trainable(weights, device)
        steps["intermediate"] = train(
            objective, trainable, options.intermediate, out, "intermediate", display
        ).step
        weights = trainable.finished_weights()

    def evaluate(weights: BertWeights) -> dict[str, float]:
        logits_XC = all_logits(dev_encodings, weights, student)
        return measured(dev_set.task, logits_XC, dev_labels_X)

    def keep(weights: BertWeights) -> None:
        kept, config = as_kept(weights, student, options.prediction.sparsity)
        dataclasses.replace(teacher, config=config, weights=kept).save_pretrained(out)

    logits_XC = torch.zeros(len(texts.encodings), student.num_labels)
    if options.term_weights.prediction:
        with timed_reading(out, "answers", n_steps_of_answers(texts.encodings)):
            logits_XC = teacher_answers(
                options.cache or out, texts.encodings, teacher, options.teacher_dtype, display
            )
    answering = PredictionObjective(
        texts.encodings,
        options.batch_size,
        options.prediction.seed,
        student.pad_token_id,
        torch.device(device),
        student,
        logits_XC,
        texts.labels_X,
        options.term_weights,
        options.temperature,
        options.temperature_squared,
        options.mode,
    )
    # The projection has done its work; the student that is kept does not carry it.
    weights = weights._replace(fit_dense=None)
    total = options.prediction.total(len(answering.order(0)))
    progress = train(
        answering,
        trainable_for(weights, device, options.prediction.sparsity, total, student),
        options.prediction,
        out,
        "prediction",
        display,
        evaluate,
        dev_set.task.select_by,
        keep,
    )
    steps["prediction"] = progress.step
    if options.prediction.sparsity is not None:
        best = Bert.from_pretrained(out)
        display.say(sparsity_sentence(best.weights, best.config))
    return {
        "task": dev_set.task.name,
        "pair": dev_set.task.pair,
        "n": len(dev_set),
        "metrics": progress.best_metrics,
        "best_epoch": progress.best_epoch,
        "steps": steps,
        "model": str(out),
    }
