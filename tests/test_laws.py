"""Every formula of the book is proven five ways; every known mistake is rejected.

`pytest tests/test_laws.py -k softmax` proves one formula. That the proofs are complete is tested in
`test_proofs.py`.
"""

import math

import pytest
from hypothesis import given
from proof import assert_holds, drawn, fewer

from minibert.laws import proofs

PROOFS = list(proofs())
LAWS = [
    pytest.param(proof, law, id=f"{proof.name}-{law.name}")
    for proof in PROOFS
    for law in proof.laws.values()
]
MISTAKES = [
    pytest.param(proof, mistake, id=f"{proof.name}-{mistake.name}")
    for proof in PROOFS
    for mistake in proof.mistakes.values()
]
CASES_TO_FAIL, LEAST_FAILURES = 25, 3  # a mistake has to show so often, or a seed may miss it


@pytest.mark.parametrize(("proof", "law"), LAWS)
def test_law(proof, law):
    @fewer(law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, proof.formula, case)

    holds()


@pytest.mark.parametrize(("proof", "mistake"), MISTAKES)
def test_mistake_is_rejected(proof, mistake):
    """By each law that is named beside it, through its numbers: an exception would prove less."""
    for name in mistake.laws:
        law, failures = proof.laws[name], 0
        for case in proof.tried(law, CASES_TO_FAIL * law.cost):
            error, bound = law.check(mistake.wrong, case)
            failures += not error <= bound and (mistake.nan or math.isfinite(error))
            if failures == LEAST_FAILURES:
                break
        assert failures == LEAST_FAILURES, f"{name} rejects it in {failures} cases"
