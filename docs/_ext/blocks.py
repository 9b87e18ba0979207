"""The source of the book, cut into blocks, with every line highlighted for a page."""

import ast
import re
from html import escape
from pathlib import Path
from typing import NamedTuple

from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES

PACKAGE = Path(__file__).parent.parent.parent / "minibert"
BOOK = re.findall(r"^ ?\d+ (\w+)  ", (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)


class Block(NamedTuple):
    """Lines of a module, from `first` to `last`; a docstring among them is shown beside them."""

    name: str
    doc: str
    first: int
    last: int
    doc_first: int = 0
    doc_last: int = 0


def source_of(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text("utf-8")


def blocks_of(source: str) -> list[Block]:
    """All lines in order: the head of the module, each function, each class, each method."""
    blocks: list[Block] = []

    def add(name: str, node: ast.AST, doc: str, last: int) -> None:
        first = blocks[-1].last + 1 if blocks else 1
        body = getattr(node, "body", [])
        span = (body[0].lineno, body[0].end_lineno) if doc else (0, 0)
        blocks.append(Block(name, doc, first, last, *span))

    module = ast.parse(source)
    statements = [node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    add("", module, ast.get_docstring(module) or "", _head_of(statements[0]) - 1)
    for node, following in zip(statements, [*statements[1:], None], strict=True):
        last = _head_of(following) - 1 if following else len(source.splitlines())
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        parts = methods if isinstance(node, ast.ClassDef) else []
        ends = [*(_head_of(part) - 1 for part in parts), last]
        add(node.name, node, ast.get_docstring(node) or "", ends[0])
        for part, end in zip(parts, ends[1:], strict=True):
            add(f"{node.name}.{part.name}", part, ast.get_docstring(part) or "", end)
    return blocks


def _head_of(node: ast.ClassDef | ast.FunctionDef) -> int:
    return min([node.lineno, *(mark.lineno for mark in node.decorator_list)])


BLOCKS = {module: blocks_of(source_of(module)) for module in BOOK}
NAMES = {f"{module}.{b.name}" for module in BOOK for b in BLOCKS[module] if b.name}


def named_by(code: str, here: str) -> str:
    """The block that code such as `linear(x)` in the docstrings of `here` names or calls; or ""."""
    name = code.partition("(")[0]
    elsewhere = [f"{module}.{name}" for module in BOOK if here in BOOK]
    found = [full for full in (f"{here}.{name}", name, *elsewhere) if full in NAMES]
    return found[0] if found else ""


def links_in(module: str, tree: ast.Module) -> dict[tuple[int, int], str]:
    """Where a name of the book is used: (line, column) -> the block that it links to."""
    homes = {b.name: (module, b.name) for b in BLOCKS[module]}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minibert."):
            homes |= {a.asname or a.name: (node.module[9:], a.name) for a in node.names}
    found = {}
    for scope in tree.body:
        names = [node for node in ast.walk(scope) if isinstance(node, ast.Name)]
        own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        own |= {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}
        for node in names:
            if node.id in homes and node.id not in own:
                home, name = homes[node.id]
                if f"{home}.{name}" in NAMES:
                    found[node.lineno, node.col_offset] = f"{home}.html#{name}"
    return found


def code_lines(module: str) -> list[str]:
    """Every line of a module, highlighted, with names of the book as links."""
    source = source_of(module)
    links = links_in(module, ast.parse(source))
    lines, line, column = [""], 1, 0
    for kind, text in PythonLexer(stripnl=False).get_tokens(source):
        css = STANDARD_TYPES.get(kind, "")
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append("")
                line, column = line + 1, 0
            shown = f'<span class="{css}">{escape(part)}</span>' if css else escape(part)
            target = links.get((line, column))
            lines[-1] += f'<a href="{target}">{shown}</a>' if target and part else shown
            column += len(part.encode())
    return lines


def code_html(block: Block, lines: list[str]) -> str:
    """A block's lines with their numbers; its docstring is folded, but keeps its anchors."""
    numbers = list(range(block.first, block.last + 1))
    while re.fullmatch(r"(<[^>]*>|\s)*", lines[numbers[-1] - 1]):
        numbers.pop()
    shown, indent = [], "    " * (block.first > 1)
    for n in numbers:
        number = f'<a class="line-number" id="L{n}" href="#L{n}" data-line="{n}"></a>'
        if n == block.doc_first:
            hidden = range(n + 1, block.doc_last + 1)
            anchors = "".join(f'<span id="L{k}"></span>' for k in hidden)
            shown.append(f'{number}<span class="told">{indent}""" … """</span>{anchors}')
        elif not block.doc_first < n <= block.doc_last:
            shown.append(number + lines[n - 1])
    rest = "".join(f'<span id="L{n}"></span>' for n in range(numbers[-1] + 1, block.last + 1))
    return f'<div class="highlight"><pre>{chr(10).join(shown)}{rest}</pre></div>'
