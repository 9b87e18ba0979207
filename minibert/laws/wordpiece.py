"""Laws of `wordpiece`: which characters form words, are marks or dropped, and how words are cut.

Some thousand characters are checked at a time: all that are marks, punctuation, spaces or controls,
today or in Unicode 8.0, and a sample of the rest. Texts are drawn from letters,
accents, marks, ideographs, emoji, controls, punctuation and spaces of all kinds. The reference is
the `tokenizers` library.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tokenizers import PreTokenizedString, models, normalizers, pre_tokenizers
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.config import CheckpointError
from minibert.laws import spec_wordpiece as spec
from minibert.laws.law import Draw, Proof
from minibert.wordpiece import (
    SPECIALS,
    UNKNOWN,
    Encoding,
    Token,
    assemble,
    category,
    decompose,
    encode,
    is_chinese,
    is_dropped,
    is_punctuation,
    is_space,
    longest_match,
    normalise,
    read_vocabulary,
    shorten,
    split_specials,
    split_words,
)

TEXT = {
    "gradient": "text has no gradient",
    "accuracy": "nothing in a text is rounded",
}

# ------------------------------------------------------------------------ what texts are drawn from

MARKS = (  # of many combining classes, some of them not Mn (093e, 0903, 20dd, 1d165)
    "\u0300\u0301\u0308\u030a\u0327\u0328\u031b\u0323\u0334\u0345\u0315\u035c\u0360\u0591\u05b0"
    "\u064b\u0670\u0711\u093c\u094d\u0e38\u0f71\u0f72\u0f74\u302a\u302e\u3099\u093e\u0903\u20dd"
    "\U0001d165"
)
POOLS: tuple[Sequence[str], ...] = (
    "abcdeABCDE",
    "éÉïÅÅKçºªﬁßẞİIıΣσςſǅⅣ🄰０Ａ",
    " \t\n\r\v\f\0\x1c\x7f\x85\xa0\xad\u1680\u180e\u2028\u2029\u3000",
    "\u200b\u200d\u2060\ufeff\ufffd\ufff9\ue000\u0378",
    ".,!?-_#[]$^`~|<>+=§¿،。《》「·՚„‿￥€",
    "中文㐀豈\U0002f800\U0002b81f\U0002b820\U0002b920かカ가각힣\u1100\u1161\u11a8",
    ("[MASK]", "[mask]", "[SEP]", "[UNK]", "[", "MASK]", "##", "[[CLS]]", "[PAD"),
    "👍🏽🏳\ufe0f\u20e3🇩🇪\U000e0041\u202e\u0600אבجнд",
    MARKS,
    "가각\u0344\u0f73\u0f75\u0f81\u1e69\u1ea5\U0001d15e\U000110ab\U0001134b\U0001d1c0",
    "\u08d4\u2e43\u1885\u166d\u1734",  # whose category changed after Unicode 8.0
    ("ΑΣ", "ΟΔΟΣ", "ΑΣ ", "ΕΣ.", "İ", "ẞ"),  # where lower-casing is not one to one
    ("abc", "ABcde", "de", "don't", "CAFÉ", "strasse", "a中b", "中文", "bcd"),
    ("abc", "ab", "abcd", "e", "de", ".", "中"),
)


def text_case(draw: Draw) -> str:
    """A dozen characters, of kinds that differ from text to text."""
    pools = [draw.choice(POOLS) for _ in range(3)]
    return "".join(draw.choice(draw.choice(pools)) for _ in range(draw.integer(0, 12)))


class Cased(NamedTuple):
    text: str
    lowercase: bool


def cased_case(draw: Draw) -> Cased:
    """Most texts end with something that is often cut or lower-cased differently."""
    last = draw.choice(["", "ΟΔΟΣ", "ÉﬁΣ", "[SEP]", "a中b?!"])
    return Cased(text_case(draw) + last, draw.choice([True, False]))


# Many pieces, so that most short texts can be cut and a wrong normalisation changes an id.
STEMS = ["ab", "abc", "bcd", "de", "cafe", "café", "straße", "strasse", "ος", "οσ", "don", "a##"]
SINGLE = [chr(code) for code in [*range(0x21, 0x250), *range(0x391, 0x3CA)]]
KEPT = [c for pool in POOLS for c in pool if len(c) == 1 and ord(c) > 0x3CA]
PIECES = dict.fromkeys(["##" * inside + c for c in STEMS + SINGLE + KEPT for inside in (0, 1)])
VOCABULARY = {piece: index for index, piece in enumerate([*SPECIALS, *PIECES])}


@cache
def library(lowercase: bool = True) -> BertWordPieceTokenizer:
    return BertWordPieceTokenizer(vocab=VOCABULARY, lowercase=lowercase)


CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


def general(character: str) -> str:
    """The category in this Python's Unicode."""
    return unicodedata.category(character)


@cache
def delicate_characters() -> list[str]:
    """All marks, punctuation, spaces, controls and formats, of this Python and of Unicode 8.0.

    And the neighbours of the first and the last of each run of a class. The tables of the book are
    not used: an omission there would go unnoticed.
    """
    today = {c for c in CHARACTERS if general(c)[0] in "MPZC" and general(c) not in ("Cn", "Co")}
    classes = (today, spec.MARKS, spec.PUNCTUATION, spec.SPACES, spec.CONTROLS, spec.FORMATS)
    edges = [
        neighbour
        for members in (*classes, spec.PRIVATE, spec.CHINESE)
        for c in members
        if chr(max(0, ord(c) - 1)) not in members or chr(min(0x10FFFF, ord(c) + 1)) not in members
        for neighbour in (ord(c) - 1, ord(c), ord(c) + 1)
    ]
    sound = {chr(code) for code in edges if 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000}
    return sorted(sound.union(*classes, "\ufffd"))


def characters_case(draw: Draw) -> list[str]:
    """All the delicate characters, some of the first ones, and some of the others."""
    return [
        *CHARACTERS[draw.integer(0, 3988) :: 3989],
        *CHARACTERS[draw.integer(0, 96) : 0x3000 : 97],
        *delicate_characters(),
    ]


def wrongly(verdicts: Iterable[bool]) -> tuple[float, float]:
    """The count of what is wrong, which must be 0."""
    return float(sum(verdicts)), 0


# ------------------------------------------------------------------------------- read_vocabulary


class Lines(NamedTuple):
    pieces: list[str]
    ending: str
    last: str


def lines_case(draw: Draw) -> Lines:
    """A vocabulary whose pieces may be what other programs take for a line end or for nothing."""
    odd = [
        "\u2028",
        "\u00a0",
        "\x85",
        "\x0b",
        "\x1c",
        "\u3000",
        " ",
        "a ",
        " a",
        "#",
        "##s",
        "A",
        "a",
    ]
    extra = [draw.choice(odd) for _ in range(draw.integer(1, 6))]
    pieces = [*SPECIALS, *dict.fromkeys(extra)]
    return Lines(pieces, draw.choice(["\n", "\r\n"]), draw.choice(["", "\n"]))


def seen_lines_case(draw: Draw) -> Lines:
    """Without pieces that end in white space, which the library cuts off."""
    case = lines_case(draw)
    return case._replace(pieces=[piece for piece in case.pieces if piece == piece.rstrip()])


def as_text(case: Lines) -> str:
    return case.ending.join(case.pieces) + case.last


READ_VOCABULARY = Proof(read_vocabulary, lines_case, without=TEXT)


@READ_VOCABULARY.spec
def it_is_the_first_line_and_then_the_rest(formula, case):
    expected = list(spec.read_vocabulary(as_text(case)).items())
    return float(list(formula(as_text(case)).items()) != expected), 0


@READ_VOCABULARY.reference(cases=seen_lines_case)
def it_is_what_the_library_reads(formula, case):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text(as_text(case), encoding="utf-8", newline="")
        theirs = models.WordPiece.read_file(str(path))
    return float(formula(as_text(case)) != theirs), 0


@READ_VOCABULARY.law
def only_line_feeds_end_a_line(formula, case):
    return float(list(formula(as_text(case))) != case.pieces), 0


@READ_VOCABULARY.law
def ids_count_the_lines_from_zero(formula, case):
    return float(list(formula(as_text(case)).values()) != list(range(len(case.pieces)))), 0


@READ_VOCABULARY.law
def an_empty_a_repeated_or_a_missing_line_is_refused(formula, case):
    half = len(case.pieces) // 2
    damaged = [
        [*case.pieces[:half], "", *case.pieces[half:]],
        [*case.pieces, "", ""],
        [*case.pieces, case.pieces[half]],
        *([piece for piece in case.pieces if piece != special] for special in SPECIALS),
    ]
    return wrongly(accepts(formula, as_text(case._replace(pieces=lines))) for lines in damaged)


def accepts(formula: Callable[..., Any], *arguments: Any) -> bool:
    try:
        formula(*arguments)
    except (CheckpointError, ValueError):
        return False
    return True


@READ_VOCABULARY.mistake(only_line_feeds_end_a_line, it_is_the_first_line_and_then_the_rest)
def every_line_end_of_unicode(text):
    return {piece: index for index, piece in enumerate(text.splitlines())}


@READ_VOCABULARY.mistake(only_line_feeds_end_a_line)
def white_space_cut_off(text):
    return {line.strip(): index for index, line in enumerate(text.removesuffix("\n").split("\n"))}


@READ_VOCABULARY.mistake(it_is_what_the_library_reads, only_line_feeds_end_a_line)
def carriage_returns_kept(text):
    return {line: index for index, line in enumerate(text.removesuffix("\n").split("\n"))}


@READ_VOCABULARY.mistake(ids_count_the_lines_from_zero, it_is_what_the_library_reads)
def lines_counted_from_one(text):
    return {piece: index + 1 for piece, index in read_vocabulary(text).items()}


@READ_VOCABULARY.mistake(an_empty_a_repeated_or_a_missing_line_is_refused)
def damage_passed_over(text):
    return spec.read_vocabulary(text)


@READ_VOCABULARY.mistake(an_empty_a_repeated_or_a_missing_line_is_refused)
def empty_lines_passed_over(text):
    return read_vocabulary(re.sub(r"\n[\r\n]+", "\n", text))


# -------------------------------------------------------------------------------------- category


def without_marks(text: str) -> str:
    return normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
    ).normalize_str(text)


def cleaned(text: str) -> str:
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    ).normalize_str(text)


CATEGORY = Proof(category, characters_case, without=TEXT, cost=2)


@CATEGORY.spec
def its_class_is_that_of_unicode_8(formula, case):
    def kind(character):
        name = formula(character)
        if name in ("Mn", "Cc", "Cf", "Co"):
            return name
        return name[0] if name[0] in "PZ" else ""

    return wrongly(kind(c) != spec.kind(c) for c in case)


@CATEGORY.reference
def the_marks_are_those_that_the_library_strips(formula, case):
    return wrongly((formula(c) == "Mn") != (without_marks(c) == "") for c in case)


@CATEGORY.law
def what_is_old_and_never_changed_was_the_same_in_between(formula, case):
    """In Unicode 3.2, of 2002, and in this Python; letters and numbers are not told apart."""

    def asked(name):
        return "" if name[0] in "LN" else name

    old = unicodedata.ucd_3_2_0.category
    return wrongly(
        old(c) == general(c) != "Cn" and asked(formula(c)) != asked(old(c)) for c in case
    )


@CATEGORY.mistake(its_class_is_that_of_unicode_8, the_marks_are_those_that_the_library_strips)
def category_of_this_python(character):
    return general(character)


@CATEGORY.mistake(
    its_class_is_that_of_unicode_8, what_is_old_and_never_changed_was_the_same_in_between
)
def every_mark_is_one_without_width(character):
    return "Mn" if general(character)[0] == "M" else category(character)


@CATEGORY.mistake(its_class_is_that_of_unicode_8, the_marks_are_those_that_the_library_strips)
def category_of_unicode_3(character):
    return unicodedata.ucd_3_2_0.category(character)


@CATEGORY.mistake(what_is_old_and_never_changed_was_the_same_in_between)
def symbols_are_punctuation(character):
    return "Po" if general(character)[0] == "S" else category(character)


# -------------------------------------------------------------------------------------- is_space

IS_SPACE = Proof(is_space, characters_case, without=TEXT, cost=2)


@IS_SPACE.spec
def it_is_one_of_twenty_two_characters(formula, case):
    return wrongly(formula(c) != (c in spec.SPACES) for c in case)


@IS_SPACE.reference
def the_library_turns_it_into_a_space(formula, case):
    return wrongly(formula(c) != (cleaned(f"a{c}b") == "a b") for c in case)


@IS_SPACE.law
def python_splits_there_too_and_else_only_at_controls(formula, case):
    controls = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
    return wrongly(formula(c) != (c.isspace() and c not in controls) for c in case)


@IS_SPACE.mistake(
    it_is_one_of_twenty_two_characters, python_splits_there_too_and_else_only_at_controls
)
def space_as_in_python(character):
    return character.isspace()


@IS_SPACE.mistake(it_is_one_of_twenty_two_characters, the_library_turns_it_into_a_space)
def only_ascii_space(character):
    return character in " \t\n\r"


@IS_SPACE.mistake(it_is_one_of_twenty_two_characters)
def no_line_separators(character):
    return character in "\t\n\r" or general(character) == "Zs"


@IS_SPACE.mistake(the_library_turns_it_into_a_space)
def a_joiner_of_no_width_too(character):
    return is_space(character) or character in "\u200b\u200d"


# ------------------------------------------------------------------------------------ is_dropped

IS_DROPPED = Proof(is_dropped, characters_case, without=TEXT, cost=2)


@IS_DROPPED.spec
def controls_formats_private_characters_and_the_replacement(formula, case):
    return wrongly(formula(c) != spec.is_dropped(c) for c in case)


@IS_DROPPED.reference
def the_library_drops_it(formula, case):
    """It asks for spaces first, as `normalise` does; some of them are controls."""
    others = [c for c in case if c not in "\t\n\r"]
    return wrongly(formula(c) != (cleaned(f"a{c}b") == "ab") for c in others)


@IS_DROPPED.law
def nothing_that_is_printed_is_dropped(formula, case):
    return wrongly(formula(c) and c.isprintable() and c != "\ufffd" for c in case)


@IS_DROPPED.mistake(controls_formats_private_characters_and_the_replacement, the_library_drops_it)
def nothing_dropped(character):
    return False


@IS_DROPPED.mistake(controls_formats_private_characters_and_the_replacement)
def only_controls_dropped(character):
    return general(character) == "Cc"


@IS_DROPPED.mistake(the_library_drops_it)
def unassigned_characters_dropped(character):
    return general(character)[0] == "C"


@IS_DROPPED.mistake(controls_formats_private_characters_and_the_replacement, the_library_drops_it)
def the_replacement_character_kept(character):
    return is_dropped(character) and character != "\ufffd"


@IS_DROPPED.mistake(controls_formats_private_characters_and_the_replacement)
def private_characters_kept(character):
    return is_dropped(character) and general(character) != "Co"


@IS_DROPPED.mistake(nothing_that_is_printed_is_dropped)
def symbols_dropped(character):
    return is_dropped(character) or general(character) == "So"


# -------------------------------------------------------------------------------- is_punctuation

IS_PUNCTUATION = Proof(is_punctuation, characters_case, without=TEXT, cost=2)


def stands_alone(character: str) -> bool:
    """Does the library cut a word around it?"""
    return len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{character}b")) == 3


@IS_PUNCTUATION.spec
def it_is_on_the_list_of_unicode_8_or_a_symbol_of_ascii(formula, case):
    return wrongly(formula(c) != spec.is_punctuation(c) for c in case)


@IS_PUNCTUATION.reference
def the_library_lets_it_stand_alone(formula, case):
    return wrongly(formula(c) != stands_alone(c) for c in case)


@IS_PUNCTUATION.law
def letters_digits_spaces_and_controls_are_none(formula, case):
    return wrongly(formula(c) and general(c)[0] in "LNZC" for c in case)


@IS_PUNCTUATION.law
def all_that_ascii_prints_beside_letters_and_digits_is_some(formula, case):
    return wrongly(formula(chr(c)) != (chr(c) in string.punctuation) for c in range(128))


@IS_PUNCTUATION.mistake(all_that_ascii_prints_beside_letters_and_digits_is_some)
def ascii_symbols_in_words(character):
    return general(character)[0] == "P"


@IS_PUNCTUATION.mistake(
    it_is_on_the_list_of_unicode_8_or_a_symbol_of_ascii, the_library_lets_it_stand_alone
)
def all_symbols_alone(character):
    return general(character)[0] in "PS"


@IS_PUNCTUATION.mistake(
    it_is_on_the_list_of_unicode_8_or_a_symbol_of_ascii, the_library_lets_it_stand_alone
)
def only_ascii_punctuation(character):
    return character in string.punctuation


@IS_PUNCTUATION.mistake(it_is_on_the_list_of_unicode_8_or_a_symbol_of_ascii)
def punctuation_of_this_python(character):
    return is_punctuation(character) or general(character)[0] == "P"


@IS_PUNCTUATION.mistake(letters_digits_spaces_and_controls_are_none)
def whatever_is_no_letter(character):
    return not character.isalnum() and character != " "


# ------------------------------------------------------------------------------------ is_chinese

IS_CHINESE = Proof(is_chinese, characters_case, without=TEXT, cost=2)


def spaced(text: str) -> str:
    return normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
    ).normalize_str(text)


@IS_CHINESE.spec
def it_lies_in_one_of_eight_blocks(formula, case):
    return wrongly(formula(c) != (c in spec.CHINESE) for c in case)


@IS_CHINESE.reference
def the_library_puts_spaces_round_it(formula, case):
    return wrongly(formula(c) != (spaced(c) == f" {c} ") for c in case)


@IS_CHINESE.law
def its_name_is_that_of_an_ideograph(formula, case):
    """If it has a name: the blocks also have unassigned codes. Later blocks are not included."""
    names = ((c, unicodedata.name(c, "")) for c in case)
    return wrongly(
        formula(c) != name.startswith("CJK ")
        if c < "\U0002b820"
        else formula(c) and name[:3] != "CJK"
        for c, name in names
        if name and ("IDEOGRAPH" in name or not name.startswith("CJK "))
    )


@IS_CHINESE.mistake(
    it_lies_in_one_of_eight_blocks,
    the_library_puts_spaces_round_it,
    its_name_is_that_of_an_ideograph,
)
def chinese_words_whole(character):
    return False


@IS_CHINESE.mistake(it_lies_in_one_of_eight_blocks, its_name_is_that_of_an_ideograph)
def only_the_main_chinese_block(character):
    return "\u4e00" <= character <= "\u9fff"


@IS_CHINESE.mistake(it_lies_in_one_of_eight_blocks)
def the_seventh_block_as_in_unicode(character):
    return is_chinese(character) or "\U0002b820" <= character <= "\U0002ceaf"


@IS_CHINESE.mistake(its_name_is_that_of_an_ideograph)
def korean_like_chinese(character):
    return is_chinese(character) or "\uac00" <= character <= "\ud7af"


@IS_CHINESE.mistake(its_name_is_that_of_an_ideograph)
def japanese_like_chinese(character):
    return is_chinese(character) or "\u3040" <= character <= "\u30ff"


@IS_CHINESE.mistake(it_lies_in_one_of_eight_blocks)
def ends_of_blocks_left_out(character):
    return is_chinese(character) and is_chinese(chr(ord(character) + 1))


# ------------------------------------------------------------------------------------- decompose


def marked_case(draw: Draw) -> str:
    """Letters with many marks, in any order."""
    letters = "aeé가각\u1ea5\u1e69\u0344\u0f73 "
    pool = draw.choice([letters, MARKS, letters + MARKS])
    return "".join(draw.choice(pool) for _ in range(draw.integer(0, 9)))


def together(parts: Iterable[tuple[str, bool]]) -> str:
    return "".join(part for part, _ in parts)


DECOMPOSE = Proof(decompose, marked_case, without=TEXT)


@DECOMPOSE.spec
def marks_trade_places_until_their_classes_rise(formula, text):
    return float(formula(text) != spec.decompose(text)), 0


@DECOMPOSE.reference
def it_is_pythons_canonical_decomposition(formula, text):
    return float(together(formula(text)) != unicodedata.normalize("NFD", text)), 0


@DECOMPOSE.reference
def it_is_the_librarys_canonical_decomposition(formula, text):
    return float(together(formula(text)) != normalizers.NFD().normalize_str(text)), 0


@DECOMPOSE.law
def every_character_opens_once(formula, text):
    return abs(sum(opens for _, opens in formula(text)) - len(text)), 0


@DECOMPOSE.law
def it_settles_at_once(formula, text):
    once = formula(text)
    again = formula(together(once))
    return float([part for part, _ in again] != [part for part, _ in once]), 0


@DECOMPOSE.law
def a_letter_keeps_the_marks_of_both_sides_apart(formula, text):
    parts = [*formula(text), ("x", True), *formula(text)]
    return float(formula(f"{text}x{text}") != parts), 0


def decomposed_each(form):
    """Each character on its own, the marks left where they stand."""
    return lambda text: [
        (part, i == 0) for c in text for i, part in enumerate(unicodedata.normalize(form, c))
    ]


DECOMPOSE.mistake(
    it_is_pythons_canonical_decomposition,
    it_settles_at_once,
    name="marks_not_sorted",
)(lambda text: decomposed_each("NFD")(text)[::-1])
DECOMPOSE.mistake(
    marks_trade_places_until_their_classes_rise,
    it_is_the_librarys_canonical_decomposition,
    name="marks_left_where_they_stand",
)(decomposed_each("NFD"))


@DECOMPOSE.mistake(it_is_pythons_canonical_decomposition)
def no_decomposition(text):
    return [(character, True) for character in text]


@DECOMPOSE.mistake(every_character_opens_once, marks_trade_places_until_their_classes_rise)
def every_part_opens_a_character(text):
    return [(part, True) for part, _ in decompose(text)]


@DECOMPOSE.mistake(a_letter_keeps_the_marks_of_both_sides_apart)
def sorted_as_a_whole(text):
    return sorted(decompose(text), key=lambda entry: unicodedata.combining(entry[0]))


# ------------------------------------------------------------------------------------- normalise

NORMALISE = Proof(normalise, cased_case, without=TEXT)


@NORMALISE.spec
def each_character_is_dropped_a_space_or_its_lower_parts(formula, case):
    return float(formula(*case) != spec.normalise(*case)), 0


@NORMALISE.reference
def it_is_the_librarys_normal_form(formula, case):
    theirs = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=False,
        strip_accents=case.lowercase,
        lowercase=case.lowercase,
    ).normalize_str(case.text)
    return float(formula(*case)[0] != theirs), 0


@NORMALISE.law
def every_character_has_a_place_in_the_text_and_places_rise(formula, case):
    normal, origins = formula(*case)
    stray = sum(not 0 <= origin < len(case.text) for origin in origins)
    falls = sum(b < a for a, b in pairwise(origins))
    return abs(len(origins) - len(normal)) + stray + falls, 0


@NORMALISE.law
def a_normal_text_stays_as_it_is(formula, case):
    normal, _ = formula(*case)
    return float(formula(normal, case.lowercase)[0] != normal), 0


@NORMALISE.law
def cased_text_loses_nothing_but_controls(formula, case):
    normal, origins = formula(case.text, False)
    kept = [" " if is_space(case.text[origin]) else case.text[origin] for origin in origins]
    return float("".join(kept) != normal) + len(set(origins)) - len(origins), 0


@NORMALISE.law
def a_space_keeps_both_sides_apart(formula, case):
    normal, origins = formula(*case)
    moved = [origin + len(case.text) + 1 for origin in origins]
    expected = f"{normal} {normal}", [*origins, len(case.text), *moved]
    return float(formula(f"{case.text} {case.text}", case.lowercase) != expected), 0


@NORMALISE.mistake(
    each_character_is_dropped_a_space_or_its_lower_parts, it_is_the_librarys_normal_form
)
def whole_words_lower_cased_first(text, lowercase=True):
    """As Google's code does: a final sigma becomes ς."""
    return normalise(text.lower() if lowercase else text, lowercase)


@NORMALISE.mistake(cased_text_loses_nothing_but_controls, it_is_the_librarys_normal_form)
def cased_text_stripped(text, lowercase=True):
    return normalise(text, True)


@NORMALISE.mistake(
    it_is_the_librarys_normal_form, each_character_is_dropped_a_space_or_its_lower_parts
)
def lower_cased_with_its_accents(text, lowercase=True):
    return normalise(text.lower() if lowercase else text, False)


@NORMALISE.mistake(it_is_the_librarys_normal_form)
def stripped_but_not_lower_cased(text, lowercase=True):
    if not lowercase:
        return normalise(text, False)
    parts = [part for part, _ in decompose(normalise(text, False)[0]) if category(part) != "Mn"]
    return "".join(parts), list(range(len(parts)))


@NORMALISE.mistake(it_is_the_librarys_normal_form)
def compatible_characters_joined(text, lowercase=True):
    return normalise(unicodedata.normalize("NFKC", text), lowercase)


@NORMALISE.mistake(it_is_the_librarys_normal_form)
def controls_become_spaces(text, lowercase=True):
    return normalise("".join(" " if is_dropped(c) else c for c in text), lowercase)


@NORMALISE.mistake(
    every_character_has_a_place_in_the_text_and_places_rise,
    each_character_is_dropped_a_space_or_its_lower_parts,
)
def places_in_bytes(text, lowercase=True):
    normal, origins = normalise(text, lowercase)
    return normal, [len(text[:origin].encode()) for origin in origins]


@NORMALISE.mistake(a_space_keeps_both_sides_apart)
def places_in_the_normal_text(text, lowercase=True):
    normal, _ = normalise(text, lowercase)
    return normal, list(range(len(normal)))


@NORMALISE.mistake(a_normal_text_stays_as_it_is)
def cases_exchanged(text, lowercase=True):
    normal, origins = normalise(text, lowercase)
    return "".join(c.swapcase() if len(c.swapcase()) == 1 else c for c in normal), origins


# ----------------------------------------------------------------------------------- split_words


def normal_case(draw: Draw) -> str:
    text, lowercase = cased_case(draw)
    return normalise(text, lowercase)[0]


SPLIT_WORDS = Proof(split_words, normal_case, without=TEXT)


@SPLIT_WORDS.spec
def it_is_the_first_word_and_then_the_rest(formula, text):
    return float(formula(text) != spec.split_words(text)), 0


@SPLIT_WORDS.reference
def the_library_splits_there(formula, text):
    pieces = PreTokenizedString(text)
    pieces.normalize(lambda part: library(False).normalizer.normalize(part))
    library().pre_tokenizer.pre_tokenize(pieces)
    theirs = [span for _, span, _ in pieces.get_splits("original", "char")]
    return float(formula(text) != theirs), 0


@SPLIT_WORDS.law
def words_hold_everything_but_the_spaces(formula, text):
    words = [text[start:end] for start, end in formula(text)]
    empty = sum(not word or " " in word for word in words)
    return empty + float("".join(words) != text.replace(" ", "")), 0


@SPLIT_WORDS.law
def punctuation_and_ideographs_stand_alone(formula, text):
    words = [text[start:end] for start, end in formula(text)]
    return wrongly(
        len(word) > 1 and any(is_punctuation(c) or is_chinese(c) for c in word) for word in words
    )


@SPLIT_WORDS.law
def words_are_as_long_as_they_can_be(formula, text):
    """Of two that touch, one is a character that stands alone."""
    return wrongly(
        a[1] == b[0] and not any(is_punctuation(text[s]) or is_chinese(text[s]) for s, _ in (a, b))
        for a, b in pairwise(formula(text))
    )


@SPLIT_WORDS.mistake(
    punctuation_and_ideographs_stand_alone,
    it_is_the_first_word_and_then_the_rest,
    the_library_splits_there,
)
def only_at_spaces(text):
    return [match.span() for match in re.finditer("[^ ]+", text)]


@SPLIT_WORDS.mistake(punctuation_and_ideographs_stand_alone)
def punctuation_in_runs(text):
    runs = []
    for start, end in split_words(text):
        joined = runs and runs[-1][1] == start and is_punctuation(text[start - 1])
        if joined and is_punctuation(text[start]):
            start = runs.pop()[0]
        runs.append((start, end))
    return runs


@SPLIT_WORDS.mistake(the_library_splits_there, punctuation_and_ideographs_stand_alone)
def ideographs_in_words(text):
    hidden = "".join("x" if is_chinese(c) else c for c in text)
    return split_words(hidden)


@SPLIT_WORDS.mistake(words_hold_everything_but_the_spaces)
def punctuation_thrown_away(text):
    return [span for span in split_words(text) if not is_punctuation(text[span[0]])]


@SPLIT_WORDS.mistake(words_hold_everything_but_the_spaces, it_is_the_first_word_and_then_the_rest)
def the_last_word_forgotten(text):
    return split_words(text)[:-1]


@SPLIT_WORDS.mistake(words_are_as_long_as_they_can_be)
def every_character_a_word(text):
    return [(place, place + 1) for place, c in enumerate(text) if c != " "]


# --------------------------------------------------------------------------------- longest_match


class Word(NamedTuple):
    word: str
    vocabulary: frozenset[str]


def word_case(draw: Draw) -> Word:
    """Few letters and many pieces, so that greedy choices, dead ends and detours are all common."""

    def letters(least: int, most: int) -> str:
        return "".join(draw.choice("ab") for _ in range(draw.integer(least, most)))

    word, parts, start = letters(draw.choice([0, 4, 4]), 9), set(), 0
    while start < len(word):  # a cut that exists, and longer pieces that may lead astray
        prefix, end = "##" * (start > 0), start + draw.integer(1, 3)
        parts |= {prefix + word[start:end], prefix + word[start : end + 1]}
        start = end
    parts |= {draw.choice(["", "##"]) + letters(1, 3) for _ in range(draw.integer(0, 5))}
    if draw.integer(0, 9) == 0:
        word = "a" * draw.choice([99, 100, 101, 102, 200, 201])
        parts = {"a", draw.choice(["##a", "##aaa"])}
    return Word(word, frozenset(parts))


LONGEST_MATCH = Proof(longest_match, word_case, without=TEXT)


@LONGEST_MATCH.spec
def it_is_a_recursion_over_the_rest(formula, case):
    return float(formula(*case) != spec.longest_match(*case)), 0


@LONGEST_MATCH.reference
def the_library_cuts_there(formula, case):
    ids = {piece: index for index, piece in enumerate([UNKNOWN, *sorted(case.vocabulary)])}
    model = models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100)
    return float(formula(*case) != [token.value for token in model.tokenize(case.word)]), 0


@LONGEST_MATCH.law
def nothing_is_lost_or_all_is_unknown(formula, case):
    pieces = formula(*case)
    joined = "".join(pieces[:1] + [piece[2:] for piece in pieces[1:]])
    return float(pieces != [UNKNOWN] and joined != case.word), 0


@LONGEST_MATCH.law
def a_piece_inside_a_word_begins_with_hashes(formula, case):
    return wrongly(not piece.startswith("##") for piece in formula(*case)[1:])


@LONGEST_MATCH.law
def every_piece_is_known(formula, case):
    return wrongly(piece not in {*case.vocabulary, UNKNOWN} for piece in formula(*case))


@LONGEST_MATCH.law
def no_longer_piece_would_have_matched(formula, case):
    pieces, start, longer = formula(*case), 0, 0
    for piece in pieces if pieces != [UNKNOWN] else []:
        prefix = "##" if start else ""
        end = start + len(piece) - len(prefix)
        ends = range(end + 1, len(case.word) + 1)
        longer += sum(prefix + case.word[start:e] in case.vocabulary for e in ends)
        start = end
    return longer, 0


@LONGEST_MATCH.law
def a_known_word_is_itself(formula, case):
    short = 0 < len(case.word) <= 100
    return float(short and formula(case.word, {*case.vocabulary, case.word}) != [case.word]), 0


@LONGEST_MATCH.law
def a_word_of_over_a_hundred_characters_is_unknown(formula, case):
    """Even if it is in the vocabulary; one of a hundred is not."""
    found = [formula("b" * n, {"b" * n, "b", "##b"}) for n in (99, 100, 101, 102, 200)]
    wanted = [["b" * 99], ["b" * 100], *[[UNKNOWN]] * 3]
    return wrongly(a != b for a, b in zip(found, wanted, strict=True))


@LONGEST_MATCH.law
def the_pieces_of_a_cut_are_cut_alike(formula, case):
    """What follows the first piece is a word of its own, looked up with hashes."""
    pieces = formula(*case)
    if len(pieces) < 2:
        return 0, 0
    inside = {piece for piece in case.vocabulary if piece.startswith("##")}
    opening = {piece.removeprefix("##") for piece in inside}
    again = formula(case.word[len(pieces[0]) :], inside | opening)
    return float(again != [pieces[1][2:], *pieces[2:]]), 0


@LONGEST_MATCH.mistake(no_longer_piece_would_have_matched, a_known_word_is_itself)
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


@LONGEST_MATCH.mistake(
    it_is_a_recursion_over_the_rest,
    the_library_cuts_there,
    source="https://github.com/axa-group/nlp.js/issues/1192",
)
def longest_match_from_the_back(word, vocabulary):
    if len(word) > 100:
        return [UNKNOWN]
    pieces = []
    end = len(word)
    while end:
        for start in range(end):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [UNKNOWN]
        pieces.insert(0, piece)
        end = start
    return pieces


@LONGEST_MATCH.mistake(it_is_a_recursion_over_the_rest)
def fewest_pieces(word, vocabulary):
    """The cut into the fewest pieces, searched from the front."""
    cuts = [[]] if len(word) <= 100 else []
    seen = {0}
    while cuts:
        pieces, *cuts = cuts
        at = sum(len(piece) - 2 * (i > 0) for i, piece in enumerate(pieces))
        if at == len(word):
            return pieces
        for end in range(len(word), at, -1):
            piece = ("##" if at else "") + word[at:end]
            if piece in vocabulary and end not in seen:
                seen.add(end)
                cuts.append([*pieces, piece])
    return [UNKNOWN]


@LONGEST_MATCH.mistake(it_is_a_recursion_over_the_rest, the_library_cuts_there)
def with_backtracking(word, vocabulary, prefix=""):
    """Finds a cut wherever there is one, as a lattice tokenizer does."""
    if len(word) > 100:
        return [UNKNOWN]
    for end in range(len(word), 0, -1):
        if prefix + word[:end] in vocabulary:
            rest = with_backtracking(word[end:], vocabulary, "##") if word[end:] else []
            if rest != [UNKNOWN]:
                return [prefix + word[:end], *rest]
    return [UNKNOWN] if word else []


@LONGEST_MATCH.mistake(
    nothing_is_lost_or_all_is_unknown,
    a_piece_inside_a_word_begins_with_hashes,
    source="https://github.com/google-research/bert/issues/763",
)
def what_matched_is_kept_before_the_unknown(word, vocabulary):
    for end in range(len(word), 0, -1):
        head = longest_match(word[:end], vocabulary)
        if head != [UNKNOWN]:
            return head if end == len(word) else [*head, UNKNOWN]
    return [UNKNOWN] if word else []


@LONGEST_MATCH.mistake(nothing_is_lost_or_all_is_unknown)
def unknown_characters_passed_over(word, vocabulary):
    while word and longest_match(word, vocabulary) == [UNKNOWN]:
        word = word[:-1]
    return longest_match(word, vocabulary)


@LONGEST_MATCH.mistake(it_is_a_recursion_over_the_rest)
def hashes_make_no_difference(word, vocabulary):
    plain = {piece.removeprefix("##") for piece in vocabulary}
    return longest_match(word, plain | {"##" + piece for piece in plain})


@LONGEST_MATCH.mistake(every_piece_is_known)
def words_begin_with_a_space(word, vocabulary):
    """The sign of another kind of vocabulary."""
    pieces = longest_match(word, vocabulary)
    return pieces if pieces == [UNKNOWN] else ["▁" + pieces[0], *pieces[1:]] if pieces else []


@LONGEST_MATCH.mistake(a_piece_inside_a_word_begins_with_hashes)
def without_hashes(word, vocabulary):
    return [piece.removeprefix("##") for piece in longest_match(word, vocabulary)]


@LONGEST_MATCH.mistake(the_pieces_of_a_cut_are_cut_alike)
def longest_first_and_then_shortest(word, vocabulary):
    pieces = longest_match(word, vocabulary)
    rest = word[len(pieces[0]) :] if len(pieces) > 1 else ""
    short = []
    while rest:
        end = next((n for n in range(1, len(rest) + 1) if "##" + rest[:n] in vocabulary), 0)
        if not end:
            return pieces
        short, rest = [*short, "##" + rest[:end]], rest[end:]
    return pieces[:1] + short if short else pieces


def with_limit(limit: int) -> Callable[[str, Collection[str]], list[str]]:
    def match(word, vocabulary):
        if len(word) > limit:
            return [UNKNOWN]
        pieces = spec._greedy(word, vocabulary, "")
        return [UNKNOWN] if pieces is None else pieces

    return match


for limit in (99, 101, 200, 10**9):
    law = a_word_of_over_a_hundred_characters_is_unknown
    LONGEST_MATCH.mistake(law, name=f"a_limit_of_{limit}")(with_limit(limit))


# -------------------------------------------------------------------------------- split_specials


def special_text_case(draw: Draw) -> str:
    parts = ["[MASK]", "[MASK", "MASK]", "[mask]", "[SEP]", "[UNK]", "[[CLS]]", "a", "b ", " ", "é"]
    return "".join(draw.choice(parts) for _ in range(draw.integer(0, 7)))


class Nested(NamedTuple):
    """Specials of which one is the beginning of another."""

    text: str
    specials: list[str]


def nested_case(draw: Draw) -> Nested:
    text = "".join(draw.choice(["<s>", "<s", ">", "<s><s>", "a", "."]) for _ in range(6))
    specials = ["<s>", "<s><s>", "<s><s>a", "."]
    first = draw.integer(0, 3)
    return Nested(text, specials[first:] + specials[:first])


SPLIT_SPECIALS = Proof(split_specials, special_text_case, without=TEXT)


@SPLIT_SPECIALS.spec
def it_is_the_first_special_and_then_the_rest(formula, text):
    return float(list(formula(text, SPECIALS)) != spec.split_specials(text, SPECIALS)), 0


@SPLIT_SPECIALS.reference
def the_library_finds_the_same_ones(formula, text):
    encoding = library().encode(text, add_special_tokens=False)
    theirs = [
        (start, piece)
        for piece, (start, _) in zip(encoding.tokens, encoding.offsets, strict=True)
        if piece in SPECIALS
    ]
    ours = [(start, part) for start, part, special in formula(text, SPECIALS) if special]
    return float(ours != theirs), 0


@SPLIT_SPECIALS.law
def parts_laid_end_to_end_are_the_text(formula, text):
    parts = list(formula(text, SPECIALS))
    stray = sum(not text.startswith(part, start) for start, part, _ in parts)
    return stray + float("".join(part for _, part, _ in parts) != text), 0


@SPLIT_SPECIALS.law
def no_special_is_left_in_a_part_and_no_part_is_called_one(formula, text):
    return wrongly(
        any(name in part for name in SPECIALS) if not special else part not in SPECIALS
        for _, part, special in formula(text, SPECIALS)
    )


@SPLIT_SPECIALS.law
def without_specials_the_text_is_one_part(formula, text):
    return float(list(formula(text, ())) != [(0, text, False)]), 0


@SPLIT_SPECIALS.law(cases=nested_case)
def the_longest_special_wins_in_whatever_order_they_are_given(formula, case):
    expected = spec.split_specials(*case)
    return float(list(formula(*case)) != expected), 0


@SPLIT_SPECIALS.law
def dots_in_a_special_mean_dots(formula, text):
    return float(list(formula(text, (".", "(a"))) != [(0, text, False)]), 0


@SPLIT_SPECIALS.mistake(
    no_special_is_left_in_a_part_and_no_part_is_called_one, the_library_finds_the_same_ones
)
def specials_are_text(text, specials):
    return [(0, text, False)]


@SPLIT_SPECIALS.mistake(the_library_finds_the_same_ones)
def specials_in_any_case(text, specials):
    return split_specials(text.upper(), specials)


@SPLIT_SPECIALS.mistake(
    the_library_finds_the_same_ones,
    it_is_the_first_special_and_then_the_rest,
    source="https://github.com/huggingface/transformers/pull/2051",
)
def lower_cased_before_they_are_cut_out(text, specials):
    return split_specials(text.lower(), specials)


@SPLIT_SPECIALS.mistake(parts_laid_end_to_end_are_the_text)
def places_counted_without_specials(text, specials):
    start = 0
    parts = []
    for _, part, special in split_specials(text, specials):
        parts.append((start, part, special))
        start += 0 if special else len(part)
    return parts


@SPLIT_SPECIALS.mistake(the_longest_special_wins_in_whatever_order_they_are_given)
def the_first_special_wins(text, specials):
    parts = re.split("(" + "|".join(map(re.escape, specials)) + ")", text)
    return [(len("".join(parts[:i])), part, i % 2 == 1) for i, part in enumerate(parts)]


@SPLIT_SPECIALS.mistake(dots_in_a_special_mean_dots)
def specials_as_patterns(text, specials):
    pattern = "|".join(special.replace("(", "") for special in specials)
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [(0, part, i % 2 == 1) for i, part in enumerate(parts)]


@SPLIT_SPECIALS.mistake(without_specials_the_text_is_one_part)
def always_the_five(text, specials):
    return split_specials(text, specials or SPECIALS)


# ---------------------------------------------------------------------------------------- encode


def pair_of_texts_case(draw: Draw) -> tuple[str, str, bool]:
    return text_case(draw), text_case(draw), draw.choice([True, False])


def plain_case(draw: Draw) -> str:
    return "".join(draw.choice("abcABC .,-") for _ in range(draw.integer(0, 30)))


def spans_of(tokens: Sequence[Token]) -> list[tuple[int, int, int]]:
    return [(token.id, token.start, token.end) for token in tokens]


def in_vocabulary(formula: Callable[..., Any], case: Cased) -> list[Token]:
    return formula(case.text, VOCABULARY, case.lowercase)


ENCODE = Proof(encode, cased_case, without=TEXT)


@ENCODE.spec
def it_is_specials_then_words_then_pieces(formula, case):
    expected = spec.encode(case.text, VOCABULARY, case.lowercase, SPECIALS)
    return float(list(map(tuple, in_vocabulary(formula, case))) != expected), 0


@ENCODE.reference
def ids_and_spans_are_those_of_the_library(formula, case):
    theirs = library(case.lowercase).encode(case.text, add_special_tokens=False)
    expected = [(i, *span) for i, span in zip(theirs.ids, theirs.offsets, strict=True)]
    return float(spans_of(in_vocabulary(formula, case)) != expected), 0


@ENCODE.law(cases=pair_of_texts_case)
def texts_beside_a_space_are_encoded_each_on_its_own(formula, case):
    left, right, lowercase = case
    shift = len(left) + 1
    moved = [
        token._replace(start=token.start + shift, end=token.end + shift)
        for token in formula(right, VOCABULARY, lowercase)
    ]
    both = formula(left, VOCABULARY, lowercase) + moved
    return float(formula(f"{left} {right}", VOCABULARY, lowercase) != both), 0


@ENCODE.law
def tokens_lie_in_order_inside_the_text(formula, case):
    """Pieces of one character that decomposes, like 각, share it."""
    tokens = in_vocabulary(formula, case)
    outside = sum(not 0 <= token.start < token.end <= len(case.text) for token in tokens)
    return outside + sum(a.start > b.start or a.end > b.end for a, b in pairwise(tokens)), 0


@ENCODE.law
def every_token_has_the_id_of_its_piece(formula, case):
    return wrongly(VOCABULARY[token.piece] != token.id for token in in_vocabulary(formula, case))


@ENCODE.law(cases=plain_case)
def plain_text_can_be_read_back_from_the_spans(formula, text):
    return wrongly(
        token.piece.removeprefix("##") != text[token.start : token.end].lower()
        for token in formula(text, VOCABULARY)
    )


@ENCODE.law(cases=special_text_case)
def a_text_of_strangers_holds_no_special(formula, text):
    return wrongly(t.piece == "[MASK]" for t in formula(text, VOCABULARY, True, ()))


@ENCODE.law
def an_unknown_token_is_its_whole_word(formula, case):
    """With no other piece in the vocabulary, tokens are words."""
    tokens = formula(case.text, {UNKNOWN: 0}, case.lowercase, ())
    normal, origins = normalise(case.text, case.lowercase)
    words = [(0, origins[a], origins[b - 1] + 1) for a, b in split_words(normal)]
    return float(spans_of(tokens) != words), 0


@ENCODE.law
def half_a_surrogate_pair_is_refused(formula, case):
    texts = [case.text + chr(code) + "x" for code in (0xD800, 0xDBFF, 0xDC00, 0xDFFF)]
    return wrongly(accepts(formula, text, VOCABULARY) for text in texts)


def composed(
    split_specials: Callable[..., Any] = split_specials,
    normalise: Callable[..., Any] = normalise,
    split_words: Callable[..., Any] = split_words,
    longest_match: Callable[..., Any] = longest_match,
    whole: bool = True,
) -> Callable[..., list[Token]]:
    """`encode` made of other steps; an unknown word spans the whole word, or one character."""

    def variant(text, vocabulary, lowercase=True, specials=SPECIALS):
        if not accepts(str.encode, text):
            raise ValueError(text)
        tokens = []
        for offset, part, special in split_specials(text, [s for s in specials if s in vocabulary]):
            if special:
                tokens.append(Token(part, vocabulary[part], offset, offset + len(part)))
                continue
            normal, origins = normalise(part, lowercase)
            for word_start, word_end in split_words(normal):
                start = word_start
                for piece in longest_match(normal[word_start:word_end], vocabulary):
                    size = len(piece) - 2 * (start > word_start)
                    end = start + size if piece != UNKNOWN else word_end if whole else start + 1
                    first, last = offset + origins[start], offset + origins[end - 1]
                    tokens.append(Token(piece, vocabulary[piece], first, last + 1))
                    start = end
        return tokens

    return variant


IT_IS_THE_LIBRARYS = ids_and_spans_are_those_of_the_library, it_is_specials_then_words_then_pieces
for name, laws, source, steps in (
    ("specials_are_text", IT_IS_THE_LIBRARYS, "", {"split_specials": specials_are_text}),
    (
        "specials_in_any_case",
        (ids_and_spans_are_those_of_the_library,),
        "",
        {"split_specials": specials_in_any_case},
    ),
    (
        "specials_are_always_special",
        (a_text_of_strangers_holds_no_special,),
        "",
        {"split_specials": lambda text, specials: split_specials(text, SPECIALS)},
    ),
    ("places_in_bytes", (tokens_lie_in_order_inside_the_text,), "", {"normalise": places_in_bytes}),
    (
        "places_in_the_normal_text",
        IT_IS_THE_LIBRARYS,
        "",
        {"normalise": places_in_the_normal_text},
    ),
    (
        "whole_words_lower_cased_first",
        (it_is_specials_then_words_then_pieces,),
        "",
        {"normalise": whole_words_lower_cased_first},
    ),
    ("cased_text_stripped", IT_IS_THE_LIBRARYS, "", {"normalise": cased_text_stripped}),
    ("accents_kept", IT_IS_THE_LIBRARYS, "", {"normalise": lower_cased_with_its_accents}),
    (
        "never_lower_cased",
        (plain_text_can_be_read_back_from_the_spans,),
        "",
        {"normalise": lambda text, lowercase: normalise(text, False)},
    ),
    ("split_at_spaces_alone", IT_IS_THE_LIBRARYS, "", {"split_words": only_at_spaces}),
    ("ideographs_in_words", IT_IS_THE_LIBRARYS, "", {"split_words": ideographs_in_words}),
    ("shortest_match", IT_IS_THE_LIBRARYS, "", {"longest_match": shortest_match}),
    (
        "an_unknown_token_is_one_character",
        (an_unknown_token_is_its_whole_word,),
        "",
        {"whole": False},
    ),
):
    ENCODE.mistake(*laws, source=source, name=name)(composed(**steps))


@ENCODE.mistake(texts_beside_a_space_are_encoded_each_on_its_own)
def spaces_stripped_first(text, vocabulary, lowercase=True, specials=SPECIALS):
    return encode(text.strip(), vocabulary, lowercase, specials)


@ENCODE.mistake(
    every_token_has_the_id_of_its_piece,
    ids_and_spans_are_those_of_the_library,
    source="https://github.com/huggingface/tokenizers/issues/2412",
)
def ids_of_pieces_without_their_hashes(text, vocabulary, lowercase=True, specials=SPECIALS):
    """Only one half of the program knows the prefix."""
    return [
        token._replace(id=vocabulary[token.piece.removeprefix("##") or token.piece])
        for token in encode(text, vocabulary, lowercase, specials)
    ]


@ENCODE.mistake(tokens_lie_in_order_inside_the_text)
def ends_included(text, vocabulary, lowercase=True, specials=SPECIALS):
    tokens = encode(text, vocabulary, lowercase, specials)
    return [token._replace(end=token.end - 1) for token in tokens]


@ENCODE.mistake(half_a_surrogate_pair_is_refused)
def surrogates_replaced(text, vocabulary, lowercase=True, specials=SPECIALS):
    sound = text.encode("utf-8", "replace").decode()
    return encode(sound, vocabulary, lowercase, specials)


# --------------------------------------------------------------------------------------- shorten


class Lengths(NamedTuple):
    first: int
    second: int
    room: int


def lengths_case(draw: Draw) -> Lengths:
    first = draw.integer(0, 9)
    second = draw.choice([first, draw.integer(0, 9)])
    return Lengths(first, second, draw.integer(0, first + second + 1))


def letters(count: int, start: int = 0) -> list[Token]:
    """Tokens that can be told apart by where they stand."""
    return [Token("a", VOCABULARY["a"], i, i + 1) for i in range(start, start + count)]


def kept_by(formula: Callable[..., Any], case: Lengths) -> tuple[list[Token], list[Token]]:
    return formula(letters(case.first), letters(case.second, 50), case.room)


SHORTEN = Proof(shorten, lengths_case, without=TEXT)


@SHORTEN.spec
def tokens_go_one_by_one(formula, case):
    kept = kept_by(formula, case)
    return float(tuple(map(len, kept)) != spec.shorten(*case)), 0


@SHORTEN.reference
def the_library_keeps_as_many_of_each(formula, case):
    oracle = library()
    oracle.enable_truncation(case.room + 3, strategy="longest_first")
    theirs = oracle.encode("a " * case.first, "a " * case.second)
    oracle.no_truncation()
    expected = [theirs.sequence_ids.count(part) for part in (0, 1)]
    return float(list(map(len, kept_by(formula, case))) != expected), 0


@SHORTEN.law
def the_room_is_filled(formula, case):
    """Also by a text that is much longer than the other."""
    longer = case._replace(second=case.second + 9, room=case.room + 9)
    kept = [sum(map(len, kept_by(formula, each))) for each in (case, longer)]
    wanted = [min(each.first + each.second, each.room) for each in (case, longer)]
    return sum(abs(a - b) for a, b in zip(kept, wanted, strict=True)), 0


@SHORTEN.law
def what_is_kept_is_the_front(formula, case):
    first, second = kept_by(formula, case)
    return wrongly([first != letters(len(first)), second != letters(len(second), 50)])


@SHORTEN.law
def the_shorter_is_spared(formula, case):
    """A text is cut only where the other keeps no more than it does, give or take one."""
    a, b = map(len, kept_by(formula, case))
    return wrongly([a < case.first and a < b - 1, b < case.second and b < a - 1])


@SHORTEN.law
def the_odd_token_is_the_second_of_equals(formula, case):
    a, b = map(len, kept_by(formula, case._replace(second=case.first)))
    return float(a > b), 0


@SHORTEN.mistake(the_odd_token_is_the_second_of_equals, the_library_keeps_as_many_of_each)
def one_by_one_as_google(first, second, room):
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@SHORTEN.mistake(the_shorter_is_spared, tokens_go_one_by_one)
def only_the_first(first, second, room):
    return first[: max(0, room - len(second))], second[:room]


@SHORTEN.mistake(what_is_kept_is_the_front)
def from_the_left(first, second, room):
    less, more = (len(part) for part in shorten(first, second, room))
    return first[len(first) - less :], second[len(second) - more :]


@SHORTEN.mistake(the_room_is_filled)
def halves(first, second, room):
    return first[: room // 2], second[: room - room // 2]


@SHORTEN.mistake(the_room_is_filled)
def one_token_too_few(first, second, room):
    return shorten(first, second, max(0, room - 1))


# -------------------------------------------------------------------------------------- assemble


class Texts(NamedTuple):
    first: list[Token]
    second: list[Token] | None
    length: int | None


def layout_case(draw: Draw) -> Texts:
    second = draw.choice([None, letters(draw.integer(0, 9), 50)])
    length = draw.choice([None, draw.integer(3, 9), draw.integer(3, 20)])
    return Texts(letters(draw.integer(0, 9)), second, length)


def laid_out(formula: Callable[..., Any], case: Texts) -> Encoding:
    return formula(VOCABULARY, *case)


ASSEMBLE = Proof(assemble, layout_case, without=TEXT)


@ASSEMBLE.spec
def it_is_cls_first_sep_second_sep(formula, case):
    first, second = (["a"] * len(part or []) for part in case[:2])
    if case.length is not None:
        room = case.length - (2 if case.second is None else 3)
        kept = spec.shorten(len(first), len(second), room)
        first, second = first[: kept[0]], second[: kept[1]]
    pieces, types = spec.assemble(first, None if case.second is None else second)
    found = laid_out(formula, case)
    return wrongly([[t.piece for t in found.tokens] != pieces, found.types != types])


@ASSEMBLE.reference
def ids_types_and_spans_are_those_of_the_library(formula, case):
    """The library's texts are a's with spaces between; ours say where those stand."""
    texts = ["a " * len(part) for part in case[:2] if part is not None]
    oracle = library()
    if case.length is not None:
        oracle.enable_truncation(case.length, strategy="longest_first")
    theirs = oracle.encode(*texts)
    oracle.no_truncation()
    first, second = (None if p is None else encode("a " * len(p), VOCABULARY) for p in case[:2])
    ours = formula(VOCABULARY, first, second, case.length)
    spans = [(token.start, token.end) for token in ours.tokens]
    return wrongly([ours.ids != theirs.ids, ours.types != theirs.type_ids, spans != theirs.offsets])


@ASSEMBLE.law
def a_text_ends_with_sep_and_all_begins_with_cls(formula, case):
    pieces = [token.piece for token in laid_out(formula, case).tokens]
    texts = 1 if case.second is None else 2
    seps = [place for place, piece in enumerate(pieces) if piece == "[SEP]"]
    return wrongly([pieces[0] != "[CLS]", len(seps) != texts, seps[-1:] != [len(pieces) - 1]])


@ASSEMBLE.law
def types_change_once_after_the_first_sep(formula, case):
    found = laid_out(formula, case)
    first_sep = [token.piece for token in found.tokens].index("[SEP]")
    expected = [int(place > first_sep) for place in range(len(found.tokens))]
    return float(found.types != expected), 0


@ASSEMBLE.law
def the_tokens_between_are_those_of_the_texts(formula, case):
    found = laid_out(formula, case._replace(length=None))
    inside = [token for token in found.tokens if token.piece == "a"]
    return float(inside != case.first + (case.second or [])), 0


@ASSEMBLE.law
def the_length_is_not_exceeded_and_used(formula, case):
    added, wanted = (2 if case.second is None else 3), len(case.first) + len(case.second or [])
    length = case.length or 99
    return abs(len(laid_out(formula, case).tokens) - min(length, wanted + added)), 0


@ASSEMBLE.law
def what_comes_from_no_character_has_an_empty_span(formula, case):
    return wrongly(
        (token.start, token.end) != (0, 0) or token.id != VOCABULARY[token.piece]
        for token in laid_out(formula, case).tokens
        if token.piece != "a"
    )


@ASSEMBLE.law
def a_length_without_room_is_refused(formula, case):
    least = 2 if case.second is None else 3
    tight = [case._replace(length=length) for length in (-1, 0, least - 1)]
    return wrongly(accepts(formula, VOCABULARY, *each) for each in tight)


@ASSEMBLE.mistake(
    types_change_once_after_the_first_sep,
    ids_types_and_spans_are_those_of_the_library,
    source="https://github.com/huggingface/transformers/issues/15735",
)
def the_second_text_has_type_0_too(vocabulary, first, second=None, length=None):
    found = assemble(vocabulary, first, second, length)
    return found._replace(types=[0] * len(found.types))


@ASSEMBLE.mistake(types_change_once_after_the_first_sep)
def the_sep_between_belongs_to_the_second(vocabulary, first, second=None, length=None):
    found = assemble(vocabulary, first, second, length)
    border = found.types.count(0) - (second is not None)
    return found._replace(types=[int(place >= border) for place in range(len(found.types))])


@ASSEMBLE.mistake(a_text_ends_with_sep_and_all_begins_with_cls, it_is_cls_first_sep_second_sep)
def no_sep_at_the_end(vocabulary, first, second=None, length=None):
    found = assemble(vocabulary, first, second, length)
    return Encoding(found.tokens[:-1], found.types[:-1])


@ASSEMBLE.mistake(the_length_is_not_exceeded_and_used)
def length_without_cls_and_sep(vocabulary, first, second=None, length=None):
    added = 2 if second is None else 3
    return assemble(vocabulary, first, second, None if length is None else length + added)


@ASSEMBLE.mistake(the_tokens_between_are_those_of_the_texts)
def texts_swapped(vocabulary, first, second=None, length=None):
    if second is None:
        return assemble(vocabulary, first, second, length)
    return assemble(vocabulary, second, first, length)


@ASSEMBLE.mistake(what_comes_from_no_character_has_an_empty_span)
def specials_where_they_stand(vocabulary, first, second=None, length=None):
    found = assemble(vocabulary, first, second, length)
    tokens = [
        token if token.piece == "a" else token._replace(start=place, end=place + 1)
        for place, token in enumerate(found.tokens)
    ]
    return found._replace(tokens=tokens)


@ASSEMBLE.mistake(a_length_without_room_is_refused)
def cut_without_mercy(vocabulary, first, second=None, length=None):
    found = assemble(vocabulary, first, second)
    return Encoding(found.tokens[:length], found.types[:length])
