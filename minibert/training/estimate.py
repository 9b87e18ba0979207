"""How long a distillation will take here, measured by a few of its steps on a throwaway student."""

import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from minibert.config import BertConfig
from minibert.data.tokenizer import Encoding
from minibert.distillation import layer_map
from minibert.kernels.encoder import prepared
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.distil import DistilOptions, LearningTexts, will_keep_states
from minibert.training.evaluation import all_logits
from minibert.training.loop import Objective, TrainingOptions, accumulate_gradient
from minibert.training.objectives import (
    ComputedStates,
    IntermediateObjective,
    PredictionObjective,
)
from minibert.training.stopwatch import Stopwatch, running
from minibert.training.students import new_student
from minibert.training.trainable import Trainable

TRIED_STEPS = 8  # the first two of which do not count
TRIED_TEXTS = 256


def estimated(
    texts: LearningTexts,
    teacher: Bert,
    student: BertConfig,
    out: Path,
    options: DistilOptions,
    device: str = "cpu",
    general: bool = False,
) -> list[str]:
    """One line for each part of a run: how often, how fast, how long.

    A teacher whose states are to be kept reads each text once; what is in the cache already is not
    taken into account. A `general` distillation has the first stage alone.
    """
    layers = layer_map(student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers)
    weights = new_student(student, teacher.weights, 0, options.start, layers)
    shared = (options.batch_size, 0, student.pad_token_id, torch.device(device), student)
    encodings = texts.encodings
    lines, total, answered = [], 0.0, 0
    if options.intermediate.epochs and options.uses_states:
        read = texts.of_first_stage(options.intermediate_on)
        teaching = ComputedStates(prepared(teacher.weights, options.teacher_dtype), teacher.config)
        objective: Objective = IntermediateObjective(
            read, *shared, teaching, layers,
            options.term_weights, options.mode, options.relation_heads,
        )  # fmt: skip
        steps, each, of_teacher = _of_stage(objective, weights, options.intermediate, device)
        if will_keep_states(read, teacher, student, out, options):
            each -= of_teacher
            total += len(objective.order(0)) * of_teacher
            lines.append(f"  teacher       {len(read):,} texts, kept in the cache")
            answered = len(read)
        lines.append(f"  intermediate  {steps:,} steps at {1 / each:.1f} a second")
        total += steps * each
    if general:
        return [f"estimated time: {in_words(total)}", *lines]
    if options.term_weights.prediction and len(encodings) > answered:
        each = seconds_of_answers(encodings, teacher, options)
        lines.append(f"  answers       {len(encodings):,} texts at {1 / each:,.0f} a second")
        total += len(encodings) * each
    objective = PredictionObjective(
        encodings,
        *shared,
        torch.zeros(len(encodings), student.num_labels),
        torch.zeros(len(encodings)),
        options.term_weights,
        options.temperature,
        options.temperature_squared,
        options.mode,
    )
    without = weights._replace(fit_dense=None)
    steps, each, _ = _of_stage(objective, without, options.prediction, device)
    lines.append(f"  prediction    {steps:,} steps at {1 / each:.1f} a second")
    total += steps * each
    return [f"estimated time: {in_words(total)}", *lines]


def in_words(seconds: float) -> str:
    """A time for people.

    >>> in_words(42.3), in_words(600), in_words(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _of_stage(
    objective: Objective, weights: BertWeights, options: TrainingOptions, device: str
) -> tuple[int, float, float]:
    """How many steps a stage has, the median seconds of one, and those that its teacher takes."""
    order = objective.order(0)
    trainable = Trainable(weights, device)
    generator = torch.Generator(device).manual_seed(0)
    seconds, of_teacher = [], []
    wait = torch.cuda.synchronize if device == "cuda" else None  # or its work counts as another's
    for rows in random.Random(0).choices(order, k=TRIED_STEPS):
        with running(Stopwatch(wait=wait)) as watch:
            started = time.perf_counter()
            accumulate_gradient(objective, rows, trainable, options, generator)
            trainable.update(0.0, options.adam)
            seconds.append(time.perf_counter() - started)
        of_teacher.append(watch.seconds.get("teacher", 0.0))
    own = [both - other for both, other in zip(seconds, of_teacher, strict=True)]
    teacher = statistics.median(of_teacher[2:])
    return options.total(len(order)), statistics.median(own[2:]) + teacher, teacher


def seconds_of_answers(
    encodings: Sequence[Encoding], teacher: Bert, options: DistilOptions
) -> float:
    """How long the teacher takes for one text, from a random few."""
    tried = random.Random(0).choices(encodings, k=min(TRIED_TEXTS, len(encodings)))
    started = time.perf_counter()
    all_logits(tried, teacher.weights, teacher.config, options.teacher_dtype)
    return (time.perf_counter() - started) / len(tried)
