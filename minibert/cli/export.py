"""`minibert export`: a model in another form."""

import click

from minibert.cli.options import print_result


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="folder to write")
@click.option("--packed", is_flag=True, help="leave out zeros; minibert alone reads that")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def export(model: str, out: str, packed: bool, as_json: bool) -> None:
    """Write a model in full, or packed without its zeros.

    In full, as transformers reads it, is the default. What packing saves is said beside the least
    that any form could take: the values that are not 0, and which ones those are.

    \b
    Example
      minibert export --model runs/finetune --packed --out runs/small
    """
    from pathlib import Path

    from minibert.files import WEIGHTS_FILE
    from minibert.model import Bert
    from minibert.packed import size_of
    from minibert.parameters import named_tensors

    bert = Bert.from_pretrained(model)
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
