"""`--log`: lines of JSON that add up to what run.json says, however a run ends, and places where no log may lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli import run_log
from stpipe.cli.main import run
from stpipe.cli.progress_lines import Standing
from stpipe.cli.run_log import RunLog, check_log
from stpipe.errors import OptionError
from stpipe.execution.lookout import News
from tests.cli.test_fill_scene import make_cube, snapshot

BLOCKS = ("--method", "linear", "--block", "8,16,16", "--overlap", "0,4,4", "--no-geotiff")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log, checked to be in order and of one form."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        assert list(event)[:3] == ["time", "at", "event"]
        assert datetime.fromisoformat(event["time"]).tzinfo == UTC
    return events


def of(events: list[dict[str, Any]], kind: str, **more: Any) -> list[dict[str, Any]]:
    return [e for e in events if e["event"] == kind and all(e.get(key) == value for key, value in more.items())]


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cubes") / "cube.zarr"
    make_cube(path, frames=8, side=96)
    return path


def test_a_log_adds_up_to_the_report_and_a_second_run_follows_the_first(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(run_log, "PROGRESS_EVERY", 0.0)
    out, log = tmp_path / "out", tmp_path / "run.log"
    words = ["fill-scene", str(cube), "-o", str(out), *BLOCKS, "--workers", "1", "--log", str(log)]
    assert run(words) == 0
    events, report = read(log), json.loads((out / "run.json").read_text())
    assert all(after["at"] >= before["at"] for before, after in pairwise(events))
    (begun,), (ended,) = of(events, "run_begun"), of(events, "run_ended")
    assert (begun, ended) == (events[0], events[-1])
    assert begun["run_id"] == report["run_id"]
    assert begun["version"] == report["versions"]["stpipe"]
    assert begun["command"] == ["stpipe", *words]
    assert (ended["exit"], ended["seconds"]) == (0, pytest.approx(ended["at"], abs=0.1))
    keys = ("event", "stage", "time", "at")
    told = {e["stage"]: {k: v for k, v in e.items() if k not in keys} for e in of(events, "stage_ended")}
    assert [told.pop(stage)["tasks"] for stage in ("report", "clear")] == [0, 0]  # they come after what run.json says
    assert told == report["stages"]
    assert [e["stage"] for e in of(events, "stage_begun")] == [*report["stages"], "report", "clear"]
    assert report["stages"]["fill"]["rate"] == pytest.approx(64 / report["seconds"]["fill"], rel=1e-3)
    counts = [e["ended"] for e in of(events, "progress", stage="fill")]
    assert counts == sorted(counts)
    assert [e["workers"] for e in of(events, "worker_came")] == [1]
    assert not of(events, "task_failed")

    before = log.read_bytes()
    log.write_bytes(before + b'{"time": "2024-01-0')  # the machine went down as it was written
    assert run(words) == 0
    assert log.read_bytes().startswith(before)
    more = [json.loads(line) for line in log.read_text().splitlines()[len(events) + 1 :]]
    assert [e["event"] for e in more] == ["run_begun", "run_ended"]
    assert run([*words, "--valid-range", "0,1"]) == 2  # another run than that of the folder
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["event"], last["exit"]) == ("run_ended", 2)
    assert last["error"] in capsys.readouterr().err


@pytest.mark.processes
def test_an_interrupted_run_says_so_and_the_next_one_says_what_was_there(cube: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "run.log"
    words = ["fill-scene", str(cube), "-o", str(out), *BLOCKS, "--workers", "1", "--log", str(log)]
    driver = subprocess.Popen([sys.executable, "-m", "stpipe.cli.main", *words], stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(list((out / "work" / "records" / "fill").glob("*.json"))) < 5:
        time.sleep(0.02)
    driver.terminate()
    assert driver.wait(timeout=60) == 1
    events = read(log)
    assert events[-1]["event"] == "run_ended"
    assert events[-1]["exit"] == 1
    assert events[-1]["error"].startswith("interrupted; what is done is kept")
    (stopped,) = of(events, "stage_ended", stage="fill")
    assert 0 < stopped["done"] < stopped["tasks"] == 64
    assert run(words) == 0
    (filled,) = of(read(log)[len(events) :], "stage_ended", stage="fill")
    assert filled["had"] >= stopped["done"]
    assert filled["done"] + filled["had"] == 64


def test_a_task_that_fails_is_in_the_log(cube: Path, tmp_path: Path, capsys: Any) -> None:
    broken, log = tmp_path / "broken.zarr", tmp_path / "run.log"
    make_cube(broken)
    chunk = broken / "ndvi" / "c" / "1" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    words = ["fill-scene", str(broken), "--method", "linear", "--workers", "1", "--no-geotiff", "--log", str(log)]
    assert run(words) == 1
    events = read(log)
    (failed,) = of(events, "task_failed")
    assert (failed["stage"], failed["number"]) == ("survey", 0)
    assert "ndvi/c/1/0/1" in failed["message"]
    assert of(events, "stage_ended", stage="survey")[0]["failed"] == 1
    assert events[-1]["error"] in capsys.readouterr().err


def test_a_share_of_the_work_logs_what_it_did(cube: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "one.log"
    words = ["--shard", "2/3", "--memory-limit", "2GiB", "--log", str(log)]
    assert run(["fill-scene", str(cube), "-o", str(out), *BLOCKS, *words]) == 0
    events, report = read(log), json.loads((out / "run.json").read_text())
    assert of(events, "run_begun")[0]["shard"] == "2/3"
    (filled,) = of(events, "stage_ended", stage="fill")
    assert (filled["done"], filled["had"], filled["workers_seen"]) == (64, 0, 1)
    assert {e["stage"] for e in of(events, "stage_ended")} == set(report["stages"])


def test_gap_statistics_log_too(cube: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "gaps.log"
    assert run(["gaps", str(cube), "-o", str(out), "--log", str(log)]) == 0
    events = read(log)
    assert [events[0]["event"], events[-1]["event"]] == ["run_begun", "run_ended"]
    stages = [e["stage"] for e in of(events, "stage_ended")]
    assert (stages[0], stages[-1]) == ("start", "write")
    assert "gaps" in stages
    assert all(e["done"] == e["tasks"] for e in of(events, "stage_ended"))
    assert run(["gaps", str(cube), "-o", str(out), "--overwrite", "--log", str(out / "gaps.log")]) == 2


@pytest.mark.parametrize("verb", ["fill-scene", "plan", "gaps"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("out/run.log", "lies in the output folder", id="in-the-output"),
        pytest.param("out", "lies in the output folder", id="the-output"),
        pytest.param("CUBE/run.log", "lies in the input", id="in-the-input"),
        pytest.param("nowhere/run.log", "there is no folder nowhere; make it", id="no-folder"),
        pytest.param("notes.txt", "holds something else than a log", id="something-else"),
        pytest.param("folder", "is a folder; name a file", id="a-folder"),
    ],
)
def test_a_log_that_would_do_harm_is_refused_before_anything_is_done(
    verb: str, place: str, message: str, cube: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("years of work")
    before = snapshot(tmp_path) | snapshot(cube)
    method = [] if verb == "gaps" else ["--method", "linear"]
    assert run([verb, str(cube), "-o", "out", *method, "--log", place.replace("CUBE", str(cube))]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert snapshot(tmp_path) | snapshot(cube) == before


def test_a_log_nobody_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(OptionError, match="no right to write there"):
        check_log(tmp_path / "run.log", output=tmp_path / "out", inputs=[])
    with pytest.raises(OptionError, match="can't be opened: Is a directory"):
        RunLog(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_run(capsys: Any) -> None:
    log = RunLog(Path("/dev/full"))
    log.write("run_begun")
    log.begun(Standing(stage="fill"))
    log.close()
    assert capsys.readouterr().err == "stpipe: warning: the log /dev/full ends here: No space left on device\n"


def test_a_scheduler_that_is_lost_and_found_is_in_the_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    about = {"worker": "tcp://10.0.0.1:8786", "workers": 3, "scheduler": True}
    log.look(None, [News(came=False, **about), News(came=True, **about)])
    log.close()
    events = read(tmp_path / "run.log")
    assert [event["event"] for event in events] == ["scheduler_gone", "scheduler_back"]
    assert {event["scheduler"] for event in events} == {"tcp://10.0.0.1:8786"}
