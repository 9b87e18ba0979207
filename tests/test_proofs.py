"""The proofs are complete: every function has every layer, and every law can fail."""

import importlib
import inspect
import re

import pytest
from test_book import BOOK

from minibert.laws import proofs
from minibert.laws.law import LAYERS

PROOFS = list(proofs())


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_every_law_rejects_a_mistake(proof):
    """A law that nothing can break says nothing."""
    broken = {name for mistake in proof.mistakes.values() for name in mistake.laws}
    assert set(proof.laws) - broken == set()


def public_functions() -> dict[str, object]:
    found = {}
    for name in BOOK:
        module = importlib.import_module(f"minibert.{name}")
        for key, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__
            if inspect.isfunction(value) and own and not key.startswith("_"):
                found[f"{name}.{key}"] = value
    return found


@pytest.mark.parametrize("name", public_functions())
def test_every_function_of_the_book_has_every_layer(name):
    """Or a written reason why a layer has no meaning for it."""
    function = public_functions()[name]
    about = [proof for proof in PROOFS if function in proof.of]
    assert about, f"{name} has no proof"
    there = {law.layer for proof in about for law in proof.laws.values()}
    excused = {layer: reason for proof in about for layer, reason in proof.without.items()}
    for layer in LAYERS:
        assert layer in there or excused.get(layer), f"{name} lacks the layer {layer}"
        assert not (layer in there and layer in excused), f"{name} has an excuse for {layer}"
    assert all(len(reason.split()) > 3 for reason in excused.values()), f"{name}: say why"


def test_names_of_proofs_and_mistakes_are_unambiguous():
    names = [proof.name for proof in PROOFS]
    assert len(names) == len(set(names))
    for proof in PROOFS:
        for name in proof.mistakes:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), f"{proof.name}: {name!r} is no name"
