"""minibert and its rivals, one function each, and the list of them all.

Each function takes a `Work` and returns a function that runs one batch, and a note on settings.

Each engine gets what is best for it: inference mode, padding to the longest row of a batch, no mask
where there is no padding, the attention and matmul setting in its name, and all threads.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert import encoder
from minibert.bench import cases, graphs, steps
from minibert.bench.cases import Case, Prepared, Work
from minibert.bench.inputs import Tokens
from minibert.checkpoint import key_of
from minibert.kernels import encoder as kernels_encoder
from minibert.kernels import products
from minibert.parameters import BertWeights, named_tensors, with_tensors

Forward = Callable[[Tokens], Any]


Model = Callable[[Work], tuple[Forward, str]]
CHECKED = 4  # batches of a pass whose answers are compared


class Engine(NamedTuple):
    """One row of a table.

    `module` has to be importable; `matmul` is what torch's matmul precision is set to; `int8` says
    that it rounds to 8 bits, whatever the precision of the case; `devices` are those it runs on.
    """

    name: str
    prepare: Callable[[Work], Prepared]
    module: str = "torch"
    matmul: str = "highest"
    int8: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def installed(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None


def passes(model: Model) -> Callable[[Work], Prepared]:
    """Turn a function of one batch into a pass over all of them, and an answer to compare.

    The answer [n, D] holds the states of the kept tokens of the first batches, one after the other.
    """

    @torch.inference_mode()
    def prepare(work: Work) -> Prepared:
        forward, settings = model(work)
        batches = work.batches  # not the work, so that its weights can be freed

        @torch.inference_mode()
        def run() -> None:
            for batch in batches:
                forward(batch)

        @torch.inference_mode()
        def answer() -> Tensor:
            first = batches[:CHECKED]
            return torch.cat([_tensor(forward(batch))[batch.keep_BS] for batch in first])

        return Prepared(run, answer, settings)

    return prepare


def _tensor(hidden: Any) -> Tensor:
    return hidden if isinstance(hidden, Tensor) else torch.tensor(hidden)  # copies a reused array


def in_dtype(weights: BertWeights, dtype: torch.dtype) -> BertWeights:
    """The same weights in another precision."""
    return with_tensors(weights, {path: x.to(dtype) for path, x in named_tensors(weights)})


def encoder_of(weights: BertWeights) -> BertWeights:
    """The weights without pooler and classifier."""
    return weights._replace(pooler=None, classifier=None)


def book(work: Work) -> tuple[Forward, str]:
    """`minibert.encoder`: plain arithmetic, written to be read."""
    weights, config = in_dtype(encoder_of(work.weights), work.dtype), work.config

    def forward(batch: Tokens) -> Tensor:
        return encoder.encode(batch.ids_BS, batch.keep_BS, batch.types_BS, weights, config)

    return forward, ""


def kernels(work: Work) -> tuple[Forward, str]:
    """`minibert.kernels.encoder`, its fast twin."""
    way = products.chosen(torch.empty(0, dtype=work.dtype, device=work.choices.device))
    return _fast(work), f"tokens without padding, products by {way}"


def kernels_int8(work: Work) -> tuple[Forward, str]:
    """The same with weights in int8 and activations rounded to int8 on the fly."""
    with products.arithmetic("int8"):
        return _fast(work), "tokens without padding, dynamic int8"


def _fast(work: Work) -> Forward:
    weights = kernels_encoder.prepared(encoder_of(work.weights), work.dtype)
    config = work.config

    def forward(batch: Tokens) -> Tensor:
        return kernels_encoder.encode(batch.ids_BS, batch.keep_BS, batch.types_BS, weights, config)

    return forward


def hugging_face(work: Work, attention: str, dtype: torch.dtype | None = None) -> Any:
    """`transformers`' BertModel with our weights."""
    from transformers import BertConfig, BertModel

    model: Any = BertModel(BertConfig.from_dict(work.config.to_dict()), add_pooling_layer=False)
    tensors = named_tensors(encoder_of(work.weights))
    model.load_state_dict({key_of(path, prefix=""): x for path, x in tensors})
    model.set_attn_implementation(attention)
    return model.eval().to(work.choices.device, dtype or work.dtype)


def transformers_with(
    attention: str, compiled: bool = False
) -> Callable[[Work], tuple[Forward, str]]:
    """`transformers` with this implementation of attention."""

    def prepare(work: Work) -> tuple[Forward, str]:
        model = hugging_face(work, attention)
        if compiled:
            model = steps.compiled_model(model, work)

        def forward(batch: Tokens) -> Tensor:
            hidden_BSD: Tensor = model(
                input_ids=batch.ids_BS,
                attention_mask=None if batch.full else batch.mask_BS,
                token_type_ids=batch.types_BS,
            ).last_hidden_state
            return hidden_BSD

        shapes = ", fixed shapes" if work.one_shape else ", free shapes"
        return forward, f"padded to the longest of a batch{shapes if compiled else ''}"

    return prepare


def torch_encoder(work: Work) -> tuple[Forward, str]:
    """`torch.nn.TransformerEncoder` on its fast path; nested tensors skip padding."""
    config, weights = work.config, in_dtype(encoder_of(work.weights), work.dtype)
    layer = nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        activation="gelu",
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
    )
    # Padding is always at the end of a row, so this need not be checked.
    model = nn.TransformerEncoder(layer, config.num_hidden_layers, mask_check=False)
    model = model.to(work.choices.device, work.dtype).eval()
    with torch.no_grad():
        for block, module in zip(weights.blocks, model.layers, strict=True):
            _load_layer(module, block)
    word_VD, position_PD, type_TD, norm = weights.embeddings

    def forward(batch: Tokens) -> Tensor:
        x_BSD = F.embedding(batch.ids_BS, word_VD) + F.embedding(batch.types_BS, type_TD)
        x_BSD += position_PD[: batch.ids_BS.shape[1]]
        x_BSD = F.layer_norm(x_BSD, norm.gain_D.shape, *norm, config.layer_norm_eps)
        hide_BS = None if batch.full else batch.hide_BS
        hidden_BSD: Tensor = model(x_BSD, src_key_padding_mask=hide_BS)
        return hidden_BSD

    return forward, "fast path, nested tensors"


def _load_layer(module: Any, block: Any) -> None:
    """Copy our weights of one block into torch's layer."""
    three = block.attention[:3]
    pairs = {
        module.self_attn.in_proj_weight: torch.cat([part.weight_OI for part in three]),
        module.self_attn.in_proj_bias: torch.cat([part.bias_O for part in three]),
    }
    for place, ours in (
        (module.self_attn.out_proj, block.attention.output),
        (module.norm1, block.attention_norm),
        (module.linear1, block.intermediate),
        (module.linear2, block.output),
        (module.norm2, block.output_norm),
    ):
        pairs |= {place.weight: ours[0], place.bias: ours[1]}
    for parameter, tensor in pairs.items():
        parameter.copy_(tensor)


def onnx_runtime(work: Work) -> tuple[Forward, str]:
    """ONNX Runtime on the exported graph, or on its own optimisation of it, if that is faster."""
    return graphs.onnx_runtime(work, graphs.exported(work, hugging_face), quantised=False)


def onnx_runtime_int8(work: Work) -> tuple[Forward, str]:
    """ONNX Runtime with weights in int8 and activations rounded to int8 on the fly."""
    return graphs.onnx_runtime(work, graphs.exported(work, hugging_face), quantised=True)


def openvino(work: Work) -> tuple[Forward, str]:
    """OpenVINO on the exported graph."""
    return graphs.openvino(work, graphs.exported(work, hugging_face))


TRANSFORMERS = "transformers.models.bert.modeling_bert"
EAGER, SDPA = passes(transformers_with("eager")), passes(transformers_with("sdpa"))
COMPILED = passes(transformers_with("sdpa", compiled=True))
TORCH, ONNX, INT8 = passes(torch_encoder), passes(onnx_runtime), passes(onnx_runtime_int8)
AUTOCAST = functools.partial(steps.transformers_step, autocast=True)
COMPILED_STEP = functools.partial(AUTOCAST, compiled=True)
FUSED = functools.partial(steps.adam_of_torch, form="fused")
FOREACH = functools.partial(steps.adam_of_torch, form="foreach")
CPU, GPU = ("cpu",), ("cuda",)
ENGINES = {
    "kernels": Engine("minibert kernels", passes(kernels)),
    "kernels-int8": Engine("minibert kernels int8", passes(kernels_int8), int8=True, devices=CPU),
    "book": Engine("minibert book", passes(book)),
    "eager": Engine("transformers eager", EAGER, TRANSFORMERS),
    "sdpa": Engine("transformers sdpa", SDPA, TRANSFORMERS),
    "sdpa-medium": Engine("transformers sdpa, medium", SDPA, TRANSFORMERS, "medium"),
    "sdpa-compile": Engine(
        "transformers sdpa, torch.compile", COMPILED, TRANSFORMERS, devices=GPU
    ),
    "torch": Engine("torch.nn.TransformerEncoder", TORCH),
    "torch-medium": Engine("torch.nn.TransformerEncoder, medium", TORCH, "torch", "medium"),
    "onnx": Engine("ONNX Runtime", ONNX, "onnxruntime", devices=CPU),
    "onnx-int8": Engine("ONNX Runtime int8", INT8, "onnxruntime", int8=True, devices=CPU),
    "openvino": Engine("OpenVINO", passes(openvino), "openvino", devices=CPU),
    "step": Engine("minibert", steps.minibert_step),
    "step-sdpa": Engine("transformers sdpa", steps.transformers_step, TRANSFORMERS),
    "step-sdpa-medium": Engine(
        "transformers sdpa, medium", steps.transformers_step, TRANSFORMERS, "medium"
    ),
    "step-sdpa-autocast": Engine("transformers sdpa, autocast", AUTOCAST, TRANSFORMERS),
    "step-sdpa-autocast-compile": Engine(
        "transformers sdpa, autocast, torch.compile", COMPILED_STEP, TRANSFORMERS, devices=GPU
    ),
    "adam": Engine("minibert kernel", steps.adam_kernel),
    "adam-book": Engine("minibert book", steps.adam_book),
    "adam-fused": Engine("torch.optim.AdamW fused", FUSED),
    "adam-foreach": Engine("torch.optim.AdamW foreach", FOREACH),
}


def cases_on(device: str) -> dict[str, Case]:
    """The cases that minibert's own engine can run on a device, each with the engines that can."""
    found = {}
    for name, case in (cases.CASES | (cases.GPU_CASES if device == "cuda" else {})).items():
        engines = tuple(engine for engine in case.engines if device in ENGINES[engine].devices)
        if case.engines[0] in engines:
            found[name] = case._replace(engines=engines)
    return found
