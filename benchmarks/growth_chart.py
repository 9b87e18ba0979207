"""Draw what `growth.py` measured.

    python benchmarks/growth_chart.py growth.json growth.svg

A column for each size that grows; time above, memory below. The thin dashed lines are the operation
count, shifted so that it meets the measured time at the base point: where the time follows it,
time is spent on operations.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Blue and vermilion of Okabe and Ito's palette, safe for colour-blind readers; markers differ too.
STYLES = {"forward": ("#0072B2", "o", "forward pass"), "step": ("#D55E00", "s", "training step")}
TITLES = {
    "length": "tokens in a sentence",
    "batch": "sentences in a batch",
    "layers": "layers",
    "width": "hidden width",
}


def seconds_text(value: float, place: object = None) -> str:
    """0.001 is 1 ms."""
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


def bytes_text(value: float, place: object = None) -> str:
    """10⁹ is 1 GB."""
    return f"{value / 1e9:g} GB" if value >= 1e9 else f"{value / 1e6:g} MB"


def draw_panel(axes: Axes, sweep: dict[str, Any], cost: str, base: int) -> None:
    """One cost against one size."""
    values, texts = sweep["values"], []
    for name, (colour, marker, label) in STYLES.items():
        costs = sweep[name][cost]
        if None in costs:
            continue
        axes.loglog(values, costs, color=colour, marker=marker, markersize=5, label=label)
        found = sweep[name]["slopes"]
        text = f"{label}: slope {found[cost]['all']:.2f}"
        if cost == "seconds":
            counts = sweep[name]["operations"]
            at_base = values.index(base)
            scaled = [count * costs[at_base] / counts[at_base] for count in counts]
            axes.loglog(values, scaled, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            text += f", operations {found['operations']['all']:.2f}"
        texts.append(text)
    axes.set_title("\n".join(texts), fontsize=8, loc="left", linespacing=1.4)
    axes.axvline(base, color="#999999", linewidth=0.8, zorder=0)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.6)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(seconds_text if cost == "seconds" else bytes_text))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the picture; the suffix of the path decides the format."""
    sweeps, base = document["sweeps"], document["base"]
    figure, panels = pyplot.subplots(
        2, len(sweeps), figsize=(13, 7), sharey="row", sharex="col", layout="constrained"
    )
    for (axis, sweep), (above, below) in zip(sweeps.items(), panels.T, strict=True):
        draw_panel(above, sweep, "seconds", base[axis])
        draw_panel(below, sweep, "bytes", base[axis])
        below.set_xlabel(TITLES[axis], fontsize=10)
    panels[0, 0].set_ylabel("time", fontsize=10)
    panels[1, 0].set_ylabel("peak memory", fontsize=10)
    others = ", ".join(f"{TITLES[axis]} {value}" for axis, value in base.items())
    figure.suptitle(
        f"How cost grows from one point (grey line): {others}.\n"
        f"{document['dtype']}, {document['threads']} threads. Dashed: the operation count, "
        "through the time at the grey line.",
        fontsize=10,
    )
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
