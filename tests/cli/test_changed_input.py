"""What `fill-scene` does when the files of its input change between two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zarr

from stpipe.cli.main import run
from stpipe.errors import RunError
from tests.cli.test_fill_scene import SMALL, make_cube, said, snapshot, stored


def test_a_finished_run_notices_that_its_input_changed(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(path)
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL]) == 0
    group = zarr.open_group(str(path), mode="r+")
    group["ndvi"][0, :8, :8] = 1234  # type: ignore[index]
    capsys.readouterr()
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL]) == 2
    assert "files have changed since" in said(capsys)
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL, "--overwrite"]) == 0
    assert (stored(out / "filled.zarr", "ndvi")[0, :8, :8] == 1234).all()


def test_a_finished_run_notices_that_its_domain_changed(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(path)
    words = ["fill-scene", str(path), "-o", str(out), *SMALL, "--domain", "land"]
    assert run(words) == 0
    group = zarr.open_group(str(path), mode="r+")
    group["land"][:32] = 1  # type: ignore[index]
    capsys.readouterr()
    assert run(words) == 2
    assert "files have changed since" in said(capsys)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="pyramid"),
        pytest.param(["--method", "pconv", "--no-tune"], id="pconv", marks=pytest.mark.integration),
    ],
)
def test_what_was_filled_before_its_input_changed_is_made_again(
    options: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, fresh = tmp_path / "cube.zarr", tmp_path / "out", tmp_path / "fresh"
    make_cube(path)
    words = ["fill-scene", str(path), "--method", "pyramid", "--workers", "1", *options]

    def stops(*_: Any) -> None:
        raise RunError("no more disk")

    with monkeypatch.context() as patch:
        patch.setattr("stpipe.cli.scene_run._quicklook", stops)  # the filled cube and its GeoTIFFs have their names
        assert run([*words, "-o", str(out)]) == 1
    assert (out / "filled.zarr" / "zarr.json").exists()
    group = zarr.open_group(str(path), mode="r+")
    group["ndvi"][0, :8, :8] = 1234  # type: ignore[index]
    capsys.readouterr()
    assert run([*words, "-o", str(out)]) == 0
    assert "the cube's files have changed since it was filled" in capsys.readouterr().err
    assert run([*words, "-o", str(fresh)]) == 0
    for place in ("filled.zarr", "geotiff"):
        assert snapshot(out / place) == snapshot(fresh / place)
    states = [json.loads((folder / "run.json").read_text())["input_state"] for folder in (out, fresh)]
    assert states[0] == states[1]
