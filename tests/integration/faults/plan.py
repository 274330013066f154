"""Which faults are tried, and when: a list drawn from a seed, the same every time.

Nothing here starts or breaks anything; `inject` does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

SEED = 20_240_301

RECORDS = {"survey": 4, "learn": 2, "fill": 32, "blend": 5, "mosaic": 8}
"""Records that each stage of the scene's run leaves; `scene.Scene.of` holds them against a run."""

How = Literal["driver", "share", "shares", "cluster", "resumed"]
"""What runs: a driver with workers of its own, one process that does it all (`--shard 1/1`), several of them, a driver
on a scheduler of the user's, or one process that goes on with a run that was interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault."""

    kind: str
    """What it is, in the words of the table."""

    story: str
    """Which function of `inject` makes it."""

    how: How
    """What runs meanwhile, or goes on with what was damaged."""

    stage: str
    """The stage in which it comes."""

    after: int
    """How many records of that stage there are by then."""

    seed: int
    """Decides which file, which bit, how soon."""

    detail: str = ""
    """What the story has to know besides."""

    endless: str = ""
    """Why this may not end, so that it is not tried; empty if it is."""

    known: str = ""
    """What stpipe does wrong here, as is known; empty if nothing."""

    method: str = "linear"
    """How the scene is filled."""

    @property
    def name(self) -> str:
        """How the test is called."""
        return f"{self.kind}, {self.stage} after {self.after}, {self.how} {self.seed % 10_000:04d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Some faults of one kind."""

    kind: str
    story: str
    how: How
    stages: str
    """The stage of each of them, by name."""
    detail: str = ""
    known: str = ""
    endless: str = ""
    method: str = "linear"


def _row(
    kind: str, story: str, how: How, stages: str, detail: str = "",
    known: str = "", endless: str = "", method: str = "linear",
) -> Row:  # fmt: skip
    return Row(
        kind=kind, story=story, how=how, stages=stages, detail=detail, known=known, endless=endless, method=method
    )


ROWS = (
    # Whole runs that end.
    _row("driver killed, with SIGKILL", "ended", "driver", "survey fill fill blend mosaic", "SIGKILL"),
    _row("driver ended, with SIGTERM", "ended", "driver", "survey fill blend mosaic", "SIGTERM"),
    _row("Ctrl-C: SIGINT to driver and workers", "ended", "driver", "fill blend", "SIGINT"),
    _row("share killed between two tasks", "ended", "share", "survey learn fill fill blend mosaic", "SIGKILL"),
    _row(
        "share killed between output and record", "ended", "share", "survey learn fill blend mosaic", "SIGKILL record"
    ),
    _row("share ended, with SIGTERM", "ended", "share", "survey fill mosaic", "SIGTERM"),
    _row("one of two shares killed", "share_lost", "shares", "fill fill blend", "killed"),
    _row("both shares killed", "shares_lost", "shares", "fill blend"),
    _row("share stopped until others took over, then continued", "share_lost", "shares", "fill blend", "stopped"),
    # Workers.
    _row("worker killed, with SIGKILL", "worker", "driver", "survey learn fill fill fill blend mosaic mosaic", "one"),
    _row("all workers killed", "worker", "driver", "fill blend", "all"),
    _row("worker stopped for seconds, with SIGSTOP", "worker", "driver", "fill blend", "stopped"),
    _row("worker of a cluster of one's own killed", "own_worker", "cluster", "fill blend", "worker"),
    _row("worker and its nanny killed, another one comes", "own_worker", "cluster", "fill mosaic", "nanny"),
    _row("scheduler killed", "scheduler", "cluster", "fill mosaic survey learn blend"),
    _row("worker stopped for ever, with SIGSTOP", "worker", "driver", "fill", "stopped for ever"),
    # The model.
    _row("model raises on a block", "model_fails", "driver", "fill", "raise"),
    _row("model raises on a block", "model_fails", "share", "fill fill", "raise"),
    _row("model runs out of memory on a block: MemoryError", "model_fails", "share", "fill", "memory-error"),
    _row("model kills its worker on a block, whoever tries", "model_deadly", "driver", "fill", "exit"),
    _row("model crashes its worker on a block, whoever tries", "model_deadly", "driver", "fill", "segv"),
    _row("model takes its worker over its memory, whoever tries", "model_deadly", "driver", "fill", "allocate"),
    _row("model kills every share that tries a block", "model_kills_shares", "share", "fill", "kill"),
    _row("model kills its worker on a block, once", "model_once", "driver", "fill fill", "kill"),
    _row("model takes its worker over its memory, once", "model_once", "driver", "fill fill", "allocate"),
    _row("model hangs on a block, and the user ends the run", "model_hangs", "driver", "fill", "SIGTERM"),
    _row("model hangs on a block, and the user ends the run", "model_hangs", "share", "fill", "SIGTERM"),
    _row("model hangs on a block, and nobody ends the run", "model_hangs", "driver", "fill", "for ever"),
    # The network, whose TensorFlow has threads and memory of its own.
    _row("network: driver killed, with SIGKILL", "ended", "driver", "fill", "SIGKILL", method="pconv"),
    _row("network: worker killed, with SIGKILL", "worker", "driver", "fill", "one", method="pconv"),
    _row("network takes its worker over its memory, once", "model_once", "driver", "fill", "allocate", method="pconv"),
    # Disks.
    _row("disk full", "disk", "driver", "fill blend", "full"),
    _row("disk full", "disk", "share", "survey learn fill fill blend blend", "full"),
    _row("disk full while GeoTIFFs are written", "disk", "driver", "mosaic", "full"),
    _row("disk full while GeoTIFFs are written", "disk", "share", "mosaic mosaic", "full"),
    _row("file system out of inodes", "disk", "share", "fill mosaic", "inodes"),
    # The store.
    _row("read error (EIO) in a chunk, for good", "reads", "driver", "learn", "error"),
    _row("read error (EIO) in a chunk, for good", "reads", "share", "survey learn fill mosaic", "error"),
    _row("read error (EIO), once", "reads", "share", "learn fill", "error once"),
    _row("slow reads", "reads", "driver", "learn", "slow"),
    _row("slow reads", "reads", "share", "survey", "slow"),
    _row("chunk of the input cut short, then put back", "input_cut", "resumed", "survey fill", ""),
    _row("files of the input touched between two runs", "input_touched", "resumed", "fill blend", ""),
    # Scratch, between two runs.
    _row("bit flipped in a filled block", "damage", "resumed", "fill fill fill fill blend blend", "flip block"),
    _row("bit flipped in the overviews", "damage", "resumed", "fill fill fill blend", "flip overview"),
    _row("bit flipped in a blended tile", "damage", "resumed", "blend blend blend blend", "flip tile"),
    _row("bit flipped in a blended tile, where its codec does not look", "damage", "resumed", "blend",
        "flip-idle tile"),
    _row("bit flipped in what the method learned", "damage", "resumed", "fill blend", "flip learned"),
    _row("bit flipped in the key of a record", "damage", "resumed", "fill", "flip key survey"),
    _row("bit flipped in the key of a record", "damage", "resumed", "fill blend mosaic", "flip key ="),
    _row("bit flipped in the digest that a record holds", "damage", "resumed", "fill blend mosaic", "flip digest ="),
    _row("bit flipped in the digest that a record holds", "damage", "resumed", "fill", "flip digest survey"),
    _row("bit flipped in the digest that a record holds", "damage", "resumed", "fill", "flip digest learn"),
    _row("bit flipped in the name of a field of a record", "damage", "resumed", "fill blend mosaic", "flip name ="),
    _row("bit flipped in the name of a field of a record", "damage", "resumed", "fill", "flip name survey"),
    _row("bit flipped in the name of a field of a record", "damage", "resumed", "fill", "flip name learn"),
    _row("bit flipped in the samples that the survey kept", "damage", "resumed", "fill", "flip sample survey"),
    _row("bit flipped in the counts of a blended tile", "damage", "resumed", "blend", "flip counts blend"),
    _row("bit flipped in a GeoTIFF", "damage", "resumed", "mosaic mosaic", "flip tiff"),
    _row("bit flipped in a GeoTIFF, where its codec does not look", "damage", "resumed", "mosaic", "flip-idle tiff"),
    _row("bit flipped in the filled cube, under its final name", "damage", "resumed", "mosaic", "flip published"),
    _row("bit flipped in what a store says of itself", "damage", "resumed", "fill fill blend", "flip metadata"),
    _row("what a store says of itself deleted", "damage", "resumed", "fill blend", "delete metadata"),
    _row("filled block cut to nothing", "damage", "resumed", "fill blend", "cut block"),
    _row("overview cut to nothing", "damage", "resumed", "fill", "cut overview"),
    _row("blended tile cut to nothing", "damage", "resumed", "blend blend", "cut tile"),
    _row("record cut to nothing", "damage", "resumed", "fill blend mosaic", "cut record ="),
    _row("GeoTIFF cut to nothing", "damage", "resumed", "mosaic", "cut tiff"),
    _row("filled block deleted", "damage", "resumed", "fill blend", "delete block"),
    _row("overview deleted", "damage", "resumed", "fill blend", "delete overview"),
    _row("blended tile deleted", "damage", "resumed", "blend", "delete tile"),
    _row("what the method learned deleted", "damage", "resumed", "fill", "delete learned"),
    _row("record deleted", "damage", "resumed", "fill blend mosaic", "delete record ="),
    _row("record of the survey deleted", "damage", "resumed", "fill blend", "delete record survey"),
    _row("record of the fill deleted, blocks being blended", "damage", "resumed", "blend", "delete record fill"),
    _row("all records of a stage deleted", "damage", "resumed", "fill blend mosaic", "delete records ="),
    _row("record of the whole blend deleted", "damage", "resumed", "mosaic", "delete outcome"),
    _row("GeoTIFF deleted", "damage", "resumed", "mosaic", "delete tiff"),
    _row("store of the blocks deleted", "damage", "resumed", "fill blend", "delete store"),
    _row("plan of the run deleted", "damage", "resumed", "fill", "delete plan"),
    _row("record of another run in place of this one's", "stale", "resumed", "fill blend mosaic", "="),
    _row("record of another run in place of this one's", "stale", "resumed", "fill blend", "survey"),
    _row("record of another run in place of this one's", "stale", "resumed", "blend", "fill"),
    _row("block and record of another run in place of this one's", "stale", "resumed", "fill blend", "block"),
    _row("block of another run under this one's record", "stale", "resumed", "blend", "only block"),
    _row("halves of files that killed writers left", "leftovers", "resumed", "fill blend mosaic"),
    _row("half of a plan that a killed driver left", "leftovers", "resumed", "fill", "work/.plan.json.{}.partial"),
    _row("half of a report that a killed driver left", "leftovers", "resumed", "mosaic", ".run.json.{}.partial"),
    _row("half of a picture that a killed driver left", "leftovers", "resumed", "mosaic", "quicklook.png.partial"),
    # Clocks.
    _row("clock jumps to and fro by days while it runs", "clock", "driver", "survey fill", ""),
    _row("clock jumps to and fro by days while it runs", "clock", "share", "survey", ""),
    _row("files of the scratch dated far back", "dated", "resumed", "fill blend", "past"),
    _row("files of the scratch dated ahead", "dated", "resumed", "fill", "future"),
    _row("claim of a dead share dated ahead", "dated", "resumed", "fill", "claim"),
)  # fmt: skip


def faults(seed: int = SEED) -> tuple[Fault, ...]:
    """Return the faults, each at a moment of its own.

    >>> faults(7) == faults(7)
    True
    """
    return tuple(
        _fault(row, stage, random.Random(f"{seed} {row.kind} {row.detail} {row.how} {number} {stage}"))
        for row in ROWS
        for number, stage in enumerate(row.stages.split())
    )


def _fault(row: Row, stage: str, chance: random.Random) -> Fault:
    # Never at the last record: there must be something left to be disturbed.
    after = RESUMED[stage] if row.how == "resumed" else chance.randrange(RECORDS[stage] - 1)
    return Fault(
        kind=row.kind,
        story=row.story,
        how=row.how,
        stage=stage,
        after=0 if row.story in FROM_THE_START else after,
        seed=chance.randrange(2**32),
        detail=row.detail.replace("=", stage),
        known=row.known,
        endless=row.endless,
        method=row.method,
    )


FROM_THE_START = ("model_fails", "model_deadly", "model_kills_shares", "model_once", "model_hangs", "reads", "clock")
"""Stories of faults that are there from a stage's start on, wherever they strike."""

RESUMED = {"survey": 0, "fill": 20, "blend": 3, "mosaic": 5}
"""Where runs that are damaged between two runs were interrupted; one of each stage is shared by all."""
