"""`minibert exercise`: functions of the book to write, and the laws that judge them."""

import shlex
from pathlib import Path
from typing import Any

import click

from minibert.cli.options import Number, print_result
from minibert.exercises import (
    EXERCISES,
    FOLDER,
    about,
    judged,
    lines_of,
    mark_passed,
    state_of,
    to_write,
)
from minibert.writing import whole_file

NAMES = list(EXERCISES)  # in reading order


class Exercise(click.ParamType):
    """The name of an exercise."""

    name = "name"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        from minibert.cli.verify import nearest

        if value not in EXERCISES:
            hint = nearest(value, NAMES) or "; `minibert exercise list` has them all"
            self.fail(f"there is no exercise {value!r}{hint}", param, ctx)
        return value


named = click.argument("name", type=Exercise())
in_folder = click.option(
    "--out", default=FOLDER, show_default=True, metavar="DIR", help="the folder of the answers"
)
as_document = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")


@click.group()
def exercise() -> None:
    """Write functions of the book; laws judge them.

    An exercise is one function with its docstring and without its body. The laws of the function
    say whether an answer is right, and if not, which law fails and on which numbers. The solutions
    are the book. Each of the commands below has --json.

    \b
    Example
      minibert exercise start softmax
    """


@exercise.command("list")
@in_folder
@as_document
def list_exercises(out: str, as_json: bool) -> None:
    """Show all exercises in reading order, and which are started or pass.

    LINES counts the lines of the body in the book: roughly how hard it is. An answer that passed
    counts as passed until its file is changed.

    \b
    Example
      minibert exercise list
    """
    from minibert.laws.answers import proofs_of

    rows = [
        {
            "name": name,
            "module": module,
            "about": about(name),
            "laws": sum(len(proof.laws) for proof in proofs_of(name)),
            "lines": lines_of(name),
            "state": state_of(name, Path(out)),
        }
        for name, module in EXERCISES.items()
    ]
    width = max(map(len, NAMES))
    lines = [f"{'name':<{width}}  module        laws  lines  state    about"]
    lines += [
        f"{row['name']:<{width}}  {row['module']:<12}  {row['laws']:>4}  {row['lines']:>5}  "
        f"{row['state'] or '-':<7}  {row['about']}"
        for row in rows
    ]
    passed = sum(row["state"] == "passes" for row in rows)
    further = _next(out)
    todo = f"; {_command('start', further, out)}" if further else ""
    lines += ["", f"{passed} of {len(rows)} pass{todo}"]
    print_result({"out": out, "exercises": rows}, as_json, lines)


@exercise.command()
@named
@in_folder
@click.option("--overwrite", is_flag=True, help="start over; the existing answer is lost")
@as_document
def start(name: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Write the file of an exercise, DIR/NAME.py, for you to complete.

    It has the signature, the docstring with the formula, and imports of what the book uses for it.

    \b
    Example
      minibert exercise start softmax
    """
    path = Path(out) / f"{name}.py"
    if path.exists() and not overwrite:
        raise click.UsageError(f"{path} already exists; --overwrite starts over")
    command = _command("check", name, out)
    with whole_file(path) as staged:
        staged.write_text(to_write(name, command), encoding="utf-8")
    line = f"wrote {path}: replace its last line with the body, then run {command}"
    print_result({"exercise": name, "file": str(path), "next": command}, as_json, [line])


@exercise.command()
@named
@in_folder
@click.option("--cases", type=click.IntRange(1), default=20, show_default=True, help="for each law")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--seconds", type=Number(0, 10**6, min_open=True), default=60.0, show_default=True,
    help="time limit for each law; then the answer is stopped",
)  # fmt: skip
@as_document
def check(name: str, out: str, cases: int, seed: int, seconds: float, as_json: bool) -> None:
    """Try every law of an exercise on your answer, DIR/NAME.py.

    A law that fails is shown with the smallest case that it fails on: what went into your function,
    what came out, and what was expected, if the law tells it. If the numbers are those of a known
    mistake, that mistake is named. The answer runs in a process of its own. Exit code 1 if a law
    does not hold, 3 if the file cannot be used.

    \b
    Example
      minibert exercise check softmax
    """
    path = Path(out) / f"{name}.py"
    found = judged(name, path, cases, seed, seconds)
    passes = all(law["holds"] for law in found["laws"])
    if passes:
        mark_passed(name, Path(out))
    upcoming = _next(out) if passes else None
    result = {"exercise": name, "file": str(path), "seed": seed, "passes": passes}
    result |= found | {"next": _command("start", upcoming, out) if upcoming else None}
    print_result(result, as_json, _lines(result))
    if not passes:
        raise click.exceptions.Exit(1)


def _next(out: str) -> str | None:
    """The first exercise in reading order that does not pass."""
    return next((name for name in NAMES if state_of(name, Path(out)) != "passes"), None)


def _command(action: str, name: str, out: str) -> str:
    place = shlex.quote(Path(out).as_posix())  # no backslash: it stands in a docstring
    return f"minibert exercise {action} {name}" + (f" --out {place}" if out != FOLDER else "")


def _lines(result: dict[str, Any]) -> list[str]:
    laws, name = result["laws"], result["exercise"]
    lines = [line for law in laws for line in _lines_of_law(law)]
    failed = sum(not law["holds"] for law in laws)
    if not failed:
        upcoming = result["next"] or "that was the last exercise"
        return [*lines, f"\nEvery one of the {len(laws)} laws of {name} holds. Next: {upcoming}"]
    lines += [f"\n{failed} of the {len(laws)} laws of {name} fail{'s' if failed == 1 else ''}"]
    mistake = result["mistake"]
    if mistake:
        words = f": {mistake['words']}" if mistake["words"] else ""
        this = "this is" if mistake["exactly"] else "these are the numbers of"
        lines.append(f"{this} the known mistake {mistake['name']}{words}")
        lines += [f"seen in {mistake['source']}"] if mistake["source"] else []
    return lines


def _lines_of_law(law: dict[str, Any]) -> list[str]:
    if law["holds"]:
        return [f"holds  {law['words']}"]
    size = law["problem"] or f"error {_number(law['error'])}, bound {_number(law['bound'])}"
    lines = [f"FAILS  {law['words']}: {size}"]
    lines += [f"       {law['note']}"] if law["note"] else []
    case = law["case"]
    rows = case["inputs"] | {"came out": case["came_out"]}
    rows |= {"expected": case["expected"]} if case["expected"] is not None else {}
    width = max(map(len, rows))
    for key, text in rows.items():
        lines.append(_in_rows(f"         {key:<{width}}  {text}"))
    return lines


def _in_rows(line: str) -> str:
    """A tensor that is too wide for a screen, one row below the other."""
    rows = line.split("], [")
    indent = " " * rows[0].rfind("[")
    return line if len(line) <= 100 or "(" in line else f"],\n{indent}[".join(rows)


def _number(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.2g}"
