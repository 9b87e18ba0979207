"""The training loop: one for every task, read from top to bottom.

One step: cut the batch into parts, add up their gradients, check them, clip them, let Adam move.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from minibert import optim
from minibert.kernels.optim import clip_by_global_norm
from minibert.losses import l2_penalty
from minibert.optim import AdamOptions, adam_form
from minibert.parameters import named_tensors, views_of
from minibert.training.progress import Display
from minibert.training.runs import (
    STATE_ENDING,
    NotFinite,
    Progress,
    append_metrics,
    load_state,
    save_state,
    trim_metrics,
)
from minibert.training.sparse import Sparsity
from minibert.training.stopwatch import Stopwatch, running
from minibert.training.trainable import Trainable, Weights

SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "linear": optim.linear_schedule,
    "google": optim.google_schedule,
    "constant": optim.constant_schedule,
    "cosine": optim.cosine_schedule,
    "inverse_sqrt": optim.inverse_square_root_schedule,
}


Learned = TypeVar("Learned", contravariant=True)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the state was saved first."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"stopped, and saved in {path}; go on with --resume")
        self.exit_code = 128 + number


class Objective(Protocol[Learned]):
    """What a task must provide to be trained by `train`."""

    def order(self, epoch: int) -> list[list[int]]:
        """The rows of each batch; depends on nothing but the epoch."""

    def counted(self, rows: Sequence[int]) -> int:
        """How many things the loss of these rows is a mean over."""

    def terms(
        self, rows: Sequence[int], weights: Learned, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Means over what is counted; the one named "loss" is minimised."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; `accumulate` parts of a batch are computed one after the other.

    The run ends after `epochs`, or after `steps` if that comes first. `dtype` is that of the steps;
    the dev set is answered in float32, as the weights are saved.
    """

    epochs: int = 3
    steps: int | None = None
    lr: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.1
    adam: AdamOptions = field(default_factory=lambda: adam_form("adamw"))
    max_norm: float = 1.0
    l2: float = 0.0
    accumulate: int = 1
    seed: int = 0
    dtype: torch.dtype = torch.float32
    evaluate_every: int | None = None
    save_every: int | None = None
    sparsity: Sparsity | None = None

    def total(self, steps_per_epoch: int) -> int:
        """How many steps the run has."""
        steps = self.epochs * steps_per_epoch
        return steps if self.steps is None else min(steps, self.steps)


def accumulate_gradient(
    objective: Objective[Weights],
    rows: Sequence[int],
    trainable: Trainable[Weights],
    options: TrainingOptions,
    generator: torch.Generator | None,
) -> dict[str, float]:
    """Put the gradient of the mean loss over `rows`, plus λ‖θ‖², into `trainable.gradient_P`.

    The rows may be computed in several parts. Each part's mean is weighted by how much it counts,
    so the sum is the gradient of the whole batch, whatever the sizes of the parts.
    """
    trainable.gradient_P.zero_()
    size = math.ceil(len(rows) / options.accumulate)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    total = sum(objective.counted(part) for part in parts)
    sums: dict[str, float] = {}
    for part in parts:
        share = objective.counted(part) / max(total, 1)
        terms = objective.terms(part, trainable.weights(options.dtype), generator)
        trainable.backward(terms["loss"] * share)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
    trainable.look_at_gradient()
    if options.l2:
        # The gradient of λ‖θ‖², see `losses.l2_penalty`.
        trainable.gradient_P.add_(trainable.parameters_P, alpha=2 * options.l2)
        sums["l2"] = float(l2_penalty(trainable.parameters_P, options.l2))
        sums["loss"] += sums["l2"]
    return sums


def check_finite(trainable: Trainable, terms: dict[str, float], step: int, norm: float) -> None:
    """Stop before an update that would fill the weights with NaN.

    Raises
        NotFinite  with the first loss term or gradient that is to blame.
    """
    if math.isfinite(terms["loss"]) and math.isfinite(norm):
        return
    causes_first = sorted(terms, key="loss".__eq__)  # "loss" is the sum of the others
    culprits = [f"{k} is {terms[k]}" for k in causes_first if not math.isfinite(terms[k])]
    for name, gradient in named_tensors(views_of(trainable.gradient_P, trainable.shapes)):
        if not finite(gradient):
            culprits.append(f"the gradient of {name} is infinite or NaN")
    culprits.append(f"the gradient norm is {norm}")
    raise NotFinite(
        f"step {step}: {culprits[0]}, but must be finite; the update was not made, and the last "
        "saved state stays; try a smaller --lr, or --dtype float32"
    )


def check_weights(trainable: Trainable, step: int) -> None:
    """Stop before weights that an update made infinite are measured or saved.

    Raises
        NotFinite  a weight is infinite or NaN.
    """
    if not finite(trainable.parameters_P):
        raise NotFinite(
            f"step {step}: the update made a weight infinite or NaN; the last saved state stays; "
            "try a smaller --lr"
        )


def finite(x: Tensor) -> bool:
    """Whether every number of a tensor is finite."""
    return bool(x.isfinite().all())


class _StopRequest:
    """Remembers Ctrl-C and SIGTERM until the current step is done; a second one stops at once."""

    def __init__(self) -> None:
        self.number = 0
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def train(
    objective: Objective[Weights],
    trainable: Trainable[Weights],
    options: TrainingOptions,
    folder: Path,
    phase: str,
    display: Display,
    evaluate: Callable[[Weights], dict[str, float]] | None = None,
    select_by: str = "",
    keep: Callable[[Weights], None] | None = None,
) -> Progress:
    """Train to the end, from the beginning or from where `folder` says that it stopped.

    After every epoch (and every `evaluate_every` steps) `evaluate` measures the model; one that is
    better than all before it, by the metric `select_by`, goes to `keep`. The state lies in
    `folder/<phase>.state.safetensors`.

    Raises
        NotFinite    a loss, gradient or weight is not finite; the last saved state stays.
        Interrupted  Ctrl-C or SIGTERM; the state after the step at hand is saved.
    """
    path = folder / f"{phase}{STATE_ENDING}"
    device = trainable.parameters_P.device
    generator = torch.Generator(device).manual_seed(options.seed)
    total = options.total(len(objective.order(0)))
    warmup = round(options.warmup * total)
    progress = load_state(path, trainable, generator, total)
    if progress.finished:
        return progress
    trim_metrics(folder, phase, progress.step)

    def learning_rate(step: int) -> float:
        return options.lr * SCHEDULES[options.schedule](step, warmup, total)

    def measure(epoch: int) -> dict[str, Any]:
        """One row of metrics.jsonl; the best model so far is kept."""
        row: dict[str, Any] = {"phase": phase, "epoch": epoch + 1, "step": progress.step}
        row |= {"lr": learning_rate(progress.step - 1), "train": progress.means()}
        if evaluate is not None:
            weights = trainable.finished_weights()
            row["dev"] = evaluate(weights)
            score = row["dev"][select_by]
            better = progress.best_score is None or score > progress.best_score
            if better and trainable.complete:
                progress.best_score, progress.best_metrics = score, row["dev"]
                progress.best_epoch = epoch + 1
                row["kept"] = True
                if keep is not None:
                    keep(weights)
        return row

    watch = Stopwatch(progress.parts)
    started = time.monotonic() - sum(progress.parts.values())
    with (
        running(watch),
        _StopRequest() as stop,
        display.phase(phase, total, progress.step) as bar,
    ):
        for epoch in range(progress.epoch, options.epochs):
            with watch("data"):
                order = objective.order(epoch)
            for rows in order[progress.batch : progress.batch + total - progress.step]:
                with watch("student"):
                    terms = accumulate_gradient(objective, rows, trainable, options, generator)
                with watch("optimiser"):
                    _, norm = clip_by_global_norm((trainable.gradient_P,), options.max_norm)
                    check_finite(trainable, terms, progress.step + 1, float(norm))
                    trainable.update(learning_rate(progress.step), options.adam)

                progress.step += 1
                progress.batch += 1
                for name, value in terms.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                bar.advance(progress.means())
                done = progress.step == total
                last = done or progress.batch == len(order)
                measuring = last or due(options.evaluate_every, progress.step)
                stopping = stop.number  # read once: a signal may come between any two lines
                saving = last or stopping or due(options.save_every, progress.step)
                if measuring or saving:
                    check_weights(trainable, progress.step)
                if measuring:
                    with watch("dev"):
                        row = measure(epoch)
                    now = time.monotonic()
                    row["seconds"], started = round(now - started, 2), now
                    row["parts"] = {name: round(took, 3) for name, took in watch.seconds.items()}
                    watch.seconds.clear()
                    append_metrics(folder, row)
                    bar.measured(row)
                if last:
                    progress.epoch, progress.batch, progress.sums = epoch + 1, 0, {}
                    progress.finished = done
                if saving:
                    progress.parts = dict(watch.seconds)
                    save_state(path, trainable, generator, progress)
                if stopping:
                    raise Interrupted(stopping, path)
            if progress.finished:
                break
    if stop.number:  # it came after the last check; all is saved
        raise Interrupted(stop.number, path)
    return progress


def due(every: int | None, step: int) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step % every == 0


def training_options_from(chosen: dict[str, Any], **more: Any) -> TrainingOptions:
    """Options from a command line: Adam by the name of its form, weight decay, sparsity."""
    adam = adam_form(chosen["adam"])
    if chosen["weight_decay"] is not None:
        adam = adam._replace(weight_decay=chosen["weight_decay"])
    sparsity = None
    if chosen.get("sparsity"):
        named = {"method": chosen["sparsity_by"], "strength": chosen["l1"]}
        given = {key: value for key, value in named.items() if value is not None}
        sparsity = Sparsity(chosen["sparsity"], chosen["pattern"], **given)
    fields = TrainingOptions.__dataclass_fields__.keys() - {"adam", "sparsity"}
    plain = {key: value for key, value in chosen.items() if key in fields}
    return TrainingOptions(adam=adam, sparsity=sparsity, **plain, **more)
