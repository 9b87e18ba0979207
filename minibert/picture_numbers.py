"""What pictures of a model and of an optimiser show, in numbers; `minibert.pictures` draws them.

N heads · S tokens that ask · R tokens that are asked · V words of a table · E its width · P
parameters. What a run left is read by `minibert.training.curves` and `minibert.training.agreement`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.config import CheckpointError
from minibert.data.tokenizer import Tokenizer
from minibert.explain.reading import NotReadable, chosen_layers, traced
from minibert.model import Bert
from minibert.optim import adam_form, adam_step, initial_adam_state
from minibert.training.students import principal_directions

# Words that a model may know, in groups; only those that are one piece are shown.
WORDS = {
    "praise": "good great excellent wonderful lovely brilliant perfect beautiful",
    "blame": "bad awful terrible poor horrible dull boring ugly",
    "denial": "not never nobody nothing none without neither",
    "numbers": "one two three four five six seven eight ten hundred",
    "colours": "red blue green yellow black white brown grey",
    "things": "plot film script room hotel window soup bread phone garden",
    "degrees": "very really slightly somewhat utterly absolutely truly extremely",
}
MOST_GROUPS = 5  # colours and markers that can be told apart


# --- Attention -------------------------------------------------------------------------------


class Shares(NamedTuple):
    """The tokens of a text, and who asks whom: a map [N, S, R] for each layer, counted from 1."""

    tokens: list[str]
    layers: list[int]
    maps: list[Tensor]


@torch.no_grad()
def attention_shares(
    bert: Bert, first: str, second: str | None = None, layers: Sequence[int] | None = None
) -> Shares:
    """The attention probabilities of a text, computed by the book in float32.

    Raises
        CheckpointError  the model has no vocabulary.
        NotReadable      the text is empty or too long for the model, or there is no such layer.
    """
    shown = chosen_layers(bert, layers)
    *_, trace = traced(bert, first, second)
    maps = [trace.blocks[layer - 1].attention.probabilities_BNSR[0] for layer in shown]
    return Shares(bert.tokens(first, second), shown, maps)


# --- Words -----------------------------------------------------------------------------------


class Points(NamedTuple):
    """The place of each word on two axes, by group, and the share of variance along each axis.

    The variance is that of the whole table.
    """

    groups: dict[str, dict[str, tuple[float, float]]]
    variance: tuple[float, float]


def word_points(bert: Bert, words: Sequence[str] = ()) -> Points:
    """Rows of the word table projected on the first two principal directions of the whole table.

    They are the axes that a student's table is projected on (`students.projected_tables`).

    Raises
        CheckpointError  the model has no vocabulary, or is one number wide.
        NotReadable      a word is not one piece, or none of ours is.
    """
    tokenizer = bert.tokenizer
    if tokenizer is None:
        raise CheckpointError("the model has no vocabulary, so the words of its rows are unknown")
    if bert.config.hidden_size < 2:
        raise CheckpointError("the model is one number wide, but a picture has two axes")
    named: dict[str, int] = {}
    for word in words:
        row = piece_of(word, tokenizer)
        if row not in named.values():  # else it was given before, in these letters or in others
            named[word] = row
    ids = {"words": named} if words else known_words(tokenizer)
    if not ids:
        raise NotReadable("the vocabulary holds none of the usual words; name WORDS that it has")
    table_VE = bert.weights.embeddings.word_VD.double()
    directions_E2, variance_E = principal_directions(table_VE, 2)
    places_V2 = ((table_VE - table_VE.mean(0)) @ directions_E2).tolist()
    first, second, *_ = (variance_E / variance_E.sum()).tolist()
    groups = {
        group: {word: tuple(places_V2[i]) for word, i in rows.items()}
        for group, rows in ids.items()
    }
    return Points(groups, (first, second))


def piece_of(word: str, tokenizer: Tokenizer) -> int:
    """The row of a word in the table.

    Raises
        NotReadable  the tokenizer makes several pieces of it, or does not know it.
    """
    if word in tokenizer.vocabulary:
        return tokenizer.vocabulary[word]
    ids = tokenizer.encode([word])[0].ids[1:-1]
    if len(ids) == 1 and ids[0] != tokenizer.unk_id:
        return ids[0]
    pieces = " ".join(tokenizer.pieces[i] for i in ids) or "nothing"
    raise NotReadable(
        f"{word!r} has no row of its own in the word table: the model reads {pieces}; give words "
        "that are one piece"
    )


def known_words(tokenizer: Tokenizer) -> dict[str, dict[str, int]]:
    """The rows of our words that the vocabulary has, in the first groups with two or more."""
    found = {
        group: {word: tokenizer.vocabulary[word] for word in words.split()
                if word in tokenizer.vocabulary}
        for group, words in WORDS.items()
    }  # fmt: skip
    return dict([(group, rows) for group, rows in found.items() if len(rows) > 1][:MOST_GROUPS])


# --- Training --------------------------------------------------------------------------------


class Schedules(NamedTuple):
    """The factor of the learning rate at some steps, for each schedule."""

    steps: list[int]
    warmup: int
    factors: dict[str, list[float]]


def schedules_over(total: int, share: float) -> Schedules:
    """Every schedule of the book; the first `share` of `total` steps are warm-up, as in training.

    In a long run not every step is computed, but those around the end of warm-up are.
    """
    from minibert.training.loop import SCHEDULES  # with all that training needs: for this alone

    warmup = round(share * total)
    steps = {*range(0, total + 1, max(1, total // 200)), total}
    steps |= {step for step in (warmup - 1, warmup, warmup + 1) if 0 <= step <= total}
    factors = {
        name: [schedule(step, warmup, total) for step in sorted(steps)]
        for name, schedule in SCHEDULES.items()
    }
    return Schedules(sorted(steps), warmup, factors)


def step_lengths(
    n_steps: int, form: str, gradient: float = 1.0, eps: float | None = None
) -> list[float]:
    """The length of each step of Adam under a constant gradient, in learning rates.

    >>> [round(length, 2) for length in step_lengths(2, "google")]
    [3.16, 4.25]
    """
    options = adam_form(form)._replace(weight_decay=0.0)
    options = options if eps is None else options._replace(eps=eps)
    theta_P = torch.zeros(1, dtype=torch.float64)
    state, lengths = initial_adam_state(theta_P), []
    for _ in range(n_steps):
        moved_P, state = adam_step(theta_P, torch.full_like(theta_P, gradient), state, 1.0, options)
        lengths.append((theta_P - moved_P).item())
        theta_P = moved_P
    return lengths


def adam_lengths(n_steps: int = 3000) -> dict[str, list[float]]:
    """`step_lengths` of Google's form, which has no bias correction, and of Kingma and Ba's."""
    return {form: step_lengths(n_steps, form) for form in ("google", "kingma")}
