"""Rounds over the whole scene: sums of parts are the scene's, fields are the pixels', and damage is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from stpipe.core import plan
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.ports import SceneFiller
from stpipe.core.windows import Window
from stpipe.errors import ScratchError
from stpipe.execution import rounds
from stpipe.execution.clusters.connect import connect
from stpipe.execution.context import RunContext
from stpipe.execution.rounds import run_rounds, settled_filler
from stpipe.execution.run import finish_survey, run_blocks
from stpipe.execution.runners import ClusterRunner, Tasks
from stpipe.execution.tasks import complete_survey, survey_tile
from stpipe.io.scratch import forget_stores
from tests.execution.fillers import SceneMeanFiller, SumFiller
from tests.execution.test_run import SHAPE, cube, go, make_context, start

__all__ = ["cube"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with connect(scheduler=None, workers=2, memory_limit=2 * 2**30) as client:
        yield client


def plain(context: RunContext, tasks: Tasks) -> None:
    """Run tasks one after the other, right here."""
    for number in tasks.numbers:
        tasks.task(context, number)


def expected(values: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """The filled scene, from the definition."""
    valid = np.isfinite(values) & domain
    clean = np.where(valid, values, 0).astype(np.float64)
    means = clean.sum(axis=(1, 2)) / valid.sum(axis=(1, 2))
    off = np.where(valid, clean - means[:, None, None], 0).sum(axis=0) / np.maximum(valid.sum(axis=0), 1)
    return np.where(valid | ~domain, values, means[:, None, None] + off)


def test_blocks_know_the_whole_scene_and_each_pixel(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SceneMeanFiller(calls=tmp_path / "calls"))
    outcome = go(client, context)
    assert list(outcome.stages) == ["survey", "means", "offsets", "fill", "blend"]
    stored = context.product.read("v", Window.of(SHAPE))[0]
    np.testing.assert_allclose(stored, expected(*cube), rtol=1e-5)
    parts = context.plan.look_parts
    assert parts > 1
    looks = (tmp_path / "calls" / "looks").read_text().splitlines()
    assert len(looks) == len(set(looks)) == 2 * parts
    assert settled_filler(outcome.context, 0).pixels == SHAPE[1] * SHAPE[2]  # type: ignore[attr-defined]
    again = go(client, context)
    assert (tmp_path / "calls" / "looks").read_text().splitlines() == looks
    assert all(stage.done == 0 and stage.had > 0 for stage in again.stages.values())


def test_a_crop_is_a_scene_of_its_own(cube: Any) -> None:
    values, domain = cube
    valid = np.isfinite(values) & domain
    crop = Crop(
        values=np.where(valid, values, np.float32(0)),
        valid=valid,
        days=np.arange(5.0),
        window=Window.of(SHAPE),
        domain=domain,
    )
    made = fill_crop(SceneMeanFiller(), crop).values
    np.testing.assert_allclose(np.where(valid | ~domain, values, made), expected(values, domain), rtol=1e-5)
    assert isinstance(SceneMeanFiller(), SceneFiller)
    assert not isinstance(SumFiller(), SceneFiller)


def surveyed(folder: Path, cube: Any, **options: Any) -> RunContext:
    context = make_context(folder, cube, SceneMeanFiller(**options))
    forget_stores()
    context.filler.prepare()
    for number in range(len(context.plan.survey_tiles)):
        survey_tile(context, number)
    complete_survey(context, 0)
    return finish_survey(context)


@pytest.mark.parametrize(("fan", "parts"), [(2, 64), (3, 5), (20, 3), (32, 1)])
def test_files_are_added_up_in_groups_until_one_is_left(
    tmp_path: Path, cube: Any, monkeypatch: pytest.MonkeyPatch, fan: int, parts: int
) -> None:
    monkeypatch.setattr(plan, "PARTS", parts)
    monkeypatch.setattr(rounds, "FAN", fan)
    context = surveyed(tmp_path, cube)
    tiles = [tile for part in range(context.plan.look_parts) for tile in context.plan.look_part(part)]
    assert tiles == [context.plan.look_tiles.tile(n) for n in range(len(context.plan.look_tiles))]
    assert (context.plan.tiles_a_part > 1) == (parts < 64)
    done = settled_filler(run_rounds(context, [0], plain), 0)
    values, domain = cube
    valid = np.isfinite(values) & domain
    standard = (values - context.scales["v"].location) / context.scales["v"].spread
    means = np.where(valid, standard, 0).sum(axis=(1, 2), dtype=np.float64) / valid.sum(axis=(1, 2))
    np.testing.assert_allclose(done.means, means, atol=1e-6)  # type: ignore[attr-defined]
    assert done.pixels == SHAPE[1] * SHAPE[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["flipped sums", "lost sums", "flipped field", "lost field", "lost record"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_is_damaged_between_runs_is_made_again(tmp_path: Path, cube: Any, damage: str, number: int) -> None:
    context = surveyed(tmp_path, cube, calls=tmp_path / "calls")
    before = run_rounds(context, [0], plain)
    looks = (tmp_path / "calls" / "looks").read_text().splitlines()
    if "field" in damage:
        place = next((tmp_path / "fields.zarr").rglob("c/0/1/2"))
    elif "record" in damage:
        place = tmp_path / "records" / f"round{number}" / "0-0000007.json"
    else:
        place = tmp_path / "rounds" / f"{number}" / "0-0000007.npz"
    if "flipped" in damage:
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 4
        place.write_bytes(content)
    else:
        place.unlink()
    forget_stores()
    after = run_rounds(context, [0], plain)
    assert after.settled == before.settled
    new = (tmp_path / "calls" / "looks").read_text().splitlines()[len(looks) :]
    assert len(new) == 1
    assert new[0].startswith("1" if "field" in damage else str(number))


@pytest.mark.parametrize("damage", ["flipped", "lost", "no archive"])
def test_a_block_does_not_go_on_with_other_sums(tmp_path: Path, cube: Any, damage: str) -> None:
    context = run_rounds(surveyed(tmp_path, cube), [0], plain)
    place = Path(context.settled["v"][0].file)
    if damage == "lost":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-1] if damage == "flipped" else b"no archive")
    with pytest.raises(ScratchError, match="gone from" if damage == "lost" else "not in .* as they were written"):
        settled_filler(context, 0)


def test_other_sums_make_other_blocks(client: Client, tmp_path: Path, cube: Any) -> None:
    context = make_context(tmp_path, cube, SceneMeanFiller())
    runner = ClusterRunner(client)
    one = run_blocks(runner, context, start_worker=start).context
    values, domain = cube
    other = values.copy()
    other[0, 5, 5] = 40.0 if np.isfinite(values[0, 5, 5]) else np.nan
    other[:, 0, 0] = 11.0
    two = run_blocks(
        runner, make_context(tmp_path / "other", (other, domain), SceneMeanFiller()), start_worker=start
    ).context
    assert one.rounds_key != two.rounds_key
    assert one.rounds_key in one.book("fill").key
