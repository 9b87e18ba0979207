"""`minibert finetune`: teach a pretrained model a task."""

from pathlib import Path
from typing import Any

import click

from minibert.cli.options import (
    Number,
    compute_options,
    data_options,
    metric_lines,
    prepare,
    print_result,
    run_record,
    training_files,
    training_options,
)


@click.command()
@click.option("--model", required=True, help="model folder, or an id on huggingface.co")
@click.option("--data", required=True, type=click.Path(), help="folder with train and dev files")
@click.option("--dev", type=click.Path(), help="dev file, where --data is a training file")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--lr", type=Number(0, min_open=True), default=5e-5, show_default=True
)
@data_options
@training_options
@compute_options
def finetune(
    model: str,
    data: str,
    dev: str | None,
    epochs: int,
    lr: float,
    task: str | None,
    max_length: int,
    out: str | None,
    resume: bool,
    overwrite: bool,
    limit: int | None,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    arithmetic: str,
    as_json: bool,
    **training: Any,
) -> None:
    """Train a model on the labels of a task.

    The best model on the dev set, of all that were measured, is kept in --out.

    \b
    Example
      minibert finetune --model minilm --data glue/sst2 --task sst2 --dtype bfloat16
    """
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.data.readers import read_dataset
    from minibert.training.finetune import finetune as train_on_labels
    from minibert.training.finetune import starting_model
    from minibert.training.loop import training_options_from
    from minibert.training.progress import Display
    from minibert.training.runs import check_run, finish_run, open_run

    folder = Path(out or "runs/finetune")
    run = (folder, run_record("finetune"), resume, overwrite)
    check_run(*run)
    display = Display()
    train_path, dev_path = training_files(data, dev)
    train_set = read_dataset(train_path, task, limit=limit)
    names = train_set.task.label_names
    dev_set = read_dataset(dev_path, train_set.task.name, names or None)
    display.say(train_set.summary())
    display.say(dev_set.summary())
    bert = starting_model(model, train_set.task, seed, display)
    options = training_options_from(
        training, epochs=epochs, lr=lr, seed=seed, dtype=precision
    )
    with open_run(*run) as done:
        if done is None:
            done = train_on_labels(
                bert, train_set, dev_set, folder, options, training["batch_size"], max_length,
                display, place,
            )  # fmt: skip
            finish_run(folder, done)
    lines = [*metric_lines(done), f"best model (epoch {done['best_epoch']}): {folder}"]
    print_result(done, as_json, lines)
