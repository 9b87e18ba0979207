"""Linear maps as fast as the machine allows: y = x Wᵀ + b and its two gradients.

Nearly all of BERT's time goes into these products, and torch offers two ways to compute them:

- "torch": `F.linear` and `@`, in float32 the BLAS that torch was built with;
- "onednn": the library oneDNN, which torch carries for its compiler. It takes a weight whose memory
  layout was prepared beforehand, and ends a product with GELU or an addition at no extra cost.

Which one is faster depends on the processor, so `fastest` measures it.
T tokens · I, O in and out of one linear map.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.functional import linear as book_linear
from minibert.parameters import LinearWeights

Way = Literal["torch", "onednn"]
Arithmetic = Literal["book", "torch", "onednn", "int8"]
SMALL = 1_500_000  # multiplications; below it, oneDNN's preparation of a float32 call costs more
FEW_TOKENS = 8  # for fewer, a large weight is not kept in two layouts

_fixed: ContextVar[Arithmetic | None] = ContextVar("arithmetic", default=None)


class PackedLinear(NamedTuple):
    """A linear map for inference: `packed` is the weight in oneDNN's own layout, if it is used.

    The original weight is kept beside it only if it is small enough to be useful for few tokens.
    """

    weight_OI: Tensor | None
    bias_O: Tensor
    packed: Tensor | None


@contextmanager
def arithmetic(name: Arithmetic | None) -> Iterator[None]:
    """Fix how the kernels compute inside a `with`; None leaves it as it is.

    "book" calls the book's own functions; "int8" takes effect in weights made for inference.
    """
    token = _fixed.set(_known(name) or _fixed.get())
    try:
        yield
    finally:
        _fixed.reset(token)


def fix_arithmetic(name: Arithmetic | None) -> None:
    """Fix how the kernels compute in this thread; None, the default, leaves it to measurement."""
    _fixed.set(_known(name))


def _known(name: Arithmetic | None) -> Arithmetic | None:
    if name is not None and name not in get_args(Arithmetic):
        raise ValueError(f"the arithmetic is {name!r}, but must be one of {get_args(Arithmetic)}")
    return name


def fixed_arithmetic() -> Arithmetic | None:
    """What is fixed at the moment, by `arithmetic` or `fix_arithmetic`."""
    return _fixed.get()


def chosen(x: Tensor) -> Way:
    """How to multiply tensors like this one: the way that was fixed, or else the fastest."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return "torch"
    fixed = _fixed.get()
    if fixed == "onednn":
        return "onednn" if offers_onednn(x.dtype) else "torch"
    return "torch" if fixed == "torch" else fastest(x.dtype)


def pack(weights: LinearWeights) -> PackedLinear:
    """A linear map made ready for many products; nothing here computes gradients."""
    weight_OI, bias_O = weights.weight_OI.detach().contiguous(), weights.bias_O.detach()
    packed = None
    if chosen(weight_OI) == "onednn":
        # 32 stands for "more than one token"; the layout serves any number.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, 32)
        if FEW_TOKENS * weight_OI.numel() >= SMALL:
            return PackedLinear(None, bias_O, packed)
    return PackedLinear(weight_OI, bias_O, packed)


def packed_linear(
    x_TI: Tensor, weights: PackedLinear, gelu: str | None = None, add_TO: Tensor | None = None
) -> Tensor:
    """y = x Wᵀ + b, then GELU or the sum with another tensor, in one pass.

    `gelu` is torch's name of the form: "none" for erf, or "tanh".

    Accuracy
        |error| <= (I + 1) eps (Σ |w| |x| + |b|); GELU adds 4 eps of what goes into it
    """
    plain_OI = weights.weight_OI
    if weights.packed is None or (plain_OI is not None and _is_small(x_TI, plain_OI)):
        assert plain_OI is not None
        y_TO = F.linear(x_TI, plain_OI, weights.bias_O)
        if gelu is not None:
            y_TO = F.gelu(y_TO, approximate=gelu)
        return y_TO if add_TO is None else y_TO.add_(add_TO)
    fused = torch.ops.mkldnn._linear_pointwise
    if add_TO is not None:
        return fused.binary(x_TI, add_TO, weights.packed, weights.bias_O, "add")
    if gelu is not None:
        return fused(x_TI, weights.packed, weights.bias_O, "gelu", [], gelu)
    return fused(x_TI, weights.packed, weights.bias_O, "none", [], "")


def _is_small(x_TI: Tensor, weight_OI: Tensor) -> bool:
    return x_TI.dtype == torch.float32 and x_TI.shape[0] * weight_OI.numel() < SMALL


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, way: Way) -> Tensor:
    """x Wᵀ + b for weights that change after every step, and for gradients; with any strides.

    The two gradients are products of the same form: dx = dy W is `product(dy, Wᵀ)`, and
    dW = dyᵀ x is `product(dyᵀ, xᵀ)`. In half precision torch itself calls oneDNN.
    """
    if way == "torch" or x_TI.dtype != torch.float32 or _is_small(x_TI, weight_OI):
        return F.linear(x_TI, weight_OI, bias_O)
    return torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")


def offers_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN and the calls used here, and this processor supports them.

    In bfloat16 oneDNN needs instructions that a processor with only AVX2 lacks.
    """
    calls = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(calls, "_linear_pointwise"):
        return False
    return dtype != torch.bfloat16 or bool(calls._is_mkldnn_bf16_supported())


@functools.cache
def fastest(dtype: torch.dtype) -> Way:
    """Measure both ways on this machine, once, for some milliseconds.

    A way that is not offered here, or whose error exceeds the bound of `functional.linear`, is
    ruled out. oneDNN must be slower by a tenth to lose, so that noise does not change the choice.
    """
    if not offers_onednn(dtype):
        return "torch"
    generator = torch.Generator().manual_seed(0)
    x_TI = torch.randn(128, 768, generator=generator).to(dtype)
    weight_OI = torch.randn(384, 768, generator=generator).to(dtype)
    bias_O = torch.randn(384, generator=generator).to(dtype)
    plain = PackedLinear(weight_OI, bias_O, None)
    try:
        with arithmetic("onednn"):
            packed = pack(LinearWeights(weight_OI, bias_O))
        onednn_TO = packed_linear(x_TI, packed)
    except RuntimeError:  # the processor lacks an instruction that this precision needs
        return "torch"
    exact_TO = book_linear(x_TI.double(), weight_OI.double(), bias_O.double())
    size_TO = book_linear(x_TI.double().abs(), weight_OI.double().abs(), bias_O.double().abs())
    in_float32 = (x_TI.shape[1] + 1) * torch.finfo(torch.float32).eps * size_TO
    bound_TO = in_float32 + torch.finfo(dtype).eps * exact_TO.abs()  # and rounded once
    if not ((onednn_TO - exact_TO).abs() <= bound_TO).all():
        return "torch"
    seconds = _best_seconds(
        lambda: packed_linear(x_TI, plain), lambda: packed_linear(x_TI, packed)
    )
    return "torch" if seconds[0] < 0.9 * seconds[1] else "onednn"


@functools.cache
def cost_of_bfloat16() -> float:
    """The time of a product in bfloat16 on this processor, relative to float32.

    About a half if there are instructions for it; twenty if there are none, as torch then
    computes number by number. Measured once, for some milliseconds.
    """
    generator = torch.Generator().manual_seed(0)
    x_TI = torch.randn(128, 384, generator=generator)
    weight_OI = torch.randn(384, 384, generator=generator)
    narrow_TI, narrow_OI = x_TI.bfloat16(), weight_OI.bfloat16()
    wide, narrow = _best_seconds(
        lambda: F.linear(x_TI, weight_OI), lambda: F.linear(narrow_TI, narrow_OI)
    )
    return narrow / wide


def _best_seconds(*functions: Callable[[], Any], rounds: int = 7) -> list[float]:
    """The shortest time of each, taken in turns so that a busy moment hits them all."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for place, function in enumerate(functions):
            started = time.perf_counter()
            function()
            best[place] = min(best[place], time.perf_counter() - started)
    return best
