"""Where a student agrees with its teacher: their answers to the same texts, side by side.

X texts of a data set · C classes.
"""

from collections import Counter
from typing import NamedTuple

from torch import Tensor

from minibert.data.readers import Dataset
from minibert.functional import softmax
from minibert.model import Bert
from minibert.training.evaluation import labels_of, task_answers


class Answers(NamedTuple):
    """For each text the answers of teacher and student, one number each, and whether they agree.

    `cut` separates the numbers of one answer from those of the other, if there is such a number.
    `corners` counts texts: (side of the teacher, side of the student) → how many, and a label.
    """

    what: str
    teacher_X: list[float]
    student_X: list[float]
    agree_X: list[bool]
    cut: float | None
    span: tuple[float, float]
    corners: dict[tuple[bool, bool], tuple[int, str]]

    def spots(self, agree: bool) -> dict[tuple[float, float], int]:
        """How many texts that agree, or that do not, lie at each place, to 1/100 of the span."""
        step = (self.span[1] - self.span[0]) / 100
        texts = zip(self.teacher_X, self.student_X, self.agree_X, strict=True)
        return Counter(
            (round(round(x / step) * step, 9), round(round(y / step) * step, 9))
            for x, y, same in texts
            if same == agree
        )


def answers_beside(
    teacher: Bert, student: Bert, dataset: Dataset, max_length: int = 128
) -> Answers:
    """Both models' answers to the texts of a data set.

    With two classes the number is the probability of the second. With more it is that of the
    label, and corners say who is right. For scores it is the score, and corners say who is above
    the mean of the labels.

    Raises
        CheckpointError  a model does not answer this task, see `evaluation.task_answers`.
    """
    logits = [task_answers(model, dataset, max_length) for model in (teacher, student)]
    labels_X = labels_of(dataset)
    if dataset.task.regression:
        return _of_scores(logits, labels_X)
    if logits[0].shape[1] == 2:
        return _of_two_classes(logits, *student.config.id2label.values())
    return _of_more_classes(logits, labels_X)


# Each of the three computes for both models, in this order: the `numbers` that are drawn; what is
# `said`, which is equal where the two agree; and the `sides` of the picture, a yes or a no.


def _of_scores(logits: list[Tensor], labels_X: Tensor) -> Answers:
    numbers = [logits_XC[:, 0] for logits_XC in logits]
    cut = labels_X.mean().item()
    above = [number_X > cut for number_X in numbers]
    words = ("both above the mean", "teacher alone above", "student alone above", "both below")
    low, high = min(x.min().item() for x in numbers), max(x.max().item() for x in numbers)
    span = (low, high) if low < high else (low - 1, high + 1)
    return _answers("score", numbers, said=above, sides=above, words=words, cut=cut, span=span)


def _of_two_classes(logits: list[Tensor], no: str, yes: str) -> Answers:
    numbers = [softmax(logits_XC)[:, 1] for logits_XC in logits]
    said = [logits_XC.argmax(-1) == 1 for logits_XC in logits]
    words = (f"both {yes}", f"teacher {yes},\nstudent {no}",
             f"teacher {no},\nstudent {yes}", f"both {no}")  # fmt: skip
    return _answers(f"probability of {yes}", numbers, said, sides=said, words=words, cut=0.5)


def _of_more_classes(logits: list[Tensor], labels_X: Tensor) -> Answers:
    numbers = [softmax(logits_XC).gather(1, labels_X[:, None])[:, 0] for logits_XC in logits]
    said = [logits_XC.argmax(-1) for logits_XC in logits]
    right = [said_X == labels_X for said_X in said]
    words = ("both right", "teacher alone right", "student alone right", "both wrong")
    what = f"probability of the label, of {logits[0].shape[1]}"
    return _answers(what, numbers, said, sides=right, words=words)


def _answers(
    what: str,
    numbers: list[Tensor],
    said: list[Tensor],
    sides: list[Tensor],
    words: tuple[str, ...],
    cut: float | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> Answers:
    teacher_X, student_X = (number_X.tolist() for number_X in numbers)
    places = ((True, True), (True, False), (False, True), (False, False))
    counts = Counter(zip(*(side_X.tolist() for side_X in sides), strict=True))
    corners = {place: (counts[place], text) for place, text in zip(places, words, strict=True)}
    agree_X = (said[0] == said[1]).tolist()
    return Answers(what, teacher_X, student_X, agree_X, cut, span, corners)
