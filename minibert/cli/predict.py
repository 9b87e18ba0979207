"""`minibert predict`: labels and probabilities for texts."""

import json
from dataclasses import replace

import click

from minibert.cli.machine import prepare
from minibert.cli.options import compute_options


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--file", "path", help="a file with one text a line; - for standard input")
@click.option("--pair", is_flag=True, help="each text is two sentences with a tab between them")
@compute_options
def predict(
    texts: tuple[str, ...],
    model: str,
    path: str | None,
    pair: bool,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    as_json: bool,
) -> None:
    """Label texts.

    They come from the arguments, from a file, or from standard input.

    \b
    Example
      minibert predict --model runs/distill "a film to fall in love with"
    """
    if bool(texts) == bool(path):
        raise click.UsageError("give texts as arguments, or --file FILE (- for standard input)")
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.config import CheckpointError
    from minibert.data.readers import read_texts
    from minibert.data.tables import DataError
    from minibert.model import Bert

    inputs = list(texts) if texts else read_texts(str(path))
    for number, text in enumerate(inputs, start=1):
        if not text.strip():
            raise click.UsageError(f"text {number} is empty; give words to judge")
        if pair and text.count("\t") != 1:
            wrong = "must have one tab between two sentences"
            if path:
                raise DataError(f"{path}, line {number}: the text {wrong}")
            raise click.UsageError(f"text {number} {wrong}")
    first = [text.partition("\t")[0] for text in inputs] if pair else inputs
    second = [text.partition("\t")[2] for text in inputs] if pair else None
    bert = replace(Bert.from_pretrained(model).to(place), precision=precision)
    try:
        if bert.head == "regression":
            scores = bert.logits(first, second)[:, 0].tolist()
            rows = [
                {"text": text, "score": score} for text, score in zip(inputs, scores, strict=True)
            ]
        else:
            rows = [
                {"text": text, "label": said.label, "probabilities": said.probabilities}
                for text, said in zip(inputs, bert.classify(first, second), strict=True)
            ]
    except ValueError as error:
        raise CheckpointError(f"{model}: {error}") from None
    if as_json:
        click.echo(json.dumps({"model": model, "predictions": rows}))
        return
    for row in rows:
        if "score" in row:
            click.echo(f"{row['score']:.4f}\t{row['text']}")
        else:
            probability = row["probabilities"][row["label"]]
            click.echo(f"{row['label']}\t{probability:.4f}\t{row['text']}")
