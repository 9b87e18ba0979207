"""`minibert explain`: one page that shows a model at work on a text."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minibert.cli.options import check_utf8, print_result

if TYPE_CHECKING:
    from minibert.model import Bert

DEMO = Path("runs/explain")


@click.command()
@click.argument("text")
@click.option(
    "--model",
    help=f"folder, or id on huggingface.co  [default: a small one, trained once into {DEMO}]",
)
@click.option("-o", "--out", default="page.html", show_default=True, help="the file to write")
@click.option("--teacher", help="folder or id of a model to show beside it, layer by layer")
@click.option("--layers", help="layers that can be opened, such as 1,3 or 2-4  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def explain(
    text: str, model: str | None, out: str, teacher: str | None, layers: str | None, as_json: bool
) -> None:
    """Show on one page how a model reads TEXT.

    The page is a single file for a browser; it needs no network. It shows pieces, every head of
    every layer, and one head step by step, down to each sum of products and its line in the book;
    with a masked-word head also the words that the model expects. If the model is small, it is
    in the page itself: you can type another text and hide words. A tab in TEXT separates two
    sentences.

    \b
    Example
      minibert explain "[MASK] but marta said that the plot was dull ." -o page.html
    """
    first, second = sentences_of(text)
    opened = None if layers is None else layer_numbers(layers)
    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise click.UsageError(f"-o {out}: the name must end in .html")
    if not path.resolve().parent.is_dir():
        raise click.UsageError(f"-o {out}: there is no such folder")
    from minibert.explain.making import explained
    from minibert.hub import model_folder
    from minibert.model import Bert
    from minibert.writing import whole_file

    run = DEMO if model is None else model_folder(model)
    bert = small_model() if model is None else Bert.from_pretrained(run)
    above = None if teacher is None else Bert.from_pretrained(teacher)
    names = (model or str(DEMO), teacher or "")
    command = shlex.join(["minibert", *sys.argv[1:]])
    content, reading = explained(bert, first, second, opened, above, run, names, command)
    with whole_file(path) as staged:
        staged.write_text(content, encoding="utf-8", newline="\n")
    size = len(content.encode())
    facts = reading.facts
    result = {
        "page": str(path),
        "bytes": size,
        "model": names[0],
        "tokens": [token["piece"] for token in facts["tokens"]],
        "layers": facts["opened"],
        "words": facts["words"] is not None,
        "live": facts["live"]["why"] is None,
        "teacher": teacher,
    }
    said = "" if result["words"] else "; the model has no masked-word head, so it names no words"
    print_result(result, as_json, [f"{path}, {size / 1e6:.2f} MB: open it in a browser{said}"])


def sentences_of(text: str) -> tuple[str, str | None]:
    """One sentence, or the two that a tab separates.

    Raises
        click.UsageError  one is empty, there are more than two, or the text is not UTF-8.
    """
    parts = text.split("\t")
    if len(parts) > 2:
        raise click.UsageError(f"TEXT holds {len(parts) - 1} tabs; at most one is allowed")
    if not all(part.strip() for part in parts):
        raise click.UsageError("TEXT is empty, or one of its two sentences is; give words to read")
    check_utf8("TEXT", text)
    return parts[0], parts[1] if len(parts) == 2 else None


def layer_numbers(layers: str) -> list[int]:
    """1,3 or 2-4 as numbers.

    Raises
        click.UsageError  it is neither.
    """
    found: list[int] = []
    for part in layers.split(","):
        low, _, high = part.strip().partition("-")
        figures = low + (high or low)
        if not (low and figures.isascii() and figures.isdecimal() and len(low + high) < 7):
            raise click.UsageError(f"--layers {layers}: give numbers such as 1,3 or 2-4")
        found += range(int(low), int(high or low) + 1)
    if not found:
        raise click.UsageError(f"--layers {layers}: it names no layer")
    return found


def small_model() -> "Bert":
    """The small model, trained if it is not there yet."""
    import torch

    from minibert.explain.demo import train_demo
    from minibert.model import Bert
    from minibert.training.loop import Interrupted
    from minibert.training.progress import Display
    from minibert.training.runs import OPTIONS_FILE, RESULT_FILE, open_run

    if (DEMO / RESULT_FILE).exists():
        return Bert.from_pretrained(DEMO)
    begun = (DEMO / OPTIONS_FILE).exists()
    if DEMO.exists() and any(DEMO.iterdir()) and not begun:
        raise click.UsageError(
            f"{DEMO} holds files that no run wrote, so the small model cannot be kept there; move "
            "them, or name a --model"
        )
    try:
        DEMO.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{DEMO} cannot be made here: {error.strerror}; run this in a folder where you can "
            "write, or name a --model"
        ) from None
    display = Display()
    display.say(f"a small model learns to name masked words in reviews; kept in {DEMO}")
    torch.set_num_threads(1)  # its matrices are so small that sharing them costs time
    with open_run(DEMO, {"command": "explain"}, begun, False):
        try:
            return train_demo(DEMO, 0, display)
        except Interrupted as stopped:
            stopped.args = (f"stopped, and saved in {DEMO}; the same command resumes",)
            raise
