"""Laws of stored samples: the way there and back, what is valid, and that nothing filled is nodata."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.ports import VariableInfo
from stpipe.core.samples import check_fillable, encode, gap_value, is_nodata, physical, valid_samples
from stpipe.errors import CubeError

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def info(dtype: str, **more: float) -> VariableInfo:
    return VariableInfo(name="v", dtype=dtype, chunks=(1, 1, 1), **more)


@given(st.sampled_from(INTEGERS[:6]), st.floats(1e-4, 10), st.floats(-100, 100), st.integers(0, 2**32 - 1))
def test_integers_survive_the_way_there_and_back(dtype: str, scale: float, offset: float, seed: int) -> None:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    stored = rng.integers(limits.min, limits.max, 50, dtype=dtype, endpoint=True)
    stored = stored[stored != limits.min]
    about = info(dtype, nodata=float(limits.min), scale_factor=scale, add_offset=offset)
    np.testing.assert_array_equal(encode(physical(stored, about), about), stored)


@given(
    st.sampled_from(INTEGERS),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.sampled_from(["low", "high", "zero"]),
)
def test_no_filled_value_is_nodata_or_wraps_round(dtype: str, values: list[float], which: str) -> None:
    limits = np.iinfo(dtype)
    nodata = {"low": limits.min, "high": limits.max, "zero": 0}[which]
    if abs(nodata) > 2**53:
        nodata = 0  # such a nodata is not a number that JSON or a float can name
    about = info(dtype, nodata=float(nodata))
    wanted = np.array(values)
    stored = encode(wanted, about)
    assert not is_nodata(stored, about).any()
    clipped = np.clip(np.rint(wanted), float(limits.min), float(limits.max))
    assert (np.abs(stored.astype(np.float64) - clipped) <= np.maximum(1, np.abs(clipped) * 1e-15)).all()


def test_a_nodata_written_with_few_digits_is_found() -> None:
    stored = np.array([-3.4e38, 1.0, np.nan], dtype=np.float32)
    for nodata in (-3.4e38, -3.3999999521443642e38, -3.4028234663852886e38):
        found = is_nodata(stored, info("float32", nodata=nodata))
        assert found.tolist() == [True, False, True]


def test_validity_knows_infinities_ranges_and_domains() -> None:
    values = np.array([[[-np.inf, -2.0, 0.5], [np.inf, np.nan, 3.0]]])
    assert valid_samples(values).tolist() == [[[False, True, True], [False, False, True]]]
    assert valid_samples(values, valid_range=(-2, 1)).tolist() == [[[False, True, True], [False, False, False]]]
    inside = np.array([[True, False, True], [True, True, False]])
    assert valid_samples(values, domain=inside).tolist() == [[[False, False, True], [False, False, False]]]


def test_filled_values_stay_in_the_range_that_was_given() -> None:
    assert encode(np.array([-5.0, 0.5, 9.0]), info("float32"), valid_range=(0, 1)).tolist() == [0, 0.5, 1]


def test_types_that_hold_no_plain_numbers_are_refused() -> None:
    for dtype in ("bool", "complex64", "datetime64[ns]", "S4"):
        with pytest.raises(CubeError, match="only integers and floats can be filled"):
            check_fillable(info(dtype))


def test_a_gap_is_written_as_nodata_or_nan_or_not_at_all() -> None:
    assert gap_value(info("int16", nodata=-9999)) == -9999
    assert np.isnan(gap_value(info("float32")) or 0)
    assert gap_value(info("uint8")) is None


@pytest.mark.parametrize(
    ("dtype", "nodata", "valid_range"),
    [
        ("float32", 0.0, (0, 1)),
        ("float32", 1.0, (0, 1)),
        ("int16", 0, (-5, 0)),
        ("uint8", 255, None),
        ("uint8", 0, None),
    ],
)
def test_a_fill_that_meets_nodata_steps_aside_within_the_range(
    dtype: str, nodata: float, valid_range: tuple[float, float] | None
) -> None:
    about = info(dtype, nodata=nodata)
    filled = encode(np.array([nodata, -0.2, 300.0]), about, valid_range=valid_range)
    assert not is_nodata(filled, about).any()
    if valid_range is not None:
        assert ((filled >= valid_range[0]) & (filled <= valid_range[1])).all()


def test_no_fill_is_infinite() -> None:
    assert np.isfinite(encode(np.array([1e39, -1e300]), info("float32"))).all()
    assert np.isfinite(encode(np.array([7e4]), info("float16"))).all()


@given(
    limit=st.integers(-2_000, 12_000),
    dtype=st.sampled_from(["int16", "float32", "float64"]),
    packed=st.sampled_from([(1e-4, 0.0), (-1e-4, 1.0), (2e-4, -0.1)]),
)
def test_a_range_holds_the_samples_that_its_ends_are_stored_as(
    limit: int, dtype: str, packed: tuple[float, float]
) -> None:
    scale, offset = packed if dtype == "int16" else (1.0, 0.0)
    info = VariableInfo(name="v", dtype=dtype, chunks=(1, 1, 1), scale_factor=scale, add_offset=offset)
    value = limit * 2e-4
    exact = (value - offset) / scale
    stored = np.array([round(exact)] if dtype == "int16" else [value], dtype=dtype)
    beside = np.nextafter(stored, stored.dtype.type(9)) if dtype != "int16" else stored + stored.dtype.type(1)
    for ends in ((value, value), (value, np.inf), (-np.inf, value)):
        assert valid_samples(physical(stored, info), valid_range=ends, info=info).all()
    assert not valid_samples(physical(beside, info), valid_range=(value, value), info=info).any()
    # What is encoded into a range is valid in it.
    there = encode(np.array([value + 1, value - 1]), info, valid_range=(value, value))
    assert valid_samples(physical(there, info), valid_range=(value, value), info=info).all()


def test_a_range_between_two_stored_values_holds_neither() -> None:
    info = VariableInfo(name="v", dtype="int16", chunks=(1, 1, 1), scale_factor=0.01)
    near = physical(np.array([56, 57, 58], dtype="int16"), info)
    assert valid_samples(near, valid_range=(0.5649, 0.5751), info=info).tolist() == [False, True, False]
    large = VariableInfo(name="v", dtype="int32", chunks=(1, 1, 1))
    values = np.array([1234567.0, 1234568.0])
    assert valid_samples(values, valid_range=(0, 1234567.6), info=large).tolist() == [True, False]
