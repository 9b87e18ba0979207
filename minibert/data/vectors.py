"""Word vectors: from files (word2vec, text or binary, and GloVe), and their nearest neighbours.

V words · n words asked for · D width. gensim reads the files, and is imported only then.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from minibert.data.tables import DataError

BLOCK = 1024  # words whose cosines with all others are in memory at a time
DAMAGES = (OSError, EOFError, ValueError, TypeError, AssertionError, MemoryError)
FEWEST_BYTES = 2  # that one number of a vector takes: a digit and a space
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
MOST_COMPRESSION = 1100  # bytes that one may stand for: 1032 in deflate


class WordVectors(NamedTuple):
    """Words, each once, and a vector for each; `source` says where they came from."""

    words: tuple[str, ...]
    matrix_VD: Tensor  # float32
    source: str


def nearest_words(
    words: Sequence[str], vectors: WordVectors, k: int
) -> dict[str, tuple[str, ...]]:
    """For each word that has a vector the K others with the largest cosine, nearest first.

    The zero vector points nowhere: it is near to no word, and none is near to it.

    >>> vectors = WordVectors(("a", "b", "c"), torch.tensor([[1.0, 0], [0, 1], [2, 1]]), "")
    >>> nearest_words(["a"], vectors, k=2)
    {'a': ('c', 'b')}
    """
    if k < 1:
        raise ValueError(f"nearest_words: {k} words were asked for, but it must be at least 1")
    length_V = vectors.matrix_VD.float().norm(dim=1)
    rows = length_V.nonzero()[:, 0]
    unit_VD = vectors.matrix_VD[rows].float() / length_V[rows, None]
    names = [vectors.words[row] for row in rows.tolist()]
    place_of = {word: place for place, word in enumerate(names)}
    asked = [word for word in dict.fromkeys(words) if word in place_of]
    nearest = {}
    for start in range(0, len(asked), BLOCK):
        block = asked[start : start + BLOCK]
        own_n = torch.tensor([place_of[word] for word in block])
        cosine_nV = unit_VD[own_n] @ unit_VD.T
        cosine_nV.scatter_(1, own_n[:, None], -torch.inf)  # no word stands for itself
        best = cosine_nV.topk(min(k, len(names) - 1), dim=1).indices.tolist()
        for word, places in zip(block, best, strict=True):
            nearest[word] = tuple(names[place] for place in places)
    return nearest


class _Layout(NamedTuple):
    """How a file is laid out, as far as its first two lines tell."""

    has_header: bool
    binary: bool
    n_numbers: int  # that its header promises


def read_vectors(path: str | Path, limit: int | None = None) -> WordVectors:
    """Read the vectors of a file, or its first `limit` ones; common words mostly come first.

    A text file has a word and D numbers per line. word2vec puts a line with V and D first, GloVe
    does not. After that line word2vec may also be binary. Compressed files (.gz, .bz2, …) are read
    as they are. A word that comes twice keeps its first vector.

    Raises
        DataError  the file is missing, empty or damaged, or gensim is not installed.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"{path}: a limit of {limit} words was asked for; it must be at least 1")
    try:
        from gensim.models import KeyedVectors
    except ImportError:
        raise DataError(
            f"{path}: reading word vectors needs gensim; run: pip install 'minibert[vectors]'"
        ) from None
    if path.is_dir():
        raise DataError(f"{path} is a folder, but one file is needed")
    try:
        layout = _layout(path)
        if layout.has_header and limit is None:
            _check_promise(path, layout.n_numbers)
        with numpy.errstate(over="ignore"):  # an overflow is refused below
            read = KeyedVectors.load_word2vec_format(
                str(path),
                binary=layout.binary,
                no_header=not layout.has_header,
                limit=limit,
                unicode_errors="replace",  # word2vec itself cuts long words inside a character
            )
    except DataError:
        raise
    except DAMAGES as error:
        reason = getattr(error, "strerror", None) or f"not readable as word vectors: {error}"
        raise DataError(f"{path}: {reason}") from None
    # After a word that came twice gensim leaves an empty place at the end.
    words = [word for word in read.index_to_key if word is not None]
    matrix_VD = torch.from_numpy(read.vectors[: len(words)])
    _check_numbers(path, words, matrix_VD)
    return WordVectors(tuple(words), matrix_VD, path.name)


def _layout(path: Path) -> _Layout:
    from smart_open import open as open_any  # comes with gensim, and knows what is compressed

    with open_any(str(path), "rb") as file:
        first, second = file.readline(), file.readline()
    if not first.strip():
        raise DataError(f"{path}: the file is empty, or its first line is; it needs word vectors")
    parts = first.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return _Layout(False, False, 0)
    n_words, width = map(int, parts)
    if not n_words or not width:
        raise DataError(f"{path}: the first line promises {n_words} words, {width} numbers each")
    return _Layout(True, not _is_text(second, width), n_words * width)


def _is_text(line: bytes, width: int) -> bool:
    """Whether a line holds a word and `width` readable numbers."""
    parts = line.rstrip().split(b" ")
    try:
        return len(parts) == width + 1 and all(float(part) is not None for part in parts[1:])
    except ValueError:
        return False


def _check_promise(path: Path, n_numbers: int) -> None:
    """Refuse a damaged header before memory is set aside for what it promises."""
    size = path.stat().st_size
    room = size * (MOST_COMPRESSION if path.suffix in COMPRESSED else 1)
    if n_numbers * FEWEST_BYTES > room:
        raise DataError(
            f"{path}: the first line promises {n_numbers:,} numbers, but a file of {size:,} bytes "
            "cannot hold them; it may be damaged"
        )


def _check_numbers(path: Path, words: list[str], matrix_VD: Tensor) -> None:
    """Refuse vectors that no cosine can be made of, and a line that was cut after one number."""
    if not matrix_VD.numel():
        raise DataError(f"{path}: there is no vector in the file; it may be damaged")
    infinite_V = ~matrix_VD.isfinite().all(1)
    # gensim repeats a single number until the vector is full
    repeated_V = (matrix_VD == matrix_VD[:, :1]).all(1) & (matrix_VD[:, 0] != 0)
    if matrix_VD.shape[1] == 1:
        repeated_V = torch.zeros_like(repeated_V)
    for bad_V, what in ((infinite_V, "is infinite or NaN"), (repeated_V, "is cut short")):
        if bad_V.any():
            word = words[int(bad_V.nonzero()[0])]
            raise DataError(f"{path}: the vector of {word!r} {what}; the file may be damaged")
