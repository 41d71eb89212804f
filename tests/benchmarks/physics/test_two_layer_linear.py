"""The claims about u w x hold in their quick form, and each named wrong formula is rejected."""

import pytest

from benchmarks.physics import two_layer_linear


@pytest.mark.parametrize("part", [two_layer_linear.first_step, two_layer_linear.drift], ids=lambda part: part.__name__)
def test_the_claim_holds_and_the_wrong_formula_does_not(part):
    found = part(quick=True)
    for row in found if isinstance(found, list) else [found]:
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()


def test_balance_relaxes_at_the_predicted_rate_and_no_walker_crosses():
    relaxed, crossed = two_layer_linear.relaxation(quick=True)
    assert abs(relaxed.z) < 4, relaxed.line()
    assert abs(relaxed.z_rejected) > 5, relaxed.line()
    assert crossed.measured == 0


def test_what_is_exact_is_exact():
    assert two_layer_linear.law_of_balance(quick=True).measured < 1e-14
    assert two_layer_linear.no_drift(quick=True).measured < 1e-12
