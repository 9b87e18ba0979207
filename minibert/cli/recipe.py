"""Recipes: the options of a command in a flat TOML file, so that an experiment can be repeated.

A key is the name of an option with underscores; what the command line says wins over the file.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import click

from minibert.cli.options import ELSEWHERE, HEADINGS

# Not part of a recipe: those options, and the ones about the machine.
APART = ELSEWHERE | {"threads", "device", "arithmetic", "help"}


def load_recipe(
    context: click.Context, parameter: click.Parameter, path: str | None
) -> str | None:
    """Make the values of a recipe the defaults of the command; called before other options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"--recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--recipe {path}: {error}") from None
    known = {option.name: option for option in context.command.params}
    for key, value in values.items():
        if key not in known or key in ("recipe", "print_recipe"):
            raise click.UsageError(f"--recipe {path}: {context.info_name} has no option {key!r}")
        if isinstance(value, dict):
            raise click.UsageError(f"--recipe {path}: {key} is a table, but recipes are flat")
        wanted = _kind_of(known[key])
        if type(value) not in wanted:  # click would take 1.7 for 1, and true for 1.0
            names = " or ".join(KINDS[kind] for kind in wanted)
            raise click.UsageError(f"--recipe {path}: {key} = {value!r}, but must be {names}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


PLAIN = (bool, int, float, str)  # click has an object of its own for "no default"
KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
    str: "a text",
}


def _kind_of(option: click.Parameter) -> tuple[type, ...]:
    """The types of TOML that an option takes."""
    if getattr(option, "multiple", False):
        return (list,)
    if isinstance(option.type, click.types.BoolParamType):
        return (bool,)
    if isinstance(option.type, click.IntRange):
        return (int,)
    return (float, int) if isinstance(option.type, click.FloatRange) else (str,)


def defaults_of(context: click.Context) -> dict[str, Any]:
    """The defaults of the command's options; None for an option without one."""
    return {
        str(option.name): default if isinstance(default := option.default, PLAIN) else None
        for option in context.command.params
    }


def recipe_of(context: click.Context) -> dict[str, Any]:
    """The options that decide the result of this call, except the seed: for a row of results."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in context.params.items()
        if key not in APART | {"seed", "teacher", "data", "dev"} and value not in (None, ())
    }


def printed_recipe(context: click.Context) -> str:
    """The options as a TOML file, each with its help; one without a value is a comment."""
    lines = [f"# minibert {context.info_name} --recipe THIS_FILE"]
    heading = written = ""
    for option in context.command.params:
        name = str(option.name)
        heading = HEADINGS.get(name, heading)
        if name in APART or not isinstance(option, click.Option):
            continue
        if heading != written:
            lines += ["", f"# --- {heading} ---"]
            written = heading
        value = context.params[name]
        if option.help:
            lines.append(f"# {option.help.replace(chr(8), '')}")
        if value is None or value == ():
            lines.append(f"# {name} =")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            lines.append(f"{name} = {json.dumps(plain, ensure_ascii=False)}")
    return "\n".join(lines)
