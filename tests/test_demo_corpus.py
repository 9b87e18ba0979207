"""The demo corpus: repeatable, fair, unseen where it says so, hard for a bag of words."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from minibert.data import demo
from minibert.data.demo import (
    BAD,
    GOOD,
    HELD_OUT,
    TRAINING,
    demo_corpus,
    demo_vocabulary,
    templates,
)
from minibert.data.tokenizer import SPECIALS, Tokenizer

DENIALS = ("not", "never", "anything but", "failed", "nobody said", "nobody but")


@pytest.fixture(scope="module")
def corpus():
    return demo_corpus(0)


def claimed(text: str) -> bool:
    """The verdict of one claim, from the text alone: its judgement, turned around by a denial."""
    (judgement,) = (word for word in text.split() if word in GOOD + BAD)
    return (judgement in GOOD) != any(denial in text for denial in DENIALS)


def judged(text: str) -> int:
    """The verdict of a review, by rules written here a second time, from the reader's side."""
    body = text.removesuffix(" .").removeprefix("well , ").removeprefix("to be honest , ")
    for conceding in ("although ", "even though "):
        if body.startswith(conceding):
            return int(claimed(body.split(" , ")[1]))
        if f" , {conceding}" in body:
            return int(claimed(body.split(f" , {conceding}")[0]))
    if " , but " in body:
        return int(claimed(body.split(" , but ")[1]))
    claims = re.split(" , and | \\. | and | while ", body)
    if len(claims) == 2 and claimed(claims[0]) != claimed(claims[1]):
        claims = [claim for claim in claims if any(word in claim for word in demo.STRONG)]
    (verdict,) = {claimed(claim) for claim in claims}
    return int(verdict)


def test_a_second_reading_of_every_review_gives_its_label(corpus):
    wrong = [e for e in corpus.teacher_train + corpus.held_out if judged(e.first) != e.label]
    assert wrong == []


def test_sizes_and_balance(corpus):
    sizes = [len(part) for part in corpus]
    assert sizes == [16000, 500, 6000, 1000]
    for part in (corpus.teacher_train, corpus.student_train, corpus.held_out):
        assert Counter(e.label for e in part) == {0: len(part) // 2, 1: len(part) // 2}
    assert {e.label for e in corpus.pool} == {None}
    assert corpus.student_train == corpus.teacher_train[:500]


def test_no_review_stands_in_two_sets(corpus):
    texts = [e.first for part in (corpus.teacher_train, corpus.pool, corpus.held_out) for e in part]
    assert len(set(texts)) == len(texts)


def test_the_same_in_any_process_and_other_with_another_seed(corpus):
    code = "from minibert.data.demo import demo_corpus; print(demo_corpus(0).held_out[-1].first)"
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                             text=True, check=True)  # fmt: skip
        assert run.stdout.strip() == corpus.held_out[-1].first
    assert demo_corpus(1).held_out != corpus.held_out


def test_held_out_templates_and_words_are_unseen(corpus):
    for denying in (False, True):
        assert not set(templates(denying, True)) & set(templates(denying, False))
    seen = {word for e in corpus.teacher_train + corpus.pool for word in e.first.split()}
    used = {word for e in corpus.held_out for word in e.first.split()}
    unseen = set(HELD_OUT.things) | set(HELD_OUT.names) | set(HELD_OUT.degrees) - {""}
    assert used - seen == unseen
    new = [e for e in corpus.held_out if set(e.first.split()) & unseen]
    assert len(new) == len(corpus.held_out)


def test_a_bag_of_words_stays_below_three_in_four(corpus):
    words = CountVectorizer(token_pattern=r"\S+")
    counts = words.fit_transform([e.first for e in corpus.teacher_train])
    bag = LogisticRegression(max_iter=1000).fit(counts, [e.label for e in corpus.teacher_train])
    held_out = words.transform([e.first for e in corpus.held_out])
    accuracy = bag.score(held_out, [e.label for e in corpus.held_out])
    assert 0.5 < accuracy <= 0.75


def test_the_vocabulary_reads_rules_as_words_and_unknown_things_as_unk():
    vocabulary = demo_vocabulary()
    assert vocabulary[:5] == list(SPECIALS)
    assert len(set(vocabulary)) == len(vocabulary)
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    (encoding,) = tokenizer.encode(["the song was never dull , amara said that ."])
    read = [vocabulary[i] for i in encoding.ids]
    assert read == ["[CLS]", "the", "[UNK]", "was", "never", "dull", ",", "[UNK]", "said", "that",
                    ".", "[SEP]"]  # fmt: skip
    assert TRAINING.things[0] in vocabulary
    assert not set(HELD_OUT.things) & set(vocabulary)
