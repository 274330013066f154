from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stpipe.cli.main import run
from stpipe.errors import OutputError
from stpipe.io.run_folder import finished_run
from stpipe.report.page import MARK, page_of_run
from tests.cli.test_mosaic import write_cube
from tests.report.test_page import read

pytest.importorskip("rioxarray")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("report")
    cube = write_cube(folder / "cube.zarr")
    with xr.open_zarr(cube, mask_and_scale=False, consolidated=False) as opened:
        changed = opened.load()
    changed["ndvi"].values[1, 10:50, 10:40] = -9999
    changed["ndvi"].values[0, :20] = -9999
    shutil.rmtree(cube)
    changed.to_zarr(cube, zarr_format=3, consolidated=False)
    assert run(["fill-scene", str(cube), "--method", "linear", "--workers", "1"]) == 0
    return folder / "cube.filled"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "cube.filled"))


def test_fill_scene_leaves_a_report_and_items(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    words = " ".join(read(text).text)
    assert "cube.zarr, filled by linear" in words
    report = json.loads((finished / "run.json").read_text())
    assert report["command"][:2] == ["stpipe", "fill-scene"]
    assert f"stpipe fill-scene {finished.parent / 'cube.zarr'} --method linear" in words
    assert report["finished"] in words
    assert report["run_id"] in words
    listed = [product["path"] for product in report["products"]]
    assert "items.json" in listed
    assert "report.html" not in listed  # it is drawn of the others, and holds seconds
    items = json.loads((finished / "items.json").read_text())["features"]
    files = {asset["href"].removeprefix("./") for item in items for asset in item["assets"].values()}
    assert files == {name for name in listed if name.startswith("geotiff/")}


def test_items_make_the_filled_cube_again(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("odc.stac")
    back = tmp_path / "back.zarr"
    assert run(["ingest", str(finished / "items.json"), "-o", str(back)]) == 0
    with (
        xr.open_zarr(finished / "filled.zarr", mask_and_scale=False) as filled,
        xr.open_zarr(back, mask_and_scale=False) as made,
    ):
        np.testing.assert_array_equal(made["time"], filled["time"])
        for name in ("ndvi", "ndvi_source"):
            values = made[name].sortby("y").values
            np.testing.assert_array_equal(values, filled[name].sortby("y").values)
            assert values.dtype == filled[name].dtype


def test_items_of_stacks_are_no_scenes(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their bands are dates, and not variables."""
    pytest.importorskip("odc.stac")
    cube, folder = str(finished.parent / "cube.zarr"), tmp_path / "cube.filled"
    words = ["--method", "linear", "--workers", "1", "--layout", "stack"]
    assert run(["fill-scene", cube, "-o", str(folder), *words]) == 0
    said = refused(["ingest", str(folder / "items.json"), "-o", str(tmp_path / "back.zarr")], capsys)
    assert "holds a band for each date" in said
    assert not (tmp_path / "back.zarr").exists()


def test_the_same_page_is_drawn_again(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    assert run(["report", str(copy)]) == 0
    assert (copy / "report.html").read_bytes() == before
    assert "report.html: " in capsys.readouterr().out
    assert not [path for path in copy.iterdir() if "partial" in path.name]


def test_json_says_what_was_written(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "page.html"
    assert run(["report", str(copy), "-o", str(place), "--var", "ndvi", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"folder": str(copy), "report": str(place), "bytes": place.stat().st_size}


def test_the_folder_of_a_named_run_will_do(copy: Path, tmp_path: Path) -> None:
    named = tmp_path / "ndvi.run"
    named.mkdir()
    copy.rename(named / "filled")
    (named / "filled" / "report.html").unlink()
    assert run(["report", str(named)]) == 0
    assert (named / "filled" / "report.html").is_file()


def test_a_report_of_an_older_run_says_what_it_can(copy: Path) -> None:
    told = json.loads((copy / "run.json").read_text())
    told["products"][0]["path"] = "caf\udce9.zarr"  # as Python has what is not UTF-8
    short = {key: told[key] for key in ("run_id", "counts", "products")}
    (copy / "run.json").write_text(json.dumps(short))
    assert run(["report", str(copy)]) == 0
    read((copy / "report.html").read_text())


def test_a_finished_run_needs_no_report(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "report.html").unlink()
    cube = json.loads((copy / "run.json").read_text())["input"]
    assert run(["fill-scene", cube, "-o", str(copy), "--method", "linear", "--workers", "1"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def refused(words: list[str], capsys: Any) -> str:
    capsys.readouterr()
    assert run(words) == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SAID = ["counts", "products", "method", "stages", "blocks", "notes", "learned", "identity", "guides", "versions"]


@given(key=st.sampled_from(SAID), value=st.sampled_from([None, [], {}, "words", 3, {"ndvi": None}, {"a": 1}, [None]]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_run_says_gives_a_page_or_a_line(copy: Path, key: str, value: Any) -> None:
    file = copy / "run.json"
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), key: value}))
    try:
        read(page_of_run(*finished_run(copy)).decode())
    except OutputError as error:
        assert "holds no run: its run.json is damaged" in str(error)  # noqa: PT017 - or a page
        assert value is not None or key in {"counts", "products"}
    finally:
        file.write_text(whole)


def test_a_page_that_cannot_be_drawn_stops_no_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stpipe.report import page

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no ink")

    with monkeypatch.context() as broken:
        broken.setattr(page, "sample", fail)
        cube, folder = str(finished.parent / "cube.zarr"), tmp_path / "cube.filled"
        assert run(["fill-scene", cube, "-o", str(folder), "--method", "linear", "--workers", "1"]) == 0
    assert f"report.html could not be drawn (ValueError: no ink); stpipe report {folder}" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    assert run(["report", str(folder)]) == 0
    assert "no ink" not in (folder / "report.html").read_text()


def test_wrong_input_is_refused_in_a_line(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    unfinished = Path(shutil.copytree(copy, tmp_path / "unfinished"))
    (unfinished / "run.json").unlink()
    (unfinished / "work").mkdir()
    (unfinished / "work" / "plan.json").write_text("{}")
    damaged = Path(shutil.copytree(copy, tmp_path / "damaged"))
    (damaged / "run.json").write_text("{")
    lost = Path(shutil.copytree(copy, tmp_path / "lost"))
    shutil.rmtree(lost / "filled.zarr")
    short = Path(shutil.copytree(copy, tmp_path / "short"))
    shutil.rmtree(short / "filled.zarr" / "ndvi_source")
    (tmp_path / "folder.html").mkdir()
    before = contents(tmp_path)
    for words, said in (
        ([str(tmp_path / "nowhere")], "there is no folder"),
        ([str(tmp_path / "file")], "there is no folder"),
        ([str(tmp_path / "empty")], "it has no run.json"),
        ([str(copy / "filled.zarr")], "it has no run.json"),
        ([str(unfinished)], "is not finished; run its fill-scene command again"),
        ([str(damaged)], "its run.json is damaged"),
        ([str(lost)], "has lost its filled.zarr"),
        ([str(copy), "--var", "evi"], "the run has no variable 'evi'; it has ndvi"),
        ([str(copy), "-o", str(tmp_path / "page.pdf")], "ends with .html"),
        ([str(copy), "-o", str(tmp_path / "no" / "page.html")], "there is no folder"),
        ([str(copy), "-o", str(copy / "geotiff" / "page.html")], "holds nothing but products"),
        ([str(copy), "-o", str(copy / "filled.zarr" / "report.html")], "holds nothing but products"),
        ([str(copy), "-o", str(tmp_path / "folder.html"), "--overwrite"], "is a folder"),
        ([str(short)], "filled.zarr has no variable 'ndvi_source'"),
        ([str(copy), "-o", "s3://bucket/page.html"], "takes a path of this machine"),
        ([str(copy), "-o", str(tmp_path / "mine.html")], "is there and is no report"),
    ):
        assert said in refused(["report", *words], capsys), words
    assert contents(tmp_path) == before
    assert run(["report", str(copy), "-o", str(tmp_path / "mine.html"), "--overwrite"]) == 0
    assert MARK in (tmp_path / "mine.html").read_text()
    assert run(["report", str(copy), "-o", str(tmp_path / "mine.html")]) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_is_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    assert "no right to write" in refused(["report", str(copy), "-o", str(place / "page.html")], capsys)
