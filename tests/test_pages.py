"""The book as pages: complete, joined up, and without a request to anywhere.

Sphinx builds `docs/` once, with warnings as errors and no network; what comes out is read as a
browser would read it. The chapters' examples run, their numbers are computed, their pictures are
those that the code draws. Without `pip install 'minibert[docs]'` the built pages are not tested.
"""

import doctest
import importlib.util
import re
import subprocess
import sys
import tomllib
import unicodedata
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
import test_docstrings
from test_book import READING_ORDER, ROOT, source
from test_docstrings import FUNCTIONS, METHODS

from minibert.laws import proofs
from minibert.laws.pages import sections_of

DOCS = ROOT / "docs"
CHAPTERS = sorted((DOCS / "chapters").glob("*.md"))
named = {"ids": lambda path: path.stem}
needs = [name for name in ("sphinx", "furo", "myst_parser", "latex2mathml", "matplotlib")
         if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(
    bool(needs), reason=f"{', '.join(needs)} not installed: pip install 'minibert[docs]'"
)

# The build, in a process that may not open a connection.
BUILD = """
import socket, sys
def refuse(*_): raise AssertionError("the build asks the network")
socket.socket.connect = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


class Page(HTMLParser):
    """What one page has and asks for: anchors, links, and resources that a browser would load."""

    LOADED = ("src", "srcset", "poster", "data", "background", "xlink:href")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.ids: list[str] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            elif name in self.LOADED or (name == "href" and tag not in ("a", "area")):
                self.resources.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "style":
                self.resources += asked_by_css(value)
            elif name == "content" and "url=" in value.lower():
                self.resources.append(value.lower().partition("url=")[2])

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.resources += asked_by_css(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def asked_by_css(text: str) -> list[str]:
    """The addresses in url(…) and @import."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = re.findall(r"""url\(\s*["']?([^"')]*)|@import\s+["']([^"']+)""", text)
    return [one or other for one, other in found]


def is_outside(address: str) -> bool:
    return bool(re.match(r"\s*(?!data:)(\w[\w+.-]*:|//)", address))


class Built(NamedTuple):
    """All pages by their path."""

    folder: Path
    pages: dict[str, Page]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("pages")
    options = ["-q", "-W", "--keep-going", "-n", "-b", "html"]
    command = [sys.executable, "-c", BUILD, *options, "-d", str(folder / "trees")]
    done = subprocess.run(
        [*command, str(DOCS), str(folder / "html")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    folder /= "html"
    return Built(folder, {
        str(path.relative_to(folder)): Page(path.read_text("utf-8"))
        for path in folder.rglob("*.html")
    })


# ------------------------------------------------------------------------------------ the outside


@pytest.mark.parametrize("html", [
    '<script src="https://cdn.example/x.js"></script>', '<img src="//example/x.png">',
    '<link rel="stylesheet" href="http://example/x.css">', '<use xlink:href="https://example/#a"/>',
    '<style>@import "https://example/x.css";</style>', '<p style="background:url(http://e/x)">',
    '<style>a{src:url( "https://example/x.woff2")}</style>', '<iframe src="https://example">',
    '<meta http-equiv="refresh" content="0; url=https://example">',
])
def test_a_resource_from_outside_is_seen(html):
    assert any(is_outside(address) for address in Page(html).resources)


def test_what_is_inside_is_not_outside():
    page = Page('<img src="data:image/png;base64,AA"><script src="_static/x.js"></script>'
                '<style>a{background:url(x.png)}</style><a href="https://arxiv.org">text</a>')
    assert len(page.resources) == 3
    assert not any(map(is_outside, page.resources))


@needs_sphinx
def test_nothing_is_asked_of_the_outside(built):
    asked = {name: page.resources for name, page in built.pages.items()}
    for path in [*built.folder.rglob("*.css"), *built.folder.rglob("*.svg")]:
        text = path.read_text("utf-8")
        found = asked_by_css(text) if path.suffix == ".css" else Page(text).resources
        asked[str(path.relative_to(built.folder))] = found
    assert len(asked) > len(READING_ORDER) + len(CHAPTERS)
    for name, addresses in asked.items():
        assert not [a for a in addresses if is_outside(a)], name
        for address in {a.partition("#")[0].partition("?")[0] for a in addresses}:
            if address and not address.startswith("data:"):
                assert (built.folder / name).parent.joinpath(address).exists(), (name, address)


@needs_sphinx
def test_no_script_knows_an_address_outside(built):
    """Addresses stand in comments only, and the name of SVG, which nobody asks for."""
    for path in built.folder.rglob("*.js"):
        text = re.sub(r"/\*.*?\*/|^\s*//.*$", "", path.read_text("utf-8"),
                      flags=re.DOTALL | re.MULTILINE)
        found = set(re.findall(r"""["'`]((?:https?:)?//[^"'`]*)""", text))
        assert path.name == "searchindex.js" or found <= {"http://www.w3.org/2000/svg"}, path.name


@needs_sphinx
def test_links_lead_somewhere(built):
    checked = 0
    for name, page in built.pages.items():
        repeated = {i for i in page.ids if page.ids.count(i) > 1}
        assert not repeated, f"{name}: two of {sorted(repeated)}"
        for link in page.links:
            if is_outside(link):
                continue
            place, _, anchor = unquote(link).partition("#")
            target = (built.folder / name).parent.joinpath(place).resolve() if place else None
            assert target is None or target.exists(), (name, link)
            if anchor:
                there = built.pages[str(target.relative_to(built.folder))] if target else page
                assert anchor in there.ids, (name, link)
                checked += 1
    assert checked > 4000


# -------------------------------------------------------------------------------- pages of the book


def block_of(page: Page, name: str) -> str:
    """The part of a page that shows one function, with the tags."""
    return page.text.partition(f' id="{name}">')[2].partition('class="block')[0]


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


@needs_sphinx
def test_a_page_says_its_language(built):
    for name, language in (("index", "en"), ("index.zh-CN", "zh-CN")):
        html = (built.folder / f"{name}.html").read_text("utf-8")
        assert re.search(r"<html[^>]* lang=\"([^\"]+)\"", html)[1] == language


def test_every_module_has_its_page_in_reading_order():
    for number, name in enumerate(READING_ORDER, start=1):
        page = (DOCS / "book" / f"{name}.md").read_text("utf-8")
        assert page == f"# {number} · {name}\n\n```{{book}} {name}\n```\n"
    index = (DOCS / "index.md").read_text("utf-8")
    assert re.findall(r"^book/(\w+)$", index, re.MULTILINE) == list(READING_ORDER)
    chapters = re.findall(r"^chapters/([\w-]+)$", index, re.MULTILINE)
    assert sorted(chapters) == [path.stem for path in CHAPTERS]


@needs_sphinx
@pytest.mark.parametrize("module", READING_ORDER)
def test_a_page_shows_every_line_of_its_module(built, module):
    """Under its number; the lines of a docstring have their anchors, and their text beside it."""
    page = built.pages[f"book/{module}.html"]
    lines = source(module).rstrip("\n").split("\n")
    assert [i for i in page.ids if re.fullmatch(r"L\d+", i)] == [
        f"L{n}" for n in range(1, len(lines) + 1)
    ]
    shown = {
        int(n): text_of(code)
        for n, code in re.findall(r'<a class="line-number" id="L(\d+)"[^>]*></a>(.*)', page.text)
    }
    told = [n for n, code in shown.items() if code.strip() == '""" … """']
    documented = [f for f in [*FUNCTIONS, *METHODS] if page_of(f) == (module, block_name(f))]
    assert len(told) > len(documented)
    differ = [n for n, code in shown.items() if n not in told and code != lines[n - 1]]
    assert not differ, f"{module}.py, lines {differ}"
    hidden = "\n".join(line for n, line in enumerate(lines, start=1) if n not in shown)
    assert not re.search(r"^(def|class|    return) ", hidden, re.MULTILINE)


def page_of(function: test_docstrings.Documented) -> tuple[str, str]:
    """The module of a function or method, and the id of its block."""
    if function.module in READING_ORDER:
        return function.module, function.node.name
    (home,) = {m for m in READING_ORDER if f"\nclass {function.module}(" in source(m)
               or f"\nclass {function.module}:" in source(m)}
    return home, f"{function.module}.{function.node.name}"


def block_name(function: test_docstrings.Documented) -> str:
    return page_of(function)[1]


@needs_sphinx
@pytest.mark.parametrize("function", [*FUNCTIONS, *METHODS], ids=lambda function: function.where)
def test_a_function_has_its_block(built, function):
    """With its words, its formula, a row for each shape, its example, and links to its proof."""
    module, name = page_of(function)
    page = built.pages[f"book/{module}.html"]
    assert page.ids.count(name) == 1
    html = block_of(page, name)
    words = "".join(text_of(html).split())
    for section, lines in sections_of(function.doc).items():
        for line in lines:
            for said in re.split(r"`|  +|# doctest:.*", line.strip()):
                assert "".join(said.split()) in words, f"{section or 'summary'}: {said}"
    rows = set(re.findall(r"<tr><th><code>([^<]+)</code>", html))
    assert rows == {unescape(row) for row in shape_names(function)}
    of_class = f"{module}.{name}".rpartition(".")[0]  # a method is proved with its class
    for proof in proofs():
        proved = {f"{f.__module__[9:]}.{f.__qualname__}" for f in proof.of}
        if proved & {f"{module}.{name}", of_class}:
            assert f'href="../formulas.html#{proof.name}"' in html
            assert bool(proof.accuracies) == (f'href="../accuracy.html#{proof.name}"' in html)


@needs_sphinx
@pytest.mark.parametrize("function", [*FUNCTIONS, *METHODS], ids=lambda function: function.where)
def test_code_in_a_docstring_is_shown_as_code(built, function):
    """And leads to the block that it names or calls."""
    module, name = page_of(function)
    html = block_of(built.pages[f"book/{module}.html"], name).partition('class="code')[0]
    assert "`" not in text_of(html)
    homes = {f.node.name: f.module for f in FUNCTIONS if f.node.name != "encode"}  # two of those
    for section in ("Shapes", "Formula"):
        for said in re.findall("`([^`]+)`", "\n".join(function.sections.get(section, []))):
            code = f'<code class="docutils literal notranslate">{escape(said)}</code>'
            home, _, leaf = said.partition("(")[0].rpartition(".")
            if home or leaf in homes:
                uri = f"../book/{home or homes[leaf]}.html#{leaf}"
                code = f'<a class="reference internal" href="{uri}">{code}</a>'
            assert code in html


def shape_names(function: test_docstrings.Documented) -> set[str]:
    rows = [line for line in function.sections.get("Shapes", []) if not line.startswith(" " * 5)]
    return {re.split(r"  +", row.strip())[0] for row in rows}


# Sections Formula that are words: an order of doing things, or which rows and columns stay.
IN_WORDS = {
    "sparsity.keep_units", "masking.chosen_tokens", "masking.mask_tokens",
    "masking.next_sentence_pairs", "wordpiece.decompose", "wordpiece.normalise",
}
FORMULAS = [f for f in FUNCTIONS if "Formula" in f.sections and f.where not in IN_WORDS]


def test_every_formula_is_typeset_or_in_words():
    typeset = tomllib.loads((DOCS / "_ext" / "typeset.toml").read_text("utf-8"))
    assert set(typeset) == {function.where for function in FORMULAS}
    assert {f.where for f in FUNCTIONS if "Formula" in f.sections} >= IN_WORDS
    assert not [method.where for method in METHODS if "Formula" in method.sections]


def plain(text: str) -> str:
    """Without what differs between a formula in letters and the same one typeset."""
    for typeset, said in (("ϵ", "ε"), ("eps", "ε"), ("′", "'"), ("’", "'"), ("\\s+", " ")):
        text = re.sub(typeset, said, text)
    return unicodedata.normalize("NFKD", text).strip()


@needs_sphinx
@pytest.mark.parametrize("function", FORMULAS, ids=lambda function: function.where)
def test_a_typeset_formula_says_what_the_docstring_says(built, function):
    """Each of its letters, numbers and words stands in the section Formula."""
    html = block_of(built.pages[f"book/{function.module}.html"], function.node.name)
    drawn = "".join(re.findall(r'<div class="math">(<math .*?</math>)</div>', html))
    assert drawn.startswith('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">')
    assert "\\" not in text_of(drawn)
    said = plain("\n".join(function.sections["Formula"]))
    shown = [plain(unescape(one)) for one in re.findall(r"<m(?:i|n|o|text)\b[^>]*>(.*?)</", drawn)]
    assert not [one for one in shown if re.search(r"\w", one) and one not in said]


@needs_sphinx
def test_names_in_code_lead_to_where_they_are_defined(built):
    text = built.pages["book/attention.html"].text
    assert '<a href="functional.html#softmax"><span class="n">softmax</span></a>' in text
    assert '<a href="attention.html#split_heads"><span class="n">split_heads</span></a>' in text


# ----------------------------------------------------------------------------------- chapters


def examples(text: str) -> str:
    return "\n".join(re.findall(r"^```pycon\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def prose(text: str) -> str:
    """What is said, without code, pictures and formulas."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"!\[.*?\]\(.*?\)", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", CHAPTERS, **named)
def test_examples_of_a_chapter_give_what_they_show(path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    blocks = examples(path.read_text("utf-8"))
    test = doctest.DocTestParser().get_doctest(blocks, {}, path.name, path.name, 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.attempted > 3
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("path", CHAPTERS, **named)
def test_numbers_of_a_chapter_are_computed_or_have_a_source(path):
    """Long numbers and decimals of a paragraph are in the examples, or the paragraph has a link."""
    text = path.read_text("utf-8")
    long_number = r"(?<![\w.])(?:\d[\d,]*\.\d+|\d{3,}|\d+,\d{3})"
    computed = re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d)_(?=\d)", "", examples(text)))
    results = (DOCS / "results.md").read_text("utf-8")
    for paragraph in prose(text).split("\n\n"):
        said = re.sub(r"\[[^]]*\]\([^)]*\)|`[^`]*`", "", paragraph)
        for number in re.findall(long_number, said):
            quoted = "](http" in paragraph or ("results.md" in paragraph and number in results)
            assert quoted or number.replace(",", "") in computed, number


@pytest.mark.parametrize("path", CHAPTERS, **named)
def test_a_chapter_is_short_and_shows_one_picture(path):
    text = path.read_text("utf-8")
    assert 300 <= len(prose(text).split()) <= 600
    pictures = re.findall(r"!\[([^]]{40,})\]\(\.\./pictures/([\w-]+)\.svg\)", text)
    assert len(pictures) == 1
    assert (DOCS / "pictures" / f"{pictures[0][1]}.svg").exists()


EXPLAINED = tomllib.loads((DOCS / "_ext" / "chapters.toml").read_text("utf-8"))


def test_every_chapter_explains_blocks():
    assert sorted(EXPLAINED) == [path.stem for path in CHAPTERS]
    assert all(EXPLAINED.values())


@needs_sphinx
@pytest.mark.parametrize("chapter", EXPLAINED)
def test_a_block_shows_the_chapter_that_explains_it(built, chapter):
    """By its title, with the picture of the chapter; names in the picture may differ."""
    text = (DOCS / "chapters" / f"{chapter}.md").read_text("utf-8")
    link = f'href="../chapters/{chapter}.html">{escape(text.partition(chr(10))[0][2:])}</a>'
    (shown,) = pictures_of(built.pages[f"chapters/{chapter}.html"].text)
    for name in EXPLAINED[chapter]:
        module, _, function = name.partition(".")
        html = block_of(built.pages[f"book/{module}.html"], function)
        assert html.count(link) == 1, name
        assert shown in pictures_of(html.partition(link)[2]), name


def pictures_of(html: str) -> list[str]:
    """The drawings in a page, without the numbers that make names in them different."""
    drawn = re.findall(r'<div class="picture">(<svg.*?</svg>)', html, re.DOTALL)
    return [re.sub(r'(\bid="|href="#|url\(#)(\w+)-\d+', r"\1\2", svg) for svg in drawn]


@needs_sphinx
def test_names_in_pictures_lead_to_what_is_in_the_page(built):
    """`<use>` and clip paths, after the same picture was shown twice."""
    for name, page in built.pages.items():
        for picture in re.findall(r'<div class="picture">(<svg.*?</svg>)', page.text, re.DOTALL):
            asked = set(re.findall(r'(?:href="|url\()#([\w-]+)', picture))
            assert asked <= set(Page(picture).ids), name


@pytest.mark.parametrize("path", CHAPTERS, **named)
def test_what_a_chapter_names_is_there(path):
    from minibert.cli import cli

    text = path.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert not [link for link in links if not (path.parent / link).exists()]
    assert set(re.findall(r"`minibert ([\w-]+)", text)) <= set(cli.commands)
    functions = {function.where for function in FUNCTIONS}
    modules = "|".join(READING_ORDER)
    assert set(re.findall(rf"`((?:{modules})\.\w+)`", text)) <= functions
    laws = {law.words for proof in proofs() for law in proof.laws.values()}
    assert set(re.findall(r'law "([^"]+)"', text)) <= laws
    mistakes = {f"{proof.name.partition('.')[2]}.{mistake}" for proof in proofs()
                for mistake in proof.mistakes}
    assert set(re.findall(r"--break ([\w.]+)", text)) <= mistakes


@pytest.mark.parametrize("name", [
    "root-k", "post-norm", "eps", "adam", "distillation", "mask", "schedules",
])
def test_a_picture_is_what_the_code_draws(name, monkeypatch):
    """Up to a hundredth of a point: processors round differently."""
    matplotlib = pytest.importorskip("matplotlib")
    pinned = re.search(r"^matplotlib==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if matplotlib.__version__ != pinned[1]:
        pytest.skip(f"drawn by matplotlib {pinned[1]}, not {matplotlib.__version__}")
    monkeypatch.syspath_prepend(str(DOCS))
    from pictures import CHAPTERS, PLOTS, svg_of

    assert name in {**CHAPTERS, **PLOTS}
    drawn = svg_of(name)
    kept = (DOCS / "pictures" / f"{name}.svg").read_text("utf-8")
    assert not [a for a in Page(kept).resources if is_outside(a)]
    number = r"-?\d+\.?\d*(?:e-?\d+)?"
    anonymous = [re.sub(r'(id="|#)\w+', "", svg) for svg in (drawn, kept)]
    assert re.sub(number, "0", anonymous[0]) == re.sub(number, "0", anonymous[1]), (
        "python docs/pictures.py"
    )
    for ours, theirs in zip(*(re.findall(number, svg) for svg in anonymous), strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=0.01), "python docs/pictures.py"


def test_every_command_of_plots_shows_the_picture_it_draws(monkeypatch):
    """Small, without anything from outside, and with no name that another in the page has too."""
    monkeypatch.syspath_prepend(str(DOCS))
    from pictures import commands

    text = (DOCS / "plots.md").read_text("utf-8")
    shown = re.findall(r"!\[[^]]{40,}\]\(pictures/([\w-]+\.svg)\)", text)
    assert [words[-1] for words in commands()] == shown
    kinds = {words[1] for words in commands()}
    assert kinds == {"attention", "embeddings", "schedules", "adam", "losses", "students"}
    seen: set[str] = set()
    for name in shown:
        path = DOCS / "pictures" / name
        page = Page(path.read_text("utf-8"))
        assert path.stat().st_size < 60_000
        assert not [a for a in page.resources if is_outside(a)]
        assert not seen & set(page.ids)
        seen |= set(page.ids)
    assert seen
