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
from minibert.writing import alone

Row = Mapping[str, Any]
KEYS = set("name task seed metrics teacher steps seconds made_of recipe answers".split())


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
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            if not set(row) >= KEYS:
                raise ValueError
        except (ValueError, TypeError):
            start = line[:40].decode(errors="replace")
            raise CheckpointError(
                f"{path}, line {number}: {start!r} is not a run's result; delete this line"
            ) from None
        rows.append(row)
    return rows


class Identity(NamedTuple):
    """What the rows of one name have in common, except for the seed.

    `made_of` identifies teacher, data and start by their contents, see `answers.hash_of_model`;
    `defaults` are the values of options that a row lacks as it was written before they existed.
    """

    name: str
    recipe: Mapping[str, Any]
    made_of: Mapping[str, str]
    defaults: Mapping[str, Any]


def finished(rows: Sequence[Row], identity: Identity, seed: int) -> Row | None:
    """The row of this recipe and seed, if it is there.

    Raises
        RunError  a row of this name was made by another recipe, or of other models or data.
    """
    name, recipe, made_of, defaults = identity
    for row in rows:
        if row["name"] != name:
            continue
        for key in sorted(set(row["recipe"]) | set(recipe)):
            old, new = (known.get(key, defaults.get(key)) for known in (row["recipe"], recipe))
            if old != new:
                raise RunError(
                    f"the results of {name!r} were made with {key} = {old!r}, not {new!r}; give "
                    "this recipe another --name, or remove those rows"
                )
        for key in sorted(set(row["made_of"]) | set(made_of)):
            if row["made_of"].get(key) != made_of.get(key):
                raise RunError(
                    f"the results of {name!r} were made with another {key}; use another "
                    "--name, or remove those rows"
                )
        if row["seed"] == seed:
            return row
    return None


def add_result(path: Path, row: Row, defaults: Mapping[str, Any]) -> None:
    """Add one row, whole or not at all, while other runs may add theirs.

    Where another process has added the row of this recipe and seed meanwhile, it stays.

    Raises
        RunError         as `finished`.
        CheckpointError  as `read_results`.
    """
    identity = Identity(row["name"], row["recipe"], row["made_of"], defaults)
    with alone(path.parent):
        rows = read_results(path)
        if finished(rows, identity, row["seed"]) is None:
            with written_whole(path) as staged:
                lines = (json.dumps(each) + "\n" for each in (*rows, row))
                staged.write_text("".join(lines), encoding="utf-8")


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
        RunError  the two were measured on different texts.
    """
    if rows[0]["made_of"]["dev"] != baseline[0]["made_of"]["dev"]:
        raise RunError(
            f"{rows[0]['name']!r} and {baseline[0]['name']!r} were measured on different texts, "
            "so they cannot be compared"
        )
    difference = _mean(rows, metric) - _mean(baseline, metric)
    own, other = _by_text(rows), _by_text(baseline)
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
    """Markdown: a line for each recipe, in the order of the file; metrics in percent.

    The teacher's and the baseline's columns are about `metric`; the task's others follow it.
    `baseline` is the recipe that the others are compared with; by default the first. The p value is
    that of `compared_with`: over single answers, right or wrong, whatever the metric is.

    Raises
        RunError  there is no such recipe in the results.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    baseline = baseline or names[0]
    check_baseline(baseline, names)
    grouped = {name: [row for row in rows if row["name"] == name] for name in names}
    metrics = [metric, *(other for other in rows[0]["metrics"] if other != metric)]
    lines = [
        f"| recipe | seeds | {' | '.join(metrics)} | of the teacher's | over {_cell(baseline)} "
        "| p (answers) | steps | minutes |",
        "|---|---|" + "---|" * len(metrics) + "---|---|---|---|---|",
    ]
    for name, group in grouped.items():
        means = (_mean_and_error([100 * row["metrics"][one] for row in group]) for one in metrics)
        kept = statistics.fmean(row["metrics"][metric] / row["teacher"][metric] for row in group)
        over, p = "", ""
        if name != baseline:
            found = compared_with(group, grouped[baseline], metric)
            over, p = f"{100 * found.difference:+.2f}", f"{found.p:.2g}"
        steps = round(statistics.fmean(sum(row["steps"].values()) for row in group))
        minutes = statistics.fmean(row["seconds"] for row in group) / 60
        lines.append(
            f"| {_cell(name)} | {len(group)} | {' | '.join(means)} | "
            f"{kept:.1%} | {over} | {p} | {steps:,} | {minutes:.1f} |"
        )
    return lines


def _mean_and_error(values: Sequence[float]) -> str:
    """The mean in words, with its standard error if there are several values.

    >>> _mean_and_error([80.0]), _mean_and_error([80.0, 82.0])
    ('80.00', '81.00 ± 1.00')
    """
    error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{error}"


def check_baseline(baseline: str | None, names: Sequence[str]) -> None:
    """Refuse a baseline that no row will have.

    Raises
        RunError  there is no such recipe in the results.
    """
    if baseline is not None and baseline not in names:
        raise RunError(f"the baseline {baseline!r} is not in the results: {', '.join(names)}")


def _cell(text: str) -> str:
    """A text that ends neither its cell nor its line of a table.

    >>> _cell("a|b")
    'a\\\\|b'
    """
    return " ".join(text.split()).replace("|", "\\|")
