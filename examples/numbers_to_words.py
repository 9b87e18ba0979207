"""An encoder-decoder that learns what can be checked: to copy, to reverse, and to read numbers.

    python examples/numbers_to_words.py                   all three, three minutes on one core
    python examples/numbers_to_words.py --only reverse

Each model is trained on random texts and judged on others that it never saw, word for word: a
translation is right if every word of it is. Copying needs cross-attention that moves forwards,
reversing cross-attention that moves backwards, and reading "4 0 7 1" as "four thousand seventy
one" cross-attention that knows where in the number it is.
"""

import argparse
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from minibert.config import BertConfig
from minibert.data.parallel import Pairs
from minibert.data.tokenizer import Tokenizer
from minibert.training.loop import TrainingOptions
from minibert.training.progress import Display
from minibert.training.translation import learn_to_translate
from minibert.translator import Translator

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words_of(number: int) -> str:
    """0 to 999,999 in English words.

    >>> words_of(40_071)
    'forty thousand seventy one'
    """
    if number < 20:
        return ONES[number]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            return f"{words_of(number // size)} {name}" + (f" {words_of(rest)}" if rest else "")
    rest = number % 10
    return TENS[number // 10] + (f" {ONES[rest]}" if rest else "")


def copied(draw: random.Random) -> tuple[str, str]:
    text = " ".join(draw.choices(LETTERS, k=draw.randint(1, 10)))
    return text, text


def reversed_(draw: random.Random) -> tuple[str, str]:
    letters = draw.choices(LETTERS, k=draw.randint(1, 10))
    return " ".join(letters), " ".join(reversed(letters))


def number_read(draw: random.Random) -> tuple[str, str]:
    number = draw.randrange(10 ** draw.randint(1, 6))  # as many short ones as long ones
    return " ".join(str(number)), words_of(number)


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "copy": copied, "reverse": reversed_, "numbers": number_read,
}  # fmt: skip
EPOCHS = {"copy": 3, "reverse": 4, "numbers": 12}


def drawn(task: str, n_train: int, n_dev: int, n_test: int) -> list[Pairs]:
    """Pairs for training, for choosing the best epoch (dev) and for testing; none occurs twice."""
    draw, found = random.Random(task), dict[str, str]()
    while len(found) < n_train + n_dev + n_test:
        found |= [TASKS[task](draw)]
    rows = list(found.items())
    draw.shuffle(rows)  # or the shortest, of which there are few, would all come first
    borders = (0, n_test, n_test + n_dev, len(rows))
    parts = [rows[start:end] for start, end in itertools.pairwise(borders)]
    test_set, dev_set, train_set = (Pairs(Path(task), *zip(*part, strict=True)) for part in parts)
    return [train_set, dev_set, test_set]


def exact_match(model: Translator, pairs: Pairs, width: int = 1) -> float:
    """The share of texts that are right word for word."""
    said = [one.text for one in model.translate(pairs.sources, width)]
    return sum(map(str.__eq__, said, pairs.targets)) / len(pairs)


def learned(task: str, n_train: int) -> tuple[Translator, Pairs]:
    """A translator of a task, and texts that it was not shown."""
    train_set, dev_set, test_set = drawn(task, n_train, 100, 1_000)
    tokenizer = Tokenizer.trained([*train_set.sources, *train_set.targets], 200)
    config = BertConfig(
        vocab_size=len(tokenizer.pieces),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = Translator.from_config(config, config, tokenizer, tokenizer)
    options = TrainingOptions(epochs=EPOCHS[task], lr=2e-3)
    with TemporaryDirectory() as folder:
        learn_to_translate(
            model, train_set, dev_set, Path(folder), options, 64, 32, 0.0, Display()
        )
        return Translator.from_pretrained(folder), test_set


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(TASKS))
    parser.add_argument("--rows", type=int, default=20_000, help="texts to learn from")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for task in [chosen.only] if chosen.only else TASKS:
        model, test_set = learned(task, chosen.rows)
        share = exact_match(model, test_set)
        text = test_set.sources[0]
        print(f"{task}: {share:.1%} of {len(test_set):,} unseen texts are right; ", end="")
        print(f"{text} → {model.translate([text])[0].text}")


if __name__ == "__main__":
    main()
