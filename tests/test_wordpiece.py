"""What the laws of `wordpiece` do not say: parity over all code points, costs, refusals."""

import re
import unicodedata
from inspect import signature

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proof import assert_holds, drawn
from tokenizers.implementations import BertWordPieceTokenizer
from wordpiece_parity import (
    CHARACTERS,
    CONTEXTS,
    compare,
    our_words,
    random_texts,
    reason,
    their_tokens,
    their_words,
)

from minibert.config import CheckpointError
from minibert.laws import spec_wordpiece as spec
from minibert.laws.wordpiece import (
    ENCODE,
    VOCABULARY,
    accepts,
    composed,
    delicate_characters,
    letters,
    library,
    spans_of,
    text_case,
)
from minibert.wordpiece import (
    CHINESE,
    SPECIALS,
    UNKNOWN,
    Encoding,
    Token,
    assemble,
    category,
    decompose,
    encode,
    is_chinese,
    is_punctuation,
    is_space,
    longest_match,
    normalise,
    read_vocabulary,
    shorten,
    split_specials,
    split_words,
)


def defaults_of(function):
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_only_these_arguments_have_defaults():
    assert defaults_of(normalise) == {"lowercase": True}
    assert defaults_of(encode) == {"lowercase": True, "specials": SPECIALS}
    assert defaults_of(assemble) == {"second": None, "length": None}
    for function in (read_vocabulary, longest_match, split_specials, split_words, shorten):
        assert defaults_of(function) == {}
    assert SPECIALS == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert UNKNOWN == "[UNK]"


def test_a_special_in_the_text_is_that_piece():
    found = encode("a[MASK]", {"[MASK]": 3, "a": 5})
    assert found == [Token("a", 5, 0, 1), Token("[MASK]", 3, 1, 7)]


def test_of_two_specials_that_begin_alike_the_longer_one_is_meant():
    found = list(split_specials("x<a><a>b<b", ["<a>", "<a>b", "<b", "<"]))
    assert [part for _, part, special in found if special] == ["<a>", "<a>b", "<b"]


def test_every_small_pair_is_shortened_as_the_spec_says():
    tokens = [Token("a", 0, 0, 1)] * 6
    for first in range(7):
        for second in range(7):
            for room in range(13):
                kept = shorten(tokens[:first], tokens[:second], room)
                assert tuple(map(len, kept)) == spec.shorten(first, second, room)


# Costs


class CountingVocabulary(set):
    lookups = 0

    def __contains__(self, piece):
        self.lookups += 1
        return super().__contains__(piece)


@pytest.mark.parametrize(("length", "most"), [(1, 1), (100, 5050), (101, 0), (10**6, 0)])
def test_a_word_costs_a_bounded_number_of_lookups(length, most):
    vocabulary = CountingVocabulary({"a", "##a"} if length <= 100 else {"a" * length})
    pieces = longest_match("a" * length, vocabulary)
    assert len(pieces) == (length if length <= 100 else 1)
    assert vocabulary.lookups <= most


def test_a_million_characters_in_one_word_are_one_unknown_token():
    word = "a" * 10**6
    assert encode(word, {UNKNOWN: 0, word: 1}, lowercase=False) == [Token(UNKNOWN, 0, 0, 10**6)]


@pytest.mark.parametrize(
    ("unit", "tokens_each"),
    [("\u0327\u0301", 0), ("☃ ", 1), ("[MASK", 5), ("[MASK]", 1), ("#", 1), ("日\u0301", 1)],
)
def test_long_inputs_are_cut_into_what_their_units_give(unit, tokens_each):
    tokens = encode(unit * 4_000, VOCABULARY)
    assert len(tokens) == tokens_each * 4_000


# Edges of the classes


def test_the_edges_of_ascii():
    assert [chr(c) for c in range(128) if is_space(chr(c))] == ["\t", "\n", "\r", " "]
    assert not is_punctuation("\x7f")
    assert is_punctuation("~")
    assert not is_punctuation(" ")
    assert is_punctuation("!")


def ranges_of(pattern):
    """(first, last) of each run of code points that a class of characters holds."""
    inside = [bool(pattern.match(chr(code))) for code in range(0x110000)]
    firsts = [c for c, there in enumerate(inside) if there and not inside[c - 1]]
    lasts = [c for c, there in enumerate(inside) if there and not inside[c + 1]]
    return list(zip(firsts, lasts, strict=True))


def test_the_chinese_blocks():
    assert ranges_of(CHINESE) == [
        (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF),
        (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
    ]  # fmt: skip
    for first, last in ranges_of(CHINESE):
        assert is_chinese(chr(first))
        assert is_chinese(chr(last))
        assert not is_chinese(chr(first - 1))
        assert not is_chinese(chr(last + 1))


def test_what_changed_after_unicode_8_is_named():
    assert [category(c) for c in "\u166d\u1734\U0001171e\U000111c9"] == ["Po", "Mn", "Mn", "Po"]
    assert all(category(c) == "Lo" for c in "\u061d\u07fd\u0890\u08e2\U0001e95f")


def test_texts_of_nothing():
    assert normalise("") == ("", [])
    assert normalise("\0\u0301") == ("", [])
    assert decompose("") == []
    assert split_words("") == split_words("  ") == []
    assert longest_match("", {"a"}) == []
    assert list(split_specials("", SPECIALS)) == [(0, "", False)]
    assert encode("", VOCABULARY) == encode(" \0", VOCABULARY) == []
    assert assemble(VOCABULARY, []).types == [0, 0]


# Parity with the `tokenizers` library beyond the drawn cases


@pytest.mark.parametrize("lowercase", [True, False])
@given(text=drawn(text_case))
@example(text="\u0301\u302e")  # sorting swaps the marks, their places stay
@example(text="e\u0301\u200b\u0327x İstanbul ΟΔΟΣ ﬁ Ⅳ ẞ")
@example(text="a[MASK]b[mask] [MASK][SEP]] [[UNK]")
@example(text="中a\u0301㐀\U0002b820b\U0002b920豈 각\u11a8")
@example(text="\x1c\x85\u2028\u3000x\u00a0y\ufeff\ufffdz\t")
def test_tokens_and_words_equal_the_library(lowercase, text):
    theirs = their_tokens([text], library(lowercase))[0]
    assert spans_of(encode(text, VOCABULARY, lowercase)) == theirs
    assert our_words(text, lowercase) == their_words(text, library(lowercase))


@pytest.mark.parametrize("lowercase", [True, False])
def test_random_awkward_strings_equal_the_library(lowercase):
    texts = list(random_texts(1500, seed=1))
    for text, same_tokens, same_words in compare(texts, VOCABULARY, library(lowercase), lowercase):
        assert (text, same_tokens, same_words) == (text, True, True)


def sampled_characters():
    """Every 151st code point, every fifth of the first ones, and all the delicate ones."""
    chosen = [*CHARACTERS[::151], *CHARACTERS[:0x3000:5], *delicate_characters()]
    return [*dict.fromkeys(chosen)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_sample_of_all_code_points_gives_the_words_of_the_library(context, lowercase):
    characters = [c for c in sampled_characters() if not reason(c)]
    assert len(characters) > 10_000
    for first in range(0, len(characters), 1000):
        chosen = characters[first : first + 1000]
        text = "\n".join(CONTEXTS[context].format(c) for c in chosen)
        assert our_words(text, lowercase) == their_words(text, library(lowercase))


def test_no_code_point_is_excused_but_those_that_the_versions_of_unicode_explain():
    # An excuse is a fact about Unicode's algorithms, found without minibert; see `reason`.
    excused = [c for c in sampled_characters() if reason(c)]
    assert len(excused) < 400
    assert not any(c < "\u02b0" for c in excused)
    newer = [c for c in excused if unicodedata.ucd_3_2_0.category(c) != "Cn"]
    assert newer == []  # none of them was a character in Unicode 3.2, of 2002


@given(st.lists(st.text("ab [MASK]é", max_size=9), min_size=2, max_size=2), st.integers(5, 20))
def test_pairs_and_truncation_equal_the_library(texts, length):
    oracle = library(True)
    oracle.enable_truncation(length, strategy="longest_first")
    pair, single = oracle.encode(*texts), oracle.encode(texts[0])
    oracle.no_truncation()
    first, second = (encode(text, VOCABULARY) for text in texts)
    for ours, theirs in (
        (assemble(VOCABULARY, first, second, length), pair),
        (assemble(VOCABULARY, first, None, length), single),
    ):
        assert ours.ids == theirs.ids
        assert ours.types == theirs.type_ids
        assert [(token.start, token.end) for token in ours.tokens] == theirs.offsets


@pytest.mark.real
@pytest.mark.parametrize("lowercase", [True, False])
def test_real_text_and_vocabulary_equal_the_library(data_dir, lowercase):
    path = data_dir / "bert-base-uncased-vocab.txt"
    vocabulary = read_vocabulary(path.read_text(encoding="utf-8"))
    assert len(vocabulary) == 30522
    oracle = BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase)
    for name, step in (("sst2/train.tsv", 297), ("sst2/dev.tsv", 7), ("wikitext2/test.txt", 29)):
        lines = (data_dir / name).read_text(encoding="utf-8").split("\n")[::step]
        assert len(lines) > 100
        for line, theirs in zip(lines, their_tokens(lines, oracle), strict=True):
            assert spans_of(encode(line, vocabulary, lowercase)) == theirs


def test_the_steps_put_together_obey_the_laws():
    """Otherwise the mistakes that are made of them would prove nothing."""
    for law in ENCODE.laws.values():
        for case in ENCODE.tried(law, 25):
            assert_holds(law, composed(), case)


# Specials and the layout


def test_the_longest_special_wins_and_one_outside_the_vocabulary_is_text():
    vocabulary = {UNKNOWN: 0, "<s>": 1, "<s><s>": 2, "<": 3, "s": 4, ">": 5}
    chosen = ("<s>", "<s><s>", "<t>")
    assert [t.id for t in encode("<s><s><s>s", vocabulary, specials=chosen)] == [2, 1, 4]
    assert [t.piece for t in encode("<t>", vocabulary, specials=chosen)] == ["<", UNKNOWN, ">"]


def test_the_layout_of_one_text_and_of_a_pair():
    one, two = letters(2), letters(1)
    cls, sep, a = (VOCABULARY[piece] for piece in ("[CLS]", "[SEP]", "a"))
    assert assemble(VOCABULARY, one).ids == [cls, a, a, sep]
    pair = assemble(VOCABULARY, one, two)
    assert pair.ids == [cls, a, a, sep, a, sep]
    assert pair.types == [0, 0, 0, 0, 1, 1]
    assert isinstance(pair, Encoding)
    assert assemble(VOCABULARY, one, []).types == [0, 0, 0, 0, 1]
    assert assemble(VOCABULARY, one, two, 3).ids == [cls, sep, sep]
    assert assemble(VOCABULARY, one, None, 2).ids == [cls, sep]


@pytest.mark.parametrize(("second", "length", "needed"), [(None, 1, 2), ([], 2, 3), ([], -1, 3)])
def test_a_length_without_room_is_refused(second, length, needed):
    message = rf"length is {length}, but \[CLS\] and \[SEP\] alone need {needed}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        assemble(VOCABULARY, letters(1), second, length)


# Bad input

LINES = [*SPECIALS, "cat", "\u2028", "\u00a0", "##s"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, "", "dog"], "vocabulary line 10 is empty; every line needs a piece"),
        ([*LINES, "dog", ""], "vocabulary line 11 is empty; every line needs a piece"),
        (
            [*LINES, "cat"],
            "vocabulary line 10 repeats 'cat' of line 6; every line needs a new piece",
        ),
        ([], "vocabulary line 1 is empty; every line needs a piece"),
        (
            [*SPECIALS[:2], "dog", SPECIALS[4]],
            "the vocabulary lacks [CLS], [SEP]; give each its own line",
        ),
        (["\ufeff[PAD]", *LINES[1:]], "the vocabulary lacks [PAD]; give each its own line"),
    ],
)
def test_a_damaged_vocabulary_is_refused_with_its_line(lines, message):
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        read_vocabulary("\n".join(lines) + "\n")


def test_one_line_feed_at_the_end_is_none_too_many():
    text = "\n".join(LINES)
    assert read_vocabulary(text) == read_vocabulary(text + "\n")
    assert not accepts(read_vocabulary, text + "\n\n")


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
@pytest.mark.parametrize("before", ["", "ab"])
def test_half_a_surrogate_pair_is_refused(code, before):
    message = (
        f"text[{len(before)}] is the lone surrogate U+{code:04X}, which is no character; "
        "decode the text's bytes as UTF-8, with errors='replace' if need be"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode(before + chr(code) + "c", VOCABULARY)
