"""The one kind of error a user can cause: the command line prints it on one line and exits with status 2."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used; the message names the option, what was expected and what was found."""


def require(condition: bool, option: str, expected: str, found: object) -> None:
    """Raise `UserError` "option: expected ..., found ..." unless `condition` holds."""
    if not condition:
        raise UserError(f"{option}: expected {expected}, found {found!r}")
