"""Every example runs from top to bottom and shows what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMISED = {
    "attention_by_hand.py": "largest difference",
    "student_by_the_book.py": "the same weights",
    "fill_a_mask.py": "[MASK] = france",
    "distil_on_the_demo.py": '"attention"',
    "numbers_to_words.py": "of 1,000 unseen texts are right",
}
ARGUMENTS = {"numbers_to_words.py": ["--only", "copy", "--rows", "600"]}  # or it takes minutes


def test_every_example_is_listed_here():
    elsewhere = {"charts.py"}  # tests/test_charts.py
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISED) | elsewhere


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_example_runs(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS.get(name, [])])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert PROMISED[name] in capsys.readouterr().out
