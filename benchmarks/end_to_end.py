"""One epoch of SST-2 from the command to the accuracy: `minibert finetune` against transformers.

    python benchmarks/end_to_end.py --model DIR --data DIR [--rows N] [--rounds N] [--threads N]

Each side is a process of its own and gets the same model, sentences, batch size (32), maximum
length (128), learning rate (5e-5, linear, a tenth of it warm-up), AdamW, clipping at 1, dropout,
bfloat16 and threads; the other side is `transformers_finetune.py`. They take turns, and alternate
in going first. The model's `config.json` must have no classifier: both sides draw a new one.

"whole" is the time of the process: imports, loading, tokenizing, training, evaluation, and for
minibert also saving the model and the state from which a run resumes. "loop" is training and
evaluation alone, so that a short run with `--rows` does not just compare imports.

Idle threads of a `minibert` command check for work 10,000 times before they sleep, those of plain
torch much longer. If another program wants the cores, the other side then becomes many times
slower, which says nothing: measure on a quiet machine, or set OMP_WAIT_POLICY=PASSIVE for both.
"""

import argparse
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

RIVAL = Path(__file__).with_name("transformers_finetune.py")


class Run(NamedTuple):
    """The seconds that one side took, and the accuracy of its model on dev."""

    whole: float
    loop: float
    accuracy: float


class Work(NamedTuple):
    """What both sides have to do."""

    model: str
    data: Path
    threads: int
    seed: int

    @property
    def options(self) -> list[str]:
        """The options that both commands understand."""
        return [f"--{name}={value}" for name, value in self._asdict().items()]


def output_of(command: list[str]) -> tuple[dict[str, Any], float]:
    """The JSON document that a command prints, and the seconds that it took.

    Raises
        SystemExit  the command failed; its output is repeated.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), seconds


def minibert_run(work: Work) -> Run:
    """`minibert finetune`."""
    program = shutil.which("minibert", path=Path(sys.executable).parent)
    assert program is not None, "pip install -e . puts it beside python"
    more = "--task sst2 --epochs 1 --dtype bfloat16 --json --overwrite".split()
    with tempfile.TemporaryDirectory() as out:
        command = [program, "finetune", *work.options, *more, "--out", out]
        result, whole = output_of(command)
        last_row = Path(out, "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return Run(whole, json.loads(last_row)["seconds"], result["metrics"]["accuracy"])


def transformers_run(work: Work) -> Run:
    """The plain loop."""
    result, whole = output_of([sys.executable, str(RIVAL), *work.options])
    return Run(whole, result["seconds"], result["accuracy"])


SIDES: dict[str, Callable[[Work], Run]] = {
    "minibert": minibert_run,
    "transformers": transformers_run,
}


def first_rows(data: Path, rows: int | None, folder: Path) -> Path:
    """A folder with the first rows of the training file, and dev as it is."""
    with open(data / "train.tsv", encoding="utf-8", newline="\n") as file:
        lines = list(itertools.islice(file, None if rows is None else rows + 1))
    (folder / "train.tsv").write_text("".join(lines), encoding="utf-8", newline="\n")
    shutil.copy(data / "dev.tsv", folder / "dev.tsv")
    return folder


def table(runs: dict[str, list[Run]]) -> str:
    """Medians of each side, its fastest and slowest run, and how many times faster minibert is."""
    lines = [f"{'':14}{'whole, s':>20}{'loop, s':>20}  dev accuracy of each run"]
    medians: dict[str, list[float]] = {}
    for side, done in runs.items():
        columns = [sorted(run[i] for run in done) for i in (0, 1)]
        medians[side] = [statistics.median(times) for times in columns]
        cells = [
            f"{median:.1f} ({times[0]:.1f}–{times[-1]:.1f})"
            for median, times in zip(medians[side], columns, strict=True)
        ]
        accuracies = " ".join(f"{run.accuracy:.4f}" for run in done)
        lines.append(f"{side:14}{cells[0]:>20}{cells[1]:>20}  {accuracies}")
    ratios = [
        f"{theirs / ours:.2f}x"
        for ours, theirs in zip(medians["minibert"], medians["transformers"], strict=True)
    ]
    return "\n".join([*lines, f"{'faster':14}{ratios[0]:>20}{ratios[1]:>20}"])


def main() -> None:
    """Run both sides in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", required=True, type=Path, help="folder with train.tsv, dev.tsv")
    parser.add_argument("--rows", type=int, help="the first N training rows  [default: all]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0, help="of the first round; then 1 more")
    args = parser.parse_args()
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        data = first_rows(args.data, args.rows, Path(name))
        for count in range(args.rounds):
            work = Work(args.model, data, args.threads, args.seed + count)
            for side in list(SIDES)[:: -1 if count % 2 else 1]:
                runs[side].append(SIDES[side](work))
                print(f"round {count + 1}, {side}: {runs[side][-1]}", file=sys.stderr)
    print(table(runs))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    rows = "all rows" if args.rows is None else f"{args.rows:,} rows"
    print(f"{rows}, {args.threads} threads, Python {platform.python_version()}, {libraries}")


if __name__ == "__main__":
    main()
