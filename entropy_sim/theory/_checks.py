"""Checks of arguments, shared by the closed forms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from entropy_sim.errors import UserError, require

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike


def sum_modes(modes: Floats) -> Floats:
    """Sum over the last axis; a lone number is one mode."""
    return np.sum(np.atleast_1d(modes), axis=-1)


def checked(option: str, value: Values, expected: str, good: np.ufunc | None) -> Floats:
    found = np.asarray(value, dtype=np.float64)
    ok = np.isfinite(found) if good is None else np.isfinite(found) & good(found, 0.0)
    if not np.all(ok):
        raise UserError(f"{option}: expected {expected}, found {float(found[~ok].flat[0]):g}")
    return found


def finite(option: str, value: Values) -> Floats:
    return checked(option, value, "a finite number", None)


def positive(option: str, value: Values) -> Floats:
    return checked(option, value, "a number > 0", np.greater)


def not_negative(option: str, value: Values) -> Floats:
    return checked(option, value, "a number >= 0", np.greater_equal)


def positive_curvature(value: Values) -> Floats:
    return checked("curvature", value, "a curvature k > 0", np.greater)


def noise_variance(value: Values, option: str = "noise") -> Floats:
    return not_negative(option, value)


def checked_momentum(value: Values) -> Floats:
    beta = not_negative("momentum", value)
    require(bool(np.all(beta < 1.0)), "momentum", "0 <= beta < 1", float(np.max(beta, initial=0.0)))
    return beta


def require_stable(option: str, rate: Values, curvature: Floats, momentum: Values, faster: Values = 1.0) -> None:
    """Raise UserError naming the limit unless rate · k < 2 (1 + beta) / faster everywhere."""
    rate, limit = np.asarray(rate), 2.0 * (1.0 + np.asarray(momentum)) / np.asarray(faster)
    bad = ~(rate * curvature < limit)
    if np.any(bad):
        r, k, l = (float(np.broadcast_to(a, bad.shape)[bad].flat[0]) for a in (rate, curvature, limit))
        raise UserError(f"{option}: expected less than {l / k:g}, the stability limit at curvature {k:g}, found {r:g}")
