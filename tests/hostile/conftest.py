"""The check that whatever is wrong comes out as one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stpipe.cli.main import run


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs a command line, checks that it was refused on one line, and gives that line."""

    def check(*words: str | Path, code: int = 2) -> str:
        capfd.readouterr()
        found = run([str(word) for word in words])
        said = capfd.readouterr().err
        *before, error = said.removesuffix("\n").split("\n")
        assert all(line.startswith(("stpipe: warning: ", "stpipe: note: ")) for line in before), said
        assert error.startswith("stpipe: error: "), said
        assert all(line.isprintable() for line in (*before, error)), said
        assert "Traceback" not in said
        assert "internal error" not in said, said
        assert found == code, said
        return error

    return check
