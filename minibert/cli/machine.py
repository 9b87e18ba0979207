"""How a command computes on this machine: device, threads, arithmetic, precision and memory."""

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch


def prepare(
    device: str, threads: int | None, dtype: str, arithmetic: str
) -> tuple[str, "torch.dtype"]:
    """Set up this process to compute; returns the device and the dtype that were asked for.

    Raises
        click.UsageError  cuda or oneDNN was asked for and there is none; int8 in training.
    """
    gc.disable()  # an import makes a million objects and no garbage; looking for it takes a tenth
    import torch

    from minibert.kernels.products import chosen, fix_arithmetic, offers_onednn

    gc.freeze()  # nor will any of them become garbage
    gc.enable()
    params = click.get_current_context().params
    trains = "resume" in params
    if arithmetic == "int8" and trains:
        raise click.UsageError("--arithmetic int8 has no gradients; train with another one")
    if threads is not None:
        torch.set_num_threads(threads)
    place = place_of(device)
    keep_memory()
    fix_arithmetic(None)
    precision = dtype_of("dtype", dtype, place)
    if arithmetic == "onednn" and not offers_onednn(precision):
        raise click.UsageError(
            f"--arithmetic onednn: this torch comes without oneDNN, or it cannot compute "
            f"{str(precision).removeprefix('torch.')} on this processor; choose another one"
        )
    arithmetic = _as_it_began("arithmetic", arithmetic)
    if arithmetic == "auto":
        arithmetic = chosen(torch.empty(0, device=place, dtype=precision))
    fix_arithmetic(arithmetic)  # type: ignore[arg-type]
    params["arithmetic"] = arithmetic  # for `run_record`
    return place, precision


def place_of(device: str) -> str:
    """cpu or cuda, of `--device`.

    Raises
        click.UsageError  cuda was asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise click.UsageError("--device cuda: torch finds no GPU here; use --device cpu")
    return "cuda" if available and device != "cpu" else "cpu"


def dtype_of(option: str, asked: str, place: str) -> "torch.dtype":
    """The dtype that an option, dtype or teacher_dtype, asks for; auto is the faster on `place`.

    The choice is stored in the context, for `run_record`.
    """
    import torch

    from minibert.kernels.products import cost_of_bfloat16

    def cost() -> tuple[float, str]:
        """The cost of a product in bfloat16 relative to float32, and a sentence that says so."""
        if place == "cpu":
            cost = cost_of_bfloat16()
            return cost, f"a product in bfloat16 takes {cost:.2g} times as long as in float32 here"
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return 0.5, "this GPU has instructions for bfloat16"
        return 2.0, "this GPU has no instructions for bfloat16"

    dtype = _as_it_began(option, asked)
    name = f"--{option.replace('_', '-')}"
    if dtype == "auto":  # faster by a tenth at least, so that noise does not change the choice
        dtype = "bfloat16" if cost()[0] < 0.9 else "float32"
        click.echo(f"{name} auto: {dtype}; {cost()[1]}", err=True)
    elif dtype == "bfloat16" and cost()[0] >= 2:
        advice = "; choose auto" if asked == dtype else ", but the run began with it"
        click.echo(f"{name} bfloat16: {cost()[1]}{advice}", err=True)
    click.get_current_context().params[option] = dtype
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _as_it_began(option: str, asked: str) -> str:
    """What was asked for; if that is auto and a run is resumed, what that run chose."""
    context = click.get_current_context()
    if asked != "auto" or not context.params.get("resume"):
        return asked
    from minibert.files import read_json
    from minibert.training.runs import OPTIONS_FILE

    folder = Path(context.params["out"] or f"runs/{context.info_name}")
    paths = [folder / OPTIONS_FILE, *sorted(folder.glob(f"seed-*/{OPTIONS_FILE}"))]
    for path in paths:
        if path.exists():
            return str(read_json(path).get(option, asked))
    return asked


def keep_memory() -> None:
    """Tell the C library to keep freed memory for the next tensor, where it is glibc.

    By default it returns every large block to the system, which hands it out again page by page,
    filled with zeros: that takes about a twentieth of the time of a forward pass.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        if mallopt(mmap_threshold, 2**30):  # refused by some, and the other alone would do harm
            mallopt(trim_threshold, 2**31 - 1)
