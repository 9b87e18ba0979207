"""What is measured: the sizes of a model, its inputs, its precision, and its engines."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.bench.inputs import (
    Sentences,
    Tokens,
    batches_of,
    random_encodings,
    real_encodings,
    tokens_of,
)
from minibert.config import BertConfig
from minibert.data.batches import BATCHES_PER_CHUNK
from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.hub import model_folder
from minibert.parameters import (
    BertWeights,
    initial_weights,
    named_tensors,
    weight_shapes,
    with_tensors,
)
from minibert.pretrained import load_model

BASE = BertConfig()
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
STUDENT = BertConfig(
    hidden_size=128, num_hidden_layers=4, num_attention_heads=2, intermediate_size=512
)

FORWARD = (
    "kernels", "book", "eager", "sdpa", "sdpa-medium", "torch", "torch-medium", "onnx", "openvino",
)  # fmt: skip
FORWARD_GPU = ("kernels", "book", "eager", "sdpa", "sdpa-compile", "torch")
FORWARD_BF16 = ("kernels", "book", "eager", "sdpa", "torch", "openvino")  # medium is for float32
STEP, STEP_BF16 = ("step", "step-sdpa", "step-sdpa-medium"), ("step", "step-sdpa-autocast")
STEP_GPU = (*STEP_BF16, "step-sdpa-autocast-compile")
DEV = Sentences(872, 32, split="dev")
STEPS = Sentences(256, 32, split="train")
SORTED_STEPS = Sentences(32 * BATCHES_PER_CHUNK, 32, split="train", trained=8)


class Case(NamedTuple):
    """One table. `kind` is forward, step or adam; the first engine is minibert's own.

    `teacher` is a second model that minibert's kernels run over the same inputs; `pretrained` says
    that the weights may be those of `--model`.
    """

    name: str
    words: str
    config: BertConfig
    sentences: Sentences
    engines: tuple[str, ...] = FORWARD
    dtype: torch.dtype = torch.float32
    kind: str = "forward"
    teacher: BertConfig | None = None
    pretrained: bool = False
    memory: bool = False


def _one(name: str, words: str, config: BertConfig) -> list[Case]:
    return [
        Case(
            f"{name}-{n}", f"one sentence of {n} tokens, {words}", config, Sentences(1, 1, length=n)
        )
        for n in (16, 32, 128)
    ]


def _training(name: str, sentences: Sentences, words: str, memory: bool = False) -> list[Case]:
    steps = f"training steps of MiniLM-L6 on {words}"
    both = Case(name, steps, MINILM, sentences, kind="step", pretrained=True)
    return [
        both._replace(words=f"{steps}, clipping and AdamW", engines=STEP, memory=memory),
        both._replace(
            name=f"{name}-bf16",
            words=f"{steps}, weights kept in float32",
            engines=STEP_BF16,
            dtype=torch.bfloat16,
        ),
    ]


FULL = Sentences(8, 8, length=128)
CASES = {
    case.name: case
    for case in (
        Case("base", "BERT-base, 8 sentences of 128 tokens", BASE, FULL, memory=True),
        Case(
            "base-bf16", "BERT-base, 8 sentences of 128 tokens", BASE, FULL,
            FORWARD_BF16, torch.bfloat16,
        ),
        Case(
            "sst2", "MiniLM-L6 (6x384), SST-2's dev set in file order, batches of 32",
            MINILM, DEV, pretrained=True,
        ),
        *_one("one", "BERT-base", BASE),
        *_one("small", "a student (4x128)", STUDENT),
        Case(
            "student", "a student (4x128) and its teacher (6x384) on SST-2's dev set",
            STUDENT, DEV, teacher=MINILM,
        ),
        *_training("train", STEPS, "32 sentences in file order", memory=True),
        *_training("train-sorted", SORTED_STEPS, "32 sentences of similar length"),
        Case(
            "adam", "AdamW alone, the 109.5 million parameters of BERT-base", BASE, FULL,
            ("adam", "adam-book", "adam-fused", "adam-foreach"), kind="adam",
        ),
        Case(
            "int8", "dynamic int8, BERT-base, 8 sentences of 128 tokens", BASE, FULL,
            ("kernels-int8", "kernels", "onnx-int8", "onnx"),
        ),
    )
}  # fmt: skip


FULL_GPU, DEV_GPU = Sentences(64, 64, length=128), Sentences(872, 128, split="dev")
GPU_CASES = {  # 8 sentences are too few to keep a GPU busy
    case.name: case._replace(dtype=torch.bfloat16)
    for case in (
        Case(
            "gpu-base", "BERT-base, 64 sentences of 128 tokens", BASE, FULL_GPU, FORWARD_GPU,
            memory=True,
        ),
        Case(
            "gpu-sst2", "MiniLM-L6 (6x384), SST-2's dev set in file order, batches of 128",
            MINILM, DEV_GPU, FORWARD_GPU, pretrained=True,
        ),
        Case(
            "gpu-train",
            "training steps of BERT-base on 64 sentences of 128 tokens, weights kept in float32",
            BASE, FULL_GPU, STEP_GPU, kind="step", memory=True,
        ),
        Case(
            "gpu-train-sorted",
            "training steps of MiniLM-L6 on 32 sentences of similar length, "
            "weights kept in float32",
            MINILM, SORTED_STEPS, STEP_GPU, kind="step", pretrained=True,
        ),
    )
}  # fmt: skip


class Choices(NamedTuple):
    """What the user may choose for every case."""

    threads: int = 1
    seed: int = 0
    data: Path | None = None
    model: str | None = None
    batches: int | None = None
    device: str = "cpu"


class Work(NamedTuple):
    """A case made ready: weights and inputs. Engines that need files put them into `folder`."""

    config: BertConfig
    weights: BertWeights
    encodings: list[Encoding]
    rows: list[list[int]]
    batches: list[Tokens]
    dtype: torch.dtype
    choices: Choices
    folder: Path

    @property
    def one_shape(self) -> bool:
        """Whether all batches have the same shape."""
        return len({batch.ids_BS.shape for batch in self.batches}) == 1


class Prepared(NamedTuple):
    """An engine ready to run: one pass, the answer to compare with the exact one, and settings."""

    run: Callable[[], Any]
    answer: Callable[[], Tensor]
    settings: str = ""


def teacher_case(case: Case, teacher: BertConfig) -> Case:
    """The same inputs, read by the teacher."""
    return case._replace(config=teacher, teacher=None, pretrained=True)


def work_of(case: Case, choices: Choices, folder: Path) -> Work:
    """The weights and inputs of a case, drawn from the seed or read from the user's folders.

    Raises
        CheckpointError  the model folder is damaged.
        DataError        the data cannot be read.
    """
    config, tokenizer = case.config, None
    source = None if choices.model is None else model_folder(choices.model)
    if source is not None:
        tokenizer = Tokenizer.from_folder(source)
        config = dataclasses.replace(config, vocab_size=len(tokenizer.pieces))
    if source is not None and case.pretrained:
        labels = ("negative", "positive")
        config, weights = load_model(source, new_head="classification", labels=labels)[:2]
    else:
        shapes = weight_shapes(config, ("pooler", "classifier"))
        generator = torch.Generator().manual_seed(choices.seed)
        weights = initial_weights(shapes, config.initializer_range, generator)
    if case.sentences.split and choices.data is not None and tokenizer is not None:
        encodings = real_encodings(case.sentences, tokenizer, choices.data)
    else:
        encodings = random_encodings(case.sentences, config.vocab_size, choices.seed)
    rows = batches_of(encodings, case.sentences, choices.seed)[: choices.batches]
    batches = [tokens_of(encodings, batch).to(choices.device) for batch in rows]
    moved = {path: x.to(choices.device) for path, x in named_tensors(weights)}
    weights = with_tensors(weights, moved)
    return Work(config, weights, encodings, rows, batches, case.dtype, choices, folder)
