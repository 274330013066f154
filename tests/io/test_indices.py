"""Spectral indices: formulas written out by hand are the oracle."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stpipe.core.ports import VariableInfo
from stpipe.errors import OptionError
from stpipe.io.indices import IndexPlan, IndexRequest, plan_index

NAMES = ["blue", "green", "red", "nir", "swir16", "swir22"]
INFOS = {
    name: VariableInfo(name=name, dtype="int16", chunks=(1, 1, 1), nodata=-1, scale_factor=0.001, add_offset=-0.1)
    for name in NAMES
}
RNG = np.random.default_rng(1)
STORED = {name: RNG.integers(150, 900, (6, 7)).astype("int16") for name in NAMES}
B, G, R, N, S1, S2 = (STORED[name] * 0.001 - 0.1 for name in NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ndvi=nir,red", (N - R) / (N + R)),
        ("NDVI", (N - R) / (N + R)),
        ("evi=N:nir,R:red,B:blue", 2.5 * (N - R) / (N + 6 * R - 7.5 * B + 1)),
        ("ndwi=green,nir", (G - N) / (G + N)),
        ("nbr=nir,swir22", (N - S2) / (N + S2)),
        ("ndmi", (N - S1) / (N + S1)),
        ("savi=nir,red", 1.5 * (N - R) / (N + R + 0.5)),
        ("savi=N:nir,R:red,L:1", 2 * (N - R) / (N + R + 1)),
        ("evi2=NIR,Red", 2.5 * (N - R) / (N + 2.4 * R + 1)),
    ],
)
def test_an_index_is_its_formula_on_physical_values(text: str, expected: np.ndarray) -> None:
    index = plan_index(IndexRequest.parse(text), NAMES)
    found = index.compute(STORED, INFOS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_gap_in_any_band_and_what_is_not_finite_are_gaps() -> None:
    stored = {name: array.copy() for name, array in STORED.items()}
    stored["red"][0, 0] = stored["nir"][1, 1] = -1
    stored["red"][2, 2], stored["nir"][2, 2] = 100, 100  # both zero: 0 / 0
    index = plan_index(IndexRequest.parse("ndvi"), NAMES)
    gaps = np.isnan(index.compute(stored, INFOS))
    assert np.argwhere(gaps).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_int16_holds_steps_and_what_it_can_not_hold_is_gap() -> None:
    index = plan_index(IndexRequest.parse("ndvi"), NAMES, scaled=True)
    found = index.compute(STORED, INFOS)
    assert (found.dtype, index.dtype, index.nodata) == (np.int16, "int16", -32768)
    np.testing.assert_array_equal(found, np.rint((N - R) / (N + R) / 0.0001))
    ratio = IndexPlan(name="r", formula="N/R", title="", bands=(("N", "nir"), ("R", "red")), scaled=True)
    expected = np.where(N / R < 3.27675, np.rint(N / R / 0.0001), -32768)
    np.testing.assert_array_equal(ratio.compute(STORED, INFOS), expected)
    assert (expected == -32768).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndvj=nir,red", r"spyndex has no index 'ndvj' among its \d+; near it are .*NDVI"),
        ("ndvi=nir", r"takes N \(nir\), R \(red\), in this order; got nir"),
        ("ndvi=nir,B04", r"there is no variable 'B04': name them, as in --index ndvi=N:BAND,R:BAND; there are blue"),
        ("ndvi=N:nir,X:red", r"there is no X in its formula"),
        ("savi=N:nir,R:red,L:half", "needs a number for L, as in L:0.5; got 'half'"),
        ("ndre", "spyndex has no index 'ndre'"),
        ("kndvi=", "--index takes ndvi=nir,red"),
        ("ndvi=nir,R:red", "--index takes ndvi=nir,red"),
        ("ndvi=N:nir,N:red", "a letter is given twice"),
        ("", "--index takes ndvi=nir,red"),
    ],
)
def test_what_can_not_be_computed_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan_index(IndexRequest.parse(text), NAMES)


def test_numbered_bands_are_never_guessed() -> None:
    with pytest.raises(OptionError, match="which variable is N"):
        plan_index(IndexRequest.parse("ndvi"), ["B04", "B08"])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spyndex", None)
    with pytest.raises(OptionError, match=r"needs the library spyndex; install it: pip install 'stpipe\[indices\]'"):
        plan_index(IndexRequest.parse("ndvi"), NAMES)
