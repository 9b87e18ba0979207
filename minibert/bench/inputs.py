"""What the models read: real sentences, or random ids of similar lengths.

B rows · S positions, as many as the longest row of the batch has tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from minibert.data.batches import collate, epoch_order
from minibert.data.readers import find_split, read_dataset
from minibert.data.tokenizer import Encoding, Tokenizer

# Percentiles of the lengths of SST-2's sentences, with the vocabulary of bert-base-uncased,
# [CLS] and [SEP] included.
PERCENT = (0, 5, 10, 25, 50, 75, 90, 95, 98, 99, 100)
LENGTHS = {
    "dev": (4, 10, 12, 17, 24.5, 32, 40, 44, 48, 51.29, 55),  # mean 25.2
    "train": (3, 4, 4, 6, 10, 18, 27, 33, 40, 44, 66),  # mean 13.3
}


class Sentences(NamedTuple):
    """Which sentences a case reads: `number` of a split of SST-2, or of one length.

    `trained` takes that many batches, those that training would begin with; 0 takes all sentences
    in order.
    """

    number: int
    batch: int
    split: str = ""
    length: int = 0
    trained: int = 0


class Tokens(NamedTuple):
    """A batch in the forms that engines expect: `keep` and `hide` as booleans, `mask` as 1 and 0.

    `full` says that there is no padding, so that the mask may be left out.
    """

    ids_BS: Tensor
    keep_BS: Tensor
    types_BS: Tensor
    mask_BS: Tensor
    hide_BS: Tensor
    full: bool

    def to(self, device: str) -> "Tokens":
        """The same batch on another device."""
        return Tokens._make(part.to(device) if isinstance(part, Tensor) else part for part in self)

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        lengths: list[int] = self.keep_BS.sum(1).tolist()
        return lengths


def random_lengths(split: str, count: int, seed: int) -> list[int]:
    """Lengths like those of SST-2: a random percentile, and the length at it.

    In batches of 32 the dev set has 48 % padding and the training set 67 %; these lengths have
    47 to 49 % and 68 %.
    """
    percent = numpy.random.default_rng(seed).random(count) * 100
    drawn: list[int] = (
        numpy.rint(numpy.interp(percent, PERCENT, LENGTHS[split])).astype(int).tolist()
    )
    return drawn


def random_encodings(sentences: Sentences, vocabulary: int, seed: int) -> list[Encoding]:
    """Random ids, none of which is padding."""
    lengths = [sentences.length] * sentences.number
    if sentences.split:
        lengths = random_lengths(sentences.split, sentences.number, seed)
    draw = numpy.random.default_rng(seed)
    return [Encoding(draw.integers(1, vocabulary, n).tolist(), [0] * n) for n in lengths]


def real_encodings(sentences: Sentences, tokenizer: Tokenizer, data: Path) -> list[Encoding]:
    """The first sentences of a split, in the order of the file."""
    dataset = read_dataset(find_split(data, sentences.split), limit=sentences.number)
    return tokenizer.encode([example.first for example in dataset.examples], max_length=128)


def batches_of(encodings: Sequence[Encoding], sentences: Sentences, seed: int) -> list[list[int]]:
    """The rows of each batch: in the order of the sentences, or as training sorts them."""
    size, rows = sentences.batch, list(range(len(encodings)))
    if sentences.trained:
        lengths = [len(encoding.ids) for encoding in encodings]
        return epoch_order(lengths, size, seed, epoch=0)[: sentences.trained]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def tokens_of(encodings: Sequence[Encoding], rows: Sequence[int]) -> Tokens:
    """One batch, padded to its longest row."""
    ids_BS, keep_BS, types_BS = collate(encodings, rows, pad_id=0)
    full = bool(keep_BS.all())
    return Tokens(ids_BS, keep_BS, types_BS, keep_BS.to(torch.int64), ~keep_BS, full)
