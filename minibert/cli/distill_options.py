"""The options of `minibert distill`, which are the keys of a recipe as well."""

from collections.abc import Callable

import click

from minibert.cli.options import DTYPES, Command, Number, apply
from minibert.cli.recipe import load_recipe

WEIGHT = Number(0)
POSITIVE = Number(0, min_open=True)
STEPS = click.IntRange(1)


def _weight(loss: str, default: float, says: str) -> Callable[[Command], Command]:
    """The option of a loss's weight."""
    return click.option(
        f"--{loss}-weight", type=WEIGHT, default=default, show_default=True, help=says
    )


def teacher_options(command: Command) -> Command:
    """Who teaches whom, and on what."""
    return apply(
        command,
        (
            click.option(
                "--recipe",
                metavar="FILE",
                callback=load_recipe,
                is_eager=True,
                help="a TOML file with defaults for the other options",
            ),
            click.option(
                "--print-recipe", is_flag=True, help="show these options as such a file, and stop"
            ),
            click.option(
                "--teacher",
                help="fine-tuned model folder; a bare encoder if only --corpus is given  "
                "[default: the demo's own teacher]",
            ),
            click.option(
                "--data", type=click.Path(), help="folder with train and dev  [default: the demo]"
            ),
            click.option(
                "--dev", type=click.Path(), help="dev file, where --data is a training file"
            ),
            click.option(
                "--corpus",
                multiple=True,
                metavar="PATH",
                help="raw text for general distillation, or for --augment-by mlm to train a "
                "head on: a file, or a folder of them; repeatable",
            ),
            click.option(
                "--student",
                metavar="SHAPE",
                help="LxD[xN[xF]]: layers, width, heads, feed-forward; or a config.json  "
                "[default: 4x128]",
            ),
            click.option(
                "--init-student",
                metavar="DIR",
                help="continue from this student: a general one, or one that knows the task",
            ),
            click.option(
                "--init-embeddings",
                type=click.Choice(["pca", "random", "teacher"]),
                default="pca",
                show_default=True,
                help="pca: the teacher's embedding tables, projected to the student's width; "
                "teacher: as they are, for a student as wide; random: truncated normal",
            ),
            click.option(
                "--init-layers",
                type=click.Choice(["random", "teacher"]),
                default="random",
                show_default=True,
                help="teacher: its layers that --layer-map selects, for a student of its width, "
                "heads and feed-forward; random: truncated normal",
            ),
            click.option(
                "--dropout",
                type=Number(0, 1, max_open=True),
                help="of the student  [default: the teacher's; that of --init-student if there is "
                "no --student]",
            ),
        ),
    )


def augmentation_options(command: Command) -> Command:
    """More texts out of few."""
    return apply(
        command,
        (
            click.option(
                "--join",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                metavar="TEXTS",
                help="add this many texts, each two to four training texts in a row",
            ),
            click.option(
                "--augment",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                metavar="COPIES",
                help="add this many copies of every text, with some words replaced",
            ),
            click.option(
                "--augment-by",
                type=click.Choice(["neighbours", "mlm"]),
                default="neighbours",
                show_default=True,
                help="by neighbours in an embedding table, or by the guesses of a masked-word head",
            ),
            click.option(
                "--augment-probability",
                type=Number(0, 1),
                default=0.4,
                show_default=True,
                help="of a word in a copy to be replaced; p_t in the paper",
            ),
            click.option(
                "--augment-candidates",
                type=click.IntRange(1),
                default=15,
                show_default=True,
                help="how many words a replacement is drawn from; K in the paper",
            ),
            click.option(
                "--augment-vectors",
                metavar="FILE",
                help="word vectors, GloVe's or word2vec's, read by gensim  [default: the "
                "teacher's embedding table]",
            ),
            click.option(
                "--augment-model",
                metavar="DIR",
                help="model with a masked-word head  [default: the teacher]",
            ),
            click.option(
                "--augment-seed",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="seed of the added texts, the same for every --seed",
            ),
        ),
    )


def stage_options(command: Command) -> Command:
    """How long each stage lasts, and what it compares."""
    return apply(
        command,
        (
            click.option(
                "--epochs",
                type=click.IntRange(1),
                default=6,
                show_default=True,
                help="epochs of the second stage, in which the student learns answers",
            ),
            click.option(
                "--steps", type=STEPS, help="end the second stage after at most this many steps"
            ),
            click.option(
                "--lr",
                type=POSITIVE,
                default=3e-4,
                show_default=True,
                help="peak learning rate of the second stage",
            ),
            click.option(
                "--intermediate-epochs",
                type=click.IntRange(0),
                default=4,
                show_default=True,
                help="epochs of the first stage, or of general distillation; 0 skips the stage",
            ),
            click.option(
                "--intermediate-on",
                type=click.Choice(["all", "labelled"]),
                default="all",
                show_default=True,
                help="labelled: leave out the texts that augmentation made",
            ),
            click.option(
                "--intermediate-steps",
                type=STEPS,
                help="end the first stage after at most this many steps",
            ),
            click.option(
                "--intermediate-lr",
                type=POSITIVE,
                default=1e-3,
                show_default=True,
                help="peak learning rate of the first stage, or of general distillation",
            ),
            click.option(
                "--layer-map",
                default="uniform",
                show_default=True,
                help="uniform, top, bottom, or the teacher's layers, such as 2,3,5,6",
            ),
            _weight("embedding", 1.0, "TinyBERT's loss on the embeddings"),
            _weight("hidden", 1.0, "TinyBERT's loss on the hidden states of the layers"),
            _weight("attention", 1.0, "TinyBERT's loss on the attention scores of the layers"),
            _weight("cosine", 0.0, "DistilBERT's loss: direction of the last hidden states"),
            _weight("patient", 0.0, "patient distillation: [CLS] of every layer but the last"),
            _weight("minilm-v1", 0.0, "MiniLM: attention, values of the last layer; equal heads"),
            _weight("minilm-v2", 0.0, "MiniLMv2: queries, keys and values of the last layer"),
            click.option(
                "--relation-heads",
                type=click.IntRange(1),
                help="heads of MiniLMv2's relations  [default: the most that divide those of "
                "both models]",
            ),
            _weight("prediction", 1.0, "of the loss on the teacher's answers, or its scores"),
            _weight("label", 0.0, "of the loss on labels, beside the one on the teacher's answers"),
            click.option(
                "--mode",
                type=click.Choice(["masked", "tinybert"]),
                default="masked",
                show_default=True,
                help="losses over real tokens only, or exactly as in TinyBERT's code",
            ),
            click.option(
                "--temperature",
                type=POSITIVE,
                default=1.0,
                show_default=True,
                help="divides both answers before they are compared",
            ),
            click.option(
                "--temperature-squared", is_flag=True, help="multiply the loss by T², as in Hinton"
            ),
        ),
    )


def experiment_options(command: Command) -> Command:
    """What the teacher computes and is kept, and what is compared."""
    return apply(
        command,
        (
            click.option(
                "--teacher-dtype",
                type=click.Choice(DTYPES),
                default="float32",
                show_default=True,
                help="precision in which the teacher computes",
            ),
            click.option(
                "--cache",
                metavar="DIR",
                help="keep the teacher's states and answers here, for other runs too  [default: "
                "in --out, until the run is complete; with --seeds or --results in OUT/cache]",
            ),
            click.option(
                "--cache-gb",
                type=Number(0, 1e6),
                default=8.0,
                show_default=True,
                help="cache the teacher's states if they take no more than this",
            ),
            click.option(
                "--labels-too",
                is_flag=True,
                help="also train the same student on labels alone, to compare",
            ),
            click.option(
                "--seeds",
                type=click.IntRange(1),
                default=1,
                show_default=True,
                metavar="N",
                help="run this many seeds, starting at --seed, each in its own folder",
            ),
            click.option(
                "--results",
                metavar="FILE",
                help="add a row for each run  [default: results.jsonl in --out]",
            ),
            click.option("--name", help="name of the rows  [default: the recipe's]"),
            click.option("--baseline", help="the rows to compare with  [default: the first]"),
        ),
    )
