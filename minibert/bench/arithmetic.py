"""How many operations a case needs, and how fast this machine multiplies.

S tokens of a sentence · D width · F feed-forward width · T tokens of a batch · I, O of one map.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.bench.cases import Work
from minibert.config import BertConfig


def operations(config: BertConfig, lengths: Iterable[int]) -> int:
    """Multiplications and additions in the products of a forward pass, of tokens and no padding.

    Formula
        Σ over sentences:  L (2 S (4 D² + 2 D F) + 4 S² D)
        four maps D → D, two between D and F; scores and contexts over all pairs of tokens

    >>> operations(BertConfig(num_hidden_layers=1), [1]) == 2 * (4 * 768**2 + 2 * 768 * 3072) + 3072
    True
    """
    d, f = config.hidden_size, config.intermediate_size
    of_one = (2 * s * (4 * d * d + 2 * d * f) + 4 * s * s * d for s in lengths)
    return config.num_hidden_layers * sum(of_one)


def products(work: Work) -> tuple[dict[str, Callable[[], Any]], int]:
    """The two largest products of the model, D → F and F → D, in each way that torch offers.

    They see as many tokens as a batch has on average. Also returns their operations.
    """
    d, f = work.config.hidden_size, work.config.intermediate_size
    tokens = sum(sum(batch.lengths) for batch in work.batches) // len(work.batches)
    generator = torch.Generator().manual_seed(work.choices.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(work.dtype)

    x_TD, weight_FD, bias_F = draw(tokens, d), draw(f, d) * 0.02, draw(f)
    weight_DF, bias_D = draw(d, f) * 0.02, draw(d)

    @torch.inference_mode()
    def plain() -> Tensor:
        return F.linear(F.linear(x_TD, weight_FD, bias_F), weight_DF, bias_D)

    ways: dict[str, Callable[[], Any]] = {"F.linear": plain}
    if torch.backends.mkldnn.is_available():
        pack = torch.ops.mkldnn._reorder_linear_weight
        packed_FD, packed_DF = pack(weight_FD, tokens), pack(weight_DF, tokens)
        multiply = torch.ops.mkldnn._linear_pointwise

        @torch.inference_mode()
        def onednn() -> Tensor:
            inner_TF = multiply(x_TD, packed_FD, bias_F, "none", [], "")
            y_TD: Tensor = multiply(inner_TF, packed_DF, bias_D, "none", [], "")
            return y_TD

        ways["oneDNN"] = onednn
    return ways, 2 * 2 * tokens * d * f
