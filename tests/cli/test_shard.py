"""Runs that processes share out among themselves: the same bytes, whoever dies, and refusals before any work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.main import run
from stpipe.execution import claims
from tests.cli.test_fill_scene import digests, make_cube, stored

WORDS = ("--method", "linear", "--block", "8,24,24", "--overlap", "0,4,4")


def start(cube: Path, out: Path, shard: str) -> subprocess.Popen[bytes]:
    words = ["fill-scene", str(cube), "-o", str(out), *WORDS, "--shard", shard, "--memory-limit", "2GiB"]
    return subprocess.Popen(
        [sys.executable, "-m", "stpipe.cli.main", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A cube, and the digests of what one driver makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    make_cube(folder / "cube.zarr", frames=8, side=160)
    assert run(["fill-scene", str(folder / "cube.zarr"), "-o", str(folder / "one"), *WORDS, "--workers", "1"]) == 0
    return folder / "cube.zarr", digests(folder / "one")


@pytest.mark.integration
def test_shares_that_die_are_taken_over_and_the_bytes_are_those_of_one_driver(
    whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    first, second = start(cube, out, "1/3"), start(cube, out, "2/3")
    while first.poll() is None and len(list((out / "work" / "records" / "fill").glob("*.json"))) < 6:
        time.sleep(0.01)
    first.kill()
    second.kill()
    for process in (first, second):
        process.communicate()
    assert not (out / "run.json").exists()
    monkeypatch.setattr(claims, "PATIENCE", 0.5)
    assert run(["fill-scene", str(cube), "-o", str(out), *WORDS, "--shard", "3/3", "--memory-limit", "2GiB"]) == 0
    assert digests(out) == expected
    assert not (out / "work").exists()


@pytest.mark.integration
@pytest.mark.processes
def test_shares_that_work_together_end_together(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    processes = [start(cube, out, f"{number}/2") for number in (1, 2)]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert digests(out) == expected
    names = {"filled.zarr", "geotiff", "items.json", "quicklook.png", "report.html", "run.json"}
    assert {path.name for path in out.iterdir()} == names


def test_a_share_alone_fills_the_scene_and_a_later_one_has_nothing_to_do(tmp_path: Path, capsys: Any) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(cube)
    words = ["fill-scene", str(cube), "-o", str(out), "--method", "pyramid", "--no-geotiff", "--memory-limit", "2GiB"]
    assert run([*words, "--shard", "2/5"]) == 0
    assert set(stored(out / "filled.zarr", "ndvi_source").ravel().tolist()) <= {1, 2, 3, 5}
    capsys.readouterr()
    assert run([*words, "--shard", "4/5"]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "0/4", "--memory-limit", "2GiB"), "--shard K/N has K from 1 to N, got 0/4; job arrays may count"),
        (("--shard", "4", "--memory-limit", "2GiB"), "--shard is K/N, such as 3/16"),
        (("--shard", "1/4"), "--shard needs --memory-limit"),
        (("--shard", "1/4", "--memory-limit", "2GiB", "--workers", "2"), "leave --workers out"),
        (("--shard", "1/4", "--memory-limit", "2GiB", "--scheduler", "tcp://a:1"), "leave --scheduler out"),
        (("--shard", "1/4", "--memory-limit", "2GiB", "--overwrite"), "--overwrite lets each --shard begin anew"),
    ],
)
def test_what_does_not_go_with_shares_is_refused(
    tmp_path: Path, capsys: Any, words: tuple[str, ...], message: str
) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(cube)
    assert run(["fill-scene", str(cube), "-o", str(out), *WORDS, *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_driver_and_shares_keep_each_other_out(tmp_path: Path, capsys: Any) -> None:
    from stpipe.io.run_folder import RunFolder

    cube, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(cube)
    words = ["fill-scene", str(cube), "-o", str(out), "--method", "pyramid", "--no-geotiff"]
    with RunFolder(out).locked(shared=True), RunFolder(out).locked(shared=True):
        assert run([*words, "--workers", "1"]) == 2
        assert "another process is filling into" in capsys.readouterr().err
    with RunFolder(out).locked():
        assert run([*words, "--shard", "1/2", "--memory-limit", "2GiB"]) == 2
        assert "another process is filling into" in capsys.readouterr().err
