"""More sentences out of few: words are replaced by similar words, as TinyBERT does it.

A distilled student learns the teacher's answers, so it can learn from sentences that nobody has
labelled. `joined` makes longer ones, `augmented` variants of all. What may replace a word is
decided beforehand, in `minibert.data.candidates`.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

from minibert.data.readers import Example
from minibert.data.tokenizer import Tokenizer
from minibert.wordpiece import normalise, split_words

# For the words of one sentence, in order: what may replace each; nothing if it must stay.
Candidates = Callable[[Sequence[str]], Sequence[Sequence[str]]]

# They carry grammar, and meaning too: "not" for "of" makes a sentence that nobody would say, and
# "never" for "always" reverses it. Halves of contractions are here too, as words are cut at "'".
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those such some any each every either neither both all no none another
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his
    himself she her hers herself it its itself they them their theirs themselves one oneself
    who whom whose which what when where why how whoever whatever whichever whenever wherever
    am is are was were be been being do does did doing done have has had having will would shall
    should can could may might must ought
    and or but nor so yet for if unless until while although though because since as than whether
    not never nothing nobody nowhere only even too very also just then there here again
    of in on at by to from with without within into onto upon about above below over under between
    among through during before after against along across behind beside besides beyond despite down
    except inside near off out outside past per toward towards up via
    don didn doesn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn mustn ain ca wo
    cannot ll ve re
    """.split()
)


def changeable(word: str) -> bool:
    """Whether a word may be replaced, and whether it may replace another.

    It consists of letters only, at least two, and is not a function word.

    >>> [word for word in "the 3 films aren ' t bad".split() if changeable(word)]
    ['films', 'bad']
    """
    return len(word) > 1 and word.isalpha() and word.lower() not in FUNCTION_WORDS


class Words(NamedTuple):
    """The words of a text as the tokenizer sees them, and the characters that each came from."""

    words: list[str]
    spans: list[tuple[int, int]]


def words_of(text: str, lowercase: bool) -> Words:
    """The words that WordPiece cuts into pieces: `wordpiece.normalise`, then `split_words`.

    >>> words_of("It's Fine", lowercase=True)
    Words(words=['it', "'", 's', 'fine'], spans=[(0, 2), (2, 3), (3, 4), (5, 9)])
    """
    normal, origins = normalise(text, lowercase)
    spans = split_words(normal)
    return Words(
        [normal[start:end] for start, end in spans],
        [(origins[start], origins[end - 1] + 1) for start, end in spans],
    )


def word_cutter(tokenizer: Tokenizer) -> Callable[[str], Words]:
    """`words_of` with a cache of the strings between spaces: the same few thousand recur."""
    part_of = cache(lambda part: words_of(part, tokenizer.lowercase))

    def words(text: str) -> Words:
        found, spans, offset = [], [], 0
        for part in text.split(" "):  # a space ends a word, and nothing before it sees beyond it
            inner = part_of(part)
            found += inner.words
            spans += [(start + offset, end + offset) for start, end in inner.spans]
            offset += len(part) + 1
        return Words(found, spans)

    return words


def changeable_words(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Every word of the texts that may be replaced, once, sorted: the input of `neighbours`."""
    cut = word_cutter(tokenizer)
    return sorted(filter(changeable, {word for text in texts for word in cut(text).words}))


def augmented(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    candidates: Candidates,
    copies: int,
    probability: float = 0.4,
    seed: int = 0,
) -> list[Example]:
    """Every example, followed by up to `copies` variants of it.

    In each of the `copies` attempts every word that may be replaced and has candidates is replaced
    with the given probability, by any of them with equal chance. Variants of this example that came
    out before are left out. The rest of a text stays, to the character. A variant has no label:
    what a changed sentence means is for the teacher to say.

    An example's variants depend on the seed, its index and itself, not on the other examples.

    Source
        Jiao et al. 2020, arXiv:1909.10351, algorithm 1 (N_a is `copies`, p_t `probability`).

    Differs
        TinyBERT's code copies the label; in a pair it changes the second sentence beside the last
        variant of the first, here both are changed independently in every attempt. There function
        words may replace others.

    Raises
        ValueError  `copies` is negative, or the probability is not between 0 and 1.
    """
    if copies < 0 or not 0 <= probability <= 1:
        raise ValueError(
            f"augmented: {copies} copies at probability {probability}; needs 0 copies or more and "
            "a probability from 0 to 1"
        )
    cut = word_cutter(tokenizer)
    rows = []
    for index, example in enumerate(examples):
        texts = [text for text in example[:2] if text is not None]
        molds = [_mold(text, cut(text), candidates) for text in texts]
        draw = random.Random(f"{seed} {index}").random
        variants = {(example.first, example.second): None}  # a dict keeps the order of arrival
        if any(mold.places for mold in molds):
            for _ in range(copies):
                first, *second = [_cast(mold, probability, draw) for mold in molds]
                variants[first, second[0] if second else None] = None
        others = islice(variants, 1, None)  # the example itself came first
        rows += [example, *(Example(first, second, None) for first, second in others)]
    return rows


def joined(examples: Sequence[Example], count: int, seed: int = 0) -> list[Example]:
    """`count` texts, each made of two to four of the examples, drawn at random, in a row.

    Training texts may be shorter than those to come: half of SST-2's are phrases of up to seven
    words, while its dev set has whole sentences of nineteen. A student that learned on phrases
    judges phrases as well as its teacher does, but long sentences worse. What two phrases mean in a
    row is for the teacher to say, so these texts have no label.

    Raises
        ValueError  `count` is negative, there is no example, or the examples are pairs.
    """
    if count < 0 or not examples or any(example.second is not None for example in examples):
        raise ValueError(
            f"joined: {count} texts of {len(examples)} examples; needs 0 or more, of at least one "
            "example, and single texts, not pairs"
        )
    draw = random.Random(f"{seed} joined")
    rows = []
    for _ in range(count):
        parts = draw.choices(examples, k=draw.randint(2, 4))
        rows.append(Example(" ".join(part.first.strip() for part in parts), None, None))
    return rows


class _Mold(NamedTuple):
    """A text cut into parts, and which of them may be replaced, by which others."""

    parts: list[str]
    places: list[tuple[int, Sequence[str]]]


def _mold(text: str, words: Words, candidates: Candidates) -> _Mold:
    parts, places, done = [], [], 0
    offered = candidates(words.words)
    for word, (start, end), options in zip(*words, offered, strict=True):
        if options and changeable(word):
            parts += [text[done:start], text[start:end]]
            places.append((len(parts) - 1, options))
            done = end
    return _Mold([*parts, text[done:]], places)


def _cast(mold: _Mold, probability: float, draw: Callable[[], float]) -> str:
    parts = mold.parts.copy()
    for place, options in mold.places:
        u = draw()
        if u < probability:  # and then u / probability is uniform again: one draw does for both
            parts[place] = options[int(u / probability * len(options))]
    return "".join(parts)
