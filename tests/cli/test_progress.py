"""What stderr shows of a run: nothing of a quick one, lines of a long one, a display on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli import progress
from stpipe.cli.main import run
from stpipe.cli.progress import PlainLines, on_terminal, progress_bar, shown
from stpipe.cli.progress_lines import Standing
from stpipe.cli.watch import Watch
from tests.cli.test_fill_scene import make_cube

BLOCKS = ("--method", "linear", "--block", "8,16,16", "--overlap", "0,4,4", "--no-geotiff")


def lines_of(moments: Sequence[tuple[float, str, Standing]]) -> list[tuple[float, str]]:
    """Return the lines that are written, and when."""
    now, written = 0.0, list[tuple[float, str]]()
    plain = PlainLines(lambda line: written.append((now, line)), clock=lambda: now, every=60.0)
    for now, what, at in moments:  # noqa: B007 - the clock reads it
        if what == "ended":
            plain.ended(at)
        else:
            plain.look(at, ())
    return written


def test_a_command_that_is_over_in_a_minute_says_nothing() -> None:
    stages = [(float(10 * n), "ended", Standing(stage=f"s{n}", seconds=10, total=5, ended=5)) for n in range(1, 6)]
    looks = [(n / 2, "look", Standing(stage="s", seconds=1, total=5, ended=2)) for n in range(118)]
    assert lines_of(sorted(stages + looks, key=lambda one: one[0])) == []


def test_a_long_one_says_a_line_a_minute_and_every_end_in_order() -> None:
    moments: list[tuple[float, str, Standing]] = [
        (30.0, "ended", Standing(stage="survey", seconds=30, total=7, ended=7)),
        (31.0, "ended", Standing(stage="quicklook", seconds=1)),  # not worth a line
    ]
    moments += [
        (31 + n / 2, "look", Standing(stage="fill", seconds=n / 2, total=2000, ended=n)) for n in range(1, 1000)
    ]
    moments.append((532.0, "ended", Standing(stage="fill", seconds=501, total=2000, ended=2000)))
    moments.append((533.0, "ended", Standing(stage="blend", seconds=1, total=3, ended=3)))
    written = lines_of(moments)
    assert [line for _, line in written[:1]] == ["survey: 7 tiles in 30 s"]
    assert [line.split(":")[0] for _, line in written[-2:]] == ["fill", "blend"]
    middle = written[1:-2]
    assert len(middle) == 531 // 60
    assert all(line.startswith("fill ") for _, line in middle)
    assert all(later - earlier == 60 for (earlier, _), (later, _) in pairwise(middle))


def test_the_plain_lines_of_a_run_add_up(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.1)
    make_cube(tmp_path / "cube.zarr", frames=8, side=96)
    assert run(["fill-scene", str(tmp_path / "cube.zarr"), *BLOCKS, "--workers", "1"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("stpipe: ") for line in said)
    going = [
        re.match(r"stpipe: fill (\d+) of (\d+) blocks \((\d+) %\), .*1 worker, \d+ MiB of ", line) for line in said
    ]
    counts = [(int(found[1]), int(found[2])) for found in going if found]
    assert counts == sorted(counts)
    assert {total for _, total in counts} == {64}
    ends = [line.split()[1] for line in said if re.match(r"stpipe: \w+: .* in ", line)]
    assert ends == ["survey:", "learn:", "fill:", "blend:"]
    report = json.loads((tmp_path / "cube.filled" / "run.json").read_text())
    assert [stage for stage, told in report["stages"].items() if told["tasks"]] == [end[:-1] for end in ends]
    assert report["stages"]["fill"]["done"] == report["blocks"]["with_gaps"] == 64
    assert report["workers_seen"] == 1
    assert report["retries"] == 0
    assert set(report["seconds"]) <= set(report["stages"])
    for stage, peak in report["stage_peak_bytes"].items():
        assert report["stages"][stage]["peak_bytes"] == peak
    capsys.readouterr()


def test_a_quick_run_leaves_stderr_as_it_was(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 3600.0)  # quick is what is over by then, on however busy a machine
    make_cube(tmp_path / "cube.zarr", side=32)
    words = ["--method", "linear", "--shard", "1/1", "--memory-limit", "2GiB", "--no-geotiff"]
    assert run(["fill-scene", str(tmp_path / "cube.zarr"), *words]) == 0
    assert not [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]


def test_bars_of_other_verbs_say_lines_too(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress_bar("writing") as report:
        report(3, 4)
        report(4, 4)
    assert capsys.readouterr().err.splitlines()[-1].startswith("stpipe: writing: 4 in ")


def test_nobody_at_the_other_end_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", Gone())
    watch = Watch()
    with shown(watch):
        watch.counted("fill", 1, 2)
    assert watch.rows()["fill"]["done"] == 1


def on_a_terminal(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command whose stderr is a terminal; return its exit code and what it wrote to stdout and there."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "stpipe.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so of a terminal that nobody writes to any more
            break
        if not piece:
            break
        drawn += piece
    os.close(ours)
    assert child.stdout is not None
    printed = child.stdout.read().decode()
    child.stdout.close()
    return child.wait(timeout=60), printed, drawn.decode(errors="replace")


@pytest.mark.processes
def test_a_terminal_shows_the_stage_that_goes_on_and_keeps_a_line_of_each_that_has_ended(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.zarr", side=48)
    words = ["fill-scene", str(tmp_path / "cube.zarr"), *BLOCKS, "--workers", "1", "--json"]
    code, printed, drawn = on_a_terminal(words)
    assert code == 0
    total = json.loads(printed)["stages"]["fill"]["tasks"]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    kept = [line for line in re.split(r"[\r\n]+", text) if re.fullmatch(r"\w+: \d+.* in .*", line)]
    assert [line.split(":")[0] for line in kept] == ["survey", "learn", "fill", "blend"]
    assert f"fill: {total} blocks in " in text
    # Of what goes on, some stage is drawn; one that is over before the next look at it is not.
    assert re.search(r"(survey|learn|fill|blend) .*\d+ of \d+ \w+ \(\d+ %\)", text)
    assert "1 worker" in text
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") > 0  # the cursor is there again


@pytest.mark.parametrize(("term", "draws"), [("xterm-256color", True), ("", True), ("dumb", False), ("unknown", False)])
def test_a_terminal_that_can_not_draw_gets_lines(term: str, draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    assert on_terminal() is draws
