"""`minibert inspect`: what a checkpoint holds, and what becomes of each key."""

import json
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from minibert.pretrained import Inspection


@click.command()
@click.argument("model")
@click.option("--head", help="load it with this head  [default: what its config names]")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def inspect(model: str, head: str | None, as_json: bool) -> None:
    """Show what a model folder holds and what becomes of each key.

    MODEL is a folder, or an id on huggingface.co. Every key of the file is used, renamed, ignored
    (with the reason) or a fault; a fault, or a number that is not finite, ends with exit code 3.

    \b
    Example
      minibert inspect runs/distill
    """
    from minibert.config import CheckpointError
    from minibert.hub import model_folder
    from minibert.pretrained import HEADS, inspect_folder

    if head is not None and head not in HEADS:
        raise click.UsageError(f"--head {head}: there is no such head; known: {', '.join(HEADS)}")
    found = inspect_folder(model_folder(model), head)
    if as_json:
        click.echo(json.dumps(_document(found)))
        if found.error:  # it is in the document already
            raise click.exceptions.Exit(3)
        return
    click.echo("\n".join(_lines(found)))
    if found.error:
        raise CheckpointError(found.error)


def _document(found: "Inspection") -> dict[str, Any]:
    keys = [
        row._asdict()
        | {
            "shape": list(found.stored[row.key].shape) if row.key in found.stored else None,
            "dtype": found.stored[row.key].dtype if row.key in found.stored else None,
        }
        for row in found.report.rows
    ]
    document: dict[str, Any] = {
        "head": found.head,
        "config": found.config.to_dict(),
        "parameters": _parameters(found),
        "keys": keys,
        "notes": list(found.report.notes),
    }
    return document | ({"error": found.error} if found.error else {})


def _lines(found: "Inspection") -> list[str]:
    from minibert.pruned import shape_told

    config, report = found.config, found.report
    lines = [
        f"{', '.join(config.architectures)}: head {found.head}, {_parameters(found):,} parameters",
        f"  layers {config.num_hidden_layers}, width {config.hidden_size}, {shape_told(config)}, "
        f"vocabulary {config.vocab_size}, positions {config.max_position_embeddings}",
        "",
    ]
    width = max(len(row.key) for row in report.rows)
    for row in sorted(report.rows, key=lambda row: _natural(row.key)):
        stored = found.stored.get(row.key)
        size = f"{list(stored.shape)} {stored.dtype}" if stored else ""
        place = row.path if row.status in ("used", "renamed", "missing") else ""
        notes = "  ".join(text for text in (place, row.note) if text)
        lines.append(f"{row.status:<10}  {row.key:<{width}}  {size:<22}  {notes}".rstrip())
    statuses = [row.status for row in report.rows]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    return [*lines, "", ", ".join(counts), *report.notes]


def _parameters(found: "Inspection") -> int:
    """How many numbers the model that would be loaded has."""
    from math import prod

    rows = found.report.of("used", "renamed")
    return sum(prod(found.stored[row.key].shape) for row in rows)


def _natural(key: str) -> str:
    """For sorting: layer 2 before layer 10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(4), key)
