"""The patterns as a method, with a plain DINEOF as the second opinion."""

from __future__ import annotations

import numpy as np
import pytest

from stpipe.core.crops import fill_crop
from stpipe.core.ports import Learner
from stpipe.errors import ModelFileError, RunError, ShapeError
from stpipe.methods.eof import EofFiller
from tests.methods.scenes import crop_of, patterned


def plain_dineof(values: np.ndarray, valid: np.ndarray, rank: int) -> np.ndarray:
    """The published iteration: gaps start at the mean, and are the truncated reconstruction until that rests."""
    mean = values[valid].mean()
    filled = np.where(valid, values - mean, 0.0)
    for modes in range(1, rank + 1):
        for _ in range(300):
            left, sizes, right = np.linalg.svd(filled, full_matrices=False)
            again = np.where(valid, values - mean, (left[:, :modes] * sizes[:modes]) @ right[:modes])
            change = np.sqrt(((again - filled)[~valid] ** 2).mean())
            filled = again
            if change < 1e-3 * values[valid].std():
                break
    return filled + mean


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_it_fills_gaps_as_well_as_the_plain_iteration_that_is_told_the_rank(seed: int) -> None:
    values, valid, days, truth = patterned(seed)
    filler = EofFiller()
    crop = crop_of(values, valid, days)
    filled = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    seen = valid.any(axis=(1, 2))
    gaps = ~valid & seen[:, None, None]
    matrix, known = values[seen].reshape(seen.sum(), -1), valid[seen].reshape(seen.sum(), -1)
    plain = {
        rank: np.abs(plain_dineof(matrix, known, rank).reshape(-1, *values.shape[1:]) - truth[seen])[gaps[seen]].mean()
        for rank in (3, 4)
    }
    error = np.abs(filled.values - truth)[gaps].mean()
    # An exact rank in white noise is where patterns to spare, as it keeps them, cost most.
    assert error < 1.05 * plain[3]
    assert error < plain[4]
    assert 0.8 < (np.abs(filled.values - values) < filled.half_width)[gaps].mean() <= 1


def test_the_same_crops_and_seed_give_the_same_bytes_and_other_ones_another_identity() -> None:
    values, valid, days, _ = patterned(1)
    filler = EofFiller()
    assert isinstance(filler, Learner)
    crops = [crop_of(values[..., :12], valid[..., :12], days), crop_of(values[..., 12:], valid[..., 12:], days)]
    once, again = (filler.learn(crops, seed=7) for _ in range(2))
    other = filler.learn(crops[:1], seed=7)
    assert once == again
    assert filler.taught(once).identity() == filler.taught(again).identity()
    identities = [str(f.identity()) for f in (filler, filler.taught(once), filler.taught(other))]
    assert len(set(identities)) == 3


def test_a_constant_cube_is_filled_with_the_constant() -> None:
    valid = np.random.default_rng(0).random((12, 16, 16)) < 0.5
    crop = crop_of(np.full(valid.shape, 1.5), valid, np.arange(12.0))
    filler = EofFiller()
    result = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    np.testing.assert_allclose(result.values[:, valid.any(axis=0)], 1.5, atol=0.05)


def test_misuse_is_refused() -> None:
    values, valid, days, _ = patterned(6)
    crop = crop_of(values, valid, days)
    with pytest.raises(RunError, match="call learn"):
        fill_crop(EofFiller(), crop)
    with pytest.raises(RunError, match="got none"):
        EofFiller().learn([], seed=0)
    with pytest.raises(ModelFileError, match="no patterns"):
        EofFiller().taught(b"something else")
    taught = EofFiller().taught(EofFiller().learn([crop], seed=0))
    with pytest.raises(ShapeError, match="learned on 24 frames, and is to fill 20"):
        fill_crop(taught, crop_of(values[:20], valid[:20], days[:20]))
