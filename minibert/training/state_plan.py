"""Which of the teacher's states a student learns from, and what those depend on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from minibert.data.tokenizer import Encoding
from minibert.distillation import TermWeights
from minibert.kernels.products import fixed_arithmetic
from minibert.matching import grouped_heads
from minibert.model import Bert
from minibert.training.answers import fingerprint
from minibert.training.evaluation import check_readable

STORED = torch.float16


class StatePlan(NamedTuple):
    """Which parts of an `EncoderTrace` are stored; layers are counted from 1.

    The scores are those of the student's heads: each is the mean of a group of the teacher's, which
    is all that the attention loss looks at.
    """

    hiddens: tuple[int, ...]  # 0 stands for the embeddings
    scores: tuple[int, ...]
    score_heads: int
    relations: tuple[int, ...]  # query, key and value

    @property
    def n_states(self) -> int:
        return len(self.hiddens) + 3 * len(self.relations)

    def n_values(self, length: int, width: int) -> int:
        """How many numbers a text of `length` tokens takes."""
        n_scores = len(self.scores) * self.score_heads
        return self.n_states * length * width + n_scores * length * length

    @classmethod
    def from_record(cls, parts: Mapping[str, Any]) -> "StatePlan":
        """What `_asdict` and JSON made of a plan, read back."""
        hiddens, scores, relations = (tuple(parts[k]) for k in ("hiddens", "scores", "relations"))
        return cls(hiddens, scores, parts["score_heads"], relations)

    def covers(self, other: "StatePlan") -> bool:
        """Whether it has all that the other one asks for."""
        return (
            set(self.hiddens) >= set(other.hiddens)
            and set(self.relations) >= set(other.relations)
            and set(self.scores) >= set(other.scores)
            and (not other.scores or self.score_heads == other.score_heads)
        )


def state_plan(layers: Sequence[int], weights: TermWeights, score_heads: int) -> StatePlan:
    """What the intermediate losses look at in mode masked; a loss of weight 0 needs nothing.

    `layers` are the g(1), g(2), … of `layer_map`, `score_heads` the heads of the student.

    >>> state_plan((3, 6), TermWeights(attention=0.0), 4)
    StatePlan(hiddens=(0, 3, 6), scores=(), score_heads=4, relations=())
    """
    used = {name for name, weight in weights._asdict().items() if weight}
    last = tuple(layers[-1:])
    hiddens = {
        "embedding": (0,),
        "hidden": tuple(layers),
        "cosine": last,
        "patient": tuple(layers[:-1]),
    }
    return StatePlan(
        _in_order(layer for name in used & hiddens.keys() for layer in hiddens[name]),
        _in_order(layers) if "attention" in used else (),
        score_heads,
        last if used & {"minilm_v1", "minilm_v2"} else (),
    )


def _in_order(layers: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(layers)))


class DistinctTexts(NamedTuple):
    """Each different text once, from shortest to longest, and the place of each text among them."""

    encodings: tuple[Encoding, ...]
    place_of: tuple[int, ...]


def distinct_texts(encodings: Sequence[Encoding]) -> DistinctTexts:
    """The texts without repetition.

    >>> texts = [Encoding([2, 9, 3], [0, 0, 0]), Encoding([2, 3], [0, 0])]
    >>> distinct_texts([texts[0], texts[1], texts[0]]).place_of
    (1, 0, 1)
    """
    keys = [(*encoding.ids, *encoding.types) for encoding in encodings]
    found = dict(zip(keys, encodings, strict=True))  # in the order of first appearance
    order = sorted(found, key=len)
    place_of = {key: place for place, key in enumerate(order)}
    return DistinctTexts(
        tuple(found[key] for key in order), tuple(place_of[key] for key in keys)
    )


@dataclass(frozen=True)
class StateSource:
    """Everything that the stored states depend on: texts, teacher, and the precision it works in.

    Raises
        CheckpointError  a text is too long for the teacher.
        ValueError       the student's heads cannot share the teacher's evenly.
    """

    encodings: Sequence[Encoding]
    teacher: Bert
    plan: StatePlan
    dtype: torch.dtype

    def __post_init__(self) -> None:
        check_readable(self.encodings, self.teacher.config)
        if self.plan.scores:
            heads = self.teacher.config.num_attention_heads
            grouped_heads(torch.empty(0, heads, 0, 0), self.plan.score_heads)

    @cached_property
    def texts(self) -> DistinctTexts:
        return distinct_texts(self.encodings)

    @cached_property
    def starts(self) -> list[int]:
        """Where each distinct text begins in the file, and where the last one ends."""
        sizes = (
            self.plan.n_values(len(text.ids), self.teacher.config.hidden_size)
            for text in self.texts.encodings
        )
        return list(accumulate(sizes, initial=0))

    @property
    def n_bytes(self) -> int:
        """How many bytes the file takes, without its short header."""
        return self.starts[-1] * STORED.itemsize

    @cached_property
    def record(self) -> str:
        """What distinguishes the states of one source from those of another, as JSON."""
        how = (self.dtype, fixed_arithmetic())
        return json.dumps(
            {
                "source": fingerprint(self.teacher, self.texts.encodings, *how),
                "parts": self.plan._asdict(),
            }
        )
