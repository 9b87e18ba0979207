"""The rivals that run a file: a graph exported from `transformers`, in ONNX's format.

The file is made once for each model and read by both; it lies in the folder of the `Work`.
"""

import logging
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.bench.cases import Work
from minibert.bench.inputs import Tokens
from minibert.bench.turns import timed

NAMES = ("ids", "mask", "types")
TRIAL = 0.1  # seconds of a turn in which the faster of two graphs is found


class _Graph(nn.Module):
    """BertModel with named inputs and one output, as the exporter wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BS: Tensor, mask_BS: Tensor, types_BS: Tensor) -> Any:
        return self.model(
            input_ids=ids_BS, attention_mask=mask_BS, token_type_ids=types_BS
        ).last_hidden_state


def exported(work: Work, model_of: Callable[[Work, str, torch.dtype], Any]) -> Path:
    """The model's graph as an ONNX file with dynamic batch size and length.

    Eager attention is exported: sdpa is no faster in either rival, and ONNX Runtime's optimiser
    does not recognise it. Nothing is exported twice.
    """
    c = work.config
    first_weights = work.weights.blocks[0].intermediate.weight_OI
    name = f"{c.num_hidden_layers}x{c.hidden_size}x{c.num_attention_heads}"
    path = work.folder / f"{name}-{float(first_weights.double().sum())!r}.onnx"
    if path.exists():
        return path
    graph = _Graph(model_of(work, "eager", torch.float32)).eval()
    # Two rows with padding, so that no path for batches without padding is traced.
    ids_BS = torch.ones(2, 7, dtype=torch.int64)
    mask_BS = torch.ones_like(ids_BS)
    mask_BS[1, 4:] = 0
    free = {0: "B", 1: "S"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (ids_BS, mask_BS, ids_BS * 0),
            str(path),
            dynamo=False,
            input_names=list(NAMES),
            output_names=["hidden"],
            dynamic_axes=dict.fromkeys((*NAMES, "hidden"), free),
        )
    return path


def _feed(batch: Tokens) -> dict[str, Any]:
    """The inputs as arrays, which share their memory with the tensors."""
    tensors = (batch.ids_BS, batch.mask_BS, batch.types_BS)
    return {name: tensor.numpy() for name, tensor in zip(NAMES, tensors, strict=True)}


def onnx_runtime(work: Work, plain: Path, quantised: bool) -> tuple[Callable[[Tokens], Any], str]:
    """The faster of two sessions: on the graph, and on what ONNX Runtime's BERT tool makes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.choices.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {}
    for name, path in (("as exported", plain), ("optimised for BERT", _optimised(work, plain))):
        sessions[name] = onnxruntime.InferenceSession(
            str(_quantised(path) if quantised else path), options, ["CPUExecutionProvider"]
        )
    passes = {name: _pass(session, work.batches[:4]) for name, session in sessions.items()}
    times = timed(passes, rounds=3, seconds=TRIAL)
    best = min(times, key=lambda name: statistics.median(times[name]))
    session = sessions.pop(best)

    def forward(batch: Tokens) -> Any:
        return session.run(None, _feed(batch))[0]

    scales = ", scales per channel" if quantised else ""
    return forward, f"graph {best}, which is the faster one{scales}"


def _optimised(work: Work, plain: Path) -> Path:
    path = plain.with_suffix(".optimised.onnx")
    if not path.exists():
        from onnxruntime.transformers import optimizer

        heads, width = work.config.num_attention_heads, work.config.hidden_size
        logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
        optimizer.optimize_model(
            str(plain), model_type="bert", num_heads=heads, hidden_size=width
        ).save_model_to_file(str(path))
    return path


def _quantised(path: Path) -> Path:
    """Quantise with a scale for each output, as minibert's int8 does: as fast as a single scale."""
    small = path.with_suffix(".int8.onnx")
    if not small.exists():
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic

        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            quantize_dynamic(
                str(path),
                str(small),
                weight_type=QuantType.QInt8,
                per_channel=True,
                # In a graph that was optimised for BERT some types can no longer be inferred.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        finally:
            logging.root.setLevel(level)
    return small


def _pass(session: Any, batches: list[Tokens]) -> Callable[[], None]:
    def run() -> None:
        for batch in batches:
            session.run(None, _feed(batch))

    return run


def openvino(work: Work, path: Path) -> tuple[Callable[[Tokens], Any], str]:
    """OpenVINO for low latency; compiled for one fixed shape if all inputs have the same."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if work.one_shape:
        model.reshape({name: list(work.batches[0].ids_BS.shape) for name in NAMES})
    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[work.dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": work.choices.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def forward(batch: Tokens) -> Any:
        return request.infer(_feed(batch), share_inputs=True, share_outputs=True)[0]

    shapes = "fixed" if work.one_shape else "free"
    return forward, f"latency hint, {precision}, {shapes} shapes"
