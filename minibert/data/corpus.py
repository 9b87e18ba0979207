"""Raw text for general distillation and for masked words: files of sentences or of paragraphs.

A corpus has no labels and no rows. It is cut into windows of as many pieces as a model is to see at
once, each between [CLS] and [SEP]; no piece is lost, and only a file's last window is padded.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from minibert.data.readers import DataError
from minibert.data.tables import decode, read_bytes
from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.wordpiece import normalise, split_words


def read_corpus(paths: Sequence[str | Path]) -> list[list[str]]:
    """The paragraphs of each file; for a folder, every file in it, in the order of their names.

    Paragraphs are separated by empty lines; in a file without any, each line is one.

    Raises
        DataError  a file is missing, empty, or not UTF-8.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else []
        if path.is_dir() and not inside:
            raise DataError(f"{path}: the folder holds no file, but text is needed")
        files += inside or [path]
    return [_paragraphs(decode(read_bytes(file), str(file))) for file in files]


def _paragraphs(text: str) -> list[str]:
    lines = [line.strip() for line in text.split("\n")]
    if all(lines[:-1]):
        return [line for line in lines if line]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line:
            parts[-1].append(line)
        elif parts[-1]:
            parts.append([])
    return [" ".join(part) for part in parts if part]


def windows(
    corpus: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int
) -> list[Encoding]:
    """The corpus in runs of `length` tokens, with [CLS] and [SEP]; no run spans two files.

    >>> tokenizer = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    >>> [len(window.ids) for window in windows([["a a a", "a a a a"]], tokenizer, 5)]
    [5, 5, 3]
    """
    if length < 3:
        raise ValueError(f"windows of {length} tokens were asked for, but at least 3 are needed")
    found = []
    for paragraphs in corpus:
        pieces = [piece for one in tokenizer.encode(paragraphs) for piece in one.ids[1:-1]]
        for start in range(0, len(pieces), length - 2):
            ids = [tokenizer.cls_id, *pieces[start : start + length - 2], tokenizer.sep_id]
            found.append(Encoding(ids, [0] * len(ids)))
    return found


def word_counts(corpus: Sequence[Sequence[str]], lowercase: bool = True) -> Counter[str]:
    """How often each word occurs, as `minibert.wordpiece` normalises and splits texts.

    >>> word_counts([["The cat, the dog."], ["A cat."]]).most_common(3)
    [('the', 2), ('cat', 2), ('.', 2)]
    """
    # The text between two spaces is normalised on its own, only once however often it occurs.
    paragraphs = [one for file in corpus for one in file]
    chunks = Counter(chunk for one in paragraphs for chunk in one.split(" "))
    counts: Counter[str] = Counter()
    for chunk, n in chunks.items():
        text, _ = normalise(chunk, lowercase)
        for start, end in split_words(text):
            counts[text[start:end]] += n
    return counts
