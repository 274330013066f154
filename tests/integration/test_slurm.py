"""`fill-scene` on a real Slurm: workers as jobs, as many as there is work for, encrypted, that are cancelled or run out
of time; and job arrays.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
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
from tests.integration.faults.runs import HOOKS, ROOT
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

LONG = 300.0
"""Seconds in which what a test waits for must have happened, on a machine that does much else."""


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


def order(monkeypatch: pytest.MonkeyPatch, folder: Path, do: str, **more: Any) -> None:
    """Let workers misbehave in the fill, see `faults.hooks`: jobs are given this process's environment.

    This process itself, which has begun without the hooks, remains as it is.
    """
    told = {"do": do, "stage": "fill", "after": 0, "folder": str(folder), **more}
    told["records"] = str(folder / "out" / "work" / "records")
    (folder / "order.json").write_text(json.dumps(told))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HOOKS), str(ROOT))))
    monkeypatch.setenv("STPIPE_FAULT", str(folder / "order.json"))


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
    small = ("--block", "8,12,12", "--no-geotiff", "--workers", "1")
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


def test_jobs_come_with_the_work_and_go_without_it(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    order(monkeypatch, tmp_path, "gate")  # the first block waits in a worker's hands; all others are done meanwhile
    before, most, left = set(slurm.jobs()), [0], []

    def running(count: int) -> bool:
        most.append(len(set(slurm.jobs("PENDING", "RUNNING", "CONFIGURING")) - before))
        return len(set(slurm.jobs("RUNNING")) - before) == count

    def follow() -> None:
        try:
            wait_for("a block in hand", (tmp_path / "reached").exists, LONG)
            wait_for("a second job, for all the blocks that wait", lambda: running(2), LONG)
            wait_for("the end of the job with nothing to do", lambda: running(1), LONG)
            left.append(records(out, "fill"))
        finally:
            (tmp_path / "go").touch()

    follower = meanwhile(follow)
    assert run(fill(cube, out, "--cluster", str(site_file(tmp_path)))) == 0
    follower.join(timeout=1)
    fill_stage = json.loads((out / "run.json").read_text())["stages"]["fill"]
    assert left == [fill_stage["tasks"] - 1]  # it was not before the work was done that the job was given back
    assert fill_stage["retries"] == 0  # and not the job that was at work
    assert max(most) == 2
    assert digests(out) == expected
    jobs = set(slurm.jobs()) - before
    wait_for("the jobs' end", lambda: all(slurm.state(job) in ENDED for job in jobs), LONG)


STRANGERS = """
import asyncio, json, sys
from distributed import Client, Worker
from distributed.security import Security

async def met(what, address, **named):
    try:
        async with asyncio.timeout(90):
            if what is Worker:
                named["death_timeout"] = 3
            else:
                named |= {"timeout": 3 if named["security"] != KNOWN else 60, "asynchronous": True}
            async with what(address, **named) as one:
                return len(await one.nthreads()) if what is Client else "came in"
    except OSError:
        return "turned away"

def holding(ca, cert, key):
    who = {f"tls_{who}_{what}": file for who in ("client", "worker") for what, file in (("cert", cert), ("key", key))}
    return Security(tls_ca_file=ca, **who, require_encryption=True)

async def main(address, ca, cert, key):
    global KNOWN
    KNOWN, made = holding(ca, cert, key), Security.temporary()
    # Trusts the scheduler, as it has to, and shows a certificate that the scheduler does not know.
    other, plain = holding(ca, made.tls_client_cert, made.tls_client_key), address.replace("tls://", "tcp://")
    found = {
        "client without": await met(Client, plain, security=None),
        "client with another": await met(Client, address, security=other),
        "worker without": await met(Worker, plain, security=None, nthreads=1),
        "worker with another": await met(Worker, address, security=other, nthreads=1),
        "client with the run's own": await met(Client, address, security=KNOWN),
    }
    print(json.dumps(found))

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


def test_where_encryption_is_asked_for_nobody_comes_in_without_the_runs_certificate(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cube, expected), out, keys = whole, tmp_path / "out", tmp_path / "keys"
    keys.mkdir(mode=0o700)
    path = site_file(tmp_path)
    path.write_text(
        path.read_text().replace("memory: 1GiB", f"memory: 1GiB, shared-temp-directory: {keys}")
        + "  comm: {require-encryption: true}\n"
    )
    order(monkeypatch, tmp_path, "gate")
    before, found, script = set(slurm.jobs()), {}, []

    def knock() -> None:
        try:
            wait_for("a block in hand", (tmp_path / "reached").exists, LONG)
            (job,) = set(slurm.jobs("RUNNING")) - before
            script.append(slurm.ask("scontrol", "write", "batch_script", job, "-"))
            address = re.search(r"tls://[\w.:]+", script[0])
            files = [re.search(rf"--tls-{name} (\S+)", script[0]) for name in ("ca-file", "cert", "key")]
            assert address, script
            assert all(Path(file[1]).stat().st_mode & 0o77 == 0 for file in files if file)
            words = [address[0], *(file[1] for file in files if file)]
            done = subprocess.run(
                [sys.executable, "-c", STRANGERS, *words],
                capture_output=True, text=True, check=False, timeout=LONG, cwd=tmp_path,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found.update(json.loads(done.stdout))
        finally:
            (tmp_path / "go").touch()

    stranger = meanwhile(knock)
    assert run(fill(cube, out, "--cluster", str(path), "--workers", "1")) == 0
    stranger.join(timeout=1)
    assert found.pop("client with the run's own") == 1  # and it sees the one worker that is the run's
    assert set(found) == {f"{who} {how}" for who in ("client", "worker") for how in ("without", "with another")}
    assert set(found.values()) == {"turned away"}
    assert "tcp://" not in script[0]
    assert digests(out) == expected
    assert list(keys.iterdir()) == []


def test_a_job_that_its_walltime_ends_costs_the_block_that_it_had_in_hand_and_no_more(
    slurm: SlurmSite, whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cube, expected), out = whole, tmp_path / "out"
    # A worker that is held fast, here on its first block, does not hand over either: Slurm ends it, with its job, after
    # a minute or when it looks next, half a minute later.
    order(monkeypatch, tmp_path, "freeze", variable="ndvi", block=0, times=1)
    before, caught = set(slurm.jobs()), []

    def look() -> None:
        wait_for("the block's first try", lambda: read(tmp_path / "tried-0"), LONG)
        given = Path("/proc", read(tmp_path / "tried-0"), "environ").read_bytes()
        caught.extend(re.findall(rb"SLURM_JOB_ID=(\d+)", given))

    looker = meanwhile(look)
    assert run(fill(cube, out, "--cluster", str(site_file(tmp_path, "00:01:00")), "--workers", "2")) == 0
    looker.join(timeout=1)
    (job,) = {each.decode() for each in caught}
    wait_for("the job's end", lambda: slurm.state(job) in ENDED, LONG)
    assert slurm.state(job) == "TIMEOUT"
    assert len(set(slurm.jobs()) - before) >= 3  # another one took its place
    assert read(tmp_path / "tried-1") not in {"", read(tmp_path / "tried-0")}
    assert json.loads((out / "run.json").read_text())["stages"]["fill"]["retries"] >= 1
    assert digests(out) == expected


def read(path: Path) -> str:
    """Return what a mark holds, or nothing as long as it is not there."""
    return path.read_text() if path.exists() else ""
