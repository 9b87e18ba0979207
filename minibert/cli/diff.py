"""`minibert diff`: where two models differ, and why."""

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from minibert.cli.options import Number, check_utf8, print_result

if TYPE_CHECKING:
    from minibert.causes import Comparison
    from minibert.difference import Gap


@click.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option(
    "--against",
    type=click.Choice(["transformers"]),
    help="compute B, or A if there is no B, with transformers' own model",
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    help="repeatable; a tab separates two sentences  [default: two of different length]",
)
@click.option(
    "--tolerance",
    type=Number(0),
    help="as a share of a tensor's largest value  [default: 16 roundings to float32, 1.9e-6]",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def diff(
    a: str,
    b: str | None,
    against: str | None,
    texts: tuple[str, ...],
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Find where two models differ, and why.

    A and B are folders, or ids on huggingface.co. Both read the same texts, in float64; every state
    from the embeddings to the head is compared, and every weight. The cause of the first difference
    is found by trial: a single change to one model that makes the difference vanish. Exit code 1
    says that they differ.

    \b
    Example
      minibert diff runs/teacher --against transformers
    """
    if b is None and against is None:
        raise click.UsageError("give two models, or one and --against transformers")
    if against and find_spec("transformers") is None:
        raise click.UsageError(
            "--against transformers: it is not installed; pip install transformers"
        )
    if not all(text.strip() for text in texts):
        raise click.UsageError("a --text is empty; give words to read")
    for text in texts:
        check_utf8("a --text", text)
    import torch

    from minibert.causes import compare
    from minibert.difference import TOLERANCE
    from minibert.hub import model_folder
    from minibert.model import Bert

    bound = TOLERANCE if tolerance is None else tolerance
    first = Bert.from_pretrained(a, dtype=torch.float64)
    second = Bert.from_pretrained(b, dtype=torch.float64) if b else first
    theirs = model_folder(b or a) if against else None
    with torch.no_grad():
        found = compare(first, second, texts, bound, theirs)
    print_result(_document(found, bound), as_json, _lines(found, against))
    if not found.equal:
        raise click.exceptions.Exit(1)


def _document(found: "Comparison", tolerance: float) -> dict[str, Any]:
    def rows(gaps: "list[Gap]") -> list[dict[str, Any]]:
        """A gap between different sizes has no number, nor has one that is not finite."""
        return [
            {
                "name": one.name,
                "difference": one.difference if math.isfinite(one.difference) else None,
                "bound": one.bound if math.isfinite(one.bound) else None,
            }
            | ({"shapes": list(map(list, one.shapes))} if one.shapes else {})
            for one in gaps
        ]

    return {
        "equal": found.equal,
        "tolerance": tolerance,
        "config": {key: list(values) for key, values in found.config.items()},
        "sizes": found.sizes,
        "same_vocabulary": found.same_vocabulary,
        "weights": rows(found.weights),
        "alone": {"a": found.alone[0], "b": found.alone[1]},
        "states": rows(found.states),
        "first": found.first and found.first.name,
        "cause": found.cause and found.cause._asdict(),
    }


def _lines(found: "Comparison", against: str | None) -> list[str]:
    lines = [f"config  {key}: A {a!r}, B {b!r}" for key, (a, b) in found.config.items()]
    if not found.same_vocabulary:
        lines.append("the vocabularies, or how they cut a text, differ; both read the ids of A's")
    if found.sizes:
        sizes = ", ".join(found.sizes)
        return [*lines, "", f"the sizes differ ({sizes}), so nothing more is compared"]
    for side, names in zip("AB", found.alone, strict=True):
        lines += [f"weight  {name}: only in {side}" for name in names]
    lines += [""] * bool(lines) + _table("weights that differ", found.weights)
    lines += [""] * bool(found.weights) + _table("state", found.states, found.first)
    if against:
        lines.append("transformers keeps its scores to itself")
    lines.append("")
    if found.first is None:
        return [*lines, "every state agrees"]
    lines.append(f"the first difference is {found.first.name}")
    if found.cause is None:
        return [*lines, "no single change that was tried explains it"]
    lines.append(f"if {found.cause.model} had {found.cause.words} it would vanish")
    if found.cause.then:
        lines.append(f"then the first difference would be {found.cause.then}")
    return lines


def _table(title: str, gaps: "list[Gap]", first: "Gap | None" = None) -> list[str]:
    """A row for each gap; those beyond the bound are marked, and the first of them specially."""
    if not gaps:
        return []
    width = max(len(title), *(len(one.name) for one in gaps))
    lines = [f"{title:<{width}}  difference    bound"]
    for one in gaps:
        size = "sizes" if math.isinf(one.difference) else f"{one.difference:.1e}"
        mark = "  <- first" if one is first else "  beyond" if one.beyond else ""
        shapes = "  " + " and ".join(str(list(x)) for x in dict.fromkeys(one.shapes))
        lines.append(f"{one.name:<{width}}  {size:>10}  {one.bound:.1e}{mark:<8}{shapes}".rstrip())
    return lines
