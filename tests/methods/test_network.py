"""The network over a block: parts give what the whole gives, and only what is wanted is worked out."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.crops import block_of
from stpipe.core.windows import Triple, Window
from stpipe.errors import ModelFileError, RunError
from stpipe.methods import network as network_module
from stpipe.methods.guides import GuideMaker, Guides, Lie, lie
from stpipe.methods.mixing import Mixture
from stpipe.methods.network import Network, network_of, sub_windows, wanted_of, within_reach
from stpipe.model.features import GUIDE_COUNT, GUIDES, scale_of
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet
from stpipe.model.weights import read_info, save_model
from tests.methods.networks import MIXTURE, SPEC, write_model
from tests.methods.scenes import made_up_scene

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return network_of(write_model(tmp_path_factory.mktemp("model") / "small.keras"))


def guides_of(seed: int, shape: Triple, wanted: Window | None = None) -> tuple[Guides, Lie]:
    block = replace(block_of(made_up_scene(seed, shape)[0], (1, 8, 8)), wanted=wanted)
    made = GuideMaker(margin=24).make(block)
    return made, lie(made.block)


def test_it_says_what_it_needs_and_who_it_is(small: Network, tmp_path: Path) -> None:
    assert small.spec == SPEC
    assert small.margin == 16  # a reach of 15, in whole cells
    assert small.mixture == Mixture(MIXTURE)
    assert pickle.loads(pickle.dumps(small)) == small
    other = network_of(write_model(tmp_path / "other.keras", seed=1))
    assert small.identity() != other.identity()
    assert small.digest == read_info(small.model).digest == small.identity()["model"]


@pytest.mark.parametrize("most", [8 * 64 * 80, 7 * 64 * 64], ids=["fewer frames", "fewer frames and pixels"])
def test_parts_give_what_the_whole_gives(small: Network, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    made, place = guides_of(1, (12, 64, 80))
    mixture = Mixture.even(GUIDE_COUNT)
    expected = small.refine(made, place, mixture)
    monkeypatch.setattr(network_module, "MOST_SAMPLES", most)
    assert len(sub_windows((12, 64, 80), SPEC)) > 2
    for got, whole in zip(small.refine(made, place, mixture), expected, strict=True):
        assert got.dtype == np.float32
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-4)


def test_only_what_is_wanted_is_worked_out(small: Network) -> None:
    shape = (4, 64, 72)
    wanted = Window((1, 20, 30), (3, 41, 64))
    some, everything = (small.refine(*guides_of(2, shape, part), small.mixture) for part in (wanted, None))
    for got, expected in zip(some, everything, strict=True):
        np.testing.assert_allclose(got[wanted.slices], expected[wanted.slices], rtol=1e-4, atol=1e-4)
        assert np.isnan(got).sum() == got.size - wanted.size


def test_a_fresh_network_gives_the_mean_that_it_was_given_and_calibrated_widths(tmp_path: Path) -> None:
    fresh = network_of(write_model(tmp_path / "fresh.keras", None, calibration=2.5))
    made, place = guides_of(3, (5, 32, 40))
    guides = [made.values[name] for name in GUIDES]
    for mixture in (fresh.mixture, Mixture.even(GUIDE_COUNT), Mixture.only(3, GUIDE_COUNT)):
        values, half_width = fresh.refine(made, place, mixture)
        np.testing.assert_allclose(values, mixture.mean(guides, place.distance), rtol=1e-5, atol=1e-6)
        expected = 2.5 * scale_of([made.half_widths[name] for name in ("pyramid", "linear", "eof")])
        np.testing.assert_allclose(half_width, expected, rtol=1e-5)


def test_what_lies_under_gaps_and_further_guides_have_no_say(small: Network) -> None:
    made, place = guides_of(4, (5, 32, 40))
    valid = made.block.valid
    dirty = replace(
        made,
        block=replace(made.block, values=np.where(valid, made.block.values, np.float32(np.nan))),
        values={**made.values, "kriging": np.full(valid.shape, 1e6, np.float32)},
    )
    for clean, other in zip(
        small.refine(made, place, small.mixture), small.refine(dirty, place, small.mixture), strict=True
    ):
        np.testing.assert_array_equal(clean, other)


def test_what_is_wanted_is_counted_from_the_start_of_the_block() -> None:
    block = block_of(made_up_scene(0, (3, 16, 24))[0], (1, 8, 8))
    assert wanted_of(replace(block, wanted=None)) == Window.of((3, 16, 24))
    moved = replace(
        block,
        values=block.values[:, 8:, 8:],
        valid=block.valid[:, 8:, 8:],
        window=Window((0, 8, 8), (3, 16, 24)),
        wanted=Window((1, 4, 10), (3, 16, 99)),
    )
    assert wanted_of(moved) == Window((1, 0, 2), (3, 8, 16))


def test_it_claims_its_memory_once_a_process_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None, int]] = []
    monkeypatch.setattr(network_module.backend, "start", lambda **_: None)
    monkeypatch.setattr(
        network_module,
        "_runner",
        lambda model, digest: lambda inputs: seen.append((model, digest, inputs[..., 0].size)),
    )
    network_module._claim.cache_clear()
    try:
        for model, digest in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "2"), ("a", "1")):
            Network(model=model, digest=digest).prepare()
    finally:
        network_module._claim.cache_clear()
    assert seen == [(*key, network_module.MOST_SAMPLES) for key in (("a", "1"), ("a", "2"), ("b", "2"))]


def test_a_model_that_changed_since_the_plan_stops_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "moving.keras"
    network = network_of(write_model(path, seed=1))
    write_model(path, seed=2)
    with pytest.raises(RunError, match="has changed since the run was planned: its sha256"):
        network.load()


def test_the_published_network_is_pointed_to_its_own_verb(data_folder: Path) -> None:
    with pytest.raises(ModelFileError, match="use it with 'stpipe blocks fill'"):
        network_of(str(data_folder / "stpconv_s5p_co/S5P_CO_model.h5"))


def test_weights_of_guides_at_other_distances_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.keras"
    save_model(path, build_unet(SPEC), SPEC, mixture=MIXTURE[:2], calibration=1.0, provenance={})
    with pytest.raises(ModelFileError, match=r"weighs the guides at 2 distances, this version of stpipe at 5: train"):
        network_of(str(path))


@given(st.integers(1, 400), st.integers(1, 80), st.integers(1, 80))
def test_the_network_never_sees_more_than_it_may(frames: int, rows: int, columns: int) -> None:
    spec = UNetSpec()
    parts = sub_windows((frames, 8 * rows, 8 * columns), spec)
    assert parts[0].read.size <= network_module.MOST_SAMPLES
    if frames * rows * columns * 64 <= network_module.MOST_SAMPLES:
        assert len(parts) == 1


@given(st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40)), st.data())
def test_parts_write_what_is_wanted_once_and_see_the_network_s_reach(cells: Triple, data: st.DataObject) -> None:
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


@given(st.integers(0, 2**32), st.tuples(*[st.integers(0, 3)] * 3))
def test_reach_is_a_box_around_each_observation(seed: int, halo: Triple) -> None:
    valid = np.random.default_rng(seed).random((4, 5, 6)) < 0.05
    expected = np.zeros_like(valid)
    for place in np.argwhere(valid):
        expected[tuple(slice(max(0, p - h), p + h + 1) for p, h in zip(place, halo, strict=True))] = True
    np.testing.assert_array_equal(within_reach(valid, halo), expected)
