"""How many operations a case needs, and how fast this machine multiplies.

S tokens of a sentence · D width · A width of all heads · F feed-forward width · T tokens of
a batch · I, O of one map.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.bench.cases import Work
from minibert.config import BertConfig
from minibert.kernels.products import offers_onednn

PLAIN, INT8 = ("F.linear", "oneDNN"), ("torch._int_mm",)  # ways to multiply


def operations(config: BertConfig, lengths: Iterable[int]) -> int:
    """Multiplications and additions in the products of a forward pass, over tokens without padding.

    Formula
        Σ over sentences and layers:  2 S (4 D A + 2 D F) + 4 S² A,  A = D unless heads are pruned
        four maps between D and A, two between D and F; scores and contexts over all pairs of tokens

    >>> operations(BertConfig(num_hidden_layers=1), [1]) == 2 * (4 * 768**2 + 2 * 768 * 3072) + 3072
    True
    """
    d, k = config.hidden_size, config.head_width
    return sum(
        2 * s * (4 * d * n * k + 2 * d * f) + 4 * s * s * n * k
        for s in lengths
        for n, f in config.heads_and_units
    )


def products(work: Work, int8: bool = False) -> tuple[dict[str, Callable[[], Any]], int]:
    """The two largest products of the model, D → F and F → D, in each way that torch offers.

    They get as many tokens as a batch has on average. With `int8`, the numbers are already
    integers, and so are the sums, which are not scaled. Also returns the number of operations.
    """
    d, f = work.config.hidden_size, work.config.intermediate_size
    tokens = sum(sum(batch.lengths) for batch in work.batches) // len(work.batches)
    generator = torch.Generator().manual_seed(work.choices.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(work.choices.device, work.dtype)

    x_TD, weight_FD, bias_F = draw(tokens, d), draw(f, d) * 0.02, draw(f)
    weight_DF, bias_D = draw(d, f) * 0.02, draw(d)

    @torch.inference_mode()
    def plain() -> Tensor:
        return F.linear(F.linear(x_TD, weight_FD, bias_F), weight_DF, bias_D)

    by_torch, by_onednn = PLAIN
    ways: dict[str, Callable[[], Any]] = {by_torch: plain}
    if offers_onednn(x_TD.dtype) and x_TD.is_cpu:
        ways[by_onednn] = _onednn(x_TD, (weight_FD, bias_F), (weight_DF, bias_D))
    if int8:
        ways[INT8[0]] = _int8(tokens, d, f, generator)
    return ways, 2 * 2 * tokens * d * f


def _onednn(x_TD: Tensor, *maps: tuple[Tensor, Tensor]) -> Callable[[], Any]:
    packed = [
        (torch.ops.mkldnn._reorder_linear_weight(weight_OI, len(x_TD)), bias_O)
        for weight_OI, bias_O in maps
    ]

    @torch.inference_mode()
    def run() -> Tensor:
        y_TO = x_TD
        for weight, bias_O in packed:
            y_TO = torch.ops.mkldnn._linear_pointwise(y_TO, weight, bias_O, "none", [], "")
        return y_TO

    return run


def _int8(tokens: int, d: int, f: int, generator: torch.Generator) -> Callable[[], Any]:
    def draw(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)

    x_TD, weight_DF, inner_TF, weight_FD = (
        draw(tokens, d), draw(f, d).T, draw(tokens, f), draw(d, f).T,
    )  # fmt: skip

    @torch.inference_mode()
    def run() -> None:
        torch._int_mm(x_TD, weight_DF)
        torch._int_mm(inner_TF, weight_FD)

    return run
