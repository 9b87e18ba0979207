"""`minibert plot`: pictures for a page or a talk."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minibert.cli.explain import DEMO, layer_numbers, sentences_of, small_model
from minibert.cli.options import (
    TASKS,
    Command,
    Number,
    apply,
    check_utf8,
    counted,
    picture_path,
    print_result,
)

if TYPE_CHECKING:
    from minibert.data.readers import Dataset
    from minibert.model import Bert

a_model = click.option(
    "--model",
    help=f"folder, or id on huggingface.co  [default: a small one, trained once into {DEMO}]",
)


@click.group()
def plot() -> None:
    """Draw a picture of a model or of its training, as SVG or PNG.

    Pictures need matplotlib: pip install 'minibert[plot]'.
    """


def picture_options(command: Command) -> Command:
    """Where the picture goes, and on which background it is drawn."""
    return apply(
        command,
        (
            click.option(
                "-o", "--out", required=True, callback=picture_path, help="FILE.svg or FILE.png"
            ),
            click.option(
                "--ground",
                type=click.Choice(["white", "dark", "transparent"]),
                default="white",
                show_default=True,
                help="transparent can be read on white and on dark pages",
            ),
            click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout"),
        ),
    )


@plot.command()
@click.argument("text")
@a_model
@click.option("--layers", help="such as 1,3 or 2-4  [default: all]")
@click.option("--head", help="LAYER.HEAD, such as 2.3: only this head, large  [default: all]")
@picture_options
def attention(
    text: str, model: str | None, layers: str | None, head: str | None, **given: Any
) -> None:
    """Draw which token attends to which, in every head of every layer.

    A row belongs to a token that asks (a query), and sums to 1. If there is no room for the tokens,
    the heads are drawn small and without them; --head draws one with them. A tab in TEXT separates
    two sentences.

    \b
    Example
      minibert plot attention "the plot was not dull ." --model runs/distill -o attention.svg
    """
    first, second = sentences_of(text)
    shown, alone = _layers_and_head(layers, head)
    from minibert import pictures
    from minibert.picture_numbers import attention_shares

    shares = attention_shares(_model(model), first, second, shown)
    heads = [len(maps_NSR) for maps_NSR in shares.maps]
    if alone is None:
        draw, size = partial(pictures.draw_heads, shares=shares), pictures.size_of_heads(shares)
        drawn = [maps_NSR.tolist() for maps_NSR in shares.maps]
        said = counted(sum(heads), "head")
    else:
        if not 1 <= alone <= heads[0]:
            raise click.UsageError(
                f"--head {head}: layer {shares.layers[0]} has heads 1 to {heads[0]}"
            )
        draw = partial(pictures.draw_head, shares=shares, head=alone)
        size = pictures.size_of_head(shares)
        drawn = [[shares.maps[0][alone - 1].tolist()]]
        said = f"head {head}"
    facts = {
        "model": model or str(DEMO),
        "tokens": shares.tokens,
        "layers": shares.layers,
        "heads": heads,
        "head": head,
        "shares": drawn,
    }
    _save(draw, size, facts, f"{said}, {len(shares.tokens)} tokens", **given)


def _layers_and_head(layers: str | None, head: str | None) -> tuple[list[int] | None, int | None]:
    """The layers to draw, None for all, and the number of the head that is drawn alone.

    Raises
        click.UsageError  the values are not numbers, or both are given.
    """
    if head is None:
        return (None if layers is None else layer_numbers(layers)), None
    if layers is not None:
        raise click.UsageError("--head names its layer; leave out --layers")
    numbers = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", head)
    if numbers is None:
        raise click.UsageError(f"--head {head}: give LAYER.HEAD, such as 2.3")
    return [int(numbers[1])], int(numbers[2])


@plot.command()
@click.argument("words", nargs=-1)
@a_model
@picture_options
def embeddings(words: tuple[str, ...], model: str | None, **given: Any) -> None:
    """Draw where words lie in the word embedding table.

    The axes are the two directions along which the rows of the whole table differ most. Each word
    must be one piece of the vocabulary, as only pieces have rows. Without WORDS, some common ones
    are drawn, in groups.

    \b
    Example
      minibert plot embeddings good great bad awful not --model runs/distill -o words.svg
    """
    from minibert.picture_numbers import word_points
    from minibert.pictures import draw_points

    for word in words:
        check_utf8("a word", word)
    points = word_points(_model(model), words)
    count = sum(map(len, points.groups.values()))
    facts = {
        "model": model or str(DEMO),
        "variance": points.variance,
        "words": points.groups,
    }
    share = f"{sum(points.variance):.1%} of the variance"
    said = f"{counted(count, 'word')} on two axes with {share}"
    _save(partial(draw_points, points=points), (7.0, 5.6), facts, said, **given)


@plot.command()
@click.option(
    "--steps", type=click.IntRange(2, 10**9), default=1000, show_default=True, help="in total"
)
@click.option(
    "--warmup",
    type=Number(0, 1),
    default=0.1,
    show_default=True,
    help="share of the steps in which the learning rate rises",
)
@picture_options
def schedules(steps: int, warmup: float, **given: Any) -> None:
    """Draw the learning-rate schedules that --schedule offers.

    \b
    Example
      minibert plot schedules -o schedules.svg
    """
    from minibert.picture_numbers import schedules_over
    from minibert.pictures import WIDE, draw_schedules

    found = schedules_over(steps, warmup)
    lines = {
        name: list(zip(found.steps, factors, strict=True))
        for name, factors in found.factors.items()
    }
    facts = {"steps": steps, "warmup": found.warmup, "schedules": lines}
    draw = partial(draw_schedules, schedules=found)
    _save(draw, WIDE, facts, f"{len(found.factors)} schedules", **given)


@plot.command()
@picture_options
def adam(**given: Any) -> None:
    """Draw how long Adam's steps are, with bias correction and without.

    The gradient is constant; steps are measured in learning rates (see docs/chapters).

    \b
    Example
      minibert plot adam -o adam.svg
    """
    from minibert.picture_numbers import adam_lengths
    from minibert.pictures import WIDE, draw_adam

    lengths = adam_lengths()
    plain, corrected = lengths["google"], lengths["kingma"]
    longest = max(plain)
    step = plain.index(longest) + 1
    facts = {"longest": longest, "step": step, "without": plain, "with": corrected}
    said = f"without correction step {step} is {longest:.2f} learning rates long"
    draw = partial(draw_adam, plain=plain, corrected=corrected)
    _save(draw, WIDE, facts, said, **given)


@plot.command()
@click.argument("run")
@picture_options
def losses(run: str, **given: Any) -> None:
    """Draw the losses of a RUN: each term times its weight, and the scores on the dev set.

    RUN is a folder that minibert distill or finetune has written.

    \b
    Example
      minibert plot losses runs/distill -o losses.svg
    """
    from minibert.hub import model_folder
    from minibert.pictures import WIDE, draw_curves
    from minibert.training.curves import loss_curves

    folder = model_folder(Path(run))
    curves = loss_curves(folder, _options_of(folder))
    facts = {
        "run": run,
        "stages": curves.starts,
        "terms": curves.terms,
        "dev": curves.dev,
        "best": {name: max(score for _, score in line) for name, line in curves.dev.items()},
    }
    size = WIDE if curves.dev else (5.4, WIDE[1])
    said = f"losses {', '.join(curves.terms)}"
    _save(partial(draw_curves, curves=curves), size, facts, said, **given)


@plot.command()
@click.argument("run")
@click.option("--data", type=click.Path(), help="a labelled file, or its folder  [default: RUN's]")
@click.option("--task", type=click.Choice(TASKS), help="default: RUN's, or from the header")
@click.option("--teacher", help="folder or id of a model  [default: RUN's]")
@picture_options
def students(
    run: str, data: str | None, task: str | None, teacher: str | None, **given: Any
) -> None:
    """Draw the answers of a student against its teacher's, text by text.

    RUN is a folder that minibert distill has written. Both models are run again on the texts that
    the run was measured on, or on --data.

    \b
    Example
      minibert plot students runs/distill -o students.svg
    """
    from minibert.hub import model_folder
    from minibert.model import Bert
    from minibert.pictures import draw_answers
    from minibert.training.agreement import answers_beside

    folder = model_folder(Path(run))
    options = _options_of(folder)
    above = teacher or _teacher_of(folder, options)
    student = Bert.from_pretrained(folder)
    dataset = _texts(folder, options, data, task, student)
    most = min(options.get("max_length") or 128, student.config.max_position_embeddings)
    answers = answers_beside(Bert.from_pretrained(above), student, dataset, most)
    points = {
        name: [[x, y, count] for (x, y), count in answers.spots(same).items()]
        for name, same in (("agree", True), ("differ", False))
    }
    facts = {
        "run": run,
        "teacher": str(above),
        "data": str(dataset.path),
        "n": len(dataset),
        "agree": sum(answers.agree_X),
        "corners": {
            words.replace("\n", " "): count for count, words in answers.corners.values()
        },
        "points": points,
    }
    said = f"they agree on {facts['agree']:,} of {counted(len(dataset), 'text')}"
    _save(partial(draw_answers, answers=answers), (5.4, 5.6), facts, said, **given)


def _save(
    draw: Callable[[Any], None],
    size: tuple[float, float],
    facts: Mapping[str, Any],
    said: str,
    out: str,
    ground: str,
    as_json: bool,
) -> None:
    """Write the picture, and print what is in it."""
    from minibert.pictures import picture
    from minibert.writing import whole_file

    content = picture(draw, size, Path(out).suffix, ground)
    with whole_file(Path(out)) as staged:
        staged.write_bytes(content)
    facts = _in_four_digits(facts) if as_json else {}
    print_result({"picture": out, "bytes": len(content), **facts}, as_json, [f"{out}: {said}"])


def _in_four_digits(value: Any) -> Any:
    """The same, with every number that is not whole rounded to four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _in_four_digits(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_in_four_digits(part) for part in value]
    return value


def _model(name: str | None) -> "Bert":
    from minibert.model import Bert

    return small_model() if name is None else Bert.from_pretrained(name)


def _options_of(folder: Path) -> dict[str, Any]:
    """The options of a run; none if the folder does not hold them."""
    from minibert.files import read_json
    from minibert.training.runs import OPTIONS_FILE

    path = folder / OPTIONS_FILE
    return read_json(path) if path.exists() else {}


def _teacher_of(folder: Path, options: Mapping[str, Any]) -> str | Path:
    """The teacher of a run; for the demo, a folder inside it.

    Raises
        click.UsageError  it is not known.
        CheckpointError   it is not there.
    """
    from minibert.config import CheckpointError
    from minibert.hub import model_folder

    if not options.get("teacher"):
        if (folder / "teacher").is_dir():
            return folder / "teacher"
        raise click.UsageError(f"{folder} does not name its teacher; give --teacher")
    name = str(options["teacher"])
    try:
        model_folder(name)
    except CheckpointError as error:
        raise CheckpointError(f"the teacher of {folder}: {error}; give --teacher") from None
    return name


def _texts(
    folder: Path, options: Mapping[str, Any], data: str | None, task: str | None, student: "Bert"
) -> "Dataset":
    """The labelled texts that a run was measured on, or others.

    Raises
        click.UsageError  they are not known.
        DataError         they are not there, or do not fit.
    """
    from minibert.data.readers import DataError, find_split, read_dataset
    from minibert.training.evaluation import label_names_for

    own = folder / "held_out.tsv"  # of the demo, which has no teacher but its own
    is_demo = own.exists() and not options.get("teacher")
    known = data or (own if is_demo else options.get("dev") or options.get("data"))
    if known is None:
        raise click.UsageError(f"{folder} does not say what it was measured on; give --data")
    if data is None and not Path(known).exists():
        raise DataError(f"{known}, on which {folder} was measured, is not there; give --data")
    task = task or (None if is_demo and data is None else options.get("task"))
    return read_dataset(find_split(known, "dev"), task, label_names_for(student, task))
