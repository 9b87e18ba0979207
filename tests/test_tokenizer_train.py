"""`minibert tokenizer train`: what it writes is read, by minibert and others, as it was trained."""

from collections import Counter
from pathlib import Path

import pytest
from command import documented, shape_of
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.corpus import word_counts
from minibert.data.tokenizer import Tokenizer
from minibert.wordpiece import SPECIALS, encode, normalise, split_words
from minibert.wordpiece_training import train_wordpiece

TEXT = "The cat sat on the mat.\nThe rat sat on the cat!\nA Café, a naïve cat.\n"


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "texts").mkdir()
    for number, line in enumerate(TEXT.splitlines()):
        (tmp_path / "texts" / f"{number}.txt").write_text(line + "\n", encoding="utf-8")
    return tmp_path / "texts"


@given(st.lists(st.text("aB é\u0301\n\t\u3000\x0b\x1c\x85\u2028,中", max_size=12), max_size=4),
       st.booleans())
def test_words_are_counted_as_whole_texts_are_parted(texts, lowercase):
    expected: Counter[str] = Counter()
    for text in texts:
        normal, _ = normalise(text, lowercase)
        expected.update(normal[a:b] for a, b in split_words(normal))
    assert word_counts([texts], lowercase) == expected
    assert word_counts([[text] for text in texts], lowercase) == expected


def test_what_is_written_is_the_vocabulary_that_was_trained(minibert, corpus, tmp_path):
    answer = minibert(f"tokenizer train --corpus {corpus} --vocab-size 40 --out made --json")
    assert answer.code == 0
    assert shape_of(answer.document) == shape_of(documented("tokenizer train"))
    counts = word_counts([TEXT.splitlines()])
    found = Tokenizer.from_folder(tmp_path / "made")
    assert list(found.pieces) == train_wordpiece(counts, 40)
    assert found.lowercase
    assert answer.document["tokenizer"] == "made"
    assert answer.document["pieces"] == len(found.pieces)
    assert answer.document["words"] == counts.total() == 21
    assert answer.document["different_words"] == len(counts)
    assert answer.document["unknown_words"] == 0
    (one,) = found.encode([TEXT])
    assert one.ids[1:-1] == [token.id for token in encode(TEXT, found.vocabulary)]
    assert found.unk_id not in one.ids
    assert answer.document["pieces_per_word"] == pytest.approx(len(one.ids[1:-1]) / 21)


def test_transformers_reads_what_is_written(minibert, corpus, tmp_path):
    transformers = pytest.importorskip("transformers")
    for case, cased in (("low", ""), ("cased", "--cased")):
        line = f"tokenizer train --corpus {corpus} --vocab-size 60 --out {case} {cased}"
        assert minibert(line).code == 0
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / case)
        ours = Tokenizer.from_folder(tmp_path / case)
        assert theirs("The Café")["input_ids"] == ours.encode(["The Café"])[0].ids
        assert ("T" in ours.pieces) == ("##é" in ours.pieces) == bool(cased)


def test_several_corpora_and_a_lower_bound_on_pairs(minibert, corpus, tmp_path):
    line = f"tokenizer train --corpus {corpus}/0.txt --corpus {corpus}/1.txt --vocab-size 99"
    assert minibert(f"{line} --min-count 3 --out few").code == 0
    answer = minibert(f"{line} --min-count 1 --out all")
    assert answer.out.startswith("all: ")
    assert "14 words, 8 different ones" in answer.err
    assert "26 pieces, as no pair is left with a count of 1 or more" in answer.err
    few, everything = (Tokenizer.from_folder(tmp_path / name).pieces for name in ("few", "all"))
    counts = word_counts([TEXT.splitlines()[:2]])
    assert list(few) == train_wordpiece(counts, 99, SPECIALS, 3)
    assert {"mat", "rat", "sat"} <= set(everything) - set(few)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("--corpus {c} --vocab-size 20", 2, "--vocab-size is too small for this corpus: "),
        ("--corpus {c} --vocab-size 5", 2, "5 is not in the range"),
        ("--corpus {c} --vocab-size 99 --min-count 0", 2, "0 is not in the range"),
        ("--corpus {c}/none --vocab-size 99", 3, "none: No such file"),
        ("--corpus {c}/../bad --vocab-size 99", 3, "bad, line 1: byte 0xff is not UTF-8"),
        ("--corpus {c}/../nothing --vocab-size 99", 3, "there is no word in the corpus"),
        ("--vocab-size 99", 2, "Missing option '--corpus'"),
    ],
)
def test_bad_input_is_one_sentence(more, code, said, minibert, corpus, tmp_path):
    (tmp_path / "bad").write_bytes(b"\xff\n")
    (tmp_path / "nothing").write_text("\u200b\n", encoding="utf-8")
    answer = minibert(f"tokenizer train {more.format(c=corpus)} --out made")
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.said
    assert not (tmp_path / "made").exists()


def test_a_vocabulary_that_is_there_is_not_overwritten(minibert, corpus, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "vocab.txt").write_text("mine")
    answer = minibert(f"tokenizer train --corpus {corpus} --vocab-size 99 --out made --json")
    assert answer.code == 2
    assert "--out made already holds vocab.txt" in answer.document["error"]
    assert (tmp_path / "made" / "vocab.txt").read_text() == "mine"
