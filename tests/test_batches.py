"""Batches: padding that marks itself, and orders that are permutations, repeatable and random."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.batches import (
    BATCHES_PER_CHUNK,
    collate,
    epoch_order,
    padding_share,
    sorted_order,
)
from minibert.data.readers import find_split, read_dataset
from minibert.data.tokenizer import Encoding, Tokenizer

LENGTHS = st.lists(st.integers(2, 40), max_size=300)
SIZES = st.integers(1, 17)
SEEDS = st.integers(0, 2**64)


@st.composite
def encoded(draw):
    sizes = draw(st.lists(st.integers(2, 9), min_size=1, max_size=7))
    encodings = [
        Encoding([1000 * row + place for place in range(1, size + 1)], [row % 2] * size)
        for row, size in enumerate(sizes)
    ]
    rows = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=5))
    return encodings, rows


@given(encoded(), st.integers(0, 5))
def test_collate_keeps_every_token_and_marks_the_rest(data, pad_id):
    encodings, rows = data
    batch = collate(encodings, rows, pad_id)
    assert batch.ids_BS.shape == batch.keep_BS.shape == batch.types_BS.shape
    assert batch.ids_BS.shape[1] == max(len(encodings[row].ids) for row in rows)
    for place, row in enumerate(rows):
        keep_S = batch.keep_BS[place]
        length = len(encodings[row].ids)
        assert keep_S.tolist() == [True] * length + [False] * (len(keep_S) - length)
        assert batch.ids_BS[place][keep_S].tolist() == encodings[row].ids
        assert batch.types_BS[place][keep_S].tolist() == encodings[row].types
        assert set(batch.ids_BS[place][~keep_S].tolist()) <= {pad_id}
        assert set(batch.types_BS[place][~keep_S].tolist()) <= {0}
    types = (batch.ids_BS.dtype, batch.types_BS.dtype, batch.keep_BS.dtype)
    assert types == (torch.int64, torch.int64, torch.bool)


def test_a_batch_has_at_least_one_row():
    with pytest.raises(ValueError, match="0 rows"):
        collate([Encoding([2, 3], [0, 0])], [], 0)


def test_a_batch_moves_to_a_device_whole():
    encodings = [Encoding([2, 3], [0, 0])]
    moved = collate(encodings, [0], 0).to("meta")
    assert all(part.is_meta for part in moved)


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 99))
def test_an_epoch_holds_every_row_once_in_full_batches(lengths, batch_size, seed, epoch):
    batches = epoch_order(lengths, batch_size, seed, epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), batch_size)
    assert sorted(map(len, batches)) == [rest] * (rest > 0) + [batch_size] * full


@given(LENGTHS, SIZES, SEEDS)
def test_an_epoch_repeats_exactly_and_leaves_the_global_generators_alone(lengths, size, seed):
    states = random.getstate(), torch.get_rng_state()
    first = epoch_order(lengths, size, seed, 1)
    random.random()
    assert epoch_order(lengths, size, seed, 1) == first
    random.setstate(states[0])
    epoch_order(lengths, size, seed, 1)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_the_order_is_the_same_on_any_machine():
    order = epoch_order([3, 9, 4, 8, 5, 7, 6], batch_size=3, seed=7, epoch=2)
    assert order == [[1], [0, 2, 4], [6, 5, 3]]


@given(SEEDS, st.integers(0, 99))
def test_seeds_and_epochs_differ(seed, epoch):
    lengths = [2 + row % 13 for row in range(200)]
    order = epoch_order(lengths, 8, seed, epoch)
    next_epoch = epoch_order(lengths, 8, seed, epoch + 1)
    next_seed = epoch_order(lengths, 8, seed + 1, epoch)
    assert order != next_epoch
    assert order != next_seed
    assert next_epoch != next_seed  # as they would be, were seed and epoch only added up


def test_batches_come_in_random_order_with_random_neighbours():
    lengths = [2 + row % 40 for row in range(8000)]
    longest, neighbours = [], set()
    for epoch in range(2):
        batches = epoch_order(lengths, 8, seed=0, epoch=epoch)
        longest.append([lengths[rows[-1]] for rows in batches])
        neighbours.add(frozenset(next(rows for rows in batches if 0 in rows)))
    rising = sum(a < b for a, b in zip(longest[0][:-1], longest[0][1:], strict=True))
    # 999 neighbouring pairs, about 39/80 of them rising: 487, five standard deviations are 46.
    assert 441 < rising < 533
    assert longest[0] != longest[1]
    assert len(neighbours) == 2


@given(LENGTHS.filter(bool), SIZES, SEEDS)
def test_padding_lies_between_that_of_sorted_batches_and_a_bound(lengths, size, seed):
    order = epoch_order(lengths, size, seed, 0)
    padding = sum(max(lengths[r] for r in rows) - lengths[row] for rows in order for row in rows)
    # In a sorted chunk a batch starts where the one before it ended, so the spreads of its batches
    # add up to at most the spread of the chunk, and no batch pads more than size times its spread.
    chunks = -(-len(lengths) // (size * BATCHES_PER_CHUNK))
    assert padding <= chunks * size * (max(lengths) - min(lengths))
    share = padding_share(lengths, order)
    assert share == pytest.approx(padding / (padding + sum(lengths)), abs=1e-15)
    if len(lengths) % size == 0:  # otherwise the short batch can be luckier than in sorted order
        assert padding_share(lengths, sorted_order(lengths, size)) <= share


def test_the_padding_share_counts_places():
    assert padding_share([1, 3, 2, 2], [[0, 1], [2, 3]]) == pytest.approx(2 / 10, abs=1e-15)
    assert padding_share([4, 4], [[0, 1]]) == 0


@given(LENGTHS, SIZES)
def test_evaluation_goes_from_short_to_long(lengths, size):
    batches = sorted_order(lengths, size)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    assert all(len(batch) == size for batch in batches[:-1])


def test_a_batch_size_below_one_is_refused():
    for make in (lambda: epoch_order([2], 0, 0, 0), lambda: sorted_order([2], 0)):
        with pytest.raises(ValueError, match="batch size is 0"):
            make()


@pytest.mark.real
def test_sst2_is_padded_little(data_dir):
    pieces = (data_dir / "bert-base-uncased-vocab.txt").read_text().split("\n")[:-1]
    dev = read_dataset(find_split(data_dir / "sst2", "dev"), "sst2")
    encodings = Tokenizer.from_vocabulary(pieces).encode([e.first for e in dev.examples])
    lengths = [len(encoding.ids) for encoding in encodings]
    rows = list(range(len(lengths)))
    random.Random(0).shuffle(rows)
    at_random = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    share = padding_share(lengths, epoch_order(lengths, 8, seed=0, epoch=0))
    assert share < padding_share(lengths, at_random) / 5
