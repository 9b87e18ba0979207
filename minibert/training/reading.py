"""What a student reads: the training texts, some of them joined, and copies with other words."""

from collections.abc import Sequence
from typing import NamedTuple

from minibert.config import CheckpointError
from minibert.data.augmentation import Candidates, augmented, changeable_words, joined
from minibert.data.candidates import (
    Neighbours,
    masked_guesses,
    neighbours,
    neighbours_by_pieces,
)
from minibert.data.corpus import read_corpus
from minibert.data.readers import Dataset, Example
from minibert.data.vectors import read_vectors
from minibert.model import Bert
from minibert.training.distil import LearningTexts, learning_texts
from minibert.training.masked_head import train_masked_head
from minibert.training.progress import Display


class Augmentation(NamedTuple):
    """How many texts are added and how many copies of each are made, and where words come from.

    `joined` texts are two to four others in a row. `vectors` is a file of word vectors, by default
    the teacher's word table; `model` is a folder with a masked-word head, by default the teacher,
    for which a head is trained on `corpus` if it has none.
    """

    joined: int = 0
    copies: int = 0
    by: str = "neighbours"
    probability: float = 0.4
    candidates: int = 15
    vectors: str | None = None
    model: str | None = None
    corpus: Sequence[str] = ()
    seed: int = 0


def learned_texts(
    train_set: Dataset,
    teacher: Bert,
    augmentation: Augmentation,
    max_length: int,
    display: Display,
) -> LearningTexts:
    """The tokens of all that a student reads, and the labels of those texts that have one.

    Raises
        CheckpointError  no model at hand has a masked-word head, and there is no corpus to train
                         one on.
        DataError        word vectors or corpus cannot be read.
    """
    examples: Sequence[Example] = train_set.examples
    if augmentation.joined:
        examples = [*examples, *joined(examples, augmentation.joined, augmentation.seed)]
    if augmentation.copies:
        assert teacher.tokenizer is not None  # it has been evaluated
        examples = augmented(
            examples,
            teacher.tokenizer,
            _candidates(examples, teacher, augmentation, display),
            augmentation.copies,
            augmentation.probability,
            augmentation.seed,
        )
    if len(examples) > len(train_set):
        display.say(f"{len(train_set):,} texts became {len(examples):,}")
    return learning_texts(examples, train_set.task, teacher.tokenizer, max_length)


def _candidates(
    examples: Sequence[Example], teacher: Bert, augmentation: Augmentation, display: Display
) -> Candidates:
    assert teacher.tokenizer is not None
    texts = [text for example in examples for text in example[:2] if text is not None]
    words = changeable_words(texts, teacher.tokenizer)
    near: Neighbours
    if augmentation.vectors:
        near = neighbours(words, read_vectors(augmentation.vectors), augmentation.candidates)
    else:
        near = neighbours_by_pieces(words, teacher, augmentation.candidates)
    without = len(words) - len(near.table)
    if without:
        display.say(f"{without:,} of {len(words):,} words have no neighbours, and stay")
    if augmentation.by == "neighbours":
        display.say(f"words are replaced by {near.source}")
        return near
    model = _with_masked_head(teacher, augmentation, display)
    guesses = masked_guesses(texts, model, augmentation.candidates, fallback=near)
    display.say(f"words are replaced by {guesses.source}")
    return guesses


def _with_masked_head(teacher: Bert, augmentation: Augmentation, display: Display) -> Bert:
    model = teacher
    if augmentation.model:
        place = teacher.weights.embeddings.word_VD.device
        model = Bert.from_pretrained(augmentation.model).to(place)
        cases = [one.tokenizer.lowercase for one in (model, teacher) if one.tokenizer is not None]
        if len(set(cases)) > 1:
            raise CheckpointError(
                f"--augment-model {augmentation.model} and the teacher read words differently, one "
                "in lower case and one cased; name a model that reads them as the teacher does"
            )
    if model.weights.mlm is not None:
        return model
    if not augmentation.corpus:
        raise CheckpointError(
            "the model has no head for masked words; give --corpus to train one on, with the "
            "encoder frozen, or name one with --augment-model, or use --augment-by neighbours"
        )
    display.say("the model has no head for masked words: one is trained, the encoder is frozen")
    paragraphs = [text for file in read_corpus(augmentation.corpus) for text in file]
    trained = train_masked_head(model, paragraphs, display=display)
    right = ", ".join(f"{name} {share:.1%}" for name, share in trained.accuracy.items())
    display.say(
        f"of {trained.n:,} held-out words it guesses: {right}; if top1 is not far above commonest, "
        "--augment-by neighbours keeps the meaning better"
    )
    return trained.bert
