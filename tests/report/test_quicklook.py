from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stpipe.core.ports import VariableInfo
from stpipe.errors import OptionError
from stpipe.report import quicklook
from stpipe.report.drawing import View
from stpipe.report.quicklook import choose_frames, gap_shares, plan_view, read_view, write_quicklook
from tests.io.mosaic_sources import NORTH_UP, ArraySource, array_source

SOUTH_UP = (30.0, 0.0, 5e5, 0.0, 30.0, 4e6)


def before_and_after(
    frames: int = 7, height: int = 90, width: int = 120, **about: Any
) -> tuple[ArraySource, ArraySource]:
    """Return a cube whose frames lack 0 %, 1/6, ... all of their samples, and the same filled."""
    t, y, x = np.ogrid[:frames, :height, :width]
    truth = (500 + 300 * np.sin(y / 9 + t) * np.cos(x / 11)).astype("int16")
    gap = np.broadcast_to(x >= width * (1 - t / (frames - 1)), truth.shape)
    sources = np.where(gap, 2, 1).astype("uint8")
    widths = np.where(gap, 0.01, 0).astype("float32")
    about = {"nodata": -9999, "scale_factor": 1e-3, "attrs": {"units": "mol m-2", "long_name": "CO"}} | about
    observed = array_source({"v": np.where(gap, -9999, truth).astype("int16")}, **about)
    filled = array_source({"v": truth, "v_source": sources}, **about)
    filled.arrays["v_ci90"] = widths
    filled.variables += (VariableInfo(name="v_ci90", dtype="float32", chunks=(4, 64, 64)),)
    return observed, filled


def rows_of_colour(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def test_the_picture_is_a_small_png_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    observed, filled = before_and_after()
    shown = write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="v")
    write_quicklook(tmp_path / "deep" / "b.png", observed=observed, filled=filled, variable="v")
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "deep" / "b.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert len(first) < 2 * 10**6
    assert b"atplotlib" not in first
    assert 6 in shown
    assert 3 <= len(shown) <= 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "deep"]


def test_filled_samples_change_the_picture(tmp_path: Path) -> None:
    observed, filled = before_and_after()
    write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="v")
    filled.arrays["v"] = np.where(filled.arrays["v_source"] == 2, 0, filled.arrays["v"]).astype("int16")
    write_quicklook(tmp_path / "b.png", observed=observed, filled=filled, variable="v")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_cube_without_source_and_interval_has_two_rows(tmp_path: Path) -> None:
    observed, filled = before_and_after()
    write_quicklook(tmp_path / "four.png", observed=observed, filled=filled, variable="v")
    bare = array_source({"v": filled.arrays["v"]})
    write_quicklook(tmp_path / "two.png", observed=observed, filled=bare, variable="v")
    assert rows_of_colour(tmp_path / "two.png").height < 0.7 * rows_of_colour(tmp_path / "four.png").height


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.full((1, 1, 1), np.nan, "float32"), id="one pixel that is gap"),
        pytest.param(np.full((2, 3, 500), 7, "float32"), id="constant and very wide"),
        pytest.param(np.full((2, 500, 3), np.inf, "float32"), id="infinite and very tall"),
        pytest.param(np.array([[[1e30, -1e30], [0, np.nan]]], "float32"), id="huge numbers"),
    ],
)
def test_odd_cubes_are_drawn(tmp_path: Path, values: Any) -> None:
    source = array_source({"v": values}, attrs={"long_name": "cost in $ per $, 温度 \\frac", "units": "$_x"})
    write_quicklook(tmp_path / "a.png", observed=source, filled=source, variable="v")
    assert min(rows_of_colour(tmp_path / "a.png").size) > 100


def test_a_noisy_scene_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(5, 900, 400)).astype("float32")
    source = array_source({"v": noise, "v_source": (np.abs(noise) * 2).clip(0, 4).astype("uint8")})
    write_quicklook(tmp_path / "a.png", observed=source, filled=source, variable="v", frames=range(5))
    assert (tmp_path / "a.png").stat().st_size < 2 * 10**6


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    observed, filled = before_and_after()
    with pytest.raises(OptionError, match="no variable 'w'; it has v"):
        write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="w")
    with pytest.raises(OptionError, match="no frame 7; the cube has 7"):
        write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="v", frames=[7])
    with pytest.raises(OptionError, match="at least one frame"):
        write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="v", frames=[])
    with pytest.raises(OptionError, match="shape is"):
        write_quicklook(tmp_path / "a.png", observed=observed, filled=before_and_after(5)[1], variable="v")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=40))
def test_chosen_frames_are_few_in_order_and_hold_the_emptiest(shares: list[float]) -> None:
    chosen = choose_frames(np.array(shares))
    assert list(chosen) == sorted(set(chosen))
    assert 1 <= len(chosen) <= 5
    known = [share for share in shares if not np.isnan(share)]
    if known:
        assert max(known) in [shares[frame] for frame in chosen]


def test_gap_shares_are_those_of_the_whole_frame_where_the_sample_covers_it() -> None:
    observed, filled = before_and_after()
    expected = (observed.arrays["v"] == -9999).mean(axis=(1, 2))
    np.testing.assert_allclose(gap_shares(observed, filled, "v"), expected)
    bare = array_source({"v": filled.arrays["v"]})
    np.testing.assert_allclose(gap_shares(observed, bare, "v"), expected)


def test_gap_shares_leave_out_what_lies_outside_the_domain() -> None:
    codes = np.ones((2, 8, 8), dtype="uint8")
    codes[:, :4] = 0
    codes[1, 4:6] = 3
    filled = array_source({"v": np.zeros((2, 8, 8)), "v_source": codes})
    np.testing.assert_allclose(gap_shares(filled, filled, "v"), [0.0, 0.5])


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    stride=st.integers(1, 9),
    chunk=st.integers(1, 120),
    step_bytes=st.sampled_from([1, 20_000, 10**8]),
    data=st.data(),
)
def test_a_view_is_a_plain_slice_north_up(
    height: int, width: int, stride: int, chunk: int, step_bytes: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    values = np.arange(height * width, dtype="int32").reshape(1, height, width)
    view = View(window=(top, bottom, left, right), stride=stride, whole=False)
    expected = values[0, top:bottom:stride, left:right:stride]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quicklook, "STEP_BYTES", step_bytes)
        for transform, turned in ((NORTH_UP, expected), (SOUTH_UP, expected[::-1])):
            source = array_source({"v": values}, chunks=(1, chunk, chunk), transform=transform)
            np.testing.assert_array_equal(read_view(source, "v", 0, view, source.reader()), turned)


@given(extent=st.tuples(st.integers(1, 500), st.integers(1, 60_000), st.integers(1, 60_000)))
def test_a_view_is_bounded_in_pixels_and_in_bytes(extent: tuple[int, int, int]) -> None:
    info = VariableInfo(name="v", dtype="float32", chunks=(16, 256, 256))
    frames = range(min(5, extent[0]))
    view = plan_view(extent, [info] * 3, frames)
    top, bottom, left, right = view.window
    assert 0 <= top < bottom <= extent[1]
    assert 0 <= left < right <= extent[2]
    assert max(bottom - top, right - left) <= 400 * view.stride
    decoded = 3 * 4 * min(16, extent[0]) * len(frames) * (bottom - top) * (right - left)
    assert decoded <= quicklook.READ_BYTES
    assert view.whole == ((bottom - top, right - left) == extent[1:])


def test_a_part_of_a_huge_scene_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observed, filled = before_and_after()
    buffers = []
    for budget in (2**34, 100_000):
        monkeypatch.setattr(quicklook, "READ_BYTES", budget)
        write_quicklook(tmp_path / "a.png", observed=observed, filled=filled, variable="v", frames=[1, 5])
        buffers.append(io.BytesIO((tmp_path / "a.png").read_bytes()))
    whole, part = (np.asarray(Image.open(buffer)) for buffer in buffers)
    assert whole.shape[1] == part.shape[1]
    assert not np.array_equal(whole[30:80, :], part[30:80, : whole.shape[1]])
