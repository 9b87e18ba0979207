"""The training loop: what a step is, exact resume, stopping, and what failures leave behind."""

import dataclasses
import errno
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
import torch
from torch import Tensor

from minibert import optim
from minibert.config import CheckpointError
from minibert.data.batches import collate
from minibert.encoder import encode
from minibert.laws.measure import distance, normal
from minibert.model import Bert
from minibert.optim import adam_form, initial_adam_state
from minibert.parameters import (
    BertWeights,
    flatten,
    is_decayed,
    named_tensors,
    views_of,
    with_tensors,
)
from minibert.training import runs
from minibert.training.evaluation import (
    all_logits,
    encodings_of,
    evaluated,
    labels_of,
    measured,
)
from minibert.training.loop import (
    SCHEDULES,
    Interrupted,
    TrainingOptions,
    accumulate_gradient,
    train,
)
from minibert.training.objectives import LabelObjective, PredictionObjective, Texts
from minibert.training.progress import Bar, Display
from minibert.training.runs import (
    STATE_ENDING,
    NotFinite,
    Progress,
    RunError,
    append_metrics,
    drop_states,
    finish_run,
    load_state,
    open_run,
    read_metrics,
    save_state,
    seconds_so_far,
    trim_metrics,
    written_whole,
)
from minibert.training.trainable import Trainable

N_ROWS, BATCH, EPOCHS = 11, 4, 2
STEPS = EPOCHS * math.ceil(N_ROWS / BATCH)  # the last batch of an epoch has 3 rows
STATE = "tiny.state.safetensors"
OPTIONS = TrainingOptions(
    epochs=EPOCHS, lr=2e-2, warmup=0.3, accumulate=2, evaluate_every=2, seed=5, l2=1e-4
)


def labels_objective(model: Bert, count: int = N_ROWS, seed: int = 1) -> LabelObjective:
    data = tiny.dataset(count, seed)
    encodings = encodings_of(data, model.tokenizer, 20)
    device = torch.device("cpu")
    return LabelObjective(encodings, BATCH, 5, 0, device, model.config, labels_of(data))


class Watched(Display):
    """A silent display that calls `after(step)` as soon as a step is done."""

    def __init__(self, after=lambda step: None) -> None:
        super().__init__(quiet=True)
        self.after = after

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Bar]:
        with super().phase(name, total, done) as bar:
            advance, counter = bar.advance, iter(range(done + 1, total + 1))

            def watched(means: dict[str, float]) -> None:
                advance(means)
                self.after(next(counter))

            bar.advance = watched  # type: ignore[method-assign]
            yield bar


class Spoiled:
    """An objective whose terms go through `spoil(step, terms, weights)`, step counted from 1."""

    def __init__(self, objective, spoil) -> None:
        self.objective, self.spoil, self.parts = objective, spoil, 0
        self.order, self.counted = objective.order, objective.counted

    def terms(self, rows, weights, generator):
        self.parts += 1
        step = (self.parts + 1) // 2  # two parts a step
        return self.spoil(step, self.objective.terms(rows, weights, generator), weights)


def run(
    folder: Path,
    after=lambda step: None,
    spoil=None,
    evaluate=None,
    options: TrainingOptions = OPTIONS,
) -> tuple[Trainable, Progress]:
    """The run that all tests of resuming are about, from wherever `folder` says that it stands."""
    model = tiny.classifier()
    objective: Any = labels_objective(model)
    dev = tiny.dataset(8, 2)
    dev_encodings = encodings_of(dev, model.tokenizer, 20)

    def measure(weights: BertWeights) -> dict[str, float]:
        return measured(dev.task, all_logits(dev_encodings, weights, model.config), labels_of(dev))

    def keep(weights: BertWeights) -> None:
        dataclasses.replace(model, weights=weights).save_pretrained(folder)

    trainable = Trainable(model.weights)
    progress = train(
        objective if spoil is None else Spoiled(objective, spoil),
        trainable,
        options,
        folder,
        "tiny",
        Watched(after),
        evaluate or measure,
        "accuracy",
        keep,
    )
    return trainable, progress


def stop_after(*steps: int, by: int = signal.SIGINT):
    def after(step: int) -> None:
        if step in steps:
            signal.raise_signal(by)

    return after


def outcome(folder: Path) -> dict[str, Any]:
    """What a run leaves: bytes of state and best model, and rows without the time they took."""
    rows = [{**row, "seconds": None, "parts": None} for row in read_metrics(folder)]
    names = (STATE, "model.safetensors", "config.json")
    return {name: (folder / name).read_bytes() for name in names} | {"rows": rows}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return outcome(folder)


# --- One step --------------------------------------------------------------------------------


class TokenMean(Texts):
    """A mean over tokens, not over rows: every part counts another number of things."""

    def counted(self, rows: Sequence[int]) -> int:
        return sum(len(self.encodings[row].ids) for row in rows)

    def terms(self, rows, weights, generator):
        ids_BS, keep_BS, types_BS, *_ = collate(self.encodings, rows, 0)
        hidden_BSD = encode(ids_BS, keep_BS, types_BS, weights, self.config, generator)
        loss = (hidden_BSD[keep_BS] ** 3).sum() / keep_BS.sum()
        return {"loss": loss, "double": 2 * loss}


def big_and_accumulated(objective, accumulate: int, l2: float) -> tuple[float, float, Tensor]:
    """Distance between the two gradients, between the two losses, and the gradient."""
    found = []
    for parts in (1, accumulate):
        weights = tiny.classifier().to("cpu", torch.float64).weights
        trainable = Trainable(weights)
        options = TrainingOptions(dtype=torch.float64, accumulate=parts, l2=l2)
        terms = accumulate_gradient(objective, range(N_ROWS), trainable, options, None)
        found.append((trainable.gradient_P, terms))
    (big, big_terms), (summed, summed_terms) = found
    gap = max(abs(big_terms[name] - summed_terms[name]) for name in big_terms)
    return distance(big, summed), gap, big


@pytest.mark.parametrize("accumulate", [2, 3, 4, 5, 10, 11, 50])
@pytest.mark.parametrize("kind", ["labels", "tokens"])
def test_accumulated_gradient_is_that_of_the_big_batch(kind, accumulate):
    model = tiny.classifier()
    objective: Any = labels_objective(model)
    if kind == "tokens":
        fields = {f.name: getattr(objective, f.name) for f in dataclasses.fields(Texts)}
        objective = TokenMean(**fields)
    gap, loss_gap, gradient = big_and_accumulated(objective, accumulate, l2=0.01)
    assert float(gradient.abs().max()) > 0.01
    assert gap <= 1e-12, "gradient"
    assert loss_gap <= 1e-12, "loss terms"


def test_parts_that_weigh_the_same_would_be_wrong(monkeypatch):
    """The test above can fail: the usual mistake, a plain mean over parts, is far outside 1e-12."""
    model = tiny.classifier()
    objective = labels_objective(model)
    monkeypatch.setattr(LabelObjective, "counted", lambda self, rows: 1)
    gap, loss_gap, _ = big_and_accumulated(objective, 3, l2=0.0)  # parts of 4, 4 and 3 rows
    assert gap > 1e-4
    assert loss_gap > 1e-4


def test_gradient_equals_a_plain_backward_pass():
    """Flat views, parts and the penalty against autograd on separate tensors."""
    model = tiny.classifier()
    objective = labels_objective(model)
    weights = model.to("cpu", torch.float64).weights
    leaves = {name: t.clone().requires_grad_() for name, t in named_tensors(weights)}
    free = views_of(flatten(weights), weights)
    loss = objective.terms(range(N_ROWS), with_tensors(free, leaves), None)["loss"]
    penalty = 0.01 * sum((leaf * leaf).sum() for leaf in leaves.values())
    (loss + penalty).backward()
    loss, penalty = loss.detach(), penalty.detach()
    trainable = Trainable(weights)
    options = TrainingOptions(dtype=torch.float64, accumulate=3, l2=0.01)
    terms = accumulate_gradient(objective, range(N_ROWS), trainable, options, None)
    for name, ours in named_tensors(views_of(trainable.gradient_P, weights)):
        assert distance(ours, leaves[name].grad.to_dense()) <= 1e-12, name
    assert terms["loss"] == pytest.approx(float(loss + penalty), abs=1e-12)
    assert terms["l2"] == pytest.approx(float(penalty), abs=1e-12)


def test_no_epoch_is_prepared_after_the_last_step(tmp_path, monkeypatch):
    objective, asked = labels_objective(model := tiny.classifier()), []
    order = type(objective).order
    monkeypatch.setattr(
        type(objective), "order", lambda self, epoch: asked.append(epoch) or order(self, epoch)
    )
    steps = len(order(objective, 0)) + 1
    options = TrainingOptions(epochs=5, steps=steps)
    train(objective, Trainable(model.weights), options, tmp_path, "tiny", Display(quiet=True))
    assert asked[-1] == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_is_the_steps_of_the_book(schedule, tmp_path):
    """`train` against a loop of a few lines over the book's own Adam, clipping and schedule."""
    model = tiny.classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    weights = model.to("cpu", torch.float64).weights
    objective = labels_objective(model)
    adam = adam_form("google")
    options = TrainingOptions(
        epochs=2, lr=1e-2, schedule=schedule, warmup=0.4, adam=adam, max_norm=0.5,
        accumulate=2, dtype=torch.float64,
    )  # fmt: skip
    trainable = Trainable(weights)
    train(objective, trainable, options, tmp_path, "tiny", Watched())

    theta = {name: t.clone() for name, t in named_tensors(weights)}
    state = {name: initial_adam_state(t) for name, t in theta.items()}
    step, rates, norms = 0, [], []
    for epoch in range(2):
        for rows in objective.order(epoch):
            leaves = {name: t.clone().requires_grad_() for name, t in theta.items()}
            objective.terms(rows, with_tensors(weights, leaves), None)["loss"].backward()
            gradients = [leaf.grad.to_dense() for leaf in leaves.values()]
            clipped, norm = optim.clip_by_global_norm(tuple(gradients), 0.5)
            rates.append(1e-2 * SCHEDULES[schedule](step, 2, STEPS))
            norms.append(float(norm))
            for (name, t), g in zip(theta.items(), clipped, strict=True):
                form = adam if is_decayed(name) else adam._replace(weight_decay=0.0)
                theta[name], state[name] = optim.adam_step(t, g, state[name], rates[-1], form)
            step += 1
    assert max(norms) > 0.5 > min(norms), "some gradients are clipped and some are not"
    for name, ours in named_tensors(trainable.finished_weights()):
        assert distance(ours, theta[name]) <= 1e-9, name
    assert [row["lr"] for row in read_metrics(tmp_path)] == [rates[2], rates[5]]


def test_a_row_has_the_means_of_its_own_epoch(tmp_path):
    losses: list[float] = []

    def record(step, terms, weights):
        losses.append(float(terms["loss"].detach()))
        return terms

    options = dataclasses.replace(OPTIONS, accumulate=1, evaluate_every=None, l2=0.0)
    run(tmp_path, spoil=record, options=options)
    found = [row["train"]["loss"] for row in read_metrics(tmp_path)]
    assert found == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], abs=1e-12)
    assert abs(found[0] - found[1]) > 1e-3


# --- Exact resume ----------------------------------------------------------------------------


def test_the_run_under_test_has_all_that_could_go_wrong(uninterrupted):
    """Partial batch, accumulation, dropout, warm-up, and evaluations inside an epoch."""
    rows = uninterrupted["rows"]
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    assert [row["epoch"] for row in rows] == [1, 1, 2, 2]
    assert all(row["dev"].keys() == {"accuracy"} for row in rows)
    assert all(row["train"].keys() == {"loss", "l2"} for row in rows)
    assert tiny.config().hidden_dropout_prob > 0
    assert STEPS == 6
    assert labels_objective(tiny.classifier()).order(0) != labels_objective(
        tiny.classifier()
    ).order(1)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_at_any_step_and_resumed_equals_uninterrupted(step, by, tmp_path, uninterrupted):
    with pytest.raises(Interrupted, match="go on with --resume") as stopped:
        run(tmp_path, stop_after(step, by=by))
    assert stopped.value.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143}[by]
    assert signal.getsignal(by) in (signal.default_int_handler, signal.SIG_DFL), "restored"
    seen = []
    run(tmp_path, seen.append)
    assert seen == list(range(step + 1, STEPS + 1)), "no step is made twice"
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("stops", [(1, 2, 3, 4, 5, 6), (2, 5), (3, 4)])
def test_resume_of_a_resume(stops, tmp_path, uninterrupted):
    for _ in stops:
        with pytest.raises(Interrupted):
            run(tmp_path, stop_after(*stops))
        stops = stops[1:]
    run(tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_the_seconds_since_the_last_measurement_are_not_lost(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(tmp_path, stop_after(5))  # measured at 4 and at 6
    found = []

    def slow(*arguments):
        progress = load_state(*arguments)
        found.append(progress.parts["student"])
        progress.parts["student"] += 1000.0  # as if the steps before the stop had been slow
        return progress

    monkeypatch.setattr("minibert.training.loop.load_state", slow)
    run(tmp_path)
    assert found[0] > 0
    assert [row["step"] for row in read_metrics(tmp_path) if row["parts"]["student"] > 1000] == [6]


def test_a_finished_run_does_nothing_when_resumed(tmp_path, uninterrupted):
    _, first = run(tmp_path)
    trainable, second = run(tmp_path, lambda step: pytest.fail("a step was made"))
    assert second == first
    assert second.finished
    assert outcome(tmp_path) == uninterrupted
    stored = runs.safe_open(tmp_path / STATE, framework="pt").get_tensor("parameters")
    assert torch.equal(trainable.parameters_P, stored), "the weights are those of the end"


@pytest.mark.parametrize("every", [1, 2, 5])
def test_saving_more_often_changes_nothing(every, tmp_path, uninterrupted):
    run(tmp_path, options=dataclasses.replace(OPTIONS, save_every=every))
    assert outcome(tmp_path) == uninterrupted


def test_save_every_saves_between_epochs(tmp_path):
    """A run that dies without a word is resumed from the last multiple, not from the epoch."""

    class Death(BaseException):
        pass

    def die(step: int) -> None:
        if step == 3:
            raise Death

    often = dataclasses.replace(OPTIONS, save_every=2)
    for options, saved in ((OPTIONS, None), (often, 2)):
        folder = tmp_path / str(saved)
        with pytest.raises(Death):
            run(folder, die, options=options)
        seen = []
        run(folder, seen.append, options=options)
        assert seen[0] == (saved or 0) + 1


def test_rows_of_steps_that_are_made_again_are_not_doubled(tmp_path, uninterrupted):
    """A run killed after it measured, before it saved, leaves rows of a future that it lost."""
    with pytest.raises(Interrupted):
        run(tmp_path, stop_after(1))
    append_metrics(tmp_path, {"phase": "other", "step": 9})
    append_metrics(tmp_path, {"phase": "tiny", "step": 2, "dev": "of the killed run"})
    run(tmp_path)
    rows = outcome(tmp_path)["rows"]
    assert [row for row in rows if row["phase"] == "tiny"] == uninterrupted["rows"]
    assert [row["step"] for row in rows if row["phase"] == "other"] == [9]


def poison(step: int) -> None:
    random.seed(step)
    numpy.random.seed(step)
    torch.manual_seed(step)
    torch.rand(step)


def test_global_random_state_has_no_say(tmp_path, uninterrupted):
    run(tmp_path, poison)
    assert outcome(tmp_path) == uninterrupted


def test_global_random_state_is_left_alone(tmp_path):
    def states():
        numbers = numpy.random.get_state()[1].tolist()
        return random.getstate(), numbers, torch.get_rng_state().tolist()

    before = states()
    run(tmp_path)
    assert states() == before


def test_another_seed_is_another_run(tmp_path, uninterrupted):
    run(tmp_path, options=dataclasses.replace(OPTIONS, seed=6))
    assert outcome(tmp_path)["model.safetensors"] != uninterrupted["model.safetensors"]


def test_training_works_outside_the_main_thread(tmp_path, uninterrupted):
    """Only the main thread may set signal handlers; a notebook or server trains elsewhere."""
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert outcome(tmp_path) == uninterrupted


def test_the_second_ctrl_c_does_not_wait(tmp_path):
    def twice(step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, twice)
    assert not (tmp_path / STATE).exists()


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_training as t

often = t.dataclasses.replace(t.OPTIONS, save_every=1, epochs=4)
folder, rng, kills, patience = Path(sys.argv[1]), random.Random(0), 0, 0.05

def start(folder):
    child = os.fork()  # no backward pass was made here yet, so there are no threads to lose
    if child:
        return child
    try:
        t.run(folder, options=often)
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

assert os.waitpid(start(folder / "whole"), 0)[1] == 0
while True:
    child = start(folder / "killed")
    time.sleep(rng.uniform(0, patience))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        break
    kills, patience = kills + 1, patience * 1.15  # the machine may be slow
assert status == 0, status
print(kills, t.outcome(folder / "killed") == t.outcome(folder / "whole"))
"""


def test_killed_without_warning_at_any_time_and_resumed(tmp_path):
    """SIGKILL as often as it takes; what is found afterwards always loads and goes on exactly."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    kills, same = result.stdout.split()
    assert same == "True"
    assert int(kills) > 0
    assert not list((tmp_path / "killed").glob(".*.saving")), "no leftovers"


def test_a_shared_file_may_be_written_twice_at_a_time(tmp_path):
    """Each process writes its own; what a killed one left goes, another's stays."""
    path = tmp_path / "answers"
    killed = subprocess.Popen(["true"])
    killed.wait()
    (tmp_path / f".answers.{killed.pid}.saving").write_text("half")
    living = tmp_path / f".answers.{os.getppid()}.saving"
    living.write_text("another's")
    with written_whole(path, shared=True) as staged:
        staged.write_text("whole")
        assert staged.name == f".answers.{os.getpid()}.saving"
    assert path.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([living, path])


# --- What is not finite ----------------------------------------------------------------------


def nan_loss(step, terms, weights):
    return {name: value * math.nan for name, value in terms.items()} if step == 5 else terms


def infinite_loss(step, terms, weights):
    return {"loss": terms["loss"] + math.inf, "hidden": terms["loss"] * math.inf}


def nan_gradient(step, terms, weights):
    """A finite loss whose derivative is 0 · ∞."""
    poison = (weights.classifier.weight_OI * 0).sum().sqrt()
    return {"loss": terms["loss"] + poison} if step == 5 else terms


def overflowing_gradient(step, terms, weights):
    """Every number of the gradient is finite, its length in float32 is not."""
    return {"loss": terms["loss"] + 3e38 * weights.embeddings.word_VD.sum() / 2}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan_loss, "step 5: loss is nan, but must be finite"),
        (infinite_loss, "step 1: hidden is inf, but must be finite"),
        (nan_gradient, "step 5: the gradient of classifier.weight_OI is infinite or NaN"),
        (overflowing_gradient, "step 1: .* must be finite"),
    ],
)
def test_not_finite_stops_before_the_update(spoil, said, tmp_path, uninterrupted):
    good = tmp_path / "good"
    step = 4 if "5" in said else 0
    before = Trainable(tiny.classifier().weights)
    if step:
        with pytest.raises(Interrupted):
            run(good, stop_after(step))
        load_state(good / STATE, before, torch.Generator(), STEPS)

    folder = tmp_path / "spoiled"
    caught: list[Trainable] = []
    original = Trainable.__init__

    def remembered(self, *arguments):
        original(self, *arguments)
        caught.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainable, "__init__", remembered)
        with pytest.raises(NotFinite, match=said) as error:
            run(folder, spoil=spoil)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    assert "--lr" in str(error.value)
    (trainable,) = caught
    assert torch.equal(trainable.parameters_P, before.parameters_P), "weights bit for bit"
    assert torch.equal(trainable.adam.mean_P, before.adam.mean_P)
    assert torch.equal(trainable.adam.square_P, before.adam.square_P)
    assert trainable.adam.steps == step

    # What was saved at the end of epoch 1 is still there, and leads to the same end.
    assert (folder / STATE).exists() == (step > 0)
    run(folder)
    assert outcome(folder) == uninterrupted


@pytest.mark.parametrize("lr", [1e25, 1e39])
def test_weights_that_overflow_are_not_saved(lr, tmp_path):
    """A rate beyond float32 makes weights infinite; one just below it spoils all later answers."""
    options = dataclasses.replace(OPTIONS, lr=lr, warmup=0.0, epochs=1, evaluate_every=1)
    with pytest.raises(NotFinite, match="smaller --lr"):
        run(tmp_path, options=options)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_overflow_are_not_saved_where_nothing_is_measured(tmp_path):
    """The first stage of a distillation measures no answers that would show it."""
    model = tiny.classifier()
    options = dataclasses.replace(OPTIONS, lr=1e39, warmup=0.0, save_every=1)
    with pytest.raises(NotFinite, match="step 1: the update made a weight infinite or NaN"):
        train(labels_objective(model), Trainable(model.weights), options, tmp_path, "a", Watched())
    assert list(tmp_path.iterdir()) == []


# --- The best model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.9, 0.4), 2), ((0.7, 0.6, 0.5), 1), ((0.5, 0.5, 0.5), 1)]
)
def test_the_best_model_on_dev_is_kept(scores, best, tmp_path):
    """Also if later epochs are worse; of equals the first."""
    coming, seen = iter(scores), []

    def evaluate(weights: BertWeights) -> dict[str, float]:
        seen.append(weights)
        return {"accuracy": next(coming)}

    options = dataclasses.replace(OPTIONS, epochs=3, evaluate_every=None)
    _, progress = run(tmp_path, evaluate=evaluate, options=options)
    assert progress.best_epoch == best
    assert progress.best_metrics == {"accuracy": scores[best - 1]}
    kept = Bert.from_pretrained(tmp_path).weights
    assert torch.equal(flatten(kept), flatten(seen[best - 1]))
    assert not torch.equal(flatten(kept), flatten(seen[best % 3]))
    assert [row["dev"]["accuracy"] for row in read_metrics(tmp_path)] == list(scores)


def test_a_model_learns_what_can_be_learned(tmp_path):
    """And is then right about sentences that it has not seen."""
    model = tiny.classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    objective = dataclasses.replace(labels_objective(model, 200), batch_size=20)
    trainable = Trainable(model.weights)
    options = TrainingOptions(epochs=6, lr=2e-2)
    train(objective, trainable, options, tmp_path, "tiny", Watched())
    learned = dataclasses.replace(model, weights=trainable.finished_weights())
    new = tiny.dataset(100, 77)
    assert evaluated(learned, new, 20)["accuracy"] > 0.95
    assert evaluated(model, new, 20)["accuracy"] < 0.8


# --- Damage and full disks -------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    """The state after two of six steps."""
    with pytest.raises(Interrupted):
        run(tmp_path, stop_after(2))
    return tmp_path / STATE


def refused(path: Path, said: str, width: int = 12, total: int = STEPS) -> None:
    """Loading fails with these words, and changes nothing."""
    trainable = Trainable(tiny.classifier(hidden_size=width).weights)
    generator = torch.Generator().manual_seed(3)
    before = trainable.parameters_P.clone(), generator.get_state()
    with pytest.raises(CheckpointError, match=said) as error:
        load_state(path, trainable, generator, total)
    assert error.value.exit_code == 3
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert torch.equal(trainable.parameters_P, before[0])
    assert float(trainable.adam.mean_P.abs().sum()) == 0
    assert torch.equal(generator.get_state(), before[1])


def test_a_cut_off_state_is_refused(saved):
    whole = saved.read_bytes()
    lengths = [*range(12), *range(12, len(whole), len(whole) // 25), len(whole) - 1]
    for length in lengths:
        saved.write_bytes(whole[:length])
        refused(saved, "is damaged .*--overwrite")
    saved.write_bytes(whole)
    assert load_state(saved, Trainable(tiny.classifier().weights), torch.Generator(), STEPS).step


def test_a_flipped_bit_is_noticed(saved):
    whole = bytearray(saved.read_bytes())
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    numbers = [rng.randrange(header, len(whole)) for _ in range(40)]
    for place in numbers:
        flipped = whole.copy()
        flipped[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(flipped)
        refused(saved, "is damaged")


def test_other_files_are_no_state(saved, tmp_path):
    for content in (b"", b"text", b"{}", b"\0" * 100):
        saved.write_bytes(content)
        refused(saved, "is damaged")
    tiny.classifier().save_pretrained(tmp_path / "model")
    saved.write_bytes((tmp_path / "model" / "model.safetensors").read_bytes())
    refused(saved, "is damaged")
    saved.unlink()
    saved.mkdir()
    refused(saved, "is damaged")


def test_a_state_of_another_run_is_refused(saved):
    refused(saved, "parameters 3060, but .* give 8676", width=24)
    refused(saved, f"steps {STEPS}, but .* give 9", total=9)


def test_a_run_with_other_data_is_refused(saved):
    """The number of steps tells; a resume on other data would be no resume."""
    model = tiny.classifier()
    with pytest.raises(CheckpointError, match=r"steps 6, but .* give 8"):
        train(
            labels_objective(model, 13), Trainable(model.weights), OPTIONS, saved.parent, "tiny",
            Watched(),
        )  # fmt: skip


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_state(saved, tmp_path_factory):
    before, tmp_path = files_in(saved.parent), tmp_path_factory.mktemp("measured")
    new = Trainable(tiny.classifier(seed=9).weights), torch.Generator(), Progress(STEPS, step=3)
    save_state(tmp_path / "elsewhere" / STATE, *new)
    size = (tmp_path / "elsewhere" / STATE).stat().st_size
    for room in [*range(0, size, size // 40), size - 1]:
        with room_for(room), pytest.raises(OSError, match=r"cannot be written: .*--resume"):
            save_state(saved, *new)
        assert files_in(saved.parent) == before
    with room_for(size):
        save_state(saved, *new)
    assert saved.read_bytes() != before[STATE]


def test_a_full_disk_leaves_the_old_metrics_and_result(tmp_path):
    append_metrics(tmp_path, {"phase": "tiny", "step": 1, "dev": {"accuracy": 0.5}})
    finish_run(tmp_path, {"task": "classify"})
    before = files_in(tmp_path)
    for room in range(0, 90, 7):
        with room_for(room):
            with pytest.raises(OSError, match=r"metrics.jsonl cannot be written"):
                append_metrics(tmp_path, {"phase": "tiny", "step": 2, "dev": {"accuracy": 0.75}})
            with pytest.raises(OSError, match=r"result.json cannot be written"):
                finish_run(tmp_path, {"task": "classify", "metrics": ["long"] * 50})
        assert files_in(tmp_path) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", range(1, 13))
def test_a_write_that_fails_anywhere_can_be_made_good(
    call, number, tmp_path, uninterrupted, monkeypatch
):
    """The n-th flush or rename of a whole run fails; afterwards it is resumed."""
    original, left = getattr(os, call), iter(range(number, 0, -1))

    def failing(*arguments, **named):
        if next(left, 0) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match="No space left on device"):
            run(tmp_path)
    assert not [name for name in files_in(tmp_path) if ".saving" in name], "no leftovers"
    run(tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Flush, rename, flush the folder: in any other order a power cut could leave half a file."""
    calls = []

    def logged(name):
        original = getattr(os, name)

        def call(*arguments, **named):
            number = os.stat(arguments[0]).st_ino  # of a path, or of an open file
            found = [p.name for p in (tmp_path, *tmp_path.iterdir()) if p.stat().st_ino == number]
            calls.append((name, *found))
            return original(*arguments, **named)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, logged(name))
    new = Trainable(tiny.classifier().weights), torch.Generator(), Progress(STEPS)
    save_state(tmp_path / STATE, *new)
    staged = f".{STATE}.saving"
    assert calls == [("fsync", staged), ("replace", staged), ("fsync", tmp_path.name)]


def test_damaged_metrics_are_named(tmp_path):
    append_metrics(tmp_path, {"phase": "tiny", "step": 1})
    for line in ("{", "[]", "3", '{"phase": "tiny"}', '{"step": "two"}', '{"step": 1}'):
        text = '{"phase": "tiny", "step": 1}\n' + line + "\n"
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2: .* not a metrics row"):
            trim_metrics(tmp_path, "tiny", 0)
        assert (tmp_path / "metrics.jsonl").read_text() == text
    (tmp_path / "metrics.jsonl").write_bytes(b'{"phase": "\xff", "step": 1}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 1: .* not a metrics row"):
        trim_metrics(tmp_path, "tiny", 0)


# --- The folder of a run ---------------------------------------------------------------------


RECORD = {"command": "finetune", "lr": 0.1}


def claim(folder: Path, resume: bool = False, overwrite: bool = False, record=RECORD, write=True):
    """Claim a folder as a command does, and leave a state there."""
    with open_run(folder, record, resume, overwrite) as done:
        if write:
            (folder / STATE).write_bytes(b"state")
        return done


def test_a_new_folder_is_claimed(tmp_path):
    assert claim(tmp_path / "a" / "run") is None
    assert json.loads((tmp_path / "a" / "run" / "run.json").read_text()) == RECORD
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty") is None


def test_a_used_folder_needs_a_choice(tmp_path):
    claim(tmp_path)
    before = files_in(tmp_path)
    with pytest.raises(RunError, match="is not empty; go on with --resume, start over") as error:
        claim(tmp_path)
    assert error.value.exit_code == 2
    assert files_in(tmp_path) == before
    with pytest.raises(RunError, match="exclude each other"):
        claim(tmp_path, resume=True, overwrite=True)
    assert claim(tmp_path, resume=True) is None
    assert files_in(tmp_path) == before


def test_resume_needs_the_same_options(tmp_path):
    claim(tmp_path)
    for record, said in (
        ({**RECORD, "lr": 0.2}, "was made with lr = 0.1, not 0.2"),
        ({**RECORD, "task": "sst2"}, "was made with task = None, not 'sst2'"),
    ):
        with pytest.raises(RunError, match=said):
            claim(tmp_path, resume=True, record=record)
    with pytest.raises(RunError, match="so no run to resume; check --out"):
        claim(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_what_is_damaged_is_named(tmp_path):
    claim(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read"):
        claim(tmp_path, resume=True)
    (tmp_path / "run.json").write_text('{"command": ')
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read"):
        claim(tmp_path, resume=True)


def test_overwrite_clears_a_run_and_nothing_else(tmp_path):
    claim(tmp_path)
    append_metrics(tmp_path, {"phase": "tiny", "step": 1})
    finish_run(tmp_path, {"task": "classify"})
    (tmp_path / "model.safetensors").write_bytes(b"old model")
    (tmp_path / "note.txt").write_text("mine")
    claim(tmp_path, overwrite=True, record={"command": "distill"})
    names = sorted(files_in(tmp_path))
    assert names == ["model.safetensors", "note.txt", "run.json", STATE]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"cat")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="holds files that no run wrote; choose another --out"):
            claim(other, overwrite=overwrite)
    assert files_in(other) == {"cat.png": b"cat"}


def test_a_complete_run_gives_its_result(tmp_path):
    claim(tmp_path)
    finish_run(tmp_path, {"task": "classify", "metrics": {"accuracy": 1.0}})
    assert not (tmp_path / STATE).exists(), "the state has done its work"
    assert claim(tmp_path, resume=True, write=False) == json.loads(
        (tmp_path / "result.json").read_text()
    )


def test_a_run_that_fails_before_it_began_leaves_the_one_it_would_have_written_over(tmp_path):
    claim(tmp_path)
    append_metrics(tmp_path, {"phase": "tiny", "step": 1})
    finish_run(tmp_path, {"task": "classify"})
    before = files_in(tmp_path)
    for error in (CheckpointError, KeyboardInterrupt):
        with pytest.raises(error), open_run(tmp_path, {"command": "distill"}, False, True):
            raise error
        assert files_in(tmp_path) == before


    def begun(folder: Path) -> None:
        with open_run(folder, {"command": "distill"}, False, True):
            (folder / STATE).write_bytes(b"state")
            raise KeyError

    with pytest.raises(KeyError):
        begun(tmp_path)
    assert sorted(files_in(tmp_path)) == ["run.json", STATE], "it had begun"


@pytest.mark.parametrize("phase", [None, "states", "answers"])
def test_what_the_teacher_did_alone_is_no_beginning(phase, tmp_path):
    """With a cache elsewhere, nothing of it is in the folder but its time."""

    def failing(folder: Path) -> None:
        with open_run(folder, {"command": "distill"}, False, folder == tmp_path / "old"):
            if phase:
                append_metrics(folder, {"phase": phase, "step": 1, "parts": {"teacher": 1.0}})
            raise NotFinite

    claim(tmp_path / "old")
    append_metrics(tmp_path / "old", {"phase": "tiny", "step": 1})
    finish_run(tmp_path / "old", {"task": "classify"})
    before = files_in(tmp_path / "old")
    for name in ("old", "new"):
        with pytest.raises(NotFinite):
            failing(tmp_path / name)
    assert files_in(tmp_path / "old") == before
    assert not (tmp_path / "new").exists()


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    """A mistyped path must not make --overwrite necessary."""
    folder = tmp_path / "run"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), open_run(folder, RECORD, False, False):
            raise error
        assert not folder.exists()
    folder.mkdir()
    with pytest.raises(KeyError), open_run(folder, RECORD, False, False):
        raise KeyError
    assert list(folder.iterdir()) == [], "a folder that was there stays"
    with open_run(folder, RECORD, False, False):
        append_metrics(folder, {"phase": "tiny", "step": 1})
    assert sorted(files_in(folder)) == ["metrics.jsonl", "run.json"], "what began is kept"


def test_two_processes_never_work_in_one_folder(tmp_path):
    with open_run(tmp_path / "run", RECORD, False, False):
        append_metrics(tmp_path / "run", {"phase": "tiny", "step": 1})
        before = files_in(tmp_path)
        for resume, overwrite in ((True, False), (False, True)):
            with pytest.raises(RunError, match=r"another process is at work in .*run;"):
                claim(tmp_path / "run", resume, overwrite)
        assert files_in(tmp_path) == before
    assert claim(tmp_path / "run", resume=True) is None, "the lock ends with the run"


def test_a_run_killed_at_its_first_or_last_write_is_no_trouble(tmp_path):
    (tmp_path / ".run.json.saving").write_text("{")
    claim(tmp_path)
    finish_run(tmp_path, {"task": "classify"})
    assert sorted(files_in(tmp_path)) == ["result.json", "run.json"]
    (tmp_path / STATE).write_bytes(b"killed before it was deleted")
    assert claim(tmp_path, resume=True, write=False) == {"task": "classify"}
    assert sorted(files_in(tmp_path)) == ["result.json", "run.json"]


def test_files_of_a_person_that_look_like_those_of_a_run_stay(tmp_path):
    claim(tmp_path)
    (tmp_path / "mine").mkdir()
    own = ("answers-mine.txt", "mine/answers-talk.md", "mine/a.saving", "mine/a.safetensors")
    for name in own:
        (tmp_path / name).write_text("mine")
    finish_run(tmp_path, {})
    assert sorted(files_in(tmp_path)) == sorted([*own, "run.json", "result.json"])


def test_states_of_runs_inside_a_run_stay(tmp_path):
    claim(tmp_path)
    claim(tmp_path / "student")
    for part in (tmp_path / "labels", tmp_path / "student"):
        part.mkdir(exist_ok=True)
        (part / STATE).write_bytes(b"state")
    (tmp_path / "answers-0a.safetensors").write_bytes(b"logits")
    drop_states(tmp_path)
    assert sorted(files_in(tmp_path)) == ["run.json", "student/run.json", f"student/{STATE}"]


# --- What a person sees ----------------------------------------------------------------------


def shown(monkeypatch, capsys, terminal: bool) -> str:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    for name, value in (("FORCE_COLOR", terminal), ("NO_COLOR", not terminal)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, "1")
    monkeypatch.setattr("minibert.training.progress.LINE_EVERY", 0)
    with Display().phase("prediction", 8) as bar:
        for step in range(4):
            bar.advance({"loss": 0.5, "hidden": step / 3})
            bar.progress.refresh()
        bar.measured({"epoch": 1, "train": {"loss": 0.25}, "dev": {"accuracy": 0.75}, "seconds": 2})
    captured = capsys.readouterr()
    assert captured.out == "", "stdout is for results"
    return captured.err


def test_a_log_has_terms_rate_and_time_left(monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, terminal=False).splitlines()
    number = r"[0-9,]+\.[0-9]"
    for line, step in zip(lines[1:4], (2, 3, 4), strict=True):
        found = rf"prediction {step}/8, {number} steps/s(, 0:00:0\d left)?  loss 0.5  hidden"
        assert re.match(found, line), line
    assert "epoch 1: loss 0.25  dev: accuracy 0.75" in lines[-1]


def test_a_terminal_has_a_bar_with_terms_rate_and_time_left(monkeypatch, capsys):
    text = shown(monkeypatch, capsys, terminal=True)
    for part in ("prediction", "4/8", "steps/s", "left", "loss 0.5", "hidden 1", "accuracy 0.75"):
        assert part in text, part


def test_a_name_that_is_too_long_is_told_with_its_path(tmp_path):
    path = tmp_path / ("x" * 250)  # and the name of the file beside it is still longer
    said = pytest.raises(OSError, match=r"xxx cannot be written: File name too long")
    with said, written_whole(path) as staged:
        staged.write_text("")


def test_the_seconds_of_rows_are_counted_once(tmp_path):
    """Of every row since the one before; a resumed run goes on counting."""
    options = dataclasses.replace(OPTIONS, epochs=2, evaluate_every=1)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run(tmp_path, stop_after(3), options=options)
    run(tmp_path, options=options)
    rows = read_metrics(tmp_path)
    assert len(rows) > 4
    assert 0 < sum(row["seconds"] for row in rows) <= time.monotonic() - started
    for row in rows:
        assert row["seconds"] >= sum(row["parts"].values()) - 0.02, "rounding"


def test_the_seconds_so_far_are_those_that_a_resumed_run_builds_on(tmp_path):
    """Of finished stages, of a stage up to its state, and since its last row; of folders inside."""
    trainable, generator = Trainable(tiny.classifier().weights), torch.Generator()
    progress = Progress(10, step=5, parts={"student": 7.0, "data": 0.5})
    save_state(tmp_path / f"second{STATE_ENDING}", trainable, generator, progress)
    for phase, step, seconds in (("states", 9, 3.0), ("first", 20, 2.0), ("second", 4, 1.0)):
        append_metrics(tmp_path, {"phase": phase, "step": step, "parts": {"student": seconds}})
    append_metrics(tmp_path, {"phase": "second", "step": 6, "parts": {"student": 100.0}})
    (tmp_path / "labels").mkdir()
    append_metrics(tmp_path / "labels", {"phase": "labels", "step": 1, "parts": {"dev": 20.0}})
    (tmp_path / f"teacher-0{STATE_ENDING}").write_bytes(b"of the teacher, or damaged")
    assert seconds_so_far(tmp_path) == 7.0 + 0.5 + 3.0 + 2.0 + 1.0 + 20.0


# --- Evaluation ------------------------------------------------------------------------------


def test_texts_that_are_too_long_are_refused_in_words():
    model = tiny.classifier()
    long = "a " * 40
    data = dataclasses.replace(tiny.dataset(2, 1), examples=(tiny.Example(long, None, 0),) * 2)
    encodings = encodings_of(data, model.tokenizer, 30)
    said = "a text has 30 tokens, but the model has only 20 positions; cut texts with --max-length"
    with pytest.raises(CheckpointError, match=said):
        all_logits(encodings, model.weights, model.config)
    for kind in (LabelObjective, PredictionObjective):
        more = () if kind is LabelObjective else (torch.zeros(2), None, 1.0, False, "masked")
        with pytest.raises(CheckpointError, match=said):
            kind(encodings, 2, 0, 0, torch.device("cpu"), model.config, torch.zeros(2, 2), *more)


def test_a_model_of_one_token_type_is_given_no_pairs():
    model = tiny.classifier(type_vocab_size=1)
    encodings = tiny.tokenizer().encode(["a film"], ["a plot"])
    with pytest.raises(CheckpointError, match="one token type, so it reads no pairs of texts"):
        all_logits(encodings, model.weights, model.config)
    assert all_logits(tiny.tokenizer().encode(["a film"]), model.weights, model.config).shape


def test_logits_come_in_the_order_of_the_inputs():
    model = tiny.classifier()
    data = tiny.dataset(70, 3)  # more than one batch
    encodings = encodings_of(data, model.tokenizer, 20)
    together = all_logits(encodings, model.weights, model.config)
    alone = torch.cat([all_logits([one], model.weights, model.config) for one in encodings])
    assert together.shape == (70, 2)
    assert distance(together, alone) <= 1e-5, "one text alone, or among others with padding"


def test_an_answer_that_is_not_finite_is_refused():
    model = tiny.classifier()
    huge = views_of(flatten(model.weights), model.weights)
    huge.pooler.bias_O.fill_(100)  # the pooled state is now 1 everywhere
    huge.classifier.weight_OI.fill_(3e38)  # and 12 times this is beyond float32
    encodings = encodings_of(tiny.dataset(3, 1), model.tokenizer, 20)
    with pytest.raises(NotFinite, match="answers are not finite"):
        all_logits(encodings, huge, model.config)


def test_metrics_by_hand():
    task = dataclasses.replace(tiny.CLASSIFY, metrics=("accuracy", "f1", "matthews_correlation"))
    labels = torch.tensor([1, 1, 1, 0, 0, 1, 0, 1])
    says = torch.tensor([1, 0, 1, 0, 1, 1, 0, 1])
    logits = torch.nn.functional.one_hot(says, 2).float() + normal(0, 8, 2).float() / 10
    tp, tn, fp, fn = 4, 2, 1, 1
    expected = {
        "accuracy": 6 / 8,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews_correlation": (tp * tn - fp * fn)
        / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }
    assert measured(task, logits, labels) == pytest.approx(expected, abs=1e-12)
    scores = dataclasses.replace(task, regression=True, metrics=("pearson", "spearman"))
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0]])
    found = measured(scores, x, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    # deviations: x -3 -2 -1 6, y -1.5 -0.5 0.5 1.5, so Σxy = 14, Σxx = 50, Σyy = 5
    assert found == pytest.approx({"pearson": 14 / math.sqrt(250), "spearman": 1.0}, abs=1e-12)
    constant = measured(scores, torch.ones(4, 1), torch.arange(4.0))
    assert constant == {"pearson": 0.0, "spearman": 0.0}, "not NaN, which JSON does not have"


def test_a_model_that_does_not_fit_the_task_is_refused():
    data = tiny.dataset(4, 1)
    encoder = Bert.from_config(tiny.config(), "encoder", tiny.tokenizer())
    with pytest.raises(CheckpointError, match="has the head 'encoder', but classify needs a class"):
        evaluated(encoder, data, 20)
    three = Bert.from_config(
        tiny.config().with_labels(("a", "b", "c")), "classification", tiny.tokenizer()
    )
    with pytest.raises(CheckpointError, match="has 3 labels, but classify needs 2"):
        evaluated(three, data, 20)
    model = tiny.classifier()
    swapped = dataclasses.replace(
        model, config=model.config.with_labels(("Praise", "Blame"), model.config.problem_type)
    )
    with pytest.raises(CheckpointError, match=r"praise, blame, but .* blame, praise, in this"):
        evaluated(swapped, data, 20)
    with pytest.raises(CheckpointError, match="has no vocabulary"):
        evaluated(dataclasses.replace(model, tokenizer=None), data, 20)
