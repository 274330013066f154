"""Methods that take guides which the user gave, and what it costs to bring those onto the cube's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stpipe.core.crops import Crop
from stpipe.core.geometry import GuideCost
from stpipe.core.ports import JSON, BlockInput, Fields, Filler, Learner, Prediction
from stpipe.core.windows import Triple, samples_in
from stpipe.errors import OptionError
from stpipe.methods import METHODS, make_filler
from stpipe.methods.auto import AutoFiller, auto_filler
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.guided import NAME, GuidedFiller
from stpipe.methods.guides import GuideMaker
from stpipe.methods.passing import PassesRounds
from stpipe.methods.radar_stack import RadarStackFiller
from stpipe.methods.sar.options import NAME as SAR
from stpipe.methods.sar.options import SarOptions
from stpipe.methods.stack import StackFiller
from stpipe.methods.tuned import tuned_pconv
from stpipe.model.weights import DEFAULT

TAKE_GUIDES = (NAME, "pconv", "stack", "auto", SAR)
"""Methods that listen to guides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithGuides(PassesRounds):
    """A `Filler` and `Learner` around another one, which is given guides: adds what they cost, and tells their gain."""

    filler: Filler
    """The inner method."""

    guides: JSON
    """All that decides what is read, see `stpipe.core.ports.GuideReader`."""

    cost: GuideCost = field(default_factory=GuideCost)
    """What reading them takes."""

    @property
    def held_bytes(self) -> float:
        """Memory of the guides for each sample of a window."""
        return 4.0 * len(self.cost.names)

    @property
    def name(self) -> str:
        """That of the inner method."""
        return self.filler.name

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """That of the inner method."""
        return self.filler.halo

    @property
    def stride(self) -> Triple:
        """That of the inner method."""
        return self.filler.stride

    @property
    def process_bytes(self) -> int:
        """That of the inner method, and a chunk of a guide."""
        return self.filler.process_bytes + self.cost.chunk_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window: guides are read before anything else is there."""
        return self.held_bytes + max(self.filler.sample_bytes, self.cost.sample_bytes)

    @property
    def pixel_bytes(self) -> float:
        """That of the inner method."""
        return self.filler.pixel_bytes

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core."""
        return self.filler.seconds_per_million + self.cost.seconds_per_million

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning: the guides of the crops, once more of the one that is looked at, and of reading them."""
        samples = samples_in(crops)
        inner = self.filler.learn_bytes(crops) if isinstance(self.filler, Learner) else 0
        return int(max(inner + 2 * self.held_bytes * samples, (self.held_bytes + self.cost.sample_bytes) * samples))

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core."""
        inner = self.filler.learn_seconds(crops) if isinstance(self.filler, Learner) else 0.0
        return inner + samples_in(crops) / 1e6 * self.cost.seconds_per_million

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {**self.filler.identity(), "given": self.guides}

    def prepare(self) -> None:
        """Load what the inner method needs."""
        self.filler.prepare()

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Let the inner method learn from crops with their guides."""
        return self.filler.learn(crops, seed=seed) if isinstance(self.filler, Learner) else b""

    def taught(self, learned: bytes) -> WithGuides:
        """Return the method with what `learn` gave."""
        return replace(self, filler=self.filler.taught(learned)) if isinstance(self.filler, Learner) else self

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of what was learned, and what the guides gained."""
        inner: tuple[str, ...] = getattr(self.filler, "notes", tuple)()
        return tuple(dict.fromkeys((*inner, *_told(self.filler))))

    def fill(self, block: BlockInput) -> Prediction:
        """Predict as the inner method does."""
        return self.filler.fill(block)


def _told(filler: object) -> tuple[str, ...]:
    """Return what the guided method inside another one noted."""
    match filler:
        case GuidedFiller():
            return filler.notes()
        case CalibratedFiller():
            return _told(filler.filler)
        case StackFiller():
            return tuple(line for other in filler.maker.others for line in _told(other))
        case AutoFiller():
            return tuple(line for other in filler.fillers for line in _told(other))
    return ()


def check_method(method: str, *, guided: bool, tune: bool | None = None, option: str = "--guide") -> None:
    """Refuse guides with a method that has no use for them, and the method that needs some without any.

    Parameters
    ----------
    method : str
        Its name.
    guided : bool
        Whether the user gave guides.
    tune : bool, optional
        Whether pconv is to learn from the cube, if the user said so.
    option : str
        How guides are given.

    Examples
    --------
    >>> check_method("stack", guided=True)
    >>> check_method("pyramid", guided=True)
    Traceback (most recent call last):
        ...
    stpipe.errors.OptionError: method pyramid takes no --guide; guided, pconv, stack, auto, sar do
    """
    if method == NAME and not guided:
        raise OptionError(f"method {NAME} leans on guides alone; give one with {option}, or choose another method")
    if method == SAR and not guided:
        raise OptionError(f"method {SAR} leans on radar; name its cube with {option}, or choose another method")
    if method == SAR and tune:
        raise OptionError(f"--tune goes with --method pconv, not with {SAR}; leave one of them out")
    if guided and method in METHODS and method not in TAKE_GUIDES:
        raise OptionError(f"method {method} takes no {option}; {', '.join(TAKE_GUIDES)} do")
    if method == "auto" and tune is False:
        raise OptionError("auto compares what it chose with pconv as tuned to the cube; leave --no-tune out")
    if guided and method == "pconv" and tune is False:
        raise OptionError(f"pconv leans on a {option} only as far as it learns to trust it; leave --no-tune out")


def make_guided(
    method: str,
    *,
    guides: JSON,
    cost: GuideCost,
    model: str | None = None,
    coverage: float = 0.9,
    tune: bool | None = None,
    radar: Sequence[Sequence[str]] = (),
) -> WithGuides:
    """Return a method that leans on guides, with intervals that are calibrated on the cube that it fills.

    Parameters
    ----------
    method : str
        One of `TAKE_GUIDES`.
    guides : JSON
        The identity of their reader.
    cost : GuideCost
        With the guides' names.
    model, coverage, tune
        As for `stpipe.methods.make_filler`.
    radar : sequence of sequence of str
        Names of those guides that are radar in dB, as for `make_sar`; pconv infills from them too, others don't listen.

    Examples
    --------
    >>> make_guided("stack", guides=[], cost=GuideCost(names=("vv",))).filler.filler.names[-1]
    'guided'
    """
    check_method(method, guided=True, tune=tune)
    if method == SAR:
        raise OptionError(f"method {SAR} looks at the whole scene before it fills, which only stpipe fill-scene does")
    if method not in TAKE_GUIDES:
        make_filler(method)  # says which methods there are
    for option, given in (("--model", model is not None), ("--tune", bool(tune))):
        if given and method != "pconv":
            raise OptionError(f"{option} goes with --method pconv, not with {method}; leave one of them out")
    echoes = tuple(name for group in radar for name in group)
    own = GuidedFiller(names=tuple(name for name in cost.names if name not in echoes))
    inner: Filler = own
    if method == "stack":
        inner = StackFiller(maker=GuideMaker(others=(own,)))
    elif method == "pconv" and radar:
        from stpipe.methods.sar.filler import SarFiller

        sar = SarFiller(groups=tuple(map(tuple, radar)))
        inner = RadarStackFiller(stack=tuned_pconv(DEFAULT if model is None else model, others=(own, sar)))
    elif method == "pconv":
        inner = tuned_pconv(DEFAULT if model is None else model, others=(own,))
    elif method == "auto":
        inner = auto_filler(own)
    return WithGuides(filler=CalibratedFiller(filler=inner, coverage=coverage), guides=guides, cost=cost)


def make_sar(
    groups: Sequence[Sequence[str]],
    *,
    steps: SarOptions,
    guides: JSON,
    cost: GuideCost,
    given: Fields | None = None,
    told: JSON = None,
    coverage: float = 0.9,
) -> WithGuides:
    """Return infilling from radar, with intervals that are calibrated on the cube that it fills.

    Parameters
    ----------
    groups : sequence of sequence of str
        Names of the radar that goes into one regression.
    steps : SarOptions
        What its steps go by.
    guides : JSON
        The identity of the radar's reader.
    cost : GuideCost
        What reading takes.
    given : Fields, optional
        Coefficients of another run to go by.
    told : JSON
        What tells these from others.
    coverage : float
        Share of the truth that the intervals are to hold.

    Examples
    --------
    >>> make_sar([["VV", "VH"]], steps=SarOptions(), guides=[], cost=GuideCost(names=("VV", "VH"))).rounds
    ('means', 'regression', 'calibration')
    """
    from stpipe.methods.sar.filler import SarFiller

    own = SarFiller(groups=tuple(map(tuple, groups)), options=steps, given=given, told=told)
    return WithGuides(filler=CalibratedFiller(filler=own, coverage=coverage), guides=guides, cost=cost)
