"""examples/charts.py: what it reads from rows, and what it draws of them."""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install 'minibert[plot]'")
from matplotlib.figure import Figure

CHARTS = Path(__file__).parent.parent / "examples" / "charts.py"


def sparse_row(name: str, accuracy: float, packed: int) -> dict:
    sparse = {"full": 60, "packed": packed, "least": packed - 5}
    return {"name": name, "metrics": {"accuracy": accuracy}, "bytes": 100_000_060, "sparse": sparse}


ROWS = [
    sparse_row("4x128: all", 0.89, 60),
    sparse_row("4x128: λ‖θ‖²", 0.885, 60),
    sparse_row("4x128: magnitude 0.5", 0.88, 40),
    sparse_row("4x128: magnitude 0.9", 0.85, 20),
    sparse_row("4x128: ffn 0.9", 0.86, 30),
    {"name": "growth on Zen 1: 15", "seed": 1, "metrics": {"accuracy": 0.88}, "seconds": 960},
    {"name": "growth on Zen 1: 5", "seed": 0, "metrics": {"accuracy": 0.86}, "seconds": 270},
    {"name": "growth on Zen 4: 5", "seed": 0, "metrics": {"accuracy": 0.87}, "seconds": 300},
    {"name": "growth on Zen 1: 15", "seed": 0, "metrics": {"accuracy": 0.89}, "seconds": 840},
    {"name": "growth on Zen 4: 15", "seed": 1, "metrics": {"accuracy": 0.9}, "seconds": 999},
    {"name": "ablation: full", "metrics": {"accuracy": 0.5}},
]


@pytest.fixture(scope="module")
def charts():
    return runpy.run_path(str(CHARTS))


def test_the_table_has_a_row_for_each_method_and_a_column_for_each_share(charts):
    (methods,) = charts["sparse_models"](ROWS).values()
    assert charts["table_of"](methods).splitlines() == [
        "| pruned | 50% | 90% |",
        "| --- | --- | --- |",
        "| smallest anywhere (magnitude) | 88.0 (100.0 MB) | 85.0 (100.0 MB) |",
        "| feed-forward units |  | 86.0 (100.0 MB) |",
    ]


def test_bytes_are_those_of_the_file_without_its_zeros(charts):
    row = sparse_row("4x128: ffn 0.5", 0.5, 0) | {"bytes": 3_000_000}
    row["sparse"] = {"full": 2_000_000, "packed": 500_000, "least": 400_000}
    assert charts["found_in"](row) == (50.0, 1.5, 1.4)


def test_accuracies_stand_over_the_shares(charts):
    figure = Figure()
    charts["draw_sparse"](figure, charts["sparse_models"](ROWS))
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["smallest anywhere (magnitude)"] == [[50.0, 88.0], [90.0, 85.0]]
    assert lines["feed-forward units"] == [[90.0, 86.0]]
    assert axes.get_title() == "4x128, unpruned 89.0"


def test_the_legend_names_the_methods_of_every_model(charts):
    other = [sparse_row("6x384: all", 0.9, 60), sparse_row("6x384: row 0.5", 0.8, 40)]
    figure = Figure()
    charts["draw_sparse"](figure, charts["sparse_models"]([*ROWS, *other]))
    named = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert named == ["smallest anywhere (magnitude)", "smallest in each row", "feed-forward units"]


def test_seeds_are_points_and_their_means_a_line(charts):
    growth = charts["growth_of"](ROWS)
    assert growth == {"Zen 1": {4.5: [86.0], 14.0: [88.0, 89.0]}, "Zen 4": {5.0: [87.0]}}
    figure = Figure()
    charts["draw_growth"](figure, growth)
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    old = [[[4.5, 86.0], [14, 88.5]], [[4.5, 86.0]], [[14, 88.0], [14, 89.0]]]
    assert lines == [*old, [[5.0, 87.0]], [[5.0, 87.0]]]
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["Zen 1", "Zen 4"]


def test_charts_are_files(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    monkeypatch.setattr(
        sys, "argv", [CHARTS.name, "--results", str(results), "--out", str(tmp_path)]
    )
    runpy.run_path(str(CHARTS), run_name="__main__")
    assert {path.name for path in tmp_path.glob("*.svg")} == {"sparse.svg", "growth.svg"}
    said = capsys.readouterr().out
    assert "Zen 1, 4.5 minutes: 86.0\nZen 1, 14.0 minutes: 88.0, 89.0\nZen 4, 5.0" in said
