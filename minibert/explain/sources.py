"""Where the book computes each step of the page: found when the page is made, never hard-coded."""

import inspect
from collections.abc import Callable
from typing import Any

from minibert import attention, encoder, functional, heads

# For each step: its function, the beginning of the line that computes it, the formula's proof.
STEPS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "embed": (encoder.embeddings, "summed_BSD =", "embeddings"),
    "norm": (functional.layer_norm, "return (", "layer_norm"),
    "linear": (functional.linear, "return x_I", "linear"),
    "scores": (attention.attention_scores, "return query", "attention_scores"),
    "mask": (attention.attention_probabilities, "return softmax", "attention_probabilities"),
    "softmax": (functional.softmax, "return (weights", "softmax"),
    "taken": (attention.attend, "taken_BNSK =", "multi_head_attention"),
    "output": (attention.attend, "output_BSD =", "multi_head_attention"),
    "add": (encoder.block, "attended_BSD = hidden_BSD +", "block"),
    "gelu": (functional.gelu_erf, "return (wide_D", "gelu_erf"),
    "gelu_tanh": (functional.gelu_tanh, "return (0.5", "gelu_tanh"),
    "fed": (encoder.feed_forward, "return linear(", "feed_forward"),
    "add_fed": (encoder.block, "output_BSD = attended_BSD +", "block"),
    "words": (heads.mlm_logits, "return linear", "mlm_logits"),
}


def source_lines() -> dict[str, dict[str, Any]]:
    """For each step the file, the number of its line, the line, and the proof's name.

    >>> source_lines()["taken"]["code"]
    'taken_BNSK = dropout(probabilities_BNSR, dropout_rate, generator) @ value_BNRK'
    """
    found = {}
    for step, (function, beginning, proof) in STEPS.items():
        lines, first = inspect.getsourcelines(function)
        place = next(i for i, line in enumerate(lines) if line.strip().startswith(beginning))
        name = function.__module__.partition(".")[2]
        found[step] = {
            "file": f"minibert/{name}.py",
            "line": first + place,
            "code": lines[place].strip(),
            "proof": f"pytest tests/test_laws.py -k {proof}",
        }
    return found
