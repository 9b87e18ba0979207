"""The model card: a README for huggingface.co, from the record of a distillation."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from minibert.data.readers import TASKS
from minibert.training.axes import cleaned, finite, number
from minibert.training.findings import (
    Record,
    Rows,
    cells_of,
    headline,
    main_metric,
    measured_on,
    origin_of,
    sizes_of,
    toml,
    values_in,
)

MARKER = (
    "<!-- Written by minibert, and anew by the next run in this folder; to keep what you change, "
    "delete this line. -->"
)
# What metrics are called on huggingface.co, where that differs.
HUB_METRICS = {"pearson": "pearsonr", "spearman": "spearmanr"}
TASK_TYPE = "text-classification"


def model_card(record: Record) -> str:
    """A README: facts for the hub's search, then what a reader needs to know."""
    models = record.get("models") or ()
    teacher = plain(values_in(record, "teacher").get("name") or "its teacher")
    parts = (
        MARKER,
        f"# {plain(record.get('title') or 'A distilled BERT')}",
        plain(headline(models, main_metric(record))),
        f"A small BERT that judges texts, distilled from {teacher} with minibert.",
        _results(record),
        _use(record),
        _making(record),
        _limits(record),
    )
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{_metadata(record)}\n---\n\n{body}\n"


# --- For the hub -----------------------------------------------------------------------------


def _metadata(record: Record) -> str:
    """The front matter; it names no language, licence or base model that is not known."""
    from huggingface_hub import EvalResult, ModelCardData

    task = _line(record.get("task") or "unknown")
    models: Rows = record.get("models") or ({},)
    count = record.get("n")
    values = {
        _line(name): value
        for name, value in values_in(models[-1], "metrics").items()
        if finite(value) is not None
    }
    results = [
        EvalResult(
            task_type=TASK_TYPE,
            dataset_type=task,
            dataset_name=task if count is None else f"{task}, {number(count)} examples",
            metric_type=HUB_METRICS.get(name, name),
            metric_name=name.replace("_", " "),
            metric_value=value,
        )
        for name, value in values.items()
    ]
    return ModelCardData(
        model_name=_line(record.get("title") or "student"),
        language=record.get("language"),
        license=record.get("license"),
        library_name=None if _is_pruned(record) else "transformers",
        pipeline_tag=TASK_TYPE,
        tags=["minibert", "bert", "distillation"],
        base_model=_base_model(str(values_in(record, "teacher").get("name", ""))),
        metrics=[HUB_METRICS.get(name, name) for name in values] or None,
        eval_results=results or None,
    ).to_yaml()


def _base_model(name: str) -> str | None:
    """A teacher's name if it is an id on the hub; a path in a folder that exists here is not."""
    word = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
    is_id = re.fullmatch(f"{word}/{word}", name) and not Path(name).parent.is_dir()
    return name if is_id else None


# --- Markdown --------------------------------------------------------------------------------


def _line(value: object) -> str:
    return " ".join(cleaned(value).split())


def plain(value: object) -> str:
    """One line of Markdown that shows a text as it is.

    >>> print(plain("a|b <i> *c*"))
    a\\|b \\<i\\> \\*c\\*
    """
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", _line(value))


def fenced(content: str, language: str) -> str:
    """A block of code; its fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{cleaned(content).rstrip()}\n{fence}"


def grid(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [[plain(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- Parts -----------------------------------------------------------------------------------


def _results(record: Record) -> str:
    models = record.get("models")
    if not models:
        return ""
    head, table = cells_of(models)
    rows = [[f"{value} ({part})" if part else value for value, part in row] for row in table]
    where = f"{measured_on(record)}; in brackets".removeprefix("; ")
    return f"## Results\n\n{grid(head, rows)}\n\n{plain(where)}: the ratio to the teacher's."


def _use(record: Record) -> str:
    task = TASKS.get(str(record.get("task")))
    texts = '["one sentence"]' + (', ["another one"]' if record.get("pair") else "")
    call = "logits" if task and task.regression else "classify"
    own = (
        "from minibert import Bert\n\n"
        'bert = Bert.from_pretrained(".")  # this folder\n'
        f"print(bert.{call}({texts}))"
    )
    other = (
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        'model = AutoModelForSequenceClassification.from_pretrained(".")\n'
        f'print(model(**tokenizer({texts}, return_tensors="pt")).logits)'
    )
    if _is_pruned(record):
        other = "minibert export --model . --dense --out full   # a folder for transformers"
        return f"## Use\n\n{fenced(own, 'python')}\n\n{fenced(other, 'sh')}"
    return f"## Use\n\n{fenced(own, 'python')}\n\n{fenced(other, 'python')}"


def _is_pruned(record: Record) -> bool:
    """Whether layers lost heads, or different numbers of units, so that only minibert reads it."""
    student = values_in(record, "student")
    return any(isinstance(student.get(key), list) for key in ("heads", "feed_forward"))


def _making(record: Record) -> str:
    """Command, recipe, sizes, losses, and what it ran on."""
    sizes, losses, origin = sizes_of(record), record.get("losses"), origin_of(record)
    parts = (
        fenced(str(record["command"]), "sh") if record.get("command") else "",
        fenced(toml(record["recipe"]), "toml") if record.get("recipe") else "",
        grid(("", "teacher", "student"), sizes) if sizes else "",
        grid(("loss", "use", "why"), losses) if losses else "",
        grid(("", "value"), origin.items()) if origin else "",
    )
    made = "\n\n".join(part for part in parts if part)
    return f"## How it was made\n\n{made}" if made else ""


def _limits(record: Record) -> str:
    known = "known only from the table above, of one run" if record.get("models") else "unknown"
    lines = [
        f"Its quality is {known}. It was not tried on other data, nor checked for biases that it "
        "may have from its teacher and its texts.",
    ]
    if not record.get("license"):
        lines.append("No licence is named: it depends on those of the teacher and of the data.")
    lines += [plain(note) for note in record.get("notes") or ()]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
