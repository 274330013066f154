"""Runs whose cube, scratch and products lie in an object store: a real server of S3, and what can go wrong with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs", reason="needs stpipe[s3]")
pytest.importorskip("moto", reason="needs moto, a server of S3")

from stpipe.execution.storage import files_below, located
from stpipe.io.run_folder import tree_digest
from tests.cli.test_fill_scene import digests
from tests.integration.faults.runs import HOOKS, ROOT
from tests.integration.faults.scene import VARIABLES, WORDS, make_scene

pytestmark = pytest.mark.integration

PATIENCE = 240.0
RUN = (*WORDS, "--workers", "1", "--var", VARIABLES[0])
"""One variable: the server takes as long for a request as the run takes for a block."""


def wait_until(said: str, happened: Callable[[], Any]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{said} did not happen within {PATIENCE:g} s"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Store:
    """A server of S3 with one bucket."""

    orders: Path
    """What its door is told."""

    address: str
    """Of the bucket."""

    def order(self, **told: Any) -> None:
        """Tell the door what to do."""
        self.orders.with_suffix(".new").write_text(json.dumps(told))
        self.orders.with_suffix(".new").replace(self.orders)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a server that runs, found by this process and its children."""
    folder = tmp_path_factory.mktemp("s3")
    port, orders = folder / "port", folder / "orders.json"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.s3_server", str(port), str(orders)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    with pytest.MonkeyPatch.context() as patch:
        try:
            wait_until("the start of the server", lambda: port.exists() or server.poll() is not None)
            assert port.exists(), (folder / "log").read_text()
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port.read_text()}")
            patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            import s3fs

            s3fs.S3FileSystem().mkdir("cubes")
            yield Store(orders, "s3://cubes")
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def store(served: Store) -> Iterator[Store]:
    """Return the server with its door open."""
    served.order()
    yield served
    served.order()


@pytest.fixture(scope="module")
def scene(served: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a cube here, and the same in the store."""
    import s3fs

    cube = tmp_path_factory.mktemp("cube") / "cube.zarr"
    make_scene(cube)
    s3fs.S3FileSystem().put(str(cube), "cubes/cube.zarr", recursive=True)
    return cube, f"{served.address}/cube.zarr"


@pytest.fixture(scope="module")
def undisturbed(scene: tuple[Path, str]) -> dict[str, str]:
    """Return the digests of what a run makes of the cube here."""
    cube, _ = scene
    out = cube.with_name("here")
    assert stpipe("fill-scene", cube, "-o", out, *RUN).code == 0
    return digests(out)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    said: str


def begin(*words: str | Path) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    own = {"PYTHONPATH": os.pathsep.join((str(HOOKS), str(ROOT))), "STPIPE_PATIENCE": "3", "AWS_MAX_ATTEMPTS": "2"}
    return subprocess.Popen(
        [sys.executable, "-m", "stpipe.cli.main", *map(str, words)],
        env={**os.environ, **own},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def stpipe(*words: str | Path) -> Ended:
    """Run a command to its end."""
    with begin(*words) as process:
        try:
            _, said = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ended(process.returncode, said)


def products(out: str) -> dict[str, str]:
    """Return the digests in a run's report, after holding each of them against what lies there."""
    place = located(out)
    report = json.loads((place / "run.json").read_bytes())
    found = {product["path"]: product["sha256"] for product in report["products"]}
    for path, sha256 in found.items():
        assert tree_digest(place / path)[1] == sha256, path
    return found


def recorded(out: str, stage: str) -> int:
    """Return how many records of a stage there are."""
    folder = located(out) / "work" / "records" / stage
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def test_products_in_a_store_are_the_same_bytes_as_here(
    store: Store, scene: tuple[Path, str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = f"{store.address}/same"
    store.order(note=str(tmp_path / "requests"))
    assert stpipe("fill-scene", scene[1], "-o", out, *RUN).code == 0
    store.order()
    asked = [line.split() for line in (tmp_path / "requests").read_text().splitlines()]
    of_chunks = {method for method, path in asked if re.search(r"^/cubes/cube\.zarr/\w+/c/", path)}
    assert of_chunks == {"GET"}, "chunks are asked about before they are read"
    assert products(out) == undisturbed
    names = {"filled.zarr", "geotiff", "items.json", "quicklook.png", "report.html", "run.json"}
    assert {path.name for path in located(out).iterdir()} == names
    assert stpipe("report", out).code == 0
    again = stpipe("fill-scene", scene[1], "-o", out, *RUN)
    assert again.code == 0
    other = stpipe("fill-scene", scene[1], "-o", out, *RUN[2:], "--method", "pyramid")
    assert other.code == 2
    assert "holds a finished run of another kind" in other.said


def test_a_cube_in_a_store_is_filled_here_and_one_here_in_a_store(
    store: Store, scene: tuple[Path, str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assert stpipe("fill-scene", scene[1], "-o", tmp_path / "out", *RUN).code == 0
    assert digests(tmp_path / "out") == undisturbed
    out = f"{store.address}/from-here"
    assert stpipe("fill-scene", scene[0], "-o", out, *RUN).code == 0
    assert products(out) == undisturbed


@pytest.mark.parametrize("stage", ["survey", "fill", "blend", "mosaic"])
def test_a_killed_run_goes_on_in_the_store(
    store: Store, scene: tuple[Path, str], undisturbed: dict[str, str], stage: str
) -> None:
    out = f"{store.address}/killed-{stage}"
    store.order(slow=0.02)
    process = begin("fill-scene", scene[1], "-o", out, *RUN)
    try:
        wait_until(f"the {stage}", lambda: recorded(out, stage) or process.poll() is not None)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    store.order()
    assert process.returncode == -signal.SIGKILL
    assert not (located(out) / "run.json").exists()
    assert stpipe("fill-scene", scene[1], "-o", out, "--resume", *RUN).code == 0
    assert products(out) == undisturbed


def test_a_second_driver_is_told_of_the_first(store: Store, scene: tuple[Path, str]) -> None:
    out = f"{store.address}/two"
    store.order(slow=0.05)
    process = begin("fill-scene", scene[1], "-o", out, *RUN)
    try:
        wait_until("the survey", lambda: recorded(out, "survey") or process.poll() is not None)
        second = stpipe("fill-scene", scene[1], "-o", out, *RUN)
        assert process.poll() is None, "the first driver ended before the second one"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert second.code == 2
    assert re.search(r"another process is filling into \S+; wait for it or end it", second.said)


def test_a_busy_store_is_asked_again(store: Store, scene: tuple[Path, str], undisturbed: dict[str, str]) -> None:
    out = f"{store.address}/busy"
    store.order(busy=0.05)
    assert stpipe("fill-scene", scene[1], "-o", out, *RUN).code == 0
    store.order()
    assert products(out) == undisturbed


def test_a_store_that_goes_away_ends_the_run_with_a_line_and_it_goes_on_later(
    store: Store, scene: tuple[Path, str], undisturbed: dict[str, str]
) -> None:
    out = f"{store.address}/away"
    store.order(slow=0.02)
    process = begin("fill-scene", scene[1], "-o", out, *RUN)
    try:
        wait_until("the fill", lambda: recorded(out, "fill") or process.poll() is not None)
        store.order(away=True)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    store.order()
    assert process.returncode == 1
    assert said.count("stpipe: error:") == 1
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert stpipe("fill-scene", scene[1], "-o", out, *RUN).code == 0
    assert products(out) == undisturbed


def test_what_was_changed_in_the_scratch_is_made_again(
    store: Store, scene: tuple[Path, str], undisturbed: dict[str, str]
) -> None:
    out = f"{store.address}/flipped"
    assert stpipe("fill-scene", scene[1], "-o", out, *RUN, "--keep-work").code == 0
    place = located(out)
    blocks = place / "work" / "blocks.zarr"
    chunks = [blocks / name for name in files_below(blocks) if "/c/" in name]
    content = bytearray(chunks[0].read_bytes())
    content[len(content) // 2] ^= 1
    chunks[0].write_bytes(bytes(content))
    chunks[1].unlink()
    for name in ("run.json", "quicklook.png"):
        (place / name).unlink()
    fs: Any = place
    fs.fs.rm(f"{fs.path}/filled.zarr", recursive=True)
    made = stpipe("fill-scene", scene[1], "-o", out, *RUN, "--keep-work")
    assert made.code == 0
    assert products(out) == undisturbed


@pytest.mark.parametrize("do", ["overwrite", "mosaic"])
def test_what_comes_after(store: Store, scene: tuple[Path, str], undisturbed: dict[str, str], do: str) -> None:
    out = f"{store.address}/after-{do}"
    assert stpipe("fill-scene", scene[1], "-o", out, *RUN[2:], "--method", "pyramid").code == 0
    if do == "overwrite":
        assert stpipe("fill-scene", scene[1], "-o", out, *RUN, "--overwrite").code == 0
        assert products(out) == undisturbed
    else:
        before = {name: sha256 for name, sha256 in products(out).items() if name.startswith("geotiff/")}
        words = ("mosaic", out, "-o", f"{out}-tiffs")
        assert stpipe(*words).code == 0
        assert {f"geotiff/{name}": tree_digest(located(f"{out}-tiffs") / name)[1] for name in tiffs(out)} == before
        assert stpipe(*words).code == 0


def tiffs(out: str) -> list[str]:
    """Return the names of the GeoTIFFs that were written beside a run."""
    return list(files_below(located(f"{out}-tiffs")))


def test_verbs_that_read_take_an_address(store: Store, scene: tuple[Path, str], tmp_path: Path) -> None:
    cube = scene[1]
    assert stpipe("info", cube).code == 0
    assert stpipe("plan", cube, "--method", "linear").code == 0
    assert stpipe("gaps", cube, "-o", tmp_path / "gaps").code == 0
    assert stpipe("evaluate", cube, "--var", VARIABLES[0], "--method", "linear").code == 0
    refused = stpipe("gaps", cube)
    assert refused.code == 2
    assert "say with -o" in refused.said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("info", "s3://cubes/none.zarr"), "there is nothing under s3://cubes/none.zarr"),
        (("info", "s3://nobody/none.zarr"), "there is no bucket nobody"),
        (("info", "s3:///none.zarr"), "names no bucket"),
        (("info", "s3://cubes/a/../none.zarr"), "no name in a store"),
        (("info", "s3://cubes"), "is not a Zarr group.*inside it: cube.zarr"),
        (("info", "s3://cubes/cube.zarr/ndvi/zarr.json"), "is a file"),
        (("info", "nowhere://cubes/cube.zarr"), "no address that fsspec knows"),
        (("fill-scene", "s3://cubes/cube.zarr", "-o", "s3://nobody/out"), "there is no bucket nobody"),
        (("fill-scene", "s3://cubes/cube.zarr", "-o", "s3://cubes"), "is a whole bucket"),
        (("fill-scene", "s3://cubes/cube.zarr", "-o", "s3://cubes/cube.zarr/out"), "lies in the input"),
        (("fill-scene", "s3://cubes/cube.zarr", "-o", "memory://out"), "can't be written to"),
        (("fill-scene", "s3://cubes/cube.zarr", "--shard", "1/2", "--memory-limit", "2GiB"), "--shard needs an output"),
        (("fill-scene", "s3://cubes/cube.zarr", "--aoi", "s3://cubes/a.json"), "--aoi takes a path of this machine"),
        (("gaps", "s3://cubes/cube.zarr", "-o", "s3://cubes/gaps"), "-o takes a path of this machine"),
        (("mosaic", "s3://cubes/cube.zarr"), "say with -o where"),
        (("ingest", "x.tif", "-o", "s3://cubes/new.zarr"), "takes a path of this machine"),
    ],
)
def test_addresses_that_are_refused(
    store: Store, scene: tuple[Path, str], words: tuple[str, ...], message: str
) -> None:
    ended = stpipe(*words)
    assert ended.code == 2
    assert re.search(message, ended.said), ended.said
    assert ended.said.startswith("stpipe: error: ")
    assert ended.said.count("\n") == 1


def test_a_store_that_does_not_answer_is_said_so_soon(
    store: Store, scene: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    ended = stpipe("info", scene[1])
    assert ended.code == 2
    assert "can't be reached" in ended.said
    assert ended.said.count("\n") == 1
