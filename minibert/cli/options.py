"""Options that several commands share, each spelled once."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
PATTERNS = ("unstructured", "row", "2:4", "heads", "ffn")
SPARSITY_METHODS = ("magnitude", "movement", "l1")
SCHEDULES = ("linear", "google", "constant", "cosine", "inverse_sqrt")
ADAM_FORMS = ("adamw", "momentum", "google", "kingma", "adam_l2")
# Where a run is kept, how often it is saved, and which runs it is compared with.
ELSEWHERE = frozenset(
    "out resume overwrite as_json save_every recipe print_recipe seeds results name baseline "
    "cache".split()
)
DTYPES = ("auto", "float32", "bfloat16")
MOST_THREADS = 4096
LARGEST = 1e38  # float32 ends at 3.4e38
TASKS = ("sst2", "cola", "mrpc", "stsb", "classify", "regress")
TRANSLATION = "translation"
ONE_FILE = "--data {} is one file; name the dev file with --dev as well"


def check_apart(option: str, given: str | None, outs: Iterable[Path]) -> None:
    """Refuse a run that would write over a model that it reads."""
    if given is not None and Path(given).expanduser().resolve() in [out.resolve() for out in outs]:
        raise click.UsageError(
            f"--{option} {given} is a folder that this run would write over; choose another --out"
        )


class Number(click.FloatRange):
    """A range of finite numbers; comparisons with its bounds alone would let NaN through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(super().convert(value, param, ctx))


def check_utf8(name: str, text: str) -> None:
    """Refuse what the shell passed on from bytes that are no UTF-8."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise click.UsageError(f"{name} is not UTF-8")


def counted(number: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# In the help of `HeadedCommand`, and in a recipe, a heading stands before each of these options.
HEADINGS = {
    "model": "Model and data",
    "teacher": "Teacher, student and data",
    "join": "Added texts",
    "languages": "Translation",
    "epochs": "Length and learning rate",
    "layer_map": "Losses of distillation",
    "teacher_dtype": "What the teacher computes",
    "labels_too": "Experiments",
    "out": "The run",
    "limit": "Training",
    "sparsity": "Sparse training",
    "seed": "Machine and output",
}


class HeadedCommand(click.Command):
    """A command with so many options that its help needs headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their order, a section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for option in self.get_params(ctx):
            heading = HEADINGS.get(str(option.name), heading)
            if record := option.get_help_record(ctx):
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def apply(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    """Put options on a command, in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def compute_options(command: Command) -> Command:
    """Where and in which precision something is computed, and how the result is printed."""
    return apply(
        command,
        (
            click.option(
                "--seed",
                type=click.IntRange(0, 2**63 - 1),
                default=0,
                show_default=True,
                metavar="INTEGER",
                help="seed of every random draw",
            ),
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda"]),
                default="auto",
                show_default=True,
                help="auto takes a GPU where there is one",
            ),
            click.option(
                "--dtype",
                type=click.Choice(DTYPES),
                default="float32",
                show_default=True,
                help="precision of the arithmetic; weights stay in float32; auto measures which "
                "is faster",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, MOST_THREADS),
                help="default: all cores; for the demo 1",
            ),
            click.option(
                "--arithmetic",
                type=click.Choice(["auto", "book", "torch", "onednn", "int8"]),
                default="auto",
                show_default=True,
                help="how products are computed: auto measures which is fastest; int8 is for "
                "inference; book calls the functions of the book",
            ),
            click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout"),
        ),
    )


def data_options(command: Command, more_tasks: tuple[str, ...] = ()) -> Command:
    """Which data, and what is to be predicted."""
    tasks = click.Choice((*TASKS, *more_tasks))
    return apply(
        command,
        (
            click.option("--task", type=tasks, help="default: from the header"),
            click.option(
                "--max-length",
                type=click.IntRange(8, 10**6),
                default=128,
                show_default=True,
                help="tokens; longer texts are cut, longer training pairs of translation left out",
            ),
        ),
    )


def with_translation(command: Command) -> Command:
    """`data_options`, and the task of translating."""
    return data_options(command, (TRANSLATION,))


def language_pair(languages: str) -> tuple[str, str]:
    """The two names of `--languages`: en-de, or en:pt-BR where a name has a hyphen itself.

    Raises
        click.UsageError  there are not two.
    """
    first, mark, second = languages.partition(":" if ":" in languages else "-")
    names = (first.strip(), second.strip())
    unclear = names[0] == names[1] or (mark == "-" and "-" in second) or "/" in languages
    if unclear or not all(names):
        raise click.UsageError(
            f"{languages!r} is not two languages; use --languages FROM-TO, such as en-de for "
            "files train.en and train.de, or FROM:TO where a name has a hyphen"
        )
    return names


def check_sacrebleu() -> None:
    """Check that sacrebleu, which measures translations, is installed.

    Raises
        click.UsageError  it is not installed.
    """
    if find_spec("sacrebleu") is None:
        raise click.UsageError(
            "--task translation needs sacrebleu; pip install 'minibert[translate]'"
        )


def picture_path(ctx: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Callback of an option that names a picture: check that it can be drawn into this file.

    Raises
        click.UsageError  its ending or its folder is wrong, or there is no matplotlib that works.
    """
    if path is None:
        return None
    if Path(path).suffix not in (".svg", ".png"):
        raise click.UsageError(f"{option.opts[0]} {path}: the name must end in .svg or .png")
    if not Path(path).resolve().parent.is_dir():
        raise click.UsageError(f"{option.opts[0]} {path}: there is no such folder")
    if find_spec("matplotlib") is None:
        raise click.UsageError("pictures need matplotlib; pip install 'minibert[plot]'")
    try:
        import_module("matplotlib.figure")
    except Exception as error:  # whatever is wrong with its files, or with those it needs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise click.UsageError(
            f"pictures need matplotlib, but the installed one does not load ({reason}); fix "
            "that, or reinstall it: pip install --force-reinstall matplotlib"
        ) from None
    return path


def training_options(command: Command) -> Command:
    """How to train, and where the run is kept."""
    return apply(
        command,
        (
            click.option(
                "--out",
                type=click.Path(file_okay=False),
                help="folder of the run  [default: runs/COMMAND]",
            ),
            click.option("--resume", is_flag=True, help="go on where the run in --out stopped"),
            click.option("--overwrite", is_flag=True, help="start the run in --out anew"),
            click.option("--limit", type=click.IntRange(1), help="use the first N training rows"),
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                default=32,
                show_default=True,
                help="texts in a step; those of similar length share a batch",
            ),
            click.option(
                "--accumulate",
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="compute each batch in this many parts, to save memory",
            ),
            click.option(
                "--schedule",
                type=click.Choice(SCHEDULES),
                default="linear",
                show_default=True,
                help="how the learning rate goes on after the warm-up",
            ),
            click.option(
                "--warmup",
                type=Number(0, 1),
                default=0.1,
                show_default=True,
                help="share of the steps in which the learning rate rises",
            ),
            click.option(
                "--adam",
                type=click.Choice(ADAM_FORMS),
                default="adamw",
                show_default=True,
                help="published form, see minibert/optim.py",
            ),
            click.option("--weight-decay", type=Number(0), help="default: that of --adam"),
            click.option(
                "--max-norm",
                type=Number(0, min_open=True),
                default=1.0,
                show_default=True,
                help="clip longer gradients to this norm",
            ),
            click.option(
                "--evaluate-every", type=click.IntRange(1), help="steps  [default: each epoch]"
            ),
            click.option(
                "--save-every", type=click.IntRange(1), help="steps  [default: each epoch]"
            ),
            click.option(
                "--l2",
                type=Number(0, LARGEST),
                default=0.0,
                show_default=True,
                help="λ of the penalty λ‖θ‖² that is added to the loss",
            ),
            click.option(
                "--sparsity",
                type=Number(0, 1),
                help="share to prune: of the weights in the maps of the blocks, of all heads, or "
                "of the feed-forward units of each layer; in a distillation's second stage  "
                "[default: none]",
            ),
            click.option(
                "--pattern",
                type=click.Choice(PATTERNS),
                default="unstructured",
                show_default=True,
                help="prune weights anywhere, equally many in each row, or two of every four, at "
                "once; or whole heads or feed-forward units, by their importance to the loss",
            ),
            click.option(
                "--sparsity-by",
                type=click.Choice(SPARSITY_METHODS),
                help="which weights to prune: small ones, those that training moves towards 0, or "
                "those small after an L1 penalty  [default: magnitude]",
            ),
            click.option(
                "--l1",
                type=Number(0, LARGEST),
                help="λ of the L1 penalty λ|θ|₁; until the choice is final it pulls a weight "
                "towards 0 by λ times the sum of the learning rates  [default: 0.1]",
            ),
        ),
    )


def check_sparsity(chosen: Any) -> None:
    """Check that the options about sparsity fit together.

    Raises
        click.UsageError  2:4 with a share other than a half; a pattern or a method without a share;
                          or a method for single weights with a pattern of whole parts.
    """
    if not chosen.sparsity and (chosen.pattern != PATTERNS[0] or chosen.sparsity_by):
        raise click.UsageError("--pattern and --sparsity-by need --sparsity, the share of zeros")
    if chosen.pattern in ("heads", "ffn"):
        if chosen.sparsity_by:
            raise click.UsageError(
                f"--sparsity-by {chosen.sparsity_by} prunes single weights, but --pattern "
                f"{chosen.pattern} prunes whole parts, by importance; leave one of them out"
            )
        if chosen.task == TRANSLATION:
            raise click.UsageError(
                f"--pattern {chosen.pattern} is only for a BERT; for a translator use "
                "unstructured, row or 2:4"
            )
    if chosen.l1 is not None and chosen.sparsity_by != "l1":
        raise click.UsageError("--l1 needs --sparsity-by l1, whose penalty it scales")
    if chosen.pattern == "2:4" and chosen.sparsity != 0.5:
        raise click.UsageError(
            f"--pattern 2:4 makes half of the weights 0, not {chosen.sparsity:g}; give "
            "--sparsity 0.5"
        )


def training_files(data: str, dev: str | None) -> tuple[Path, Path]:
    """The training file and the dev file, found by name in a folder or given one by one.

    Raises
        click.UsageError  only one file is given: it would measure a model on what it learned from.
    """
    from minibert.data.readers import find_split

    if Path(data).is_file() and dev is None:
        raise click.UsageError(ONE_FILE.format(data))
    return find_split(data, "train"), find_split(dev or data, "dev")


def run_record(command: str) -> dict[str, Any]:
    """The options of this call that decide the result of a run: a resume must repeat them."""
    params = click.get_current_context().params
    chosen = {k: v for k, v in params.items() if k not in ELSEWHERE}
    lists = {k: list(v) for k, v in chosen.items() if isinstance(v, tuple)}  # as JSON has them
    return {"command": command} | chosen | lists


def print_result(result: Mapping[str, Any], as_json: bool, lines: list[str]) -> None:
    """The result on stdout: one JSON document, or lines for a person."""
    click.echo(json.dumps(dict(result)) if as_json else "\n".join(lines))


def metric_lines(result: Mapping[str, Any]) -> list[str]:
    """`name  value` for each metric, and what it was measured on."""
    lines = [f"{result['task']}, {result['n']:,} rows"]
    return lines + [f"  {name:<22} {value:.4f}" for name, value in result["metrics"].items()]
