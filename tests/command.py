"""The command line in this process: what came out, and what the documentation says of it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be exactly one JSON document on one line."""
        assert self.out.count("\n") == 1, self.out

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.out, parse_constant=refuse)

    @property
    def said(self) -> str:
        """The error, which must be one line after whatever was reported before."""
        last = self.err.splitlines()[-1]
        assert last.startswith("minibert: "), self.err
        assert "Traceback" not in self.err
        return last.removeprefix("minibert: ")


def shape_of(value: Any) -> Any:
    """The keys and types of a document; a list is told by its first element."""
    if isinstance(value, dict):
        return {key: shape_of(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return type(value).__name__


def documented(command: str, number: int = 0) -> Any:
    """An example of a command in docs/cli.md."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### {command}\n")[2].partition("\n##")[0]
    return json.loads(re.findall(r"^```json\n(.*?)^```", section, re.S | re.M)[number])
