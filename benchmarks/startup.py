"""How long `minibert` takes to answer, in a fresh process.

    python benchmarks/startup.py [--model DIR]... [--rounds N]

Without --model, two models get random weights: a student of 4 layers, 128 wide, and BERT-base.
Every round starts each command once, so that a busy moment of the machine hits them all; the first
round, which fills the disk cache, does not count. Anything that computes with torch has to import
it, so the last column is what a command needs beyond that.
"""

import argparse
import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minibert import Bert, BertConfig
from minibert.data.tokenizer import Tokenizer
from minibert.wordpiece import SPECIALS

TEXT = "a film to fall in love with"
WORDS = (*SPECIALS, *TEXT.split(), *(f"word{i}" for i in range(30_511)))
LABELS = ("negative", "positive")


@contextmanager
def drawn_models() -> Iterator[dict[str, Path]]:
    """Folders with two classifiers of random weights, and a vocabulary of BERT's size."""
    tokenizer = Tokenizer.from_vocabulary(WORDS)
    base = BertConfig(vocab_size=len(WORDS)).with_labels(LABELS, "single_label_classification")
    student = dataclasses.replace(
        base,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
    )
    with tempfile.TemporaryDirectory() as name:
        folders = {"student": Path(name, "student"), "BERT-base": Path(name, "base")}
        for folder, config in zip(folders.values(), (student, base), strict=True):
            Bert.from_config(config, "classification", tokenizer).save_pretrained(folder)
        yield folders


@contextmanager
def named_models(folders: list[str]) -> Iterator[dict[str, Path]]:
    """The folders that were named."""
    yield {folder: Path(folder) for folder in folders}


def seconds_of(command: list[str]) -> float:
    """How long a command takes; its output is dropped.

    Raises
        CalledProcessError  the command failed.
    """
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measured(commands: Mapping[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every command in every round, sorted."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for count in range(rounds + 1):
        for name, command in commands.items():
            took = seconds_of(command)
            if count:
                seconds[name].append(took)
    return {name: sorted(times) for name, times in seconds.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", help="folder of a classifier; repeatable")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    program = shutil.which("minibert", path=Path(sys.executable).parent)
    if program is None:
        parser.error(f"there is no minibert beside {sys.executable}; install it with pip first")
    with named_models(args.model) if args.model else drawn_models() as models:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "minibert --help": [program, "--help"],
        }
        for name, folder in models.items():
            commands[f"minibert predict, {name}"] = [
                program, "predict", "--model", str(folder), TEXT
            ]  # fmt: skip
        seconds = measured(commands, args.rounds)
    torch_alone = statistics.median(seconds["python -c 'import torch'"])
    width = max(map(len, commands))
    print(f"{'':{width}}  median  fastest  slowest  beyond torch   ({args.rounds} rounds, seconds)")
    for name, times in seconds.items():
        median = statistics.median(times)
        row = f"{name:{width}}  {median:6.2f}  {times[0]:7.2f}  {times[-1]:7.2f}"
        print(f"{row}  {median - torch_alone:12.2f}" if "predict" in name else row)


if __name__ == "__main__":
    main()
