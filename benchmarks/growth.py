"""How the cost of BERT grows: time and memory against length, batch, layers and width.

    python benchmarks/growth.py [--rounds N] [--threads N] [--dtype bfloat16] [--out DIR]

From a base point, one size at a time varies in powers of two. Measured at each point, on minibert's
kernels: a forward pass, and a training step (dropout, gradients, clipping, AdamW). All points are
timed in interleaved rounds; the median counts. A point's memory is the peak of a process of its
own, above what it held before the weights existed: weights, states, gradients, moments.

On logarithmic axes a cost that grows like a power is a straight line, and its slope is the power;
the table has the slope of a least-squares line through all points, that of the last doubling,
where constant costs weigh least, and the same two for the operation count. Writes growth.json
and growth.svg, which `growth_chart.py` draws from it. The vocabulary has only 1,000 words, so that
the word embedding table plays no part.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from minibert.bench import memory
from minibert.bench.arithmetic import operations
from minibert.bench.cases import Case, Choices, Work, work_of
from minibert.bench.engines import ENGINES
from minibert.bench.inputs import Sentences
from minibert.bench.turns import spread, timed
from minibert.cli.machine import keep_memory
from minibert.config import BertConfig

HEAD_WIDTH = 64
TURN = 0.1  # seconds that a point is repeated in each round, if one call is shorter
ENGINE_OF = {"forward": "kernels", "step": "step"}
# For each product of the forward pass, the backward pass needs two, for the two gradients.
PASSES = {"forward": 1, "step": 3}


class Point(NamedTuple):
    """The four sizes that grow."""

    length: int = 128
    batch: int = 8
    layers: int = 4
    width: int = 256

    @property
    def config(self) -> BertConfig:
        """A model of these sizes; heads stay 64 wide, as in every published BERT."""
        return BertConfig(
            vocab_size=1000,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // HEAD_WIDTH,
            intermediate_size=4 * self.width,
        )


BASE = Point()
SWEEPS = {
    "length": (32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "layers": (1, 2, 4, 8, 16),
    "width": (64, 128, 256, 512, 1024),
}


def points_of(axis: str) -> list[Point]:
    """The base point with each value of one size."""
    return [BASE._replace(**{axis: value}) for value in SWEEPS[axis]]


def work_at(point: Point, dtype: torch.dtype, threads: int) -> Work:
    """Random weights and sentences of these sizes."""
    sentences = Sentences(point.batch, point.batch, length=point.length)
    case = Case("growth", "", point.config, sentences, dtype=dtype)
    return work_of(case, Choices(threads), Path(tempfile.gettempdir()))


def named(point: Point, name: str) -> str:
    """The key of one measurement."""
    return f"{name} at {point}"


def times_of(points: Sequence[Point], args: argparse.Namespace) -> dict[str, Any]:
    """Lower quartile, median and upper quartile of the seconds of each point and pass."""
    runs = {}
    for point in points:
        work = work_at(point, getattr(torch, args.dtype), args.threads)
        for name, engine in ENGINE_OF.items():
            runs[named(point, name)] = ENGINES[engine].prepare(work).run
    return {key: spread(times) for key, times in timed(runs, args.rounds, TURN).items()}


def peak_of(point: Point, name: str, args: argparse.Namespace) -> int | None:
    """Bytes of one pass in a process of its own; None where they cannot be measured."""
    if not memory.FORGET.exists():
        return None
    request = json.dumps([point, name, args.dtype, args.threads])
    command = [sys.executable, __file__, "--one", request]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def print_peak(request: str) -> None:
    """Measure one pass in this process, and print its peak."""
    sizes, name, dtype, threads = json.loads(request)
    torch.set_num_threads(threads)
    engine = ENGINES[ENGINE_OF[name]]
    # A tiny model first, so that what libraries load at the first call is not counted.
    engine.prepare(work_at(Point(8, 1, 1, 64), getattr(torch, dtype), threads)).run()
    memory.give_back()
    before = memory.status("VmRSS")
    prepared = engine.prepare(work_at(Point(*sizes), getattr(torch, dtype), threads))
    memory.give_back()  # what drawing the weights took
    memory.FORGET.write_text("5")
    prepared.run()
    print(memory.status("VmHWM") - before)


def slopes(values: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """The power with which a cost grows: over all values by least squares, and over the last two.

    >>> slopes([1, 2, 4], [5.0, 20.0, 80.0])
    {'all': 2.0, 'end': 2.0}
    """
    slope = numpy.polyfit(numpy.log(values), numpy.log(costs), 1)[0]
    end = math.log(costs[-1] / costs[-2]) / math.log(values[-1] / values[-2])
    return {"all": round(float(slope), 3), "end": round(end, 3)}


def sweep_of(axis: str, name: str, times: dict[str, Any], peaks: dict[str, Any]) -> dict[str, Any]:
    """What one pass costs at each value of one size, and the slopes."""
    points = points_of(axis)
    measured_at = [times[named(point, name)] for point in points]
    costs = {
        "seconds": [median for _, median, _ in measured_at],
        "bytes": [peaks[named(point, name)] for point in points],
        "operations": [
            PASSES[name] * operations(point.config, [point.length] * point.batch)
            for point in points
        ],
    }
    known = {cost: values for cost, values in costs.items() if None not in values}
    return {
        **costs,
        "quartiles": [[lower, upper] for lower, _, upper in measured_at],
        "slopes": {cost: slopes(SWEEPS[axis], values) for cost, values in known.items()},
    }


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The document of all measurements."""
    points = list(dict.fromkeys(point for axis in SWEEPS for point in points_of(axis)))
    times = times_of(points, args)
    pairs = [(point, name) for point in points for name in PASSES]
    with ThreadPoolExecutor(args.threads) as pool:  # a peak does not depend on other load
        found = pool.map(lambda pair: peak_of(pair[0], pair[1], args), pairs)
        peaks = {named(*pair): peak for pair, peak in zip(pairs, found, strict=True)}
    sweeps = {
        axis: {"values": values} | {name: sweep_of(axis, name, times, peaks) for name in PASSES}
        for axis, values in SWEEPS.items()
    }
    settings = {key: getattr(args, key) for key in ("dtype", "threads", "rounds")}
    return {"base": BASE._asdict(), **settings, "torch": torch.__version__, "sweeps": sweeps}


def table(document: dict[str, Any]) -> str:
    """The slopes, in pairs: over all points, and over the last doubling."""
    lines = [f"{'':17}{'time':>15}{'operations':>15}{'memory':>15}"]
    for axis, sweep in document["sweeps"].items():
        for name in PASSES:
            pairs = [sweep[name]["slopes"].get(cost) for cost in ("seconds", "operations", "bytes")]
            cells = [f"{pair['all']:.2f}, {pair['end']:.2f}" if pair else "–" for pair in pairs]
            lines.append(f"{axis:8} {name:8}" + "".join(f"{cell:>15}" for cell in cells))
    base = ", ".join(f"{name} {value}" for name, value in document["base"].items())
    settings = ", ".join(f"{document[key]} {key}" for key in ("threads", "rounds"))
    return "\n".join([*lines, f"base: {base}; {document['dtype']}, {settings}"])


def main() -> None:
    """Measure, print the slopes, write the numbers and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a point, in the process of its own
    args = parser.parse_args()
    keep_memory()  # as every command does
    if args.one:
        return print_peak(args.one)
    torch.set_num_threads(args.threads)
    from growth_chart import draw

    document = measured(args)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "growth.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(document, path.with_suffix(".svg"))
    return print(table(document))


if __name__ == "__main__":
    main()
