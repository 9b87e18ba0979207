"""`minibert evaluate`: how good a model is on a file."""

import click

from minibert.cli.options import (
    compute_options,
    data_options,
    metric_lines,
    prepare,
    print_result,
)


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--data", required=True, type=click.Path(), help="a labelled file, or its folder")
@click.option("--limit", type=click.IntRange(1), help="use the first N rows")
@data_options
@compute_options
def evaluate(
    model: str,
    data: str,
    limit: int | None,
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

    A folder stands for its dev file.

    \b
    Example
      minibert evaluate --model runs/distill --data glue/sst2/dev.tsv --task sst2 --json
    """
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.data.readers import find_split, read_dataset
    from minibert.model import Bert
    from minibert.training.evaluation import evaluated

    bert = Bert.from_pretrained(model).to(place)
    names = None
    if bert.head == "classification" and task in (None, "classify"):
        names = tuple(bert.config.id2label.values())
    dataset = read_dataset(find_split(data, "dev"), task, names, limit)
    metrics = evaluated(bert, dataset, max_length, precision)
    result = {"task": dataset.task.name, "n": len(dataset), "metrics": metrics}
    print_result(result, as_json, metric_lines(result))
