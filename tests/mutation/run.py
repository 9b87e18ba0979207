"""Can the tests fail? Change the book in thousands of small ways; each change must break a test.

    python tests/mutation/run.py              run what has not been run yet, and print the table
    python tests/mutation/run.py --fresh      from the beginning
    python tests/mutation/run.py --search     look for a case that tells each equivalent apart

A run that was stopped goes on where it stopped, and after an edit only functions that changed are
run again. Whatever is not killed by a failing test counts as survived: time-outs and crashes too.
A survivor is excused only if `equivalent.toml`
holds a proof in words that no input can tell it from the original, and the number of cases in
which a search found no difference; or says why the tests never end with it. An entry expires when
the function changes. Exit code 1 unless every module was run, 96 % were killed, and every survivor
is excused.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
MUTANTS = ROOT / "mutants"
KILLED = 1  # what pytest exits with where a test failed
OVERTIME = -24  # the signal that ends a process which has had its seconds
CASES = 100_000
LEAST_RAW = 0.96


def results() -> dict[str, dict[str, Any]]:
    """For each module of the book: exit code by mutant, and a hash for each function."""
    found = {}
    for path in sorted(MUTANTS.glob("minibert/*.py.meta")):
        meta = json.loads(path.read_text())
        if meta["exit_code_by_key"]:
            found[path.name.removesuffix(".py.meta")] = meta
    return found


def wanted() -> set[str]:
    """The modules that are to be run: those of the book."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]
    return {Path(path).stem for path in settings["only_mutate"]}


def entries(kind: str) -> list[dict[str, Any]]:
    """What is said of mutants that change nothing ("mutant"), or that never end ("endless")."""
    path = Path(__file__).with_name("equivalent.toml")
    return tomllib.loads(path.read_text("utf-8")).get(kind, [])


def excused(kind: str, meta: dict[str, Any]) -> set[str]:
    """The mutants of a module with a proof that belongs to the function as it is today."""
    hashes, codes = meta["hash_by_function_name"], meta["exit_code_by_key"]
    names = set()
    for entry in entries(kind):
        function = entry["name"].rpartition(".")[2].partition("__mutmut")[0]
        tried = kind == "endless" and codes.get(entry["name"]) == OVERTIME
        tried = tried or (kind == "mutant" and entry["cases"] and entry["searched"] >= CASES)
        if tried and entry["proof"].strip() and hashes.get(function) == entry["hash"]:
            names.add(entry["name"])
    return names


def report() -> bool:
    """Print the table; whether everything was run and all that survived is excused."""
    print(f"{'module':<14}{'mutants':>8}{'killed':>8}{'raw':>8}{'equivalent':>12}{'adjusted':>10}")
    sums, open_ones, endless, waiting = [0, 0, 0], [], [], 0
    for module, meta in results().items():
        codes = {name: code for name, code in meta["exit_code_by_key"].items() if code is not None}
        waiting += len(meta["exit_code_by_key"]) - len(codes)
        lived = {name for name, code in codes.items() if code != KILLED}
        same = lived & excused("mutant", meta)
        endless += sorted(lived & excused("endless", meta))
        open_ones += sorted(lived - same - set(endless))
        row = (len(codes), len(codes) - len(lived), len(same))
        sums = [a + b for a, b in zip(sums, row, strict=True)]
        print(line(module, *row))
    print(line("together", *sums))
    for name in endless:
        print(f"never ends: {name}")
    for name in open_ones:
        print(f"survived: {name}")
    if open_ones:
        print("`mutmut show NAME` shows what was changed")
    if waiting:
        print(f"{waiting} are still to be run: start again to go on")
    absent = wanted() - set(results())
    if absent:
        print(f"not run at all: {', '.join(sorted(absent))}")
    enough = sums[1] >= LEAST_RAW * sums[0] > 0
    return enough and not (open_ones or waiting or absent)


def line(name: str, mutants: int, killed: int, same: int) -> str:
    raw, adjusted = killed / max(mutants, 1), killed / max(mutants - same, 1)
    return f"{name:<14}{mutants:>8}{killed:>8}{raw:>8.1%}{same:>12}{adjusted:>10.1%}"


def search() -> bool:
    """Whether no case tells an equivalent from its original, in value, gradient or refusal."""
    sys.path.insert(0, str(Path(__file__).parent))
    import cases

    from minibert.laws.law import RandomDraw

    alike = True
    for entry in entries("mutant"):
        module, _, mutant = entry["name"].rpartition(".")
        path = MUTANTS / f"{module.replace('.', '/')}.py"
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        mutated = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(mutated)
        original = getattr(mutated, f"{mutant.partition('__mutmut')[0]}__mutmut_orig")
        changed, drawn = getattr(mutated, mutant), getattr(cases, entry["cases"])
        differing = next(
            (
                number
                for number in range(CASES)
                if cases.outcome(original, drawn(RandomDraw(mutant, number)))
                != cases.outcome(changed, drawn(RandomDraw(mutant, number)))
            ),
            None,
        )
        said = f"{CASES:,} cases, no difference" if differing is None else f"case {differing}!"
        print(f"{entry['name']}: {said}")
        alike = alike and differing is None
    return alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--report", action="store_true", help="print the table of the last run")
    parser.add_argument("--search", action="store_true", help="try to refute the equivalents")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    if chosen.search:
        sys.exit(not search())
    if chosen.fresh:
        shutil.rmtree(MUTANTS, ignore_errors=True)
    if not chosen.report:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = ["mutmut", "run", "--max-children", str(chosen.workers)]
        stopped = subprocess.run(command, env=os.environ | threads, check=False).returncode
        if stopped:
            sys.exit(f"mutmut ended with {stopped}; see above")
    sys.exit(not report())


if __name__ == "__main__":
    main()
