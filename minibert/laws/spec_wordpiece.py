"""WordPiece once more: slow, by recursion and with character lists written out.

The classes are those of Unicode 8.0 in full, copied from its own database, not from Python's.
Decompositions and combining classes are looked up one character at a time in `unicodedata`; the
algorithms that use them (Unicode Standard Annex 15) are stated here. A token is (piece, id, start,
end).
"""

from collections.abc import Collection, Mapping, Sequence
from math import inf, log
from unicodedata import combining, decomposition

Span = tuple[int, int]
Token = tuple[str, int, int, int]
UNKNOWN = "[UNK]"


def _characters(spans: str) -> frozenset[str]:
    """The characters of spans in hexadecimal, ends included."""
    ends = [span.split("-") for span in spans.split()]
    return frozenset(
        chr(code)
        for first, *last in ends
        for code in range(int(first, 16), int((last or [first])[0], 16) + 1)
    )


SPACES = _characters("9 a d 20 a0 1680 2000-200a 2028-2029 202f 205f 3000")
CONTROLS = _characters("0-1f 7f-9f")
FORMATS = _characters(
    """
    ad 600-605 61c 6dd 70f 180e 200b-200f 202a-202e 2060-2064 2066-206f feff fff9-fffb 110bd
    1bca0-1bca3 1d173-1d17a e0001 e0020-e007f
    """
)
PRIVATE = _characters("e000-f8ff f0000-ffffd 100000-10fffd")
ASCII_SYMBOLS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
CHINESE = _characters(
    "4e00-9fff 3400-4dbf 20000-2a6df 2a700-2b73f 2b740-2b81f 2b920-2ceaf f900-faff 2f800-2fa1f"
)
MARKS = _characters(
    """
    300-36f 483-487 591-5bd 5bf 5c1-5c2 5c4-5c5 5c7 610-61a 64b-65f 670 6d6-6dc 6df-6e4
    6e7-6e8 6ea-6ed 711 730-74a 7a6-7b0 7eb-7f3 816-819 81b-823 825-827 829-82d 859-85b
    8e3-902 93a 93c 941-948 94d 951-957 962-963 981 9bc 9c1-9c4 9cd 9e2-9e3 a01-a02 a3c
    a41-a42 a47-a48 a4b-a4d a51 a70-a71 a75 a81-a82 abc ac1-ac5 ac7-ac8 acd ae2-ae3 b01 b3c
    b3f b41-b44 b4d b56 b62-b63 b82 bc0 bcd c00 c3e-c40 c46-c48 c4a-c4d c55-c56 c62-c63 c81
    cbc cbf cc6 ccc-ccd ce2-ce3 d01 d41-d44 d4d d62-d63 dca dd2-dd4 dd6 e31 e34-e3a e47-e4e
    eb1 eb4-eb9 ebb-ebc ec8-ecd f18-f19 f35 f37 f39 f71-f7e f80-f84 f86-f87 f8d-f97 f99-fbc
    fc6 102d-1030 1032-1037 1039-103a 103d-103e 1058-1059 105e-1060 1071-1074 1082 1085-1086
    108d 109d 135d-135f 1712-1714 1732-1734 1752-1753 1772-1773 17b4-17b5 17b7-17bd 17c6
    17c9-17d3 17dd 180b-180d 18a9 1920-1922 1927-1928 1932 1939-193b 1a17-1a18 1a1b 1a56
    1a58-1a5e 1a60 1a62 1a65-1a6c 1a73-1a7c 1a7f 1ab0-1abd 1b00-1b03 1b34 1b36-1b3a 1b3c 1b42
    1b6b-1b73 1b80-1b81 1ba2-1ba5 1ba8-1ba9 1bab-1bad 1be6 1be8-1be9 1bed 1bef-1bf1 1c2c-1c33
    1c36-1c37 1cd0-1cd2 1cd4-1ce0 1ce2-1ce8 1ced 1cf4 1cf8-1cf9 1dc0-1df5 1dfc-1dff 20d0-20dc
    20e1 20e5-20f0 2cef-2cf1 2d7f 2de0-2dff 302a-302d 3099-309a a66f a674-a67d a69e-a69f
    a6f0-a6f1 a802 a806 a80b a825-a826 a8c4 a8e0-a8f1 a926-a92d a947-a951 a980-a982 a9b3
    a9b6-a9b9 a9bc a9e5 aa29-aa2e aa31-aa32 aa35-aa36 aa43 aa4c aa7c aab0 aab2-aab4 aab7-aab8
    aabe-aabf aac1 aaec-aaed aaf6 abe5 abe8 abed fb1e fe00-fe0f fe20-fe2f 101fd 102e0
    10376-1037a 10a01-10a03 10a05-10a06 10a0c-10a0f 10a38-10a3a 10a3f 10ae5-10ae6 11001
    11038-11046 1107f-11081 110b3-110b6 110b9-110ba 11100-11102 11127-1112b 1112d-11134 11173
    11180-11181 111b6-111be 111ca-111cc 1122f-11231 11234 11236-11237 112df 112e3-112ea
    11300-11301 1133c 11340 11366-1136c 11370-11374 114b3-114b8 114ba 114bf-114c0 114c2-114c3
    115b2-115b5 115bc-115bd 115bf-115c0 115dc-115dd 11633-1163a 1163d 1163f-11640 116ab 116ad
    116b0-116b5 116b7 1171d-1171f 11722-11725 11727-1172b 16af0-16af4 16b30-16b36 16f8f-16f92
    1bc9d-1bc9e 1d167-1d169 1d17b-1d182 1d185-1d18b 1d1aa-1d1ad 1d242-1d244 1da00-1da36
    1da3b-1da6c 1da75 1da84 1da9b-1da9f 1daa1-1daaf 1e8d0-1e8d6 e0100-e01ef
    """
)
PUNCTUATION = _characters(
    """
    21-23 25-2a 2c-2f 3a-3b 3f-40 5b-5d 5f 7b 7d a1 a7 ab b6-b7 bb bf 37e 387 55a-55f 589-58a
    5be 5c0 5c3 5c6 5f3-5f4 609-60a 60c-60d 61b 61e-61f 66a-66d 6d4 700-70d 7f7-7f9 830-83e
    85e 964-965 970 af0 df4 e4f e5a-e5b f04-f12 f14 f3a-f3d f85 fd0-fd4 fd9-fda 104a-104f 10fb
    1360-1368 1400 166d-166e 169b-169c 16eb-16ed 1735-1736 17d4-17d6 17d8-17da 1800-180a
    1944-1945 1a1e-1a1f 1aa0-1aa6 1aa8-1aad 1b5a-1b60 1bfc-1bff 1c3b-1c3f 1c7e-1c7f 1cc0-1cc7
    1cd3 2010-2027 2030-2043 2045-2051 2053-205e 207d-207e 208d-208e 2308-230b 2329-232a
    2768-2775 27c5-27c6 27e6-27ef 2983-2998 29d8-29db 29fc-29fd 2cf9-2cfc 2cfe-2cff 2d70
    2e00-2e2e 2e30-2e42 3001-3003 3008-3011 3014-301f 3030 303d 30a0 30fb a4fe-a4ff a60d-a60f
    a673 a67e a6f2-a6f7 a874-a877 a8ce-a8cf a8f8-a8fa a8fc a92e-a92f a95f a9c1-a9cd a9de-a9df
    aa5c-aa5f aade-aadf aaf0-aaf1 abeb fd3e-fd3f fe10-fe19 fe30-fe52 fe54-fe61 fe63 fe68
    fe6a-fe6b ff01-ff03 ff05-ff0a ff0c-ff0f ff1a-ff1b ff1f-ff20 ff3b-ff3d ff3f ff5b ff5d
    ff5f-ff65 10100-10102 1039f 103d0 1056f 10857 1091f 1093f 10a50-10a58 10a7f 10af0-10af6
    10b39-10b3f 10b99-10b9c 11047-1104d 110bb-110bc 110be-110c1 11140-11143 11174-11175
    111c5-111c9 111cd 111db 111dd-111df 11238-1123d 112a9 114c6 115c1-115d7 11641-11643
    1173c-1173e 12470-12474 16a6e-16a6f 16af5 16b37-16b3b 16b44 1bc9f 1da87-1da8b
    """
)


def kind(character: str) -> str:
    """The class of a character in Unicode 8.0, or "" if WordPiece does not use it"""
    kinds = {
        "Mn": MARKS,
        "P": PUNCTUATION,
        "Z": SPACES - CONTROLS,
        "Cc": CONTROLS,
        "Cf": FORMATS,
        "Co": PRIVATE,
    }
    return next((name for name, members in kinds.items() if character in members), "")


def is_dropped(character: str) -> bool:
    return character == "\ufffd" or kind(character) in ("Cc", "Cf", "Co")


def is_punctuation(character: str) -> bool:
    return character in ASCII_SYMBOLS or character in PUNCTUATION


def read_vocabulary(text: str, index: int = 0) -> dict[str, int]:
    """The first line, then the rest"""
    line, _, rest = text.partition("\n")
    piece = line[:-1] if line[-1:] == "\r" else line
    return {piece: index} | (read_vocabulary(rest, index + 1) if rest else {})


def _parts(character: str) -> str:
    """The full canonical decomposition: of Hangul by arithmetic, of others by the database"""
    syllable = ord(character) - 0xAC00
    if 0 <= syllable < 19 * 21 * 28:
        lead, vowel, tail = syllable // 588, syllable // 28 % 21, syllable % 28
        return chr(0x1100 + lead) + chr(0x1161 + vowel) + (chr(0x11A7 + tail) if tail else "")
    entry = decomposition(character)
    if not entry or entry[0] == "<":  # none, or a compatibility decomposition
        return character
    return "".join(_parts(chr(int(code, 16))) for code in entry.split())


def decompose(text: str) -> list[tuple[str, bool]]:
    """Parts of each character; neighbouring marks are swapped until their combining classes rise"""
    parts = [(part, i == 0) for character in text for i, part in enumerate(_parts(character))]
    while True:
        for i in range(len(parts) - 1):
            left, right = combining(parts[i][0]), combining(parts[i + 1][0])
            if left > right > 0:
                parts[i : i + 2] = [parts[i + 1], parts[i]]
                break
        else:
            return parts


def normalise(text: str, lowercase: bool) -> tuple[str, list[int]]:
    """Each kept character with its place; then, of its parts, all but the marks, in lower case"""
    kept = [
        (" " if character in SPACES else character, place)
        for place, character in enumerate(text)
        if character in SPACES or not is_dropped(character)
    ]
    if lowercase:
        places, opened, lowered = [place for _, place in kept], 0, []
        for part, opens in decompose("".join(character for character, _ in kept)):
            opened += opens
            if part not in MARKS:
                lowered += [(letter, places[opened - 1]) for letter in part.lower()]
        kept = lowered
    return "".join(character for character, _ in kept), [place for _, place in kept]


def split_words(text: str, start: int = 0) -> list[Span]:
    """The word that begins here, then the rest"""
    if start == len(text):
        return []
    end = start + 1
    if text[start] == " ":
        return split_words(text, end)
    if not _alone(text[start]):
        while end < len(text) and text[end] != " " and not _alone(text[end]):
            end += 1
    return [(start, end), *split_words(text, end)]


def _alone(character: str) -> bool:
    return is_punctuation(character) or character in CHINESE


def longest_match(word: str, vocabulary: Collection[str]) -> list[str]:
    """The greedy cut of a word of at most 100 characters, or [UNK]"""
    cut = _greedy(word, vocabulary, "") if len(word) <= 100 else None
    return [UNKNOWN] if cut is None else cut


def _greedy(word: str, vocabulary: Collection[str], prefix: str) -> list[str] | None:
    """The pieces of a greedy cut, or None if it gets stuck"""
    if not word:
        return []
    sizes = [size for size in range(1, len(word) + 1) if prefix + word[:size] in vocabulary]
    if not sizes:
        return None
    rest = _greedy(word[max(sizes) :], vocabulary, "##")
    return None if rest is None else [prefix + word[: max(sizes)], *rest]


def split_specials(
    text: str, specials: Collection[str], start: int = 0
) -> list[tuple[int, str, bool]]:
    """Up to the first special, the longest if several begin there; then the rest"""
    for place in range(len(text)):
        here = [special for special in specials if text.startswith(special, place)]
        if here:
            special = max(here, key=len)
            end = place + len(special)
            found = [(start, text[:place], False), (start + place, special, True)]
            return found + split_specials(text[end:], specials, start + end)
    return [(start, text, False)]


def encode(
    text: str, vocabulary: Mapping[str, int], lowercase: bool, specials: Collection[str]
) -> list[Token]:
    known = [special for special in specials if special in vocabulary]
    tokens: list[Token] = []
    for offset, part, special in split_specials(text, known):
        if special:
            tokens.append((part, vocabulary[part], offset, offset + len(part)))
        else:
            normal, places = normalise(part, lowercase)
            for start, end in split_words(normal):
                for piece, first, last in _spans(normal[start:end], vocabulary):
                    origins = places[start + first : start + last]
                    span = offset + origins[0], offset + origins[-1] + 1
                    tokens.append((piece, vocabulary[piece], *span))
    return tokens


def _spans(word: str, vocabulary: Collection[str]) -> list[tuple[str, int, int]]:
    """The pieces of a word and where they stand in it; [UNK] spans all of it"""
    pieces = longest_match(word, vocabulary)
    if pieces == [UNKNOWN]:
        return [(UNKNOWN, 0, len(word))]
    lengths = [len(piece) - 2 * (i > 0) for i, piece in enumerate(pieces)]
    return [(piece, sum(lengths[:i]), sum(lengths[: i + 1])) for i, piece in enumerate(pieces)]


def shorten(first: int, second: int, room: int) -> tuple[int, int]:
    """The longer loses a token; of equally long ones, the text that was not longer at the start"""
    a, b = first, second
    while a + b > room:
        if a > b or (a == b and first <= second):
            a -= 1
        else:
            b -= 1
    return a, b


def assemble(first: list[str], second: list[str] | None) -> tuple[list[str], list[int]]:
    """Pieces and token types of [CLS] first [SEP] and, if there is one, second [SEP]"""
    pieces, types = ["[CLS]", *first, "[SEP]"], [0] * (len(first) + 2)
    if second is not None:
        pieces, types = [*pieces, *second, "[SEP]"], [*types, *[1] * (len(second) + 1)]
    return pieces, types


def pair_score(n_ab: int, n_a: int, n_b: int, N: int) -> float:
    """n_ab (log p(ab) - log p(a) - log p(b)),  p(x) = n_x / N"""
    return n_ab * (log(n_ab / N) - log(n_a / N) - log(n_b / N))


def train_wordpiece(
    word_counts: Mapping[str, int], size: int, specials: Sequence[str], least: int
) -> list[str]:
    """Everything is recounted before each new piece"""
    words = [(_letters(word), n) for word, n in word_counts.items() if len(word) <= 100]
    found = [*specials, *sorted({letter for split, _ in words for letter in split})]
    while len(found) < size:
        pieces: dict[str, int] = {}
        pairs: dict[tuple[str, str], int] = {}
        for split, n in words:
            for i in range(len(split)):
                pieces[split[i]] = pieces.get(split[i], 0) + n
                if i > 0:
                    pair = split[i - 1], split[i]
                    pairs[pair] = pairs.get(pair, 0) + n
        N = sum(pieces.values())
        best, top = ("", ""), (-inf, 0)  # the pair, its score and count
        for pair in sorted(pairs):
            n = pairs[pair]
            score = n * log(n * N / (pieces[pair[0]] * pieces[pair[1]]))
            if n >= least and (score, n) > top:
                best, top = pair, (score, n)
        if best == ("", ""):
            break
        words = [(_joined(split, best), n) for split, n in words]
        if best[0] + best[1][2:] not in found:
            found.append(best[0] + best[1][2:])
    return found


def _letters(word: str) -> list[str]:
    return ["##" * (i > 0) + letter for i, letter in enumerate(word)]


def _joined(split: list[str], pair: tuple[str, str]) -> list[str]:
    """The pair joined if it stands in front, then the rest"""
    if len(split) < 2:
        return split
    if (split[0], split[1]) == pair:
        return [pair[0] + pair[1][2:], *_joined(split[2:], pair)]
    return [split[0], *_joined(split[1:], pair)]
