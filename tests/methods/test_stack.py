"""Trees over guides: better than the guides, the same each time, and shy of what they have not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gaps import draw_gaps
from stpipe.core.ports import Learner
from stpipe.errors import RunError, ScratchError
from stpipe.methods.guides import GuideMaker
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller
from stpipe.methods.stack import Learned, StackFiller
from tests.methods.scenes import made_up_scene

SMALL = (10, 32, 24)


def test_it_learns_whom_to_trust() -> None:
    crop, truth = made_up_scene(0, (16, 64, 56))
    hidden = draw_gaps(crop.valid, np.random.default_rng(9))
    left = crop.without(hidden)
    filler = StackFiller()
    assert isinstance(filler, Learner)
    taught = filler.taught(filler.learn([left], seed=0))
    made = fill_crop(taught, left)
    errors = {
        name: float(np.abs(fill_crop(simple, left).values - truth)[hidden].mean())
        for name, simple in (("pyramid", PyramidFiller()), ("linear", LinearFiller()))
    }
    assert float(np.abs(made.values - truth)[hidden].mean()) < 0.8 * min(errors.values())
    assert 0.75 < (np.abs(made.values - truth) <= made.half_width)[hidden].mean() < 0.99
    assert taught.notes()[0].startswith("stack: learned from ")


@dataclass(frozen=True)
class SameAgain(PyramidFiller):
    """A guide that adds nothing and takes its time."""

    @property
    def name(self) -> str:
        return "same again"

    @property
    def seconds_per_million(self) -> float:
        return 9.0


def test_a_dear_guide_that_adds_nothing_is_left_out_and_said_to_be() -> None:
    crop, _ = made_up_scene(6, SMALL)
    filler = StackFiller(maker=GuideMaker(others=(SameAgain(),)))
    taught = filler.taught(filler.learn([crop], seed=0))
    assert taught.maker.used == ()
    assert taught.halo == filler.halo
    assert "left out the guide same again" in taught.notes()[1]
    assert np.isfinite(fill_crop(taught, crop).values).all()


@pytest.fixture(scope="module")
def small() -> tuple[Crop, bytes]:
    crop, _ = made_up_scene(2, SMALL)
    return crop, StackFiller().learn([crop], seed=0)


def test_the_same_crops_and_seed_give_the_same_bytes_and_these_come_back(small: tuple[Crop, bytes]) -> None:
    crop, once = small
    again, other = (StackFiller().learn([crop], seed=seed) for seed in (0, 1))
    assert once == again != other
    assert Learned.from_bytes(once).to_bytes() == once
    identities = {str(StackFiller().taught(part).identity()) for part in (once, again, other)}
    assert len(identities | {str(StackFiller().identity())}) == 3


def test_scaling_and_shifting_the_input_does_the_same_to_the_output(small: tuple[Crop, bytes]) -> None:
    crop, learned = small
    taught = StackFiller().taught(learned)
    made = fill_crop(taught, crop).values
    # What the survey does to a cube in other units: location and spread go with them, to the last float.
    moved = replace(crop, values=np.where(crop.valid, (crop.values * 1000 + 7 - 7) / 1000, np.float32(0)))
    np.testing.assert_allclose(fill_crop(taught, moved).values, made, atol=1e-3)


def test_it_says_so_if_there_was_too_little_to_learn_from() -> None:
    crop, _ = made_up_scene(4, (2, 12, 12), empty=False)
    taught = StackFiller().taught(StackFiller().learn([crop], seed=0))
    assert "samples to hide and learn from" in taught.notes()[0]


def test_it_refuses_to_fill_untaught_and_bytes_that_are_nothing() -> None:
    crop, _ = made_up_scene(5, (3, 16, 16), empty=False)
    with pytest.raises(RunError, match="learn"):
        fill_crop(StackFiller(), crop)
    with pytest.raises(RunError, match="crops"):
        StackFiller().learn([], seed=0)
    with pytest.raises(ScratchError, match="nothing that stack has learned"):
        StackFiller().taught(b"nonsense")
