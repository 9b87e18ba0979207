"""The masked-word head of an encoder that had none: it learns, and nothing else changes."""

import dataclasses
import random

import pytest
import tiny
import torch

from minibert.config import CheckpointError
from minibert.data.candidates import masked_guesses
from minibert.data.corpus import windows
from minibert.data.tables import DataError
from minibert.encoder import encode
from minibert.heads import mlm_logits
from minibert.losses import cross_entropy
from minibert.masking import masked_count
from minibert.model import Bert
from minibert.optim import AdamOptions, initial_adam_state, linear_schedule
from minibert.optim import adam_step as book_adam_step
from minibert.parameters import flatten, named_tensors, views_of
from minibert.training import masked_head
from minibert.training.masked_head import (
    MaskedHeadOptions,
    initial_head,
    train_masked_head,
)
from minibert.training.runs import NotFinite

# Each word tells what its neighbours are, so that the masked one can be told from them.
LINES = ["the film is so good", "a very dark song of bad day", "plot and room was cold"]
OPTIONS = MaskedHeadOptions(epochs=12, lr=0.05, batch_size=4, held_out=0.2)


def encoder(head: str = "encoder", **changes: object) -> Bert:
    return Bert.from_config(tiny.config(**changes), head, tiny.tokenizer(), seed=1)


def corpus(count: int = 60) -> list[str]:
    return random.Random(0).choices(LINES, k=count)


def test_the_head_learns_to_guess_words_that_were_kept_back():
    trained = train_masked_head(encoder(), corpus(240), OPTIONS)
    assert trained.accuracy["top1"] > 0.6
    assert trained.accuracy["top1"] <= trained.accuracy["top5"] <= 1
    assert trained.n == 48  # every fifth of 240 runs, and one masked token in each
    untrained = train_masked_head(
        encoder(), corpus(240), dataclasses.replace(OPTIONS, epochs=0)
    )
    assert untrained.accuracy["top1"] < 0.2


def test_whoever_guesses_the_commonest_piece_is_measured_too():
    options = dataclasses.replace(OPTIONS, epochs=0)
    assert train_masked_head(encoder(), ["very " * 4] * 20, options).accuracy["commonest"] == 1
    assert train_masked_head(encoder(), ["film"] + ["very " * 4] * 4, options).accuracy == {
        "top1": 0, "top5": 0, "commonest": 0
    }  # fmt: skip


@pytest.mark.parametrize("head", ["encoder", "classification", "nsp"])
def test_encoder_and_word_table_stay_and_other_parts_go(head):
    bert = encoder(head)
    before = {name: tensor.clone() for name, tensor in named_tensors(bert.weights)}
    trained = train_masked_head(bert, corpus(), OPTIONS).bert
    after = dict(named_tensors(bert.weights))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    kept = dict(named_tensors(trained.weights))
    assert {name.partition(".")[0] for name in kept} == {"embeddings", "blocks", "mlm"}
    for name, tensor in kept.items():
        assert name.startswith("mlm.") or torch.equal(tensor, before[name])


def test_the_result_is_saved_and_opened_as_a_masked_language_model(tmp_path):
    trained = train_masked_head(encoder(), corpus(), OPTIONS).bert
    trained.save_pretrained(tmp_path)
    opened = Bert.from_pretrained(tmp_path)
    assert opened.head == "mlm"
    assert opened.fill_mask("the film is so [MASK]") == trained.fill_mask("the film is so [MASK]")
    assert masked_guesses(LINES, opened, 3).table == masked_guesses(LINES, trained, 3).table


def test_one_step_is_adam_on_the_loss_of_the_masked_tokens():
    """The step is made again with the book alone: encoder, head, loss, Adam."""
    options = dataclasses.replace(OPTIONS, epochs=1, batch_size=99, warmup=0.0)
    bert = encoder()
    trained = train_masked_head(bert, corpus(), options).bert
    runs = windows([[text] for text in corpus()], bert.tokenizer, 20)
    train_runs = [run for place, run in enumerate(runs) if place % 5]
    counts_V = torch.zeros(31)
    for run in train_runs:
        for i in run.ids[1:-1]:
            counts_V[i] += 1
    start = initial_head(counts_V, bert.config)
    assert torch.allclose(start.bias_V.exp() * (counts_V + 1).sum(), counts_V + 1)
    masking = masked_head._Masking(bert, bert.weights, 0.15)
    (rows,) = masked_head.epoch_order([len(run.ids) for run in train_runs], 99, 0, 0)
    generator = masked_head._generator(0, 1)
    hidden, labels = [], []
    for row in rows:
        run, run_labels = masking.masked(train_runs[row], generator)
        ids_BS = torch.tensor([run.ids])
        keep_BS, types_BS = torch.ones_like(ids_BS).bool(), torch.zeros_like(ids_BS)
        labels_S = torch.tensor(run_labels)
        states_BSD = encode(ids_BS, keep_BS, types_BS, bert.weights, bert.config)
        hidden.append(states_BSD[0, labels_S != -100])
        labels.append(labels_S[labels_S != -100])
    head_P = flatten(start).requires_grad_()
    logits_MV = mlm_logits(
        torch.cat(hidden),
        views_of(head_P, start),
        bert.weights.embeddings.word_VD,
        bert.config,
    )
    (gradient_P,) = torch.autograd.grad(cross_entropy(logits_MV, torch.cat(labels)), head_P)
    gradient_P = gradient_P / max(1.0, float(gradient_P.norm()))
    rate = options.lr * linear_schedule(0, 0, 1)
    state = initial_adam_state(head_P.detach())
    wanted_P, _ = book_adam_step(head_P.detach(), gradient_P, state, rate, AdamOptions())
    # The first step of Adam is the sign of the gradient, which tells nothing where it is 0.
    clear_P = gradient_P.abs() > 1e-5
    assert clear_P.float().mean() > 0.5
    torch.testing.assert_close(
        flatten(trained.weights.mlm)[clear_P], wanted_P[clear_P], rtol=1e-4, atol=1e-5
    )


def test_masks_hide_the_share_that_was_asked_for_and_never_the_ends():
    bert = encoder()
    masking = masked_head._Masking(bert, bert.weights, 0.4)
    generator = torch.Generator().manual_seed(0)
    run = windows([["good film " * 8]], bert.tokenizer, 20)[0]
    for _ in range(50):
        masked, labels = masking.masked(run, generator)
        chosen = [place for place, label in enumerate(labels) if label != -100]
        assert len(chosen) == masked_count(18, 0.4)
        assert chosen[0] > 0
        assert chosen[-1] < 17
        assert all(labels[place] == run.ids[place] for place in chosen)
        assert {masked.ids[place] for place in chosen} == {bert.tokenizer.mask_id}
        assert all(
            masked.ids[place] == run.ids[place] for place in range(18) if place not in chosen
        )
    assert masking.states([run, run], generator).hidden_MD.shape == (14, 12)


def test_long_texts_are_cut_to_the_positions_of_the_model():
    options = dataclasses.replace(OPTIONS, epochs=1, max_length=500)
    assert train_masked_head(encoder(), [" ".join(corpus())], options).n > 0


def test_the_seed_alone_decides():
    def head(seed: int) -> torch.Tensor:
        options = dataclasses.replace(OPTIONS, epochs=1, seed=seed)
        return flatten(train_masked_head(encoder(), corpus(), options).bert.weights.mlm)

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_the_seed_draws_the_masks():
    """Where all texts are alike, their order means nothing: only masks can make a difference."""

    def head(seed: int) -> torch.Tensor:
        options = dataclasses.replace(OPTIONS, epochs=1, seed=seed)
        return flatten(train_masked_head(encoder(), LINES[1:2] * 20, options).bert.weights.mlm)

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_a_head_goes_on_learning_from_where_it_is():
    short = dataclasses.replace(OPTIONS, epochs=1, lr=0.005)
    first = train_masked_head(encoder(), corpus(240), short)
    again = train_masked_head(first.bert, corpus(240), dataclasses.replace(short, epochs=0))
    assert torch.equal(flatten(again.bert.weights.mlm), flatten(first.bert.weights.mlm))
    assert again.accuracy == first.accuracy
    more = train_masked_head(first.bert, corpus(240), OPTIONS)
    assert more.accuracy["top1"] > first.accuracy["top1"]


def test_the_encoder_may_compute_in_half_precision():
    options = dataclasses.replace(OPTIONS, dtype=torch.bfloat16)
    trained = train_masked_head(encoder(), corpus(240), options)
    assert {tensor.dtype for _, tensor in named_tensors(trained.bert.weights)} == {torch.float32}
    assert trained.accuracy["top1"] > 0.5


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(CheckpointError, match="no vocabulary"):
        train_masked_head(Bert.from_config(tiny.config()), corpus())
    for texts in ([], ["good film"]):
        with pytest.raises(DataError, match=f"{len(texts)} runs of tokens were found"):
            train_masked_head(encoder(), texts)
    with pytest.raises(ValueError, match="windows of 2 tokens"):
        train_masked_head(encoder(), corpus(), dataclasses.replace(OPTIONS, max_length=2))
    wild = encoder()
    wild.weights.embeddings.word_VD[7] = torch.inf
    with pytest.raises(NotFinite, match="step 1: the loss is"):
        train_masked_head(wild, corpus(), OPTIONS)
