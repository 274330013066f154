"""The run on a real LocalCluster with a small filler: blocks equal the whole, failures stay where they are, resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from stpipe.core.plan import make_plan
from stpipe.core.ports import SceneFiller, VariableInfo
from stpipe.core.windows import Window
from stpipe.errors import ReadError, RunError
from stpipe.execution.clusters.connect import connect
from stpipe.execution.context import RunContext
from stpipe.execution.records import digest
from stpipe.execution.run import RunOutcome, run_blocks
from stpipe.execution.runners import ClusterRunner
from stpipe.io.objects import ArrayReader
from stpipe.io.scratch import (
    ZarrBlockStore,
    ZarrFieldStore,
    ZarrOverviewStore,
    create_array,
    forget_stores,
    open_array,
    read_checked,
)
from tests.execution.fillers import SumFiller, around

SHAPE = (5, 50, 70)
INFO = VariableInfo(name="v", dtype="float32", chunks=(5, 16, 16))


class ArrayProduct:
    """A product of three plain arrays."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self) -> None:
        import zarr

        group = zarr.open_group(self.path, mode="w")
        for name, dtype in (("v", "float32"), ("source", "uint8"), ("half", "float32")):
            create_array(group, name, shape=SHAPE, chunks=INFO.chunks, dtype=dtype)

    def write(self, variable: str, tile: Window, *arrays: np.ndarray) -> None:
        for name, values in zip(("v", "source", "half"), arrays, strict=True):
            open_array(self.path, name, "r+")[tile.slices] = values

    def digests(self, variable: str, tile: Window) -> dict[str, str]:
        return {"tile": digest(*self.read(variable, tile))}

    def read(self, variable: str, tile: Window) -> tuple[np.ndarray, ...]:
        return tuple(read_checked(open_array(self.path, name, "r+"), tile.slices) for name in ("v", "source", "half"))


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultyReader(ArrayReader):
    """Can't read one place until it is mended."""

    mended: str

    def read(self, variable: str, window: Window) -> Any:
        place = Window((0, 20, 20), (5, 21, 21))
        if window.intersect(place).size and not Path(self.mended).exists():
            raise ReadError("chunk v/c/0/1/1 of cube.zarr can't be read: broken")
        return super().read(variable, window)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with connect(scheduler=None, workers=2, memory_limit=2 * 2**30) as client:
        yield client


@pytest.fixture
def cube() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    values = rng.normal(10, 3, SHAPE).astype(np.float32)
    values[rng.random(SHAPE) < 0.4] = np.nan
    values[:, 30:50, 30:60] = 5  # no gap: a block here has nothing to do
    domain = np.ones(SHAPE[1:], dtype=bool)
    domain[:, 60:] = False
    return values, domain


def make_context(
    folder: Path, cube: tuple[np.ndarray, np.ndarray], filler: SumFiller, reader: Any = None
) -> RunContext:
    plan = make_plan(
        extent=SHAPE,
        variables=[INFO],
        filler=filler,
        identity="test",
        memory_limit=2 * 2**30,
        block=(5, 16, 16),
        overlap=(0, 4, 4),
    )
    context = RunContext(
        plan=plan,
        days=np.arange(5.0),
        reader=reader or ArrayReader(name="v", array=cube[0], domain=cube[1]),
        filler=filler,
        overviews=ZarrOverviewStore(str(folder / "overviews.zarr"), SHAPE, plan.survey_tiles.shape),
        scratch=ZarrBlockStore(str(folder / "blocks.zarr"), plan.blocks),
        product=ArrayProduct(str(folder / "product.zarr")),  # type: ignore[arg-type]
        records=str(folder / "records"),
        learned_folder=str(folder / "learned"),
        rounds_folder=str(folder / "rounds"),
        fields=ZarrFieldStore(str(folder / "fields.zarr"), SHAPE, plan.look_tiles.shape),
    )
    if not (folder / "product.zarr").exists():
        context.overviews.create(["v"])  # type: ignore[attr-defined]
        context.scratch.create(["v"])  # type: ignore[attr-defined]
        if isinstance(filler, SceneFiller):
            context.fields.create(["v"], filler.fields)  # type: ignore[attr-defined]
        context.product.create()  # type: ignore[attr-defined]
    return context


def start(context: RunContext) -> None:
    forget_stores()
    context.filler.prepare()


def go(client: Client, context: RunContext) -> RunOutcome:
    forget_stores()
    return run_blocks(ClusterRunner(client), context, start_worker=start)


def whole(cube: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The unblocked answer, from the definition."""
    values, domain = cube
    valid = np.isfinite(values) & domain
    location, spread = 0.0, 1.0  # a mean of neighbours follows the units
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = around(np.where(valid, (values - location) / spread, 0)) / around(valid.astype(float))
    return np.where(valid | ~domain, values, mean)


def test_blocks_blended_equal_the_whole_scene(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SumFiller(calls=tmp_path / "calls"))
    outcome = go(client, context)
    stored, source, half = context.product.read("v", Window.of(SHAPE))
    values, domain = cube
    observed = np.isfinite(values) & domain
    assert stored[observed].tobytes() == values[observed].tobytes()
    np.testing.assert_allclose(stored, whole(cube), rtol=1e-5)
    assert (source[observed] == 1).all()
    assert (source[:, ~domain] == 0).all()
    assert (half[observed] == 0).all()
    counts = outcome.counts["v"]
    assert sum(counts.values()) == values.size
    assert counts["observed"] == observed.sum()
    calls = (tmp_path / "calls" / "calls").read_text().splitlines()
    assert len(calls) == outcome.blocks_with_gaps < context.plan.n_blocks


def test_a_second_run_does_nothing(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SumFiller(calls=tmp_path / "calls"))
    go(client, context)
    before = (tmp_path / "calls" / "calls").read_text()
    again = go(client, context)
    assert (tmp_path / "calls" / "calls").read_text() == before
    assert all(stage.done == 0 and stage.had > 0 for stage in again.stages.values())


@pytest.mark.parametrize("damage", ["flip", "delete", "forget"])
def test_damaged_scratch_is_noticed_and_made_again(client: Client, tmp_path: Path, cube: Any, damage: str) -> None:
    context = make_context(tmp_path, cube, SumFiller())
    go(client, context)
    expected = context.product.read("v", Window.of(SHAPE))
    chunk = max((tmp_path / "blocks.zarr").rglob("c/*/*/*/*"), key=lambda p: p.stat().st_size)
    if damage == "flip":
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 4
        chunk.write_bytes(content)
    elif damage == "delete":
        chunk.unlink()
    else:
        sorted((tmp_path / "records" / "fill").glob("*.json"))[3].unlink()
    for record in (tmp_path / "records" / "blend").glob("*.json"):
        record.unlink()
    outcome = go(client, context)
    for a, b in zip(context.product.read("v", Window.of(SHAPE)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert outcome.stages["blend"].done == context.plan.n_blend_tiles


def test_damaged_overviews_are_made_again(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SumFiller())
    go(client, context)
    next((tmp_path / "overviews.zarr").rglob("v0_level3/c/0/0/0/0")).unlink()
    again = go(client, context)
    assert again.stages["survey"].done == 1  # the tile; what is worked out of all tiles is what it was
    assert again.stages["fill"].done == 0  # the survey is what it was, so the blocks still count


@pytest.mark.parametrize("lost", ["v0/zarr.json", "zarr.json"])
def test_a_store_that_loses_what_it_says_of_itself_costs_no_block(
    client: Client, tmp_path: Path, cube: Any, lost: str
) -> None:
    context = make_context(tmp_path, cube, SumFiller(calls=tmp_path / "calls"))
    go(client, context)
    calls = (tmp_path / "calls" / "calls").read_text()
    said = tmp_path / "blocks.zarr" / lost
    content = said.read_bytes()
    said.unlink()
    for number in range(context.plan.n_blend_tiles):
        context.book("blend").drop(f"{number:07d}")
    with pytest.raises(RunError, match=r"(has no array 'v0' that|blocks\.zarr) can(.t)? be opened .*run the same"):
        go(client, context)
    said.write_bytes(content)
    go(client, context)
    assert (tmp_path / "calls" / "calls").read_text() == calls


def test_a_failing_block_leaves_all_others_done(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SumFiller(calls=tmp_path / "calls"))
    poisoned = context.plan.blocks.block(5).read.start
    filler = SumFiller(calls=tmp_path / "calls", fails_at=(poisoned,))
    context = replace(context, filler=filler)
    with pytest.raises(
        RunError, match=r"1 of \d+ blocks failed in the fill, all others are done: block .* made to fail"
    ):
        go(client, context)
    first = (tmp_path / "calls" / "calls").read_text().splitlines()
    (tmp_path / "calls" / "mended").touch()
    go(client, context)
    assert len((tmp_path / "calls" / "calls").read_text().splitlines()) == len(first) + 1
    np.testing.assert_allclose(context.product.read("v", Window.of(SHAPE))[0], whole(cube), rtol=1e-5)


def test_an_unreadable_chunk_is_named_and_mended(client: Client, tmp_path: Path, cube: Any) -> None:
    reader = FaultyReader(name="v", array=cube[0], domain=cube[1], mended=str(tmp_path / "mended"))
    context = make_context(tmp_path, cube, SumFiller(), reader)
    with pytest.raises(RunError, match=r"chunk v/c/0/1/1 of cube.zarr can't be read.*mend the input and run"):
        go(client, context)
    (tmp_path / "mended").touch()
    go(client, context)
    np.testing.assert_allclose(context.product.read("v", Window.of(SHAPE))[0], whole(cube), rtol=1e-5)


def test_records_of_another_run_count_for_nothing(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SumFiller(calls=tmp_path / "calls"))
    go(client, context)
    calls = len((tmp_path / "calls" / "calls").read_text().splitlines())
    for path in (tmp_path / "records" / "fill").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "key": "of another run"}))
    (tmp_path / "records" / "fill" / "0000001.json").write_text('{"half a rec')
    go(client, context)
    assert len((tmp_path / "calls" / "calls").read_text().splitlines()) == 2 * calls
