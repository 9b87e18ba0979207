"""`minibert verify`: what it prints, what it exits with, and that a broken law is seen."""

import pytest
from command import ROOT, documented, shape_of

from minibert.cli.verify import _table
from minibert.laws import proofs
from minibert.laws.law import Proof
from minibert.laws.measure import normal, seed_of
from minibert.laws.trial import share, verdict


def test_every_law_of_a_formula_is_in_the_table_with_its_place(minibert):
    answer = minibert("verify softmax --cases 3")
    assert answer.code == 0
    softmax = next(proof for proof in proofs() if proof.name == "functional.softmax")
    for law in softmax.laws.values():
        (row,) = [line for line in answer.out.split("\n") if f" {law.words} " in line]
        assert "holds" in row
        assert law.place.removeprefix("minibert/laws/") in row
        assert f" {max(1, 3 // law.cost)} " in row
    assert answer.out.rstrip().endswith("every law holds")


@pytest.mark.parametrize("width", [80, 100, 119])
def test_a_narrow_screen_shows_law_cases_and_verdict(width):
    softmax = next(proof for proof in proofs() if proof.name == "functional.softmax")
    table = _table([verdict(softmax, law, 3) for law in softmax.laws.values()], width)
    lines = table.split("\n")
    assert max(map(len, lines)) <= width
    assert "law" in lines[1]
    assert "cases" in lines[1]
    assert sum("holds" in line for line in lines) == len(softmax.laws)
    assert any(line.strip() == "functional.softmax" for line in lines)
    assert any(" rows are distributions" in f" {line}" for line in lines)


def test_the_place_of_a_law_is_where_it_stands():
    for proof in proofs():
        for law in proof.laws.values():
            name, line = law.place.split(":")
            lines = (ROOT / name).read_text("utf-8").split("\n")[int(line) - 1 :]
            first = next(text for text in lines if text.startswith("def "))
            assert first.startswith(f"def {law.name}(")


def test_a_module_of_the_book_stands_for_all_its_formulas(minibert):
    document = minibert("verify functional --cases 1 --json").document
    names = {proof.name for proof in proofs() if proof.name.startswith("functional.")}
    assert {law["formula"] for law in document["laws"]} == names
    assert document["proofs"] == len(names)
    assert document["failed"] == 0
    example = documented("verify")
    example["laws"][0]["problem"] = None
    first = document["laws"][0] | {"error": 0.5, "bound": 0.5}
    assert shape_of(document | {"laws": [first]}) == shape_of(example)


def test_equal_seeds_give_equal_documents(minibert):
    first, second, other = (
        minibert(f"verify layer_norm --cases 2 --seed {seed} --json").out for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_a_law_that_does_not_hold_ends_with_1(minibert, monkeypatch):
    broken = Proof(lambda x: x + 1, lambda draw: normal(seed_of(draw), 3), name="broken")

    @broken.law
    def it_changes_nothing(formula, x):
        return float((formula(x) - x).abs().max()), 0.5

    monkeypatch.setattr("minibert.laws.proofs", lambda: iter([broken]))
    answer = minibert("verify --cases 2")
    assert answer.code == 1
    assert "FAILS" in answer.out
    assert answer.out.rstrip().endswith("1 proof, 1 law, 2 cases: 1 law failed")
    assert minibert("verify --cases 2 --json").document["failed"] == 1


def test_an_exception_within_a_law_is_a_law_that_does_not_hold():
    def falling(x):
        raise ValueError("no\nmore")

    proof = Proof(falling, lambda draw: 0, name="falling")

    @proof.law
    def it_stands(formula, x):
        return formula(x), 0

    found = verdict(proof, proof.laws["it_stands"], 3)
    assert not found.holds
    assert found.problem == "ValueError: no"


@pytest.mark.parametrize(
    ("error", "bound", "expected"),
    [(1.0, 2.0, 0.5), (0.0, 0.0, 0.0), (1.0, 0.0, float("inf")), (float("nan"), 1.0, float("inf"))],
)
def test_the_share_of_a_bound(error, bound, expected):
    assert share(error, bound) == expected


def test_a_mistake_in_the_place_of_its_formula_is_caught(minibert):
    answer = minibert("verify --break layer_norm.bessels_correction --cases 5")
    assert answer.code == 1
    assert "is caught by" in answer.out
    assert "https://github.com/" in answer.out
    document = minibert("verify --break bessels_correction --cases 5 --json").document
    assert document["mistake"] == "functional.layer_norm.bessels_correction"
    assert "output_has_mean_0_and_square_v_over_v_plus_eps" in document["caught_by"]
    assert document.keys() == documented("verify", 1).keys()


def test_what_is_not_there_is_a_usage_error_with_a_hint(minibert):
    answer = minibert("verify softmaxx")
    assert answer.code == 2
    assert "there is no formula 'softmaxx'; did you mean softmax" in answer.said
    answer = minibert("verify --break bessel_correction")
    assert answer.code == 2
    assert "did you mean bessels_correction" in answer.said


def test_a_mistake_needs_a_name(minibert):
    answer = minibert("verify --break", "")
    assert answer.code == 2
    assert len(answer.said) < 200


def test_a_law_that_needs_more_cases_is_named(minibert, monkeypatch):
    late = Proof(lambda x: x, lambda draw: draw.integer(0, 9**9), name="late")

    @late.law
    def it_is_rarely_wrong(formula, x):
        return abs(formula(x) - x), 0

    late.mistake(it_is_rarely_wrong, name="wrong_at_7")(lambda x: x + (x == 7))
    monkeypatch.setattr("minibert.laws.proofs", lambda: iter([late]))
    answer = minibert("verify --break wrong_at_7")
    assert answer.code == 0
    assert "not caught in so few cases by: it is rarely wrong. Try more --cases" in answer.out


def test_three_questions_at_once_are_refused(minibert):
    answer = minibert("verify --matrix --accuracy")
    assert answer.code == 2
    assert "exclude each other; give one" in answer.said


def test_the_matrix_has_a_row_for_every_mistake_and_a_column_for_every_law(minibert):
    answer = minibert("verify gelu_erf --matrix")
    assert answer.code == 0
    gelu = next(proof for proof in proofs() if proof.name == "functional.gelu_erf")
    for mistake in gelu.mistakes.values():
        (row,) = [line for line in answer.out.split("\n") if line.startswith(f"  {mistake.name} ")]
        marks = row.removeprefix(f"  {mistake.name}").split()
        assert len(marks) == len(gelu.laws)
        for name, mark in zip(gelu.laws, marks, strict=True):
            assert (mark == "●") == (name in mistake.laws)
    document = minibert("verify gelu_erf --matrix --json").document
    assert document["missed"] == 0
    assert document.keys() == documented("verify", 2).keys()


def test_accuracy_is_a_share_of_the_promise(minibert):
    document = minibert("verify softmax gelu_erf --accuracy --cases 3 --json").document
    assert document.keys() == documented("verify", 3).keys()
    for row in document["accuracy"]:
        assert row.keys() == documented("verify", 3)["accuracy"][0].keys()
        assert 0 < row["share_of_bound"] <= 1
    by_name = {(row["formula"], row["dtype"]): row for row in document["accuracy"]}
    assert by_name["functional.gelu_erf", "float32"]["torch_share_of_bound"] > 100
