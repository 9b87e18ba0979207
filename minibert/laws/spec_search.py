"""Every search as loops over texts, in the notation of its paper.

As in `spec`: no tensors, nothing but `math`. A text is a tuple of words, and a model is a
function of the words so far that gives the log-probability of each next word.

Letters: α exponent · n words of a text, including the end · W width of the beam.
"""

from collections.abc import Callable
from math import fsum

from minibert.laws.spec import Vector

Text = tuple[int, ...]
Model = Callable[[Text], Vector]
Scored = tuple[float, Text]


def length_penalty(n: int, α: float) -> float:
    """((5 + n) / 6)^α"""
    return ((5 + n) / 6) ** α


def log_probability(model: Model, text: Text) -> float:
    """Σ_s log p(w_s | w_1 … w_{s-1})"""
    return fsum(model(text[:s])[text[s]] for s in range(len(text)))


def greedy_search(model: Model, end: int, longest: int) -> Scored:
    """w_s = argmax_w p(w | w_1 … w_{s-1})"""
    text: Text = ()
    while len(text) < longest and end not in text:
        log_p = model(text)
        text = (*text, max(range(len(log_p)), key=lambda w: log_p[w]))
    return log_probability(model, text), text


def beam_search(model: Model, end: int, longest: int, W: int, α: float) -> list[Scored]:
    """The W likeliest beginnings at each length; those among the first W that end are finished."""
    begun: list[Text] = [()]
    finished: list[Scored] = []
    for n in range(1, longest + 1):
        longer = [(*text, w) for text in begun for w in range(len(model(text)))]
        longer.sort(key=lambda text: log_probability(model, text), reverse=True)
        for text in longer[:W]:
            if text[-1] == end or n == longest:
                finished.append((log_probability(model, text) / length_penalty(n, α), text))
        if len(finished) >= W:
            break
        begun = [text for text in longer[: 2 * W] if text[-1] != end][:W]
    return sorted(finished, reverse=True)[:W]
