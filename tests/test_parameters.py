"""What of `parameters` is no law: sizes of published models, refusals, defaults, edges."""

import inspect
import re

import pytest
import torch

from minibert.config import BertConfig
from minibert.laws.parameters import PARTS, REMAINING, count
from minibert.parameters import (
    FlatSlot,
    LayerNormWeights,
    LinearWeights,
    decayed_length,
    flat_layout,
    initial_weights,
    named_tensors,
    truncated_normal,
    views_of,
    weight_shapes,
    with_tensors,
)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        pytest.param((12, 768, 12, 3072), 109_482_240, id="bert-base-uncased"),
        pytest.param((6, 384, 12, 1536), 22_713_216, id="MiniLM-L6-H384"),
        pytest.param((4, 128, 4, 512), 4_782_464, id="4x128x512"),
    ],
)
def test_published_models_have_their_published_size(sizes, parameters):
    """With the pooler and the 30,522 words of bert-base-uncased."""
    layers, width, heads, inner = sizes
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    assert count(weight_shapes(config)) == parameters


def test_the_largest_model_that_a_config_may_describe_takes_no_memory():
    """10¹¹ numbers, none of them stored."""
    largest = BertConfig(
        vocab_size=2**20,
        hidden_size=8192,
        num_hidden_layers=128,
        num_attention_heads=64,
        intermediate_size=65536,
    )
    shapes = weight_shapes(largest, PARTS)
    assert count(shapes) > 10**11
    assert all(tensor.is_meta for _, tensor in named_tensors(shapes))


@pytest.mark.parametrize(
    ("parts", "unknown"),
    [(("poler", "nsp", "decoder"), "['decoder', 'poler']"), (("fit_dense",), "['fit_dense']")],
)
def test_an_unknown_part_is_refused(parts, unknown):
    message = (
        f"no part of a model is named {unknown}; known: "
        "['pooler', 'mlm', 'nsp', 'classifier', 'span']"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        weight_shapes(BertConfig(hidden_size=12), parts)


def test_the_defaults():
    def defaults(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    assert defaults(weight_shapes) == {"parts": ("pooler",), "fit_width": None}
    assert defaults(named_tensors) == {"prefix": ""}
    assert defaults(with_tensors) == {"prefix": ""}
    assert defaults(initial_weights) == {"dtype": torch.float32}


def test_a_tensor_alone_is_a_structure():
    """Its name is the prefix."""
    one = torch.ones(1)
    assert list(named_tensors(one)) == [("", one)]
    assert list(named_tensors(one, "gain")) == [("gain", one)]
    assert with_tensors(torch.zeros(1), {"": one}) is one
    assert list(named_tensors(None)) == []


def test_a_missing_name_is_refused_by_name():
    norm = LayerNormWeights(torch.ones(1), torch.zeros(1))
    with pytest.raises(KeyError, match=r"^'norm\.bias_D'$"):
        with_tensors(norm, {"norm.gain_D": torch.ones(1)}, "norm")


def test_the_remaining_deviation_is_the_documented_one():
    assert round(REMAINING, 4) == 0.8796
    assert "0.8796 * std" in truncated_normal.__doc__


def test_a_width_of_zero_is_zeros():
    zeros = truncated_normal((2, 3), 0.0, torch.Generator(), torch.float32)
    assert torch.equal(zeros, torch.zeros(2, 3))


def test_a_structure_without_matrices_has_no_decayed_range():
    layout = flat_layout(LayerNormWeights(torch.ones(2), torch.zeros(2)))
    assert layout == {"gain_D": FlatSlot(0, 2, (2,)), "bias_D": FlatSlot(2, 4, (2,))}
    assert decayed_length(layout) == 0
    assert flat_layout(()) == {}


@pytest.mark.parametrize("shape", [(7,), (9,), (0,), (2, 4), ()])
def test_a_flat_tensor_of_another_length_is_refused(shape):
    weights = LinearWeights(torch.ones(2, 3), torch.zeros(2))
    message = (
        f"views_of: the flat tensor has shape {list(shape)}, but the structure holds 8 numbers"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        views_of(torch.zeros(shape), weights)
