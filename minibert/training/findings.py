"""What a distillation found, in words and rows: for the page and for the model card.

The record is a mapping that JSON could hold; a part that is missing is left out of both:

    title, command, date, task          text
    pair                                whether the task's texts are pairs
    n, threads, seed                    whole numbers
    recipe                              {key: value}
    versions                            {"minibert", "torch", "python", "platform"}
    teacher, student                    {"name", "layers", "width", "heads", "feed_forward",
                                        "parameters"}
    layers                              [g(1), g(2), …]
    losses                              [[name, use, why], …], as `distil.losses_that_apply`
    models                              rows of `comparison.compared`, teacher first, student last
    shares                              {phase: {part: seconds, …, "steps": count}}
    notes                               [text]
    teacher_dev                         {metric: value}, the teacher's on the set of the curves
                                        where the table is of another set; {} where not known
    language, license                   for the model card, where they are known
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from minibert.data.readers import TASKS
from minibert.training.axes import cleaned, finite, number

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def values_in(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping inside a mapping; an empty one where there is none."""
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}


def main_metric(record: Record) -> str:
    """The metric that the best epoch was chosen by; "" if nothing was measured."""
    models: Rows = record.get("models") or ({},)
    known = values_in(models[0], "metrics")
    task = TASKS.get(str(record.get("task")))
    return task.select_by if task and task.select_by in known else next(iter(known), "")


# --- The result ------------------------------------------------------------------------------


def headline(models: Rows, metric: str) -> str:
    """The result in one sentence: what the last of the models keeps of the first, at what cost.

    >>> teacher = {"metrics": {"f1": 0.8}, "parameters": 66, "sentences_per_second": 90.0}
    >>> student = {"metrics": {"f1": 0.6}, "parameters": 11, "sentences_per_second": 810.0}
    >>> headline([teacher, student], "f1")
    "The student keeps 75.0 % of its teacher's f1 with 6.0 times fewer parameters, 9.0 times as fast."
    """  # noqa: E501
    if len(models) < 2 or not metric:
        return "Nothing was measured."
    first, last = models[0], models[-1]
    before, after = (values_in(row, "metrics").get(metric) for row in (first, last))
    name, kept = metric.replace("_", " "), ratio(after, before)
    if kept is None or kept < 0:
        said = f"The student's {name} is {number(after)}, its teacher's {number(before)}"
    else:
        said = f"The student keeps {kept * 100:.1f} % of its teacher's {name}"
    return f"{said}{_fewer(first, last)}{_faster(first, last)}."


def ratio(upper: object, lower: object) -> float | None:
    """One number over another; None unless both are numbers and the lower is positive.

    >>> ratio(3, 2), ratio(3, 0), ratio(None, 2)
    (1.5, None, None)
    """
    over, under = finite(upper), finite(lower)
    return None if over is None or under is None or under <= 0 else finite(over / under)


def times(value: float) -> str:
    """A ratio for a reader.

    >>> times(4.71), times(1234.5)
    ('4.7 times', '1,234 times')
    """
    return f"{value:,.1f} times" if value < 100 else f"{value:,.0f} times"


def _fewer(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    fewer = ratio(first.get("parameters"), last.get("parameters"))
    if not fewer or fewer < 0:
        return ""
    if 0.95 < fewer < 1.05:
        return " with as many parameters"
    if fewer > 1:
        return f" with {times(fewer)} fewer parameters"
    return f" with {times(1 / fewer)} the parameters"


def _faster(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    faster = ratio(last.get("sentences_per_second"), first.get("sentences_per_second"))
    if not faster or faster < 0:
        return ""
    if 0.95 < faster < 1.05:
        return ", as fast"
    return f", {times(faster)} as fast" if faster > 1 else f", {times(1 / faster)} as slow"


def measured_on(record: Record) -> str:
    """What the table is of: "872 examples, task sst2, speed with 2 threads"."""
    parts = []
    if record.get("n") is not None:
        parts.append(f"{number(record['n'])} examples")
    if record.get("task"):
        parts.append(f"task {record['task']}")
    if record.get("threads") is not None:
        count = number(record["threads"])
        parts.append(f"speed with {count} thread{'' if count == '1' else 's'}")
    return ", ".join(parts)


def cells_of(models: Rows) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The head of the final table, and its rows; a cell is a value and its ratio to the first's."""
    metrics = list(dict.fromkeys(m for row in models for m in values_in(row, "metrics")))
    head = ["model", *(m.replace("_", " ") for m in metrics)]
    return [*head, "parameters", "on disk", "sentences/s"], [
        [
            (str(row.get("name", "")), ""),
            *(_score(row, models[0], metric) for metric in metrics),
            _cost(row, models[0], "parameters", "", ("more", "fewer")),
            _cost(row, models[0], "bytes", "B", ("more", "less")),
            _cost(row, models[0], "sentences_per_second", "", ("as fast", "slower")),
        ]
        for row in models
    ]


def _score(row: Mapping[str, Any], first: Mapping[str, Any], metric: str) -> tuple[str, str]:
    value = values_in(row, "metrics").get(metric)
    kept = ratio(value, values_in(first, "metrics").get(metric))
    real = finite(value)
    said = number(value) if real is None or abs(real) > 1 else f"{real:.4f}"
    return said, "" if kept is None or row is first else f"{kept * 100:.1f} %"


def _cost(
    row: Mapping[str, Any], first: Mapping[str, Any], key: str, unit: str, words: tuple[str, str]
) -> tuple[str, str]:
    """A cost, and by how much it is above or below the first row's."""
    value, share = finite(row.get(key)), ratio(row.get(key), first.get(key))
    said = ""
    if share and share > 0 and row is not first:
        said = f"{times(share)} {words[0]}" if share >= 1 else f"{times(1 / share)} {words[1]}"
    return "–" if value is None else amount(value, unit), said


def amount(value: float, unit: str = "") -> str:
    """A large number with its thousands or millions, in no more digits than a table needs.

    >>> amount(22713986), amount(19150000, "B"), amount(3290.4), amount(29200, "B")
    ('22.7 M', '19.1 MB', '3,290', '29.2 kB')
    """
    if value >= 1e6:
        return f"{value / 1e6:,.1f} M{unit}"
    if value >= 1e4:
        return f"{value / 1e3:,.1f} k{unit}"
    return f"{value:,.0f} {unit}".rstrip()


# --- Where it comes from ---------------------------------------------------------------------


def sizes_of(record: Record) -> list[tuple[str, str, str]]:
    """Rows of sizes: what, the teacher's, the student's; none unless both are known."""
    teacher, student = values_in(record, "teacher"), values_in(record, "student")
    if not teacher or not student:
        return []
    return [
        (key.replace("_", " "), _size(teacher.get(key)), _size(student.get(key)))
        for key in dict.fromkeys((*teacher, *student))
    ]


def _size(value: object) -> str:
    return number(value) if isinstance(value, int) else shown(value)


def origin_of(record: Record) -> dict[str, str]:
    """What a run depended on besides its recipe."""
    facts = dict(values_in(record, "versions"))
    facts |= {key: record[key] for key in ("seed", "threads", "date") if key in record}
    return {key: shown(value) for key, value in facts.items()}


def shown(value: object) -> str:
    """Any value for a reader.

    >>> shown([2, 4]), shown({"lr": 0.001}), shown(None), shown(True)
    ('2, 4', 'lr 0.001', '–', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return "–" if value is None else str(value)


def toml(values: Mapping[str, Any]) -> str:
    """Values as TOML; None, which TOML does not know, is left out.

    >>> print(toml({"epochs": 6, "stage": {"lr": 0.001, "layers": [2, 4]}}), end="")
    epochs = 6
    <BLANKLINE>
    [stage]
    lr = 0.001
    layers = [2, 4]
    """
    lines = _toml_lines({k: v for k, v in values.items() if not isinstance(v, Mapping)})
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{_toml_key(key)}]", *_toml_lines(value)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml_lines(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{_toml_key(key)} = {_toml_value(value)}"
        for key, value in values.items()
        if value is not None
    ]


def _toml_key(key: object) -> str:
    name = str(key)
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(_toml_lines(value))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(part) for part in value if part is not None)}]"
    return json.dumps(cleaned(value), ensure_ascii=False)
