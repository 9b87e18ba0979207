"""What is recorded about a distillation, for the page and the model card beside the student."""

import datetime
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from minibert import __version__
from minibert.distillation import layer_map
from minibert.model import Bert
from minibert.training.comparison import n_parameters
from minibert.training.distil import DistilOptions
from minibert.training.preflight import losses_that_apply
from minibert.training.runs import read_metrics
from minibert.training.sparse import zeros_of

CHOSEN_ON_DEV = (
    "The epoch that is kept is the best on the development set, so its score there is somewhat "
    "better than on unseen texts."
)


def record_of(
    teacher: Bert,
    student: Bert,
    options: DistilOptions,
    result: Mapping[str, Any],
    told: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """The record that `report.write_report` reads, see `findings`; of a folder and what is in it.

    `told` is what only the caller knows: command, recipe, the name of the teacher, and perhaps a
    title. A run without a task has no "task", "n" and "models" in its result.
    """
    shape = f"{student.config.num_hidden_layers}x{student.config.hidden_size}"
    layers = layer_map(
        student.config.num_hidden_layers, teacher.config.num_hidden_layers, options.layers
    )
    return {
        "title": f"{shape}, distilled from {Path(told['teacher']).name}",
        **{key: value for key, value in told.items() if key != "teacher"},
        **{key: result[key] for key in ("task", "pair", "n", "models") if key in result},
        "date": datetime.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "seed": options.prediction.seed,
        "versions": {
            "minibert": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "teacher": sizes(told["teacher"], teacher),
        "student": sizes(out.name, student),
        "layers": list(layers),
        "losses": [list(row) for row in losses_that_apply(student.config, teacher.config, options)],
        "shares": shares(out),
        "notes": [CHOSEN_ON_DEV] if "models" in result else [],
    }


def sizes(name: str, model: Bert) -> dict[str, Any]:
    """A model's name, its shape (per layer if some were pruned), its parameters and zeros."""
    config = model.config
    heads, units = (list(one) for one in zip(*config.heads_and_units, strict=True))
    return {
        "name": name,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads if config.pruned is None else heads,
        "feed_forward": config.intermediate_size if config.pruned is None else units,
        "parameters": n_parameters(model.weights),
        "zeros": zeros_of(model.weights)[0],
    }


def shares(folder: Path) -> dict[str, dict[str, float]]:
    """For each phase the seconds that went into each part of its steps, and how many steps."""
    found: dict[str, dict[str, float]] = {}
    for row in read_metrics(folder):
        parts = found.setdefault(row["phase"], {})
        for name, seconds in row.get("parts", {}).items():
            parts[name] = round(parts.get(name, 0.0) + seconds, 3)
        parts["steps"] = row["step"]
    return found


def share_lines(folder: Path) -> list[str]:
    """The same for people: how many steps a second, and which part took which share."""
    lines = []
    for phase, parts in shares(folder).items():
        seconds = {name: took for name, took in parts.items() if name != "steps"}
        total = sum(seconds.values())
        if not total:
            continue
        in_order = sorted(seconds.items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {took / total:.0%}" for name, took in in_order)
        lines.append(f"{phase}: {parts['steps'] / total:.1f} steps/s; {listed}")
    return lines
