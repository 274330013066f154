"""Output folders that others had a hand in: nothing is written, cut short or removed through a link."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.main import run
from stpipe.cli.scene_plan import FillOptions, prepare
from stpipe.cli.scene_run import make_stores
from stpipe.errors import OutputError
from stpipe.io.run_folder import State
from stpipe.io.training_output import TrainingOutput

from .doors import QUICK, snapshot, tiny_cube


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    return tiny_cube(tmp_path / "cube.zarr")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Make a folder that is nobody's business, with a folder and a file in it."""
    folder = tmp_path / "victim"
    (folder / "inside").mkdir(parents=True)
    (folder / "precious").write_text("years of work")
    (folder / "inside" / "precious.partial").write_text("more of it")
    return folder


def begun(cube: Path, output: Path) -> Path:
    """Leave what a run leaves that was killed right after its start."""
    prepared = prepare(FillOptions(cube=cube, output=output, method="linear", workers=1))
    with prepared.folder.locked():
        make_stores(prepared)
    return output


def fill(cube: Path, output: Path, *more: str) -> tuple[str | Path, ...]:
    return ("fill-scene", cube, *QUICK, "-o", output, *more)


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rename(place.with_name(f"{place.name}.away"))
    place.symlink_to(target)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("fill-scene", "link"),
        *((verb, kind) for verb in ("gaps", "ingest") for kind in ("link", "pipe", "broken link", "folder")),
    ],
)
def test_a_lock_that_is_no_file_of_ours_is_neither_cut_short_nor_waited_for(
    verb: str, kind: str, cube: Path, victim: Path, tmp_path: Path, refused: Any
) -> None:
    out = tmp_path / ".out.partial" if verb == "ingest" else tmp_path / "out" / "work"
    out.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(out / "lock")
    elif kind == "folder":
        (out / "lock").mkdir()
    else:
        (out / "lock").symlink_to(victim / ("precious" if kind == "link" else "new"))
    before = snapshot(victim)
    assert "lock" in refused(verb, cube, *(QUICK if verb == "fill-scene" else ()), "-o", tmp_path / "out")
    assert snapshot(victim) == before


@pytest.mark.parametrize(
    "place",
    ["geotiff", "work/blocks.zarr", "work/filled.zarr", "work/filled.zarr/ndvi", "work/records/fill", "work/learned"],
)
def test_a_run_is_not_gone_on_with_through_a_link(
    place: str, cube: Path, victim: Path, tmp_path: Path, refused: Any
) -> None:
    out = begun(cube, tmp_path / "out")
    link(out / place, victim)
    if place.startswith("work/") and place.count("/") == 1 and (out / f"{place}.away").exists():
        (out / f"{place}.away").rename(tmp_path / "away")
    before = snapshot(victim)
    assert f"{out / place} is a link" in refused(*fill(cube, out))
    assert snapshot(victim) == before


def test_a_work_folder_that_is_a_link_is_somebody_elses(cube: Path, victim: Path, tmp_path: Path, refused: Any) -> None:
    link(tmp_path / "out" / "work", victim)
    before = snapshot(victim)
    for more in ((), ("--overwrite",)):
        assert "holds something else" in refused(*fill(cube, tmp_path / "out", *more))
        assert "holds something else" in refused("gaps", cube, "-o", tmp_path / "out", *more)
    assert snapshot(victim) == before


def test_what_is_overwritten_is_removed_and_not_what_links_in_it_lead_to(
    cube: Path, victim: Path, tmp_path: Path
) -> None:
    out = begun(cube, tmp_path / "out")
    link(out / "geotiff", victim)
    link(out / "work" / "overviews.zarr" / "deep" / "down", victim)
    (out / "quicklook.png").symlink_to(victim / "precious")
    before = snapshot(victim)
    prepared = prepare(FillOptions(cube=cube, output=out, method="linear", workers=1, overwrite=True))
    state = prepared.folder.state(
        prepared.plan.run_id, prepared.plan.identity, prepared.input_state, resume=False, overwrite=True
    )
    assert state is State.NEW
    make_stores(prepared)
    assert not (out / "geotiff").exists()
    prepared.folder.remove_work()
    assert snapshot(victim) == before


def test_statistics_name_nothing_outside_their_folder_to_be_removed(
    cube: Path, victim: Path, tmp_path: Path, refused: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = snapshot(victim)
    for name in ("../victim", str(victim), "..", ".", "", "../victim/precious", 5, None, ["a"], "notes.txt"):
        (out / "gaps.json").write_text(json.dumps({"gap_statistics": {"products": [name]}}))
        assert "holds something else (gaps.json)" in refused("gaps", cube, "-o", out, "--overwrite")
    assert snapshot(victim) == before


def test_ingest_neither_writes_nor_clears_through_links(cube: Path, victim: Path, tmp_path: Path, refused: Any) -> None:
    before = snapshot(victim)
    link(tmp_path / ".out.zarr.partial", victim)
    assert "is a link" in refused("ingest", cube, "-o", tmp_path / "out.zarr")
    (tmp_path / ".out.zarr.partial").unlink()
    assert run(["ingest", str(cube), "-o", str(tmp_path / "elsewhere" / "out.zarr")]) == 2
    assert run(["ingest", str(cube), "-o", str(victim / "out.zarr")]) == 0
    kept = snapshot(victim)
    link(tmp_path / "out.zarr", victim / "out.zarr")
    link(tmp_path / ".out.zarr.old", victim)
    assert run(["ingest", str(cube), "-o", str(tmp_path / "out.zarr"), "--overwrite"]) == 0
    assert not (tmp_path / "out.zarr").is_symlink()
    assert snapshot(victim) == kept
    assert kept.items() >= before.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.zarr", "out.zarr", "victim"]


def test_a_mosaic_is_not_written_through_a_link(cube: Path, victim: Path, tmp_path: Path, refused: Any) -> None:
    link(tmp_path / "out" / "ndvi", victim)
    before = snapshot(victim)
    for more in ((), ("--overwrite",)):
        assert "is a link" in refused("mosaic", cube, "-o", tmp_path / "out", *more)
    assert snapshot(victim) == before


@pytest.mark.parametrize("verb", ["fill-scene", "gaps", "mosaic", "ingest", "blocks export", "run"])
def test_an_output_that_is_a_link_to_nowhere_is_refused(verb: str, cube: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone" / "away")
    words: tuple[Any, ...] = (*verb.split(), cube)
    if verb == "fill-scene":
        words += QUICK
    if verb == "run":
        (tmp_path / "page.yaml").write_text(f"gaps:\n  cube: {cube}\n")
        words = ("run", tmp_path / "page.yaml")
    refused(*words, "-o", tmp_path / "out")
    assert not (tmp_path / "gone").exists()


def test_a_training_takes_nothing_behind_links_for_its_own(victim: Path, tmp_path: Path) -> None:
    output = TrainingOutput(tmp_path / "mine.keras")
    output.work.mkdir()
    (output.work / "checkpoint.npz").symlink_to(victim / "precious")
    with pytest.raises(OutputError, match=r"holds something else \(checkpoint.npz\)"):
        output.check_place(overwrite=True)


REPORTS = (
    "[]", "null", "5", '"run"', "{", "[" * 100_000, '{"run_id": 5, "products": []}', '{"run_id": "a", "products": 5}',
    '{"run_id": "a", "products": [5]}', '{"run_id": "a", "products": [{}]}', '{"run_id": "a", "products": {"a": 1}}',
)  # fmt: skip


@pytest.mark.parametrize("text", REPORTS, ids=range(len(REPORTS)))
def test_a_report_that_is_none_is_somebody_elses_file(text: str, cube: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    for more in ((), ("--overwrite",)):
        assert "holds something else (run.json)" in refused(*fill(cube, tmp_path / "out", *more))
    assert (tmp_path / "out" / "run.json").read_text() == text


@pytest.mark.parametrize(
    "identity",
    [None, 5, [], {"a": 1}, json.loads('{"a":' * 400 + "1" + "}" * 400)],
    ids=["none", "5", "[]", "a", "deep"],
)
def test_a_run_of_whatever_kind_is_told_from_this_one(identity: Any, cube: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "out").mkdir()
    report = {"run_id": "another", "products": [], "identity": identity}
    (tmp_path / "out" / "run.json").write_text(json.dumps(report))
    assert "a finished run of another kind" in refused(*fill(cube, tmp_path / "out"))


def test_a_pipe_in_place_of_a_report_is_not_waited_for(cube: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "out").mkdir()
    for name in ("run.json", "gaps.json"):
        os.mkfifo(tmp_path / "out" / name)
    assert "holds something else" in refused(*fill(cube, tmp_path / "out"))
    assert "holds something else" in refused("gaps", cube, "-o", tmp_path / "out")


@pytest.mark.parametrize("text", ["[]", '{"stages": []}', '{"stages": {"gaps": {"products": 5}}}', "[" * 100_000])
def test_a_record_of_stages_that_is_none_counts_as_nothing(text: str, cube: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "page.yaml").write_text(f"gaps:\n  cube: {cube}\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stages.json").write_text(text)
    assert run(["run", str(tmp_path / "page.yaml"), "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "# gaps: to do\n" in capsys.readouterr().out
