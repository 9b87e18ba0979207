"""Texts in two languages: a file for each language with one text a line, or a table of pairs."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import NamedTuple

from minibert.data.readers import SPLITS, cell_text, read_texts
from minibert.data.tables import FORMATS, DataError, read_table


class Pairs(NamedTuple):
    """Texts and their translations, and what they were read from."""

    path: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def summary(self) -> str:
        """What was read, in one line."""
        words = [sum(len(text.split()) for text in texts) for texts in self[1:]]
        return f"{self.path}: {len(self):,} pairs, {words[0]:,} and {words[1]:,} words"


def languages_of(data: str | Path) -> tuple[str, str]:
    """Which language is read and which is written, if not specified.

    For a table its two columns, in their order; for files, English is read, else the first in the
    alphabet. A folder's are those of its training texts.

    Raises
        DataError  there are not two, or no file at all.
    """
    path = Path(data)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    folder, name = (path, "train") if path.is_dir() else (path.parent, path.stem)
    endings = sorted({file.suffix for file in folder.glob(f"{escape(name)}.*")} - set(FORMATS))
    table = path if path.suffix.lower() in FORMATS else _table_in(folder, [name])
    if table == path or not endings or (table and len(endings) < 2):
        path = table or path / f"{name}.tsv"
        found = read_table(path, None).header
    else:
        found = tuple(sorted((x[1:] for x in endings), key=lambda name: (name != "en", name)))
    if len(found) != 2 or found[0] == found[1]:
        raise DataError(
            f"{path}: two languages are needed, not {', '.join(found)}; use --languages FROM-TO"
        )
    return found[0], found[1]


def read_pairs(
    data: str | Path, split: str, languages: tuple[str, str], limit: int | None = None
) -> Pairs:
    """The training ("train") or development ("dev") pairs of a folder, or those of a table.

    A folder holds files such as train.en and train.de, one text a line, line by line translations
    of each other; or tables such as train.tsv whose columns are called en and de. Test texts serve
    as development texts where there are no others. A file such as test.en stands for itself and
    test.de.

    Raises
        DataError  a file is missing or not UTF-8, the files do not have equally many lines, or a
                   text is empty: file, line, reason.
    """
    path = Path(data)
    if path.is_dir():
        path = _split_in(path, split, languages)
    if path.suffix[1:] in languages:
        first, second = (path.with_suffix(f".{language}") for language in languages)
        return _from_files(first, second, limit)
    return _from_table(path, languages, limit)


def _split_in(folder: Path, split: str, languages: tuple[str, str]) -> Path:
    """The table of a split, or the first of its two files."""
    for names in SPLITS[split]:
        for name in names:
            both = [folder / f"{name}.{language}" for language in languages]
            if all(file.exists() for file in both):
                return both[0]
        if table := _table_in(folder, names):
            return table
    name = SPLITS[split][0][0]
    listed = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    raise DataError(
        f"{folder}: no {split} texts; need {name}.{languages[0]} and {name}.{languages[1]}, or "
        f"{name} with the ending {' or '.join(FORMATS)}; the folder holds {listed}"
    )


def _table_in(folder: Path, names: Sequence[str]) -> Path | None:
    """The first table of one of these names, without its ending."""
    tables = (folder / f"{name}{ending}" for name in names for ending in FORMATS)
    return next((table for table in tables if table.exists()), None)


def _from_files(first: Path, second: Path, limit: int | None) -> Pairs:
    sources, targets = (read_texts(file) for file in (first, second))
    if len(sources) != len(targets):
        raise DataError(
            f"{first} has {len(sources):,} lines, but {second} has {len(targets):,}; line by line "
            "they must be translations of each other"
        )
    return Pairs(first, tuple(sources[:limit]), tuple(targets[:limit]))


def _from_table(path: Path, languages: tuple[str, str], limit: int | None) -> Pairs:
    table = read_table(path, None)
    languages = (languages[0].lower(), languages[1].lower())  # as the header is read
    missing = [language for language in languages if language not in table.header]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r}; the columns are {', '.join(table.header)}"
        )
    twice = [language for language in languages if table.header.count(language) > 1]
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}; keep one of them")
    pairs = []
    for number, row in table.rows:
        try:
            pairs.append([cell_text(row.get(name), f"text in {name}") for name in languages])
        except ValueError as error:
            raise DataError(f"{path}, {table.unit} {number}: {error}") from None
    if not pairs:
        raise DataError(f"{path}: the file holds a header and no row; at least one is needed")
    return Pairs(path, *zip(*pairs[:limit], strict=True))
