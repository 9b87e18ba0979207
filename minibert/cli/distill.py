"""`minibert distill`, the main job: a small student learns from a teacher."""

from pathlib import Path
from typing import Any

import click

from minibert.cli.options import (
    Number,
    compute_options,
    data_options,
    prepare,
    print_result,
    run_record,
    training_files,
    training_options,
)

WEIGHT = Number(0)


@click.command()
@click.option("--teacher", help="fine-tuned model folder  [default: the demo's own teacher]")
@click.option("--data", type=click.Path(), help="folder with train and dev  [default: the demo]")
@click.option("--dev", type=click.Path(), help="dev file, where --data is a training file")
@click.option(
    "--student",
    default="4x128",
    show_default=True,
    help="LxD[xN[xF]]: layers, width, heads, feed-forward; or a config.json",
)
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True)
@click.option(
    "--lr", type=Number(0, min_open=True), default=3e-4, show_default=True
)
@click.option(
    "--intermediate-epochs",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="of the first stage; 0 leaves it out",
)
@click.option(
    "--intermediate-lr", type=Number(0, min_open=True), default=1e-3, show_default=True
)
@click.option(
    "--layer-map",
    default="uniform",
    show_default=True,
    help="uniform, top, bottom, or the teacher's layers, such as 2,3,5,6",
)
@click.option("--embedding-weight", type=WEIGHT, default=1.0, show_default=True)
@click.option("--hidden-weight", type=WEIGHT, default=1.0, show_default=True)
@click.option("--attention-weight", type=WEIGHT, default=1.0, show_default=True)
@click.option(
    "--mode",
    type=click.Choice(["masked", "tinybert"]),
    default="masked",
    show_default=True,
    help="losses over real tokens only, or exactly as TinyBERT's code has them",
)
@click.option(
    "--temperature", type=Number(0, min_open=True), default=1.0, show_default=True
)
@click.option(
    "--init-embeddings",
    type=click.Choice(["pca", "random"]),
    default="pca",
    show_default=True,
    help="start from the teacher's embedding table, projected to the student's width",
)
@click.option(
    "--labels-too", is_flag=True, help="also train the same student on labels alone, to compare"
)
@data_options
@training_options
@compute_options
def distill(
    teacher: str | None,
    data: str | None,
    dev: str | None,
    student: str,
    epochs: int,
    lr: float,
    intermediate_epochs: int,
    intermediate_lr: float,
    layer_map: str,
    embedding_weight: float,
    hidden_weight: float,
    attention_weight: float,
    mode: str,
    temperature: float,
    init_embeddings: str,
    labels_too: bool,
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
    """Distil a teacher into a small student. Without arguments: the demo, end to end.

    \b
    Example
      minibert finetune --model minilm --data glue/sst2 --task sst2 --out runs/teacher
      minibert distill --teacher runs/teacher --data glue/sst2 --task sst2
    """
    if (teacher is None) != (data is None):
        raise click.UsageError("give --teacher and --data, or neither of them for the demo")
    if intermediate_epochs and not (embedding_weight or hidden_weight or attention_weight):
        raise click.UsageError(
            "--embedding-weight, --hidden-weight and --attention-weight are all 0, so the first "
            "stage has nothing to learn; leave it out with --intermediate-epochs 0"
        )
    if teacher is None and threads is None:
        threads = 1  # the demo's matrices are so small that sharing them costs more than it saves
    place, precision = prepare(device, threads, dtype, arithmetic)
    from minibert.distillation import TermWeights
    from minibert.training.comparison import comparison_lines
    from minibert.training.demo import run_demo
    from minibert.training.distil import DistilOptions, checked_pair, distil_and_compare
    from minibert.training.loop import training_options_from
    from minibert.training.progress import Display
    from minibert.training.runs import check_run, finish_run, open_run

    folder = Path(out or "runs/distill")
    run = (folder, run_record("distill"), resume, overwrite)
    check_run(*run)
    display = Display()
    shared = {"seed": seed, "dtype": precision}
    options = DistilOptions(
        intermediate=training_options_from(
            training, epochs=intermediate_epochs, lr=intermediate_lr, **shared
        ),
        prediction=training_options_from(training, epochs=epochs, lr=lr, **shared),
        batch_size=training["batch_size"],
        max_length=max_length,
        layers=_layers(layer_map),
        term_weights=TermWeights(embedding_weight, hidden_weight, attention_weight),
        mode=mode,
        temperature=temperature,
        init_embeddings=init_embeddings,
    )
    pair = None
    if teacher is not None and data is not None:
        files = training_files(data, dev)
        pair = checked_pair(teacher, *files, task, student, limit, options, display, place)
    with open_run(*run) as done:
        if done is None:
            if pair is None:
                done = run_demo(folder, seed, display, place)
            else:
                done = distil_and_compare(pair, labels_too, folder, options, display, place)
            finish_run(folder, done)
    lines = comparison_lines(done["models"], next(iter(done["metrics"])))
    lines += ["", f"The student lies in {folder}. Try it:", f"  {done['next']}"]
    print_result(done, as_json, lines)


def _layers(text: str) -> str | tuple[int, ...]:
    if text in ("uniform", "top", "bottom"):
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(
            f"--layer-map is {text!r}, but must be uniform, top, bottom, or numbers such as 2,3,5,6"
        ) from None
