"""Results that others can repeat: a row for each finished run, and one table of all of them.

`results.jsonl` only grows. A row holds the recipe, the metrics, and how every text of the dev set
was answered, so that two recipes can be compared text by text, years later and without the weights.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from minibert.config import CheckpointError
from minibert.data.readers import Dataset
from minibert.model import Bert
from minibert.training.evaluation import all_logits, encodings_of, labels_of
from minibert.training.runs import RunError, written_whole

Row = Mapping[str, Any]
KEYS = {"name", "seed", "metrics", "teacher", "steps", "seconds", "recipe", "answers"}


def answers_of(model: Bert, dataset: Dataset, max_length: int) -> list[float]:
    """How each text was answered: 1 right or 0 wrong; the negated squared error of a score."""
    encodings = encodings_of(dataset, model.tokenizer, max_length)
    logits_XC = all_logits(encodings, model.weights, model.config)
    labels_X = labels_of(dataset)
    if dataset.task.regression:
        errors_X = (logits_XC[:, 0] - labels_X) ** 2
        return [round(-error, 4) for error in errors_X.tolist()]
    return [int(right) for right in (logits_XC.argmax(-1) == labels_X).tolist()]


# --- The file --------------------------------------------------------------------------------


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none if there is no such file.

    Raises
        CheckpointError  a line is damaged.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if not set(row) >= KEYS:
                raise ValueError
        except (ValueError, TypeError):
            raise CheckpointError(
                f"{path}, line {number}: {line[:40]!r} is no result of a run; delete this line"
            ) from None
        rows.append(row)
    return rows


def add_result(path: Path, row: Row) -> None:
    """Add one row, whole or not at all."""
    rows = [*read_results(path), row]
    with written_whole(path) as staged:
        staged.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def finished(rows: Sequence[Row], name: str, seed: int, recipe: Mapping[str, Any]) -> Row | None:
    """The row of this recipe and seed, if it is there.

    Raises
        RunError  a row of this name was made by another recipe.
    """
    for row in rows:
        if row["name"] != name:
            continue
        for key in sorted(set(row["recipe"]) | set(recipe)):
            old, new = row["recipe"].get(key), recipe.get(key)
            if old != new:
                raise RunError(
                    f"the results of {name!r} were made with {key} = {old!r}, not {new!r}; give "
                    "this recipe another --name, or remove those rows"
                )
        if row["seed"] == seed:
            return row
    return None


# --- The table -------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """How much better than a baseline, in the metric, and how likely by chance alone."""

    difference: float
    p: float


def compared_with(rows: Sequence[Row], baseline: Sequence[Row], metric: str) -> Comparison:
    """A paired t test over texts, each answer averaged over the seeds (`scipy.stats.ttest_rel`).

    Both recipes answered the same texts, so what makes a text easy or hard drops out; the seeds'
    own spread is in the standard error beside the mean.

    Raises
        RunError  the two were measured on different numbers of texts.
    """
    difference = _mean(rows, metric) - _mean(baseline, metric)
    own, other = _by_text(rows), _by_text(baseline)
    if len(own) != len(other):
        raise RunError(
            f"{rows[0]['name']!r} was measured on {len(own)} texts, {baseline[0]['name']!r} on "
            f"{len(other)}; only the same texts can be compared"
        )
    if own == other:
        return Comparison(difference, 1.0)
    return Comparison(difference, float(stats.ttest_rel(own, other).pvalue))


def _mean(rows: Sequence[Row], metric: str) -> float:
    return statistics.fmean(row["metrics"][metric] for row in rows)


def _by_text(rows: Sequence[Row]) -> list[float]:
    return [statistics.fmean(each) for each in zip(*(row["answers"] for row in rows), strict=True)]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean over seeds; NaN for a single one.

    >>> standard_error([1.0, 3.0])
    1.0
    """
    if len(values) < 2:
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))


def results_table(rows: Sequence[Row], metric: str, baseline: str | None = None) -> list[str]:
    """Markdown: a line for each recipe, in the order of the file; the metric in percent.

    `baseline` is the recipe that the others are compared with; by default the first.

    Raises
        RunError  there is no such recipe in the results.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    baseline = baseline or names[0]
    if baseline not in names:
        raise RunError(f"the baseline {baseline!r} is not in the results: {', '.join(names)}")
    grouped = {name: [row for row in rows if row["name"] == name] for name in names}
    lines = [
        f"| recipe | seeds | {metric} | of the teacher's | over {baseline} | p | steps | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in grouped.items():
        values = [100 * row["metrics"][metric] for row in group]
        error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
        kept = statistics.fmean(row["metrics"][metric] / row["teacher"][metric] for row in group)
        over, p = "", ""
        if name != baseline:
            found = compared_with(group, grouped[baseline], metric)
            over, p = f"{100 * found.difference:+.2f}", f"{found.p:.2g}"
        steps = round(statistics.fmean(sum(row["steps"].values()) for row in group))
        minutes = statistics.fmean(row["seconds"] for row in group) / 60
        lines.append(
            f"| {name} | {len(values)} | {statistics.fmean(values):.2f}{error} | {kept:.1%} | "
            f"{over} | {p} | {steps:,} | {minutes:.1f} |"
        )
    return lines
