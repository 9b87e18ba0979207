"""Peak memory of an engine, in a process of its own, as the operating system counts it.

`python -m minibert.bench.memory` reads a request from standard input and prints what it measured.
Only Linux reports the peak and resets it on request; elsewhere nothing is measured. On a GPU it is
the memory of tensors, which torch counts itself.
"""

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory(NamedTuple):
    """Bytes before a pass (libraries, inputs and weights in float32), and at its peak."""

    before: int
    peak: int

    @property
    def above(self) -> int:
        """What the pass took beyond the weights: packed copies, states, gradients, moments."""
        return self.peak - self.before


def peak_memory(case: str, engine: str, choices: dict[str, object], folder: Path) -> Memory | None:
    """Run one pass of an engine in a new process; None if the system does not report its peak.

    Raises
        RuntimeError  the pass failed; the message is the last line of its output.
    """
    if choices["device"] == "cpu" and not FORGET.exists():
        return None
    request = {"case": case, "engine": engine, "choices": choices, "folder": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "minibert.bench.memory"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1])
    return Memory(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """What the new process does."""
    import torch

    from minibert.bench.cases import Choices, work_of
    from minibert.bench.engines import ENGINES, cases_on
    from minibert.cli.machine import keep_memory

    keep_memory()  # as where the times are measured
    request = json.load(sys.stdin)
    options = request["choices"]
    data = None if options["data"] is None else Path(options["data"])
    choices = Choices(**(options | {"data": data}))
    torch.set_num_threads(choices.threads)
    engine = ENGINES[request["engine"]]
    importlib.import_module(engine.module)
    work = work_of(cases_on(choices.device)[request["case"]], choices, Path(request["folder"]))
    give_back()
    on_gpu = choices.device == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else status("VmRSS")
    torch.set_float32_matmul_precision(engine.matmul)
    prepared = engine.prepare(work)
    del work
    give_back()
    if on_gpu:  # from here on the peak counts anew
        torch.cuda.reset_peak_memory_stats()
    else:
        FORGET.write_text("5")
    prepared.run()
    peak = torch.cuda.max_memory_allocated() if on_gpu else status("VmHWM")
    print(json.dumps([before, peak]))


def give_back() -> None:
    """Return free memory to the system, so that it is not counted as used."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def status(field: str) -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
