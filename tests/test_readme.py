"""What the README says is so: its snippets run, its map is the book's, its commands exist."""

import re
from pathlib import Path

import pytest
import torch
from test_book import book_table

from minibert.laws import proofs
from minibert.parameters import named_tensors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_every_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks("python")
    for block in blocks("python"):
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        assert names["vectors"].shape == (2, 24)
        assert names["scores"].shape == (1, 4, 7, 7)
        assert len(names["guesses"][0]) == 3
        saved, loaded = (dict(named_tensors(names[name].weights)) for name in ("bert", "again"))
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[path], loaded[path]) for path in saved)


def test_the_map_lists_the_book_in_reading_order_with_its_lines():
    rows = re.findall(r"^\| \[`(\w+)\.py`\]\(minibert/\1\.py\) \| (\d+) \|", README, re.MULTILINE)
    assert [(name, int(lines)) for name, lines in rows] == book_table()
    assert f"{sum(int(lines) for _, lines in rows):,} lines of code" in README


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_a_broken_formula_prints_is_what_is_quoted(minibert):
    """The last two lines after `$ minibert verify --break …`."""
    command, quoted = re.search(
        r"^\$ minibert (verify --break \S+).*?\n …\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
    ).groups()
    answer = minibert(command)
    assert answer.code == 1
    assert answer.out.endswith(quoted)


def test_the_numbers_of_the_proof_are_those_of_the_proof():
    found = list(proofs())
    mistakes = [mistake for proof in found for mistake in proof.mistakes.values()]
    laws = sum(len(proof.laws) for proof in found)
    sources = [mistake.source for mistake in mistakes if mistake.source]
    assert f"{laws:,} laws in {len(found)} proofs" in README
    seen = f"{len(sources)} of them seen in {len(set(sources))} public threads and files"
    assert f"{len(mistakes):,} known mistakes, {seen}" in README
    assert f"\n{len(found)} proofs, {laws:,} laws, " in README


@pytest.mark.parametrize("command", re.findall(r"^minibert ([\w-]+)", README, re.MULTILINE))
def test_every_command_exists(command):
    from minibert.cli import cli

    assert command in cli.commands
