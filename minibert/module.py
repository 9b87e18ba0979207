"""A BERT as an `nn.Module`, for torch.compile, DDP, FSDP and ONNX; it adds no mathematics.

B texts · S tokens · D width · V words · C classes or choices. The parameters have the names of the
saved file, so `state_dict()` is what `model.safetensors` holds, and share memory with the model
they were made from.
"""

import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minibert.checkpoint import key_of
from minibert.config import BertConfig
from minibert.encoder import encode
from minibert.heads import (
    mlm_logits,
    multiple_choice_logits,
    nsp_logits,
    pooled,
    regression_values,
    sequence_logits,
    span_logits,
    token_logits,
)
from minibert.parameters import BertWeights, named_tensors, with_tensors
from minibert.writing import whole_file

OPSET = 17  # the version of ONNX's operators


class Spans(NamedTuple):
    """Where an answer starts and where it ends."""

    start_BS: Tensor
    end_BS: Tensor


class Pretraining(NamedTuple):
    """A score for every word at each token, and for next or not next."""

    words_BSV: Tensor
    follows_B2: Tensor


def answer(
    hidden_BSD: Tensor,
    weights: BertWeights,
    config: BertConfig,
    head: str,
    n_choices: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor | Spans | Pretraining:
    """The output of a head, one of `HEADS`, for the last states; for "encoder", the states.

    Shapes
        return  [B, S, V] mlm · [B, 2] nsp · [B, C] classification, multiple choice (of B*C rows) ·
                [B] regression · [B, S, C] token classification · `Spans` · `Pretraining`
    """
    pooler, nsp, last, rate = weights.pooler, weights.nsp, weights.classifier, config.head_dropout
    words_VD = weights.embeddings.word_VD
    if head == "mlm" and weights.mlm:
        return mlm_logits(hidden_BSD, weights.mlm, words_VD, config)
    if head == "nsp" and pooler and nsp:
        return nsp_logits(pooled(hidden_BSD, pooler), nsp)
    if head == "pretraining" and pooler and nsp and weights.mlm:
        words_BSV = mlm_logits(hidden_BSD, weights.mlm, words_VD, config)
        return Pretraining(words_BSV, nsp_logits(pooled(hidden_BSD, pooler), nsp))
    if head == "classification" and pooler and last:
        return sequence_logits(pooled(hidden_BSD, pooler), last, rate, generator)
    if head == "regression" and pooler and last:
        return regression_values(pooled(hidden_BSD, pooler), last, rate, generator)
    if head == "multiple_choice" and pooler and last:
        vector_BD = pooled(hidden_BSD, pooler)
        return multiple_choice_logits(vector_BD, last, n_choices, rate, generator)
    if head == "token_classification" and last:
        return token_logits(hidden_BSD, last, rate, generator)
    if head == "question_answering" and weights.span:
        return Spans(*span_logits(hidden_BSD, weights.span))
    if head == "encoder":
        return hidden_BSD
    raise ValueError(f"the model has no weights of the head {head!r}")


class BertModule(nn.Module):
    """`Bert.as_module()`: the book's functions, called with parameters that torch knows.

    In training mode dropout draws from torch's own generator of the device, so `torch.manual_seed`
    governs it as in any module; the rates are those of the config. `forward` reads the
    parameters of the whole model, so FSDP has to wrap it as one. The pooler of an encoder and a
    `fit_dense` are carried along but learn nothing, so DDP needs `find_unused_parameters=True`.
    """

    def __init__(self, config: BertConfig, weights: BertWeights, head: str) -> None:
        super().__init__()
        self.config, self.head = config, head
        has_head = any((weights.mlm, weights.nsp, weights.classifier, weights.span))
        sizes = {path: tensor.to("meta") for path, tensor in named_tensors(weights)}
        self._shapes = with_tensors(weights, sizes)
        self._keys = {path: key_of(path, "bert." * has_head) for path in sizes}
        for path, tensor in named_tensors(weights):
            *parents, name = self._keys[path].split(".")
            place: nn.Module = self
            for parent in parents:
                if parent not in dict(place.named_children()):
                    place.add_module(parent, nn.Module())
                place = place.get_submodule(parent)
            place.register_parameter(name, nn.Parameter(tensor.detach()))

    def weights(self) -> BertWeights:
        """The parameters in the book's structure; they are the same tensors."""
        tensors = {path: attrgetter(key)(self) for path, key in self._keys.items()}
        return with_tensors(self._shapes, tensors)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor | Spans | Pretraining:
        """`answer` for ids [B, S], or [B, C, S] of choices; a 0 in the mask hides a token."""
        n_choices, n_tokens = input_ids.shape[-2:]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        ids_BS, mask_BS, types_BS = (x.reshape(-1, n_tokens) for x in (input_ids, mask, types))
        weights, generator = self.weights(), _generator(ids_BS.device) if self.training else None
        hidden_BSD = encode(ids_BS, mask_BS != 0, types_BS, weights, self.config, generator)
        return answer(hidden_BSD, weights, self.config, self.head, n_choices, generator)


def _generator(device: torch.device) -> torch.Generator:
    """The generator that `torch.manual_seed` sets."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def export_onnx(module: BertModule, path: str | Path) -> None:
    """Write a module as an ONNX graph for any numbers of texts and tokens, with `torch.onnx`.

    ONNX has no erfc, which GELU is written with; it is replaced by 1 - erf, which loses digits only
    in the tail. The names of inputs are those of `forward`, and dropout is off.

    Raises
        ModuleNotFoundError  `onnx` is not installed; it is in the extra [bench].
        OSError              the disk is full or not writable; a file that was there is untouched.
    """
    import onnx  # noqa: F401  it says by itself what is missing

    def erfc(graph: Any, x: Any) -> Any:
        one = graph.op("CastLike", graph.op("Constant", value_t=torch.tensor(1.0)), x)
        return graph.op("Sub", one, graph.op("Erf", x))

    names = ("input_ids", "attention_mask", "token_type_ids")
    mask, free = torch.ones(2, 5, dtype=torch.int64), {0: "B", 1: "S"}
    if module.head == "multiple_choice":
        mask, free = mask[None], {0: "B", 1: "C", 2: "S"}
    torch.onnx.register_custom_op_symbolic("aten::erfc", erfc, OPSET)
    try:
        with whole_file(Path(path)) as staged, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (mask, mask, 0 * mask),
                str(staged),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(names),
                dynamic_axes=dict.fromkeys(names, free),
            )
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::erfc", OPSET)
