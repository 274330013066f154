"""Ctrl-C and SIGTERM end each long verb with a line that says what is left, and exit code 1."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.main import run
from tests.cli.test_fill_scene import make_cube
from tests.io.ingest_sources import raster

KEPT = "stpipe: error: interrupted; what is done is kept: run the same command again to go on from here\n"
ANEW = "stpipe: error: interrupted; run the same command again to begin anew\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("verb", "where", "line"),
    [
        ("ingest", "stpipe.io.ingest.write._fill", ANEW),
        ("mosaic", "stpipe.io.mosaic.write_frames", KEPT),
        ("gaps", "stpipe.io.gaps.run.run_gaps", ANEW),
    ],
)
def test_an_interrupted_verb_says_how_to_go_on(
    verb: str, where: str, line: str, number: int, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(cube)
    raster(tmp_path / "tifs" / "v_2024-01-01.tif")
    source = tmp_path / "tifs" if verb == "ingest" else cube

    def told_to_end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)

    capsys.readouterr()
    # Processes of a test run in parallel ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(where, told_to_end)
        assert run([verb, str(source), "-o", str(out), *(["--var", "ndvi"] if verb != "ingest" else [])]) == 1
    signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith(line)
    assert run([verb, str(source), "-o", str(out), *(["--var", "ndvi"] if verb != "ingest" else [])]) == 0


def test_a_folder_that_may_not_be_looked_at_is_refused(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = tmp_path / "cube.zarr"
    make_cube(cube)
    exists = Path.exists

    def forbidden(path: Path) -> bool:
        if path.parent == cube:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    capsys.readouterr()
    monkeypatch.setattr(Path, "exists", forbidden)
    assert run(["info", str(cube)]) == 2
    assert "can't be looked at: Permission denied" in capsys.readouterr().err
