"""From a model and a text to the page: what `minibert explain` puts together."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from minibert import __version__
from minibert.explain.beside import beside_teacher, curves
from minibert.explain.live import live
from minibert.explain.page import BUDGET, page
from minibert.explain.reading import Reading, read, shares_of
from minibert.model import Bert
from minibert.training.answers import hash_of_model


@torch.no_grad()
def explained(
    bert: Bert,
    text: str,
    second: str | None = None,
    layers: Sequence[int] | None = None,
    teacher: Bert | None = None,
    run: Path | None = None,
    names: tuple[str, str] = ("a model", "a teacher"),
    command: str = "",
    budget: int = BUDGET,
) -> tuple[str, Reading]:
    """The page, and what is in it. `run` is a folder that may hold training curves.

    Raises
        CheckpointError  the model cannot be shown, or the teacher does not fit beside it.
        NotReadable      the text is empty or too long for the model, or there is no such layer.
        TooLarge         the page would be larger than `budget` bytes.
    """
    reading, trace, ids_BS, types_BS = read(bert, text, second, layers)
    reading.facts["about"] = {
        "model": names[0],
        "weights": hash_of_model(bert),
        "minibert": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": command,
    }
    known = reading.facts["steps"] is not None
    reading.facts["live"], reading.model = live(bert, trace, ids_BS, types_BS, known)
    reading.facts["curves"] = (run and curves(run)) or None
    reading.facts["teacher"] = None
    if teacher is not None:
        beside, maps = beside_teacher(bert, trace, teacher, ids_BS, types_BS)
        reading.facts["teacher"] = beside
        reading.facts["about"] |= {"teacher": names[1], "teacher's weights": hash_of_model(teacher)}
        reading.blocks |= {name: shares_of(p_NSR) for name, p_NSR in maps.items()}
    return page(reading, budget), reading
