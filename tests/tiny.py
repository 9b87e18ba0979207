"""Models and data small enough to train hundreds of times: a vocabulary of 31 words, D = 12.

A sentence is praise if it has more good words than bad ones, so there is something to learn.
"""

import dataclasses
import random
from pathlib import Path

from minibert.config import BertConfig
from minibert.data.readers import TASKS, Dataset, Example
from minibert.data.tokenizer import Tokenizer
from minibert.model import Bert
from minibert.wordpiece import SPECIALS

GOOD = "good great fine lovely bright warm".split()
BAD = "bad poor dull awful dark cold".split()
NEUTRAL = "the a film plot song room was and very of day tree is so".split()
NAMES = ("blame", "praise")
CLASSIFY = dataclasses.replace(TASKS["classify"], label_names=NAMES)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_vocabulary([*SPECIALS, *GOOD, *BAD, *NEUTRAL])


def config(**changes: object) -> BertConfig:
    """Sizes that are all different, so that a swapped axis shows, and dropout."""
    sizes = BertConfig(
        vocab_size=31,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=17,
        max_position_embeddings=20,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.1,
        initializer_range=0.2,  # a narrow model needs wider draws, or all its outputs are alike
    ).with_labels(NAMES, "single_label_classification")
    return dataclasses.replace(sizes, **changes)  # type: ignore[arg-type]


def classifier(seed: int = 0, **changes: object) -> Bert:
    return Bert.from_config(config(**changes), "classification", tokenizer(), seed)


def examples(count: int, seed: int) -> tuple[Example, ...]:
    """Sentences of 2 to 9 words, praise and blame in turn."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        label = index % 2
        words = rng.choices((BAD, GOOD)[label], k=rng.randint(1, 3))
        words += rng.choices(NEUTRAL, k=rng.randint(1, 6))
        rng.shuffle(words)
        found.append(Example(" ".join(words), None, label))
    return tuple(found)


def dataset(count: int, seed: int) -> Dataset:
    return Dataset(Path("tiny"), CLASSIFY, examples(count, seed))


def write_table(path: Path, rows: tuple[Example, ...], names: tuple[str, ...] = NAMES) -> Path:
    """The rows as a TSV file with the names of the classes."""
    lines = [f"{row.first}\t{names[int(row.label or 0)]}" for row in rows]
    path.write_text("sentence\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_data(folder: Path, n_train: int = 11, n_dev: int = 8) -> Path:
    """A folder with train.tsv and dev.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "train.tsv", examples(n_train, 1))
    write_table(folder / "dev.tsv", examples(n_dev, 2))
    return folder
