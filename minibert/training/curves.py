"""The curves of a run: its loss terms as they count, and its scores, from one stage to the next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minibert.config import CheckpointError
from minibert.distillation import TermWeights
from minibert.training.axes import finite
from minibert.training.runs import METRICS_FILE, read_metrics

Line = list[tuple[int, float]]


class Curves(NamedTuple):
    """Of a run: each loss term times its weight, the scores on the dev set, and where stages begin.

    Steps are counted through all stages. "loss" is the sum, where a stage has several terms.
    """

    terms: dict[str, Line]
    dev: dict[str, Line]
    starts: dict[str, int]


def loss_curves(folder: Path, options: Mapping[str, Any]) -> Curves:
    """The curves of a run whose options `run.json` holds; numbers that are not finite are left out.

    Raises
        CheckpointError  there is no `metrics.jsonl`, it is damaged, or it holds no loss.
    """
    rows = read_metrics(folder)
    if not rows:
        runs = sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
        hint = f"; name one of the runs in it, such as {runs[0]}" if runs else ""
        raise CheckpointError(f"{folder} holds no {METRICS_FILE} of a run{hint}")
    weights = {
        name: finite(options.get(f"{name}_weight", default)) or 0.0
        for name, default in TermWeights()._asdict().items()
    }
    curves, done = Curves({}, {}, {}), 0
    for row in rows:
        stage = str(row.get("phase", ""))
        if stage not in curves.starts:
            curves.starts[stage] = done
        done = curves.starts[stage] + row["step"]
        for name, value in _finite(row.get("train")).items():
            term, weight = name, weights.get(name, 1.0)
            if name == "loss" and len(row["train"]) == 1:  # the only term, weighted already
                term = _only_term(stage, weights)
            curves.terms.setdefault(term, []).append((done, weight * value))
        for name, value in _finite(row.get("dev")).items():
            curves.dev.setdefault(name, []).append((done, value))
    if len(curves.terms) > 1 and "loss" in curves.terms:
        curves.terms["loss"] = curves.terms.pop("loss")  # what is made of the others comes last
    if not curves.terms:
        raise CheckpointError(f"{folder / METRICS_FILE} holds no loss that is a finite number")
    return curves


def _finite(values: object) -> dict[str, float]:
    known = {str(name): finite(x) for name, x in values.items()} if isinstance(values, dict) else {}
    return {name: x for name, x in known.items() if x is not None}


def _only_term(stage: str, weights: Mapping[str, float]) -> str:
    """The name of the one term that a stage has; "loss" where that is not known."""
    of_answers = ("prediction", "label")
    last = stage == "prediction"
    used = [name for name, weight in weights.items() if weight and (name in of_answers) == last]
    distils = stage in ("general", "intermediate", "prediction")
    return used[0] if distils and len(used) == 1 else "loss"
