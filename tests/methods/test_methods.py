"""Methods by name, and laws of every one: an answer wherever there can be one, and no ear for what lies under gaps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.crops import Crop, fill_crop
from stpipe.core.ports import Filler, Learner
from stpipe.core.windows import Triple
from stpipe.errors import OptionError
from stpipe.methods import METHODS, bare_filler, make_filler
from tests.methods.scenes import block_input, crop_of

ALONG_TIME = {"linear", "anomaly", "whittaker", "harmonic", "eof"}
"""Methods that have something of their own to say of a pixel that was seen, and nothing of any other."""

SHRINKING = {"harmonic", "eof", "stack"}
"""Methods that draw a lone observation towards what is usual in the scene."""

CORRECTING = {"pconv", "auto"}
"""Methods that may add something to a lone observation, but no more than they are unsure of."""

LEARNERS = ("pconv", "kriging", "eof", "stack", "auto")
"""Methods that learn from the cube, besides their intervals."""

CUBE = (6, 16, 24)


def days_of(frames: int) -> np.ndarray:
    """Several dates a year, some of them alike in other years."""
    return 121.0 * np.arange(frames)


@pytest.fixture(scope="module", autouse=True)
def _hasty_auto() -> Iterator[None]:
    """One round of trials is as good as four to hold to these laws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.methods.auto.ROUNDS", 1)
        yield


@dataclass(frozen=True)
class Taught:
    """A method, what it was taught on, and with which bytes."""

    filler: Filler
    crop: Crop
    learned: bytes | None


def taught_on(method: str, crop: Crop) -> Taught:
    filler, learned = bare_filler(method), None
    if isinstance(filler, Learner):
        learned = filler.learn([crop], seed=0)
        filler = filler.taught(learned)
    filler.prepare()
    return Taught(filler, crop, learned)


@cache
def taught(method: str) -> Taught:
    rng = np.random.default_rng(0)
    valid = rng.random(CUBE) < 0.4
    valid[2] = False
    return taught_on(method, crop_of(rng.normal(size=CUBE), valid, days_of(CUBE[0])))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_found_by_its_own_name_and_learns_its_intervals(method: str) -> None:
    filler, narrow = make_filler(method), make_filler(method, coverage=0.8)
    assert isinstance(filler, Filler)
    assert isinstance(filler, Learner)
    assert filler.name == method
    assert isinstance(bare_filler(method), Learner) == (method in LEARNERS)
    assert json.dumps(filler.identity()) == json.dumps(make_filler(method).identity())
    assert filler.identity() != narrow.identity()


def test_the_first_method_is_the_default() -> None:
    assert METHODS[0] == "pconv"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        pytest.param("magic", {}, "no method 'magic'; there are pconv, pyramid, linear", id="unknown"),
        pytest.param("lineer", {}, "no method 'lineer'; did you mean linear[?] there are pconv", id="misspelt"),
        pytest.param("linear", {"model": "x.keras"}, "goes with --method pconv, not with linear", id="model"),
        pytest.param("linear", {"coverage": 1.0}, "between 0 and 1", id="coverage"),
    ],
)
def test_what_no_method_can_do_is_refused(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_filler(method, **options)  # type: ignore[arg-type]


def test_naming_the_methods_loads_none_of_them() -> None:
    code = "import sys, stpipe.methods\nassert not {'numpy', 'scipy', 'stpipe.methods.linear'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (6, 1, 1), (1, 5, 7), CUBE], ids=["one sample", "one pixel", "one frame", "a cube"]
)
def test_one_sample_is_enough_and_none_is_not(method: str, shape: Triple) -> None:
    valid = np.zeros(shape, dtype=bool)
    crop = crop_of(np.zeros(shape), valid, days_of(shape[0]))
    nothing = fill_crop(taught_on(method, crop).filler, crop)
    assert np.isnan(nothing.values).all()
    assert np.isnan(nothing.half_width).all()
    valid[-1, 0, 0] = True
    crop = crop_of(np.full(shape, 2.5), valid, days_of(shape[0]))
    made = fill_crop(taught_on(method, crop).filler, crop)
    assert made.values.dtype == made.half_width.dtype == np.float32
    assert made.values.shape == made.half_width.shape == made.fallback.shape == shape
    assert (made.half_width >= 0).all()
    if method in SHRINKING:
        assert ((made.values > 0) & (made.values < 2.5001)).all()
    elif method in CORRECTING:
        assert (np.abs(made.values - 2.5) <= np.maximum(made.half_width, 1e-3)).all()
    else:
        np.testing.assert_allclose(made.values, 2.5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("frames", "numbers"),
    [(2, (0, 1, 2)), (6, (0, 1, 2, 3)), (6, (6,)), (6, (1, *[0] * 99))],
    ids=["two frames", "six frames", "no gaps", "next to nothing"],
)
def test_pixels_of_any_number_of_observations_have_an_answer(
    method: str, frames: int, numbers: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    valid = np.zeros((frames, *CUBE[1:]), dtype=bool)
    for pixel, (y, x) in enumerate(np.ndindex(CUBE[1:])):
        valid[rng.permutation(frames)[: numbers[pixel % len(numbers)]], y, x] = True
    crop = crop_of(rng.normal(size=valid.shape), valid, days_of(frames))
    made = fill_crop(taught_on(method, crop).filler, crop)
    assert made.values.dtype == made.half_width.dtype == np.float32
    assert np.isfinite(made.values).all()
    assert (made.half_width >= 0).all()
    if method in ALONG_TIME:
        np.testing.assert_array_equal(made.fallback, np.broadcast_to(~valid.any(axis=0), valid.shape))


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 2**32 - 1),
    share_valid=st.sampled_from([0.02, 0.5]),
    junk=st.sampled_from([np.nan, np.inf, -1e30, 7.0]),
)
@settings(max_examples=4)
def test_values_under_gaps_have_no_say(method: str, seed: int, share_valid: float, junk: float) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random(CUBE) < share_valid
    block = block_input(np.where(valid, rng.normal(size=CUBE), 0), valid, days_of(CUBE[0]))
    filler = taught(method).filler
    clean = filler.fill(block)
    with np.errstate(all="ignore"):
        dirty = filler.fill(replace(block, values=np.where(valid, block.values, np.float32(junk))))
    np.testing.assert_array_equal(clean.values, dirty.values)
    np.testing.assert_array_equal(clean.half_width, dirty.half_width)
    np.testing.assert_array_equal(clean.fallback, dirty.fallback)


@pytest.mark.parametrize("method", LEARNERS)
def test_values_under_gaps_teach_nothing(method: str) -> None:
    crop = taught(method).crop
    loud = replace(crop, values=np.where(crop.valid, crop.values, np.float32(-1e9)))
    with np.errstate(all="ignore"):
        assert taught_on(method, loud).learned == taught(method).learned
