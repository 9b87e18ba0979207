"""One attention head by hand: four words ask, four words answer, every number printed.

    python examples/attention_by_hand.py

Follow one row from its query to its answer. The last lines do the same with `minibert.attention`
and print the largest difference, which is 0 or the last bit of a float.
"""

import math

import torch

from minibert.attention import attention_probabilities, attention_scores, padding_bias

WORDS = ["the", "cat", "sleeps", "[PAD]"]
KEPT = [True, True, True, False]

# Two features a word: "is it an animal?" and "is it an action?". Queries say what a word looks
# for, keys what it offers, values what it hands over.
QUERIES = [[0.0, 0.0], [0.0, 3.0], [3.0, 0.0], [1.0, 1.0]]
KEYS = [[0.1, 0.0], [2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]
VALUES = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [7.0, 7.0]]


def attend(s: int) -> tuple[list[float], list[float], list[float]]:
    """How word s attends to every word: scores, probabilities, and the weighted mean of values."""
    width = len(QUERIES[s])
    scores = [
        sum(q * k for q, k in zip(QUERIES[s], key, strict=True)) / math.sqrt(width) for key in KEYS
    ]
    seen = [score if keep else -math.inf for score, keep in zip(scores, KEPT, strict=True)]
    weights = [math.exp(score - max(seen)) for score in seen]
    probabilities = [weight / sum(weights) for weight in weights]
    answer = [
        sum(p * value[i] for p, value in zip(probabilities, VALUES, strict=True))
        for i in range(width)
    ]
    return scores, probabilities, answer


def row(numbers: list[float]) -> str:
    return "  ".join(f"{number:7.3f}" for number in numbers)


print("scores q·k/√2, then the probabilities after the mask, then the answer\n")
print(" " * 8 + "  ".join(f"{word:>7}" for word in WORDS))
answers = []
for s, word in enumerate(WORDS):
    scores, probabilities, answer = attend(s)
    answers.append(answer)
    print(f"{word:<8}{row(scores)}")
    print(f"{'':<8}{row(probabilities)}   ->  {row(answer)}\n")

print("'cat' looks for an action and finds 'sleeps'; 'sleeps' looks for an animal and finds 'cat'.")
print("[PAD] would have scored highest of all; its probability is exactly 0 in every row.\n")

query_BNSK = torch.tensor([[QUERIES]])
key_BNRK = torch.tensor([[KEYS]])
value_BNRK = torch.tensor([[VALUES]])
mask_bias_B11R = padding_bias(torch.tensor([KEPT]))
probabilities_BNSR = attention_probabilities(attention_scores(query_BNSK, key_BNRK), mask_bias_B11R)
answer_BNSK = probabilities_BNSR @ value_BNRK
difference = (answer_BNSK[0, 0] - torch.tensor(answers)).abs().max()
print(f"minibert.attention says the same: largest difference {difference:.1e}")
