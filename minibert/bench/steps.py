"""Training steps, and Adam alone: what is timed, and the gradients or weights that are compared.

P parameters of a model in the order of the flat tensor · X sentences.
"""

from typing import Any

import torch
from torch import Tensor

from minibert import optim
from minibert.bench.cases import Choices, Prepared, Work
from minibert.bench.inputs import Tokens
from minibert.checkpoint import key_of
from minibert.encoder import encode
from minibert.heads import pooled, sequence_logits
from minibert.losses import cross_entropy
from minibert.optim import AdamState, adam_form, initial_adam_state
from minibert.parameters import (
    BertWeights,
    decayed_length,
    flat_layout,
    flatten,
    is_decayed,
    named_tensors,
    views_of,
    with_tensors,
)

RATE, MAX_NORM = 2e-5, 1.0
ADAM = adam_form("adamw")
SAMPLE = 97  # every 97th of Adam's weights is compared


def labels_of(work: Work) -> Tensor:
    """A random class for each sentence."""
    generator = torch.Generator().manual_seed(work.choices.seed)
    labels_X = torch.randint(2, (len(work.encodings),), generator=generator)
    return labels_X.to(work.choices.device)


def book_gradient(work: Work, dtype: torch.dtype) -> Tensor:
    """The gradient [P] of the first batch by the book: weights in `dtype`, dropout off."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    flat_P = flatten(work.weights).to(kept).requires_grad_()
    views = views_of(flat_P, work.weights)
    weights = with_tensors(views, {path: x.to(dtype) for path, x in named_tensors(views)})
    batch, labels_B = work.batches[0], labels_of(work)[work.rows[0]]
    hidden_BSD = encode(batch.ids_BS, batch.keep_BS, batch.types_BS, weights, work.config)
    assert weights.pooler is not None
    assert weights.classifier is not None
    logits_BC = sequence_logits(pooled(hidden_BSD, weights.pooler), weights.classifier)
    (gradient_P,) = torch.autograd.grad(cross_entropy(logits_BC, labels_B), flat_P)
    return gradient_P


def minibert_step(work: Work) -> Prepared:
    """The step of `minibert.training.loop.train`."""
    from minibert.kernels.optim import clip_by_global_norm
    from minibert.training.loop import TrainingOptions, accumulate_gradient
    from minibert.training.objectives import LabelObjective
    from minibert.training.trainable import Trainable

    device, options = work.choices.device, TrainingOptions(dtype=work.dtype)
    trainable = Trainable(work.weights, device)
    generator = torch.Generator(device).manual_seed(work.choices.seed)
    objective = LabelObjective(
        work.encodings, 32, 0, 0, torch.device(device), work.config, labels_of(work)
    )
    batches = work.rows  # not the work, so that its weights can be freed

    def run() -> None:
        for rows in batches:
            accumulate_gradient(objective, rows, trainable, options, generator)
            clip_by_global_norm((trainable.gradient_P,), MAX_NORM)
            trainable.update(RATE, ADAM)

    def answer() -> Tensor:
        accumulate_gradient(objective, batches[0], trainable, options, None)
        return trainable.gradient_P.clone()

    return Prepared(run, answer, "one flat tensor, Adam in one pass")


def compiled_model(model: Any, work: Work) -> Any:
    """The compiled model; for one fixed shape if all its inputs have the same."""
    torch.compiler.reset()  # else all models of a process share torch's limit of eight compilations
    return torch.compile(model, dynamic=not work.one_shape)


def transformers_step(work: Work, autocast: bool = False, compiled: bool = False) -> Prepared:
    """The step of a plain loop over `transformers` and torch, with torch's fused AdamW."""
    from transformers import BertConfig, BertForSequenceClassification

    model: Any = BertForSequenceClassification(BertConfig.from_dict(work.config.to_dict()))
    model.load_state_dict({key_of(path): x for path, x in named_tensors(work.weights)})
    model.set_attn_implementation("sdpa")
    model.to(work.choices.device)
    forward = compiled_model(model, work) if compiled else model
    named = dict(model.named_parameters())
    by_path = {path: named[key_of(path)] for path in flat_layout(work.weights)}
    optimizer = torch.optim.AdamW(_groups(by_path), lr=RATE, eps=ADAM.eps, fused=True)
    labels_X = labels_of(work)
    batches = [(batch, labels_X[rows]) for batch, rows in zip(work.batches, work.rows, strict=True)]
    lower = torch.autocast(work.choices.device, torch.bfloat16, enabled=autocast)

    def backward(batch: Tokens, labels_B: Tensor) -> None:
        with lower:
            loss = forward(
                input_ids=batch.ids_BS,
                attention_mask=None if batch.full else batch.mask_BS,
                token_type_ids=batch.types_BS,
                labels=labels_B,
            ).loss
        loss.backward()

    def run() -> None:
        model.train()
        for batch, labels_B in batches:
            optimizer.zero_grad()
            backward(batch, labels_B)
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()

    def answer() -> Tensor:
        model.eval()
        optimizer.zero_grad()
        backward(*batches[0])
        gradients: list[Any] = [parameter.grad for parameter in by_path.values()]
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    return Prepared(run, answer, "padded to the longest of a batch, AdamW(fused=True)")


def _groups(by_path: dict[str, Any]) -> list[dict[str, Any]]:
    """The decayed parameters and the others, as torch's optimisers want them."""
    decayed = [p for path, p in by_path.items() if is_decayed(path)]
    others = [p for path, p in by_path.items() if not is_decayed(path)]
    return [
        {"params": decayed, "weight_decay": ADAM.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


# ------------------------------------------------------------------------------------ Adam alone


def _gradient(length: int, choices: Choices) -> Tensor:
    generator = torch.Generator().manual_seed(choices.seed)
    return (torch.randn(length, generator=generator) * 1e-3).to(choices.device)


def book_adam(work: Work, dtype: torch.dtype) -> Tensor:
    """Every 97th weight after one step by the book."""
    flat_P = flatten(work.weights)
    gradient_P = _gradient(len(flat_P), work.choices)[::SAMPLE].to(dtype)
    place_P = torch.arange(len(flat_P), device=flat_P.device)[::SAMPLE]
    decays_P = place_P < decayed_length(flat_layout(work.weights))
    sample_P = flat_P[::SAMPLE].to(dtype)
    state, plain = initial_adam_state(sample_P), ADAM._replace(weight_decay=0.0)
    with_decay_P, without_P = (
        optim.adam_step(sample_P, gradient_P, state, RATE, options)[0] for options in (ADAM, plain)
    )
    return torch.where(decays_P, with_decay_P, without_P)


def adam_kernel(work: Work) -> Prepared:
    """`minibert.kernels.optim.adam_step` on the flat tensor, in place."""
    from minibert.training.trainable import Trainable

    trainable = Trainable(work.weights, work.choices.device)
    trainable.gradient_P.copy_(_gradient(len(trainable.gradient_P), work.choices))

    def run() -> None:
        trainable.update(RATE, ADAM)

    def answer() -> Tensor:
        run()
        return trainable.parameters_P[::SAMPLE].clone()

    return Prepared(run, answer, "in place on one flat tensor")


def adam_book(work: Work) -> Prepared:
    """`minibert.optim.adam_step`, which changes nothing in place and returns new tensors."""
    flat_P, border = flatten(work.weights), decayed_length(flat_layout(work.weights))
    gradient_P = _gradient(len(flat_P), work.choices)
    parts = [slice(0, border), slice(border, None)]
    options = [ADAM, ADAM._replace(weight_decay=0.0)]
    states: list[AdamState] = [initial_adam_state(flat_P[part]) for part in parts]
    values = [flat_P[part] for part in parts]

    def run() -> None:
        for i, part in enumerate(parts):
            values[i], states[i] = optim.adam_step(
                values[i], gradient_P[part], states[i], RATE, options[i]
            )

    def answer() -> Tensor:
        run()
        return torch.cat(values)[::SAMPLE]

    return Prepared(run, answer, "out of place on one flat tensor")


def adam_of_torch(work: Work, form: str) -> Prepared:
    """`torch.optim.AdamW` on the list of parameters: `form` is fused or foreach."""
    flat_P = _gradient(sum(x.numel() for _, x in named_tensors(work.weights)), work.choices)
    gradients: BertWeights = views_of(flat_P, work.weights)
    by_path = {path: x.clone().requires_grad_() for path, x in named_tensors(work.weights)}
    for path, gradient in named_tensors(gradients):
        by_path[path].grad = gradient.clone()
    chosen: dict[str, Any] = {form: True}
    optimizer = torch.optim.AdamW(_groups(by_path), lr=RATE, eps=ADAM.eps, **chosen)

    def answer() -> Tensor:
        optimizer.step()
        return flatten(with_tensors(work.weights, by_path)).detach()[::SAMPLE]

    return Prepared(optimizer.step, answer, f"AdamW({form}=True)")
