"""On a GPU: the laws of the book, its kernels, a training step, and whole commands.

Whatever a law compares with is computed on the CPU, so each test compares the two machines. A few
cases of each law do: that the law holds at all is proven in `test_laws.py`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_kernels_encoder
import test_kernels_products
import tiny
import torch
from proof import assert_holds
from torch import Tensor

from minibert.kernels.optim import clip_by_global_norm
from minibert.laws import encoder as encoder_laws
from minibert.laws import functional as functional_laws
from minibert.laws import proofs
from minibert.laws.law import Law, Proof
from minibert.laws.measure import distance
from minibert.model import Bert
from minibert.optim import adam_form
from minibert.training import loop
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions, accumulate_gradient
from minibert.training.objectives import LabelObjective
from minibert.training.progress import Display
from minibert.training.trainable import Trainable

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)

DEVICE = "cuda"
CASES = 5  # of each law
# What computes on tensors; the other modules read and prepare on the CPU, whatever comes after.
COMPUTING = ("functional", "attention", "encoder", "heads", "losses", "matching", "distillation",
             "optim", "sparsity", "quantization")  # fmt: skip

OTHER_DRAWS = "a generator on the GPU draws other numbers from the same seed"
OTHER_BITS = "two sums of the same numbers may differ in their last bit, or from the CPU's own"
EXCLUDED = {
    "keeping_keys_and_values_changes_no_bit": OTHER_BITS,
    "nothing_is_dropped_without_both_a_rate_and_a_generator": OTHER_BITS,
    "every_text_has_the_value_it_has_alone": OTHER_BITS,
    "a_cut_answer_is_left_out": OTHER_BITS,
    "equal_ends_cost_one_of_them": OTHER_BITS,
    "without_samples_it_is_the_price": OTHER_BITS,
    "its_last_state_is_what_encode_returns": OTHER_BITS,
    "each_state_follows_from_the_one_before": OTHER_BITS,
    "scores_are_those_before_the_mask": OTHER_BITS,
    "the_state_between_is_input_plus_attention_normalised": OTHER_BITS,
    "at_temperature_one_nothing_changes": OTHER_BITS,
    "the_embeddings_count_once": OTHER_BITS,
    "the_prediction_is_that_of_its_loss": OTHER_BITS,
    "samples_keep_their_own_loss": OTHER_BITS,
    "it_is_the_nearest_multiple_of_a_127th": OTHER_BITS,
    "short_gradients_are_left_alone": OTHER_BITS,
    "every_number_has_one_draw_and_stays_where_it_is_at_least_the_rate": OTHER_DRAWS,
    "a_kept_number_is_rounded_twice": OTHER_DRAWS,
    "dropout_falls_on_the_probabilities_before_they_weigh_the_values": OTHER_DRAWS,
    "dropout_falls_on_what_is_normalised": OTHER_DRAWS,
    "dropout_falls_on_the_input": OTHER_DRAWS,
    "attention_drops_first_and_at_a_rate_of_its_own": OTHER_DRAWS,
    "what_attention_adds_is_dropped_before_the_sum": OTHER_DRAWS,
    "what_is_fed_forward_is_dropped_before_the_sum": OTHER_DRAWS,
    "the_embeddings_draw_first_and_then_block_after_block": OTHER_DRAWS,
    "every_state_follows_by_the_draws_after_those_before_it": OTHER_DRAWS,
    "encode_draws_alike": OTHER_DRAWS,
    "wide_numbers_are_not_copied": "what goes to another machine is a copy",
}
ON_CPU = {"quantization.quantized_linear": "torch has no product of whole numbers on a GPU"}
OF_KERNELS = test_kernels_encoder.BIT_FOR_BIT | {
    "the_slope_of_every_state_is_that_of_the_spec": "a sparse gradient cannot change the machine",
}


def moved(value: Any, to: Callable[[Any], Any]) -> Any:
    """The same structure with `to` of each tensor and each generator in it."""
    if isinstance(value, Tensor | torch.Generator):
        return to(value)
    if isinstance(value, dict):
        return {key: moved(part, to) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [moved(part, to) for part in value]
        made: Any = getattr(value, "_make", type(value))
        return made(parts)
    return value


def to_gpu(value: Tensor | torch.Generator) -> Tensor | torch.Generator:
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    return torch.Generator(DEVICE).manual_seed(value.initial_seed())


def to_cpu(value: Tensor | torch.Generator) -> Tensor | torch.Generator:
    return value.cpu() if isinstance(value, Tensor) else value


def on_gpu(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula computed on the GPU, for a law that lives on the CPU; gradients find through."""

    def run(*arguments: Any, **named: Any) -> Any:
        given, by_name = moved((arguments, named), to_gpu)
        return moved(formula(*given, **by_name), to_cpu)

    return run


# ----------------------------------------------------------------------------- laws of the book


def laws_of_the_book() -> Iterator[Any]:
    for proof in proofs():
        if proof.name.partition(".")[0] in COMPUTING and proof.name not in ON_CPU:
            for law in proof.laws.values():
                if law.name not in EXCLUDED:
                    yield pytest.param(proof, law, id=f"{proof.name}-{law.name}")


@pytest.mark.parametrize(("proof", "law"), list(laws_of_the_book()))
def test_law(proof: Proof, law: Law) -> None:
    for case in proof.tried(law, CASES):
        assert_holds(law, on_gpu(proof.formula), case)


def test_every_exception_is_a_law():
    assert set(EXCLUDED | OF_KERNELS) <= {law for proof in proofs() for law in proof.laws}
    assert set(ON_CPU) <= {proof.name for proof in proofs()}


# ---------------------------------------------------------------------------------- the kernels

of_encoder, of_products = test_kernels_encoder, test_kernels_products
RUNS = [
    *((*run, run[1] in (of_encoder.with_weights, of_encoder.traced)) for run in of_encoder.RUNS),
    (functional_laws.LINEAR, of_products.trained, True),
    (functional_laws.LINEAR, of_products.packed, False),
    (encoder_laws.FEED_FORWARD, of_products.fed, True),
    (encoder_laws.FEED_FORWARD, of_products.fed_packed, False),
]


def laws_of_the_kernels() -> Iterator[Any]:
    for proof, formula, in_training in RUNS:
        for law in proof.laws.values():
            if law.name not in EXCLUDED | OF_KERNELS and (in_training or law.layer != "gradient"):
                yield pytest.param(proof, law, formula, id=f"{formula.__name__}-{law.name}")


@pytest.mark.parametrize(("proof", "law", "formula"), list(laws_of_the_kernels()))
def test_law_of_a_kernel(proof: Proof, law: Law, formula: Callable[..., Any]) -> None:
    for case in proof.tried(law, CASES):
        assert_holds(law, on_gpu(formula), case)


# ------------------------------------------------------------------------------- a training step

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the largest number of the gradient


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_training_step_is_that_of_the_cpu(dtype: torch.dtype) -> None:
    model, rows = tiny.classifier(hidden_size=48, intermediate_size=96), list(range(16))
    examples = tiny.examples(16, 1)
    encodings = tiny.tokenizer().encode([one.first for one in examples])
    labels_X = torch.tensor([int(one.label or 0) for one in examples])
    options, adam = TrainingOptions(dtype=dtype), adam_form("adamw")
    devices = ("cpu", DEVICE)
    here, there = both = [Trainable(model.weights, device) for device in devices]
    for step in range(3):
        for device, trainable in zip(devices, both, strict=True):
            objective = LabelObjective(
                encodings, 16, 0, 0, torch.device(device), model.config, labels_X
            )
            accumulate_gradient(objective, rows, trainable, options, None)
        largest = float(here.gradient_P.abs().max())
        assert distance(there.gradient_P.cpu(), here.gradient_P, largest) <= BOUNDS[dtype], step
        # Adam makes a step of full size of the rounding of a gradient that is 0.
        there.gradient_P.copy_(here.gradient_P)
        norms = [clip_by_global_norm((each.gradient_P,), 1e-2)[1] for each in both]
        assert distance(norms[1].cpu(), norms[0], float(norms[0])) <= 1e-6
        for trainable in both:
            trainable.update(1e-2, adam)
        assert distance(there.parameters_P.cpu(), here.parameters_P) <= 1e-6, step


# ------------------------------------------------------------------------------- whole commands

SMALL = f"--epochs 2 --batch-size 8 --lr 0.02 --max-length 20 --device {DEVICE}"
CLOSE = {"float32": 1e-4, "bfloat16": 1e-1}  # of probabilities on two machines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`data`, a fresh `model`, a `teacher` that learned it, a model of words `mlm`, a `corpus`."""
    folder = tmp_path_factory.mktemp("gpu")
    tiny.write_data(folder / "data", n_train=30, n_dev=16)
    tiny.classifier().save_pretrained(folder / "model")
    finetune(
        tiny.classifier(), tiny.dataset(200, 1), tiny.dataset(40, 2), folder / "teacher",
        TrainingOptions(epochs=6, lr=2e-2), 16, 20, Display(quiet=True),
    )  # fmt: skip
    (folder / "teacher" / "finetune.state.safetensors").unlink()
    Bert.from_config(tiny.config(), "mlm", tiny.tokenizer()).save_pretrained(folder / "mlm")
    lines = [example.first for example in tiny.examples(40, 5)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def finetuning(folder: Path) -> str:
    return f"finetune --model {folder}/model --data {folder}/data {SMALL} --out out"


def distilling(folder: Path) -> str:
    return (
        f"distill --teacher {folder}/teacher --data {folder}/data {SMALL} --out out "
        "--intermediate-epochs 2"
    )


def probabilities(minibert: Any, model: str, device: str, dtype: str = "float32") -> Tensor:
    """Of the labels of ten sentences; the command must succeed."""
    texts = [example.first for example in tiny.examples(10, 7)]
    line = f"predict --model {model} --device {device} --dtype {dtype} --json"
    answer = minibert(line, *texts)
    assert answer.code == 0, answer.err
    rows = [list(row["probabilities"].values()) for row in answer.document["predictions"]]
    return torch.tensor(rows)


def assert_serves_on_both(minibert: Any, model: str, folder: Path) -> None:
    """`predict` and `evaluate` read the model here and there, and agree."""
    on_cpu = probabilities(minibert, model, "cpu")
    for dtype, bound in CLOSE.items():
        assert distance(probabilities(minibert, model, DEVICE, dtype), on_cpu) <= bound
    answers = [
        minibert(f"evaluate --model {model} --data {folder}/data --device {device} --json")
        for device in ("cpu", DEVICE)
    ]
    assert [answer.code for answer in answers] == [0, 0]
    assert answers[0].document == answers[1].document


@pytest.mark.parametrize("more", ["", "--dtype bfloat16 --accumulate 2 --l2 0.001"])
def test_finetune(more, minibert, folder):
    answer = minibert(f"{finetuning(folder)} {more}")
    assert answer.code == 0, answer.err
    assert_serves_on_both(minibert, "out", folder)


SHAPE = "--student 1x6x3x16"
DISTILLATIONS = {
    "states from a file": f"{SHAPE} --labels-too",
    "states on the fly": f"{SHAPE} --cache-gb 0",
    "padding compared too": f"{SHAPE} --mode tinybert",
    "more texts": f"{SHAPE} --augment 1",
    "guessed words": f"{SHAPE} --augment 1 --augment-by mlm --augment-model {{folder}}/mlm",
    "half precision": f"{SHAPE} --dtype bfloat16 --teacher-dtype bfloat16",
    "half precision on the fly": f"{SHAPE} --dtype bfloat16 --teacher-dtype bfloat16 --cache-gb 0",
    "the teacher's own weights": "--student 2x12x3x17 --init-embeddings teacher "
    "--init-layers teacher",
    "other losses": "--student 2x6x3x16 --cosine-weight 1 --patient-weight 1 --minilm-v2-weight 1 "
    "--minilm-v1-weight 1 --label-weight 1",
    "the book": f"{SHAPE} --arithmetic book",
}


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distill(name, minibert, folder):
    more = DISTILLATIONS[name].format(folder=folder)
    answer = minibert(f"{distilling(folder)} {more}")
    assert answer.code == 0, answer.err
    if "states" in name:
        where = "kept in" if name == "states from a file" else "computed for every batch"
        assert f"the teacher's states are {'computed once and ' * (where == 'kept in')}{where}" in (
            " ".join(answer.err.split())
        )
    assert_serves_on_both(minibert, "out", folder)


def test_general_distillation_then_a_task(minibert, folder):
    answer = minibert(
        f"distill --teacher {folder}/teacher --corpus {folder}/corpus.txt {SHAPE} --out general "
        f"--max-length 12 --batch-size 4 --intermediate-epochs 2 --device {DEVICE}"
    )
    assert answer.code == 0, answer.err
    assert Bert.from_pretrained("general").head == "encoder"
    answer = minibert(f"{distilling(folder)} --init-student general")
    assert answer.code == 0, answer.err
    assert_serves_on_both(minibert, "out", folder)


@pytest.mark.parametrize(
    ("line", "phase"), [(finetuning, "finetune"), (distilling, "intermediate")]
)
def test_a_run_that_was_stopped_goes_on(line, phase, minibert, folder, monkeypatch):
    """As a run without a pause, but for sums on the GPU, which come in no fixed order."""
    check = loop.check_finite

    def stopping(trainable: Trainable, terms: Any, step: int, norm: float) -> None:
        check(trainable, terms, step, norm)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    command = line(folder) + (f" {SHAPE}" if line is distilling else "")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "check_finite", stopping)
        assert minibert(command).code == 143
    assert Path(f"out/{phase}.state.safetensors").exists()
    assert minibert(f"{command} --resume").code == 0
    assert_serves_on_both(minibert, "out", folder)
    assert minibert(command.replace("--out out", "--out straight")).code == 0
    ways = [probabilities(minibert, model, "cpu") for model in ("out", "straight")]
    assert distance(*ways) <= 5e-2


@pytest.mark.parametrize("arithmetic", ["book", "int8"])
def test_every_arithmetic_serves_on_the_gpu(arithmetic, minibert, folder):
    lines = [
        f"predict --model {folder}/teacher --device {device} --arithmetic {arithmetic} --json"
        for device in ("cpu", DEVICE)
    ]
    answers = [minibert(line, "a good film", "bad and dull") for line in lines]
    assert [answer.code for answer in answers] == [0, 0], answers[1].err
    here, there = (
        torch.tensor([list(row["probabilities"].values()) for row in one.document["predictions"]])
        for one in answers
    )
    assert distance(here, there) <= 5e-2
