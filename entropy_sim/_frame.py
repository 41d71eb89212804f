"""The turning frame of a bent path: components along it and of its transverse modes, to coordinates and back.

A landscape with `frame_rows` leaves them below the stiffnesses of its `transverse_stiffness`: cosine and sine of the
angle phi of the path's outward normal in the plane of coordinates 0 and 1, and of the turn psi of the first two modes
about the tangent. With r = cos(psi) m_1 - sin(psi) m_2, component outwards, and t, along the path:

    theta_0 = cos(phi) r - sin(phi) t,   theta_1 = sin(phi) r + cos(phi) t,   theta_2 = sin(psi) m_1 + cos(psi) m_2
"""

from __future__ import annotations

from entropy_sim._compiled import inline

#: Rows of the frame.
ROWS = 4


@inline
def from_modes(values, field):  # type: ignore[no-untyped-def]
    """values (d, walkers), component along the path and those of the modes, become coordinates.

    field: what `transverse_stiffness` left; without a frame the modes are coordinates, and nothing is done."""
    d, walkers = values.shape
    if field.shape[0] == d:
        return
    if d > 2:
        for w in range(walkers):
            first, second = values[1, w], values[2, w]
            values[1, w] = field[d + 2, w] * first - field[d + 3, w] * second
            values[2, w] = field[d + 3, w] * first + field[d + 2, w] * second
    for w in range(walkers):
        along, outwards = values[0, w], values[1, w]
        values[0, w] = field[d, w] * outwards - field[d + 1, w] * along
        values[1, w] = field[d + 1, w] * outwards + field[d, w] * along


@inline
def to_modes(values, field):  # type: ignore[no-untyped-def]
    """`from_modes` undone."""
    d, walkers = values.shape
    if field.shape[0] == d:
        return
    for w in range(walkers):
        x, y = values[0, w], values[1, w]
        values[0, w] = field[d, w] * y - field[d + 1, w] * x
        values[1, w] = field[d, w] * x + field[d + 1, w] * y
    if d > 2:
        for w in range(walkers):
            outwards, up = values[1, w], values[2, w]
            values[1, w] = field[d + 2, w] * outwards + field[d + 3, w] * up
            values[2, w] = field[d + 2, w] * up - field[d + 3, w] * outwards
