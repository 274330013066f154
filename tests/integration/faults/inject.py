"""How each fault is made, from outside, and what the run must say to it.

A story starts a run, makes its fault and leaves the folder as the run left it; the caller goes on from there. A run
waits at its fault's moment (see `hooks/sitecustomize.py`) so that none comes too early or too late.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import pytest
import rasterio
import zarr

from stpipe.core.survey import location_and_spread
from stpipe.execution.waiting import LOST_AFTER
from tests.cli.test_fill_scene import worker_processes
from tests.integration.faults.plan import RECORDS, Fault
from tests.integration.faults.runs import Bench, Ended, Run, copy_run, signal_group, wait_until
from tests.integration.faults.scene import TOO_MUCH, VARIABLES

LEAVING = 10.0
"""Seconds that a driver without its scheduler may take to end, once it has given it up."""

GO_ON = "run the same command again to go on from here"
INTERRUPTED = f"interrupted; what is done is kept: {GO_ON}"


class Shelf(Protocol):
    """Runs that several faults share, made when they are first asked for."""

    def interrupted(self, stage: str, after: int) -> Path:
        """Return the output folder of a run that was killed at a moment; to be copied."""

    def other(self) -> Path:
        """Return the output folder, with its scratch, of a run of the same options on another cube."""


Story = Callable[[Fault, Bench, Shelf], list[Ended]]
"""Makes a fault; returns how the runs ended that it met."""


def check_killed(ended: Ended) -> None:
    """A run that was killed had nothing to say; Python's own helper may, of what it cleared up after it."""
    assert ended.code == -signal.SIGKILL, ended
    assert not re.search(r"stpipe: |Traceback", ended.said), ended


def check_failed(ended: Ended, *patterns: str) -> None:
    """A run that failed says in one line what failed and how to go on."""
    assert ended.code == 1, ended
    assert ended.said.startswith("stpipe: error: "), ended
    assert ended.said.count("\n") == 1, ended
    for pattern in patterns:
        assert re.search(pattern, ended.said), (pattern, ended.said)


def check_fine(ended: Ended, bench: Bench) -> None:
    """A run that bore the fault says what an undisturbed one says."""
    assert bench.noted in ended.said, ended
    assert Ended(ended.code, ended.said.replace(bench.noted, "")) == Ended(0, bench.scene.notes), ended


def ended(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Send a signal to a whole run, while it waits or soon after it went on."""
    chance = random.Random(fault.seed)
    name, *where = fault.detail.split()
    bench.order("gate-record" if where else "gate", stage=fault.stage, after=fault.after)
    run = bench.start(fault.how)
    bench.reached()
    if fault.stage in {"survey", "fill"} and chance.random() < 0.5:
        bench.go()
        time.sleep(chance.uniform(0, 0.05))
    if name == "SIGINT":  # a terminal sends it to all processes in front
        signal_group(run.pid, signal.SIGINT)
    else:
        os.kill(run.pid, signal.Signals[name])
    bench.go()
    last = run.end()
    if name == "SIGKILL":
        check_killed(last)
    else:
        check_failed(last, INTERRUPTED)
    return [last]


def two_shares(bench: Bench) -> list[Run]:
    """Start two shares at once, as a job array does."""
    return [bench.start_share(f"{number}/2") for number in (1, 2)]


def share_lost(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Take one of two shares away at a task; the other one does it."""
    bench.order("gate", stage=fault.stage, after=fault.after)
    shares = two_shares(bench)
    at = bench.reached()
    (victim,) = (share for share in shares if share.pid == at)
    (other,) = (share for share in shares if share.pid != at)
    os.kill(at, signal.SIGKILL if fault.detail == "killed" else signal.SIGSTOP)
    bench.go()
    ends = [other.end()]
    check_fine(ends[0], bench)
    if fault.detail == "killed":
        check_killed(lost := victim.end())
    else:
        assert (bench.out / "work").exists()  # somebody may still be at it
        os.kill(at, signal.SIGCONT)
        check_fine(lost := victim.end(), bench)
    return [lost, *ends]


def shares_lost(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Kill two shares at once."""
    bench.order("gate", stage=fault.stage, after=fault.after)
    shares = two_shares(bench)
    bench.reached()
    for share in shares:
        os.kill(share.pid, signal.SIGKILL)
    ends = [share.end() for share in shares]
    for each in ends:
        check_killed(each)
    return ends


def worker(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Kill or stop workers of a driver."""
    bench.order("gate", stage=fault.stage, after=fault.after)
    # Dask itself gives workers five minutes to give a sign of life.
    hasty = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s"} if fault.detail.startswith("stopped") else {}
    run = bench.start("driver", environment=hasty)
    at = bench.reached()
    victims = worker_processes(run.pid)
    assert at in victims
    if fault.detail.startswith("stopped"):
        os.kill(at, signal.SIGSTOP)
        bench.go()
        if fault.detail == "stopped":
            time.sleep(3)
            os.kill(at, signal.SIGCONT)
    else:
        for victim in victims if fault.detail == "all" else [at]:
            os.kill(victim, signal.SIGKILL)
        bench.go()
    check_fine(last := run.end(), bench)
    return [last]


class Cluster:
    """A scheduler and workers as users start them with Dask's own commands."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.processes = bench, []
        self.file = bench.folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--scheduler-file", str(self.file), "--host", "127.0.0.1")
        self.worker = self.start_worker()

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        code = f"from distributed.cli.dask_{what} import main; main()"
        more = ("--port", "0", "--no-dashboard") if what == "scheduler" else ("--no-dashboard",)
        with (self.bench.folder / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *words, *more],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **self.bench.environment()}, cwd=self.bench.folder,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        limit = ("--nthreads", "1", "--nworkers", "1", "--memory-limit", "512MiB")
        return self._start("worker", "--scheduler-file", str(self.file), *limit)

    def start_driver(self, *more: str) -> Run:
        wait_until("the scheduler's address", self.file.exists)
        time.sleep(0.1)  # until it is written
        address = json.loads(self.file.read_text())["address"]
        return self.bench.start_driver("--scheduler", address, *more)

    def close(self) -> None:
        for process in self.processes:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def own_cluster(bench: Bench) -> Iterator[Cluster]:
    """Give a cluster that ends with the block."""
    cluster = Cluster(bench)
    try:
        yield cluster
    finally:
        cluster.close()


def own_worker(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Kill a worker of a cluster that the user started; its nanny, or the user, starts another."""
    bench.order("gate", stage=fault.stage, after=fault.after)
    with own_cluster(bench) as cluster:
        run = cluster.start_driver()
        at = bench.reached()
        if fault.detail == "nanny":
            signal_group(cluster.worker.pid, signal.SIGKILL)
            cluster.start_worker()
        else:
            assert at in [child.pid for child in psutil.Process(cluster.worker.pid).children(recursive=True)]
            os.kill(at, signal.SIGKILL)
        bench.go()
        check_fine(last := run.end(), bench)
        assert cluster.scheduler.poll() is None  # it is the user's
    return [last]


def scheduler(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Kill the scheduler of a cluster that the user started; the run notices within seconds."""
    bench.order("gate", stage=fault.stage, after=fault.after)
    log = bench.folder / "run.log"
    with own_cluster(bench) as cluster:
        run = cluster.start_driver("--log", str(log))
        bench.reached()
        signal_group(cluster.scheduler.pid, signal.SIGKILL)
        bench.go()
        check_failed(last := run.end(), r"the scheduler at tcp://127.0.0.1:\d+ is gone; what is done is kept", GO_ON)
    # By the driver's own clock: how long it took to be given a turn at all is the machine's doing.
    events = [json.loads(line) for line in log.read_text().splitlines()]
    at = [event["event"] for event in events].index("scheduler_gone")
    begun = [event["stage"] for event in events[:at] if event["event"] == "stage_begun"]
    assert begun[-1] == fault.stage
    assert events[-1]["event"] == "run_ended"
    assert events[-1]["at"] - events[at]["at"] < LOST_AFTER + LEAVING
    return [last]


def _misbehave(fault: Fault, bench: Bench, do: str, times: int | None = None) -> tuple[str, int]:
    chance = random.Random(fault.seed)
    variable, block = chance.choice(VARIABLES), chance.randrange(RECORDS["fill"] // len(VARIABLES))
    more = {} if times is None else {"times": times}
    bench.order(do, stage="fill", after=0, variable=variable, block=block, bytes=TOO_MUCH[fault.method], **more)
    return variable, block


def _check_block_failed(last: Ended, bench: Bench, variable: str, reason: str) -> None:
    n = RECORDS["fill"]
    check_failed(
        last,
        rf"1 of {n} blocks failed in the fill, all others are done: block \(.*\) at \(.*\) of '{variable}': {reason}",
        f"mend that and {GO_ON}",
    )
    assert len(list((bench.out / "work" / "records" / "fill").glob("*.json"))) == n - 1


def model_fails(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the model raise on one block."""
    variable, _ = _misbehave(fault, bench, fault.detail)
    last = bench.start(fault.how).end()
    reason = {"raise": "FloatingPointError: the model met", "memory-error": "MemoryError: Unable"}[fault.detail]
    _check_block_failed(last, bench, variable, reason)
    return [last]


def model_deadly(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the model take down every worker that tries one block."""
    variable, _ = _misbehave(fault, bench, fault.detail)
    last = bench.start("driver").end()
    _check_block_failed(last, bench, variable, "its worker died each time it was tried")
    return [last]


def model_kills_shares(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the model kill one share after the other, until one gives its block up."""
    variable, _ = _misbehave(fault, bench, fault.detail)
    ends = []
    for _ in range(3):
        ends.append(bench.start("share").end())
        check_killed(ends[-1])
    ends.append(bench.start("share").end())
    _check_block_failed(ends[-1], bench, variable, "3 processes died at it")
    return ends


def model_once(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the model take down one worker on one block; the next one can do it."""
    _misbehave(fault, bench, fault.detail, times=1)
    check_fine(last := bench.start("driver").end(), bench)
    assert (bench.folder / "tried-1").exists()
    return [last]


def model_hangs(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the model hang on one block until the user loses patience."""
    variable, _ = _misbehave(fault, bench, "hang")
    patience = ("--block-timeout", "5") if fault.detail == "for ever" else ()
    run = bench.start(fault.how, *patience)
    wait_until("the model's hanging", (bench.folder / "tried-0").exists)
    if fault.detail == "for ever":
        _check_block_failed(last := run.end(), bench, variable, "its worker died .*, or took 5 s")
    else:
        os.kill(run.pid, signal.SIGTERM)
        check_failed(last := run.end(), INTERRUPTED)
    return [last]


def disk(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Take a small file system's last byte, or inode, at a moment; give it back afterwards."""
    place = bench.folder / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=4000", "stpipe-faults", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"a small file system can't be mounted here: {done.stderr.strip()}")
    bench.cleanups.append(lambda: subprocess.run(["umount", "-l", str(place)], check=True))
    bench.out = place / "out"
    bench.order("gate", stage=fault.stage, after=fault.after)
    run = bench.start(fault.how)
    bench.reached()
    ballast = place / "ballast"
    ballast.mkdir()
    if fault.detail == "full":
        _fill_up(ballast / "all")
    else:
        _use_inodes(ballast)
    bench.go()
    check_failed(last := run.end(), "No space left on device", GO_ON)
    shutil.rmtree(ballast)
    return [last]


def _fill_up(path: Path) -> None:
    """Write until nothing more goes in."""
    with path.open("wb", buffering=0) as file:
        for piece in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\x01" * piece)
            except OSError:
                continue


def _use_inodes(folder: Path) -> None:
    """Make files until no more can be made."""
    for number in range(10_000):
        try:
            (folder / str(number)).touch()
        except OSError:
            return


BEFORE = {"survey": "", "learn": "survey", "fill": "learn", "blend": "fill", "mosaic": "blend"}
"""Stages, and those that are over when they begin."""


def reads(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let reads of one chunk fail, or all reads be slow, from the beginning of a stage on."""
    chance = random.Random(fault.seed)
    variable = chance.choice(VARIABLES)
    box = [(0, 6), *((start := chance.choice((0, 40)), start + 8) for _ in range(2))]
    before = BEFORE[fault.stage]
    moment = {"stage": before or "survey", "after": RECORDS.get(before, 0)}
    if fault.detail == "slow":
        bench.order("read-slow", seconds=0.05, **moment)
        check_fine(last := bench.start(fault.how).end(), bench)
        return [last]
    store = "filled.zarr" if fault.stage == "mosaic" else "cube.zarr"
    more = {"times": 1} if "once" in fault.detail else {}
    bench.order("read-error", array=f"{store}/{variable}", box=box, **moment, **more)
    last = bench.start(fault.how).end()
    place = (
        rf"variable '{variable}' of .*{store} can't be read over" if more else rf"chunks? {variable}/c/.*{store} can't"
    )
    check_failed(last, place, "Input/output error", r"run the same command again to go on from here")
    return [last]


def _own_input(bench: Bench) -> Path:
    """Give the fault a copy of the input that it may harm."""
    bench.cube = bench.folder / "input" / "cube.zarr"
    copy_run(bench.scene.cube, bench.cube)
    return bench.cube


def input_cut(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Cut a chunk of the input short, then put it back."""
    chance, cube = random.Random(fault.seed), _own_input(bench)
    if fault.stage != "survey":
        bench.interrupted(fault.stage, fault.after)
    chunk = _chosen(cube, f"{chance.choice(VARIABLES)}/c/*/*/*", chance)
    content, times = chunk.read_bytes(), chunk.stat()
    chunk.write_bytes(content[: chance.randrange(1, len(content))])
    last = bench.start("share").end()
    check_failed(last, rf"chunk {'/'.join(chunk.parts[-5:])} of .* can't be read", f"mend the input and {GO_ON}")
    chunk.write_bytes(content)
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    return [last]


def input_touched(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Give the files of the input a new time: what was surveyed of them no longer counts."""
    cube = _own_input(bench)
    bench.interrupted(fault.stage, fault.after)
    for path in cube.rglob("*"):
        os.utime(path)
    return []


TARGETS = {
    "block": "work/blocks.zarr/v*/c/**/*",
    "overview": "work/overviews.zarr/v*_*/c/**/*",
    "tile": "work/filled.zarr/[nl]*/c/**/*",
    "learned": "work/learned/*.bin",
    "tiff": "geotiff/**/[!.]*.tif",
    "published": "filled.zarr/[nl]*/c/**/*",
    "metadata": "work/*.zarr/**/zarr.json",
    "store": "work/blocks.zarr",
    "plan": "work/plan.json",
    "outcome": "work/records/outcome.json",
}


def _chosen(root: Path, pattern: str, chance: random.Random) -> Path:
    """Choose one of the files, or folders, that match."""
    found = sorted(path for path in root.glob(pattern) if path.is_file() or pattern == TARGETS["store"])
    found = found or sorted(root.glob(pattern))
    assert found, f"nothing like {pattern} in {root}"
    return chance.choice(found)


PARTS = {
    "key": rb'"key": "(\w+)',
    "digest": rb'"(?:digest|sha256|[^"]*c/[\d/]+)": "(\w+)"',
    "name": rb'"(digest|sha256|files)": ',
    "sample": rb'"sample": "([^"]+)"',
    "counts": rb'"filled": \d*(\d)\b',
}
"""What is flipped of records, as a pattern's group."""


def flip(path: Path, out: Path, chance: random.Random, *, part: bytes | None, idle: bool) -> None:
    """Flip one bit of a file: of a part of it, or such that what is read of it is another, or is not (`idle`)."""
    whole = path.read_bytes()
    low, high = (0, len(whole)) if part is None else chance.choice(list(re.finditer(part, whole))).span(1)
    array = next((p for p in path.parents if "c" in path.relative_to(p).parts[:1] and (p / "zarr.json").exists()), None)
    array = None if out / "work" / "blocks.zarr" in path.parents else array
    # Of text the lowest bit, which leaves letters letters and digits digits; of base 64 only of digits.
    places = [at for at in range(low, high) if part != PARTS["sample"] or chr(whole[at]).isdigit()]
    before = _meaning(path, array)
    for _ in range(100_000):
        content = bytearray(whole)
        content[chance.choice(places)] ^= 1 << (chance.randrange(8) if part is None else 0)
        path.write_bytes(content)
        if (_meaning(path, array) == before) == idle:
            return
    raise AssertionError(f"no bit of {path} will do")


def _meaning(path: Path, array: Path | None) -> bytes:
    """Return what a file's bytes stand for: of chunks and GeoTIFFs the samples, of a survey's record its scale."""
    try:
        if array is not None:
            return np.asarray(zarr.open_array(str(array), mode="r")[...]).tobytes()
        if path.suffix == ".tif":
            with rasterio.open(path) as dataset:
                return bytes(dataset.read().tobytes())
    except Exception:  # noqa: BLE001 - codecs raise what they like
        return b"nothing"
    content = path.read_bytes()
    if path.parent.name == "survey" and (sample := re.search(PARTS["sample"], content)):
        samples = np.frombuffer(base64.b64decode(sample[1]), dtype=np.float64)
        return repr((location_and_spread(samples), re.sub(PARTS["sample"], b"", content))).encode()
    return content


def damage(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Flip a bit of a file of an interrupted run, cut it to nothing, or take it away."""
    copy_run(shelf.interrupted(fault.stage, fault.after), bench.out)
    chance = random.Random(fault.seed)
    verb, target, *stage = fault.detail.split()
    if target in {"record", *PARTS}:
        pattern = f"work/records/{stage[0]}/*.json"
    elif target == "records":
        pattern = f"work/records/{stage[0]}"
    else:
        pattern = TARGETS[target]
    victim = _chosen(bench.out, "work/records/survey/0*.json" if target == "sample" else pattern, chance)
    if verb.startswith("flip"):
        flip(victim, bench.out, chance, part=PARTS.get(target), idle=verb == "flip-idle")
    elif verb == "cut":
        victim.write_bytes(b"")
    elif victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink()
    if target == "outcome":  # nobody can say any more how many samples were filled
        check_failed(last := bench.start("share").end(), "record of the blend .* is gone; start anew with --overwrite")
        bench.advice = ("--overwrite",)
        return [last]
    if target == "published":  # shares don't look at it again, each of them the whole of it
        bench.driven = True
        bench.noted = "stpipe: note: the filled cube was no longer what had been written; what had changed of it was "
        bench.noted += "made again\n"
    return []


def stale(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Put what another run wrote in place of what this one did."""
    copy_run(shelf.interrupted(fault.stage, fault.after), bench.out)
    chance, other = random.Random(fault.seed), shelf.other()
    if "block" in fault.detail:
        block = _chosen(bench.out, TARGETS["block"], chance).relative_to(bench.out)
        swapped = [block]
        if fault.detail == "block":
            variable, where = block.parts[2], [int(part) for part in block.parts[-2:]]
            number = int(variable[1:]) * 16 + where[0] * 4 + where[1]
            swapped.append(Path("work", "records", "fill", f"{number:07d}.json"))
    else:
        swapped = [_chosen(bench.out, f"work/records/{fault.detail}/*.json", chance).relative_to(bench.out)]
    for path in swapped:
        assert (other / path).read_bytes() != (bench.out / path).read_bytes()
        shutil.copy2(other / path, bench.out / path)
    return []


def leftovers(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Leave halves of files under the names that writers use until they are whole."""
    copy_run(shelf.interrupted(fault.stage, fault.after), bench.out)
    chance = random.Random(fault.seed)
    mark = f"{chance.randrange(16**8):08x}"
    if fault.detail:
        half = bench.out / fault.detail.format(mark * 4)
        half.write_bytes(b'{"ru')
        return []
    chunks = [path for path in bench.out.glob("work/*.zarr/*/c/**/*") if path.is_file()]
    for path in chance.sample(chunks, 5):
        path.with_name(f"{path.name}.{mark * 4}.partial").write_bytes(path.read_bytes()[:7])
    for path in sorted(bench.out.glob("work/records/*/*.json")):
        path.with_name(f".{path.name}.{mark * 4}.partial").write_bytes(path.read_bytes()[:7])
    for path in sorted(bench.out.glob("geotiff/*/*.tif")):
        path.with_name(f".partial-{mark}-{path.name}").write_bytes(path.read_bytes()[:99])
        path.with_name(f".partial-{mark}-{path.name}.raw").write_bytes(path.read_bytes()[:9])
    return []


def clock(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Let the time of day jump by days, to and fro, in all of a run's processes."""
    chance = random.Random(fault.seed)
    jumps = ",".join(f"{chance.uniform(-10, 10) * 86_400:.3f}" for _ in range(50))
    check_fine(last := bench.start(fault.how, environment={"STPIPE_CLOCK": jumps}).end(), bench)
    return [last]


def dated(fault: Fault, bench: Bench, shelf: Shelf) -> list[Ended]:
    """Give files of the scratch the time of another year."""
    copy_run(shelf.interrupted(fault.stage, fault.after), bench.out)
    claims = sorted((bench.out / "work" / "claims").glob("*"))
    assert claims
    everything = [path for path in sorted(bench.out.rglob("*")) if path not in claims]
    day = 86_400
    when = day if fault.detail == "past" else time.time() + (day if fault.detail == "claim" else 3_650 * day)
    for path in claims if fault.detail == "claim" else everything:
        os.utime(path, (when, when))
    return []


STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        ended, share_lost, shares_lost, worker, own_worker, scheduler, model_fails, model_deadly, model_kills_shares,
        model_once, model_hangs, disk, reads, input_cut, input_touched, damage, stale, leftovers, clock, dated,
    )
}  # fmt: skip
"""What `Fault.story` names."""
