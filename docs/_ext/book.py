"""The book as pages: docstring and formula beside the code, and links between all of it.

    ```{book} attention        one page: every function of minibert/attention.py in its order
    [softmax](../minibert/functional.py#L63)     in the pages, the same line of its page
    `functional.softmax`                          a link to its block
    ![words](pictures/root-k.svg)                 drawn in the page, in the colours of its theme

Formulas become MathML when the pages are built; nothing is fetched, and no script of ours runs in
the page. `sphinx-build -W -n -b html docs build` needs torch, to collect the names of the laws.
"""

import inspect
import re
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from blocks import BLOCKS, BOOK, NAMES, PACKAGE, Block, code_html, code_lines, named_by
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from minibert.exercises import EXERCISES
from minibert.laws import proofs
from minibert.laws.pages import SECTIONS, sections_of

HERE = Path(__file__).parent
TYPESET = tomllib.loads((HERE / "typeset.toml").read_text("utf-8"))
EXPLAINED = tomllib.loads((HERE / "chapters.toml").read_text("utf-8"))
PROOFS = list(proofs())


# ----------------------------------------------------------------------------------- the words


def prose(text: str) -> list[nodes.Node]:
    """Text with `code`, and papers as links."""
    parts: list[nodes.Node] = []
    for part in re.split(r"(`[^`]+`|arXiv:\d{4}\.\d{4,5})", text):
        if part.startswith("`"):
            parts.append(nodes.literal("", part[1:-1]))
        elif part.startswith("arXiv:"):
            parts.append(nodes.reference("", part, refuri=f"https://arxiv.org/abs/{part[6:]}"))
        elif part:
            parts.append(nodes.Text(part))
    return parts


def address(code: str, here: str, up: str) -> str:
    """The address of the block that code names; or ""."""
    module, _, name = named_by(code, here).partition(".")
    return f"{up}book/{module}.html#{name}" if name else ""


def prose_html(text: str, here: str) -> str:
    """Text for tables and columns of a page, where only `code` is marked up."""

    def shown(found: re.Match[str]) -> str:
        code = f'<code class="docutils literal notranslate">{found[1]}</code>'
        uri = address(found[1], here, "../")
        return f'<a class="reference internal" href="{uri}">{code}</a>' if uri else code

    return re.sub("`([^`]+)`", shown, escape(text))


def paragraphs(doc: str, here: str) -> Iterator[nodes.Node]:
    """What a docstring says before its sections; lines in columns stay as they are."""
    lines = doc.split("\n")
    ends = [n for n, line in enumerate(lines) if line in SECTIONS or line.startswith(">>>")]
    for text in "\n".join(lines[: min(ends, default=None)]).strip().split("\n\n"):
        if re.search(r"\S   ?\S|^ ", text, re.MULTILINE):
            yield raw(columns_html(text, here))
        elif text:
            yield nodes.paragraph("", "", *prose(text.replace("\n", " ")))


def part(label: str, *content: nodes.Node) -> nodes.Node:
    """One section of a docstring: its name, and what it says."""
    head = nodes.paragraph("", label, classes=["label"])
    return nodes.container("", head, *content, classes=["part"])


def columns_html(text: str, here: str) -> str:
    """Lines as they are; one that is too long for the page continues with an indent."""
    lines = "".join(f"<div>{prose_html(line, here)}</div>" for line in text.split("\n"))
    return f'<div class="columns">{lines}</div>'


def shapes_html(lines: list[str], here: str) -> str:
    """The section Shapes as a table: name, type and shape, remark."""
    rows: list[list[str]] = []
    for line in inspect.cleandoc("\n".join(["", *lines])).split("\n"):
        if line.startswith(" "):
            rows[-1][2] += f" {line.strip()}"
        else:
            rows.append([*re.split(r"  +", line, maxsplit=2), "", ""][:3])
    cells = ("".join(f"<td>{prose_html(cell, here)}</td>" for cell in row[1:]) for row in rows)
    table = "".join(
        f"<tr><th><code>{escape(row[0])}</code></th>{cell}</tr>"
        for row, cell in zip(rows, cells, strict=True)
    )
    return f'<table class="shapes"><tbody>{table}</tbody></table>'


def raw(html: str) -> nodes.Node:
    return nodes.raw("", html, format="html")


def words_of(module: str, block: Block) -> Iterator[nodes.Node]:
    """The docstring of a block, with links to its proof and to the chapter that explains it."""
    name = f"{module}.{block.name}"
    yield from paragraphs(block.doc, module)
    for label, lines in sections_of(block.doc).items():
        text = inspect.cleandoc("\n".join(["", *lines]))
        if label == "Formula":
            typeset = [nodes.math_block(tex, tex) for tex in TYPESET.get(name, [])]
            yield part(label, *typeset, raw(columns_html(text, module)))
        elif label == "Shapes":
            yield part(label, raw(shapes_html(lines, module)))
        elif label == "example":
            yield part("Example", nodes.literal_block(text, text, language="pycon"))
        elif label:
            text = re.sub(r"^(\w+)  +", r"`\1`: ", text, flags=re.MULTILINE)  # of Raises
            yield part(label, nodes.paragraph("", "", *prose(text.replace("\n", " "))))
    links = list(links_of(name))
    if links:
        yield part("Proof", nodes.paragraph("", "", *links[1:]))
    for chapter in (chapter for chapter, names in EXPLAINED.items() if name in names):
        title, alt, picture = chapter_of(chapter)
        link = nodes.reference("", title, refuri=f"../chapters/{chapter}.html", internal=True)
        yield part("Chapter", nodes.paragraph("", "", link), nodes.image(uri=picture, alt=alt))


def chapter_of(name: str) -> tuple[str, str, str]:
    """The title of a chapter, and the alt text and address of its picture."""
    text = (HERE.parent / "chapters" / f"{name}.md").read_text("utf-8")
    ((title, alt, picture),) = re.findall(r"# ([^\n]+).*!\[(.+)\]\((.+\.svg)\)", text, re.DOTALL)
    return title, alt, picture


def links_of(name: str) -> Iterator[nodes.Node]:
    """Links to the laws, accuracy, differences and the exercise, each after a dot."""
    for proof in PROOFS:
        proved = {f"{f.__module__[9:]}.{f.__qualname__}" for f in proof.of}
        if name in proved or name.rpartition(".")[0] in proved:  # a method, by that of its class
            title = "" if proof.name == name else f" of {proof.name.partition('.')[2]}"
            laws = counted(len(proof.laws), "law")
            mistakes = counted(len(proof.mistakes), "known mistake")
            yield from dotted(f"{laws}, {mistakes}{title}", f"../formulas.html#{proof.name}")
            if proof.accuracies:
                yield from dotted(f"accuracy{title}", f"../accuracy.html#{proof.name}")
    if f"`{name}`" in (HERE.parent / "differences.md").read_text("utf-8"):
        yield from dotted("where others differ", f"../differences.html#{name}")
    function = name.partition(".")[2]
    if EXERCISES.get(function) == name.partition(".")[0]:
        yield nodes.Text(" · write it yourself: ")
        yield nodes.literal("", f"minibert exercise start {function}")


def counted(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def dotted(text: str, uri: str) -> Iterator[nodes.Node]:
    yield nodes.Text(" · ")
    yield nodes.reference("", text, refuri=uri, internal=True)


class Book(SphinxDirective):
    """The page of one module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        chapters = (HERE.parent / "chapters").glob("*.md")
        for path in (PACKAGE / f"{module}.py", *HERE.glob("*.toml"), *chapters):
            self.env.note_dependency(str(path))
        lines, blocks = code_lines(module), BLOCKS[module]
        made: list[nodes.Node] = []
        for block in blocks:
            words = nodes.container("", *words_of(module, block), classes=["words"])
            code = nodes.container("", raw(code_html(block, lines)), classes=["code"])
            public = block.name and not block.name.startswith("_")
            kind = nodes.section if public else nodes.container
            made.append(kind("", words, code, ids=[block.name] * bool(block.name)))
            made[-1]["classes"] = ["block"]
            if public:
                made[-1].insert(0, nodes.title("", "", nodes.literal("", block.name)))
            if not block.name:
                public_names = [b.name for b in blocks if b.name and not b.name.startswith("_")]
                listed = [node for name in public_names for node in dotted(name, f"#{name}")]
                words += nodes.paragraph("", "", *listed[1:], classes=["functions"])
        return made


# ------------------------------------------------------------------------------ between the pages


def join(app: Sphinx, document: nodes.document) -> None:
    """Anchors for formulas, accuracy and differences; links to blocks; pictures in the page."""
    docname = app.env.docname
    up = "../" * docname.count("/")
    if docname == "formulas":
        for module in document[0].findall(nodes.section):
            for chapter in module.children:
                if isinstance(chapter, nodes.section):
                    name = f"{module[0].astext()}.{chapter[0].astext()}"
                    chapter["ids"].append(name)
    elif docname in ("accuracy", "differences"):
        seen: set[str] = set()
        for row in document.findall(nodes.row):
            said = [t.astext() for t in row.findall(nodes.literal) if "." in t.astext()]
            named = [name for name in said if name in NAMES or docname == "accuracy"]
            row["ids"] += [name for name in named[:1] if name not in seen]
            seen.update(named[:1])
    here = docname.removeprefix("book/")
    for literal in list(document.findall(nodes.literal)):
        uri = address(literal.astext(), here, up)
        if uri and not isinstance(literal.parent, nodes.title | nodes.reference):
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), refuri=uri,
                                                 internal=True))
    for link in list(document.findall(download_reference)):
        found = re.fullmatch(r"(?:\.\./)+minibert/(\w+)\.py(#\w+)?", link["reftarget"])
        if found and found[1] in BOOK:
            uri = f"{up}book/{found[1]}.html{found[2] or ''}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))
    for number, image in enumerate(list(document.findall(nodes.image))):
        path = Path(app.srcdir, docname).parent / image["uri"]
        if path.suffix == ".svg":
            app.env.note_dependency(str(path))
            svg = path.read_text("utf-8")  # a picture may come twice, an id only once
            svg = re.sub(r'(\bid="|href="#|url\(#)(\w+)', rf"\1\2-{number}", svg)
            label = f'<svg role="img" aria-label="{escape(image["alt"])}"'
            picture = svg[svg.index("<svg") :].replace("<svg", label, 1)
            image.replace_self(raw(f'<div class="picture">{picture}</div>'))


# The name of a function in MathML, then the opening bracket that follows it, if there is one.
NAME = (r"<m[io]>([A-Za-z]{2,})</m[io]>"
        r"(?=((?:<mi>\w</mi></msub>)?(?:<mrow>)?<mo [^>]*>&#x00028;)?)")


def spaced(name: re.Match[str]) -> str:
    """With a thin space around it, but none before its bracket, as in print."""
    return f'<mo lspace=".17em" rspace="{0 if name[2] else .17}em">{name[1]}</mo>'


def visit_math(self: nodes.NodeVisitor, node: nodes.Element) -> None:
    """MathML, made here: the page needs neither a script nor a font."""
    block = isinstance(node, nodes.math_block)
    html = convert(node.astext(), display="block" if block else "inline")
    html = re.sub(NAME, spaced, html)
    self.body.append(f'<div class="math">{html}</div>' if block else html)
    raise nodes.SkipNode


def in_its_language(
    _app: Sphinx, page: str, _template: str, context: dict[str, object], _doctree: object
) -> None:
    """Mark a page NAME.zh-CN as Chinese, so that browsers choose the right font and voice."""
    if page.endswith(".zh-CN"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("book", Book)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("doctree-read", join, priority=100)
    app.connect("html-page-context", in_its_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
