"""The teacher's answers, computed once: whoever asks the same teacher the same texts reads a file.

The name of the file is a hash of everything that the answers depend on, so nothing in the cache can
be out of date, and several runs may share it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert.config import CheckpointError
from minibert.data.tokenizer import Encoding
from minibert.model import Bert
from minibert.parameters import named_tensors
from minibert.training.evaluation import all_logits
from minibert.training.progress import Display
from minibert.training.runs import ANSWERS, written_whole


def fingerprint(teacher: Bert, encodings: Sequence[Encoding], *more: object) -> str:
    """32 hexadecimal digits that change with any weight, any token, and anything else given."""
    digest = hashlib.blake2b(repr((teacher.config, more)).encode(), digest_size=16)
    for name, tensor in named_tensors(teacher.weights):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for numbers in (
        (len(one.ids) for one in encodings),
        chain.from_iterable(one.ids for one in encodings),
        chain.from_iterable(one.types for one in encodings),
    ):
        digest.update(_bytes(numbers))
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
        OSError          the disk is full or forbids it.
    """
    path = cache / f"{ANSWERS}{fingerprint(teacher, encodings, dtype)}.safetensors"
    if path.exists():
        try:
            logits_XC = load_file(path)["logits"]
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it") from None
        display.say(f"the teacher's answers to {len(encodings):,} texts: {path}")
        return logits_XC
    display.say(f"the teacher answers {len(encodings):,} texts once")
    logits_XC = all_logits(encodings, teacher.weights, teacher.config, dtype)
    with written_whole(path) as staged:
        save_file({"logits": logits_XC}, staged)
    return logits_XC
