"""`fill-scene` on a real Slurm: workers as jobs, jobs that are cancelled or run out of time, and job arrays."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stpipe.cli.main import run
from stpipe.execution.clusters import keeper
from stpipe.resources import shelf
from tests.cli.test_fill_scene import digests, make_cube
from tests.integration.slurm_site import SlurmSite, wait_for

# One Slurm is enough, so that all of these are run by the same process.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("slurm")]

JOBS = """\
jobqueue:
  slurm: {{cores: 1, memory: 1GiB, walltime: '{walltime}', log-directory: {logs}}}
distributed:
  adaptive: {{minimum: 0, maximum: 2, interval: 1s}}
  deploy: {{lost-worker-timeout: 2s}}
"""

LINEAR = ("--method", "linear", "--block", "8,16,16", "--overlap", "0,2,2")
ENDED = ("COMPLETED", "CANCELLED", "TIMEOUT", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY")


def site_file(folder: Path, walltime: str = "00:10:00") -> Path:
    path = folder / "my.yaml"
    path.write_text(JOBS.format(walltime=walltime, logs=folder / "logs"))
    return path


def fill(cube: Path, out: Path, *words: str) -> list[str]:
    return ["fill-scene", str(cube), "-o", str(out), *LINEAR, *words]


def records(out: Path, stage: str) -> int:
    return len(list((out / "work" / "records" / stage).glob("*.json")))


def meanwhile(action: Callable[[], None]) -> Thread:
    """Do something while this process fills; daemonic, so that a failure ends the test and not the session."""
    thread = Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A cube, and the digests of what workers of this machine make of it under the jobs' memory."""
    folder = tmp_path_factory.mktemp("whole")
    make_cube(folder / "cube.zarr", frames=8, side=192)
    assert run(fill(folder / "cube.zarr", folder / "one", "--workers", "1", "--memory-limit", "1GiB")) == 0
    return folder / "cube.zarr", digests(folder / "one")


def test_check_starts_one_job_and_ends_it(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, capsys: Any
) -> None:
    before = set(slurm.jobs())
    words = ["--cube", str(whole[0]), "-o", str(tmp_path / "out"), "--timeout", "60", "--json"]
    assert run(["cluster", "check", str(site_file(tmp_path)), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found
    (job,) = set(slurm.jobs()) - before
    wait_for("the job's end", lambda: slurm.state(job) in ENDED)


def test_workers_are_jobs_and_the_products_are_those_of_this_machine(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, capsys: Any
) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    before = set(slurm.jobs())
    assert run(fill(cube, out, "--cluster", str(site_file(tmp_path)), "--workers", "2")) == 0
    assert digests(out) == expected
    assert "cluster" in capsys.readouterr().err
    jobs = set(slurm.jobs()) - before
    assert len(jobs) == 2
    assert len(list((tmp_path / "logs").iterdir())) >= 2
    wait_for("the jobs' end", lambda: all(slurm.state(job) in ENDED for job in jobs))


def test_a_cancelled_job_is_replaced(slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    before, cancelled = set(slurm.jobs()), []

    def cancel() -> None:
        wait_for("the fill", lambda: records(out, "fill") > 3, patience=120)
        cancelled.extend(set(slurm.jobs("RUNNING")) - before)
        for job in cancelled:
            slurm.ask("scancel", "--signal=KILL", "--full", job)
            slurm.ask("scancel", job)

    killer = meanwhile(cancel)
    assert run(fill(cube, out, "--cluster", str(site_file(tmp_path)), "--workers", "1")) == 0
    killer.join(timeout=1)
    assert digests(out) == expected
    assert len(cancelled) == 1
    assert slurm.state(cancelled[0]) == "CANCELLED"
    assert len(set(slurm.jobs()) - before) >= 2


def test_workers_hand_over_before_their_walltime(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    (cube, _), path = whole, site_file(tmp_path, "00:01:00")
    # Slurm knows no walltime under a minute; that the lifetime follows from it otherwise is shown elsewhere.
    path.write_text(path.read_text() + "  worker: {lifetime: {duration: 8s, stagger: 1s}}\n")
    small = ("--block", "8,8,8", "--no-geotiff", "--workers", "1")
    before = set(slurm.jobs())
    assert run(fill(cube, tmp_path / "out", *small, "--cluster", str(path))) == 0
    jobs = sorted(set(slurm.jobs()) - before, key=int)
    assert len(jobs) >= 2
    wait_for("the jobs' end", lambda: all(slurm.state(job) in ENDED for job in jobs))
    texts = {log: log.read_text() for log in (tmp_path / "logs").iterdir()}
    assert sum("worker-lifetime-reached" in text for text in texts.values()) >= len(jobs) - 1
    assert "TIMEOUT" not in {slurm.state(job) for job in jobs}
    assert run(fill(cube, tmp_path / "here", *small, "--memory-limit", "1GiB")) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "here")


def test_the_packaged_job_array_fills_the_scene(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, out = whole[0], tmp_path / "out"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    packaged = Path(str(shelf("cluster") / "slurm" / "array.sbatch"))
    less = ("--array=1-3", "--mem=1G", f"--output={tmp_path}/%a.log")
    job = slurm.submit([*less, str(packaged), *fill(cube, out)[1:]])
    wait_for("the array's end", lambda: not slurm.ask("squeue", "-h", "-j", job), patience=300)
    states = slurm.ask("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split()
    said = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
    assert states == ["COMPLETED"] * 3, said
    assert run(fill(cube, tmp_path / "one", "--workers", "1", "--memory-limit", "7GiB")) == 0
    assert digests(out) == digests(tmp_path / "one")
    assert not (out / "work").exists()


def test_what_slurm_refuses_is_told_in_a_line(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, capsys: Any
) -> None:
    path = site_file(tmp_path)
    path.write_text(path.read_text().replace("memory: 1GiB", "memory: 1GiB, queue: nowhere"))
    assert run(fill(whole[0], tmp_path / "out", "--cluster", str(path))) == 2
    said = capsys.readouterr().err
    assert said.startswith("stpipe: error: sbatch")
    assert "invalid partition" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_jobs_that_die_before_their_worker_comes_end_the_run_with_their_last_words(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 1.0)
    path = site_file(tmp_path)
    prologue = "job-script-prologue: ['echo module: no python here >&2; exit 3']"
    path.write_text(path.read_text().replace("memory: 1GiB", f"memory: 1GiB, {prologue}"))
    assert run(fill(whole[0], tmp_path / "out", "--cluster", str(path), "--workers", "1")) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"stpipe: error: my.yaml: {keeper.STILLBIRTHS} jobs in a row have ended before their worker came"
    )
    assert "wrote: module: no python here;" in said
    assert run(["cluster", "check", str(path), "--timeout", "60"]) == 1
    assert "module: no python here" in capsys.readouterr().err
