"""The claims about curved paths hold in their quick form, and each named wrong formula is rejected."""

import pytest

from benchmarks.physics import curved_path

PARTS = (curved_path.annulus, curved_path.density, curved_path.free_drift, curved_path.rotating_frame)


@pytest.mark.parametrize("part", [*PARTS, curved_path.circulation], ids=lambda part: part.__name__)
def test_the_claim_holds_and_the_wrong_formula_does_not(part):
    found = part(quick=True)
    for row in found if isinstance(found, list) else [found]:
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()


def test_the_two_averages_of_the_annulus_are_five_per_cent_apart():
    rigid, curved = curved_path.annulus(quick=True)
    assert rigid.measured / curved.measured == pytest.approx(1.05, abs=0.01)
