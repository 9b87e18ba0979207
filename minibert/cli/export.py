"""`minibert export`: a model in another form."""

import click

from minibert.cli.options import print_result


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="folder to write")
@click.option("--packed", is_flag=True, help="leave out zeros; only minibert reads this form")
@click.option(
    "--dense", is_flag=True, help="restore pruned heads and feed-forward units as zeros"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def export(model: str, out: str, packed: bool, dense: bool, as_json: bool) -> None:
    """Write a model in full, or packed without its zeros.

    The full form is the default, and transformers reads it too; a model with pruned heads, or with
    different numbers of feed-forward units per layer, needs --dense for that. It prints the bytes
    in full and packed, and the least that any code needs that knows only how many zeros there are.

    \b
    Example
      minibert export --model runs/finetune --packed --out runs/small
    """
    from dataclasses import replace
    from pathlib import Path

    from minibert.files import CONFIG_FILE, PACKED_FILE, WEIGHTS_FILE, read_json, stored_in
    from minibert.hub import model_folder
    from minibert.model import Bert
    from minibert.packed import size_of, size_sentence
    from minibert.parameters import named_tensors
    from minibert.pruned import in_full
    from minibert.translator import Translator

    folder = model_folder(model)
    for name in (CONFIG_FILE, WEIGHTS_FILE, PACKED_FILE):
        if (Path(out) / name).exists() and Path(out).resolve() != folder.resolve():
            raise click.UsageError(
                f"--out {out} already holds {name}, of another model; choose another folder"
            )
    exported: Bert | Translator
    if read_json(folder / CONFIG_FILE).get("model_type") == "encoder-decoder":
        exported = Translator.from_pretrained(folder)
        if dense:
            encoder, config = in_full(exported.weights.encoder, exported.encoder)
            whole = exported.weights._replace(encoder=encoder)
            exported = replace(exported, weights=whole, encoder=config)
    else:
        exported = Bert.from_pretrained(folder, fit_dense="fit_dense.weight" in stored_in(folder))
        left = [row.key for row in exported.report.of("ignored") if "part" in row.note]
        if left:
            if Path(out).resolve() == folder.resolve():
                raise click.UsageError(
                    f"--out {out} is the model's own folder, which would lose {', '.join(left)}; "
                    "choose another folder"
                )
            click.echo(f"left out, as not part of the model: {', '.join(left)}", err=True)
        if dense:
            weights, config = in_full(exported.weights, exported.config)
            exported = replace(exported, weights=weights, config=config)
    exported.save_pretrained(out, packed)
    size = size_of(dict(named_tensors(exported.weights)))
    written = Path(out) / (PACKED_FILE if packed else WEIGHTS_FILE)
    found = {"model": out, "bytes": written.stat().st_size}
    found |= {"sparse": size._asdict() | {"least": round(size.least)}}
    lines = [f"{out}: {found['bytes']:,} bytes"]
    if size.weights:
        lines.append(f"sparse: {size_sentence(size)}")
    print_result(found, as_json, lines)
