"""A user's own Python file as part of a configuration: its path, its text and the SHA-256 of the text.

A configuration that is read back runs the text it holds if the file is gone: it is a program. A file that is there but
is no longer the same is refused.
"""

from __future__ import annotations

import hashlib
import linecache
from pathlib import Path
from typing import Any

from entropy_sim.errors import UserError


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def settle(option: str, file: str, known: str, text: str) -> tuple[str, str]:
    """SHA-256 and text of `file`: as it is now, or, where it is gone, as a configuration kept it.

    known: the SHA-256 that a configuration names, or "" to take the file as it is. Raises UserError, naming the
    option, for a file that cannot be read or that is not the one of the configuration.
    """
    path = Path(named(file, "")[0])
    if path.is_file():
        try:
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{option}: expected a readable Python file, found {path} ({error})") from error
        if known not in ("", sha256(found)):
            raise UserError(
                f"{option}: expected {path} as the configuration knows it (SHA-256 {known[:12]}…), found it changed "
                f"({sha256(found)[:12]}…); without --config it is taken as it is now, and moved away, as it was then"
            )
        return sha256(found), found
    if not text:
        raise UserError(f"{option}: expected a Python file, found no file {path}")
    if known not in ("", sha256(text)):
        raise UserError(f"{option}: expected the text of SHA-256 {known[:12]}… for {path}, found {sha256(text)[:12]}…")
    return sha256(text), text


def named(file: str, default: str) -> tuple[str, str]:
    """`path.py:name` as (path, name), and `path.py` as (path, default)."""
    path, colon, name = file.rpartition(":")
    return (path, name) if colon and name.isidentifier() else (file, default)


def execute(option: str, file: str, text: str) -> dict[str, Any]:
    """What the text of `file` (which need not exist any more) defines. Raises UserError, on one line, if that fails."""
    name = str(Path(file))
    # Tracebacks, and numba's messages, quote the text that is run, not what the file may hold by now.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    found: dict[str, Any] = {"__name__": "entropic_user_file", "__file__": name}
    try:
        exec(compile(text, name, "exec"), found)
    except SyntaxError as error:
        message = f"expected Python in {file}, found a syntax error in line {error.lineno}: {error.msg}"
        raise one_line(option, message) from None
    except Exception as error:
        message = f"expected {file} to load, found {type(error).__name__}{line_of(error, file)}: {error}"
        raise one_line(option, message) from error
    return found


def one_line(option: str, message: str) -> UserError:
    """The error of an option, without line breaks."""
    return UserError(" ".join(f"{option}: {message}".split()))


def line_of(error: BaseException, file: str) -> str:
    """ " in line N", the innermost line of `file` in the error's traceback, or nothing."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(Path(file)):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" in line {line}" if line else ""
