"""`minibert distill`, the main job: a small student learns from a teacher."""

import dataclasses
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from minibert.cli.distill_checks import check_cache, check_ignored, check_usage, check_writable
from minibert.cli.distill_options import (
    augmentation_options,
    experiment_options,
    stage_options,
    teacher_options,
)
from minibert.cli.machine import dtype_of, prepare
from minibert.cli.options import (
    HeadedCommand,
    compute_options,
    data_options,
    print_result,
    run_record,
    training_files,
    training_options,
)
from minibert.cli.recipe import defaults_of, printed_recipe, recipe_of

if TYPE_CHECKING:
    from minibert.training.distil import DistilOptions, LearningTexts
    from minibert.training.reading import Augmentation


@click.command(cls=HeadedCommand)
@teacher_options
@data_options
@augmentation_options
@stage_options
@experiment_options
@training_options
@compute_options
@click.pass_context
def distill(context: click.Context, **given: Any) -> None:
    """Distil a teacher into a small student. Without arguments: the demo, end to end.

    With --data the student learns a task. With --corpus alone it learns from raw text;
    learning any task can then start from that student, with --init-student.

    \b
    Example
      minibert finetune --model minilm --data glue/sst2 --task sst2 --out runs/teacher
      minibert distill --teacher runs/teacher --data glue/sst2 --task sst2
    """
    if given["print_recipe"]:
        click.echo(printed_recipe(context))
        return
    chosen = SimpleNamespace(**given)
    check_usage(chosen)
    check_ignored(context, chosen)
    if chosen.teacher is None and chosen.threads is None:
        chosen.threads = 1  # the demo's matrices are so small that more threads cost time
    chosen.place, chosen.precision = prepare(
        chosen.device, chosen.threads, chosen.dtype, chosen.arithmetic
    )
    chosen.teacher_precision = dtype_of("teacher_dtype", chosen.teacher_dtype, chosen.place)
    chosen.folder = Path(chosen.out or "runs/distill")
    chosen.layers = _layers(chosen.layer_map)
    chosen.several = chosen.seeds > 1 or chosen.results is not None
    chosen.cache_folder = chosen.folder / "cache" if chosen.several else None
    if chosen.cache is not None:
        chosen.cache_folder = Path(chosen.cache)
        check_cache(chosen)
    if chosen.results is not None:
        check_writable(f"--results {chosen.results}", Path(chosen.results).parent)
    chosen.arithmetic = context.params["arithmetic"]
    if chosen.teacher is None:
        _demo(chosen)
    elif chosen.data is None:
        _general(chosen, recipe_of(context))
    else:
        _task(chosen, recipe_of(context), defaults_of(context))


def _options(chosen: Any, seed: int) -> "DistilOptions":
    from minibert.distillation import TermWeights
    from minibert.training.distil import DistilOptions
    from minibert.training.loop import training_options_from
    from minibert.training.students import Start

    stages = ("epochs", "steps", "lr", "seed", "dtype")
    training = {key: value for key, value in vars(chosen).items() if key not in stages}
    shared = {"seed": seed, "dtype": chosen.precision}
    return DistilOptions(
        intermediate=training_options_from(
            training,
            epochs=chosen.intermediate_epochs,
            steps=chosen.intermediate_steps,
            lr=chosen.intermediate_lr,
            **shared,
        ),
        prediction=training_options_from(
            training, epochs=chosen.epochs, steps=chosen.steps, lr=chosen.lr, **shared
        ),
        batch_size=chosen.batch_size,
        max_length=chosen.max_length,
        layers=chosen.layers,
        term_weights=TermWeights(
            **{name: getattr(chosen, f"{name}_weight") for name in TermWeights._fields}
        ),
        relation_heads=chosen.relation_heads,
        mode=chosen.mode,
        temperature=chosen.temperature,
        temperature_squared=chosen.temperature_squared,
        intermediate_on=chosen.intermediate_on,
        start=Start(chosen.init_embeddings, chosen.init_layers, chosen.init_student),
        dropout=chosen.dropout,
        teacher_dtype=chosen.teacher_precision,
        cache=chosen.cache_folder,
        cache_bytes=round(chosen.cache_gb * 1e9),
    )


def _shape(chosen: Any) -> str:
    """The shape of the student; one that was trained before (--init-student) brings its own."""
    if chosen.student is None and chosen.init_student is not None:
        return str(Path(chosen.init_student) / "config.json")
    return chosen.student or "4x128"


def _demo(chosen: Any) -> None:
    from minibert.training.demo import run_demo
    from minibert.training.progress import Display
    from minibert.training.runs import finish_run, open_run

    folder = chosen.folder
    with open_run(folder, run_record("distill"), chosen.resume, chosen.overwrite) as done:
        if done is None:
            done = run_demo(folder, chosen.seed, Display(), chosen.place)
            finish_run(folder, done)
    _print_run(done, folder, chosen.as_json)


def _general(chosen: Any, recipe: dict[str, Any]) -> None:
    """General distillation: raw text, a bare teacher, and no task."""
    from minibert.data.corpus import read_corpus, windows
    from minibert.data.tables import DataError
    from minibert.hub import model_folder
    from minibert.model import Bert
    from minibert.training.answers import hash_of_model, hash_of_texts
    from minibert.training.experiment import general_run
    from minibert.training.preflight import explained
    from minibert.training.progress import Display
    from minibert.training.runs import check_run, open_run, with_hashes
    from minibert.training.students import student_config

    record, claim = run_record("distill"), (chosen.resume, chosen.overwrite)
    check_run(chosen.folder, record, *claim)
    told = _told(chosen, recipe)
    display, options = Display(), _options(chosen, chosen.seed)
    states_alone = options.term_weights._replace(prediction=0.0, label=0.0)
    options = dataclasses.replace(options, term_weights=states_alone)
    teacher = Bert.from_pretrained(model_folder(chosen.teacher), "encoder").to(chosen.place)
    if teacher.tokenizer is None:
        raise click.UsageError(f"--teacher {chosen.teacher} has no vocabulary to read text with")
    student = student_config(_shape(chosen), teacher.config, options.dropout)
    encodings = windows(read_corpus(chosen.corpus), teacher.tokenizer, chosen.max_length)
    if not encodings:
        raise DataError("--corpus holds no word, only spaces or characters that are not shown")
    tokens = sum(len(one.ids) for one in encodings)
    display.say(f"{tokens:,} tokens in {len(encodings):,} windows of {chosen.max_length}")
    for line in explained(student, teacher, options):
        display.say(line)
    read = hash_of_texts((one.ids,) for one in encodings)
    record = with_hashes(record, {"teacher": hash_of_model(teacher), "texts": read})
    with open_run(chosen.folder, record, *claim) as done:
        if done is None:
            done = general_run(
                teacher, student, encodings, chosen.folder, options, told, display, chosen.place
            )
    lines = [
        f"A general student is in {chosen.folder}. Teach it a task:",
        f"  minibert distill --teacher DIR --data DIR --init-student {chosen.folder}",
    ]
    print_result(done, chosen.as_json, lines)


def _task(chosen: Any, recipe: dict[str, Any], defaults: dict[str, Any]) -> None:
    """One run in --out, or one run and one row of results per seed, each in a subfolder."""
    from minibert.training.experiment import Run, made_of, run_once, run_seeds
    from minibert.training.ledger import (
        Identity,
        check_baseline,
        read_results,
        results_table,
    )
    from minibert.training.preflight import checked_pair
    from minibert.training.progress import Display
    from minibert.training.reading import learned_texts
    from minibert.training.runs import OPTIONS_FILE, check_run, with_hashes

    several, told, runs = chosen.several, _told(chosen, recipe), []
    path = Path(chosen.results) if chosen.results else chosen.folder / "results.jsonl"
    name = chosen.name or (Path(chosen.recipe).stem if chosen.recipe else "distill")
    if several:
        check_baseline(chosen.baseline, [name, *(row["name"] for row in read_results(path))])
    for seed in range(chosen.seed, chosen.seed + chosen.seeds):
        folder = chosen.folder / f"seed-{seed}" if several else chosen.folder
        resume = chosen.resume and (not several or (folder / OPTIONS_FILE).exists())
        record = run_record("distill") | {"seed": seed}
        runs.append(
            Run(seed, folder, _options(chosen, seed), record, told, resume, chosen.overwrite)
        )
    if not several:
        check_run(runs[0].folder, runs[0].record, runs[0].resume, runs[0].overwrite)
    display = Display()
    files = training_files(chosen.data, chosen.dev)
    pair = checked_pair(
        chosen.teacher, *files, chosen.task, _shape(chosen), chosen.limit, runs[0].options,
        display, chosen.place,
    )  # fmt: skip

    if chosen.join and pair.train_set.task.pair:
        raise click.UsageError(
            f"--join concatenates single texts, but {pair.train_set.task.name} has pairs"
        )

    contents = made_of(pair, runs[0].options)
    runs = [dataclasses.replace(run, record=with_hashes(run.record, contents)) for run in runs]

    def texts() -> "LearningTexts":
        return learned_texts(
            pair.train_set, pair.teacher, _augmentation(chosen), chosen.max_length, display
        )

    if not several:
        done = run_once(runs[0], pair, texts(), chosen.labels_too, display, chosen.place)
        _print_run(done, chosen.folder, chosen.as_json)
        return
    identity = Identity(name, recipe, contents, defaults)
    task = pair.train_set.task

    def comparable() -> list[dict[str, Any]]:
        """The rows that were measured on the same texts."""
        return [
            row for row in read_results(path)
            if row["task"] == task.name and row["made_of"]["dev"] == contents["dev"]
        ]  # fmt: skip

    check_baseline(chosen.baseline, [name, *(row["name"] for row in comparable())])
    rows = run_seeds(runs, pair, texts, path, identity, display, chosen.place)
    print_result(
        {"name": name, "results": str(path), "rows": rows},
        chosen.as_json,
        results_table(comparable(), task.select_by, chosen.baseline),
    )


def _told(chosen: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    """What the page and the model card cannot know from the run itself."""
    return {
        "command": shlex.join(["minibert", *sys.argv[1:]]),
        "recipe": recipe,
        "teacher": chosen.teacher,
    }


def _augmentation(chosen: Any) -> "Augmentation":
    from minibert.training.reading import Augmentation

    return Augmentation(
        chosen.join,
        chosen.augment,
        chosen.augment_by,
        chosen.augment_probability,
        chosen.augment_candidates,
        chosen.augment_vectors,
        chosen.augment_model,
        chosen.corpus,
        chosen.augment_seed,
    )


def _print_run(done: dict[str, Any], folder: Path, as_json: bool) -> None:
    from minibert.training.comparison import comparison_lines

    lines = comparison_lines(done["models"])
    lines += ["", f"The student is in {folder}. Try it:", f"  {done['next']}"]
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
