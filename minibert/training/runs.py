"""What a training run leaves on disk: its options, its state at a step, and its measurements.

Everything is written beside its target, flushed, and renamed: whenever the power fails, the folder
holds the old state or the new one, never half of one.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minibert.config import CheckpointError
from minibert.optim import AdamState
from minibert.training.trainable import Trainable

OPTIONS_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"


class RunError(ValueError):
    """A run folder is in the way, is missing, or was made with other options."""

    exit_code = 2


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write one JSON document, whole or not at all."""
    staged = path.with_name(f".{path.name}.saving")
    with open(staged, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


@dataclass
class Progress:
    """Where a run is: everything but the tensors that decides what happens next."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best_score: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    finished: bool = False

    def means(self) -> dict[str, float]:
        """The mean of each loss term over the batches of this epoch so far."""
        return {name: value / self.batch for name, value in self.sums.items()}


def save_state(
    path: Path, trainable: Trainable, generator: torch.Generator, progress: Progress
) -> None:
    """Write everything that the next step depends on to one file.

    Raises
        OSError  the disk is full or forbids it; the state that was there is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "parameters": trainable.parameters_P,
        "mean": trainable.adam.mean_P,
        "square": trainable.adam.square_P,
        "generator": generator.get_state(),
    }
    record = json.dumps(asdict(progress) | {"adam_steps": trainable.adam.steps})
    staged = path.with_name(f".{path.name}.saving")
    try:
        save_file(tensors, staged, metadata={"progress": record})
    except SafetensorError as error:
        staged.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from None
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    os.replace(staged, path)


def load_state(path: Path, trainable: Trainable, generator: torch.Generator) -> Progress:
    """Put a saved state back, bit for bit; without a file, the run stands at its beginning.

    Raises
        CheckpointError  the file is damaged, or belongs to a model of another size.
    """
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["progress"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        adam_steps = record.pop("adam_steps")
        for name, target_P in (
            ("parameters", trainable.parameters_P),
            ("mean", trainable.adam.mean_P),
            ("square", trainable.adam.square_P),
        ):
            if tensors[name].shape != target_P.shape:
                raise CheckpointError(
                    f"{path} holds {tensors[name].numel():,} parameters, "
                    f"but this model has {target_P.numel():,}"
                )
            target_P.copy_(tensors[name])
        generator.set_state(tensors["generator"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); start again: --overwrite") from None
    trainable.adam = AdamState(trainable.adam.mean_P, trainable.adam.square_P, adam_steps)
    return Progress(**record)


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Add one row to `metrics.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def trim_metrics(folder: Path, phase: str, step: int) -> None:
    """Drop the rows of a phase that a stopped run wrote after the state it resumes from."""
    path = folder / METRICS_FILE
    if not path.exists():
        return
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    kept = [row for row in rows if row.get("phase") != phase or row["step"] <= step]
    if len(kept) < len(rows):
        staged = path.with_name(f".{METRICS_FILE}.saving")
        staged.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(staged, path)


def open_run(
    folder: Path, options: Mapping[str, Any], resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Claim a folder for a run: a new one, one to go on with, or one to write over.

    Returns the result of a run that is resumed although it is complete, else None.

    Raises
        RunError  the folder is there and neither choice was made, or its options are others.
    """
    path = folder / OPTIONS_FILE
    if resume:
        if not path.exists():
            raise RunError(f"{folder} holds no run to resume: there is no {OPTIONS_FILE} in it")
        stored = json.loads(path.read_text(encoding="utf-8"))
        differ = [key for key, value in options.items() if stored.get(key) != value]
        if differ:
            key = differ[0]
            raise RunError(
                f"{folder} was made with {key} = {stored.get(key)!r}, not {options[key]!r}; "
                "resume with the same options, or start anew with --overwrite"
            )
        done = folder / RESULT_FILE
        return json.loads(done.read_text(encoding="utf-8")) if done.exists() else None
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RunError(
                f"{folder} is not empty; go on with --resume, write over it with --overwrite, "
                "or choose another --out"
            )
        if not path.exists():
            raise RunError(f"{folder} holds files that no run wrote; choose another --out")
        for name in (OPTIONS_FILE, METRICS_FILE, RESULT_FILE):
            (folder / name).unlink(missing_ok=True)
        drop_states(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, options)
    return None


def finish_run(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the result; what only a resume would need is three times the model, and goes."""
    write_json(folder / RESULT_FILE, result)
    drop_states(folder)


def drop_states(folder: Path) -> None:
    """Delete the saved states and cached logits of a run and of the runs inside it."""
    for pattern in ("**/*.state.safetensors", "**/teacher_logits.safetensors"):
        for path in folder.glob(pattern):
            path.unlink()
