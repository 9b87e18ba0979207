"""Augmentation: what changes, what never does, and where the words that stand in come from."""

import gzip
import struct
import sys
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibert.config import CheckpointError
from minibert.data import candidates, vectors
from minibert.data.augmentation import (
    FUNCTION_WORDS,
    augmented,
    changeable,
    changeable_words,
    joined,
    word_cutter,
    words_of,
)
from minibert.data.candidates import (
    Neighbours,
    masked_guesses,
    neighbours,
    neighbours_by_pieces,
    piece_means,
    word_table,
)
from minibert.data.readers import DataError, Example
from minibert.data.tokenizer import Tokenizer
from minibert.data.vectors import WordVectors, nearest_words, read_vectors
from minibert.encoder import encode
from minibert.heads import mlm_logits
from minibert.model import Bert
from minibert.wordpiece import SPECIALS

TOKENIZER = tiny.tokenizer()
TABLE = {
    "good": ("great", "fine", "bright"),
    "bad": ("poor",),
    "film": ("movie", "plot"),
    "the": ("this",),  # a function word, which stays all the same
    "a": ("one",),
}
CANDIDATES = Neighbours(TABLE, "a test")

WORDS = st.sampled_from(["good", "Good", "BAD", "film", "the", "a", "café", "x", "3", "...", "'"])
GAPS = st.sampled_from([" ", "  ", "\t", ", ", "-", "\u3000", "\x85 "])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=8).map(lambda parts: "".join(map("".join, parts)))
SINGLE = st.builds(Example, TEXTS, st.none(), st.sampled_from([None, 0, 1, 0.5]))
PAIRED = st.builds(Example, TEXTS, TEXTS, st.just(1))
EXAMPLES = st.lists(SINGLE, max_size=4) | st.lists(PAIRED, max_size=4)


def made(examples, copies=4, probability=0.4, seed=0):
    return augmented(examples, TOKENIZER, CANDIDATES, copies, probability, seed)


def groups(examples, **options):
    """The rows of each example: the rows of one more example are what came to those before."""
    cuts = [len(made(examples[:count], **options)) for count in range(len(examples) + 1)]
    rows = made(examples, **options)
    return [rows[start:end] for start, end in pairwise(cuts)]


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """The words of both texts side by side."""
    return list(zip(*(words_of(text, True).words for text in (before, after)), strict=True))


# ------------------------------------------------------------------------------------- sentences


@given(EXAMPLES, st.integers(0, 5), st.integers(0, 9))
def test_probability_0_leaves_the_examples(examples, copies, seed):
    rows = made(examples, copies, 0.0, seed)
    assert rows == list(examples)


@given(EXAMPLES, st.floats(0.05, 1), st.integers(0, 9))
def test_the_original_comes_first_and_no_row_comes_twice(examples, probability, seed):
    for example, rows in zip(
        examples, groups(examples, probability=probability, seed=seed), strict=True
    ):
        assert rows[0] == example
        assert len(rows) <= 5
        assert len(set(rows)) == len(rows)
        assert all(row.label is None for row in rows[1:])


@given(EXAMPLES, st.floats(0.05, 1), st.integers(0, 9))
def test_a_word_becomes_a_candidate_of_its_own_or_stays(examples, probability, seed):
    for rows in groups(examples, probability=probability, seed=seed):
        for row in rows[1:]:
            for before, after in zip(rows[0][:2], row[:2], strict=True):
                assert (before is None) == (after is None)
                for old, new in changes(before or "", after or ""):
                    offered = TABLE.get(old, ()) if changeable(old) else ()
                    assert new == old or new in offered


@given(EXAMPLES, st.integers(0, 9))
def test_at_probability_1_every_word_with_candidates_changes(examples, seed):
    for rows in groups(examples, probability=1.0, seed=seed):
        for row in rows[1:]:
            for before, after in zip(rows[0][:2], row[:2], strict=True):
                for old, new in changes(before or "", after or ""):
                    assert (new != old) == (old in ("good", "bad", "film"))


@given(TEXTS, st.integers(0, 9))
def test_all_else_stays_to_the_character(text, seed):
    """What is left when the words that may change are taken out is the same before and after."""
    pattern = [
        word for word in sorted({*TABLE, *(w for ws in TABLE.values() for w in ws)}, key=len)[::-1]
        if changeable(word)
    ]  # fmt: skip

    def bare(text: str) -> str:
        kept, done = [], 0
        words, spans = words_of(text, True)
        for word, (start, end) in zip(words, spans, strict=True):
            if word in pattern:
                kept.append(text[done:start])
                done = end
        return "_".join([*kept, text[done:]])

    rows = made([Example(text, None, None)], 6, 0.5, seed)
    assert {bare(row.first) for row in rows} == {bare(text)}


def test_spaces_marks_and_capitals_of_other_words_stay():
    rows = made([Example("It's  A GOOD\tfilm -- Rated X.", None, 1)], 300)
    assert {row.first for row in rows} == {
        f"It's  A {first}\t{second} -- Rated X."
        for first, second in product(
            ("GOOD", "great", "fine", "bright"), ("film", "movie", "plot")
        )
    }


@given(EXAMPLES, st.integers(0, 9))
def test_the_seed_alone_decides(examples, seed):
    assert made(examples, seed=seed) == made(examples, seed=seed)


def test_another_seed_gives_other_rows():
    example = Example("good film bad film good film", None, 1)
    assert made([example], 3, seed=0) != made([example], 3, seed=1)


@given(EXAMPLES, EXAMPLES, SINGLE, SINGLE)
def test_the_rows_of_an_example_do_not_depend_on_the_others(before, after, example, other):
    """Only its index counts: it may have other neighbours, and more of them behind it."""
    alone = groups([*[other] * len(before), example])[-1]
    assert groups([*before, example, *after])[len(before)] == alone


@pytest.mark.parametrize("text", ["", " ", "!!", "the a of it", "3 x", "unheard words"])
def test_a_text_without_candidates_comes_once(text):
    assert made([Example(text, None, 1)], 9, 1.0) == [Example(text, None, 1)]


def near(count: int, share: float, n: int) -> bool:
    """Within four standard deviations of what is to be expected of n draws."""
    return abs(count - share * n) < 4 * (n * share * (1 - share)) ** 0.5


def test_words_change_with_the_probability_and_to_every_candidate_alike():
    n = 6000
    seen = Counter(row.first for row in made([Example("good", None, 1)] * n, copies=1))
    assert seen.pop("good") == n  # the originals
    assert near(seen.total(), 0.4, n)
    assert all(near(seen[word], 0.4 / 3, n) for word in TABLE["good"])


def test_both_sentences_of_a_pair_change_independently():
    rows = made([Example("bad", "bad", 1)], 60)
    assert [row[:2] for row in rows[:1]] == [("bad", "bad")]
    assert {row[:2] for row in rows} == set(product(("bad", "poor"), repeat=2))
    n = 4000
    seen = Counter(row[:2] for row in made([Example("bad", "bad", 1)] * n, copies=1))
    assert near(seen["poor", "poor"], 0.16, n)
    assert near(seen["poor", "bad"], 0.24, n)


def test_a_cased_vocabulary_keeps_its_capitals_apart():
    cased = Tokenizer.from_vocabulary([*SPECIALS, "Good", "good"], lowercase=False)
    offered = Neighbours({"Good": ("Great",), "good": ("great",)}, "")
    rows = augmented([Example("Good good", None, 1)], cased, offered, 1, 1.0)
    assert rows[1].first == "Great great"


@given(st.lists(SINGLE, min_size=1, max_size=4), st.integers(0, 9), st.integers(0, 9))
def test_joined_texts_are_two_to_four_of_the_examples_in_a_row(examples, count, seed):
    rows = joined(examples, count, seed)
    firsts = [example.first.strip() for example in examples]
    possible = {" ".join(row) for k in (2, 3, 4) for row in product(firsts, repeat=k)}
    assert len(rows) == count
    assert {row.first for row in rows} <= possible
    assert {row[1:] for row in rows} <= {(None, None)}
    assert rows == joined(examples, count, seed)


def test_joined_texts_are_drawn_evenly():
    rows = joined([Example(letter, None, 1) for letter in "abcd"], 3000)
    lengths = Counter(len(row.first.split()) for row in rows)
    assert sorted(lengths) == [2, 3, 4]
    assert min(lengths.values()) > 900
    letters = Counter(letter for row in rows for letter in row.first.split())
    assert min(letters.values()) > 2000
    assert joined([Example("a", None, 1), Example("b", None, 0)], 50, 1) != joined(
        [Example("a", None, 1), Example("b", None, 0)], 50, 2
    )


@pytest.mark.parametrize(
    ("examples", "count"),
    [([], 1), ([Example("a", None, 1)], -1), ([Example("a", "b", 1)], 1)],
    ids=["none", "fewer than 0", "pairs"],
)
def test_what_cannot_be_joined_is_refused(examples, count):
    with pytest.raises(ValueError, match=r"joined: .* single texts, not pairs"):
        joined(examples, count)


@pytest.mark.parametrize(("copies", "probability"), [(-1, 0.4), (1, -0.1), (1, 1.1)])
def test_impossible_numbers_are_refused(copies, probability):
    with pytest.raises(ValueError, match=r"augmented: .* copies at probability"):
        made([], copies, probability)


# ----------------------------------------------------------------------------------------- words


@given(st.text() | TEXTS, st.booleans())
def test_cutting_at_spaces_first_finds_the_same_words(text, lowercase):
    tokenizer = Tokenizer.from_vocabulary(SPECIALS, lowercase)
    assert word_cutter(tokenizer)(text) == words_of(text, lowercase)


def test_function_words_marks_and_single_letters_may_not_change():
    assert not any(map(changeable, [*FUNCTION_WORDS, "The", "x", "3d", "##ing", "[MASK]", "'", ""]))
    assert all(map(changeable, ["film", "Good", "café", "ever"]))


def test_function_words_are_as_the_tokenizer_cuts_them():
    assert all(words_of(word, True).words == [word] for word in FUNCTION_WORDS)


def test_the_words_to_ask_for_come_once_and_sorted():
    assert changeable_words(["A film, a Plot.", "film the"], TOKENIZER) == ["film", "plot"]


# ------------------------------------------------------------------------------------ neighbours


@given(st.integers(0, 50), st.integers(1, 9))
def test_neighbours_are_the_largest_cosines(seed, k):
    matrix_VD = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
    words = ("apple", "pear", "plum", "fig", "lime", "nut", "date")
    table = neighbours(words, WordVectors(words, matrix_VD, ""), k).table
    for row, word in enumerate(words):
        cosines = torch.nn.functional.cosine_similarity(matrix_VD[row], matrix_VD)
        order = [other for other in cosines.argsort(descending=True).tolist() if other != row]
        assert list(table[word]) == [words[other] for other in order[:k]]


def test_blocks_change_nothing(monkeypatch):
    words = tuple(f"w{'abcdefghijk'[place]}" for place in range(11))
    table = WordVectors(words, torch.randn(11, 5, generator=torch.Generator().manual_seed(0)), "")
    whole = nearest_words(words, table, 3)
    monkeypatch.setattr(vectors, "BLOCK", 4)
    assert nearest_words(words, table, 3) == whole


def test_neighbours_are_words_that_may_change_of_the_case_of_the_words():
    words = ("good", "the", "Good", "x", "fine", "##er", "3rd")
    table = WordVectors(words, torch.eye(7) + 1, "")
    assert neighbours(["good", "the"], table).table == {"good": ("fine",)}
    assert neighbours(["good", "Fine"], table).table == {"good": ("Good", "fine")}


def test_a_word_without_vector_and_the_zero_vector_are_near_to_nothing():
    table = WordVectors(("good", "fine", "nil"), torch.tensor([[1.0, 0], [1, 1], [0, 0]]), "")
    assert neighbours(["good", "nil", "absent"], table).table == {"good": ("fine",)}
    assert neighbours(["good"], WordVectors((), torch.empty(0, 2), "")).table == {}
    with pytest.raises(ValueError, match="at least 1"):
        neighbours(["good"], table, 0)


def test_the_word_table_offers_whole_words_alone():
    pieces = [*SPECIALS, "[unused0]", "film", "##film", "x", "!", "the", "42", "plot"]
    config = tiny.config(vocab_size=len(pieces))
    bert = Bert.from_config(config, "encoder", Tokenizer.from_vocabulary(pieces))
    table = word_table(bert)
    assert table.words == ("film", "plot")
    assert torch.equal(table.matrix_VD, bert.weights.embeddings.word_VD[[6, 12]])
    with pytest.raises(CheckpointError, match="no vocabulary"):
        word_table(Bert.from_config(config))


def test_a_word_of_several_pieces_has_their_mean():
    pieces = [*SPECIALS, "film", "##film", "##s", "plot"]
    config = tiny.config(vocab_size=len(pieces))
    bert = Bert.from_config(config, "encoder", Tokenizer.from_vocabulary(pieces))
    words = ["films", "plot", "plotfilm", "unknown"]
    means = piece_means(words, bert)
    assert means.words == ("films", "plot", "plotfilm")
    rows_VD = bert.weights.embeddings.word_VD
    for place, ids in enumerate([[5, 7], [8], [8, 6]]):
        assert torch.equal(means.matrix_VD[place], rows_VD[ids].mean(0))
    found = neighbours_by_pieces(words, bert, 5)
    assert found.table == {"plot": ("film",), "films": ("plotfilm",), "plotfilm": ("films",)}
    assert "among 2 words of the model's word table; of several pieces, among 3" in found.source
    assert neighbours_by_pieces(["plot"], bert).table == {"plot": ("film",)}
    assert piece_means([], bert).matrix_VD.shape == (0, bert.config.hidden_size)


# --------------------------------------------------------------------------------------- guesses

PIECES = [*SPECIALS, *tiny.GOOD, *tiny.BAD, *tiny.NEUTRAL, "##ly", "!"]
SENTENCES = ["the film is bad!", "good brightly lovely song", "", "the", "awful plot of a day"]


def guesser(**changes) -> Bert:
    config = tiny.config(vocab_size=len(PIECES), **changes)
    return Bert.from_config(config, "mlm", Tokenizer.from_vocabulary(PIECES), seed=3)


def slow_guesses(bert: Bert, text: str, pair: bool, k: int) -> list[tuple[str, ...]]:
    """The guesses as the book makes them, one word at a time, over the whole vocabulary."""
    tokenizer = bert.tokenizer
    guesses = []
    for word, (start, end) in zip(*words_of(text, True), strict=True):
        if not changeable(word) or word not in PIECES:
            guesses.append(())
            continue
        masked = f"{text[:start]}[MASK]{text[end:]}"
        (encoding,) = tokenizer.encode([masked], [text] if pair else None)
        ids_BS, types_BS = torch.tensor([encoding.ids]), torch.tensor([encoding.types])
        keep_BS = torch.ones_like(ids_BS).bool()
        hidden_BSD = encode(ids_BS, keep_BS, types_BS, bert.weights, bert.config)
        hidden_MD = hidden_BSD[ids_BS == tokenizer.mask_id]
        logits_MV = mlm_logits(
            hidden_MD, bert.weights.mlm, bert.weights.embeddings.word_VD, bert.config
        )
        order = [PIECES[i] for i in logits_MV[0].argsort(descending=True).tolist()]
        guesses.append(tuple(p for p in order if changeable(p) and p != word)[:k])
    return guesses


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_guesses_are_those_of_the_book(pair, batch_size):
    bert = guesser()
    guesses = masked_guesses(SENTENCES, bert, 4, pair, batch_size=batch_size)
    for text in SENTENCES:
        found = guesses(words_of(text, True).words)
        assert [tuple(words) for words in found] == slow_guesses(bert, text, pair, 4)
    assert any(guesses(words_of(SENTENCES[0], True).words))


def test_guesses_may_be_made_in_half_precision():
    guesses = masked_guesses(SENTENCES, guesser(), 4, dtype=torch.bfloat16)
    exact = masked_guesses(SENTENCES, guesser(), 4)
    pairs = [
        (set(rounded), set(own))
        for words in exact.table
        for rounded, own in zip(guesses(words), exact(words), strict=True)
    ]
    assert sum(len(a & b) for a, b in pairs) > 0.8 * sum(len(b) for _, b in pairs)


def test_more_guesses_than_words_are_all_the_others():
    everything = {piece for piece in PIECES if changeable(piece)}
    (words,) = masked_guesses(["film"], guesser(), 999)(["film"])
    assert set(words) == everything - {"film"}
    assert len(words) == len(everything) - 1


def test_a_word_of_several_pieces_gets_what_the_fallback_offers():
    fallback = Neighbours({"brightly": ("warmly",), "good": ("fine",)}, "a file")
    guesses = masked_guesses(SENTENCES, guesser(), 3, fallback=fallback)
    good, brightly, lovely, song = guesses("good brightly lovely song".split())
    assert brightly == ("warmly",)
    assert all(len(words) == 3 for words in (good, lovely, song))
    assert "a file" in guesses.source


@pytest.mark.parametrize(("pair", "reached"), [(True, 8), (False, 18)])
def test_words_beyond_the_positions_get_what_the_fallback_offers(pair, reached):
    words = ["film"] * 25  # the model has 20 positions
    fallback = Neighbours({"film": ("plot",)}, "")
    found = masked_guesses([" ".join(words)], guesser(), 5, pair, fallback)(words)
    assert [len(one) for one in found] == [5] * reached + [1] * (25 - reached)


def test_guesses_serve_the_sentences_they_were_made_for_and_no_others():
    guesses = masked_guesses(SENTENCES, guesser())
    rows = augmented(
        [Example(text, None, 1) for text in SENTENCES], TOKENIZER, guesses, 5, 1.0
    )
    assert len(rows) > len(SENTENCES)
    with pytest.raises(ValueError, match="no guesses were made for the sentence 'another film'"):
        guesses(["another", "film"])


def test_models_that_cannot_guess_are_refused():
    with pytest.raises(CheckpointError, match="guessing masked words needs 'mlm'"):
        masked_guesses(["film"], tiny.classifier())
    with pytest.raises(CheckpointError, match="reads no pairs"):
        masked_guesses(["film"], guesser(type_vocab_size=1))
    with pytest.raises(CheckpointError, match="no vocabulary"):
        masked_guesses(["film"], Bert.from_config(tiny.config(), "mlm"))
    assert masked_guesses(["film"], guesser(type_vocab_size=1), 2, pair=False)(["film"])


# ------------------------------------------------------------------------------- files of vectors

ROWS = {"good": [0.5, -1.25, 2.0], "fine": [0.25, 1e-3, -8.0], "caf\u00e9": [1.0, 2.0, 3.0]}


def as_text(rows=ROWS, header=True) -> bytes:
    lines = [f"{word} {' '.join(map(str, numbers))}" for word, numbers in rows.items()]
    return "\n".join([f"{len(rows)} 3"] * header + lines + [""]).encode()


def as_binary(rows=ROWS) -> bytes:
    packed = [
        f"{word} ".encode() + struct.pack("<3f", *numbers) + b"\n"
        for word, numbers in rows.items()
    ]
    return f"{len(rows)} 3\n".encode() + b"".join(packed)


def read(folder: Path, content: bytes, name: str = "v.txt", limit: int | None = None):
    pytest.importorskip("gensim")
    (folder / name).write_bytes(content)
    return read_vectors(folder / name, limit)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (as_text(), "word2vec.txt"),
        (as_text(header=False), "glove.txt"),
        (as_binary(), "word2vec.bin"),
        (gzip.compress(as_text(), mtime=0), "word2vec.txt.gz"),
        (gzip.compress(as_text(header=False), mtime=0), "glove.txt.gz"),
        (gzip.compress(as_binary(), mtime=0), "word2vec.bin.gz"),
        (as_text().replace(b"\n", b"\r\n"), "word2vec.txt"),
    ],
)
def test_every_format_reads_alike(tmp_path, content, name):
    found = read(tmp_path, content, name)
    assert found.words == tuple(ROWS)
    assert torch.equal(found.matrix_VD, torch.tensor(list(ROWS.values())))
    assert read(tmp_path, content, name, limit=2).words == ("good", "fine")


def test_the_first_vector_of_a_word_counts(tmp_path):
    found = read(tmp_path, as_text(header=False) + b"good 9 9 8\nlast 7 7 8\n")
    assert found.words == (*ROWS, "last")
    assert found.matrix_VD.tolist()[1:] == torch.tensor([*ROWS.values(), [7, 7, 8]])[1:].tolist()
    assert found.matrix_VD[0].tolist() == ROWS["good"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"0 3\n", "promises 0 words"),
        (b"good fine bright\n", "not readable as word vectors"),
        (b"good\nfine\n", "no vector in the file"),
        (as_text()[:-20], "not readable as word vectors"),
        (as_text(header=False)[:-5], "not readable as word vectors"),
        (as_text(header=False)[:-9], "the vector of 'caf\u00e9' is cut short"),
        (as_binary()[:-6], "not readable as word vectors"),
        (as_text().replace(b"3 3", b"9 3", 1), "not readable as word vectors"),
        (as_text().replace(b"3 3", b"900000000000 3", 1), "promises 2,700,000,000,000 numbers"),
        (as_text().replace(b"-1.25", b"nan"), "the vector of 'good' is infinite or NaN"),
        (as_text().replace(b"1.0 2.0", b"1.0 1e99"), "the vector of 'caf\u00e9' is infinite"),
        (bytes(range(256)), "not readable as word vectors"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, content, reason):
    with pytest.raises(DataError) as refused:
        read(tmp_path, content)
    assert str(refused.value).startswith(str(tmp_path))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3


def test_what_is_no_file_is_refused(tmp_path):
    pytest.importorskip("gensim")
    with pytest.raises(DataError, match="No such file"):
        read_vectors(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="is a folder"):
        read_vectors(tmp_path)
    with pytest.raises(DataError, match="limit of 0"):
        read_vectors(tmp_path / "absent.txt", 0)


def test_without_gensim_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(DataError, match=r"pip install 'minibert\[vectors\]'"):
        read_vectors(tmp_path / "v.txt")


def test_augmentation_needs_no_gensim():
    assert "gensim" not in vars(candidates)
    assert "gensim" not in vars(vectors)


@pytest.mark.real
def test_real_vectors_put_like_words_together(data_dir):
    pytest.importorskip("gensim")
    (path,) = (data_dir / "glove").iterdir()
    table = read_vectors(path)
    assert table.matrix_VD.shape == (7844, 50)
    found = neighbours(["film", "good", "france"], table).table
    assert "movie" in found["film"]
    assert "better" in found["good"]
    assert "germany" in found["france"] or "spain" in found["france"]
