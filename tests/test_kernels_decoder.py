"""The fast decoder keeps every law of the book's, in both arithmetics."""

from typing import Any

import pytest
from hypothesis import given
from proof import assert_holds, drawn, fewer

from minibert.decoder import DecoderWeights
from minibert.kernels import decoder as kernels
from minibert.kernels import products
from minibert.kernels.products import arithmetic
from minibert.laws import decoder as laws


@pytest.fixture(params=["torch", "onednn"])
def way(request, monkeypatch):
    """With oneDNN every product of float32, however small."""
    monkeypatch.setattr(products, "SMALL", 0)
    with arithmetic(request.param):
        yield request.param


def decode_prepared(ids, memory, weights: DecoderWeights, config, generator=None) -> Any:
    return kernels.decode(ids, memory, kernels.prepared(weights), config, generator)


def memory_prepared(encoded, keep, weights: DecoderWeights, config) -> Any:
    return kernels.empty_memory(encoded, keep, kernels.prepared(weights), config)


RUNS = [
    (laws.EMPTY_MEMORY, kernels.empty_memory),
    (laws.EMPTY_MEMORY, memory_prepared),
    (laws.DECODE, kernels.decode),
    (laws.DECODE, decode_prepared),
]


@pytest.mark.parametrize(
    ("law", "formula"),
    [
        pytest.param(law, formula, id=f"{formula.__name__}-{law.name}")
        for proof, formula in RUNS
        for law in proof.laws.values()
        if not (law.layer == "gradient" and formula in (decode_prepared, memory_prepared))
    ],
)
def test_every_law_of_the_book_holds(law, formula, way):
    @fewer(4 * law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, formula, case)

    holds()

