"""Radar among guides: read beside them, found where it is, and left alone where it can't be infilled from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stpipe.core.windows import Window
from stpipe.io.cube import Cube, open_source
from stpipe.io.guide_sources import open_guides
from stpipe.io.guides import GuideOptions, Guides
from stpipe.io.radar import open_radar
from stpipe.io.radar_guides import RadarGuides, with_radar
from stpipe.methods.sar.options import RadarOptions
from tests.io.test_radar import FRAMES, HEIGHT, WIDTH, backscatter, digital, target, write


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    return open_source(write(tmp_path_factory.mktemp("cube") / "ndvi.zarr", target()))


def found(paths: list[Path], cube: Cube, **options: object) -> tuple[Guides | RadarGuides, tuple[str, ...]]:
    chosen = GuideOptions(**options)  # type: ignore[arg-type]
    return with_radar(open_guides(paths, cube, chosen), cube, chosen)


def test_both_are_read_as_each_by_itself(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", backscatter())
    both, notes = found([path], cube, resampling="nearest", window_days=3.0)
    assert isinstance(both, RadarGuides)
    plain = open_guides([path], cube, GuideOptions(resampling="nearest", window_days=3.0))
    # How long a guide counts is said of guides; radar counts as long as infilling from it is used to.
    radar = open_radar([path], cube, RadarOptions(resampling="nearest"))
    assert notes == radar.notes
    assert both.names == (*plain.names, *(f"{name}@dB" for name in radar.names))
    assert sorted(plain.names) == sorted(radar.names) == ["vh", "vv"]
    assert both.groups == (("vv@dB", "vh@dB"),)
    assert both.parts == both.guides.parts
    window = Window((2, 1, 3), (FRAMES - 1, HEIGHT, WIDTH + 5))
    read, guides, echoes = both.read(window), plain.read(window), radar.read(window)
    assert set(read) == set(both.names) == set(both.cost.names)
    for name in ("vv", "vh"):
        np.testing.assert_array_equal(read[name], guides[name])
        np.testing.assert_array_equal(read[f"{name}@dB"], echoes[name])
    assert both.cost.sample_bytes == max(plain.cost.sample_bytes, radar.cost.sample_bytes)
    assert both.cost.seconds_per_million == plain.cost.seconds_per_million + radar.cost.seconds_per_million
    identities = [json.dumps(one.identity()) for one in (both, plain, radar, found([path], cube)[0])]
    assert len(set(identities)) == 4


def test_its_state_changes_when_a_chunk_is_written_again(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", backscatter())
    guides, _ = found([path], cube)
    before = guides.state()
    assert before == found([path], cube)[0].state()
    write(path, backscatter(seed=2))
    assert guides.state() != before


def test_radar_is_one_cube_with_both_polarisations(cube: Cube, tmp_path: Path) -> None:
    whole, other = (write(tmp_path / f"s1-{seed}.zarr", backscatter(seed=seed)) for seed in (1, 2))
    single = write(tmp_path / "single.zarr", backscatter().drop_vars("vh"))
    upper = write(tmp_path / "upper.zarr", backscatter().rename(vv="VV", vh="Vh"))
    for paths, options in (([single], {}), ([whole], {"variables": ("vh",)})):
        guides, notes = found(paths, cube, **options)
        assert isinstance(guides, Guides)
        assert notes == ()
    guides, _ = found([upper], cube)
    assert isinstance(guides, RadarGuides)
    assert guides.groups == (("VV@dB", "Vh@dB"),)
    assert guides.radar.path == str(upper)
    # What says whether radar helps must not say so of other guides.
    guides, (note,) = found([single, upper], cube)
    assert isinstance(guides, Guides)
    assert note.startswith("VV and Vh count as guides alone, beside vv: ")
    guides, (note,) = found([whole, other], cube)
    assert isinstance(guides, Guides)
    assert note.startswith("radar is in 2 guides (")
    assert note.endswith("infilled from none: that takes one cube")


def test_what_can_t_be_infilled_from_stays_a_guide_and_is_said_to(cube: Cube, tmp_path: Path) -> None:
    guides, (note,) = found([write(tmp_path / "counts.zarr", digital(backscatter()))], cube)
    assert isinstance(guides, Guides)
    assert note.startswith("vv and vh count as guides alone, for they can't be infilled from: vv of ")
    assert "neither in dB nor in linear power" in note
    assert "\n" not in note


def test_the_cube_s_own_radar_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    levels = {"vv": -9, "vh": -16}
    shape = (FRAMES, HEIGHT, WIDTH)
    own = {name: (("time", "y", "x"), rng.normal(level, 2, shape)) for name, level in levels.items()}
    both = target(**own)
    path = write(tmp_path / "both.zarr", both)
    guides, _ = found([path], open_source(path, variables=["ndvi"]))
    assert isinstance(guides, RadarGuides)
    assert sorted(guides.guides.names) == ["vh", "vv"]
    assert guides.groups == (("vv@dB", "vh@dB"),)
