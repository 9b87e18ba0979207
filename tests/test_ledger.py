"""Rows of results: what is kept, what is skipped, and what the table says of them."""

import dataclasses
import json
import math
import multiprocessing
import random

import pytest
import tiny
import torch
from scipy import stats

from minibert.config import BertConfig, CheckpointError, Pruned
from minibert.data.readers import TASKS, Dataset, Example
from minibert.model import Bert
from minibert.parameters import named_tensors, weight_shapes, with_tensors
from minibert.training.answers import hash_of_model
from minibert.training.evaluation import evaluated
from minibert.training.ledger import (
    Identity,
    add_result,
    answers_of,
    compared_with,
    finished,
    read_results,
    results_table,
)
from minibert.training.runs import RunError

RECIPE = {"lr": 0.1, "layers": [1, 2]}
MADE_OF = {"teacher": "a1", "train": "b2", "dev": "c3"}


def identity(name="first", recipe=None, made_of=None, defaults=None):
    return Identity(
        name, RECIPE if recipe is None else recipe, made_of or MADE_OF, defaults or {}
    )


def row(name="first", seed=0, answers=(1, 0, 1, 1), recipe=None, **more):
    return {
        "name": name,
        "task": "sst2",
        "seed": seed,
        "metrics": {"accuracy": sum(answers) / len(answers)},
        "teacher": {"accuracy": 1.0},
        "steps": {"intermediate": 10, "prediction": 20},
        "seconds": 90.0,
        "recipe": recipe or RECIPE,
        "made_of": MADE_OF,
        "answers": list(answers),
    } | more


def test_rows_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read_results(path) == []
    rows = [row(), row(seed=1), row("second")]
    for one in rows:
        add_result(path, one, {})
    assert read_results(path) == rows
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["", "{", "7", "null", '{"name": "first"}'])
def test_a_damaged_line_is_named(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(CheckpointError, match=r"results\.jsonl, line 2: .* delete this line"):
        read_results(path)
    with pytest.raises(CheckpointError):
        add_result(path, row(seed=1), {})
    assert len(path.read_text().splitlines()) == 2, "and nothing is lost"


def test_a_finished_run_is_found_by_name_and_seed():
    rows = [row(seed=3), row("second", recipe={"lr": 1.0})]
    assert finished(rows, identity(), 3) == rows[0]
    assert finished(rows, identity(), 4) is None
    assert finished(rows, identity("third"), 3) is None


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
        finished([row()], identity(recipe=recipe), 9)


def test_an_option_that_is_newer_than_a_row_had_its_default():
    newer = RECIPE | {"join": 0}
    assert finished([row()], identity(recipe=newer, defaults={"join": 0}), 0) == row()
    with pytest.raises(RunError, match="join = 0, not 5"):
        finished([row()], identity(recipe=RECIPE | {"join": 5}, defaults={"join": 0}), 0)


@pytest.mark.parametrize("key", ["teacher", "train", "dev", "init_student"])
def test_a_name_stands_for_one_teacher_and_one_data_set(key):
    with pytest.raises(RunError, match=f"'first' were made with another {key}; use another"):
        finished([row()], identity(made_of=MADE_OF | {key: "d4"}), 0)


def test_many_processes_can_add_their_rows(tmp_path):
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_add, args=(path, str(k))) for k in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    rows = read_results(path)
    assert sorted((one["name"], one["seed"]) for one in rows) == [
        (name, seed) for name in "01" for seed in range(20)
    ]


def _add(path, name):
    for seed in range(20):
        add_result(path, row(name, seed), {})


def test_what_another_process_added_meanwhile_stays_and_counts_once(tmp_path):
    path = tmp_path / "results.jsonl"
    add_result(path, row(seed=1, answers=[1, 0]), {})
    add_result(path, row(seed=1, answers=[0, 1]), {})
    assert [one["answers"] for one in read_results(path)] == [[1, 0]]
    with pytest.raises(RunError, match=r"lr = 0\.1, not 0\.2"):
        add_result(path, row(seed=2, recipe=RECIPE | {"lr": 0.2}), {})
    assert len(read_results(path)) == 1


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
    other = row("second", made_of=MADE_OF | {"dev": "d4"})
    with pytest.raises(RunError, match="'first' and 'second' were measured on different texts"):
        compared_with([row()], [other], "accuracy")


def test_a_name_stays_in_its_cell():
    rows = [row("a|b"), row("two\nlines")]
    lines = results_table(rows, "accuracy")
    assert [line.split(" | ")[0] for line in lines[2:]] == [r"| a\|b", "| two lines"]


def test_the_table_has_a_line_for_each_recipe():
    rows = [
        row(seed=0, answers=(1, 1, 0, 0)), row(seed=1, answers=(1, 1, 1, 0)),
        row("second", answers=(1, 1, 1, 1)),
    ]  # fmt: skip
    head, rule, first, second = results_table(rows, "accuracy")
    assert head.startswith("| recipe | seeds | accuracy | of the teacher's | over first | p (an")
    assert rule.count("|") == head.count("|") == first.count("|") == second.count("|")
    error = 25 / math.sqrt(2) / math.sqrt(2)
    assert first == f"| first | 2 | 62.50 ± {error:.2f} | 62.5% |  |  | 30 | 1.5 |"
    assert second.startswith("| second | 1 | 100.00 | 100.0% | +37.50 | ")
    other = results_table(rows, "accuracy", "second")
    assert other[3].startswith("| second | 1 | 100.00 | 100.0% |  |")
    with pytest.raises(RunError, match="'third' is not in the results: first, second"):
        results_table(rows, "accuracy", "third")


def test_every_metric_of_a_task_has_a_column():
    rows = [row(seed=k, metrics={"accuracy": 0.5, "f1": 0.75 + k / 100}) for k in (0, 1)]
    rows = [one | {"teacher": {"accuracy": 1.0, "f1": 0.8}} for one in rows]
    head, rule, first = results_table(rows, "f1")
    assert head.startswith("| recipe | seeds | f1 | accuracy | of the teacher's | ")
    assert rule.count("|") == head.count("|") == first.count("|")
    assert first.startswith("| first | 2 | 75.50 ± 0.50 | 50.00 ± 0.00 | 94.4% |")


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


def test_a_model_is_called_today_what_it_was_called_in_rows_of_before():
    """Rows that are years old name it; a config that lost heads has another name."""
    config = BertConfig(vocab_size=7, hidden_size=12, num_hidden_layers=1)
    shapes = weight_shapes(config, ("pooler", "classifier"))
    ones = {name: torch.ones(tensor.shape) for name, tensor in named_tensors(shapes)}
    bert = Bert(config, with_tensors(shapes, ones), "classification")
    assert hash_of_model(bert) == "76957579235fa0e04630786aed2b76e3"
    other = dataclasses.replace(config, pruned=Pruned((tuple(range(12)),), (3072,)))
    assert hash_of_model(Bert(other, bert.weights, "classification")) != hash_of_model(bert)
