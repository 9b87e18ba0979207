"""What the laws of `decoder` do not say: refusals, defaults, dtypes, and what is left untouched."""

import dataclasses

import pytest
import torch

from minibert.decoder import decode, decode_traced, decoder_shapes, empty_memory
from minibert.encoder import encode
from minibert.heads import mlm_logits
from minibert.laws.decoder import CONFIG, B, D, R, U, V, random_weights
from minibert.laws.measure import normal
from minibert.parameters import initial_weights, named_tensors, with_tensors

WEIGHTS = random_weights(5)
KEEP = torch.ones(B, R) > 0
IDS = torch.arange(B * U).view(B, U) % V


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_and_memory_have_the_dtype_of_the_weights(dtype):
    tensors = {name: part.to(dtype) for name, part in named_tensors(WEIGHTS)}
    weights = with_tensors(WEIGHTS, tensors)
    memory = empty_memory(normal(1, B, R, D).to(dtype), KEEP, weights, CONFIG)
    logits, memory = decode(IDS, memory, weights, CONFIG)
    assert logits.shape == (B, U, V)
    assert logits.dtype == dtype
    assert {part.dtype for part in (memory.cross_bias_B11R, *memory.blocks[1])} == {dtype}


def test_fresh_weights_fit_the_encoder_and_the_decoder():
    """The encoder may have other weights, and gets its own."""
    fresh = torch.Generator().manual_seed(0)
    weights = initial_weights(decoder_shapes(CONFIG), 0.02, fresh)
    ids = torch.arange(B * R).view(B, R) % V
    encoded = encode(ids, KEEP, 0 * ids, weights.bert, CONFIG)
    logits, _ = decode(IDS, empty_memory(encoded, KEEP, weights, CONFIG), weights, CONFIG)
    assert bool(logits.isfinite().all())


def test_a_text_that_is_too_long_is_refused_with_both_numbers():
    memory = empty_memory(normal(1, B, R, D), KEEP, WEIGHTS, CONFIG)
    places = CONFIG.max_position_embeddings
    _, memory = decode(IDS[:, :1].repeat(1, places - 1), memory, WEIGHTS, CONFIG)
    message = f"a text of {places + 3} words, but the model knows only {places} positions"
    with pytest.raises(ValueError, match=message):
        decode_traced(IDS, memory, WEIGHTS, CONFIG)
    assert decode(IDS[:, :1], memory, WEIGHTS, CONFIG)[1].n_words == places
    assert memory.n_words == places - 1


def test_a_decoder_without_its_head_is_refused():
    memory = empty_memory(normal(1, B, R, D), KEEP, WEIGHTS, CONFIG)
    headless = WEIGHTS._replace(bert=WEIGHTS.bert._replace(mlm=None))
    with pytest.raises(AssertionError, match=r"^a decoder has a masked-word head$"):
        decode(IDS, memory, headless, CONFIG)


def test_scores_come_from_the_last_of_any_number_of_layers():
    config = dataclasses.replace(CONFIG, num_hidden_layers=3)
    weights = random_weights(3, config)
    memory = empty_memory(normal(1, B, R, D), KEEP, weights, config)
    traces, _ = decode_traced(IDS, memory, weights, config)
    last_BSD, word_VD = traces[2].hidden_BSD, weights.bert.embeddings.word_VD
    expected = mlm_logits(last_BSD, weights.bert.mlm, word_VD, config)
    assert torch.equal(decode(IDS, memory, weights, config)[0], expected)


def test_a_memory_of_another_number_of_layers_is_refused():
    memory = empty_memory(normal(1, B, R, D), KEEP, WEIGHTS, CONFIG)
    with pytest.raises(ValueError, match="zip"):
        decode(IDS, memory._replace(blocks=memory.blocks[:1]), WEIGHTS, CONFIG)


def test_all_is_made_where_the_weights_are():
    """Whatever is made on another device meets the weights, and that is an error."""
    memory = empty_memory(normal(1, B, R, D), KEEP, WEIGHTS, CONFIG)
    expected, _ = decode(IDS, memory, WEIGHTS, CONFIG)
    with torch.device("meta"):
        assert torch.equal(decode(IDS, memory, WEIGHTS, CONFIG)[0], expected)


def test_a_decoder_may_have_one_layer():
    config = dataclasses.replace(CONFIG, num_hidden_layers=1)
    weights = random_weights(3, config)
    memory = empty_memory(normal(1, B, R, D), KEEP, weights, config)
    assert decode(IDS, memory, weights, config)[0].shape == (B, U, V)
