"""A user's file: its text, its SHA-256, and what stands in for it."""

from __future__ import annotations

import pytest

from entropy_sim import user_file
from entropy_sim.errors import UserError


def test_the_text_stands_in_for_a_file_that_is_gone_but_not_for_a_changed_one(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("a = 1\n")
    digest, text = user_file.settle("landscape.file", str(file), "", "")
    assert (digest, text) == (user_file.sha256("a = 1\n"), "a = 1\n")
    assert user_file.settle("landscape.file", f"{file}:name", digest, "") == (digest, text)
    file.write_text("a = 2\n")
    with pytest.raises(UserError, match=r"landscape\.file: expected .* as the configuration knows it .* changed"):
        user_file.settle("landscape.file", str(file), digest, text)
    file.unlink()
    assert user_file.settle("landscape.file", str(file), digest, text) == (digest, text)
    with pytest.raises(UserError, match=r"expected the text of SHA-256"):
        user_file.settle("landscape.file", str(file), digest, "a = 3\n")
    with pytest.raises(UserError, match=r"expected a Python file, found no file"):
        user_file.settle("landscape.file", str(file), "", "")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"expected a readable Python file"):
        user_file.settle("landscape.file", str(file), "", "")


def test_a_name_after_the_file():
    assert user_file.named("a/my.py:shape", "value") == ("a/my.py", "shape")
    assert user_file.named("a/my.py", "value") == ("a/my.py", "value")
