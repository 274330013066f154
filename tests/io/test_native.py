"""Lines that a library writes by itself are held back, and no others."""

from __future__ import annotations

import os

import pytest

from stpipe.io.native import tiff_complaints_held


def test_only_complaints_of_the_library_are_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    with pytest.raises(OSError, match="full"), tiff_complaints_held():  # noqa: PT012
        os.write(2, b"_tiffSeekProc: No space left on device.\n")
        os.write(2, b"stpipe: a line of ours\n")
        os.write(2, b"_tiffWriteProc: No space left on device.\n")
        raise OSError("full")
    os.write(2, b"_tiffSeekProc: afterwards\n")
    assert capfd.readouterr().err == "before\nstpipe: a line of ours\n_tiffSeekProc: afterwards\n"
