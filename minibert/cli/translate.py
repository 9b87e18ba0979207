"""`minibert translate`: texts from one language into another."""

from pathlib import Path

import click

from minibert.cli.machine import prepare
from minibert.cli.options import (
    Number,
    check_utf8,
    compute_options,
    picture_path,
    print_result,
)


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--model", required=True, help="folder of a translator, or an id on huggingface.co")
@click.option("--file", "path", help="a file with one text a line; - for standard input")
@click.option(
    "--beam", type=click.IntRange(1, 100), default=4, show_default=True, help="width; 1 is greedy"
)
@click.option(
    "--length-penalty",
    type=Number(0, 10),
    default=0.6,
    show_default=True,
    help="α; larger values favour longer translations",
)
@click.option(
    "--attention",
    type=click.Path(dir_okay=False),
    callback=picture_path,
    help="draw the cross-attention as FILE.svg or FILE.png; for one text only",
)
@compute_options
def translate(
    texts: tuple[str, ...],
    model: str,
    path: str | None,
    beam: int,
    length_penalty: float,
    attention: str | None,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    as_json: bool,
) -> None:
    """Translate texts.

    They come from the arguments, from a file, or from standard input; the translations are printed
    one per line, in the same order. A translator is trained by minibert finetune --task
    translation.

    \b
    Example
      minibert translate --model runs/translator "Two men are playing football."
      minibert translate --model runs/translator --file - < texts
    """
    if bool(texts) == bool(path):
        raise click.UsageError("give texts as arguments, or --file FILE (- for standard input)")
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.data.readers import read_texts
    from minibert.translator import Translator

    inputs = list(texts) if texts else read_texts(str(path))
    if attention is not None and len(inputs) != 1:
        raise click.UsageError(f"--attention draws one text, not {len(inputs)}")
    for number, text in enumerate(inputs, start=1):
        if not text.strip():
            raise click.UsageError(f"text {number} is empty; give words to translate")
        check_utf8(f"text {number}", text)
    translator = Translator.from_pretrained(model).to(place)
    found = translator.translate(inputs, beam, length_penalty, dtype=precision)
    rows = [
        {"text": text, "translation": one.text, "score": one.score}
        for text, one in zip(inputs, found, strict=True)
    ]
    if attention is not None:
        from minibert.pictures import save_cross_attention

        save_cross_attention(translator.asked(inputs[0], found[0].ids), Path(attention))
    print_result({"model": model, "translations": rows}, as_json, [one.text for one in found])
