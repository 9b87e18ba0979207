"""The curves of a run: the numbers that it wrote, stage by stage, and as a picture shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minibert.config import CheckpointError
from minibert.distillation import TermWeights
from minibert.training.axes import finite
from minibert.training.runs import METRICS_FILE, TEACHER_ALONE, read_metrics

Line = list[tuple[int, float]]


def run_lines(folder: Path) -> dict[str, dict[str, dict[str, Line]]]:
    """Every number that `metrics.jsonl` holds: stage → train, dev or lr → name → (step, number).

    Steps are those of the stage. What is not a finite number is left out, and so is what the
    teacher did alone; there is no stage if there is no such file.

    Raises
        CheckpointError  a row of it is damaged.
    """
    stages: dict[str, dict[str, dict[str, Line]]] = {}
    for row in read_metrics(folder):
        if row.get("phase") in TEACHER_ALONE:
            continue
        kinds = stages.setdefault(str(row.get("phase", "")), {"train": {}, "dev": {}, "lr": {}})
        for kind, lines in kinds.items():
            values = {"lr": row.get("lr")} if kind == "lr" else row.get(kind)
            for name, value in values.items() if isinstance(values, dict) else ():
                if (number := finite(value)) is not None:
                    lines.setdefault(str(name), []).append((row["step"], number))
    return stages


class Curves(NamedTuple):
    """Each loss term of a run times its weight, the scores on the dev set, and where stages begin.

    Steps are counted through all stages. "loss" is the sum, where a stage has several terms.
    """

    terms: dict[str, Line]
    dev: dict[str, Line]
    starts: dict[str, int]


def loss_curves(folder: Path, options: Mapping[str, Any]) -> Curves:
    """The curves of a run whose options `run.json` holds.

    Raises
        CheckpointError  there is no `metrics.jsonl`, it is damaged, or it holds no loss.
    """
    stages = run_lines(folder)
    if not (folder / METRICS_FILE).exists():
        runs = sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
        hint = f"; name one of the runs in it, such as {runs[0]}" if runs else ""
        raise CheckpointError(f"{folder} holds no {METRICS_FILE} of a run{hint}")
    weights = {
        name: finite(options.get(f"{name}_weight", default)) or 0.0
        for name, default in TermWeights()._asdict().items()
    }
    curves, start = Curves({}, {}, {}), 0
    for stage, kinds in stages.items():
        curves.starts[stage] = start
        for name, line in kinds["train"].items():
            alone = len(kinds["train"]) == 1  # then the loss is this term, weighted already
            term = _only_term(stage, weights) if name == "loss" and alone else name
            weight = weights.get(name, 1.0)
            curves.terms.setdefault(term, []).extend(_moved(line, start, weight))
        for name, line in kinds["dev"].items():
            curves.dev.setdefault(name, []).extend(_moved(line, start))
        steps = [step for lines in kinds.values() for line in lines.values() for step, _ in line]
        start += max(steps, default=0)
    if len(curves.terms) > 1 and "loss" in curves.terms:
        curves.terms["loss"] = curves.terms.pop("loss")  # the sum of the others comes last
    if not curves.terms:
        raise CheckpointError(f"{folder / METRICS_FILE} holds no loss that is a finite number")
    return curves


def _moved(line: Line, start: int, weight: float = 1.0) -> Line:
    return [(start + step, weight * value) for step, value in line]


def _only_term(stage: str, weights: Mapping[str, float]) -> str:
    """The name of the one term that a stage has; "loss" where that is not known."""
    of_answers = ("prediction", "label")
    last = stage == "prediction"
    used = [name for name, weight in weights.items() if weight and (name in of_answers) == last]
    distils = stage in ("general", "intermediate", "prediction")
    return used[0] if distils and len(used) == 1 else "loss"
