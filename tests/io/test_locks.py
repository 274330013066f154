"""One process at a time, and the next one when it has ended."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stpipe.errors import OutputError
from stpipe.io import locks

HOLDER = """
import sys, time
from pathlib import Path
from stpipe.io.locks import held
with held(Path(sys.argv[1]), work="writing c.zarr"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputError, match=r"^another process is writing c\.zarr; wait for it or end it$"),
            locks.held(place, work="writing c.zarr"),
        ):
            pytest.fail("two are at work")
        other.kill()
    with locks.held(place, work="writing c.zarr"):
        assert place.exists()


@pytest.mark.parametrize("followed", [False, True], ids=["nothing", "another's lock"])
def test_a_lock_that_was_taken_away_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, followed: bool) -> None:
    place = tmp_path / "lock"
    flock = fcntl.flock

    def late(file: Any, flags: int) -> None:
        place.rename(tmp_path / "gone")  # as the other process does that has just ended
        if followed:
            place.touch()
        flock(file, flags)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with (
        pytest.raises(OutputError, match=r"was writing c\.zarr has just ended; run the same command again$"),
        locks.held(place, work="writing c.zarr"),
    ):
        pytest.fail("two are at work")


def test_a_folder_that_was_taken_away_has_no_lock(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="has just ended; run the same command again"),
        locks.held(tmp_path / "gone" / "lock", work="writing c.zarr"),
    ):
        pytest.fail("there is no folder")


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="lock can't be written: Is a directory; choose another folder"),
        locks.held(_made(tmp_path / "lock"), work="writing c.zarr"),
    ):
        pytest.fail("it is a folder")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
