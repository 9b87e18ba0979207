"""What the README says is so: its snippets run, its map is the book's, its commands exist.

And the same of the pages that it leads to, and of the README in Chinese, which says the same.
"""

import re
from pathlib import Path

import pytest
import torch
from test_book import book_table

from minibert.laws import proofs
from minibert.parameters import named_tensors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
CHECKS = (ROOT / "docs/checks.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_each_of_the_four_commands_says_how_long_it_takes():
    for text, units in ((README, "seconds|minutes?"), (CHINESE, "秒|分钟|分半钟")):
        commands = re.search(r"<!-- commands -->\n```\n(.*?)```", text, re.DOTALL)[1].splitlines()
        assert len(commands) == 4
        assert all(re.search(rf"  # .*?({units})", line) for line in commands)


def test_the_python_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(GUIDE, "python")
    names: dict = {}
    exec(compile(block, "guide.md", "exec"), names)
    assert names["vectors"].shape == (2, 24)
    assert names["scores"].shape == (1, 4, 7, 7)
    assert len(names["guesses"][0]) == 3
    saved, loaded = (dict(named_tensors(names[name].weights)) for name in ("bert", "again"))
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[path], loaded[path]) for path in saved)


def test_the_python_of_the_readme_runs_on_any_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(GUIDE, "python")[0], "guide.md", "exec"), {})
    (block,) = blocks(README, "python")
    names: dict = {}
    exec(block.replace("google-bert/bert-base-uncased", "runs/guide"), names)
    assert names["scores"].shape == (1, 4, 7, 7)
    assert len(names["guesses"][0]) == 3


def test_the_map_lists_the_book_in_reading_order_with_its_lines():
    rows = re.findall(r"^\| \[`(\w+)\.py`\]\(minibert/\1\.py\) \| (\d+) \|", README, re.MULTILINE)
    assert [(name, int(lines)) for name, lines in rows] == book_table()
    assert f"{sum(int(lines) for _, lines in rows):,} lines of code" in README


def test_every_link_leads_to_a_file():
    links = re.findall(r"(?:\]\(|src=\")([^)#\"]+)", README + CHINESE)
    assert [link for link in links if link and not (ROOT / link).exists()] == []


def test_the_chinese_readme_has_the_same_commands_links_and_numbers():
    """Words between them differ; what is measured, typed or linked must not."""
    typed = [re.sub(r" +#.*", "", text).split("\n```")[1::2] for text in (README, CHINESE)]
    assert typed[0] == typed[1]
    own = {"README.md", "README.zh-CN.md", "docs/index.md", "docs/index.zh-CN.md"}
    for text, other in ((README, CHINESE), (CHINESE, README)):
        links = [set(re.findall(r"\]\(([^)#]+)", page)) for page in (text, other)]
        assert links[0] - links[1] <= own
    parts = [re.split(r"\n\n|\n(?=\|)", text) for text in (README, CHINESE)]
    numbers = [
        [sorted(re.findall(r"\d[\d.,e−-]*\d|\d", part)) for part in of_text] for of_text in parts
    ]
    assert numbers[0] == numbers[1]


def test_what_a_broken_formula_prints_is_what_is_quoted(minibert):
    """The last two lines after `$ minibert verify --break …`."""
    command, quoted = re.search(
        r"^\$ minibert (verify --break \S+).*?\n …\n(.*?)^```$", CHECKS, re.DOTALL | re.MULTILINE
    ).groups()
    answer = minibert(command)
    assert answer.code == 1
    assert answer.out.endswith(quoted)


def test_the_numbers_of_the_proof_are_those_of_the_proof():
    found = list(proofs())
    mistakes = [mistake for proof in found for mistake in proof.mistakes.values()]
    laws = sum(len(proof.laws) for proof in found)
    sources = [mistake.source for mistake in mistakes if mistake.source]
    seen = f"{len(sources)} of them seen in {len(set(sources))} public threads and files"
    for text in (README, CHECKS):
        assert f"{laws:,} laws in {len(found)} proofs" in text
        assert f"{len(mistakes):,} known mistakes" in text
        assert seen in text
    assert f"\n{len(found)} proofs, {laws:,} laws, " in CHECKS


@pytest.mark.parametrize(
    "command", re.findall(r"^minibert ([\w-]+)", README + GUIDE + CHECKS, re.MULTILINE)
)
def test_every_command_exists(command):
    from minibert.cli import cli

    assert command in cli.commands
