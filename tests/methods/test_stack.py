"""Trees over guides: better than the guides, the same each time, and shy of what they have not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, block_of, fill_crop
from stpipe.core.gaps import draw_gaps
from stpipe.core.ports import Learner
from stpipe.errors import RunError, ScratchError
from stpipe.methods.guides import GUIDES, GuideMaker
from stpipe.methods.linear import LinearFiller
from stpipe.methods.mixing import Mixture
from stpipe.methods.network import network_of
from stpipe.methods.pconv import PConvFiller
from stpipe.methods.pyramid import PyramidFiller
from stpipe.methods.stack import NETWORK, Learned, StackFiller
from stpipe.methods.tuned import tuned_pconv
from tests.methods.networks import write_model
from tests.methods.scenes import made_up_scene

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

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


def test_trees_are_followed_as_far_as_was_learned(small: tuple[Crop, bytes]) -> None:
    crop, learned = small
    told = Learned.from_bytes(learned)
    seen, _ = made_up_scene(2, SMALL)
    trees = Learned.from_bytes(StackFiller().learn([made_up_scene(0, (16, 64, 56))[0]], seed=0)).answer
    assert trees

    def filled(follow: tuple[float, float]) -> np.ndarray:
        taught = StackFiller().taught(replace(told, answer=trees, follow=follow).to_bytes())
        return np.asarray(fill_crop(taught, seen).values)

    none, whole, half = (filled(follow) for follow in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.0)))
    empty = ~crop.valid.any(axis=(1, 2))
    assert empty.any()
    assert np.abs(whole - none)[~crop.valid].max() > 0.01
    np.testing.assert_array_equal(half[empty], none[empty])
    np.testing.assert_allclose(half[~empty], (whole + none)[~empty] / 2, atol=1e-5)


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


@pytest.mark.parametrize(
    "length", [0, 5, 3000, -30], ids=["nothing", "next to nothing", "the start", "all but the end"]
)
def test_bytes_that_are_nothing_it_learned_are_told(small: tuple[Crop, bytes], length: int) -> None:
    with pytest.raises(ScratchError, match="nothing that stack has learned"):
        StackFiller().taught(small[1][:length])


def test_all_that_was_learned_comes_back_from_its_bytes() -> None:
    learned = Learned(
        mixture=Mixture.even(3),
        modes=b"modes",
        base=Mixture.only(1, 7),
        others=(b"one", b"", b"three"),
        skipped=("two",),
        answer=b"trees",
        width=b"",
        samples=7,
        errors=(0.5, 0.25),
        network_errors=(0.125, 0.0),
    )
    assert Learned.from_bytes(learned.to_bytes()) == learned
    bare = Learned(mixture=Mixture.even(1), modes=b"", base=None)
    again = Learned.from_bytes(bare.to_bytes())
    assert (again.mixture, again.modes, again.base, again.others) == (bare.mixture, b"", None, ())
    assert np.isnan(again.errors).all()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> StackFiller:
    """The default method in small: a fresh network, and a dear guide that is worth nothing."""
    network = network_of(write_model(tmp_path_factory.mktemp("model") / "fresh.keras", None))
    return StackFiller(
        name="pconv",
        network=network,
        maker=GuideMaker(others=(SameAgain(),), margin=network.margin),
        stand_in=NETWORK,
    )


@pytest.fixture(scope="module")
def lesson(tuned: StackFiller) -> tuple[Crop, bytes]:
    crop, _ = made_up_scene(7, (6, 32, 24))
    return crop, tuned.learn([crop], seed=0)


def test_the_network_is_one_more_guide_and_its_base_is_learned(tuned: StackFiller, lesson: tuple[Crop, bytes]) -> None:
    crop, learned = lesson
    assert tuned.names == (*GUIDES, "same again", NETWORK)
    told, taught = Learned.from_bytes(learned), tuned.taught(learned)
    assert told.skipped == ("same again",)
    assert taught.names == (*GUIDES, NETWORK)
    assert len(told.mixture.weights[0]) == len(taught.names)
    assert told.base is not None
    assert len(told.base.weights[0]) == len(GUIDES)
    assert told.base != tuned.network.mixture  # type: ignore[union-attr]
    before, after = told.network_errors
    assert after == pytest.approx(before, rel=1e-5)  # a fresh network adds nothing to the base
    made = fill_crop(taught, crop)
    assert np.isfinite(made.values).all()
    assert (made.half_width > 0).all()
    assert "left out the guide same again" in taught.notes()[-1]
    assert taught.halo == tuned.halo
    assert taught.stride == tuned.stride == (1, 8, 8)
    assert tuned.learn([crop], seed=0) == learned != tuned.learn([crop], seed=1)


def test_blocks_give_what_the_whole_gives(tuned: StackFiller, lesson: tuple[Crop, bytes]) -> None:
    taught = tuned.taught(lesson[1])
    crop, _ = made_up_scene(8, (6, 128, 24))
    block = block_of(crop, taught.stride)
    expected = taught.fill(block)
    grid = BlockGrid((6, 128, 24), BlockSpec(size=(6, 24, 24), halo=taught.halo, stride=taught.stride))
    assert min(part.read.shape[1] for part in grid) < 128
    for part in list(grid)[::2]:
        read = part.read.intersect(block.window)
        assert read == part.read
        cut = replace(
            block, values=block.values[read.slices], valid=block.valid[read.slices], window=read, wanted=part.write
        )
        made = taught.fill(cut)
        for field in ("values", "half_width"):
            got, whole = getattr(made, field)[part.trim], getattr(expected, field)[part.write.slices]
            # Trees step where a feature crosses a threshold, by whatever rounding.
            assert np.quantile(np.abs(got - whole), 0.999) < 1e-3


def test_where_there_is_too_little_to_learn_the_network_stands_in(tuned: StackFiller) -> None:
    crop, _ = made_up_scene(4, (2, 12, 12), empty=False)
    learned = tuned.learn([crop], seed=0)
    told, taught = Learned.from_bytes(learned), tuned.taught(learned)
    assert told.base is None
    assert told.mixture == Mixture.only(tuned.names.index(NETWORK), len(tuned.names))
    assert taught.notes()[0].endswith("pconv stands in")
    alone = PConvFiller(network=tuned.network, maker=replace(taught.maker, others=()))  # type: ignore[arg-type]
    made, other = fill_crop(taught, crop), fill_crop(alone, crop)
    np.testing.assert_allclose(made.values, other.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.half_width, other.half_width, rtol=1e-5)


def test_a_network_that_is_out_of_its_depth_is_told_of_and_distrusted(tmp_path: Path) -> None:
    wild = network_of(write_model(tmp_path / "wild.keras", 0, loud=1.0))
    filler = StackFiller(network=wild, maker=GuideMaker(margin=wild.margin))
    crop, _ = made_up_scene(9, (6, 32, 24))
    taught = filler.taught(filler.learn([crop], seed=0))
    before, after = taught.learned.network_errors  # type: ignore[union-attr]
    assert after > 1.1 * before
    assert f"the network errs {after / before - 1:.0%} more than the guides' mean" in taught.notes()[1]
    assert np.mean(taught.learned.mixture.weights, axis=0)[-1] < 0.2  # type: ignore[union-attr]
    # Of a variable that is the same everywhere the guides' mean has no error at all.
    flat = replace(taught, learned=replace(taught.learned, network_errors=(0.0, 1e-6)))  # type: ignore[type-var]
    assert not any("network" in note for note in flat.notes())


def test_the_default_is_tuned_with_other_simple_methods_and_the_network() -> None:
    filler = tuned_pconv()
    assert filler.name == "pconv"
    assert filler.names == (*GUIDES, "kriging", "whittaker", "harmonic", "climatology", NETWORK)
    assert filler.stand_in == NETWORK
    assert filler.maker.margin == filler.network.margin  # type: ignore[union-attr]
    assert filler.process_bytes > StackFiller().process_bytes
    assert filler.seconds_per_million > StackFiller().seconds_per_million
