"""Rows of results: what is kept, what is skipped, and what the table says of them."""

import json
import math
import random

import pytest
import tiny
from scipy import stats

from minibert.config import CheckpointError
from minibert.data.readers import TASKS, Dataset, Example
from minibert.model import Bert
from minibert.training.evaluation import evaluated
from minibert.training.ledger import (
    add_result,
    answers_of,
    compared_with,
    finished,
    read_results,
    results_table,
)
from minibert.training.runs import RunError

RECIPE = {"lr": 0.1, "layers": [1, 2]}


def row(name="first", seed=0, answers=(1, 0, 1, 1), recipe=None, **more):
    return {
        "name": name,
        "seed": seed,
        "metrics": {"accuracy": sum(answers) / len(answers)},
        "teacher": {"accuracy": 1.0},
        "steps": {"intermediate": 10, "prediction": 20},
        "seconds": 90.0,
        "recipe": recipe or RECIPE,
        "answers": list(answers),
    } | more


def test_rows_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read_results(path) == []
    rows = [row(), row(seed=1), row("second")]
    for one in rows:
        add_result(path, one)
    assert read_results(path) == rows
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["", "{", "7", "null", '{"name": "first"}'])
def test_a_damaged_line_is_named(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(CheckpointError, match=r"results\.jsonl, line 2: .* delete this line"):
        read_results(path)
    with pytest.raises(CheckpointError):
        add_result(path, row(seed=1))
    assert len(path.read_text().splitlines()) == 2, "and nothing is lost"


def test_a_finished_run_is_found_by_name_and_seed():
    rows = [row(seed=3), row("second", recipe={"lr": 1.0})]
    assert finished(rows, "first", 3, RECIPE) == rows[0]
    assert finished(rows, "first", 4, RECIPE) is None
    assert finished(rows, "third", 3, RECIPE) is None


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"lr": 0.2, "layers": [1, 2]}, "lr = 0.1, not 0.2"),
        ({"lr": 0.1, "layers": [1, 2], "mode": "masked"}, "mode = None, not 'masked'"),
        ({"lr": 0.1}, r"layers = \[1, 2\], not None"),
    ],
)
def test_a_name_stands_for_one_recipe(recipe, said):
    with pytest.raises(RunError, match=said):
        finished([row()], "first", 9, recipe)


def test_the_test_is_the_paired_one_of_scipy():
    draw = random.Random(0)
    better = [[int(draw.random() < 0.9) for _ in range(200)] for _ in range(3)]
    worse = [[int(draw.random() < 0.7) for _ in range(200)] for _ in range(2)]
    one = [row(seed=i, answers=a) for i, a in enumerate(better)]
    two = [row("second", seed=i, answers=a) for i, a in enumerate(worse)]
    found = compared_with(one, two, "accuracy")
    means = [
        [sum(text) / len(text) for text in zip(*each, strict=True)] for each in (better, worse)
    ]
    differences = [a - b for a, b in zip(*means, strict=True)]
    assert found.difference == pytest.approx(sum(differences) / 200)
    assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    turned = compared_with(two, one, "accuracy")
    assert turned == pytest.approx((-found.difference, found.p))


def test_equal_answers_differ_by_nothing():
    found = compared_with([row()], [row("second")], "accuracy")
    assert found == (0.0, 1.0)


def test_other_texts_cannot_be_compared():
    with pytest.raises(RunError, match="'first' was measured on 4 texts, 'second' on 2"):
        compared_with([row()], [row("second", answers=(1, 1))], "accuracy")


def test_the_table_has_a_line_for_each_recipe():
    rows = [
        row(seed=0, answers=(1, 1, 0, 0)), row(seed=1, answers=(1, 1, 1, 0)),
        row("second", answers=(1, 1, 1, 1)),
    ]  # fmt: skip
    head, rule, first, second = results_table(rows, "accuracy")
    assert head.startswith("| recipe | seeds | accuracy | of the teacher's | over first | p |")
    assert rule.count("|") == head.count("|") == first.count("|") == second.count("|")
    error = 25 / math.sqrt(2) / math.sqrt(2)
    assert first == f"| first | 2 | 62.50 ± {error:.2f} | 62.5% |  |  | 30 | 1.5 |"
    assert second.startswith("| second | 1 | 100.00 | 100.0% | +37.50 | ")
    other = results_table(rows, "accuracy", "second")
    assert other[3].startswith("| second | 1 | 100.00 | 100.0% |  |")
    with pytest.raises(RunError, match="'third' is not in the results: first, second"):
        results_table(rows, "accuracy", "third")


def test_answers_are_those_that_make_the_metric():
    model, dev_set = tiny.classifier(), tiny.dataset(40, 2)
    answers = answers_of(model, dev_set, 20)
    assert set(answers) <= {0, 1}
    assert sum(answers) / 40 == evaluated(model, dev_set, 20)["accuracy"]


def test_a_score_answers_with_its_error():
    config = tiny.config().with_labels(("score",), "regression")
    model = Bert.from_config(config, "regression", tiny.tokenizer())
    texts = ["good film", "bad plot", "a day"]
    said = model.logits(texts)[:, 0].tolist()
    rows = tuple(
        Example(text, None, score + error)
        for text, score, error in zip(texts, said, (0.0, 2.0, -1.0), strict=True)
    )
    dev_set = Dataset(tiny.Path("dev"), TASKS["regress"], rows)
    assert answers_of(model, dev_set, 20) == pytest.approx([0.0, -4.0, -1.0], abs=1e-3)
