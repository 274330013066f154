"""The default method: equal under blocks, deaf to gaps, and honest about where it only passes its guides on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.ports import BlockInput, Filler, Prediction
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window
from stpipe.errors import ModelFileError, RunError, ShapeError
from stpipe.methods import pconv
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pconv import PConvFiller, pconv_filler, sub_windows, within_reach
from stpipe.methods.pyramid import PyramidFiller
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet
from stpipe.model.weights import save_model

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SPEC = UNetSpec(filters=(4, 6), head_filters=4)


def write_model(path: Path, seed: int, calibration: float = 1.5) -> Path:
    network, rng = build_unet(SPEC), np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))
    save_model(path, network, SPEC, calibration=calibration, provenance={})
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PConvFiller:
    return pconv_filler(str(write_model(tmp_path_factory.mktemp("model") / "small.keras", seed=0)))


def whole(values: NDArray[np.float32], valid: NDArray[np.bool_], days: NDArray[np.float64]) -> BlockInput:
    clean = np.where(valid, values, 0).astype(np.float64)
    return BlockInput(
        values=values,
        valid=valid,
        days=days,
        window=Window.of(values.shape),  # type: ignore[arg-type]
        overviews=ArrayOverviews.of(clean, valid),
        all_days=days,
    )


def scene(seed: int, shape: tuple[int, int, int], share: float = 0.5) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < share
    valid[:, : shape[1] // 4] &= rng.random(shape[0])[:, None, None] < 0.5
    return rng.standard_normal(shape).astype(np.float32), valid, np.cumsum(rng.uniform(1, 9, shape[0]))


def test_it_is_a_filler(small: PConvFiller) -> None:
    assert isinstance(small, Filler)
    assert small.name == "pconv"
    assert small.halo == (None, 32, 32)  # reach of the network 15, of the pyramid 16, in whole cells of 8
    assert small.stride == (1, 8, 8)
    assert pickle.loads(pickle.dumps(small)) == small


def test_the_network_claims_its_memory_once_a_process_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None, int]] = []
    monkeypatch.setattr(pconv.backend, "start", lambda **_: None)
    monkeypatch.setattr(
        pconv, "_runner", lambda model, digest: lambda inputs: seen.append((model, digest, inputs[..., 0].size))
    )
    pconv._claim.cache_clear()
    try:
        for model, digest in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "2"), ("a", "1")):
            PConvFiller(model=model, digest=digest).prepare()
    finally:
        pconv._claim.cache_clear()
    assert seen == [(*key, pconv.MOST_SAMPLES) for key in (("a", "1"), ("a", "2"), ("b", "2"))]


def test_blocks_give_what_the_whole_gives(small: PConvFiller) -> None:
    shape = (5, 112, 120)
    block = whole(*scene(0, shape))
    expected = small.fill(block)
    grid = BlockGrid(shape, BlockSpec(size=(5, 24, 40), halo=small.halo, stride=small.stride))
    assert len(grid) == 15
    for part in grid:
        read = part.read.slices
        cut = BlockInput(
            values=block.values[read],
            valid=block.valid[read],
            days=block.days,
            window=part.read,
            overviews=block.overviews,
            all_days=block.all_days,
        )
        got = small.fill(cut)
        for field in ("values", "half_width"):
            np.testing.assert_allclose(
                getattr(got, field)[part.trim], getattr(expected, field)[part.write.slices], rtol=2e-4, atol=2e-4
            )
        np.testing.assert_array_equal(got.fallback[part.trim], expected.fallback[part.write.slices])


def test_parts_of_a_window_give_what_the_window_gives(small: PConvFiller, monkeypatch: pytest.MonkeyPatch) -> None:
    block = whole(*scene(1, (12, 64, 80)))
    expected = small.fill(block)
    monkeypatch.setattr(pconv, "MOST_SAMPLES", 8 * 64 * 80)
    assert len(sub_windows((12, 64, 80), SPEC)) == 3
    got = small.fill(block)
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.half_width, expected.half_width, rtol=1e-4, atol=1e-4)


def test_there_is_an_answer_wherever_a_guide_has_one(small: PConvFiller) -> None:
    values, valid, days = scene(2, (6, 32, 32), 0.1)
    made = small.fill(whole(values, valid, days))
    assert np.isfinite(made.values).all()
    assert (made.half_width > 0).all()
    nothing = small.fill(whole(values, np.zeros_like(valid), days))
    assert np.isnan(nothing.values).all()
    assert np.isnan(nothing.half_width).all()
    assert nothing.fallback.all()


def test_beyond_the_networks_reach_the_guides_are_passed_on_and_marked(small: PConvFiller) -> None:
    values, valid, days = scene(3, (10, 64, 96), 0.6)
    valid[:, :, 48:] = False
    valid[:, 60, 90] = [True] + [False] * 9  # one observation far off, in the first frame
    made = small.fill(whole(values, valid, days))
    near = within_reach(valid, SPEC.halo)
    assert not near.all()
    assert made.fallback[~near].all()
    never = ~valid.any(axis=0)
    np.testing.assert_array_equal(made.fallback, ~near | never)
    block = whole(values, valid, days)
    low, high = np.sort([PyramidFiller().fill(block).values, LinearFiller().fill(block).values], axis=0)
    between = (made.values >= low - 1e-4) & (made.values <= high + 1e-4)
    assert between[~near].all()


def test_scale_and_shift_of_the_scene_are_the_surveys_work(small: PConvFiller) -> None:
    values, valid, days = scene(4, (4, 16, 16), 1.0)
    made = small.fill(whole(values, valid, days))
    assert np.isfinite(made.values).all()
    later = small.fill(whole(values, valid, days + 1000.0))
    np.testing.assert_allclose(made.values, later.values, rtol=1e-4, atol=1e-4)


def test_widths_scale_with_the_calibration(small: PConvFiller, tmp_path: Path) -> None:
    other = pconv_filler(str(write_model(tmp_path / "wide.keras", seed=0, calibration=3.0)))
    block = whole(*scene(5, (3, 16, 16)))
    np.testing.assert_allclose(other.fill(block).half_width, 2 * small.fill(block).half_width, rtol=1e-5)
    assert other.identity() != small.identity()


def test_a_model_that_changed_since_the_plan_stops_the_worker(tmp_path: Path) -> None:
    path = write_model(tmp_path / "moving.keras", seed=1)
    filler = pconv_filler(str(path))
    write_model(path, seed=2)
    with pytest.raises(RunError, match="has changed since the run was planned: its sha256"):
        filler.prepare()


def test_a_window_that_does_not_divide_is_refused(small: PConvFiller) -> None:
    with pytest.raises(ShapeError, match=r"multiple of \(1, 8, 8\) along \(time, y, x\), got \(3, 20, 24\)"):
        small.fill(whole(*scene(0, (3, 20, 24))))


def test_the_published_network_is_pointed_to_its_own_verb(data_folder: Path) -> None:
    with pytest.raises(ModelFileError, match="use it with 'stpipe blocks fill'"):
        pconv_filler(str(data_folder / "stpconv_s5p_co/S5P_CO_model.h5"))


@given(st.integers(1, 400), st.integers(1, 80), st.integers(1, 80))
def test_the_network_never_sees_more_than_it_may(frames: int, rows: int, columns: int) -> None:
    spec = UNetSpec()
    parts = sub_windows((frames, 8 * rows, 8 * columns), spec)
    assert parts[0].read.size <= pconv.MOST_SAMPLES
    if frames * rows * columns * 64 <= pconv.MOST_SAMPLES:
        assert len(parts) == 1


@given(st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40)), st.data())
def test_parts_write_what_is_wanted_once_and_see_the_network_s_reach(
    cells: tuple[int, int, int], data: st.DataObject
) -> None:
    spec, shape = UNetSpec(), (cells[0], 8 * cells[1], 8 * cells[2])
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    wanted = Window(start, stop)  # type: ignore[arg-type]
    times = np.zeros(shape, dtype=np.uint8)
    parts = sub_windows(shape, spec, wanted)
    for part in parts:
        times[part.write.slices] += 1
        assert part.read.shape == parts[0].read.shape
        assert Window.of(shape).contains(part.read)
        for axis, (halo, step) in enumerate(zip(spec.halo, spec.stride, strict=True)):
            assert part.read.start[axis] % step == 0
            assert part.read.shape[axis] % step == 0
            assert part.read.start[axis] <= max(0, part.write.start[axis] - halo)
            assert part.read.stop[axis] >= min(shape[axis], part.write.stop[axis] + halo)
    inside = np.zeros(shape, dtype=bool)
    inside[wanted.slices] = True
    np.testing.assert_array_equal(times, inside)


def test_what_is_not_wanted_is_not_worked_out_and_changes_nothing(small: PConvFiller) -> None:
    block = whole(*scene(4, (5, 112, 120)))
    wanted = Window((0, 40, 44), (5, 70, 77))
    some, everything = small.fill(replace(block, wanted=wanted)), small.fill(block)
    for field in ("values", "half_width"):
        got, expected = getattr(some, field), getattr(everything, field)
        np.testing.assert_allclose(got[wanted.slices], expected[wanted.slices], rtol=2e-4, atol=2e-4)
        assert np.isnan(got).sum() == got.size - wanted.size


@given(st.integers(0, 2**32), st.tuples(*[st.integers(0, 3)] * 3))
def test_reach_is_a_box_around_each_observation(seed: int, halo: tuple[int, int, int]) -> None:
    valid = np.random.default_rng(seed).random((4, 5, 6)) < 0.05
    expected = np.zeros_like(valid)
    for place in np.argwhere(valid):
        expected[tuple(slice(max(0, p - h), p + h + 1) for p, h in zip(place, halo, strict=True))] = True
    np.testing.assert_array_equal(within_reach(valid, halo), expected)


def mean_error(made: Prediction, truth: NDArray[np.float32], hidden: NDArray[np.bool_]) -> float:
    return float(np.abs(made.values - truth)[hidden].mean())


def test_the_packaged_weights_beat_both_guides_on_moving_weather_over_fields() -> None:
    rng = np.random.default_rng(11)
    t, y, x = np.indices((16, 64, 64))
    fields = np.kron(rng.standard_normal((8, 8)), np.ones((8, 8)))
    truth = (fields + 0.5 * np.sin(t / 2 + fields) + 0.4 * np.sin((x + 5 * t) / 9) * np.cos(y / 11)).astype(np.float32)
    hidden = np.zeros(truth.shape, dtype=bool)
    for frame in range(1, 15, 2):
        top, left = rng.integers(0, 32, 2)
        hidden[frame, top : top + 30, left : left + 30] = True
    block = whole(np.where(hidden, np.float32(0), truth), ~hidden, 5.0 * np.arange(16))
    own = mean_error(pconv_filler().fill(block), truth, hidden)
    for guide in (PyramidFiller(), LinearFiller()):
        assert own < 0.9 * mean_error(guide.fill(block), truth, hidden)


MEASURE = """
import sys
import numpy as np
from stpipe.core.ports import BlockInput
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window
from stpipe.methods.pconv import pconv_filler

shape = tuple(map(int, sys.argv[1:]))
filler = pconv_filler()
filler.prepare()
rng = np.random.default_rng(0)
values = rng.standard_normal(shape, dtype=np.float32)
valid = rng.random(shape, dtype=np.float32) < 0.5
days = np.arange(float(shape[0]))
frame = ArrayOverviews.of(values[:1].astype(float), valid[:1])
overviews = ArrayOverviews({level: array.repeat(shape[0], axis=1) for level, array in frame.arrays.items()})
window = Window.of(shape)
block = BlockInput(values=values, valid=valid, days=days, window=window, overviews=overviews, all_days=days)
filler.fill(block)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * peak / (filler.process_bytes + filler.sample_bytes * values.size))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("shape", [(8, 256, 256), (64, 256, 256), (16, 704, 704)], ids=["0.5 M", "4 M", "8 M"])
def test_a_fill_takes_the_memory_that_is_planned(shape: tuple[int, int, int]) -> None:
    words = [sys.executable, "-c", MEASURE, *map(str, shape)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0.85 < float(done.stdout) < 1.1
