"""Tables and charts of sparse models and of training time, from the rows of results.jsonl.

    python examples/charts.py [--results FILE] [--out DIR]

A row of a sparse model is named "MODEL: METHOD SHARE"; "MODEL: all" is the same run without zeros.
A growth row is named "growth on PROCESSOR: BUDGET". `experiments.sh sparse growth` makes them. The
charts need `pip install 'minibert[plot]'`.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minibert.pictures import INK, picture
from minibert.writing import whole_file

HERE = Path(__file__).parent
# Okabe and Ito's colours, which colour-blind people tell apart; the markers differ too.
METHODS = {
    "magnitude": ("#0072B2", "o", "smallest anywhere (magnitude)"),
    "movement": ("#D55E00", "s", "moving towards 0 (movement)"),
    "l1": ("#009E73", "^", "smallest after an L1 penalty"),
    "row": ("#CC79A7", "v", "smallest in each row"),
    "2:4": ("#777777", "*", "two of every four (2:4)"),
    "heads": ("#E69F00", "D", "attention heads"),
    "ffn": ("#56B4E9", "P", "feed-forward units"),
}
PROCESSORS = {"Zen 4": ("#0072B2", "-"), "Zen 1": ("#D55E00", "--"), "Ice Lake": ("#009E73", ":")}
OTHERS = ("all", "λ‖θ‖²")  # nothing is pruned
DEV_ERROR = 1.2  # one standard error of an accuracy on 872 sentences, in points


class Found(NamedTuple):
    """One finished run: accuracy in percent, MB of the file without zeros and its entropy bound."""

    accuracy: float
    megabytes: float
    least: float


def found_in(row: Mapping[str, Any]) -> Found:
    sparse, full = row["sparse"], row["bytes"]
    packed, least = (full - sparse["full"] + sparse[key] for key in ("packed", "least"))
    return Found(100 * row["metrics"]["accuracy"], packed / 1e6, least / 1e6)


def sparse_models(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[float, Found]]]:
    """By model, method and pruned share, which is 0 where nothing is pruned."""
    models: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        model, _, how = row["name"].partition(": ")
        method, _, share = how.partition(" ")
        if "sparse" in row and method in (*METHODS, *OTHERS):
            models[model][method][float(share or 0)] = found_in(row)
    return models


def table_of(methods: Mapping[str, Mapping[float, Found]]) -> str:
    """Accuracy, and in brackets the megabytes of the file: a row for each method."""
    shares = sorted({share for cells in methods.values() for share in cells if share})
    lines = [["pruned", *(f"{share:.0%}" for share in shares)], ["---"] * (len(shares) + 1)]
    for method, (_, _, words) in METHODS.items():
        if method in methods:
            cells = (methods[method].get(share) for share in shares)
            told = [f"{x.accuracy:.1f} ({x.megabytes:.1f} MB)" if x else "" for x in cells]
            lines.append([words, *told])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_sparse(figure: Any, models: Mapping[str, Mapping[str, Mapping[float, Found]]]) -> None:
    """Accuracy against the pruned share; the band is one standard error of the unpruned model."""
    fields = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, (model, methods) in zip(fields, models.items(), strict=True):
        whole = methods["all"][0.0].accuracy
        axes.axhline(whole, color=INK, linewidth=1, linestyle="--")
        axes.axhspan(whole - DEV_ERROR, whole + DEV_ERROR, color=INK, alpha=0.12, linewidth=0)
        for method, (colour, marker, label) in METHODS.items():
            if method in methods:
                shares, found = zip(*sorted(methods[method].items()), strict=True)
                percents, values = [100 * share for share in shares], [x.accuracy for x in found]
                axes.plot(percents, values, color=colour, marker=marker, label=label)
        axes.set_title(f"{model}, unpruned {whole:.1f}")
        axes.set_xlabel("percent pruned, of weights, heads or units")
    fields[0].set_ylabel("accuracy on SST-2's dev set, %")
    # of all plots together, and beside them, where it hides no point
    lines = [line for axes in fields for line in axes.get_legend_handles_labels()[0]]
    named = {line.get_label(): line for line in reversed(lines)}
    legend = [named[label] for _, _, label in METHODS.values() if label in named]
    fields[-1].legend(handles=legend, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))


def growth_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, list[float]]]:
    """By processor and minutes: the accuracies of all seeds of a budget.

    The minutes are those of seed 0, and without it a budget is left out: the others may have run
    beside other programs, or have found in a cache what their teacher had computed for it.
    """
    growing = [row for row in rows if row["name"].startswith("growth on ")]
    found: dict[str, dict[float, list[float]]] = defaultdict(dict)
    for first in (row for row in growing if row["seed"] == 0):
        processor = first["name"].removeprefix("growth on ").partition(": ")[0]
        seeds = [row for row in growing if row["name"] == first["name"]]
        accuracies = [100 * row["metrics"]["accuracy"] for row in seeds]
        found[processor][first["seconds"] / 60] = accuracies
    return {processor: dict(sorted(curve.items())) for processor, curve in found.items()}


def draw_growth(figure: Any, growth: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """Every seed as a point, and for each processor a line through the means."""
    axes = figure.subplots()
    for processor, curve in growth.items():
        colour, line = PROCESSORS[processor]
        means = [statistics.mean(values) for values in curve.values()]
        axes.plot(list(curve), means, ".", color=colour, linestyle=line, label=processor)
        for minutes, values in curve.items():
            axes.plot([minutes] * len(values), values, "o", color=colour, alpha=0.6)
    axes.set(xscale="log", xlabel="minutes on 2 cores", ylabel="accuracy on SST-2's dev set, %")
    ticks = (3, 5, 15, 60, 180)
    axes.set_xticks(ticks, map(str, ticks), minor=False)
    axes.minorticks_off()
    axes.legend(loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "pictures")
    chosen = parser.parse_args()
    rows = [json.loads(line) for line in chosen.results.read_text(encoding="utf-8").splitlines()]
    models, growth = sparse_models(rows), growth_of(rows)
    for model, methods in models.items():
        print(f"{model}\n\n{table_of(methods)}\n")
    for processor, curve in growth.items():
        for minutes, values in curve.items():
            told = ", ".join(f"{value:.1f}" for value in values)
            print(f"{processor}, {minutes:.1f} minutes: {told}")
    charts = {
        "sparse": (bool(models), partial(draw_sparse, models=models), (3 + 5 * len(models), 4.4)),
        "growth": (bool(growth), partial(draw_growth, growth=growth), (6, 4)),
    }
    for name, (known, draw, size) in charts.items():
        if known:
            with whole_file(chosen.out / f"{name}.svg") as staged:
                staged.write_bytes(picture(draw, size, ground="transparent"))


if __name__ == "__main__":
    main()
