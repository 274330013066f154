"""Ctrl-C and SIGTERM end each long verb with a line that says what is left, and exit code 1."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.main import run
from tests.cli.test_fill_scene import make_cube
from tests.io.ingest_sources import raster

KEPT = "stpipe: error: interrupted; what is done is kept: run the same command again to go on from here\n"
ANEW = "stpipe: error: interrupted; run the same command again to begin anew\n"


@pytest.fixture(autouse=True)
def hears_of_ctrl_c() -> Iterator[None]:
    """Processes of tests that run in parallel ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
    with monkeypatch.context() as patch:
        patch.setattr(where, told_to_end)
        assert run([verb, str(source), "-o", str(out), *(["--var", "ndvi"] if verb != "ingest" else [])]) == 1
    assert capsys.readouterr().err.endswith(line)
    assert run([verb, str(source), "-o", str(out), *(["--var", "ndvi"] if verb != "ingest" else [])]) == 0
