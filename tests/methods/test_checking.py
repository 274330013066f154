"""Laws of the check: what was chosen is used where gaps set apart bear it out, against the default surely."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.methods.checking import Checks, Verdict, better_on_each, check


def checks(
    single: float, pair: float | None, default: float | None, *, samples: int = 4000, a_cluster: int = 40
) -> Checks:
    numbers = np.arange(samples)
    single_errors, pair_errors, default_errors = (
        None if error is None else np.full(samples, error, dtype=np.float32) for error in (single, pair, default)
    )
    assert single_errors is not None
    return Checks(
        single=single_errors,
        pair=pair_errors,
        default=default_errors,
        clusters=numbers // a_cluster,
        frames=numbers // (4 * a_cluster),
        draws=numbers * 2 // samples,
    )


def verdict(found: Checks) -> Verdict:
    return check(found, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("single", "pair", "default", "pair_holds", "choice_holds"),
    [
        pytest.param(0.3, None, None, False, True, id="nothing to compare with"),
        pytest.param(0.3, 0.2, None, True, True, id="two are better"),
        pytest.param(0.3, 0.299, None, False, True, id="two are better by too little"),
        pytest.param(0.3, None, 0.4, False, True, id="better than the default"),
        pytest.param(0.3, None, 0.302, False, False, id="better than the default by too little"),
        pytest.param(0.3, None, 0.3, False, False, id="no better than the default"),
        pytest.param(0.3, 0.2, 0.25, True, True, id="two are better than the default, one is not"),
        pytest.param(0.3, 0.29, 0.25, True, False, id="two are better than one and not than the default"),
        pytest.param(0.3, 0.4, 0.35, False, True, id="one is better than the default, two are not"),
    ],
)
def test_what_holds(
    single: float, pair: float | None, default: float | None, pair_holds: bool, choice_holds: bool
) -> None:
    found = verdict(checks(single, pair, default))
    assert (found.pair_holds, found.choice_holds) == (pair_holds, choice_holds)
    assert found.chosen == (found.pair if pair_holds else found.single)
    np.testing.assert_allclose(found.single, [single] * 2, rtol=1e-6)
    assert len(found.pair) == 2 * (pair is not None)
    assert Verdict.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_each_draw_has_to_bear_it_out() -> None:
    found = checks(0.3, None, 0.3)
    errors = np.where(found.draws == 0, 0.1, 0.31).astype(np.float32)
    assert errors.mean() < 0.9 * 0.3
    assert not verdict(replace(found, single=errors)).choice_holds
    assert not verdict(replace(found, pair=errors)).pair_holds
    assert verdict(replace(found, single=np.minimum(errors, np.float32(0.3)))).choice_holds


def test_a_draw_that_hid_nothing_says_nothing() -> None:
    found = checks(0.3, None, 0.4)
    assert verdict(replace(found, draws=np.ones(4000, dtype=np.intp))).single == pytest.approx((0.3,), rel=1e-6)


@pytest.mark.parametrize(("samples", "a_cluster"), [(0, 1), (100, 1), (4000, 1000)], ids=["none", "few", "four frames"])
def test_too_little_to_tell_leaves_the_default(samples: int, a_cluster: int) -> None:
    found = verdict(checks(0.1, None, 0.4, samples=samples, a_cluster=a_cluster))
    assert not found.choice_holds
    assert found.default == pytest.approx((0.4,) * (2 if samples else 0), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_rests_on_one_cluster_is_chance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    default = rng.uniform(0.3, 0.5, 4000).astype(np.float32)
    lucky = default.copy()
    lucky[:40] = lucky[2000:2040] = 0  # a cluster of each draw
    assert better_on_each((lucky[:2000].mean(), lucky[2000:].mean()), (default[:2000].mean(), default[2000:].mean()))
    found = checks(0.0, None, 0.0)
    assert not verdict(replace(found, single=lucky, default=default)).choice_holds
    assert verdict(replace(found, single=0.9 * default, default=default)).choice_holds


def test_what_rests_on_a_few_frames_is_chance_however_many_their_parts() -> None:
    found = checks(0.0, None, 0.0)
    default = np.full(4000, 0.4, dtype=np.float32)
    lucky = np.where(np.isin(found.frames, [0, 24]), np.float32(0), np.float32(0.41))  # one frame of each draw
    assert better_on_each((lucky[:2000].mean(), lucky[2000:].mean()), (0.4, 0.4))
    assert not verdict(replace(found, single=lucky, default=default)).choice_holds
    assert verdict(replace(found, single=lucky, default=default, frames=0 * found.frames)).choice_holds
