"""WordPiece: a recursive spec, the `tokenizers` library, laws, and mistakes to be rejected."""

import unicodedata
from functools import cache
from itertools import pairwise

import proof
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.implementations import BertWordPieceTokenizer
from wordpiece_parity import (
    CHARACTERS,
    CONTEXTS,
    awkward_characters,
    compare,
    our_words,
    random_texts,
    reason,
    their_tokens,
    their_words,
)

from minibert import wordpiece
from minibert.config import CheckpointError
from minibert.wordpiece import (
    CATEGORY_IN_8,
    CHINESE,
    GAINED_AFTER_8,
    SPECIALS,
    UNKNOWN,
    Token,
    assemble,
    category,
    decompose,
    encode,
    longest_match,
    normalise,
    read_vocabulary,
    shorten,
    split_specials,
    split_words,
)

# Dense in pieces, so that most short texts cut somewhere and a wrong normalisation changes an id.
STEMS = ["ab", "abc", "bcd", "de", "cafe", "café", "straße", "strasse", "ος", "οσ", "don", "a##"]
SINGLE = [chr(code) for code in [*range(0x21, 0x250), *range(0x391, 0x3CA)]]
KEPT = [c for pool in awkward_characters() for c in pool if len(c) == 1 and ord(c) > 0x3CA]
PIECES = dict.fromkeys(["##" * inside + c for c in STEMS + SINGLE + KEPT for inside in (0, 1)])
VOCABULARY = {piece: index for index, piece in enumerate([*SPECIALS, *PIECES])}

TEXTS = st.text(max_size=12).filter(lambda text: not any(reason(c) for c in text)) | st.lists(
    st.one_of([st.sampled_from(pool) for pool in awkward_characters()]), max_size=14
).map("".join)
# Few letters and many pieces, so that greedy choices, dead ends and detours are all common.
WORDS = st.text("abc", max_size=9)
CUTS = st.sets(
    st.builds(str.__add__, st.sampled_from(["", "##"]), st.text("abc", min_size=1, max_size=3))
)


@cache
def library(lowercase):
    return BertWordPieceTokenizer(vocab=VOCABULARY, lowercase=lowercase)


def spans(tokens):
    return [(token.id, token.start, token.end) for token in tokens]


def letters(count):
    return [Token("a", 7, index, index + 1) for index in range(count)]


# Spec: greedy matching as a recursion over the rest of the word.


def recursive_match(word, vocabulary, prefix=""):
    """The pieces of a greedy cut, or None where it dies."""
    if not word:
        return []
    sizes = [size for size in range(1, len(word) + 1) if prefix + word[:size] in vocabulary]
    if not sizes:
        return None
    rest = recursive_match(word[max(sizes) :], vocabulary, "##")
    return None if rest is None else [prefix + word[: max(sizes)], *rest]


def equals_the_recursion(match, case):
    word, vocabulary = case
    expected = recursive_match(word, vocabulary) if len(word) <= 100 else None
    return float(match(word, vocabulary) != ([UNKNOWN] if expected is None else expected)), 0


def loses_nothing(match, case):
    word, vocabulary = case
    pieces = match(word, vocabulary)
    joined = "".join(pieces[:1] + [piece[2:] for piece in pieces[1:]])
    return float(pieces != [UNKNOWN] and joined != word), 0


def continues_with_hashes(match, case):
    pieces = match(*case)
    return float(any(not piece.startswith("##") for piece in pieces[1:])), 0


def cuts_the_longest(match, case):
    word, vocabulary = case
    pieces = match(word, vocabulary)
    start, longer = 0, 0
    for piece in pieces if pieces != [UNKNOWN] else []:
        prefix = "##" if start else ""
        start_of_next = start + len(piece) - len(prefix)
        ends = range(start_of_next + 1, len(word) + 1)
        longer += sum(prefix + word[start:end] in vocabulary for end in ends)
        start = start_of_next
    return float(longer), 0


def keeps_a_known_word(match, case):
    word, vocabulary = case
    short = 0 < len(word) <= 100
    return float(short and match(word, {*vocabulary, word}) != [word]), 0


MATCH_LAWS = [
    equals_the_recursion, loses_nothing, continues_with_hashes, cuts_the_longest,
    keeps_a_known_word,
]  # fmt: skip


@pytest.mark.parametrize("law", MATCH_LAWS)
@given(WORDS, CUTS)
@example("abcabc", {"a", "ab", "##c", "##abc", "##ca"})
@example("a" * 100, {"a", "##aaa"})
@example("a" * 101, {"a", "##aaa"})
def test_longest_match_obeys(law, word, vocabulary):
    proof.holds(law, longest_match, (word, vocabulary))


def shortest_match(word, vocabulary):
    pieces = []
    while word:
        prefix = "##" if pieces else ""
        ends = [end for end in range(1, len(word) + 1) if prefix + word[:end] in vocabulary]
        if not ends:
            return [UNKNOWN]
        pieces.append(prefix + word[: ends[0]])
        word = word[ends[0] :]
    return pieces


def without_prefix(word, vocabulary):
    plain = {piece.removeprefix("##") for piece in vocabulary}
    return longest_match(word, plain | {"##" + piece for piece in plain})


def with_backtracking(word, vocabulary, prefix=""):
    """Finds a cut wherever there is one, as a lattice tokenizer does."""
    for end in range(len(word), 0, -1):
        if prefix + word[:end] in vocabulary:
            rest = with_backtracking(word[end:], vocabulary, "##") if word[end:] else []
            if rest != [UNKNOWN]:
                return [prefix + word[:end], *rest]
    return [UNKNOWN] if word else []


def keeping_what_matched(word, vocabulary):
    """[UNK] only for the rest in which nothing matched."""
    for end in range(len(word), 0, -1):
        head = longest_match(word[:end], vocabulary)
        if head != [UNKNOWN]:
            return head if end == len(word) else [*head, UNKNOWN]
    return [UNKNOWN] if word else []


def with_limit(limit):
    def match(word, vocabulary):
        return longest_match(word, vocabulary) if len(word) <= limit else [UNKNOWN]

    return match


def without_limit(word, vocabulary):
    pieces = recursive_match(word, vocabulary)
    return [UNKNOWN] if pieces is None else pieces


def without_hashes(word, vocabulary):
    return [piece.removeprefix("##") for piece in longest_match(word, vocabulary)]


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (shortest_match, cuts_the_longest),
        (shortest_match, keeps_a_known_word),
        (with_backtracking, equals_the_recursion),
        (keeping_what_matched, loses_nothing),
        (keeping_what_matched, continues_with_hashes),
        (without_prefix, equals_the_recursion),
        (without_hashes, continues_with_hashes),
        (with_limit(99), equals_the_recursion),
        (without_limit, equals_the_recursion),
    ],
)
def test_a_wrong_match_is_rejected(mistake, law):
    cases = [
        ("ab", {"a", "##b"}),
        ("abc", {"a", "ab", "##bc"}),  # greedy dies after ab; a ##bc would do
        ("abca", {"ab", "b", "##c"}),
        ("abab", {"ab", "a", "b"}),
        ("a" * 100, {"a", "##a"}),
        ("a" * 101, {"a", "##a"}),
    ]
    proof.rejects(law, mistake, longest_match, cases)


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


# Reference: the `tokenizers` library.


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=200)
@given(text=TEXTS)
@example(text="\u0301\u302e")  # sorting swaps the marks, their places stay
@example(text="e\u0301\u200b\u0327x İstanbul ΟΔΟΣ ﬁ Ⅳ ẞ")
@example(text="a[MASK]b[mask] [MASK][SEP]] [[UNK]")
@example(text="中a\u0301㐀\U0002b820b\U0002b920豈 각\u11a8")
@example(text="\x1c\x85\u2028\u3000x\u00a0y\ufeff\ufffdz\t")
def test_tokens_and_words_equal_the_library(lowercase, text):
    theirs = their_tokens([text], library(lowercase))[0]
    assert spans(encode(text, VOCABULARY, lowercase)) == theirs
    assert our_words(text, lowercase) == their_words(text, library(lowercase))


@pytest.mark.parametrize("lowercase", [True, False])
def test_random_awkward_strings_equal_the_library(lowercase):
    texts = list(random_texts(1500, seed=1))
    for text, same_tokens, same_words in compare(texts, VOCABULARY, library(lowercase), lowercase):
        assert (text, same_tokens, same_words) == (text, True, True)


def sampled_characters():
    """Every 151st code point, every fifth of the delicate ones, and the edges of every range."""
    ranges = [[int(edge, 16) for edge in span.split("-")] for span in GAINED_AFTER_8.split()]
    edges = [edge + step for span in [*ranges, *CHINESE] for edge in span for step in (-1, 0, 1)]
    delicate = [*map(chr, edges), *CATEGORY_IN_8, *map(chr, range(0x3000))]
    return [*dict.fromkeys([*CHARACTERS[::151], *delicate[::5], *delicate[: len(edges)]])]


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
            assert spans(encode(line, vocabulary, lowercase)) == theirs


# Laws of the text steps.


@given(st.text(max_size=20) | TEXTS)
def test_decompose_is_canonical_decomposition(text):
    parts = decompose(text)
    assert "".join(part for part, _ in parts) == unicodedata.normalize("NFD", text)
    assert sum(opens for _, opens in parts) == len(text)


@given(TEXTS, st.booleans())
def test_normalise_gives_every_character_a_place_and_settles_at_once(text, lowercase):
    normal, origins = normalise(text, lowercase)
    assert len(origins) == len(normal)
    assert origins == sorted(origins)
    assert set(origins) <= set(range(len(text)))
    assert normalise(normal, lowercase)[0] == normal


@given(TEXTS)
def test_words_hold_everything_but_the_spaces(text):
    normal, _ = normalise(text)
    words = [normal[start:end] for start, end in split_words(normal)]
    assert "".join(words) == normal.replace(" ", "")
    assert all(word and " " not in word for word in words)


@given(TEXTS, TEXTS, st.booleans())
def test_texts_beside_a_space_are_encoded_each_on_its_own(left, right, lowercase):
    shift = len(left) + 1
    moved = [
        token._replace(start=token.start + shift, end=token.end + shift)
        for token in encode(right, VOCABULARY, lowercase)
    ]
    both = encode(left, VOCABULARY, lowercase) + moved
    assert encode(f"{left} {right}", VOCABULARY, lowercase) == both


@given(TEXTS, st.booleans())
def test_tokens_lie_in_order_inside_the_text(text, lowercase):
    tokens = encode(text, VOCABULARY, lowercase)
    assert all(0 <= token.start < token.end <= len(text) for token in tokens)
    assert all(VOCABULARY[token.piece] == token.id for token in tokens)
    # Pieces of one character that decomposes, like 각, share it.
    assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(tokens))


@given(st.text("abcABC .,-", max_size=30))
def test_plain_text_can_be_read_back_from_the_spans(text):
    for token in encode(text, VOCABULARY):
        assert token.piece.removeprefix("##") == text[token.start : token.end].lower()


@given(st.text("[MASK]UNKa ", max_size=20))
def test_without_specials_only_text_is_left(text):
    parts = list(split_specials(text, SPECIALS))
    assert "".join(part for _, part, _ in parts) == text
    assert all(text.startswith(part, start) for start, part, _ in parts)
    assert all(special == (part in SPECIALS) for _, part, special in parts)
    assert "[MASK]" not in [token.piece for token in encode(text, VOCABULARY, specials=())]


def test_the_longest_special_wins_and_one_outside_the_vocabulary_is_text():
    vocabulary = {UNKNOWN: 0, "<s>": 1, "<s><s>": 2, "<": 3, "s": 4, ">": 5}
    chosen = ("<s>", "<s><s>", "<t>")
    assert [t.id for t in encode("<s><s><s>s", vocabulary, specials=chosen)] == [2, 1, 4]
    assert [t.piece for t in encode("<t>", vocabulary, specials=chosen)] == ["<", UNKNOWN, ">"]


@pytest.mark.parametrize(
    ("unit", "tokens_each"),
    [("\u0327\u0301", 0), ("☃ ", 1), ("[MASK", 5), ("[MASK]", 1), ("#", 1), ("日\u0301", 1)],
)
def test_long_inputs_are_cut_into_what_their_units_give(unit, tokens_each):
    tokens = encode(unit * 4_000, VOCABULARY)
    assert len(tokens) == tokens_each * 4_000


# Laws of the layout.


def fills_the_room(cut, case):
    first, second, room = case
    kept = cut(letters(first), letters(second), room)
    return float(sum(map(len, kept)) != min(first + second, room)), 0


def cuts_from_the_right(cut, case):
    first, second, room = case
    kept = cut(letters(first), letters(second), room)
    return float(any(part != letters(9)[: len(part)] for part in kept)), 0


def spares_the_shorter(cut, case):
    """A text is cut only where the other keeps no more than it does, give or take one."""
    first, second, room = case
    a, b = map(len, cut(letters(first), letters(second), room))
    return float((a < first and a < b - 1) or (b < second and b < a - 1)), 0


def gives_the_odd_token_to_the_second_of_equals(cut, case):
    first, second, room = case
    a, b = map(len, cut(letters(first), letters(second), room))
    return float(first == second and a > b), 0


SHORTEN_LAWS = [
    fills_the_room, cuts_from_the_right, spares_the_shorter,
    gives_the_odd_token_to_the_second_of_equals,
]  # fmt: skip


@pytest.mark.parametrize("law", SHORTEN_LAWS)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20))
def test_shorten_obeys(law, first, second, room):
    proof.holds(law, shorten, (first, second, room))


def one_by_one_as_google(first, second, room):
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


def only_the_first(first, second, room):
    return first[: max(0, room - len(second))], second[:room]


def from_the_left(first, second, room):
    less, more = (len(part) for part in shorten(first, second, room))
    return first[len(first) - less :], second[len(second) - more :]


def halves(first, second, room):
    return first[: room // 2], second[: room - room // 2]


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (one_by_one_as_google, gives_the_odd_token_to_the_second_of_equals),
        (only_the_first, spares_the_shorter),
        (from_the_left, cuts_from_the_right),
        (halves, fills_the_room),
    ],
)
def test_a_wrong_cut_is_rejected(mistake, law):
    cases = [(5, 5, 7), (6, 2, 6), (2, 6, 6), (0, 4, 3), (3, 3, 9)]
    proof.rejects(law, mistake, shorten, cases)


def test_the_layout_of_one_text_and_of_a_pair():
    one, two = letters(2), letters(1)
    cls, sep = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    assert assemble(VOCABULARY, one).ids == [cls, 7, 7, sep]
    pair = assemble(VOCABULARY, one, two)
    assert pair.ids == [cls, 7, 7, sep, 7, sep]
    assert pair.types == [0, 0, 0, 0, 1, 1]
    assert assemble(VOCABULARY, one, []).types == [0, 0, 0, 0, 1]
    assert assemble(VOCABULARY, one, two, 3).ids == [cls, sep, sep]


@pytest.mark.parametrize(("second", "length", "needed"), [(None, 1, 2), ([], 2, 3), ([], -1, 3)])
def test_a_length_without_room_is_refused(second, length, needed):
    with pytest.raises(ValueError, match=f"length is {length}, .* need {needed}"):
        assemble(VOCABULARY, letters(1), second, length)


# Known mistakes in the text steps: each must make some text differ from the library.


def lower_then_strip(text, lowercase=True):
    """Lower-cases whole words first, as Google's code does: a final sigma becomes ς."""
    return normalise(text.lower() if lowercase else text, lowercase)


def decomposed(form):
    """Each character decomposed on its own, the marks left where they stand."""
    return lambda text: [
        (part, k == 0) for c in text for k, part in enumerate(unicodedata.normalize(form, c))
    ]


def places_in_bytes(text, lowercase=True):
    normal, origins = normalise(text, lowercase)
    return normal, [len(text[:origin].encode()) for origin in origins]


def general(character):
    return unicodedata.category(character)


MISTAKES = {
    "categories of this Python": ("category", general),
    "every mark stripped": (
        "category", lambda c: "Mn" if general(c)[0] == "M" else category(c)
    ),
    "space as in str.isspace": ("is_space", str.isspace),
    "only ASCII space": ("is_space", lambda c: c in " \t\n\r"),
    "no line separators": ("is_space", lambda c: c in "\t\n\r" or general(c) == "Zs"),
    "nothing dropped": ("is_dropped", lambda c: False),
    "only controls dropped": ("is_dropped", lambda c: general(c) == "Cc"),
    "unassigned characters dropped": ("is_dropped", lambda c: general(c)[0] == "C"),
    "ASCII symbols in words": ("is_punctuation", lambda c: general(c)[0] == "P"),
    "all symbols alone": ("is_punctuation", lambda c: general(c)[0] in "PS"),
    "only ASCII punctuation": ("is_punctuation", lambda c: "!" <= c <= "~" and not c.isalnum()),
    "Chinese words whole": ("is_chinese", lambda c: False),
    "only the main Chinese block": ("is_chinese", lambda c: "\u4e00" <= c <= "\u9fff"),
    "the fifth block as in Unicode": ("CHINESE", (*CHINESE, (0x2B820, 0x2CEAF))),
    "Korean like Chinese": ("CHINESE", (*CHINESE, (0xAC00, 0xD7AF))),
    "no decomposition": ("decompose", lambda text: [(c, True) for c in text]),
    "compatibility decomposition": ("decompose", decomposed("NFKD")),
    "marks not sorted": ("decompose", decomposed("NFD")),
    "whole words lower-cased first": ("normalise", lower_then_strip),
    "cased text stripped": ("normalise", lambda text, lowercase=True: normalise(text)),
    "accents kept": ("normalise", lambda text, lowercase=True: normalise(text.lower(), False)),
    "places in bytes": ("normalise", places_in_bytes),
    "specials in any case": (
        "split_specials", lambda text, specials: split_specials(text.upper(), specials)
    ),
    "specials are text": ("split_specials", lambda text, specials: [(0, text, False)]),
    "a limit of 99": ("LONGEST_WORD", 99),
    "a limit of 200": ("LONGEST_WORD", 200),
    "shortest match": ("longest_match", shortest_match),
    "backtracking": ("longest_match", with_backtracking),
}  # fmt: skip
WITNESSES = [
    "Don't [MASK] the cafés, [mask]!", "naïve ABCDE de-bcd abx 50% <a|b> €5", "ΟΔΟΣ Straße ẞ İ ﬁ Ⅳ",
    "a\u00a0b\u2028c\u3000d\x1ce\x85f\tg\x0bh", "a\u200bb\ufeffc\xadd\ufffde\ue000f\0g \u0378",
    "日本語 㐀a豈b\U0002b820c\U0002b920d 각가", "«a»b、c。d¿e", "x\u08d4y\u2e43z\u1885",
    "a\u093eb\u0903c\u20ddd", "\u0301\u302e a\u0301\u0327b", "a" * 100, "b" * 101, "Aé" * 40,
]  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_step_is_rejected(name, monkeypatch):
    def differing():
        return [
            (text, lowercase)
            for lowercase in (True, False)
            for text in WITNESSES
            if spans(encode(text, VOCABULARY, lowercase))
            != their_tokens([text], library(lowercase))[0]
        ]

    assert differing() == []
    monkeypatch.setattr(wordpiece, *MISTAKES[name])
    assert differing() != []


# Bad input.

LINES = [*SPECIALS, "cat", "\u2028", "\u00a0", "##s"]


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("separator", ["\n", "\r\n"])
def test_only_line_feeds_end_a_line(separator, ending):
    vocabulary = read_vocabulary(separator.join(LINES) + ending)
    assert list(vocabulary) == LINES
    assert list(vocabulary.values()) == list(range(len(LINES)))
    assert len("\n".join(LINES).splitlines()) != len(LINES)  # the mistake that this rejects


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, "", "dog"], "line 10 is empty"),
        ([*LINES, "dog", ""], "line 11 is empty"),
        ([*LINES, "cat"], "line 10 repeats 'cat' of line 6"),
        ([], "line 1 is empty"),
        ([*SPECIALS[:2], "dog", SPECIALS[4]], r"lacks \[CLS\], \[SEP\]"),
        (["\ufeff[PAD]", *LINES[1:]], r"lacks \[PAD\]"),
    ],
)
def test_a_damaged_vocabulary_is_refused_with_its_line(lines, message):
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary("\n".join(lines) + "\n")


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_half_a_surrogate_pair_is_refused(code):
    with pytest.raises(ValueError, match=rf"text\[2\] is the lone surrogate U\+{code:04X}"):
        encode("ab" + chr(code), VOCABULARY)
