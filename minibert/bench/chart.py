"""The rows as a picture: a bar for each engine, a panel for each case."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from minibert.bench.compare import Row, Table
from minibert.bench.report import duration, faster, hardware

# Okabe and Ito's colours, which colour-blind people can tell apart.
OWN, BOOK, RIVAL = "#0072B2", "#56B4E9", "#B8B8B8"
COLUMNS = 2


def draw(tables: Sequence[Table], facts: dict[str, Any], path: Path) -> None:
    """Write the chart; the suffix of the path, .svg or .png, decides the format.

    Raises
        OSError  the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(tables))
    lines = -(-len(tables) // columns)
    heights = [
        max(len(table.rows) for table in tables[line * columns : (line + 1) * columns]) + 2
        for line in range(lines)
    ]
    figure = Figure(figsize=(8 * columns, 0.32 * sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(lines, columns, height_ratios=heights)
    for place, table in enumerate(tables):
        _field(figure.add_subplot(grid[place // columns, place % columns]), table)
    parts = ("torch", "transformers", "onnxruntime", "openvino")
    listed = ", ".join(f"{name} {facts['versions'][name]}" for name in parts)
    figure.supxlabel(
        f"median of {facts['rounds']} rounds, lines show the middle half · {hardware(facts)}, "
        f"{facts['threads']} threads · {listed}",
        fontsize=8,
        color="#555555",
    )
    with rc_context({"svg.fonttype": "none"}):  # text stays text, not outlines
        figure.savefig(path, dpi=120)


def _field(axes: Any, table: Table) -> None:
    rows = list(reversed(table.rows))  # the first row on top
    longest = max((row.quartiles[1] for row in rows if row.quartiles), default=0.0) or 1.0
    for place, row in enumerate(rows):
        if row.seconds is None or row.quartiles is None:
            axes.text(longest * 0.01, place, _reason(row), va="center", fontsize=8, color="#777777")
            continue
        lower, upper = row.quartiles
        axes.barh(
            place,
            row.seconds,
            xerr=[[row.seconds - lower], [upper - row.seconds]],
            color=_colour(row),
            height=0.72,
            error_kw={"ecolor": "#333333", "elinewidth": 1.2},
        )
        axes.text(
            max(row.seconds, upper) + longest * 0.015,
            place,
            _label(table, row),
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8.5)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, longest * 1.65)  # room for the labels
    title = fill(f"{table.case.name}: {table.case.words}", 60)
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.xaxis.set_visible(False)  # the bars carry their numbers
    axes.tick_params(left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _colour(row: Row) -> str:
    if row.name.startswith("minibert book"):
        return BOOK
    return OWN if "minibert" in row.name else RIVAL


def _label(table: Table, row: Row) -> str:
    ratio = table.ratio(row)
    if row is table.rows[0] or ratio is None:
        return duration(row.seconds)
    return f"{duration(row.seconds)}, minibert is {faster(ratio)}"


def _reason(row: Row) -> str:
    if row.status == "inaccurate":
        return f"error {row.error:.1e} is over the bound {row.bound:.1e}: no speed"
    return {"missing": "not installed", "failed": "failed"}[row.status]
