"""`minibert fill-mask`: the likeliest words for each [MASK]."""

import json
from dataclasses import replace

import click

from minibert.cli.machine import prepare
from minibert.cli.options import compute_options


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="how many words")
@compute_options
def fill_mask(
    texts: tuple[str, ...],
    model: str,
    top: int,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    as_json: bool,
) -> None:
    """Show the likeliest words for each [MASK] in TEXTS.

    \b
    Example
      minibert fill-mask --model google-bert/bert-base-uncased "the [MASK] is blue."
    """
    for text in texts:
        if "[MASK]" not in text:
            raise click.UsageError(f"{text!r} has no [MASK]; write [MASK] where a word is wanted")
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.model import Bert

    bert = replace(Bert.from_pretrained(model).to(place), precision=precision)
    results = []
    for text in texts:
        try:
            masks = bert.fill_mask(text, top)
        except ValueError as error:
            if hasattr(error, "exit_code"):
                raise
            raise click.UsageError(str(error)) from None
        results.append({"text": text, "masks": [[g._asdict() for g in mask] for mask in masks]})
        if not as_json:
            click.echo(text)
            for number, mask in enumerate(masks, start=1):
                for guess in mask:
                    click.echo(f"  {number}  {guess.probability:7.4f}  {guess.piece}")
    if as_json:
        click.echo(json.dumps({"model": model, "texts": results}))
