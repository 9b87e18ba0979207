"""`minibert evaluate`: how good a model is on a file."""

from typing import Any

import click

from minibert.cli.machine import prepare
from minibert.cli.options import (
    TRANSLATION,
    check_sacrebleu,
    compute_options,
    metric_lines,
    print_result,
    with_translation,
)


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--data", required=True, type=click.Path(), help="a labelled file, or its folder")
@click.option("--limit", type=click.IntRange(1), help="use the first N rows")
@click.option(
    "--beam",
    type=click.IntRange(1, 100),
    help="beam width for translation; 1 is greedy  [default: 4]",
)
@with_translation
@compute_options
def evaluate(
    model: str,
    data: str,
    limit: int | None,
    beam: int | None,
    task: str | None,
    max_length: int,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    as_json: bool,
) -> None:
    """Measure a model on labelled data.

    A folder stands for its dev file or files; for translation, test.en means test.en and test.de.

    \b
    Example
      minibert evaluate --model runs/distill --data glue/sst2/dev.tsv --task sst2 --json
      minibert evaluate --model runs/translator --data multi30k --task translation
    """
    if beam is not None and task != TRANSLATION:
        raise click.UsageError("--beam is only for --task translation")
    if task == TRANSLATION:
        check_sacrebleu()
    place, precision = prepare(device, threads, dtype, arithmetic)
    if task == TRANSLATION:
        from minibert.data.parallel import read_pairs
        from minibert.training.translation import scores, signatures
        from minibert.translator import Translator

        translator = Translator.from_pretrained(model).to(place)
        pairs = read_pairs(data, "dev", translator.languages, limit)
        metrics = scores(translator, pairs, beam or 4, dtype=precision, max_length=max_length)
        result: dict[str, Any] = {"task": task, "n": len(pairs), "metrics": metrics}
        result |= {"signatures": signatures(translator.languages[1])}
        lines = [*metric_lines(result), *result["signatures"].values()]
        print_result(result, as_json, lines)
        return
    from minibert.data.readers import find_split, read_dataset
    from minibert.model import Bert
    from minibert.training.evaluation import evaluated, label_names_for

    bert = Bert.from_pretrained(model).to(place)
    dataset = read_dataset(find_split(data, "dev"), task, label_names_for(bert, task), limit)
    metrics = evaluated(bert, dataset, max_length, precision)
    result = {"task": dataset.task.name, "n": len(dataset), "metrics": metrics}
    print_result(result, as_json, metric_lines(result))
