"""WordPiece: from a string to the pieces of a vocabulary, each with its place in the string.

`encode` is four steps, each a function of its own: `split_specials` (literal [MASK] and the like),
`normalise` (clean, decompose, strip accents, lower-case), `split_words` (at spaces, around
punctuation and Chinese characters), `longest_match` (greedy, inside one word). `assemble` then
lays out [CLS] first [SEP] second [SEP]. A token's start and end count characters of the original
string, so `text[start:end]` is what the token came from.

Unicode
    A character's category decides whether it is dropped, stripped or split off, and categories
    grow with every version of Unicode. The `tokenizers` library froze them at version 8.0, and so
    does `category`, on any Python. Decompositions and lower case are those of the running
    Python (`unicodedata.unidata_version`); the library's are of versions 9.0 and 17.0.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from minibert.config import CheckpointError

UNKNOWN = "[UNK]"
SPECIALS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")

# Every mark, punctuation and format character that Unicode gained after 8.0, up to 17.0. Whatever
# lies in these ranges was none of the three in 8.0, and so counts as a letter in `category`.
GAINED_AFTER_8 = re.compile(
    "["
    r"\u061d\u07fd\u0890-\u08e2\u09fd-\u09fe\u0a76\u0afa-\u0aff\u0b55\u0c04-\u0c3c\u0c77\u0c84"
    r"\u0d00\u0d3b-\u0d3c\u0d81\u0eba\u0ece\u180f-\u1886\u1abf-\u1aeb\u1b4e-\u1b4f\u1b7d-\u1b7f"
    r"\u1df6-\u1dfb\u2e43-\u2e5d\ua82c\ua8c5\ua8ff\ua9bd\U00010d24-\U00010f89"
    r"\U00011070-\U00011074\U000110c2-\U000110cd\U000111cf\U0001123e-\U00011241\U0001133b"
    r"\U000113bb-\U0001145e\U00011660-\U0001166c\U000116b9\U0001182f-\U00011fff"
    r"\U00012ff1-\U0001612f\U00016d6d-\U00016f4f\U00016fe2-\U00016fe4\U0001cf00-\U0001cf46"
    r"\U0001e000-\U0001e6f5\U0001e944-\U0001e95f"
    "]"
)
CHANGED_SINCE_8 = {"\u166d": "Po", "\u1734": "Mn", "\U0001171e": "Mn", "\U000111c9": "Po"}

CHINESE = re.compile(  # the library's list: Unicode starts the sixth block at 2B820, not 2B920
    "["
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f"
    r"\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
    "]"
)


class Token(NamedTuple):
    """One piece of the vocabulary, its id, and the characters [start, end) it came from."""

    piece: str
    id: int
    start: int
    end: int


class Encoding(NamedTuple):
    """One input of BERT: its tokens, and for each the token type, 0 (first) or 1 (second)."""

    tokens: list[Token]
    types: list[int]

    @property
    def ids(self) -> list[int]:
        """The ids alone, what the model reads."""
        return [token.id for token in self.tokens]


def read_vocabulary(text: str) -> dict[str, int]:
    r"""Map each piece to its id: the number of its line in `vocab.txt`, counted from 0.

    Only a line feed ends a line (`str.splitlines` would also break at U+2028, which may be a
    piece); a carriage return before it is dropped, as no piece can hold one.

    Source
        the vocab.txt of google-research/bert.

    Raises
        CheckpointError  a line is empty, a piece occurs twice, or one of `SPECIALS` is missing.

    >>> read_vocabulary("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\n")["##s"]
    6
    """
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(text.removesuffix("\n").split("\n")):
        piece = line.removesuffix("\r")
        if not piece:
            raise CheckpointError(f"vocabulary line {index + 1} is empty; every line needs a piece")
        if piece in vocabulary:
            raise CheckpointError(
                f"vocabulary line {index + 1} repeats {piece!r} of line {vocabulary[piece] + 1}; "
                "every line needs a new piece"
            )
        vocabulary[piece] = index
    missing = [special for special in SPECIALS if special not in vocabulary]
    if missing:
        raise CheckpointError(f"the vocabulary lacks {', '.join(missing)}; give each its own line")
    return vocabulary


def category(character: str) -> str:
    r"""The general category that a character had in Unicode 8.0, as far as WordPiece needs it.

    >>> category("!"), category("\u0301"), category("\u08e0")  # the last is a mark since 9.0
    ('Po', 'Mn', 'Lo')
    """
    if GAINED_AFTER_8.match(character):
        return "Lo"
    return CHANGED_SINCE_8.get(character) or unicodedata.category(character)


def is_space(character: str) -> bool:
    r"""What separates words: Unicode's separators, tab and line ends.

    >>> is_space("\u3000"), is_space("_")
    (True, False)
    """
    return character in "\t\n\r" or category(character).startswith("Z")


def is_dropped(character: str) -> bool:
    r"""Control, format and private-use characters, and the replacement character.

    >>> is_dropped("\u200d"), is_dropped("x")
    (True, False)
    """
    return character == "\ufffd" or category(character) in ("Cc", "Cf", "Co")


def is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and all ASCII characters but letters, digits, space and controls.

    >>> is_punctuation("$"), is_punctuation("¿"), is_punctuation("€")
    (True, True, False)
    """
    if character < "\x7f":
        return character > " " and not character.isalnum()
    return category(character).startswith("P")


def is_chinese(character: str) -> bool:
    """Characters that are each a word: the blocks of Chinese ideographs, but not kana or hangul.

    >>> is_chinese("書"), is_chinese("か")
    (True, False)
    """
    return CHINESE.match(character) is not None


def decompose(text: str) -> list[tuple[str, bool]]:
    r"""Canonical decomposition (NFD), each part with whether it opens a character of `text`.

    Formula
        every character becomes its base and its marks; then each run of marks is sorted by
        combining class, and equal ones stay in order.

    Source
        Unicode Standard Annex 15, section 1.3.

    >>> decompose("\u00e9t") == [("e", True), ("\u0301", False), ("t", True)]
    True
    """
    parts = [
        (part, place == 0)
        for character in text
        for place, part in enumerate(unicodedata.normalize("NFD", character))
    ]
    classes = [unicodedata.combining(part) for part, _ in parts]
    runs = [*accumulate(combining == 0 for combining in classes)]  # a base (class 0) opens a run
    ordered = sorted(range(len(parts)), key=lambda place: (runs[place], classes[place]))
    return [parts[place] for place in ordered]


def normalise(text: str, lowercase: bool = True) -> tuple[str, list[int]]:
    r"""Clean a string, and give for each character of the result its place in `text`.

    Formula
        always     drop controls, turn each kind of white space into " "
        lowercase  decompose, drop the marks of category Mn, lower-case character by character

    Source
        google-research/bert, tokenization.py, BasicTokenizer.

    Differs
        Google lower-cases whole words before it strips accents, so a final sigma becomes ς, not σ.
        When sorting swaps two marks, the library leaves their places unswapped; so does this.

    >>> normalise("\tNa\u00efve\0!")
    (' naive!', [0, 1, 2, 3, 4, 5, 7])
    """
    cleaned, places = [], []
    for place, character in enumerate(text):
        space = is_space(character)
        if space or not is_dropped(character):
            cleaned.append(" " if space else character)
            places.append(place)
    if not lowercase:
        return "".join(cleaned), places
    lowered, origins = [], []
    opened = -1
    for part, opens in decompose("".join(cleaned)):
        opened += opens
        if category(part) != "Mn":
            lowered.append(part.lower())
            origins.extend([places[opened]] * len(lowered[-1]))
    return "".join(lowered), origins


def split_words(text: str) -> list[tuple[int, int]]:
    """The spans of the words in normalised text; punctuation and Chinese characters stand alone.

    >>> [text[a:b] for text in ["don't stop"] for a, b in split_words(text)]
    ['don', "'", 't', 'stop']
    """
    spans = []
    start = 0
    for place, character in enumerate(text + " "):  # the added space ends the last word
        alone = is_punctuation(character) or is_chinese(character)
        if alone or character == " ":
            if start < place:
                spans.append((start, place))
            if alone:
                spans.append((place, place + 1))
            start = place + 1
    return spans


def longest_match(word: str, vocabulary: Collection[str]) -> list[str]:
    """Cut a word greedily: repeatedly take the longest piece that the rest begins with.

    Inside a word a piece is looked up with "##" before it. If at some place nothing matches, the
    whole word is one [UNK]: greedy never goes back to try a shorter piece.

    Source
        Devlin et al. 2019, arXiv:1810.04805; google-research/bert, tokenization.py.

    Differs
        a word of over 100 characters is [UNK] at once, as in the library; Google's limit is 200.

    >>> longest_match("unaffable", {"un", "una", "##aff", "##ff", "##able"})
    ['una', '##ff', '##able']
    """
    if len(word) > 100:
        return [UNKNOWN]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return [UNKNOWN]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def split_specials(text: str, specials: Collection[str]) -> Iterator[tuple[int, str, bool]]:
    """Cut the raw text at literal specials into (start, part, whether the part is a special).

    >>> list(split_specials("a [MASK].", ["[MASK]"]))
    [(0, 'a ', False), (2, '[MASK]', True), (8, '.', False)]
    """
    if not specials:
        yield 0, text, False
        return
    # sorted backwards, so that of two specials that begin alike the longer one is tried first
    pattern = "|".join(re.escape(special) for special in sorted(specials, reverse=True))
    start = 0
    for index, part in enumerate(re.split(f"({pattern})", text)):
        yield start, part, index % 2 == 1
        start += len(part)


def encode(
    text: str,
    vocabulary: Mapping[str, int],
    lowercase: bool = True,
    specials: Collection[str] = SPECIALS,
) -> list[Token]:
    """The tokens of a text, without [CLS] and [SEP].

    A special that is written out in the text becomes that token, as in the library, so that
    "[MASK]" can be filled. Untrusted text is safer with `specials=()`: then it is only text.

    Raises
        ValueError  the text holds half a surrogate pair, which is no character.

    >>> vocabulary = {"[UNK]": 0, "[MASK]": 1, "paris": 2, "is": 3, ".": 4, "##ian": 5}
    >>> for token in encode("Parisian: [MASK].", vocabulary): print(*token)
    paris 2 0 5
    ##ian 5 5 8
    [UNK] 0 8 9
    [MASK] 1 10 16
    . 4 16 17
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text[{error.start}] is the lone surrogate U+{ord(text[error.start]):04X}, which is "
            "no character; decode the text's bytes as UTF-8, with errors='replace' if need be"
        ) from None
    tokens: list[Token] = []
    for offset, part, special in split_specials(text, [s for s in specials if s in vocabulary]):
        if special:
            tokens.append(Token(part, vocabulary[part], offset, offset + len(part)))
            continue
        normal, origins = normalise(part, lowercase)
        for word_start, word_end in split_words(normal):
            start = word_start
            for piece in longest_match(normal[word_start:word_end], vocabulary):
                prefix = "##" if start > word_start else ""
                end = word_end if piece == UNKNOWN else start + len(piece) - len(prefix)
                first, last = offset + origins[start], offset + origins[end - 1]
                tokens.append(Token(piece, vocabulary[piece], first, last + 1))
                start = end
    return tokens


def shorten(first: list[Token], second: list[Token], room: int) -> tuple[list[Token], list[Token]]:
    """Cut tokens from the right of the longer text until both together fit into `room`.

    Formula
        the shorter text keeps min(its length, room // 2) tokens, the longer one the rest;
        of equally long ones the second counts as the longer.

    Source
        the `tokenizers` library, strategy "longest_first".

    Differs
        google-research/bert cuts the second of equally long texts: an odd token goes to the first.

    >>> tokens = [Token("a", 0, 0, 1)] * 5
    >>> [len(kept) for kept in shorten(tokens, tokens[:2], 5)]
    [3, 2]
    """
    less = min(len(first), len(second), room // 2)
    if len(first) > len(second):
        return first[: room - less], second[:less]
    return first[:less], second[: room - less]


def assemble(
    vocabulary: Mapping[str, int],
    first: list[Token],
    second: list[Token] | None = None,
    length: int | None = None,
) -> Encoding:
    """Lay out one text as [CLS] first [SEP], a pair as [CLS] first [SEP] second [SEP].

    `length` is the most tokens the result may have, [CLS] and [SEP] counted. Token type 1 begins
    with the second text. [CLS] and [SEP] come from no character: their span is [0, 0).

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3 and figure 2.

    Raises
        ValueError  `length` leaves no room for [CLS] and [SEP].

    >>> vocabulary = {"[CLS]": 0, "[SEP]": 1, "hi": 2, "you": 3}
    >>> assemble(vocabulary, encode("hi", vocabulary), encode("you", vocabulary)).types
    [0, 0, 0, 1, 1]
    """
    opening, closing = (Token(piece, vocabulary[piece], 0, 0) for piece in ("[CLS]", "[SEP]"))
    added = 2 if second is None else 3
    if length is not None:
        if length < added:
            raise ValueError(f"length is {length}, but [CLS] and [SEP] alone need {added}")
        first, rest = shorten(first, second or [], length - added)
        second = None if second is None else rest
    opened = [opening, *first, closing]
    closed = [] if second is None else [*second, closing]
    return Encoding(opened + closed, [0] * len(opened) + [1] * len(closed))
