"""`minibert finetune`: teach a model a task, translation among them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from click.core import ParameterSource

from minibert.cli.machine import prepare
from minibert.cli.options import (
    ONE_FILE,
    TRANSLATION,
    HeadedCommand,
    Number,
    check_apart,
    check_sacrebleu,
    check_sparsity,
    compute_options,
    language_pair,
    metric_lines,
    print_result,
    run_record,
    training_files,
    training_options,
    with_translation,
)

# Defaults of a new translator, which has everything to learn. If its encoder starts as a BERT, the
# rate is lower, so that the BERT keeps more of what it knows.
NEW_TRANSLATOR = {"epochs": 44, "lr": 2e-3, "batch_size": 128}
BEGUN_TRANSLATOR = NEW_TRANSLATOR | {"lr": 5e-4}
OF_A_TRANSLATION = "languages shape vocabulary vocab_size decoder dropout smoothing".split()


@click.command(cls=HeadedCommand)
@click.option(
    "--model", help="model folder, or an id on huggingface.co; for translation, the encoder"
)
@click.option("--data", required=True, type=click.Path(), help="folder with train and dev files")
@click.option("--dev", type=click.Path(), help="dev file, where --data is a training file")
@with_translation
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--lr", type=Number(0, min_open=True), default=5e-5, show_default=True
)
@click.option(
    "--languages",
    metavar="FROM-TO",
    help="for translation: file endings or columns of the data  [default: from English, or in "
    "the order of the columns]",
)
@click.option(
    "--shape",
    help="for translation: LxD[xN[xF]] of the decoder, and of the encoder if there is no "
    "--model  [default: 4x256x4x512, or the encoder's]",
)
@click.option(
    "--vocabulary",
    type=click.Choice(["shared", "separate"]),
    help="for translation: one for both languages, or one for each; separate with --model  "
    "[default: shared]",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(100, 10**7),
    help="for translation: number of pieces; more if there are more letters  [default: 5000]",
)
@click.option(
    "--decoder",
    type=click.Choice(["random", "encoder"]),
    help="for translation: its layers start at random, or as those of --model  [default: random]",
)
@click.option(
    "--dropout",
    type=Number(0, 1, max_open=True),
    help="for translation  [default: 0.25, or the encoder's]",
)
@click.option(
    "--smoothing",
    type=Number(0, 1, max_open=True),
    help="label smoothing for translation  [default: 0.1]",
)
@training_options
@compute_options
def finetune(**options: Any) -> None:
    """Train a model on the labels of a task.

    The model that measures best on the dev set is kept in --out. With --task translation it is a
    new translator, whose encoder may be an existing BERT; its defaults are
    --epochs 44 --batch-size 128 --lr 0.002, or 0.0005 with a --model.

    \b
    Example
      minibert finetune --model minilm --data glue/sst2 --task sst2 --dtype auto
      minibert finetune --task translation --data multi30k --dtype auto --out runs/translator
    """
    translates = options["task"] == TRANSLATION
    if translates:
        context = click.get_current_context()
        wanted = NEW_TRANSLATOR if options["model"] is None else BEGUN_TRANSLATOR
        unsaid = {name: value for name, value in wanted.items()
                  if context.get_parameter_source(name) is ParameterSource.DEFAULT}  # fmt: skip
        options |= unsaid
        context.params |= unsaid
    chosen = SimpleNamespace(**options)
    folder = Path(chosen.out or "runs/finetune")
    _check(chosen, translates)
    check_sparsity(chosen)
    check_apart("model", chosen.model, [folder])
    place, precision = prepare(chosen.device, chosen.threads, chosen.dtype, chosen.arithmetic)
    from minibert.training.loop import training_options_from
    from minibert.training.progress import Display
    from minibert.training.runs import check_run, finish_run, open_run, with_hashes

    record = run_record("finetune")
    check_run(folder, record, chosen.resume, chosen.overwrite)
    training = training_options_from(options | {"dtype": precision})
    hashes, learn = (_translation if translates else _labels)(chosen, training, Display(), place)
    record = with_hashes(record, hashes)
    with open_run(folder, record, chosen.resume, chosen.overwrite) as done:
        if done is None:
            done = learn(folder)
            finish_run(folder, done)
    lines = [
        *metric_lines(done),
        *done.get("signatures", {}).values(),
        *(["greedy; minibert evaluate searches with a beam of 4"] if translates else []),
        f"best model (epoch {done['best_epoch']}): {folder}",
    ]
    print_result(done, chosen.as_json, lines)


def _check(chosen: Any, translates: bool) -> None:
    if translates:
        check_sacrebleu()
        if chosen.languages is not None:
            language_pair(chosen.languages)
        if chosen.model is None and chosen.decoder == "encoder":
            raise click.UsageError("--decoder encoder needs --model, whose layers it takes")
        if chosen.model is not None and chosen.vocabulary == "shared":
            raise click.UsageError(
                "--vocabulary shared does not go with --model, which keeps its own vocabulary; use "
                "--vocabulary separate"
            )
        return
    if chosen.model is None:
        raise click.UsageError("name the model to train with --model")
    for name in OF_A_TRANSLATION:
        if getattr(chosen, name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is only for --task translation")


Hashes = dict[str, str]
Run = Callable[[Path], dict[str, Any]]


def _labels(chosen: Any, training: Any, display: Any, place: str) -> tuple[Hashes, Run]:
    """Read data and model; return hashes of both, and a function that trains into a folder."""
    from minibert.data.readers import read_dataset
    from minibert.training.answers import hash_of_model, hash_of_texts
    from minibert.training.finetune import finetune as train_on_labels
    from minibert.training.finetune import starting_model

    train_path, dev_path = training_files(chosen.data, chosen.dev)
    train_set = read_dataset(train_path, chosen.task, limit=chosen.limit)
    names = train_set.task.label_names
    dev_set = read_dataset(dev_path, train_set.task.name, names or None)
    display.say(train_set.summary())
    display.say(dev_set.summary())
    bert = starting_model(chosen.model, train_set.task, chosen.seed, display)

    def run(folder: Path) -> dict[str, Any]:
        return train_on_labels(
            bert, train_set, dev_set, folder, training, chosen.batch_size, chosen.max_length,
            display, place,
        )  # fmt: skip

    hashes = {
        name: hash_of_texts(one.examples) for name, one in (("train", train_set), ("dev", dev_set))
    }
    return {"model": hash_of_model(bert)} | hashes, run


def _translation(chosen: Any, training: Any, display: Any, place: str) -> tuple[Hashes, Run]:
    """The same for pairs of texts and a new translator."""
    from minibert.data.parallel import languages_of, read_pairs
    from minibert.training.answers import hash_of_texts
    from minibert.training.translation import Beginning, learn_to_translate, new_translator

    if Path(chosen.data).is_file() and chosen.dev is None:
        raise click.UsageError(ONE_FILE.format(chosen.data))
    pair = language_pair(chosen.languages) if chosen.languages else languages_of(chosen.data)
    train_set = read_pairs(chosen.data, "train", pair, chosen.limit)
    dev_set = read_pairs(chosen.dev or chosen.data, "dev", pair)
    beginning = Beginning(
        chosen.model, chosen.shape, chosen.vocab_size or Beginning.vocab_size,
        chosen.vocabulary or ("shared" if chosen.model is None else "separate"),
        chosen.decoder == "encoder", chosen.dropout, chosen.max_length, chosen.seed,
    )  # fmt: skip
    model = new_translator(beginning, train_set, pair)
    display.say("from {} to {}".format(*pair))
    for line in (train_set.summary(), dev_set.summary(), model.summary()):
        display.say(line)

    def run(folder: Path) -> dict[str, Any]:
        smoothing = 0.1 if chosen.smoothing is None else chosen.smoothing
        return learn_to_translate(
            model, train_set, dev_set, folder, training, chosen.batch_size, chosen.max_length,
            smoothing, display, place,
        )  # fmt: skip

    hashes = {
        name: hash_of_texts(zip(one.sources, one.targets, strict=True))
        for name, one in (("train", train_set), ("dev", dev_set))
    }
    return hashes, run
