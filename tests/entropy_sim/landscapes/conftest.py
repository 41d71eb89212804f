"""Curved channels, for all that has to hold on each."""

import pytest

from entropy_sim.landscapes import Barrier, Bump, CurvedChannel, DoubleWell, Exponential

TWISTED = CurvedChannel(Exponential(1.0, 5.0), Barrier(0.3), 2, (1.0, 4.0), 1.3, 90.0, 0.7, 0.1)


@pytest.fixture
def twisted():
    """An arc between mirrors."""
    return TWISTED


@pytest.fixture(
    params=[
        pytest.param(CurvedChannel(), id="plane"),
        pytest.param(TWISTED, id="twisted-arc"),
        pytest.param(
            CurvedChannel(Bump(), Barrier(0.3), 4, (1.0, 4.0, 2.0, 3.0), 1.3, 360.0, 1.5, 0.1), id="closed-5d"
        ),
        pytest.param(
            CurvedChannel(transverse_directions=2, angle=180.0, twist=0.3, profiles=(Bump(), DoubleWell())),
            id="own-profiles",
        ),
    ]
)
def bent(request):
    """A curved channel in two, three or five dimensions."""
    return request.param
