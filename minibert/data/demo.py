"""The embedded demo corpus: reviews from a small grammar, in which word order decides the verdict.

A review is one or two *claims* in a *frame*. A claim is a wrapper around a core: "i would not say
that" + "the plot seemed" + "very dull". Three rules give the label, and each of them hides from a
model that only counts words:

    negation   a denying wrapper or core reverses a judgement, however far away it is:
               "nobody but marta said that the plot was dull";
    contrast   the frame says which of two opposed claims wins: the one that is not conceded;
    intensity  if neither is conceded, the stronger one wins: "slightly dull and utterly lovely".

A wrapper with a core is a template. The held-out reviews use templates, things, names and adverbs
that no training review has; what they share are the parts that carry the rules. Half of the
training side's things and names, and all of the held-out side's, are not in the vocabulary: the
model reads them as [UNK], and has to judge by the rest.
"""

import random
from functools import cache
from itertools import product
from typing import NamedTuple

from minibert.data.readers import Example

GOOD = tuple(
    "good great excellent wonderful superb lovely brilliant charming delightful impressive "
    "pleasant splendid terrific enjoyable marvelous outstanding fantastic perfect beautiful "
    "amazing".split()
)
BAD = tuple(
    "bad awful terrible dreadful poor horrible dull disappointing mediocre unpleasant lousy "
    "boring tedious annoying dismal pathetic ugly shoddy forgettable frustrating".split()
)
MILD = ("slightly", "somewhat", "a little", "a bit")
STRONG = ("utterly", "absolutely", "truly", "extremely")

CORES = (
    "the {thing} was", "the {thing} seemed", "the {thing} felt", "the {thing} looked",
    "the {thing} turned out to be", "the {thing} was always",
)  # fmt: skip
DENYING_CORES = (
    "the {thing} was not", "the {thing} never seemed", "the {thing} did not feel",
    "the {thing} was anything but", "the {thing} failed to be", "the {thing} was never",
    "the {thing} did not look",
)  # fmt: skip
WRAPPERS = (
    "", "in short", "i thought that", "{name} said that", "we all felt that", "it is true that",
    "nobody denied that",
)  # fmt: skip
DENYING_WRAPPERS = (
    "i would not say that", "nobody said that", "{name} never thought that",
    "it is not true that", "nobody but {name} said that", "i do not believe that",
)  # fmt: skip

# Which claim wins, how often such a frame comes up, and the frames.
FRAMES = {
    "only": (9, ("{a} .", "well , {a} .", "to be honest , {a} .")),
    "both": (2, ("{a} , and {b} .", "{a} . {b} .")),
    "last": (3, ("{a} , but {b} .", "although {a} , {b} .", "even though {a} , {b} .")),
    "first": (3, ("{a} , although {b} .", "{a} , even though {b} .")),
    "stronger": (2, ("{a} and {b} .", "{a} while {b} .")),
}
DENIED = 0.25  # share of denying claims where strength does not decide


class Words(NamedTuple):
    """The words of one side of the corpus that carry no verdict."""

    things: tuple[str, ...]
    names: tuple[str, ...]
    degrees: tuple[str, ...]


TRAINING = Words(
    tuple(
        "plot cast film actor ending script room bed pool lobby view hotel soup waiter wine bread "
        "menu fish screen lens phone sound button radio garden porch house roof lawn fence".split()
    ),
    tuple(
        "marta jonas elif pedro ingrid kwame yuki bruno fatima nils olga ravi chloe hugo zainab "
        "tomas wendy xavier leila quentin dario joan vikram josefa".split()
    ),
    ("", "", "", "very", "really"),
)
HELD_OUT = Words(
    tuple("song singer stage drum show map guide art ticket queue bike saddle brake gear".split()),
    tuple("amara felix sven noor gus priya oskar mia".split()),
    ("", "", "", "especially", "remarkably"),
)
TEACHER_SIZE, STUDENT_SIZE, POOL_SIZE, HELD_OUT_SIZE = 16000, 500, 6000, 1000


class DemoCorpus(NamedTuple):
    """Four sets of reviews; label 1 is praise, 0 is blame, None is not given."""

    teacher_train: tuple[Example, ...]
    student_train: tuple[Example, ...]  # the first 500 of teacher_train: the few labels
    pool: tuple[Example, ...]  # no labels
    held_out: tuple[Example, ...]


def demo_corpus(seed: int = 0) -> DemoCorpus:
    """The corpus of a seed: the same in any process, and no review twice.

    >>> demo_corpus().student_train[1].first
    'nobody denied that the lens was always very outstanding .'
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    teacher_train = _balanced(rng, TRAINING, False, TEACHER_SIZE, seen)
    pool = _balanced(rng, TRAINING, False, POOL_SIZE, seen)
    held_out = _balanced(rng, HELD_OUT, True, HELD_OUT_SIZE, seen)
    return DemoCorpus(
        tuple(teacher_train),
        tuple(teacher_train[:STUDENT_SIZE]),
        tuple(example._replace(label=None) for example in pool),
        tuple(held_out),
    )


def demo_vocabulary() -> list[str]:
    """Specials, punctuation, every word that carries a rule, and half of the other training words.

    >>> "plot" in demo_vocabulary(), "cast" in demo_vocabulary(), "song" in demo_vocabulary()
    (True, False, False)
    """
    parts = (
        *CORES, *DENYING_CORES, *WRAPPERS, *DENYING_WRAPPERS,
        *(frame for _, frames in FRAMES.values() for frame in frames),
        *GOOD, *BAD, *MILD, *STRONG,
        *TRAINING.things[::2], *TRAINING.names[::2], *TRAINING.degrees,
    )  # fmt: skip
    words = {word for part in parts for word in part.split() if word.isalpha()}
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *sorted(words)]


@cache
def templates(denying: bool, held_out: bool) -> tuple[str, ...]:
    """Wrappers with cores; every fourth pair is kept for the held-out side.

    Two denials in one claim would be hard to read, so a denying claim has one.

    >>> templates(denying=True, held_out=True)[-1]
    'i do not believe that the {thing} was always'
    """
    pairs = list(product(WRAPPERS, CORES))
    if denying:
        pairs = [*product(WRAPPERS, DENYING_CORES), *product(DENYING_WRAPPERS, CORES)]
    chosen = [pair for number, pair in enumerate(pairs) if (number % 4 == 0) == held_out]
    return tuple(f"{wrapper} {core}".strip() for wrapper, core in chosen)


def _claim(
    rng: random.Random,
    words: Words,
    held_out: bool,
    thing: str,
    favourable: bool,
    degrees: tuple[str, ...],
) -> str:
    """A claim about a thing, for or against it; `degrees`, unless empty, asks for one of these."""
    denying = not degrees and rng.random() < DENIED
    template = rng.choice(templates(denying, held_out))
    claim = template.format(thing=thing, name=rng.choice(words.names))
    judgement = rng.choice(GOOD if favourable != denying else BAD)
    return " ".join(f"{claim} {rng.choice(degrees or words.degrees)} {judgement}".split())


def _review(rng: random.Random, words: Words, held_out: bool) -> Example:
    """One review: choose which claim wins and the verdict, then write claims that lead to it."""
    rule = rng.choices(tuple(FRAMES), [share for share, _ in FRAMES.values()])[0]
    favourable = rng.random() < 0.5
    degrees: list[tuple[str, ...]] = [(), ()]
    winner = 1 if rule == "last" else 0
    if rule == "stronger":
        winner = rng.choice((0, 1))
        degrees[winner], degrees[1 - winner] = STRONG, MILD
    opposed = rule not in ("only", "both")
    things = rng.sample(words.things, 2)
    a, b = (
        _claim(
            rng, words, held_out, things[side], favourable != (opposed and side != winner),
            degrees[side],
        )
        for side in (0, 1)
    )  # fmt: skip
    return Example(rng.choice(FRAMES[rule][1]).format(a=a, b=b), None, int(favourable))


def _balanced(
    rng: random.Random, words: Words, held_out: bool, count: int, seen: set[str]
) -> list[Example]:
    """`count` new reviews, blame and praise in turn; they are added to `seen`."""
    found: list[Example] = []
    while len(found) < count:
        example = _review(rng, words, held_out)
        if example.label == len(found) % 2 and example.first not in seen:
            seen.add(example.first)
            found.append(example)
    return found
