"""Stationary densities and currents: the quick form of the claim, each wrong formula rejected."""

import pytest

from benchmarks.physics import stationary_density


def test_density_of_noise_proportional_to_the_curvature_is_the_oracles():
    row = stationary_density.moment(0.1, 1.0, quick=True)
    assert abs(row.z) < 4
    assert abs(row.z_rejected) > 5  # the adiabatic form


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_current_flows_only_without_detailed_balance(alpha):
    row = stationary_density.current(alpha, quick=True)
    assert abs(row.z) < 4
    assert alpha == 0.0 or abs(row.z_rejected) > 5
