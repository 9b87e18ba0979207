"""Files of named columns: TSV as GLUE writes it, CSV, JSONL and parquet, all read as one `Table`.

Every row keeps its number, so that an error about a bad cell can say where it is.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple


class DataError(ValueError):
    """A data file is missing, or a row of it cannot be used."""

    exit_code = 3


class Table(NamedTuple):
    """The columns of a file, in lower case, and its numbered rows; `unit` is what is counted."""

    header: tuple[str, ...]
    rows: Iterator[tuple[int, dict[str, Any]]]
    unit: str = "line"


FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
COLUMNS = {
    "sentence": ("sentence", "text", "sentence1", "#1 string"),
    "second sentence": ("sentence2", "text2", "#2 string"),
    "label": ("label", "score", "quality"),
}
KNOWN = {name for names in COLUMNS.values() for name in names}
COLA = ("source", "label", "star", "sentence")  # the columns of CoLA's files, which have no header


def read_table(path: Path, task: str | None = None) -> Table:
    """Open a file by its ending; `task` tells that a TSV file is CoLA's, which has no header.

    Raises
        DataError  the file cannot be read, or a row when it is reached: file, line, reason.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path} is a folder, but one file is needed")
    if ending not in FORMATS:
        raise DataError(f"{path}: the ending {ending!r} is unknown; use {', '.join(FORMATS)}")
    data = read_bytes(path)
    if ending == ".parquet":
        return _parquet(data, path)
    text = decode(data, str(path))
    if ending == ".csv":
        return _csv(text, path)
    lines = split_lines(text)
    return _jsonl(lines, path) if ending == ".jsonl" else _tsv(lines, path, task)


def read_bytes(path: Path) -> bytes:
    """The content of a file, or a DataError that says why there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def decode(data: bytes, name: str) -> str:
    """UTF-8 to text, with or without the byte-order mark that MRPC's files begin with."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "convert the file to UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{name}: the file is empty")
    return text


def split_lines(text: str) -> list[str]:
    r"""The lines between line feeds; a carriage return before one is dropped.

    Not `splitlines`: U+2028, U+0085 and a lone carriage return are characters of a sentence.

    >>> split_lines("one\r\ntwo\u2028halves\n")
    ['one', 'two\u2028halves']
    """
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _header(names: Iterable[str], path: Path) -> tuple[str, ...]:
    header = tuple(name.strip().lower() for name in names)
    twice = [name for name in header if name in KNOWN and header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} columns are called {twice[0]!r}; keep one of them")
    return header


def _tsv(lines: list[str], path: Path, task: str | None) -> Table:
    rows = [line.split("\t") for line in lines]  # quotes are plain characters: no csv module
    header = _header(rows[0], path)
    looks_like_cola = len(header) == 4 and header[1] in ("0", "1") and header[2] in ("", "*")
    if (task is None and looks_like_cola) or (task == "cola" and not KNOWN & set(header)):
        return Table(COLA, _named(enumerate(rows, 1), COLA, path))
    return Table(header, _named(enumerate(rows[1:], 2), header, path))


def _csv(text: str, path: Path) -> Table:
    rows = _csv_rows(text, path)
    header = _header(next(rows)[1], path)
    return Table(header, _named(rows, header, path))


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    # RFC 4180: a quoted cell may hold commas and line breaks; a row is identified by its last line.
    csv.field_size_limit(2**31 - 1)  # of Python, 131,072 characters otherwise
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _named(
    rows: Iterable[tuple[int, list[str]]], header: tuple[str, ...], path: Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) != 1)}, but "
                f"{len(header)} are needed: {', '.join(header)}"
            )
        yield number, dict(zip(header, cells, strict=True))


def _jsonl(lines: list[str], path: Path) -> Table:
    rows = _json_rows(lines, path)
    first = next(rows)
    return Table(tuple(first[1]), chain([first], rows))


def _json_rows(lines: list[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    expected: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: {line[:40]} is not an object with names")
        row = dict(zip(_header(record, path), record.values(), strict=True))
        expected = expected or KNOWN & set(row)
        if KNOWN & set(row) != expected:
            raise DataError(
                f"{path}, line {number}: the names are {', '.join(row) or 'missing'}, but the "
                f"lines above have {', '.join(sorted(expected))}"
            )
        yield number, row


def _parquet(data: bytes, path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow; run: pip install 'minibert[data]'"
        ) from None
    try:
        content = parquet.ParquetFile(io.BytesIO(data)).read()
        columns = [column.to_pylist() for column in content.columns]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None
    header = _header(content.column_names, path)
    rows = (dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True))
    return Table(header, enumerate(rows, 1), unit="row")
