"""Exercises: functions of the book without their bodies, for a reader to write; laws judge them.

An answer is a file of its own, DIR/NAME.py, with the signature and the docstring of the book and
imports of all that the book's own body uses. The solutions are the book. Nothing here needs torch.

An answer is tried in a process of its own: only a process can be stopped on every system during
an endless loop, and a crash, an exit or a print in it does no harm here.
"""

import ast
import hashlib
import json
import multiprocessing
import os
import re
import signal
import textwrap
import threading
from doctest import DocTestParser
from functools import cache
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType
from typing import Any

from minibert.writing import whole_file

EXERCISES = {
    name: module
    for module, names in {
        "functional": "softmax log_softmax gelu_erf layer_norm dropout",
        "attention": "split_heads padding_bias causal_bias attention_scores "
        "attention_probabilities attend",
        "encoder": "embeddings feed_forward block",
        "heads": "mlm_logits",
        "losses": "cross_entropy kl_divergence soft_cross_entropy",
        "matching": "hidden_loss attention_loss relation_loss prediction_loss",
        "distillation": "layer_map distillation_loss",
        "optim": "adam_step clip_by_global_norm linear_schedule",
        "sparsity": "keep_n_of_m",
        "quantization": "quantized_rows",
        "masking": "replaced_tokens",
        "wordpiece": "longest_match",
        "decoder": "decoder_block",
        "search": "greedy_search beam_search",
    }.items()
    for name in names.split()
}
FOLDER = "exercises"
PASSED_FILE = "passed.json"


class AnswerError(ValueError):
    """The file of an answer is missing, or is no answer."""

    exit_code = 3


class AnswerFailed(RuntimeError):
    """An answer that no law can judge: it is not written yet, or did not finish."""

    exit_code = 1


# ------------------------------------------------------------------------------ what is to be done


@cache
def _source(name: str) -> tuple[str, ast.Module]:
    text = (Path(__file__).parent / f"{EXERCISES[name]}.py").read_text(encoding="utf-8")
    return text, ast.parse(text)


def _function(name: str) -> ast.FunctionDef:
    body = _source(name)[1].body
    return next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)


def about(name: str) -> str:
    """The first line of the docstring."""
    return (ast.get_docstring(_function(name)) or "").partition("\n")[0]


def solution(name: str) -> str:
    """The body in the book, without the docstring."""
    function = _function(name)
    lines = _source(name)[0].splitlines(keepends=True)
    return "".join(lines[function.body[0].end_lineno : function.end_lineno])


def lines_of(name: str) -> int:
    """How many lines of code the book needs: roughly how hard it is."""
    lines = (line.strip() for line in solution(name).splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def placeholder(name: str) -> str:
    """The line in the place of the solution."""
    return f'    raise NotImplementedError("write the body of {name}")\n'


def to_write(name: str, command: str) -> str:
    """The file that a reader starts from; `command` checks it."""
    function = _function(name)
    lines = _source(name)[0].splitlines(keepends=True)
    head = "".join(lines[function.lineno - 1 : function.body[0].end_lineno])
    return (
        f'"""An exercise: {name}, of minibert/{EXERCISES[name]}.py.\n\n'
        f"Replace the last line with the body, then try it:\n\n    {command}\n\n"
        'The solution is the book itself.\n"""\n\n'
        f"{_imports(name)}\n\n\n{head}{placeholder(name)}"
    )


def _imports(name: str) -> str:
    """The module's imports that the function and its examples use, and names defined in it."""
    function, (_, module) = _function(name), _source(name)
    used = _names(function)
    for example in DocTestParser().get_examples(ast.get_docstring(function) or ""):
        used |= _names(ast.parse(example.source))
    lines = []
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias for alias in node.names if (alias.asname or alias.name) in used]
            line = f"import {', '.join(map(ast.unparse, names))}"
            if isinstance(node, ast.ImportFrom):
                line = f"from {node.module} {line}"
            lines += [line] if names else []
    own = ", ".join(sorted((_defined(module) & used) - {name}))
    lines += [f"from minibert.{EXERCISES[name]} import {own}"] if own else []
    groups = groupby(map(_folded, lines), lambda line: re.findall("^.*? (torch|minibert)", line))
    return "\n\n".join("\n".join(group) for _, group in groups)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _defined(module: ast.Module) -> set[str]:
    """The functions, classes and constants of a module."""
    found = {n.name for n in module.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= set().union(*map(_names, targets))
    return found


def _folded(line: str) -> str:
    """An import within 100 columns."""
    if len(line) <= 100:
        return line
    head, _, names = line.partition(" import ")
    return f"{head} import (\n{textwrap.fill(names, 96, **INDENTED)},\n)"


INDENTED: Any = {"initial_indent": "    ", "subsequent_indent": "    "}


# --------------------------------------------------------------------------------- what was done


def state_of(name: str, folder: Path) -> str:
    """`passes` for a file that passed and has not been changed since."""
    path = folder / f"{name}.py"
    if not path.is_file():
        return ""
    return "passes" if _passed(folder).get(name) == _hash(path) else "started"


def mark_passed(name: str, folder: Path) -> None:
    """Remember that the file passes as it is now."""
    passed = _passed(folder) | {name: _hash(folder / f"{name}.py")}
    with whole_file(folder / PASSED_FILE) as staged:
        staged.write_text(json.dumps(passed, indent=1) + "\n", encoding="utf-8")


def _passed(folder: Path) -> dict[str, str]:
    try:
        passed = json.loads((folder / PASSED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no answer is lost with it: the next check writes a new one
        return {}
    return passed if isinstance(passed, dict) else {}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------------- the process that tries it


def code_of(path: Path, name: str) -> CodeType:
    """The compiled file of an answer.

    Raises
        AnswerError  the file is missing, or is no Python.
    """
    try:
        return compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        hint = f"minibert exercise start {name} writes it"
        raise AnswerError(f"{path}: {error.strerror}; {hint}") from None
    except SyntaxError as error:
        raise AnswerError(f"{path}: line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # a null byte
        raise AnswerError(f"{path}: {error}") from None


def judged(name: str, path: Path, cases: int, seed: int, seconds: float) -> dict[str, Any]:
    """How the laws judge an answer: `laws`, one document each, and the `mistake` that it makes.

    Raises
        AnswerError   the file is missing, does not load, or defines no such function.
        AnswerFailed  the body is not written, one law took longer than `seconds`, or the process
                      ended.
    """
    code_of(path, name)  # reports at once what it can
    context = multiprocessing.get_context("spawn")  # the only way that every system offers
    receiver, sender = context.Pipe(duplex=False)
    work = (sender, name, str(path), cases, seed)
    process = context.Process(target=_try_answer, args=work, daemon=True)
    process.start()
    sender.close()  # so that EOF tells that the process has ended
    found: dict[str, Any] = {"laws": []}
    limit: float | None
    doing, limit = "nothing was done yet", None  # no limit while it starts
    try:
        while receiver.poll(limit):
            limit = seconds
            kind, value = receiver.recv()
            if kind == "doing":
                doing = value
            elif kind == "law":
                found["laws"].append(value)
            elif kind == "refused":
                raise value
            else:
                return found | {"mistake": value}
    except EOFError:
        raise AnswerFailed(f"{path}: it ended the process while {doing}") from None
    finally:
        process.kill()
        process.join()
    raise AnswerFailed(
        f"{path}: stopped after {seconds:g} seconds, while {doing}; is a loop endless? "
        "--seconds gives it more time"
    )


def _try_answer(sender: Connection, name: str, path: str, cases: int, seed: int) -> None:
    """In the child process: send the findings one by one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the command, and that stops us
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    os.dup2(2, 1)  # what an answer prints is no result
    import torch

    from minibert.laws.answers import judge

    torch.set_num_threads(1)  # small tensors gain nothing from more
    try:
        for message in judge(name, path, cases, seed):
            sender.send(message)
    except (AnswerError, AnswerFailed) as error:
        sender.send(("refused", error))


def _end_with_the_command() -> None:
    command = multiprocessing.parent_process()
    if command is not None:
        command.join()
        os._exit(1)
