"""What a command does not load: it starts fast because of what it leaves out.

The times themselves depend on the machine; `benchmarks/startup.py` measures them.
"""

import subprocess
import sys

import pytest
import tiny

PRINT_MODULES = "\nprint('\\n'.join(sys.modules))"
# What commands other than these need, and what torch loads only once it is asked to compile.
SLOW = {"sklearn", "scipy", "rich", "huggingface_hub", "transformers", "matplotlib"}


def modules_after(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    command = [sys.executable, "-c", f"import sys\n{code}{PRINT_MODULES}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_after_command(*arguments: str) -> set[str]:
    code = "from minibert import cli\ntry:\n    cli.main()\nexcept SystemExit as stop:\n"
    return modules_after(f"{code}    assert not stop.code, stop.code", *arguments)


def test_the_package_itself_loads_no_module_of_its_own_and_none_of_others():
    loaded = modules_after("import minibert") - modules_after("import typing")
    assert loaded == {"minibert"}


@pytest.mark.parametrize(
    "command", ["", "predict", "distill", "verify", "exercise", "explain", "plot", "plot adam"]
)
def test_help_loads_neither_torch_nor_numpy(command):
    loaded = modules_after_command(*command.split(), "--help")
    assert "minibert.cli.predict" in loaded
    assert not loaded & (SLOW | {"torch", "numpy", "tokenizers", "safetensors"})


def test_an_exercise_is_written_without_torch(tmp_path):
    loaded = modules_after_command("exercise", "start", "softmax", "--out", str(tmp_path))
    assert (tmp_path / "softmax.py").exists()
    assert not loaded & (SLOW | {"torch", "numpy"})


def test_a_prediction_loads_what_it_computes_with_and_no_more(tmp_path):
    tiny.classifier().save_pretrained(tmp_path)
    loaded = modules_after_command("predict", "--model", str(tmp_path), "a good film")
    assert {"torch", "minibert.model", "minibert.encoder"} <= loaded
    assert not loaded & SLOW
    assert not {name for name in loaded if name.startswith(("torch._dynamo.", "torch._inductor."))}
    assert not {name for name in loaded if name.startswith("minibert.training")}


def test_a_picture_of_a_formula_loads_no_more_than_draws_it(tmp_path):
    pytest.importorskip("matplotlib")
    loaded = modules_after_command("plot", "adam", "-o", str(tmp_path / "adam.svg"))
    assert {"torch", "matplotlib", "minibert.optim"} <= loaded
    assert not loaded & (SLOW - {"matplotlib"})
