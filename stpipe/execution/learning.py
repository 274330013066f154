"""Learning: a method that can, learns from crops of the cube between the survey and the fill.

What it learned is a file beside the records, and travels to the workers as that file's path and sha256. Each process
loads it once.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.plan import canonical
from stpipe.core.ports import Filler, Learner, VariableInfo
from stpipe.core.windows import Window
from stpipe.errors import ScratchError
from stpipe.execution.context import FillJob, RunContext, Standardised
from stpipe.execution.rounds import settled_filler
from stpipe.execution.storage import is_gone, is_whole, read, write_whole

LEARN_SEED = 0
"""Every run learns with this one: what it learns depends on the cube alone."""


@runtime_checkable
class Noting(Protocol):
    """A taught method that has something to say to the user."""

    def notes(self) -> tuple[str, ...]:
        """Return what it found while learning, in lines such as what tuning gained."""


def learn(job: FillJob, info: VariableInfo) -> bytes:
    """Read the plan's crops of one variable, and let the job's method, which is a `Learner`, learn from them."""
    filler = job.filler
    assert isinstance(filler, Learner)
    filler.prepare()
    return filler.learn([read_crop(job, info, window) for window in job.plan.crops], seed=LEARN_SEED)


def read_crop(job: FillJob, info: VariableInfo, window: Window) -> Crop:
    """Read one crop, standardised like every block."""
    guides = job.read_guides(window)  # first: what reading them takes is given back before the samples are there
    return crop_of(job.read_standardised(info, window), job.days, window, guides)


def crop_of(
    read: Standardised,
    days: NDArray[np.float64],
    window: Window,
    guides: Mapping[str, NDArray[np.float32]] | None = None,
) -> Crop:
    """Return what was read of a window inside the cube, over all of its times, as a crop; with its guides, if any."""
    return Crop(
        values=read.values,
        valid=read.valid,
        days=days,
        window=window,
        domain=read.domain,
        guides=guides or {},
        scale=read.scale,
    )


def learn_task(context: RunContext, number: int) -> str:
    """Learn from one variable, unless what was learned before is still what was written."""
    info, book, name = context.variable(number), context.book("learn"), f"{number:07d}"
    path = context.learned_file(number)
    record = book.read(name)
    if record is not None and is_whole(path, record["sha256"]):
        return "had"
    started = time.perf_counter()
    content = learn(context, info)
    taught = taught_by(settled_filler(context, number), content)
    write_whole(path, content)
    book.write(
        name,
        {
            "variable": info.name,
            "sha256": _sha256(content),
            "bytes": len(content),
            "seconds": round(time.perf_counter() - started, 3),
            "identity": taught.identity(),
            "notes": list(taught.notes()) if isinstance(taught, Noting) else [],
        },
    )
    return "done"


def filler_for(context: RunContext, index: int) -> Filler:
    """Return the method that fills a variable: as it is, or with what it learned.

    Raises
    ------
    ScratchError
        If the file is gone or has changed since it was learned.
    """
    filler = settled_filler(context, index)
    if not isinstance(filler, Learner):
        return filler
    path, digest = context.learned_file(index), context.learned[context.variable(index).name]

    def load() -> bytes:
        try:
            content = read(path)
        except OSError as error:
            if not is_gone(error, path):
                raise
            raise ScratchError(f"what the method learned is gone from {path} ({error})") from error
        if _sha256(content) != digest:
            raise ScratchError(f"what the method learned is not in {path} as it was written")
        return content

    return _taught(filler, digest, load)


def taught_by(filler: Filler, learned: bytes) -> Filler:
    """Return a method with what it learned; one that learns nothing as it is."""
    if not isinstance(filler, Learner):
        return filler
    return _taught(filler, _sha256(learned), lambda: learned)


MOST_TAUGHT = 2
"""Taught methods that a process keeps: blocks come variable by variable."""

_kept: OrderedDict[tuple[bytes, str], Filler] = OrderedDict()
_lock = threading.Lock()


def _taught(filler: Filler, digest: str, load: Callable[[], bytes]) -> Filler:
    """Load what was learned, once a process."""
    assert isinstance(filler, Learner)
    key = (canonical(filler.identity()), digest)
    with _lock:
        if key not in _kept:
            taught = filler.taught(load())
            taught.prepare()
            _kept[key] = taught
            while len(_kept) > MOST_TAUGHT:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
