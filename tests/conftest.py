"""What every test shares: one thread, repeatable Hypothesis, and the two optional real inputs."""

import os
import signal
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch: small tensors gain nothing from threads

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from minibert.kernels.products import fix_arithmetic  # noqa: E402

torch.set_num_threads(1)
# Whoever starts the tests in the background of a shell has Ctrl-C ignored; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("many", parent=settings.get_profile("default"), max_examples=5000)
# A mutant is mostly killed by the first few cases, and thousands of them are tried.
settings.register_profile("mutation", parent=settings.get_profile("default"), max_examples=15)
under_mutation = "mutation" if os.environ.get("MUTANT_UNDER_TEST") else "default"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", under_mutation))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The whole suite runs in as many processes as there are cores, a part of it in this one."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return None if whole and not (options.keyword or options.markexpr) else 0


def folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names a folder with real input for this test")
    return Path(value)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with sst2/, cola/, mrpc/, stsb/, wikitext2/, and bert-base-uncased-vocab.txt."""
    return folder_from("MINIBERT_DATA")


@pytest.fixture(scope="session")
def teacher_dir() -> Path:
    """A folder with a real BERT encoder: config.json, model.safetensors, tokenizer files."""
    return folder_from("MINIBERT_TEACHER")


@pytest.fixture(autouse=True)
def forget_the_arithmetic():
    """A command fixes how its process computes; the next test is in the same process."""
    yield
    fix_arithmetic(None)


@pytest.fixture
def minibert(monkeypatch, capsys, tmp_path):
    """Run a command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    from command import Answer

    from minibert import cli

    def run(line: str, *more: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["minibert", *line.split(), *more])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return Answer(stopped.value.code or 0, *capsys.readouterr())

    return run
