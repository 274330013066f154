from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stpipe.errors import OptionError
from stpipe.io.frames import SOURCE_COLOURS
from stpipe.report import page
from stpipe.report.page import MARK, make_report
from stpipe.report.quicklook import look
from stpipe.report.tiles import rows_of
from tests.io.mosaic_sources import ArraySource
from tests.report.test_sampling import filled_cube

VOID = {"meta", "img", "br", "line", "path", "link", "hr", "input"}


class Reader(HTMLParser):
    """Reads a page; complains of tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        about = dict(attrs)
        if tag == "img":
            self.images.append(about)
        self.addresses += [about[key] for key in ("src", "href") if key in about]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def told_of(cube: ArraySource, **more: Any) -> dict[str, Any]:
    names = ("outside_domain", "observed", "filled", "filled_by_fallback", "unfilled")
    variables = [name for name in cube.arrays if f"{name}_source" in cube.arrays]
    counts = {
        variable: {name: int((cube.arrays[f"{variable}_source"] == code).sum()) for code, name in enumerate(names)}
        for variable in variables
    }
    return {"counts": counts, "input": "tiles/T15.zarr", "method": {"method": "linear"}, "interval": 0.9} | more


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    cube = filled_cube((12, 40, 50))
    reader = read(make_report(cube, told_of(cube)))
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert len(reader.images) == 4 * 5
    assert all(image["alt"] for image in reader.images)
    for image in reader.images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert picture.size == (50, 40)
    text = " ".join(reader.text)
    assert "T15.zarr, filled by linear" in text
    assert "EPSG:32615" in text


def test_the_same_run_gives_the_same_page() -> None:
    cube = filled_cube()
    assert make_report(cube, told_of(cube)) == make_report(cube, told_of(cube))


def test_the_mark_is_at_the_beginning() -> None:
    cube = filled_cube((2, 8, 8))
    assert MARK in make_report(cube, told_of(cube))[:2048]


def test_words_of_the_run_are_words_and_no_code() -> None:
    cube = filled_cube((3, 8, 8))
    evil = '<script>alert("x")</script>'
    told = told_of(
        cube,
        input=f"/data/{evil}.zarr",
        notes=[evil],
        learned={"v": {"notes": ["pconv: <b>96%</b>"]}},
        products=[{"path": evil, "bytes": 1, "sha256": "0"}],
        versions={evil: evil},
        command=["stpipe", "fill-scene", evil],
    )
    text = make_report(cube, told)
    assert "<script" not in text
    assert "<b>" not in text
    reader = read(text)
    assert "".join(reader.text).count(evil) >= 5


def test_numbers_are_those_of_the_whole_cube() -> None:
    cube = filled_cube((30, 40, 40))
    told = told_of(cube)
    text = make_report(cube, told)
    for count in told["counts"]["v"].values():
        assert f'title="{count:,} samples"' in text


def test_what_the_method_learned_is_said_once() -> None:
    cube = filled_cube((3, 8, 8))
    told = told_of(cube, notes=["tuning gained 4 %", "beware: tuning"], learned={"v": {"notes": ["tuning gained 4 %"]}})
    text = make_report(cube, told)
    assert text.count("tuning gained 4 %") == 1
    assert "<li>beware: tuning</li>" in text


def test_dates_with_next_to_nothing_observed_are_named() -> None:
    cube = filled_cube((4, 20, 20))
    inside = cube.arrays["v_source"][2] != 0
    cube.arrays["v_source"][2][inside] = 2
    text = "".join(read(make_report(cube, told_of(cube))).text)
    assert "1 date has less than 1 % observed" in text
    assert re.search(r"2023-01-11T10:30:00\s", text)


def test_midnights_are_days() -> None:
    cube = filled_cube((4, 20, 20))
    cube.times = cube.times.astype("M8[D]").astype("M8[ns]")
    text = make_report(cube, told_of(cube))
    assert "T00:00:00" not in text
    assert "2023-01-01 to 2023-01-16" in text


def several(count: int) -> ArraySource:
    cubes = [filled_cube((3, 8, 8), seed=number) for number in range(count)]
    made = cubes[0]
    for number, cube in enumerate(cubes[1:], start=1):
        for info in cube.variables:
            name = info.name.replace("v", f"v{number}", 1)
            made.arrays[name] = cube.arrays[info.name]
            made.variables += (type(info)(**{**_fields(info), "name": name}),)
    return made


def _fields(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in type(info).__slots__}


def test_of_many_variables_the_first_are_drawn_and_the_others_named() -> None:
    cube = several(page.MOST_PICTURED + 2)
    reader = read(make_report(cube, told_of(cube)))
    assert len({image["alt"].partition(",")[0] for image in reader.images}) == page.MOST_PICTURED
    assert "Without pictures here: v6, v7" in " ".join(reader.text)


def test_asked_variables_are_drawn() -> None:
    cube = several(3)
    reader = read(make_report(cube, told_of(cube), ["v2"]))
    assert {image["alt"].partition(",")[0] for image in reader.images} == {"v2"}
    with pytest.raises(OptionError, match="the run has no variable 'w'; it has v, v1, v2"):
        make_report(cube, told_of(cube), ["w"])


@pytest.mark.parametrize(
    "extent", [(1, 1, 1), (1, 300, 2), (2, 1, 700), (300, 3, 3)], ids=["one sample", "tall", "wide", "long"]
)
@pytest.mark.parametrize("codes", [None, 0, 1, 2, 4])
def test_any_cube_has_a_page(extent: tuple[int, int, int], codes: int | None) -> None:
    cube = filled_cube(extent)
    if codes is not None:
        cube.arrays["v_source"][:] = codes
    cube.arrays["v_ci90"] = np.where(np.isin(cube.arrays["v_source"], (2, 3)), 0.1, 0).astype("float32")
    cube.crs_wkt = None
    read(make_report(cube, told_of(cube)))


def test_a_cube_on_no_grid_has_a_page() -> None:
    cube = filled_cube((3, 8, 8))
    cube.crs_wkt, cube.transform, cube.y, cube.x = None, None, None, None
    assert "on no regular grid" in make_report(cube, told_of(cube))


def test_colours_are_those_of_the_scale_and_of_the_sources() -> None:
    cube = filled_cube((4, 30, 40))
    picture = look(cube, cube, "v", [0, 1])
    observed, filled, _, source = rows_of(picture)
    codes = cube.arrays["v_source"][0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.images[0].partition(",")[2]))).convert("RGB"))
    for code, colour in enumerate(SOURCE_COLOURS.values()):
        assert (shown[codes == code] == tuple(bytes.fromhex(colour[1:]))).all()
    before, after = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(row.images[0].partition(",")[2]))).convert("RGB")).astype(int)
        for row in (observed, filled)
    )
    np.testing.assert_array_equal(before[codes == 1], after[codes == 1])
    assert len(np.unique(before[codes != 1], axis=0)) == 1
    # Viridis grows in green from dark to bright.
    values = np.where(codes == 1, cube.arrays["v"][0], -9999)
    order = np.argsort(values[codes == 1])
    assert (np.diff(after[codes == 1][order][:, 1]) >= -1).all()
