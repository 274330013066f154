"""Laws of the robust regression: a slow loop, least squares, coefficients that are known, and what must not matter."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stpipe.errors import ShapeError
from stpipe.methods.sar import regression
from stpipe.methods.sar.regression import CONDITION, FLOOR, RIDGE, ROUNDS, TALWAR, Fit, fit, predict

LEAST_SQUARES = 1e9
"""A bound that throws nothing out."""

seeds = st.integers(0, 2**32 - 1)


def made_up(
    seed: int, size: int = 3, frames: int = 60, pixels: int = 12, *, noise: float = 0.1, outliers: float = 0.0
) -> tuple[np.ndarray, ...]:
    """Covariates, values, where clear, true coefficients, and which dates are gross outliers."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-1, 1, (size, 1, pixels))
    covariates = scale * rng.normal(size=(size, frames, pixels)) + rng.uniform(-20, 20, (size, 1, pixels))
    truth = np.concatenate([rng.normal(size=(1, pixels)), rng.normal(size=(size, pixels)) / scale[:, 0]])
    covariates = covariates.astype(np.float32)
    values = truth[0] + np.einsum("itp,ip->tp", covariates, truth[1:]) + noise * rng.normal(size=(frames, pixels))
    clear = rng.random((frames, pixels)) < rng.uniform(0.3, 1, pixels)
    wild = rng.random((frames, pixels)) < outliers
    values += wild * rng.uniform(8, 20, (frames, pixels)) * rng.choice([-1, 1], (frames, pixels))
    return covariates, values.astype(np.float32), clear, truth.astype(np.float32), wild


def slow_fit(
    covariates: np.ndarray, values: np.ndarray, least: int, bound: float
) -> tuple[np.ndarray, float, int, int]:
    """One pixel's used dates, (covariate, date) and (date,): coefficients, spread, dates that count, rounds."""
    design = np.concatenate([np.ones((1, values.size)), covariates.astype(np.float64)]).T
    weights, before = np.ones(values.size, dtype=bool), np.zeros(values.size, dtype=bool)
    turn = 0
    while True:
        turn += 1
        coefficients = np.linalg.lstsq(design[weights], values[weights].astype(np.float64), rcond=None)[0]
        residual = np.abs(values - design @ coefficients)
        spread = float(1.4826 * np.median(residual))
        after = residual <= bound * max(spread, FLOOR * values[weights].std())
        if turn == ROUNDS or after.sum() < least or (after == weights).all() or (after == before).all():
            return coefficients, spread, int(weights.sum()), turn
        before, weights = weights, after


@given(
    seed=seeds,
    size=st.integers(1, 8),
    frames=st.integers(24, 90),
    outliers=st.sampled_from([0.0, 0.1, 0.3]),
    bound=st.sampled_from([1.5, TALWAR]),
)
@settings(max_examples=30, deadline=None)
def test_it_is_the_slow_loop_with_least_squares(
    seed: int, size: int, frames: int, outliers: float, bound: float
) -> None:
    covariates, values, clear, _, _ = made_up(seed, size, frames, pixels=6, outliers=outliers)
    covariates[:, 3, 2] = np.nan
    covariates[-1, 5, 3] = np.nan
    least = size + 4
    made = fit(covariates, values, clear, least=least, bound=bound)
    predicted = predict(made.coefficients, covariates)
    for pixel in range(6):
        used = clear[:, pixel] & np.isfinite(covariates[:, :, pixel]).all(axis=0)
        if used.sum() < least:
            assert np.isnan(made.coefficients[:, pixel]).all()
            continue
        own = covariates[:, used, pixel]
        if made.ridged[pixel]:
            continue  # few dates after throwing many out: compared elsewhere
        coefficients, spread, count, rounds = slow_fit(own, values[used, pixel], least, bound)
        assert (made.clear[pixel], made.rounds[pixel]) == (count, rounds)
        np.testing.assert_allclose(made.spread[pixel], spread, rtol=1e-3, atol=1e-6)
        expected = coefficients[0] + coefficients[1:] @ own
        np.testing.assert_allclose(
            predicted[used, pixel], expected, atol=2e-4 * max(1, np.abs(values[used, pixel]).max())
        )


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_without_a_bound_it_is_a_line_through_the_points(seed: int) -> None:
    covariates, values, clear, _, _ = made_up(seed, size=1)
    made = fit(covariates, values, clear, least=3, bound=LEAST_SQUARES)
    for pixel in range(clear.shape[1]):
        used = clear[:, pixel]
        line = stats.linregress(covariates[0, used, pixel].astype(np.float64), values[used, pixel].astype(np.float64))
        np.testing.assert_allclose(made.coefficients[:, pixel], [line.intercept, line.slope], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.clear, clear.sum(axis=0))
    assert (made.rounds == 1).all()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_known_coefficients_are_found_among_gross_outliers(size: int) -> None:
    covariates, values, clear, truth, wild = made_up(5, size, frames=200, pixels=300, noise=0.02, outliers=0.2)
    made = fit(covariates, values, clear, least=20)
    plain = fit(covariates, values, clear, least=20, bound=LEAST_SQUARES)
    unit = covariates.std(axis=1)
    errors = [np.abs(each.coefficients[1:] - truth[1:]) * unit for each in (made, plain)]
    found = errors[0].max(axis=0) < 0.02
    assert found.mean() > 0.98  # pixels with twice as many outliers as others may be lost, in the slow loop as well
    assert np.median(errors[1]) > 10 * np.median(errors[0])
    tame = (clear & ~wild).sum(axis=0)[found]
    assert (made.clear[found] <= tame).all()
    np.testing.assert_allclose(made.clear[found] / tame, 1, atol=0.2)
    assert (made.rounds < ROUNDS).all()


@pytest.mark.parametrize("offset", [0, 300])
def test_a_perfect_fit_throws_out_nothing_but_the_outliers(offset: int) -> None:
    rng = np.random.default_rng(6)
    covariates = rng.integers(-30, 30, (2, 80, 50)).astype(np.float32)
    values = 3 * covariates[0] - 2 * covariates[1] + np.float32(offset)
    clear, wild = rng.random((2, 80, 50)) < [[[0.5]], [[0.05]]]
    made = fit(covariates, values, clear, least=10)
    np.testing.assert_array_equal(made.clear, clear.sum(axis=0))
    assert (made.rounds == 1).all()
    values[::2] += 900 * wild[::2]
    values[1::2] -= 900 * wild[1::2]
    made = fit(covariates, values, clear, least=10)
    np.testing.assert_array_equal(made.clear, (clear & ~wild).sum(axis=0))
    np.testing.assert_allclose(made.coefficients, np.repeat([[offset], [3], [-2]], 50, axis=1), atol=1e-4)


@pytest.mark.parametrize(("outliers", "noticed"), [(190, True), (200, False)])
def test_outliers_to_one_side_are_noticed_up_to_a_fifth(outliers: int, noticed: bool) -> None:
    values = np.zeros((1000, 1), dtype=np.float32)
    values[:outliers] = 1
    made = fit(np.zeros((1, 1000, 1), dtype=np.float32), values, np.ones((1000, 1), dtype=bool), least=10)
    assert made.clear[0] == 1000 - outliers * noticed
    assert made.coefficients[0, 0] == pytest.approx(0.0 if noticed else 0.2, abs=1e-6)


def test_constant_values_are_met_exactly() -> None:
    covariates, values, clear, _, _ = made_up(7)
    values[:] = np.linspace(-1, 1, values.shape[1]).astype(np.float32)
    made = fit(covariates, values, clear, least=5)
    assert not made.coefficients[1:].any()
    np.testing.assert_array_equal(made.coefficients[0], values[0])
    np.testing.assert_array_equal(made.clear, clear.sum(axis=0))


@given(seed=seeds, factor=st.sampled_from([-1000.0, 1e-3, 7.0]), offset=st.floats(-100, 100))
@settings(max_examples=15, deadline=None)
def test_units_make_no_difference_to_predictions(seed: int, factor: float, offset: float) -> None:
    covariates, values, clear, _, _ = made_up(seed, outliers=0.1)
    predicted = predict(fit(covariates, values, clear, least=8).coefficients, covariates)
    other = covariates.copy()
    other[1] = np.float32(factor) * (other[1] + np.float32(offset))
    in_other_units = predict(fit(other, values, clear, least=8).coefficients, other)
    tolerance = 1e-4 * max(1.0, float(np.abs(values).max()))
    np.testing.assert_allclose(in_other_units, predicted, atol=tolerance)
    made = fit(covariates, (values * np.float32(factor) + np.float32(offset)), clear, least=8)
    back = (predict(made.coefficients, covariates) - np.float32(offset)) / np.float32(factor)
    np.testing.assert_allclose(back, predicted, atol=tolerance * max(1, abs(offset / factor)))


def assert_same(one: Fit, other: Fit) -> None:
    np.testing.assert_allclose(one.coefficients, other.coefficients, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(one.spread, other.spread, rtol=1e-6)
    for name in ("clear", "ridged", "rounds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def joined(parts: list[Fit]) -> Fit:
    return Fit(
        **{name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in Fit.__dataclass_fields__}
    )


@given(seed=seeds, cuts=st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=20, deadline=None)
def test_any_split_of_the_pixels_gives_the_same(seed: int, cuts: list[int]) -> None:
    covariates, values, clear, _, _ = made_up(seed, size=4, frames=70, pixels=40, outliers=0.15)
    whole = fit(covariates, values, clear, least=9)
    edges = [0, *sorted(cuts), 40]
    parts = [
        fit(covariates[:, :, start:stop], values[:, start:stop], clear[:, start:stop], least=9)
        for start, stop in itertools.pairwise(edges)
    ]
    assert_same(joined(parts), whole)


@pytest.mark.parametrize(("batch", "strip"), [(1, 2**24), (2**24, 1), (2**15, 2**14)])
def test_what_is_worked_on_at_a_time_makes_no_difference(
    batch: int, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_up(8, size=4, frames=70, pixels=60, outliers=0.15)[:3]
    whole = fit(*data, least=9)
    monkeypatch.setattr(regression, "BATCH_BYTES", batch)
    monkeypatch.setattr(regression, "STRIP_BYTES", strip)
    assert_same(fit(*data, least=9), whole)


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_what_is_not_clear_has_no_say(seed: int) -> None:
    covariates, values, clear, _, _ = made_up(seed, outliers=0.1)
    made = fit(covariates, values, clear, least=8)
    rng = np.random.default_rng(seed)
    values[~clear] = rng.choice([np.nan, np.inf, -3e38, 7], np.count_nonzero(~clear))
    covariates[:, ~clear] = rng.choice([np.nan, -np.inf, 1e30], np.count_nonzero(~clear))
    assert_same(fit(covariates, values, clear, least=8), made)
    covariates, values, clear, _, _ = made_up(seed, outliers=0.1)
    lost = rng.random(clear.shape) < 0.2
    less = fit(covariates, values, clear & ~lost, least=8)
    covariates[0, lost] = np.nan  # one covariate missing is as good as no observation
    assert_same(fit(covariates, values, clear, least=8), less)


def test_a_constant_covariate_has_the_coefficient_zero() -> None:
    covariates, values, clear, _, _ = made_up(9, noise=0.05)
    plain = fit(covariates[[0, 2]], values, clear, least=8)
    constant = np.float32(-17.3)
    covariates[1] = constant
    covariates[1, ::2] = np.nextafter(constant, np.float32(0))  # as different ways to work it out may leave it
    made = fit(covariates, values, clear, least=8)
    assert not made.coefficients[2].any()
    assert not made.ridged.any()
    np.testing.assert_allclose(made.coefficients[[0, 1, 3]], plain.coefficients, rtol=1e-5, atol=1e-6)


def test_a_covariate_that_varies_on_thrown_out_dates_alone_has_the_coefficient_zero() -> None:
    covariates, values, clear, _, _ = made_up(10, size=2, noise=0.05)
    clear[:3] = True
    covariates[1] = np.float32(4.7)
    covariates[1, :2] += np.float32(1e-3)
    values[0] += 40  # the two would allow for half of this with a steep slope, and then are thrown out together
    values[1] -= 40
    made = fit(covariates, values, clear, least=8)
    assert (made.clear <= clear.sum(axis=0) - 2).all()
    assert not made.coefficients[2].any()


@given(seed=seeds, alike=st.floats(-5, -1))
@settings(max_examples=25, deadline=None)
def test_there_is_a_ridge_just_where_the_covariates_are_too_alike(seed: int, alike: float) -> None:
    covariates, values, clear, _, _ = made_up(seed, size=4, frames=80, noise=0.05)
    rng = np.random.default_rng(seed)
    covariates -= covariates.mean(axis=1, keepdims=True)
    covariates[3] = covariates[0] + covariates[1] - covariates[2] + 10**alike * rng.normal(size=clear.shape)
    made = fit(covariates, values, clear, least=8, bound=LEAST_SQUARES)
    predicted = predict(made.coefficients, covariates)
    for pixel in range(clear.shape[1]):
        used = clear[:, pixel]
        own, observed = covariates[:, used, pixel].astype(np.float64), values[used, pixel].astype(np.float64)
        scaled = (own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True)
        correlation = scaled @ scaled.T / used.sum()
        eigenvalues = np.linalg.eigvalsh(correlation)
        condition = eigenvalues[0] / eigenvalues[-1]
        if abs(np.log(condition / CONDITION)) > 1e-3:
            assert made.ridged[pixel] == (condition < CONDITION)
        ridge = RIDGE * np.eye(4) * made.ridged[pixel]
        slopes = np.linalg.solve(correlation + ridge, scaled @ (observed - observed.mean()) / used.sum())
        np.testing.assert_allclose(predicted[used, pixel], observed.mean() + slopes @ scaled, atol=2e-3)


def test_twice_the_same_covariate_shares_the_slope() -> None:
    covariates, values, clear, _, _ = made_up(11, size=1, noise=0.05)
    once = fit(covariates, values, clear, least=8)
    twice = fit(covariates.repeat(2, axis=0), values, clear, least=8)
    assert twice.ridged.all()
    assert not once.ridged.any()
    np.testing.assert_allclose(twice.coefficients[1], twice.coefficients[2], rtol=1e-5)
    np.testing.assert_allclose(2 * twice.coefficients[1], once.coefficients[1], rtol=1e-3)


def test_as_many_covariates_as_dates_are_kept_at_bay_by_a_ridge() -> None:
    covariates, values, _, _, _ = made_up(12, size=8, frames=6, pixels=20)
    made = fit(covariates, values, np.ones(values.shape, dtype=bool), least=1)
    assert made.ridged.all()
    assert np.isfinite(made.coefficients).all()
    lone = fit(covariates[:, :1], values[:1], np.ones((1, 20), dtype=bool), least=1)
    np.testing.assert_array_equal(lone.coefficients[0], values[0])
    assert not lone.coefficients[1:].any()


def test_pixels_with_too_few_dates_are_not_fitted() -> None:
    covariates, values, clear, _, _ = made_up(13)
    clear[:] = False
    for pixel in range(12):
        clear[:pixel, pixel] = True
    made = fit(covariates, values, clear, least=6)
    few = np.arange(12) < 6
    np.testing.assert_array_equal(np.isnan(made.coefficients), np.broadcast_to(few, (4, 12)))
    np.testing.assert_array_equal(np.isnan(made.spread), few)
    np.testing.assert_array_equal(made.rounds == 0, few)
    np.testing.assert_array_equal(made.clear == 0, few)


@given(seed=seeds, least=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_no_fit_ends_with_fewer_dates_than_the_least(seed: int, least: int) -> None:
    covariates, values, clear, _, _ = made_up(seed, size=2)
    made = fit(covariates, values, clear, least=least, bound=0.3)
    fitted = clear.sum(axis=0) >= least
    np.testing.assert_array_equal(np.isfinite(made.coefficients).all(axis=0), fitted)
    assert (made.clear[fitted] >= least).all()


def test_the_last_round_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_up(14, outliers=0.2)[:3]
    plain = fit(*data, least=8, bound=LEAST_SQUARES)
    assert fit(*data, least=8).rounds.max() > 2
    monkeypatch.setattr(regression, "ROUNDS", 1)
    assert_same(fit(*data, least=8), plain)


def test_the_bound_leaves_95_percent_of_the_efficiency_of_least_squares() -> None:
    normal = stats.norm()
    formula = normal.cdf(TALWAR) - normal.cdf(-TALWAR) - 2 * TALWAR * normal.pdf(TALWAR)  # Huber's, for hard rejection
    assert formula == pytest.approx(0.95, abs=1e-3)
    rng = np.random.default_rng(15)
    covariates, values = rng.normal(size=(2, 400, 4000)).astype(np.float32)
    clear = np.ones(values.shape, dtype=bool)
    robust, plain = (
        fit(covariates[None], values, clear, least=8, bound=bound).coefficients[1] for bound in (TALWAR, LEAST_SQUARES)
    )
    assert np.mean(plain**2) / np.mean(robust**2) == pytest.approx(0.95, abs=0.02)


def test_the_spread_is_that_of_the_noise_whatever_the_outliers() -> None:
    for outliers, tolerance in ((0.0, 0.03), (0.1, 0.2)):
        covariates, values, _, _, _ = made_up(16, size=2, frames=300, pixels=200, noise=0.5, outliers=outliers)
        made = fit(covariates, values, np.ones(values.shape, dtype=bool), least=8)
        assert float(np.median(made.spread)) == pytest.approx(0.5, rel=tolerance)


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_a_prediction_is_the_constant_and_each_slope_times_its_covariate(seed: int) -> None:
    covariates, _, clear, truth, _ = made_up(seed)
    covariates[1, ~clear] = np.nan
    truth[:, 4] = np.nan
    predicted = predict(truth, covariates)
    assert predicted.dtype == np.float32
    for t, pixel in np.ndindex(*clear.shape):
        terms = truth[1:, pixel].astype(np.float64) * covariates[:, t, pixel]
        np.testing.assert_allclose(predicted[t, pixel], truth[0, pixel] + terms.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 7, 0)], ids=["no dates", "no pixels"])
def test_nothing_in_gives_nothing_out(shape: tuple[int, int, int]) -> None:
    made = fit(np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32), np.zeros(shape[1:], bool), least=3)
    assert np.isnan(made.coefficients).all()
    assert predict(made.coefficients, np.zeros(shape, np.float32)).shape == shape[1:]


def test_memory_does_not_grow_with_the_pixels() -> None:
    peaks = []
    for pixels in (6500, 13000):
        rng = np.random.default_rng(17)
        covariates = rng.standard_normal((8, 100, pixels), dtype=np.float32)
        values, clear = covariates.sum(axis=0), rng.random((100, pixels)) < 0.5
        tracemalloc.start()
        fit(covariates, values, clear, least=20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 64 * 2**20
    assert peaks[1] < peaks[0] + 3 * 2**20


def test_shapes_that_disagree_are_refused() -> None:
    covariates, values, clear, truth, _ = made_up(18)
    with pytest.raises(ShapeError, match=r"need covariates .* got \(3, 60, 12\), \(59, 12\) and \(60, 12\)"):
        fit(covariates, values[1:], clear, least=3)
    with pytest.raises(ShapeError, match=r"got \(0, 60, 12\)"):
        fit(covariates[:0], values, clear, least=3)
    with pytest.raises(ShapeError, match=r"need coefficients of shape \(4, 12\) .* got \(3, 12\)"):
        predict(truth[1:], covariates)
