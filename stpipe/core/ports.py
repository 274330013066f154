"""What the rooms above hand down: readers, stores and fillers, as Protocols.

`execution` is written against these alone; `io` and `methods` provide them, and tests bring small ones of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blocks import Block
from stpipe.core.windows import Triple, Window

if TYPE_CHECKING:
    from stpipe.core.crops import Crop

JSON = Any
"""Whatever `json.dumps` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableInfo:
    """One variable of a cube, as it is stored."""

    name: str
    """The name the user knows it by."""

    dtype: str
    """NumPy dtype of the stored samples, such as ``int16`` or ``float32``."""

    chunks: Triple
    """Stored chunk lengths along (time, y, x)."""

    nodata: float | None = None
    """Stored value that means gap, besides NaN; in stored units."""

    scale_factor: float = 1.0
    """Physical value = stored value x `scale_factor` + `add_offset`."""

    add_offset: float = 0.0
    """See `scale_factor`."""

    attrs: Mapping[str, JSON] = field(default_factory=dict)
    """The variable's other attributes, such as units and long_name."""


class CubeReader(Protocol):
    """Reads windows of stored samples; picklable, opens its files on first use in each process."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""

    def read(self, variable: str, window: Window) -> NDArray[Any]:
        """Return the stored samples of a window inside the cube, (t, y, x), in the stored dtype.

        Raises `stpipe.errors.ReadError` naming the chunk if one can't be read.
        """

    def read_domain(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (y, x) True where values can exist, or None where that is everywhere."""

    def read_trusted(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (t, y, x) True where rules let samples be trusted, or None where there are no rules.

        A sample's answer is the same in whichever window it is asked for.
        """

    def read_judged(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.int64]] | None:
        """Return what `read_trusted` does, and how often each rule matched, see `stpipe.core.trust.remarks`."""


class GuideReader(Protocol):
    """Reads what the user gave to lean on, as it lies on the cube's frames and pixels; picklable like `CubeReader`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guides."""

    def identity(self) -> JSON:
        """Return all that decides what is read: files, variables, how they are brought onto the grid."""

    def read(self, window: Window) -> dict[str, NDArray[np.float32]]:
        """Return (t, y, x) of each guide, standardised, NaN where there is none, as past the end of the cube.

        A sample is the same in whichever window it is asked for. Raises `stpipe.errors.ReadError` naming the chunk if
        one can't be read.
        """


class Overviews(Protocol):
    """The scene's pooled sums: level k has cells of 2**k x 2**k pixels; the last level is one cell a frame."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels there are, ascending, such as ``(3, 4, 5, 6)``."""

    def shape(self, level: int) -> Triple:
        """(t, y, x) shape of a level."""

    def read(self, level: int, window: Window) -> NDArray[np.float64]:
        """Return (3, t, y, x): count, sum and sum of squares of valid values; zero outside the scene.

        Values are standardised like those of `BlockInput`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInput:
    """What a filler gets: one read window, standardised by the scene's location and spread."""

    values: NDArray[np.float32]
    """(t, y, x), (physical - location) / spread; zero in gaps."""

    valid: NDArray[np.bool_]
    """(t, y, x), True where observed and trusted; False outside the cube."""

    days: NDArray[np.float64]
    """(t,), true times of the frames in days, ascending."""

    window: Window
    """Where this lies in the cube."""

    overviews: Overviews
    """The scene's coarse levels."""

    all_days: NDArray[np.float64]
    """(T,), true times of all frames of the cube; the overviews have them all."""

    wanted: Window | None = None
    """The part of `window` that will be used, in the cube; a costly method may leave the rest NaN. None: all of it."""

    guides: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(t, y, x) of each guide that the user gave, by its name: standardised by its own scene-wide location and spread,
    NaN where there is none. Radar is in dB."""

    domain: NDArray[np.bool_] | None = None
    """(y, x), True where values can exist; False outside the cube. None: wherever the cube is."""

    scale: tuple[float, float] = (0.0, 1.0)
    """Location and spread that values are standardised by."""

    origin: Triple = (0, 0, 0)
    """Where in the cube (0, 0, 0) of `window` is: a part that is a scene of its own begins at its own corner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a filler gives: a value everywhere it can, gap or not."""

    values: NDArray[np.float32]
    """(t, y, x), standardised; NaN where the method can't reach."""

    half_width: NDArray[np.float32]
    """(t, y, x), half-width of a 90 % interval, standardised; NaN where unknown."""

    fallback: NDArray[np.bool_]
    """(t, y, x), True where a simpler method stood in."""


@runtime_checkable
class Filler(Protocol):
    """A method of filling gaps."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """Context that makes a block's result equal the whole scene's; None along time: the whole axis."""

    @property
    def stride(self) -> Triple:
        """Read windows start at, and are as long as, multiples of this."""

    @property
    def process_bytes(self) -> int:
        """Memory of a worker that has loaded the method and done nothing yet."""

    @property
    def sample_bytes(self) -> float:
        """Memory that a fill takes at its peak, for each sample of the read window."""

    @property
    def pixel_bytes(self) -> float:
        """Memory that it takes besides, for each pixel of the read window, however few its frames."""

    @property
    def seconds_per_million(self) -> float:
        """Rough cost on one core, for a million samples of read windows."""

    def identity(self) -> dict[str, JSON]:
        """Return all that decides the method's numbers: name, options, digest of the weights."""

    def prepare(self) -> None:
        """Load what is heavy; called once in each worker process."""

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of a read window. Values under gaps can't influence the result."""


@runtime_checkable
class Learner(Protocol):
    """A `Filler` that first learns something from the cube: which patterns it has, how smooth it is, what to trust.

    Learning happens once a variable, between survey and fill, on crops of the cube. What was learned is a file's
    worth of bytes, kept with the run, so that a run that is taken up again goes on with the very same. Halo, stride
    and memory of the taught method are those of the untaught one.
    """

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Return the memory that learning from crops of these shapes takes at its peak, besides the crops."""

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Return the rough cost on one core of learning from crops of these shapes."""

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from crops; the same crops and seed give the same bytes."""

    def taught(self, learned: bytes) -> Filler:
        """Return the method with what `learn` gave; its `identity` tells it from one that learned other things."""


class Sums(Protocol):
    """What a look at a part of the scene adds to what was seen of other parts."""

    def __add__(self, other: Self) -> Self:
        """Return the sums over both parts."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it as arrays, to be kept in a file."""


class Fields(Protocol):
    """Numbers of each pixel that a method has kept, such as coefficients; picklable."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return (field, y, x) of a window's pixels; NaN outside the cube and where nothing was kept.

        Raises `stpipe.errors.ScratchError` if they are not as they were written.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at one part of the scene gave."""

    sums: Sums
    """What is added up over all parts."""

    fields: NDArray[np.float32] | None = None
    """(field, y, x) to keep of the pixels that were looked at, if the round keeps any."""


@runtime_checkable
class Seamless(Protocol):
    """A `Filler` that may say the same of a sample, to the last bit or nearly, in every block that has its halo."""

    @property
    def seamless(self) -> bool:
        """Whether it does: blocks need no overlap then, for there is nothing to blend."""


@runtime_checkable
class SceneFiller(Protocol):
    """A `Filler` that takes numbers of the whole scene: means, a covariance, percentiles.

    It looks at the scene in rounds, between survey and fill, a part at a time; parts have all frames and don't overlap.
    What it sees of a part comes back as sums, which are added up over all parts; a later round knows what the earlier
    ones have settled. What a look says of a pixel must not depend on the part that it is in.
    """

    @property
    def rounds(self) -> tuple[str, ...]:
        """Names of the rounds; none: it takes nothing of the scene."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the numbers that it keeps of each pixel; one of its looks gives them."""

    def look(self, number: int, block: BlockInput) -> Look:
        """Look at what is wanted of a block."""

    def sums(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> Sums:
        """Return the sums of a round from their arrays."""

    def settle(self, number: int, sums: Sums) -> Mapping[str, NDArray[Any]]:
        """Return what a round gives, given the sums over the whole scene: worked out once, and kept in a file."""

    def settled(self, number: int, given: Mapping[str, NDArray[Any]]) -> Filler:
        """Return the method with what a round gave."""

    def with_fields(self, fields: Fields) -> Filler:
        """Return the method with the fields that it has kept so far."""


class OverviewStore(Protocol):
    """The scene's overviews on disk, in physical units, written tile by tile."""

    def write_tile(self, variable: str, tile: Window, levels: Mapping[int, NDArray[np.float64]]) -> None:
        """Write a tile's cells of the levels that a tile can complete by itself."""

    def read_tile(self, variable: str, tile: Window) -> Mapping[int, NDArray[np.float64]]:
        """Return what `write_tile` wrote."""

    def write_gaps(self, variable: str, tile: Window, gaps: NDArray[np.uint8]) -> None:
        """Write (t, y, x) numbers of gaps in each cell of the finest level."""

    def read_gaps(self, variable: str, tile: Window) -> NDArray[np.uint8]:
        """Return what `write_gaps` wrote."""

    def complete(self, variable: str) -> str:
        """Work out the levels that no tile can complete by itself, once all tiles are there; return their digest."""

    def completed(self, variable: str) -> str:
        """Return the digest of those levels as they are.

        Raises `stpipe.errors.ScratchError` if they can't be read.
        """

    def overviews(self, variable: str, location: float, spread: float) -> Overviews:
        """Return the overviews of a variable, standardised."""


class BlockStore(Protocol):
    """The scratch store: filled blocks, one chunk each."""

    def write(self, variable: str, block: Block, payload: NDArray[np.float32]) -> str:
        """Write one block's payload (3, t, y, x) and return the sha256 of its bytes in the store."""

    def read(self, variable: str, block: Block, digest: str) -> NDArray[np.float32]:
        """Return one block's payload.

        Raises `stpipe.errors.ScratchError` if its bytes in the store are not those of the digest.
        """


class FieldStore(Protocol):
    """Numbers of each pixel on disk, that a method keeps between its rounds and the fill."""

    def write(self, variable: str, tile: Window, fields: NDArray[np.float32]) -> None:
        """Write (field, y, x) of one part of the scene, which is a chunk of its own."""

    def of(self, variable: str) -> Fields:
        """Return what reads those of a variable."""


class FilledStore(Protocol):
    """The product: a filled cube."""

    def write(
        self,
        variable: str,
        tile: Window,
        stored: NDArray[Any],
        source: NDArray[np.uint8],
        half_width: NDArray[np.float32],
    ) -> None:
        """Write one tile of whole chunks: stored samples, source codes and interval half-widths."""

    def digests(self, variable: str, tile: Window) -> dict[str, str]:
        """Return the sha256 of each file that holds a part of a tile, by its name; `ScratchError` if one is gone."""
