"""minibert and `transformers` are one BERT: outputs, losses, gradients, files in both directions.

The models are small and random, every weight far from its initial value, so that no constant, bias
or swapped axis can hide. Real sentences and a real teacher come last.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from minibert.checkpoint import path_of
from minibert.config import BertConfig
from minibert.decoder import DecoderWeights, decode, decode_traced, decoder_shapes, empty_memory
from minibert.encoder import encode, encode_traced
from minibert.functional import log_softmax
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
from minibert.losses import cross_entropy, mlm_loss, nsp_loss, span_loss, squared_error
from minibert.model import Bert
from minibert.optim import adam_form, adam_step, initial_adam_state, linear_schedule
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
from minibert.pretrained import HEADS, head_named_in
from minibert.search import beam_search, greedy_search

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers: nothing here is downloaded
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: it is the reference of these tests"
)

CONFIGS = {
    "erf": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 37},
    "tanh, one head, three types": {
        "hidden_size": 14,
        "num_attention_heads": 1,
        "intermediate_size": 9,
        "hidden_act": "gelu_new",
        "type_vocab_size": 3,
        "layer_norm_eps": 1e-3,
    },
    "one layer, heads of width 1": {
        "hidden_size": 5,
        "num_attention_heads": 5,
        "intermediate_size": 11,
        "num_hidden_layers": 1,
        "hidden_act": "gelu_pytorch_tanh",
    },
}
COMMON = {"vocab_size": 41, "max_position_embeddings": 13, "num_hidden_layers": 2}
HEAD_NAMES = tuple(HEADS)


class Inputs(NamedTuple):
    ids_BS: Tensor
    keep_BS: Tensor
    types_BS: Tensor


def config_values(name: str, head: str) -> dict[str, Any]:
    values = COMMON | CONFIGS[name]
    if head in ("classification", "token_classification"):
        values["id2label"] = {0: "x", 1: "y", 2: "z"}
    if head == "regression":
        values |= {"id2label": {0: "score"}, "problem_type": "regression"}
    return values


def reference_model(name: str, head: str) -> Any:
    """A random `transformers` model of this head in float32, in evaluation mode."""
    torch.manual_seed(len(name) + len(head))
    config = transformers.BertConfig(**config_values(name, head))
    model = getattr(transformers, HEADS[head].architecture)(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(std=0.4)
            if key.endswith("LayerNorm.weight"):
                parameter.add_(1)
    return model


def inputs_for(config: BertConfig, rows: int, seed: int = 5) -> Inputs:
    """Random ids in rows of different length; padding holds random ids too, to be hidden.

    Never id 0: `transformers` passes no gradient to the word vector of padding (see below).
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = 11
    lengths_B1 = torch.randint(2, tokens + 1, (rows, 1), generator=generator)
    lengths_B1[0] = tokens
    shape = (rows, tokens)
    return Inputs(
        torch.randint(1, config.vocab_size, shape, generator=generator),
        torch.arange(tokens) < lengths_B1,
        torch.randint(0, config.type_vocab_size, shape, generator=generator),
    )


def ours(
    head: str, inputs: Inputs, weights: BertWeights, config: BertConfig
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The outputs of our model and its loss on the labels of `labels_for`."""
    hidden_BSD = encode(*inputs, weights, config)
    labels = labels_for(head, inputs, config)
    vector_BD = pooled(hidden_BSD, weights.pooler) if weights.pooler else None
    if head == "encoder":
        return (hidden_BSD, vector_BD), None
    if head in ("mlm", "pretraining"):
        words = mlm_logits(hidden_BSD, weights.mlm, weights.embeddings.word_VD, config)
        if head == "mlm":
            return (words,), mlm_loss(words, labels["labels"])
        follows = nsp_logits(vector_BD, weights.nsp)
        loss = mlm_loss(words, labels["labels"])
        return (words, follows), loss + nsp_loss(follows, labels["next_sentence_label"])
    if head == "nsp":
        follows = nsp_logits(vector_BD, weights.nsp)
        return (follows,), nsp_loss(follows, labels["labels"])
    if head == "classification":
        logits = sequence_logits(vector_BD, weights.classifier)
        return (logits,), cross_entropy(logits, labels["labels"])
    if head == "regression":
        values = regression_values(vector_BD, weights.classifier)
        return (values[:, None],), squared_error(values, labels["labels"])
    if head == "token_classification":
        logits = token_logits(hidden_BSD, weights.classifier)
        return (logits,), mlm_loss(logits, labels["labels"])
    if head == "multiple_choice":
        choices = multiple_choice_logits(vector_BD, weights.classifier, 3)
        return (choices,), cross_entropy(choices, labels["labels"])
    assert head == "question_answering"
    starts, ends = span_logits(hidden_BSD, weights.span)
    loss = span_loss(starts, ends, labels["start_positions"], labels["end_positions"])
    return (starts, ends), loss


def labels_for(head: str, inputs: Inputs, config: BertConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    rows, tokens = inputs.ids_BS.shape

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    some_ignored = torch.where(draw(3, rows, tokens) == 0, draw(config.vocab_size, 1), -100)
    per_token = torch.where(draw(2, rows, tokens) == 0, draw(config.num_labels, rows, tokens), -100)
    return {
        "encoder": {},
        "mlm": {"labels": some_ignored},
        "nsp": {"labels": draw(2, rows)},
        "pretraining": {"labels": some_ignored, "next_sentence_label": draw(2, rows)},
        "classification": {"labels": draw(config.num_labels, rows)},
        "regression": {"labels": torch.randn(rows, dtype=torch.float64, generator=generator)},
        "token_classification": {"labels": per_token},
        "question_answering": {
            "start_positions": draw(tokens, rows),
            "end_positions": draw(tokens, rows),
        },
        "multiple_choice": {"labels": draw(3, rows // 3)},
    }[head]


def theirs(
    model: Any, head: str, inputs: Inputs, config: BertConfig
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The same of `transformers`; the choices of a question are an axis of its inputs there."""
    rows, tokens = inputs.ids_BS.shape
    shape = (rows // 3, 3, tokens) if head == "multiple_choice" else (rows, tokens)
    labels = labels_for(head, inputs, config)
    if head == "regression":
        labels = {"labels": labels["labels"].to(next(model.parameters()).dtype)}
    output = model(
        input_ids=inputs.ids_BS.view(shape),
        attention_mask=inputs.keep_BS.long().view(shape),
        token_type_ids=inputs.types_BS.view(shape),
        **labels,
    )
    loss = output.get("loss")
    return tuple(value for key, value in output.items() if key != "loss"), loss


def close(mine: Tensor, reference: Tensor, bound: float) -> bool:
    """Within `bound` of the largest value, or of 1 where all are smaller."""
    assert mine.shape == reference.shape
    assert mine.dtype == reference.dtype == torch.float64
    scale = max(1.0, reference.abs().max().item())
    return (mine - reference).abs().max().item() <= bound * scale


def both(tmp_path: Path, name: str, head: str) -> tuple[Any, Bert]:
    """A saved `transformers` model in float64, and the folder as minibert reads it."""
    model = reference_model(name, head)
    model.save_pretrained(tmp_path)
    return model.double(), Bert.from_pretrained(tmp_path, dtype=torch.float64)


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_losses_and_gradients_agree_in_float64(
    tmp_path: Path, name: str, head: str
) -> None:
    model, bert = both(tmp_path, name, head)
    assert bert.head == head
    assert bert.report.faults == ()
    inputs = inputs_for(bert.config, rows=6)
    expected, expected_loss = theirs(model, head, inputs, bert.config)
    leaves = {path: t.clone().requires_grad_() for path, t in named_tensors(bert.weights)}
    weights = with_tensors(bert.weights, leaves)
    found, loss = ours(head, inputs, weights, bert.config)
    assert len(found) == len(expected)
    for mine, reference in zip(found, expected, strict=True):
        assert close(mine, reference, 1e-12)
    if loss is None:  # an encoder has no loss: a random weighting of its outputs stands in
        generator = torch.Generator().manual_seed(3)
        upstream = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in found]
        loss = sum((x * up).sum() for x, up in zip(found, upstream, strict=True))
        expected_loss = sum((x * up).sum() for x, up in zip(expected, upstream, strict=True))
    assert close(loss, expected_loss, 1e-12)
    expected_loss.backward()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    reference = {path_of(key): p.grad for key, p in model.named_parameters()}
    assert reference.keys() == gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in reference.values())
    for path, gradient in gradients.items():
        error = (gradient - reference[path]).abs().max().item()
        assert error <= 1e-10 * largest, path
        if path.endswith("attention.key.bias_O"):
            # A bias on all keys adds q·b to every score of a row, which softmax takes out again.
            assert gradient.abs().max().item() <= 1e-14 * largest


def test_only_the_word_vector_of_padding_learns_differently(tmp_path: Path) -> None:
    """`transformers` freezes it; here it is a word like any other. Masked, neither matters."""
    model, bert = both(tmp_path, "erf", "classification")
    inputs = inputs_for(bert.config, rows=6)
    inputs = inputs._replace(ids_BS=torch.where(inputs.ids_BS % 3 == 0, 0, inputs.ids_BS))
    words_VD = bert.weights.embeddings.word_VD.clone().requires_grad_()
    embeddings = bert.weights.embeddings._replace(word_VD=words_VD)
    weights = bert.weights._replace(embeddings=embeddings)
    _, loss = ours("classification", inputs, weights, bert.config)
    loss.backward()
    theirs(model, "classification", inputs, bert.config)[1].backward()
    reference_VD = model.bert.embeddings.word_embeddings.weight.grad
    assert close(words_VD.grad[1:], reference_VD[1:], 1e-12)
    assert reference_VD[0].abs().max() == 0
    assert words_VD.grad[0].abs().max() > 1e-4


@pytest.mark.parametrize("form", ["kingma", "adamw"])
@pytest.mark.parametrize("head", ["classification", "pretraining"])
@pytest.mark.parametrize("name", CONFIGS)
def test_twenty_steps_of_training_agree_in_float64(
    tmp_path: Path, name: str, head: str, form: str
) -> None:
    """torch's Adam and AdamW on their model, ours on the flat tensor of ours: the same weights.

    Each step has a batch and a learning rate of its own. The comparison is of every weight after
    every step, and of the losses on the way. Only the bias of the keys may wander: softmax takes
    it out again, so its gradient is nothing but rounding, which Adam enlarges to rate · g / eps.
    """
    model, bert = both(tmp_path, name, head)
    options = adam_form(form)
    assert options.eps == 1e-8
    layout = flat_layout(bert.weights)
    flat, border = flatten(bert.weights), decayed_length(layout)
    states = [initial_adam_state(part) for part in (flat[:border], flat[border:])]
    groups = [
        [p for key, p in model.named_parameters() if is_decayed(path_of(key)) == decayed]
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}],
        eps=1e-8,
        weight_decay=options.weight_decay,
    )
    for step in range(20):
        rate = 1e-3 * linear_schedule(step, 3, 20)
        inputs = inputs_for(bert.config, rows=4, seed=step)
        leaf = flat.clone().requires_grad_()
        _, loss = ours(head, inputs, views_of(leaf, bert.weights), bert.config)
        (gradient,) = torch.autograd.grad(loss, leaf)
        kept, plain = options, options._replace(weight_decay=0.0)
        front, states[0] = adam_step(flat[:border], gradient[:border], states[0], rate, kept)
        back, states[1] = adam_step(flat[border:], gradient[border:], states[1], rate, plain)
        flat = torch.cat((front, back))

        _, expected = theirs(model, head, inputs, bert.config)
        assert close(loss, expected, 1e-10), f"loss of step {step}"
        optimizer.zero_grad()
        expected.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        weights = dict(named_tensors(views_of(flat, bert.weights)))
        for key, parameter in model.named_parameters():
            bound = 1e-6 if key.endswith("key.bias") else 1e-10
            assert close(weights[path_of(key)], parameter.detach(), bound), f"{key}, step {step}"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_hidden_state_and_every_probability_agree(tmp_path: Path, name: str) -> None:
    model, bert = both(tmp_path, name, "encoder")
    model.set_attn_implementation("eager")  # the only one that hands out its probabilities
    inputs = inputs_for(bert.config, rows=4)
    output = model(
        inputs.ids_BS,
        attention_mask=inputs.keep_BS.long(),
        token_type_ids=inputs.types_BS,
        output_hidden_states=True,
        output_attentions=True,
    )
    trace = encode_traced(*inputs, bert.weights, bert.config)
    assert len(trace.hiddens_LBSD) == len(output.hidden_states) == len(trace.blocks) + 1
    for mine, reference in zip(trace.hiddens_LBSD, output.hidden_states, strict=True):
        assert close(mine, reference, 1e-12)
    for block, reference in zip(trace.blocks, output.attentions, strict=True):
        assert close(block.attention.probabilities_BNSR, reference, 1e-12)


# The decoder: BERT with a causal mask and an attention to another text in each layer.


def decoder_path_of(key: str) -> str:
    """Where a tensor of their decoder is in ours: cross-attention has the parts of attention."""
    path = path_of(key.replace(".crossattention.", ".attention."))
    if ".crossattention." not in key:
        return f"bert.{path}"
    return path.replace("blocks.", "cross.").replace("attention_norm", "norm")


def reference_decoder(name: str) -> tuple[Any, DecoderWeights, BertConfig]:
    """A random decoder of `transformers` in float64, and its weights as ours."""
    torch.manual_seed(len(name))
    config = transformers.BertConfig(
        **config_values(name, "mlm"), is_decoder=True, add_cross_attention=True
    )
    model = transformers.BertLMHeadModel(config).eval().double()
    for key, parameter in model.named_parameters():
        parameter.data.normal_(std=0.4)
        if key.endswith("LayerNorm.weight"):
            parameter.data.add_(1)
    mine = BertConfig.from_dict(config_values(name, "mlm"))
    tensors = {decoder_path_of(key): p.detach() for key, p in model.named_parameters()}
    shapes = decoder_shapes(mine)
    assert tensors.keys() == {path for path, _ in named_tensors(shapes)}
    return model, with_tensors(shapes, tensors), mine


def encoded_text(config: BertConfig, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (rows, 5, config.hidden_size)
    encoded_BRD = torch.randn(shape, dtype=torch.float64, generator=generator)
    return encoded_BRD, torch.arange(5) < torch.tensor([[5], [2], [4]])[:rows]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_agrees_in_logits_states_and_gradients(name: str) -> None:
    model, weights, config = reference_decoder(name)
    encoded_BRD, keep_BR = encoded_text(config, 3)
    ids_BS = inputs_for(config, rows=3).ids_BS
    reference = model(
        ids_BS,
        encoder_hidden_states=encoded_BRD,
        encoder_attention_mask=keep_BR.long(),
        output_hidden_states=True,
    )
    leaves = {path: t.clone().requires_grad_() for path, t in named_tensors(weights)}
    weights = with_tensors(weights, leaves)
    memory = empty_memory(encoded_BRD, keep_BR, weights, config)
    logits_BSV, grown = decode(ids_BS, memory, weights, config)
    assert grown.n_words == ids_BS.shape[1]
    assert close(logits_BSV, reference.logits, 1e-10)
    traces, _ = decode_traced(ids_BS, memory, weights, config)
    for trace, state in zip(traces, reference.hidden_states[1:], strict=True):
        assert close(trace.hidden_BSD, state, 1e-10)
    steps = []
    for word_B1 in ids_BS.split(1, 1):
        logits_B1V, memory = decode(word_B1, memory, weights, config)
        steps.append(logits_B1V)
    assert close(torch.cat(steps, 1), reference.logits, 1e-10)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(logits_BSV.shape, dtype=torch.float64, generator=generator)
    (reference.logits * upstream).sum().backward()
    found = torch.autograd.grad(logits_BSV, list(leaves.values()), upstream)
    gradients = dict(zip(leaves, found, strict=True))
    expected = {decoder_path_of(key): p.grad for key, p in model.named_parameters()}
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for path, gradient in gradients.items():
        error = (gradient - expected[path]).abs().max().item()
        assert error <= 1e-10 * largest, path


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_searches_find_the_texts_that_generate_finds(name: str, width: int) -> None:
    """Without a penalty, as they divide by another power of the length."""
    model, weights, config = reference_decoder(name)
    encoded_BRD, keep_BR = encoded_text(config, 3)
    start_id, end_id, longest = 3, 7, 6
    weights.bert.mlm.bias_V[end_id] += 4.0  # the same tensor as theirs: texts end here and there
    generated = model.generate(
        torch.full((3, 1), start_id),
        encoder_hidden_states=encoded_BRD,
        encoder_attention_mask=keep_BR.long(),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        use_cache=False,
        early_stopping=width > 1,
        length_penalty=0.0,
        max_new_tokens=longest,
        eos_token_id=end_id,
        pad_token_id=end_id,
        return_dict_in_generate=True,
        output_scores=True,
    )

    def step(last_H1, memory):
        logits_H1V, memory = decode(last_H1, memory, weights, config)
        return log_softmax(logits_H1V[:, 0]), memory

    memory = empty_memory(encoded_BRD, keep_BR, weights, config)
    found = beam_search(step, memory, start_id, end_id, longest, width, alpha=0.0)
    expected = generated.sequences.view(3, width, -1)[..., 1:]
    assert torch.equal(found.ids_BWS, expected)
    if width == 1:
        greedy = greedy_search(step, memory, start_id, end_id, longest)
        assert torch.equal(greedy.ids_BWS, expected)
    else:
        assert close(found.scores_BW, generated.sequences_scores.view(3, width).double(), 1e-6)


def error_of(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The mean error of all numbers, each output in units of its size.

    The mean, since the largest error is decided by the one text whose norm is ill-conditioned.
    """
    errors = [
        ((mine.double() - reference) / reference.abs().max()).abs().flatten()
        for mine, reference in zip(found, exact, strict=True)
    ]
    return torch.cat(errors).mean().item()


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_is_no_further_from_float64_than_transformers_is(
    tmp_path: Path, name: str, head: str
) -> None:
    model = reference_model(name, head)
    model.save_pretrained(tmp_path)
    bert = Bert.from_pretrained(tmp_path)
    inputs = inputs_for(bert.config, rows=480)
    with torch.no_grad():
        mine, _ = ours(head, inputs, bert.weights, bert.config)
        reference, _ = theirs(model, head, inputs, bert.config)
        exact, _ = theirs(model.double(), head, inputs, bert.config)
    assert mine[0].dtype == torch.float32
    assert 0 < error_of(mine, exact) <= 1.5 * error_of(reference, exact)


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_ours_opens_in_transformers_with_equal_outputs(
    tmp_path: Path, name: str, head: str
) -> None:
    values = config_values(name, head) | {"cell": {"kept": True}}
    fresh = Bert.from_config(BertConfig.from_dict(values), head, seed=4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(9)
    noise = {
        path: t + 0.3 * torch.randn(t.shape, dtype=t.dtype, generator=generator)
        for path, t in named_tensors(fresh.weights)
    }
    bert = dataclasses.replace(fresh, weights=with_tensors(fresh.weights, noise))
    bert.save_pretrained(tmp_path)
    model, loading = getattr(transformers, HEADS[head].architecture).from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float64
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.cell == {"kept": True}
    inputs = inputs_for(bert.config, rows=6)
    with torch.no_grad():
        mine, _ = ours(head, inputs, bert.weights, bert.config)
        reference, _ = theirs(model.eval(), head, inputs, bert.config)
    for one, other in zip(mine, reference, strict=True):
        assert close(one, other, 1e-12)
    again = Bert.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.head == head
    assert {row.status for row in again.report.rows} == {"used"}
    for (_, one), (_, other) in zip(
        named_tensors(again.weights), named_tensors(bert.weights), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_our_keys_are_the_keys_of_transformers(tmp_path: Path, head: str) -> None:
    """In the file that we write, key for key, what `transformers` writes."""
    from safetensors import safe_open

    model = reference_model("erf", head)
    model.save_pretrained(tmp_path / "theirs")
    Bert.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    keys = []
    for folder in ("theirs", "ours"):
        with safe_open(tmp_path / folder / "model.safetensors", framework="pt") as file:
            keys.append(set(file.keys()))
    copies = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert keys[0] - copies == keys[1]
    assert head_named_in(BertConfig(architectures=(type(model).__name__,))) in (
        head,
        "classification",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_come_back_as_what_they_now_are(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """`transformers` casts to the config's dtype, so a stale one would round our weights again."""
    reference_model("erf", "classification").to(dtype).save_pretrained(tmp_path / "half")
    bert = Bert.from_pretrained(tmp_path / "half")
    assert any("were read as float32" in note for note in bert.report.notes)
    shifted = {path: tensor + 1e-4 for path, tensor in named_tensors(bert.weights)}
    bert = dataclasses.replace(bert, weights=with_tensors(bert.weights, shifted))
    bert.save_pretrained(tmp_path / "ours")
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert model.dtype == torch.float32
    for key, parameter in model.named_parameters():
        path = path_of(key)
        assert path is not None
        assert torch.equal(parameter, shifted[path])
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "float32"


def test_pickles_and_shards_of_transformers_load(tmp_path: Path) -> None:
    model = reference_model("erf", "pretraining")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    (tmp_path / "pickle").mkdir()
    torch.save(model.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    config = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "pickle" / "config.json").write_text(config)
    whole = Bert.from_pretrained(tmp_path / "whole")
    with pytest.warns(UserWarning, match="is a pickle"):
        pickled = Bert.from_pretrained(tmp_path / "pickle")
    for other in (Bert.from_pretrained(tmp_path / "shards"), pickled):
        assert other.head == "pretraining"
        for (name, one), (path, two) in zip(
            named_tensors(whole.weights), named_tensors(other.weights), strict=True
        ):
            assert name == path
            assert torch.equal(one, two)
    ignored = {row.key for row in pickled.report.of("ignored")}
    assert ignored == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


# --- a real teacher on real sentences


def dev_sentences(data_dir: Path, count: int = 64) -> list[str]:
    lines = (data_dir / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    return [line.rpartition("\t")[0] for line in lines[1 : count + 1]]


@pytest.fixture(scope="module")
def measured(teacher_dir: Path, data_dir: Path) -> dict[str, float]:
    """The largest errors on 64 sentences, printed as a table (pytest -s -m real)."""
    bert = Bert.from_pretrained(teacher_dir)
    model = transformers.BertModel.from_pretrained(teacher_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher_dir)
    sentences = dev_sentences(data_dir)
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    keep_BS = batch["attention_mask"].bool()
    inputs = Inputs(batch["input_ids"], keep_BS, batch["token_type_ids"])

    def both_outputs(dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        found, _ = ours("encoder", inputs, bert.to("cpu", dtype).weights, bert.config)
        reference, _ = theirs(model.to(dtype), "encoder", inputs, bert.config)
        return tuple(
            (hidden_BSD[keep_BS].double(), vector_BD.double())
            for hidden_BSD, vector_BD in (found, reference)
        )

    with torch.no_grad():
        mine32, theirs32 = both_outputs(torch.float32)
        mine64, theirs64 = both_outputs(torch.float64)
        pad_free = bert.encode(sentences)
    by_text = torch.cat([hidden_SD.double() for hidden_SD in pad_free])
    results = {}
    for name, i in (("hidden states", 0), ("pooled", 1)):
        results[f"{name} float64"] = (mine64[i] - theirs64[i]).abs().max().item()
        results[f"{name} float32 ours"] = (mine32[i] - theirs64[i]).abs().max().item()
        results[f"{name} float32 theirs"] = (theirs32[i] - theirs64[i]).abs().max().item()
        results[f"{name} largest"] = theirs64[i].abs().max().item()
    results["by text float32 ours"] = (by_text - theirs64[0]).abs().max().item()
    print(f"\n{'64 sentences of SST-2 dev, all-MiniLM-L6-v2':44} hidden states      pooled")
    for row in ("largest", "float64", "float32 ours", "float32 theirs"):
        cells = [results[f"{name} {row}"] for name in ("hidden states", "pooled")]
        print(f"{row:44} {cells[0]:13.3g} {cells[1]:11.3g}")
    return results


@pytest.mark.real
def test_the_real_teacher_agrees_on_real_sentences(measured: dict[str, float]) -> None:
    for name in ("hidden states", "pooled"):
        assert measured[f"{name} float64"] <= 1e-12 * max(1, measured[f"{name} largest"])
        assert measured[f"{name} float32 ours"] <= 1.5 * measured[f"{name} float32 theirs"]
    assert measured["by text float32 ours"] <= 1.5 * measured["hidden states float32 theirs"]
