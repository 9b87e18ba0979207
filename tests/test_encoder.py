"""What the laws of `encoder` do not say: refusals, dtypes, the trace."""

import pytest
import torch

from minibert.encoder import BlockTrace, EncoderTrace, encode, encode_traced
from minibert.laws.attention import parts_of, with_parts
from minibert.laws.encoder import CONFIG, Case, case_of, encode_bound
from minibert.laws.law import RandomDraw
from minibert.laws.measure import distance
from minibert.parameters import named_tensors

B, S, D = 2, 7, CONFIG.hidden_size
CASE = case_of(RandomDraw("tests"))._replace(config=CONFIG)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    narrow = [part.to(dtype) for part in parts_of(case.weights)]
    return case._replace(weights=with_parts(case.weights, narrow))


# ----------------------------------------------------------------------------------- refusals

TOO_LONG = r"^embeddings: 14 tokens, but the model knows only 13 positions; truncate the text$"


@pytest.mark.parametrize("function", [encode, encode_traced])
def test_more_tokens_than_positions_are_refused(function):
    zeros = torch.zeros(2, 14, dtype=torch.int64)
    with pytest.raises(ValueError, match=TOO_LONG):
        function(*CASE._replace(ids=zeros, keep=zeros == 0, types=zeros))


@pytest.mark.parametrize("function", [encode, encode_traced])
@pytest.mark.parametrize(
    ("field", "value", "rows"), [("ids", 23, 22), ("ids", -1, 22), ("types", 3, 2)]
)
def test_ids_and_types_beyond_their_tables_are_refused(function, field, value, rows):
    case = CASE._replace(**{field: torch.full((B, S), value)})
    message = rf"^embedding: ids run from {value} to {value}, but the table has rows 0 to {rows}$"
    with pytest.raises(ValueError, match=message):
        function(*case)


@pytest.mark.parametrize("function", [encode, encode_traced])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_mask_that_is_not_boolean_is_refused(function, dtype):
    message = rf"^padding_bias: keep has dtype {dtype}, but must be torch\.bool$"
    with pytest.raises(ValueError, match=message):
        function(*CASE._replace(keep=CASE.keep.to(dtype)))


@pytest.mark.parametrize("tokens", [1, 13])
def test_one_token_and_as_many_as_there_are_positions_are_fine(tokens):
    zeros = torch.zeros(2, tokens, dtype=torch.int64)
    assert encode(*CASE._replace(ids=zeros, keep=zeros == 0, types=zeros)).shape == (2, tokens, D)


# ------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_state_has_the_dtype_of_the_weights(dtype):
    trace = encode_traced(*in_dtype(CASE, dtype))
    assert {tensor.dtype for _, tensor in named_tensors(trace)} == {dtype}
    assert all(tensor.isfinite().all() for _, tensor in named_tensors(trace))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_last_state_has_the_dtype_of_the_weights(dtype):
    narrow = in_dtype(CASE, dtype)
    assert encode(*narrow).dtype == dtype
    assert torch.equal(encode(*narrow), encode_traced(*narrow).hidden_BSD)


def test_float32_is_as_near_to_float64_as_promised():
    narrow = in_dtype(CASE, torch.float32)
    wide = in_dtype(narrow, torch.float64)
    assert distance(encode(*narrow), encode(*wide), encode_bound(narrow)) <= 1
    assert float(encode_bound(narrow).max()) < 1e-3


def test_a_sentence_of_padding_alone_stays_finite():
    nobody = CASE._replace(keep=torch.zeros_like(CASE.keep))
    assert encode(*nobody).isfinite().all()


# -------------------------------------------------------------------------------------- trace


def test_the_trace_names_what_it_holds():
    trace = encode_traced(*CASE)
    assert isinstance(trace, EncoderTrace)
    assert isinstance(trace.blocks[0], BlockTrace)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(trace)}
    inside = {
        "attention.query_BNSK": (B, 3, S, 5),
        "attention.key_BNRK": (B, 3, S, 5),
        "attention.value_BNRK": (B, 3, S, 5),
        "attention.scores_BNSR": (B, 3, S, S),
        "attention.probabilities_BNSR": (B, 3, S, S),
        "attention.output_BSD": (B, S, D),
        "attended_BSD": (B, S, D),
        "hidden_BSD": (B, S, D),
    }
    expected = {"embedded_BSD": (B, S, D)}
    for number in range(CONFIG.num_hidden_layers):
        expected |= {f"blocks.{number}.{name}": shape for name, shape in inside.items()}
    assert shapes == expected


def test_the_states_of_the_trace_are_no_copies():
    trace = encode_traced(*CASE)
    assert len(trace.hiddens_LBSD) == CONFIG.num_hidden_layers + 1
    assert trace.hiddens_LBSD[0] is trace.embedded_BSD
    assert trace.hiddens_LBSD[-1] is trace.hidden_BSD
