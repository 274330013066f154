"""Learning between survey and fill: the same however it was disturbed, blocked or lazy, and kept with the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import stpipe
from stpipe.core.plan import Plan, make_plan
from stpipe.core.ports import Learner, VariableInfo
from stpipe.core.survey import location_and_spread
from stpipe.core.windows import Triple, Window
from stpipe.errors import PlanError, RunError, ScratchError
from stpipe.execution.clusters.connect import connect
from stpipe.execution.context import Scale
from stpipe.execution.learning import filler_for, read_crop
from stpipe.execution.stages import StageResult
from tests.execution.fillers import LearningFiller, SumFiller
from tests.execution.test_run import INFO, SHAPE, cube, go, make_context, whole

__all__ = ["cube"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with connect(scheduler=None, workers=2, memory_limit=2 * 2**30) as client:
        yield client


def expected(cube: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The answer from the definition: the mean of the neighbours, and the mean of all there is on top."""
    values, domain = cube
    valid = np.isfinite(values) & domain
    location, _ = location_and_spread(values[valid].astype(np.float64))
    return np.where(valid | ~domain, values, whole(cube) + (values[valid].mean(dtype=np.float64) - location))


def product(context: Any) -> tuple[np.ndarray, ...]:
    arrays: tuple[np.ndarray, ...] = context.product.read("v", Window.of(SHAPE))
    return arrays


def learnt(folder: Path) -> int:
    return len((folder / "calls" / "learnt").read_text().splitlines())


def ended(stage: StageResult) -> tuple[int, int]:
    return stage.done, stage.had


def test_blocks_filled_by_what_was_learned_equal_the_whole_scene(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls"))
    outcome = go(client, context)
    np.testing.assert_allclose(product(context)[0], expected(cube), rtol=1e-5)
    assert ended(outcome.stages["learn"]) == (1, 0)
    told = outcome.learned["v"]
    content = (tmp_path / "learned" / "0000000.bin").read_bytes()
    assert (told["bytes"], told["sha256"]) == (len(content), outcome.context.learned["v"])
    assert told["identity"]["lesson"] == json.loads(content)[0]
    assert told["notes"] == [f"learned {json.loads(content)[0]:.3f}"]

    again = go(client, context)
    assert all(stage.done == 0 and stage.had > 0 for stage in again.stages.values())
    assert (again.learned, learnt(tmp_path)) == (outcome.learned, 1)


def test_a_death_while_learning_leaves_no_trace(client: Client, tmp_path: Path, cube: Any) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "deadly").touch()
    context = make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls"))
    go(client, context)
    assert learnt(tmp_path) == 2
    np.testing.assert_allclose(product(context)[0], expected(cube), rtol=1e-5)


def test_a_run_that_could_not_learn_goes_on_from_there(client: Client, tmp_path: Path, cube: Any) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "broken").touch()
    context = make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls"))
    with pytest.raises(RunError, match=r"1 of 1 variables failed in the learn.*variable 'v': .*nothing to learn from"):
        go(client, context)
    assert not (tmp_path / "learned").exists()
    (tmp_path / "calls" / "broken").unlink()
    outcome = go(client, context)
    assert ended(outcome.stages["survey"])[0] == 0
    np.testing.assert_allclose(product(context)[0], expected(cube), rtol=1e-5)


@pytest.mark.parametrize("damage", ["flip", "forget"])
def test_what_was_learned_is_learned_again_where_it_is_damaged(
    client: Client, tmp_path: Path, cube: Any, damage: str
) -> None:
    context = make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls"))
    before = go(client, context)
    arrays = product(context)
    spoil(tmp_path, damage)
    after = go(client, context)
    assert learnt(tmp_path) == 2
    # It learned the very same, so nothing that was filled with it is lost.
    assert after.stages["fill"].done == 0
    assert before.learned["v"]["sha256"] == after.learned["v"]["sha256"]
    for now, then in zip(product(context), arrays, strict=True):
        np.testing.assert_array_equal(now, then)


def test_blocks_of_another_learning_count_for_nothing(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls"))
    first = go(client, context)
    arrays = product(context)
    spoil(tmp_path, "flip")
    (tmp_path / "calls" / "mood").write_text("100")
    second = go(client, context)
    assert second.stages["fill"].done == first.stages["fill"].done > 0
    assert second.stages["blend"].done == context.plan.n_blend_tiles
    filled = arrays[1] == 2
    higher = 100 * second.context.scales["v"].spread
    np.testing.assert_allclose(product(context)[0][filled] - arrays[0][filled], higher, rtol=1e-4)


def spoil(folder: Path, damage: str) -> None:
    path, record = folder / "learned" / "0000000.bin", folder / "records" / "learn" / "0000000.json"
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[3] ^= 1
        path.write_bytes(content)
    else:
        record.unlink()


def test_a_worker_refuses_what_is_not_what_was_learned(tmp_path: Path, cube: Any) -> None:
    context = replace(
        make_context(tmp_path, cube, LearningFiller(calls=tmp_path / "calls")), learned={"v": "of other bytes"}
    )
    with pytest.raises(ScratchError, match=r"what the method learned is gone from .*0000000\.bin"):
        filler_for(context, 0)
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "0000000.bin").write_bytes(b"[0.5, 1, 0]")
    with pytest.raises(ScratchError, match=r"is not in .*0000000\.bin as it was written"):
        filler_for(context, 0)


def test_a_crop_is_read_as_blocks_are(tmp_path: Path, cube: Any) -> None:
    values, domain = cube
    context = replace(make_context(tmp_path, cube, SumFiller()), scales={"v": Scale(location=9.0, spread=2.0)})
    window = Window((0, 8, 40), (5, 32, 66))
    crop = read_crop(context, INFO, window)
    valid = (np.isfinite(values) & domain)[window.slices]
    np.testing.assert_array_equal(crop.valid, valid)
    np.testing.assert_allclose(crop.values, np.where(valid, (values[window.slices] - 9) / 2, 0), rtol=1e-6)
    assert crop.domain is not None
    np.testing.assert_array_equal(crop.domain, domain[window.slices[1:]])


def planned(extent: Triple, memory_limit: int, **more: Any) -> Plan:
    info = VariableInfo(name="v", dtype="int16", chunks=(min(8, extent[0]), 64, 64))
    return make_plan(
        extent=extent,
        variables=[info],
        filler=LearningFiller(**more),
        identity="test",
        memory_limit=memory_limit,
        block=(min(4, extent[0]), 64, 64),
    )


@pytest.mark.parametrize("extent", [(30, 2000, 2000), (1000, 300, 90), (3, 40, 50)])
def test_crops_shrink_until_the_memory_holds_them(extent: Triple) -> None:
    assert isinstance(LearningFiller(), Learner)
    sizes = []
    for limit in (450, 600, 1200, 4000):
        plan = planned(extent, limit * 2**20, learn_sample_bytes=100)
        assert plan.memory.learn <= 0.75 * limit * 2**20
        assert plan.memory.peak >= plan.memory.learn > LearningFiller().process_bytes
        sizes.append(sum(crop.size for crop in plan.crops))
        assert plan.learn_seconds == pytest.approx(0.5e-6 * sizes[-1])
        assert all(Window.of(extent).contains(crop) for crop in plan.crops)
    assert sizes == sorted(sizes)
    assert (sizes[0] < sizes[-1]) == (extent[0] > 3)


def test_other_crops_are_another_run() -> None:
    small, large = (planned((30, 2000, 2000), limit * 2**20, learn_sample_bytes=100) for limit in (400, 1200))
    assert small.blocks == large.blocks
    assert small.run_id != large.run_id


def test_too_little_memory_to_learn_is_refused() -> None:
    with pytest.raises(PlanError, match=r"learning needs .* GiB to learn from the smallest part .* --memory-limit"):
        planned((1000, 300, 300), 400 * 2**20, learn_sample_bytes=3000)


def test_a_method_that_learns_nothing_plans_no_crops() -> None:
    plan = make_plan(extent=SHAPE, variables=[INFO], filler=SumFiller(), identity="test", memory_limit=2**30)
    assert (plan.crops, plan.memory.learn, plan.learn_seconds) == ((), 0, 0.0)
    assert "crops" not in plan.identity["geometry"]


def test_lazy_and_loaded_cubes_learn_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cube: Any) -> None:
    values, domain = cube
    monkeypatch.setattr("stpipe.io.api.make_filler", lambda *_, **__: LearningFiller(calls=tmp_path / "calls"))
    data = xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords={"time": np.datetime64("2024-01-01", "ns") + np.arange(5).astype("timedelta64[D]")},
        name="v",
    )
    land = xr.DataArray(domain, dims=("y", "x"))
    options: dict[str, Any] = {"domain": land, "block": (5, 16, 16), "overlap": (0, 4, 4)}
    now = stpipe.fill(data, **options)
    lazy = stpipe.fill(data.chunk(time=2, y=17, x=23), **options)
    assert learnt(tmp_path) == 1
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), now)
    assert learnt(tmp_path) == 2
    np.testing.assert_allclose(now.v, expected(cube), rtol=1e-5)
    stpipe.fill(data.fillna(0.0), **options)
    assert learnt(tmp_path) == 2  # without a gap there is nothing to learn for
