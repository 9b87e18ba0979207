"""What a training run leaves on disk: its options, its state at a step, and its measurements.

Everything is written beside its target, flushed, and renamed: whenever the power fails, the folder
holds the old state or the new one, never half of one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import CheckpointError
from minibert.files import checksum, read_json
from minibert.optim import AdamState
from minibert.training.stopwatch import Stopwatch, running
from minibert.training.trainable import Trainable
from minibert.writing import UNFINISHED, Busy, alone, whole_file

OPTIONS_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
STATE_ENDING = ".state.safetensors"
ANSWERS = "answers-"  # of a teacher; the beginning of a name
# What only a resume needs, and what a killed process left half written.
WORKING_FILES = re.compile(
    rf".+{re.escape(STATE_ENDING)}|{ANSWERS}[0-9a-f]+\.safetensors|\..+{re.escape(UNFINISHED)}"
)
TEACHER_ALONE = ("states", "answers")  # phases in which nothing is learned


class RunError(ValueError):
    """A run folder is in the way, is missing, or was made with other options."""

    exit_code = 2


class NotFinite(RuntimeError):
    """A loss, a gradient or a weight is infinite or not a number; nothing of it was saved."""

    exit_code = 1


# --- Files, whole or not at all --------------------------------------------------------------

# After a failure a run goes on from what was saved before.
written_whole = partial(whole_file, then="; fix that, then go on with --resume")
# What a teacher computes may be the first thing that a run writes; then its folder goes again.
REPEAT = "; fix that, then repeat the command, with --resume if --out is still there"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write one JSON document, whole or not at all."""
    with written_whole(path) as staged:
        staged.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


# --- The state at a step ---------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run is: everything but the tensors that decides what happens next."""

    total: int
    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)  # seconds since the last measurement
    best_score: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    finished: bool = False

    def means(self) -> dict[str, float]:
        """The mean of each loss term over the batches of this epoch so far."""
        return {name: value / self.batch for name, value in self.sums.items()}


def _tensors_of(trainable: Trainable) -> dict[str, Tensor]:
    return {
        "parameters": trainable.parameters_P,
        "mean": trainable.adam.mean_P,
        "square": trainable.adam.square_P,
    } | trainable.extra


def save_state(
    path: Path, trainable: Trainable, generator: torch.Generator, progress: Progress
) -> None:
    """Write everything that the next step depends on to one file.

    Raises
        OSError  the disk is full or not writable; the state that was there is untouched.
    """
    tensors = {name: tensor.cpu() for name, tensor in _tensors_of(trainable).items()}
    tensors["generator"] = generator.get_state()
    record = {
        "progress": asdict(progress),
        "adam_steps": trainable.adam.steps,
        "device": generator.device.type,
        "checksum": checksum(tensors),
    }
    with written_whole(path) as staged:
        save_file(tensors, staged, metadata={"record": json.dumps(record)})


def load_state(
    path: Path, trainable: Trainable, generator: torch.Generator, total: int
) -> Progress:
    """Put a saved state back, bit for bit; without a file, the run starts from the beginning.

    Raises
        CheckpointError  the file is damaged, or belongs to another model, device, or number of
                         steps; nothing has been changed then.
    """
    if not path.exists():
        return Progress(total)
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        progress = Progress(**record["progress"])
        adam_steps, device = record["adam_steps"], record["device"]
        damage = "" if checksum(tensors) == record["checksum"] else "its checksum is wrong"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        damage = str(error) or type(error).__name__
    if damage:
        raise CheckpointError(f"{path} is damaged ({damage}); start over with --overwrite")
    targets = _tensors_of(trainable)
    saved = (tensors["parameters"].numel(), progress.total, device)
    wanted = (trainable.parameters_P.numel(), total, generator.device.type)
    for what, old, new in zip(("parameters", "steps", "device"), saved, wanted, strict=True):
        if old != new:
            raise CheckpointError(
                f"{path} is from a run with {what} {old}, but model, data and options give {new}; "
                "resume with the same ones, or start over with --overwrite"
            )
    for name, target_P in targets.items():
        target_P.copy_(tensors[name])
    generator.set_state(tensors["generator"])
    trainable.adam = AdamState(targets["mean"], targets["square"], adam_steps)
    return progress


# --- What was measured -----------------------------------------------------------------------


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Add one row to `metrics.jsonl`."""
    write_metrics(folder, [*read_metrics(folder), row])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; none if there is no such file.

    Raises
        CheckpointError  a line of it is damaged.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(row | {"phase": str(row["phase"]), "step": int(row["step"])})
        except (ValueError, KeyError, TypeError):
            start = line[:40].decode(errors="replace")
            raise CheckpointError(
                f"{path}, line {number}: {start!r} is not a metrics row; delete this line"
            ) from None
    return rows


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows of `metrics.jsonl`."""
    with written_whole(folder / METRICS_FILE) as staged:
        staged.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@contextmanager
def timed_reading(folder: Path, phase: str, n_steps: int) -> Iterator[None]:
    """Note how long the teacher reads texts, in how many batches, unless all was there already.

    So a run that is resumed knows of this time, too.
    """
    with running(Stopwatch()) as watch:
        yield
    if watch.seconds:
        parts = {name: round(seconds, 3) for name, seconds in watch.seconds.items()}
        append_metrics(folder, {"phase": phase, "step": n_steps, "parts": parts})


def seconds_so_far(folder: Path) -> float:
    """The seconds that teacher and steps of a stopped run took, up to where it will go on.

    They are in its metrics, but for those after the last measurement, which are in its states.
    """
    total = 0.0
    for part in _parts(folder):
        reached = {}
        for path in part.glob("*" + STATE_ENDING):
            try:
                with safe_open(path, framework="pt") as file:
                    stored = json.loads(file.metadata()["record"])["progress"]
                reached[path.name.removesuffix(STATE_ENDING)] = stored["step"]
                total += sum(stored["parts"].values())
            except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # the teacher's, or damaged, which `load_state` will say
        for row in read_metrics(part):
            if row["step"] <= reached.get(row["phase"], row["step"]):
                total += sum(row.get("parts", {}).values())
    return total


def trim_metrics(folder: Path, phase: str, step: int) -> None:
    """Drop the rows of a phase that a stopped run wrote after the state it resumes from."""
    rows = read_metrics(folder)
    kept = [row for row in rows if row.get("phase") != phase or row["step"] <= step]
    if len(kept) < len(rows):
        write_metrics(folder, kept)


# --- The folder ------------------------------------------------------------------------------


def with_hashes(options: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """A run's options, and hashes of what it reads: the same name may stand for others by now."""
    return {**options, **{f"a hash of {what}": known for what, known in hashes.items()}}


def check_run(folder: Path, options: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    """Whether `open_run` will let a run have its folder; changes nothing.

    Raises
        RunError         the folder exists and neither choice was made, or its options differ.
        CheckpointError  what the run left there is damaged.
    """
    path = folder / OPTIONS_FILE
    if resume and overwrite:
        raise RunError("--resume and --overwrite exclude each other; give one of them")
    if resume:
        if not path.exists():
            raise RunError(f"{folder} has no {OPTIONS_FILE}, so no run to resume; check --out")
        stored = read_json(path)
        for key in sorted(options):
            if stored.get(key) != options[key]:
                raise RunError(
                    f"{folder} was made with {key} = {stored.get(key)!r}, not {options[key]!r}; "
                    "resume with the same options, or start over with --overwrite"
                )
    elif folder.exists() and not all(p.name.endswith(UNFINISHED) for p in folder.iterdir()):
        if not path.exists():
            raise RunError(f"{folder} holds files that no run wrote; choose another --out")
        if not overwrite:
            raise RunError(
                f"{folder} is not empty; go on with --resume, start over with --overwrite, "
                "or choose another --out"
            )


@contextmanager
def open_run(
    folder: Path, options: Mapping[str, Any], resume: bool, overwrite: bool
) -> Iterator[dict[str, Any] | None]:
    """Claim a folder for a run: a new one, one to go on with, or one to write over.

    Yields the result if the run that is resumed is complete already, else None. If a run fails
    before it has saved anything, the folder is restored, except for saved states.

    Raises
        RunError         as `check_run`, or another process is at work in the folder.
        CheckpointError  as `check_run`, or the result is damaged.
    """
    check_run(folder, options, resume, overwrite)  # before anything is made
    is_new = not folder.exists()
    try:
        with alone(folder, wait=False):
            check_run(folder, options, resume, overwrite)  # nobody changes it from here on
            with _claimed(folder, options, resume, is_new) as done:
                yield done
    except Busy:
        raise RunError(
            f"another process is at work in {folder}; wait for it, or choose another --out"
        ) from None


@contextmanager
def _claimed(
    folder: Path, options: Mapping[str, Any], resume: bool, is_new: bool
) -> Iterator[dict[str, Any] | None]:
    """The rest of `open_run`, for the process that holds the lock."""
    before = {}
    try:
        if not resume:
            old = [folder / name for name in (METRICS_FILE, RESULT_FILE, OPTIONS_FILE)]
            before = {path: path.read_bytes() for path in old if path.exists()}
            for path in old[:2]:
                path.unlink(missing_ok=True)
            drop_states(folder)
            write_json(folder / OPTIONS_FILE, options)
        done = None
        if (folder / RESULT_FILE).exists():
            done = read_json(folder / RESULT_FILE)
            drop_states(folder)  # the run may have been killed before it did so itself
        yield done
    except BaseException:
        if not resume and not _has_saved(folder):
            (folder / METRICS_FILE).unlink(missing_ok=True)
            for path, data in before.items():
                with written_whole(path) as staged:
                    staged.write_bytes(data)
        raise
    finally:
        if not any(path.name != OPTIONS_FILE for path in folder.iterdir()):
            (folder / OPTIONS_FILE).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()


def _parts(folder: Path) -> Iterator[Path]:
    """The folder of a run and those in it, such as `labels`, but not those of runs inside it."""
    yield folder
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not (path / OPTIONS_FILE).exists():
            yield from _parts(path)


def _has_saved(folder: Path) -> bool:
    """Whether a run came so far that there is something to go on from."""
    if any(path.name.endswith(STATE_ENDING) for part in _parts(folder) for path in part.iterdir()):
        return True
    return any(row.get("phase") not in TEACHER_ALONE for row in read_metrics(folder))


def finish_run(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the result; delete what only a resume would need: three times the model in size."""
    write_json(folder / RESULT_FILE, result)
    drop_states(folder)


def drop_states(folder: Path) -> None:
    """Delete a run's saved states and what its teacher computed, not those of runs inside it."""
    for path in [path for part in _parts(folder) for path in part.iterdir()]:
        if WORKING_FILES.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink()
