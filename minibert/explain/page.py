"""The page as one file: it fetches nothing, and runs no script but the few it names by hash.

Whatever the text, the model and its files hold is data to it: JSON without `<`, and base64.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from minibert.explain.reading import Reading
from minibert.quantization import quantized_rows

BUDGET = 3_000_000  # bytes
DTYPES = {torch.uint8: "u8", torch.int8: "i8", torch.float16: "f16", torch.float32: "f32"}
SCRIPTS = ("vendor/d3.min.js", "wordpiece.js", "live.js", "reading.js", "numbers.js", "desk.js",
           "viewer.js")  # fmt: skip


class TooLarge(ValueError):
    """More than a page may hold."""

    exit_code = 2


def shipped(name: str) -> str:
    """A text file of this package, such as `viewer.js`."""
    return (files("minibert.explain") / name).read_text(encoding="utf-8")


def as_json(value: Any) -> str:
    r"""JSON in pure ASCII, which no HTML parser takes for markup.

    >>> as_json("</script>\u2028&")
    '"\\u003c/script\\u003e\\u2028\\u0026"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def as_block(name: str, x: Tensor) -> str:
    """A tensor as an inert element: its shape, its kind of numbers, and little-endian base64.

    >>> as_block("attention.1", torch.tensor([[0, 255]], dtype=torch.uint8)).partition("id=")[2]
    '"attention.1" data-shape="1,2" data-kind="u8">AP8=</script>'
    """
    numbers = x.detach().cpu().contiguous().numpy()
    coded = base64.b64encode(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()).decode()
    shape = ",".join(map(str, x.shape))
    return (
        f'<script type="text/plain" class="block" id="{name}" data-shape="{shape}" '
        f'data-kind="{DTYPES[x.dtype]}">{coded}</script>'
    )


def page(reading: Reading, budget: int = BUDGET) -> str:
    """The whole page, at most `budget` bytes.

    Weights are the largest part: they are included while there is room, first the whole model in
    eight bits, then the linear maps of the layers, and the page says which are in it.

    Raises
        TooLarge  there is no room even without linear maps; the message says what to leave out.
    """
    style, scripts = shipped("viewer.css"), [shipped(name) for name in SCRIPTS]
    room = budget - len(_shell(style, scripts, "", "").encode())
    opened = reading.facts["opened"]
    facts, blocks, left = _filled(reading, opened, room)
    if left < 0:
        raise TooLarge(_advice(reading, budget - left, budget))
    wanting = {int(name.split(".")[1]) for name in reading.maps if name not in facts["mapped"]}
    for layer in sorted(wanting):  # the command of such a page is longer
        facts["alone"] += _filled(reading, [layer], room - 100)[0]["mapped"]
    return _shell(style, scripts, as_json(facts), "\n".join(blocks))


def _filled(
    reading: Reading, opened: Sequence[int], room: int
) -> tuple[dict[str, Any], list[str], int]:
    """Facts and blocks of a page with these layers open, and the room that they leave, if any.

    Linear maps are added in order, each in eight bits, until one does not fit; the room that is
    left then brings them to half precision, in the same order. `mapped` gives the bits of each, and
    `alone` is left to be filled.
    """
    maps = {name: x for name, x in reading.maps.items() if int(name.split(".")[1]) in opened}
    facts = reading.facts | {"opened": opened, "mapped": dict.fromkeys(maps, 16)}
    facts["alone"] = list(maps)  # the longest that it can become
    blocks = [as_block(name, x) for name, x in reading.blocks.items() if _needed(name, opened)]
    model = [as_block(f"live.{name}", x) for name, x in reading.model.items()]
    if model and room < len(as_json(facts)) + _size(blocks + model):
        facts["live"] = {"why": "there was no room for its weights beside this text"}
        model = []
    blocks += model
    room -= len(as_json(facts)) + _size(blocks)
    chosen: dict[str, list[str]] = {}
    facts |= {"mapped": {}, "alone": []}
    for bits, form in ((8, _eight_bits), (16, dict)):
        for name in maps:
            added = [as_block(block, x) for block, x in form(maps[name]).items()]
            more = _size(added) - _size(chosen.get(name, []))
            if more > room or (bits == 16 and name not in chosen):
                break
            room -= more
            chosen[name] = added
            facts["mapped"][name] = bits
    return facts, [*blocks, *(block for added in chosen.values() for block in added)], room


def _eight_bits(blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same blocks with weights as 8-bit integers, and a scale for each row."""
    found = dict(blocks)
    for name in blocks:
        if ".weight." in name:
            found[name], scale_O1 = quantized_rows(blocks[name])
            found[name.replace("weight", "scale")] = scale_O1[:, 0]
    return found


def _needed(name: str, opened: Sequence[int]) -> bool:
    """Whether a page in which these layers are open needs a block.

    Of the others it needs only the shares, and the states that are the input of an open layer.
    """
    kind, _, layer = name.rpartition(".")
    if not layer.isdecimal() or kind in ("attention", "teacher") or name == "hidden.0":
        return True
    return bool({int(layer), int(layer) + (kind == "hidden")} & set(opened))


def _size(blocks: Sequence[str]) -> int:
    """Bytes of blocks in the page, each on a line."""
    return sum(len(block) + 1 for block in blocks)


def _advice(reading: Reading, size: int, budget: int) -> str:
    """One sentence: how large the page would be, and which layers would fit."""
    fitting: list[int] = list(reading.facts["opened"])
    sizes = {name: len(as_block(name, x)) for name, x in reading.blocks.items()}
    while fitting and size - sum(
        n for name, n in sizes.items() if not _needed(name, fitting)
    ) > budget:  # fmt: skip
        fitting.pop(0)
    says = f"the page would have {size / 1e6:.1f} MB, but may have {budget / 1e6:.1f} MB"
    if not fitting:
        return f"{says}; no --layers would make it fit, so give it a shorter text"
    return f"{says}; open fewer layers, such as --layers {','.join(map(str, fitting))}"


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _shell(style: str, scripts: Sequence[str], facts: str, blocks: str) -> str:
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; img-src data: blob:; "
        f"script-src {' '.join(map(_hash, scripts))}"
    )
    run = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>A BERT at work</title>
<style>{style}</style>
</head>
<body>
<main id="page"><noscript>This page needs JavaScript, which is turned off.</noscript></main>
<script type="text/licence" id="licence">{shipped("vendor/LICENSE")}</script>
<script type="application/json" id="facts">{facts}</script>
{blocks}
{run}
</body>
</html>
"""
