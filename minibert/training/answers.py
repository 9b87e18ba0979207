"""The teacher's answers, computed once: for the same teacher and texts they are read from a file.

The name of the file is a hash of everything that the answers depend on, so nothing in the cache can
be out of date, and several runs may share it. Answers that came with states (`states.write_states`)
were computed in other batches, and differ by roundings in the teacher's precision.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import CheckpointError
from minibert.data.tokenizer import Encoding
from minibert.files import checksum
from minibert.kernels.products import fixed_arithmetic
from minibert.model import Bert
from minibert.parameters import named_tensors
from minibert.training.evaluation import EVALUATION_BATCH, all_logits
from minibert.training.progress import Display
from minibert.training.runs import ANSWERS, REPEAT, written_whole
from minibert.training.stopwatch import timed


def fingerprint(teacher: Bert, encodings: Sequence[Encoding], *more: object) -> str:
    """32 hexadecimal digits that change with any weight, any token, and anything else given."""
    digest = hashlib.blake2b(repr((hash_of_model(teacher), more)).encode(), digest_size=16)
    for numbers in (
        (len(one.ids) for one in encodings),
        chain.from_iterable(one.ids for one in encodings),
        chain.from_iterable(one.types for one in encodings),
    ):
        digest.update(_bytes(numbers))
    return digest.hexdigest()


def hash_of_model(model: Bert) -> str:
    """32 hexadecimal digits that change with the config and with any weight.

    Rows of results identify models by them, so they are as they were before configs had `pruned`.
    """
    config = repr(model.config).replace("pruned=None, ", "")
    digest = hashlib.blake2b(config.encode(), digest_size=16)
    for name, tensor in named_tensors(model.weights):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_texts(examples: Iterable[tuple[Any, ...]]) -> str:
    """32 hexadecimal digits that change with any text, any label, and the order."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(repr(tuple(example)).encode())
    return digest.hexdigest()


def _bytes(numbers: Iterable[int]) -> bytes:
    return numpy.fromiter(numbers, dtype=numpy.int32).tobytes()


def teacher_answers(
    cache: Path,
    encodings: Sequence[Encoding],
    teacher: Bert,
    dtype: torch.dtype,
    display: Display,
) -> Tensor:
    """The teacher's logits [n, C] of every text, from the cache or into it.

    Raises
        CheckpointError  the file in the cache is damaged.
        OSError          the disk is full or not writable.
    """
    path = path_of_answers(cache, encodings, teacher, dtype)
    if path.exists():
        logits_XC = _read(path, (len(encodings), teacher.config.num_labels))
        display.say(f"the teacher's answers to {len(encodings):,} texts: {path}")
        return logits_XC
    display.say(f"the teacher answers {len(encodings):,} texts once")
    logits_XC = _answered(encodings, teacher, dtype, display)
    write_answers(path, logits_XC)
    return logits_XC


@timed("teacher")
def _answered(
    encodings: Sequence[Encoding], teacher: Bert, dtype: torch.dtype, display: Display
) -> Tensor:
    with display.phase("answers", n_steps_of_answers(encodings)) as bar:
        return all_logits(encodings, teacher.weights, teacher.config, dtype, bar)


def n_steps_of_answers(encodings: Sequence[Encoding]) -> int:
    """How many batches the teacher answers."""
    return math.ceil(len(encodings) / EVALUATION_BATCH)


def path_of_answers(
    cache: Path, encodings: Sequence[Encoding], teacher: Bert, dtype: torch.dtype
) -> Path:
    """Where the answers to these texts are kept."""
    name = fingerprint(teacher, encodings, dtype, fixed_arithmetic())
    return cache / f"{ANSWERS}{name}.safetensors"


def write_answers(path: Path, logits_XC: Tensor) -> None:
    """Write the teacher's logits with a checksum.

    Raises
        OSError  the disk is full or not writable.
    """
    answers = {"logits": logits_XC}
    with written_whole(path, shared=True, then=REPEAT) as staged:
        save_file(answers, staged, metadata={"checksum": str(checksum(answers))})


def _read(path: Path, shape: tuple[int, int]) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            logits_XC, known = file.get_tensor("logits"), file.metadata()["checksum"]
        fits = logits_XC.shape == shape and str(checksum({"logits": logits_XC})) == known
        damage = "" if fits else "its checksum is wrong"
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        damage = str(error) or type(error).__name__
    if damage:
        raise CheckpointError(
            f"{path} is damaged ({damage}); delete it; the answers will be computed "
            "again, and may differ in the last digits"
        )
    return logits_XC
