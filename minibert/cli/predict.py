"""`minibert predict`: labels and probabilities for texts."""

import json

import click

from minibert.cli.options import compute_options, prepare


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--file", "path", help="a file with one text a line; - for standard input")
@compute_options
def predict(
    texts: tuple[str, ...],
    model: str,
    path: str | None,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
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
    place, precision = prepare(device, threads, dtype)
    from minibert.config import CheckpointError
    from minibert.data.readers import read_texts
    from minibert.model import Bert

    inputs = list(texts) if texts else read_texts(str(path))
    bert = Bert.from_pretrained(model).to(place, precision)
    try:
        if bert.head == "regression":
            scores = bert.logits(inputs)[:, 0].tolist()
            rows = [
                {"text": text, "score": score} for text, score in zip(inputs, scores, strict=True)
            ]
        else:
            rows = [
                {"text": text, "label": said.label, "probabilities": said.probabilities}
                for text, said in zip(inputs, bert.classify(inputs), strict=True)
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
