"""Raw text: which paragraphs a file has, and that windows lose no piece of it."""

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.corpus import read_corpus, windows
from minibert.data.readers import DataError

TOKENIZER = tiny.tokenizer()
WORDS = st.sampled_from([*tiny.GOOD, *tiny.BAD, *tiny.NEUTRAL])


def test_empty_lines_part_paragraphs(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"one\r\ntwo\r\n\r\n\r\nthree\r\n")
    assert read_corpus([path]) == [["one two", "three"]]


def test_without_empty_lines_each_line_is_one(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\nthree")
    assert read_corpus([path]) == [["one", "two", "three"]]
    path.write_text("one\ntwo\n")
    assert read_corpus([path]) == [["one", "two"]]


def test_a_folder_is_its_files_by_name(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"text {name}\n")
    (tmp_path / "more").mkdir()
    assert read_corpus([tmp_path, tmp_path / "b.txt"]) == [
        ["text a.txt"], ["text b.txt"], ["text b.txt"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"caf\xe9\n", r"line 1: byte 0xe9 is not UTF-8"), (b" \n", "the file is empty")],
)
def test_files_that_are_no_text_are_refused(content, said, tmp_path):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_corpus([tmp_path])
    with pytest.raises(DataError, match="No such file"):
        read_corpus([tmp_path / "nowhere"])
    (tmp_path / "x.txt").unlink()
    with pytest.raises(DataError, match="the folder holds no file"):
        read_corpus([tmp_path])


@given(st.lists(st.lists(st.lists(WORDS, max_size=9), max_size=4), max_size=3), st.integers(3, 9))
def test_windows_hold_every_piece_once_in_order(files, length):
    corpus = [[" ".join(words) for words in paragraphs] for paragraphs in files]
    found = windows(corpus, TOKENIZER, length)
    pieces = [i for window in found for i in window.ids[1:-1]]
    words = [word for paragraphs in files for one in paragraphs for word in one]
    assert [TOKENIZER.pieces[i] for i in pieces] == words
    for window in found:
        assert (window.ids[0], window.ids[-1]) == (TOKENIZER.cls_id, TOKENIZER.sep_id)
        assert 3 <= len(window.ids) <= length
        assert window.types == [0] * len(window.ids)
    short = [window for window in found if len(window.ids) < length]
    assert len(short) <= len(files), "one that is not full for each file"


def test_a_window_needs_room_for_a_piece():
    with pytest.raises(ValueError, match="windows of 2 tokens"):
        windows([["a film"]], TOKENIZER, 2)
