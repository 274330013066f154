"""`stpipe.evaluate` as an xarray user calls it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import stpipe
from stpipe.core.comparison import GROUPS
from stpipe.core.crops import choose_crops
from stpipe.core.ports import VariableInfo
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.io.evaluate import fillers_for, read_crops
from stpipe.io.objects import ArrayReader


def made_cube(frames: int = 8, side: int = 40, *, scale: float = 1.0, offset: float = 0.0) -> xr.DataArray:
    """A smooth field under clouds, in any units."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / 15
    values = np.stack([np.sin(y + t / 4) * np.cos(x - t / 5) for t in range(frames)])
    values += 0.05 * rng.normal(size=values.shape)
    for t in range(frames):
        top, left = rng.integers(0, side - 12, 2)
        values[t, top : top + 12, left : left + 14] = np.nan
    when = np.datetime64("2023-05-01", "ns") + np.arange(frames) * np.timedelta64(5, "D")
    return xr.DataArray(
        scale * values + offset, dims=("time", "y", "x"), coords={"time": when}, name="ndvi", attrs={"units": "1"}
    )


def test_scores_come_as_a_dataset() -> None:
    steps: list[tuple[int, int]] = []
    cube = made_cube()
    scores = stpipe.evaluate(cube, methods=["pyramid"], progress=lambda done, total: steps.append((done, total)))
    assert scores["mae"].dims == ("variable", "method_name", "group")
    assert list(scores["method_name"].values) == ["pyramid", "linear"]
    assert list(zip(scores["grouping"].values, scores["group"].values, strict=True)) == list(GROUPS)
    chosen = scores.sel(variable="ndvi", group="all")
    assert (chosen["mae"] > 0).all()
    assert ((chosen["coverage"] > 0.6) & (chosen["coverage"] <= 1)).all()
    assert int(chosen["samples"]) > 100
    assert steps == [(i, 6) for i in range(1, 7)]
    # The groups of each grouping part the samples.
    of = scores["samples"].sel(variable="ndvi").groupby("grouping").sum()
    assert set(of.values) == {int(chosen["samples"])}
    xr.testing.assert_identical(scores["mae"], cube.stpipe.evaluate(methods=["pyramid"])["mae"])
    assert len(scores.to_dataframe()) == 2 * len(GROUPS)


def test_lazily_transposed_and_in_other_units_gives_the_same() -> None:
    plain = stpipe.evaluate(made_cube(), methods=["linear"], draws=1)
    other = made_cube(scale=-1000, offset=7).transpose("x", "time", "y").chunk({"x": 16})
    scaled = stpipe.evaluate(other, methods=["linear"], draws=1)
    np.testing.assert_allclose(scaled["mae"], 1000 * plain["mae"], rtol=1e-3)
    np.testing.assert_allclose(scaled["bias"], -1000 * plain["bias"], rtol=1e-2, atol=0.1)
    np.testing.assert_allclose(scaled["coverage"], plain["coverage"], atol=2e-3)


def test_nothing_outside_the_domain_or_the_range_counts() -> None:
    cube = made_cube()
    land = xr.DataArray(np.indices((40, 40))[0] < 20, dims=("y", "x"))
    wild = cube.where(land, 1e6)
    clean = stpipe.evaluate(cube.where(land), methods=["linear"], domain=land, draws=1)
    for scores in (
        stpipe.evaluate(wild, methods=["linear"], domain=land, draws=1),
        stpipe.evaluate(wild, methods=["linear"], domain=land, valid_range=(-2, 2), draws=1),
    ):
        xr.testing.assert_identical(scores["mae"], clean["mae"])


def test_a_lone_frame_is_scored_by_what_works_in_it() -> None:
    scores = stpipe.evaluate(made_cube(1), methods=["pyramid", "linear"], draws=1)
    assert float(scores["mae"].sel(variable="ndvi", method_name="pyramid", group="all")) > 0
    assert "linear" not in fillers_for(None, model=None, interval=0.9, frames=1)


def test_crops_of_a_large_cube_are_parts_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stpipe.io.evaluate.choose_crops", lambda extent: choose_crops(extent, most=4, samples=8 * 32 * 32)
    )
    cube = made_cube(8, 96, scale=3, offset=20)
    info = VariableInfo(name="ndvi", dtype="float64", chunks=cube.shape)
    crops, spread = read_crops(ArrayReader(name="ndvi", array=cube.values), info, np.arange(8.0))
    assert len(crops) == 4
    assert all(Window.of(cube.shape).contains(crop.window) and crop.window.shape[0] == 8 for crop in crops)
    locations = []
    for crop in crops:
        truth = cube.values[crop.window.slices]
        np.testing.assert_array_equal(crop.valid, np.isfinite(truth))
        assert not crop.values[~crop.valid].any()
        location = truth[crop.valid] - crop.values[crop.valid] * spread
        locations += [location.min(), location.max()]
    assert np.ptp(locations) < 1e-4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["magic"]}, OptionError, "no method 'magic'; there are pconv"),
        ({"methods": []}, OptionError, "there is no method to evaluate"),
        ({"methods": ["linear"], "model": "x.keras"}, OptionError, "goes with pconv, which is not among"),
        ({"methods": ["linear"], "draws": 0}, OptionError, "drawn at least once, got --draws 0"),
        ({"methods": ["linear"], "interval": 1.0}, OptionError, "must lie between 0 and 1"),
        ({"methods": ["linear"], "variables": ["evi"]}, CubeError, "no variable 'evi'"),
        ({"methods": ["linear"], "valid_range": (50, 60)}, CubeError, "'ndvi' has no valid sample"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stpipe.evaluate(made_cube(), **options)  # type: ignore[arg-type]


def test_one_frame_and_methods_in_time_alone_are_refused() -> None:
    with pytest.raises(OptionError, match="the cube has one frame, of which linear can say nothing"):
        stpipe.evaluate(made_cube(1), methods=["linear"])
