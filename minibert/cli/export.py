"""`minibert export`: a model in another form."""

import click

from minibert.cli.options import print_result


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="folder to write")
@click.option("--packed", is_flag=True, help="leave out zeros; minibert alone reads that")
@click.option(
    "--dense", is_flag=True, help="put heads and units that were pruned back, as zeros"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def export(model: str, out: str, packed: bool, dense: bool, as_json: bool) -> None:
    """Write a model in full, or packed without its zeros.

    In full is the default, which transformers reads too; a model that lost heads, or feed-forward
    units in some layers, it reads when it is --dense. What packing saves is said beside the least
    that any form could take: the values that are not 0, and which ones those are.

    \b
    Example
      minibert export --model runs/finetune --packed --out runs/small
    """
    from dataclasses import replace
    from pathlib import Path

    from minibert.files import WEIGHTS_FILE
    from minibert.model import Bert
    from minibert.packed import size_of
    from minibert.parameters import named_tensors
    from minibert.pruned import in_full

    bert = Bert.from_pretrained(model)
    if dense:
        weights, config = in_full(bert.weights, bert.config)
        bert = replace(bert, weights=weights, config=config)
    bert.save_pretrained(out, packed)
    size = size_of(dict(named_tensors(bert.weights)))
    found = {"model": out, "bytes": (Path(out) / WEIGHTS_FILE).stat().st_size}
    found |= {"sparse": size._asdict() | {"least": round(size.least)}}
    lines = [f"{out}: {found['bytes']:,} bytes"]
    if size.weights:
        lines.append(
            f"sparse: {size.zeros:,} of {size.weights:,} weights are 0; "
            f"{size.full:,} bytes in full, {size.packed:,} packed, {size.least:,.0f} at the least"
        )
    print_result(found, as_json, lines)
