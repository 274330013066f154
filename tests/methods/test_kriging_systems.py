"""Kriging's systems against a dense loop over samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.errors import OptionError
from stpipe.methods.kriging import REACH
from stpipe.methods.kriging_systems import COUNT, Covariance, krige_frame
from stpipe.methods.sample_search import find_samples, offsets


def distances(valid: np.ndarray) -> np.ndarray:
    """Of the nearest valid sample, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(~valid))


def krige_by_hand(values: np.ndarray, where: np.ndarray, prior: float, covariance: Covariance) -> tuple[float, float]:
    """Estimate and its square error, as the conditional mean of a normal distribution with a random mean."""
    points = np.concatenate([where, [[0, 0]]]).astype(float)
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    joint = np.exp(-apart / covariance.range_px) + covariance.nugget * np.eye(len(points)) + 1 / covariance.backing
    inner, toward = joint[:-1, :-1], joint[:-1, -1]
    weights = np.linalg.solve(inner, toward)
    return prior + float(weights @ (values - prior)), float(joint[-1, -1] - weights @ toward)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share_valid=st.sampled_from([0.01, 0.2, 0.8]),
    covariance=st.builds(
        Covariance,
        range_px=st.floats(1, 100),
        nugget=st.floats(0.003, 2),
        backing=st.floats(0.1, 20),
    ),
)
def test_predictions_are_those_of_a_dense_loop(seed: int, share_valid: float, covariance: Covariance) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((16, 32)) < share_valid
    valid[3, 4] = True
    frame, coarse = (rng.normal(size=valid.shape).astype(np.float32) for _ in range(2))
    depth = distances(valid)
    rows, columns = np.nonzero(~valid & (depth < REACH))
    # On the 4 x 4 grid nothing is interpolated.
    exact = (rows % 4 == 0) & (columns % 4 == 0)
    rows, columns = rows[exact], columns[exact]
    made = krige_frame(frame, valid, coarse, rows, columns, depth[rows, columns], covariance)
    table, found = offsets(), find_samples(valid, rows, columns)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        ranks = found[i, found[i] < table.rows.size]
        where = np.stack([table.rows[ranks], table.columns[ranks]], axis=1)
        values = frame[row + where[:, 0], column + where[:, 1]].astype(float)
        estimate, error = krige_by_hand(values, where, float(coarse[row, column]), covariance)
        np.testing.assert_allclose(made[:2, i], [estimate, error], rtol=1e-7, atol=1e-7)
        assert made[COUNT, i] == len(where) - 1


def test_between_worked_out_pixels_answers_are_bilinear() -> None:
    rng = np.random.default_rng(5)
    valid = np.ones((48, 48), dtype=bool)
    valid[8:40, 8:40] = False
    frame = rng.normal(size=valid.shape).astype(np.float32)
    depth = distances(valid)
    rows, columns = np.nonzero(~valid)
    made = np.zeros((4, 48, 48))
    made[:, rows, columns] = krige_frame(frame, valid, frame, rows, columns, depth[rows, columns], Covariance())
    np.testing.assert_allclose(made[:, 22, 20], (made[:, 20, 20] + made[:, 24, 20]) / 2, rtol=1e-12)
    corners = made[:, [20, 20, 24, 24], [20, 24, 20, 24]]
    np.testing.assert_allclose(made[:, 21, 22], corners @ [0.375, 0.375, 0.125, 0.125], rtol=1e-12)


@pytest.mark.parametrize(
    "option", [{"range_px": 0.0}, {"nugget": 0.0}, {"backing": -1.0}], ids=lambda option: next(iter(option))
)
def test_covariances_without_meaning_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="need range_px > 0, nugget > 0 and backing >= 0"):
        Covariance(**option)
