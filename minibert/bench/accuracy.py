"""How far an answer may be from float64.

The reference is the book in float64. The bound of a case is four times the book's own error in the
precision of the case. That error is proven by `minibert verify`; an engine that rounds as often as
the book, but in another order, stays well within four times of it, while one with products in a
lower precision than the case's does not.

int8 has a bound of its own. Rounding to one of 255 steps, the last of which is the largest number,
errs by up to 0.4 % of the largest, which is about 1 % of a typical number, twice in each of the
successive products (4 a layer). As a random walk, that is 10 % of a typical state after 12 layers,
and the worst of a million states is 5 times as wrong: 0.5.
"""

import torch
from torch import Tensor

from minibert.bench import steps
from minibert.bench.cases import Case, Work
from minibert.bench.engines import book, hugging_face, passes

MARGIN = 4.0
INT8_BOUND = 0.5


def book_answer(case: Case, work: Work, dtype: torch.dtype) -> Tensor:
    """What an engine of this case should answer, computed by the book in some precision."""
    if case.kind == "step":
        return steps.book_gradient(work, dtype)
    if case.kind == "adam":
        return steps.book_adam(work, dtype)
    return passes(book)(work._replace(dtype=dtype)).answer()


def error_of(answer: Tensor, exact: Tensor, kind: str) -> float:
    """The largest difference; for gradients, as a share of the largest gradient."""
    if answer.shape != exact.shape:
        raise ValueError(f"the answer has shape {list(answer.shape)}, not {list(exact.shape)}")
    error = (answer.double() - exact).abs().max()
    return float(error / exact.abs().max() if kind == "step" else error)


def bound_of(case: Case, work: Work, exact: Tensor) -> float:
    """Four times the error of the book in the precision of the case."""
    return MARGIN * error_of(book_answer(case, work, case.dtype), exact, case.kind)


@torch.inference_mode()
def float64_difference(work: Work) -> float:
    """How far `transformers` in float64 is from the book in float64, on one sentence."""
    batch = work.batches[0]
    keep_S = batch.keep_BS[0]
    ids_1S, types_1S = batch.ids_BS[:1, keep_S], batch.types_BS[:1, keep_S]
    model = hugging_face(work, "eager", torch.float64)
    theirs_1SD = model(input_ids=ids_1S, token_type_ids=types_1S).last_hidden_state
    one = batch._replace(ids_BS=ids_1S, types_BS=types_1S, keep_BS=torch.ones_like(ids_1S) > 0)
    ours_SD = passes(book)(work._replace(dtype=torch.float64, batches=[one])).answer()
    return float((theirs_1SD[0] - ours_SD).abs().max())
