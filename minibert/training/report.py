"""What a distillation leaves for people to read: a page with its curves, and a model card.

The page is one file: it fetches nothing, runs nothing, and reads well on a phone, in dark mode, on
paper and with a screen reader. Whatever the record (see `findings`) and `metrics.jsonl` hold is
treated as text, never as markup.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from minibert.training.axes import escaped, finite, number
from minibert.training.card import MARKER, model_card
from minibert.training.charts import Line, layer_map, line_chart, share_bars, style
from minibert.training.findings import (
    Record,
    Rows,
    cells_of,
    headline,
    main_metric,
    measured_on,
    origin_of,
    ratio,
    shown,
    sizes_of,
    toml,
    values_in,
)
from minibert.training.runs import TEACHER_ALONE, read_metrics, written_whole

REPORT_FILE = "report.html"
CARD_FILES = ("README.md", "README.minibert.md")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;padding:.75rem;max-width:62rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.result{font-size:1.15rem}.faint,figcaption,small{color:var(--faint)}
.charts{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
figure{margin:0;break-inside:avoid;max-width:36rem}svg{display:block;width:100%;height:auto}
figcaption{font-size:.9rem;margin-bottom:.4rem}
.wide{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:normal}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--rule)}
small{display:block}td.number,th.number{text-align:right;white-space:nowrap}
pre{margin:0;padding:.7rem;border:1px solid var(--rule);border-radius:.3rem;overflow-x:auto;
font-size:.9rem;user-select:all}
@media print{body{max-width:none;padding:0}pre{white-space:pre-wrap}}
"""



def write_report(folder: Path, record: Record) -> Path:
    """Write `report.html` beside the student, whole or not at all; returns its path.

    Raises
        CheckpointError  a line of `metrics.jsonl` is damaged.
        OSError          the disk is full or not writable; the page that was there is untouched.
    """
    path = folder / REPORT_FILE
    content = page(record, read_metrics(folder))
    with written_whole(path) as staged:
        staged.write_text(content, encoding="utf-8")
    return path


def write_model_card(folder: Path, record: Record) -> Path:
    """Write `README.md` for the hub, whole or not at all; returns its path.

    A `README.md` that somebody else wrote stays; the card is `README.minibert.md` then.

    Raises
        FileExistsError  both are there, and neither is ours.
        OSError          the disk is full or not writable; the card that was there is untouched.
    """
    for path in (folder / name for name in CARD_FILES):
        if not path.exists() or MARKER.encode() in path.read_bytes():
            with written_whole(path) as staged:
                staged.write_text(model_card(record), encoding="utf-8")
            return path
    raise FileExistsError(
        f"{' and '.join(CARD_FILES)} in {folder} were not written by minibert and stay; move one "
        "of them away for a model card"
    )


# --- The page --------------------------------------------------------------------------------


def page(record: Record, rows: Rows) -> str:
    """The whole page, from the record and the rows of `metrics.jsonl`."""
    title = escaped(record.get("title") or "Distillation")
    parts = (
        _models_part(record),
        _curves_part(record, rows),
        _layers_part(record),
        _losses_part(record),
        _times_part(record),
        _recipe_part(record),
        _origin_part(record),
        _notes_part(record),
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style()}{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{_result(record)}{"".join(parts)}</main>
</body>
</html>
"""


def _result(record: Record) -> str:
    """The sentence below the title; a run without a task has measured nothing."""
    if not record.get("models"):
        return ""
    return f'<p class="result">{escaped(headline(record["models"], main_metric(record)))}</p>\n'


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>\n" if content else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, kind: str = "") -> str:
    """A table of cells that are markup already; the first column heads its rows."""
    kinds = f' class="{kind}"' if kind else ""
    heads = "".join(
        f'<th scope="col"{kinds if place else ""}>{escaped(name)}</th>'
        for place, name in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        f"{''.join(f'<td{kinds}>{cell}</td>' for cell in others)}</tr>\n"
        for first, *others in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(label)}"><table>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _plain_table(head: Sequence[str], rows: Iterable[Sequence[object]], label: str) -> str:
    """A table of texts; "" without rows."""
    cells = [[escaped(cell) for cell in row] for row in rows]
    return _table(head, cells, label) if cells else ""


def _figure(title: str, drawn: str, note: str = "") -> str:
    """A picture with its caption, or a sentence in its place."""
    caption = escaped(f"{title}{f'; {note}' if note else ''}")
    drawn = drawn or '<p class="faint">No number that could be drawn was recorded.</p>'
    return f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>\n"


# --- Its parts, in their order ---------------------------------------------------------------


def _models_part(record: Record) -> str:
    models = record.get("models")
    if not models:
        return ""
    head, table = cells_of(models)

    def cell(value: str, part: str) -> str:
        return escaped(value) + (f"<small>{escaped(part)}</small>" if part else "")

    rows = [[cell(*pair) for pair in row] for row in table]
    note = f"{measured_on(record)}; below each number its ratio to the teacher's".removeprefix("; ")
    return _section(
        "The models",
        f'{_table(head, rows, "models", "number")}\n<p class="faint">{escaped(note)}</p>',
    )


def _curves_part(record: Record, rows: Rows) -> str:
    """For each phase its losses, then its scores on the development set."""
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for row in rows if row.get("phase") not in TEACHER_ALONE):
        phases.setdefault(str(row.get("phase", "")), []).append(row)
    figures = []
    for index, (phase, own) in enumerate(phases.items()):
        figures.append(_losses_figure(f"loss-{index}", phase, own))
        if any(values_in(row, "dev") for row in own):
            figures.append(_dev_figure(f"dev-{index}", phase, own, record))
    if not figures:
        return _section("Curves", '<p class="faint">metrics.jsonl holds no row.</p>')
    return _section("Curves", f'<div class="charts">\n{"".join(figures)}</div>')


def curve(rows: Rows, what: str, name: str) -> Line:
    """A number of `train` or `dev` over the steps; NaN where it is not finite."""
    points = []
    for row in rows:
        values = values_in(row, what)
        if name in values:
            value = finite(values[name])
            points.append((_step(row), float("nan") if value is None else value))
    return Line(name, tuple(points))


def _step(row: Mapping[str, Any]) -> float:
    return finite(row.get("step")) or 0.0


def _lost(lines: Iterable[Line]) -> str:
    """How many values of curves are not drawn."""
    count = sum(math.isnan(y) for line in lines for _, y in line.points)
    return f"{count:,} not finite, not drawn" if count else ""


def _losses_figure(name: str, phase: str, rows: Rows) -> str:
    terms = dict.fromkeys(term for row in rows for term in values_in(row, "train"))
    lines = [curve(rows, "train", term) for term in terms]
    title = f"{phase}: losses, averaged since the start of the epoch"
    return _figure(title, line_chart(name, title, lines), _lost(lines))


def _dev_figure(name: str, phase: str, rows: Rows, record: Record) -> str:
    """The scores of one phase, with the teacher's as a line and a ring around what was kept."""
    metric = main_metric(record)
    known = dict.fromkeys(key for row in rows for key in values_in(row, "dev"))
    if metric not in known:
        metric = next(iter(known))
    line = curve(rows, "dev", metric)
    measured = [(finite(values_in(row, "dev").get(metric)), row) for row in rows]
    scores = [(score, row) for score, row in measured if score is not None]
    kept = [(score, row) for score, row in scores if row.get("kept")]
    ring = level = None
    if scores:
        # the last that was kept; rows of an earlier version do not say it, and the first best was
        score, row = kept[-1] if kept else max(scores, key=itemgetter(0))
        ring = (f"kept: epoch {row.get('epoch', '–')}, {number(score)}", _step(row), score)
    teacher = finite(_teacher_scores(record).get(metric))
    if teacher is not None:
        level = (f"teacher {number(teacher)}", teacher)
    title = f"{phase}: {metric.replace('_', ' ')} on the development set"
    drawn = line_chart(name, title, [line._replace(name="student")], level, ring)
    return _figure(title, drawn, _lost([line]))


def _teacher_scores(record: Record) -> Mapping[str, Any]:
    """The teacher's metrics on the set of the curves."""
    if "teacher_dev" in record:
        return values_in(record, "teacher_dev")
    return values_in((record.get("models") or ({},))[0], "metrics")


def _layers_part(record: Record) -> str:
    """The map of layers, and the sizes of both models."""
    sizes = sizes_of(record)
    if not sizes:
        return ""
    used = {str(name): use != "off" for name, use, _ in record.get("losses") or ()}
    ends = (used.get("embedding", False), used.get("prediction", False))
    others = used.keys() - {"embedding", "prediction", "label"}
    mapped = not others or any(used[name] for name in others)
    layers = record.get("layers") if mapped else ()
    drawn = layer_map("layers", record["student"], record["teacher"], layers or (), ends)
    cells = [[escaped(cell) for cell in row] for row in sizes]
    table = _table(("", "teacher", "student"), cells, "sizes", "number")
    figure = _figure("Which layer of the student learns from which of the teacher", drawn)
    return _section("The layers", f'<div class="charts">\n{figure}{table}</div>')


def _losses_part(record: Record) -> str:
    losses = record.get("losses") or ()
    return _section("The losses", _plain_table(("loss", "use", "why"), losses, "losses"))


def _times_part(record: Record) -> str:
    """Where the seconds of each phase went."""
    bars = {}
    for phase in values_in(record, "shares"):
        shares = values_in(record["shares"], phase)
        seconds = {k: finite(v) or 0.0 for k, v in shares.items() if k != "steps"}
        seconds = {part: value for part, value in seconds.items() if value > 0}
        total = sum(seconds.values())
        rate = ratio(shares.get("steps"), total)
        words = f"{number(total)} s" + (f", {number(rate)} steps/s" if rate else "")
        bars[str(phase)] = (seconds, words)
    title = "How each phase spent its time"
    drawn = share_bars("times", title, bars)
    figure = f'<div class="charts">\n{_figure(title, drawn)}</div>' if drawn else ""
    return _section("Where the time went", figure)


def _recipe_part(record: Record) -> str:
    recipe = values_in(record, "recipe")
    if not recipe:
        return ""
    rows = [(key, shown(value)) for key, value in recipe.items()]
    return _section(
        "The recipe",
        f"{_plain_table(('', 'value'), rows, 'recipe')}\n"
        f"<h3>As TOML</h3>\n{_code(toml(recipe))}",
    )


def _origin_part(record: Record) -> str:
    """The command, and what it ran on."""
    command = _code(str(record["command"])) if record.get("command") else ""
    facts = _plain_table(("", "value"), origin_of(record).items(), "origin")
    return _section("How it was made", f"{command}\n{facts}".strip())


def _code(content: str) -> str:
    return f"<pre><code>{escaped(content)}</code></pre>"


def _notes_part(record: Record) -> str:
    notes = "".join(f"<li>{escaped(note)}</li>\n" for note in record.get("notes") or ())
    return _section("Notes", f"<ul>\n{notes}</ul>" if notes else "")
