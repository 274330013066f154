"""Rounds: a method that takes numbers of the whole scene looks at it part by part, and what it saw is added up.

A part is some tiles, one after the other in one task. Its sums are a file with a record; files are added up in groups,
those again, until one is left, always in the same order. That one settles the round: what follows from it is a small
file again, and what later rounds and blocks do depends on its digest. Numbers of each pixel that a round keeps go to a
store, a chunk a tile.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import BlockInput, Filler, Overviews, SceneFiller, Sums, VariableInfo
from stpipe.core.windows import Window, triple
from stpipe.errors import ScratchError
from stpipe.execution.context import FillJob, RunContext, Settled
from stpipe.execution.records import digest
from stpipe.execution.runners import Tasks
from stpipe.execution.storage import is_gone, is_whole, located, read, write_whole

FAN = 32
"""Files that are added up at a time."""

Stage = Callable[[RunContext, Tasks], None]
"""Runs tasks, or raises."""


def run_rounds(context: RunContext, indices: Sequence[int], stage: Stage) -> RunContext:
    """Let the method look at the scene as often as it has rounds; return the context with what that settled.

    Parameters
    ----------
    context : RunContext
        The run, surveyed.
    indices : sequence of int
        The variables that have gaps.
    stage : callable
        Runs tasks.
    """
    filler = context.filler
    if not isinstance(filler, SceneFiller):
        return context
    for number, name in enumerate(filler.rounds):
        count = context.plan.look_parts
        parts = [index * count + part for index in indices for part in range(count)]
        book = context.book(f"round{number}")
        looks = Tasks(stage=name, task=partial(look_task, number), numbers=parts, book=book, name="0-{:07d}")
        stage(context, looks)
        level = 0
        while count > 1:
            level += 1
            count = -(-count // FAN)
            groups = [index * count + group for index in indices for group in range(count)]
            add = partial(add_task, number, level)
            stage(context, Tasks(stage=name, task=add, numbers=groups, book=book, name=f"{level}-{{:07d}}"))
        settle = partial(settle_task, number, level)
        stage(context, Tasks(stage=name, task=settle, numbers=indices, book=book, name="settled-{:07d}"))
        context = replace(context, settled=_settled(context, indices, number))
    return context


def look_task(number: int, context: RunContext, part: int) -> str:
    """Look at one part of one variable in one round, unless what was seen before is still what was written."""
    index, tiles = context.look_part(part)
    info, book, name = context.variable(index), context.book(f"round{number}"), f"0-{part:07d}"
    path = context.sums_file(number, 0, part)
    record = book.read(name)
    if record is not None and is_whole(path, record["sha256"]) and _kept(context, info, tiles, record["fields"]):
        return "had"
    filler = settled_filler(context, index)
    assert isinstance(filler, SceneFiller)
    filler.prepare()
    total: Sums | None = None
    kept = []
    scale = context.scales[info.name]
    overviews = context.overviews.overviews(info.name, scale.location, scale.spread)
    for tile in tiles:
        look = filler.look(number, part_of(context, info, tile, filler, overviews))
        if look.fields is not None:
            context.fields.write(info.name, tile, look.fields)
            kept.append(digest(look.fields))
        total = look.sums if total is None else total + look.sums
    assert total is not None
    book.write(name, {"variable": info.name, "sha256": _write(path, total.arrays()), "fields": kept})
    return "done"


def add_task(number: int, level: int, context: RunContext, group: int) -> str:
    """Add up a few files of sums, unless that was done before."""
    below, count = context.plan.look_parts, 1
    for _ in range(level):
        count = -(-below // FAN)
        below, before = count, below
    index, place = divmod(group, count)
    members = [index * before + member for member in range(place * FAN, min((place + 1) * FAN, before))]
    book, path = context.book(f"round{number}"), context.sums_file(number, level, group)
    parts = [_record(context, number, level - 1, member) for member in members]
    made_of = hashlib.sha256("".join(parts).encode()).hexdigest()
    record = book.read(f"{level}-{group:07d}")
    if record is not None and record["made_of"] == made_of and is_whole(path, record["sha256"]):
        return "had"
    filler = context.filler
    assert isinstance(filler, SceneFiller)
    total: Sums | None = None
    for member, expected in zip(members, parts, strict=True):
        own = filler.sums(number, _read(context.sums_file(number, level - 1, member), expected))
        total = own if total is None else total + own
    assert total is not None
    book.write(f"{level}-{group:07d}", {"made_of": made_of, "sha256": _write(path, total.arrays())})
    return "done"


def settle_task(number: int, level: int, context: RunContext, index: int) -> str:
    """Work out what a round gives for a variable, from the sums over the whole scene, unless that was done before."""
    book, path = context.book(f"round{number}"), context.settled_file(number, index)
    made_of = _record(context, number, level, index)
    record = book.read(f"settled-{index:07d}")
    if record is not None and record["made_of"] == made_of and is_whole(path, record["sha256"]):
        return "had"
    filler = context.filler
    assert isinstance(filler, SceneFiller)
    sums = filler.sums(number, _read(context.sums_file(number, level, index), made_of))
    written = _write(path, filler.settle(number, sums))
    book.write(f"settled-{index:07d}", {"made_of": made_of, "sha256": written})
    return "done"


def part_of(job: FillJob, info: VariableInfo, tile: Window, filler: Filler, overviews: Overviews) -> BlockInput:
    """Read a part of the scene with what the method needs around it, as far as there is anything."""
    frames, *lengths = job.plan.extent
    rows, columns = (
        (max(0, start - halo), min(length, stop + halo))
        for start, stop, halo, length in zip(tile.start[1:], tile.stop[1:], filler.halo[1:], lengths, strict=True)
    )
    window = Window(triple((0, rows[0], columns[0])), triple((frames, rows[1], columns[1])))
    guides = job.read_guides(window)  # first: what reading them takes is given back before the samples are there
    read = job.read_standardised(info, window)
    return BlockInput(
        values=read.values,
        valid=read.valid,
        days=job.days,
        window=window,
        overviews=overviews,
        all_days=job.days,
        wanted=tile,
        guides=guides,
        domain=read.domain_of(window),
        scale=read.scale,
    )


def settled_filler(context: RunContext, index: int) -> Filler:
    """Return the method that fills a variable, with what the rounds settled so far.

    Raises
    ------
    ScratchError
        If a file is gone or has changed since.
    """
    filler = context.filler
    name = context.variable(index).name
    for number, settled in enumerate(context.settled.get(name, ())):
        assert isinstance(filler, SceneFiller)
        filler = filler.settled(number, _read(located(settled.file), settled.sha256))
        if settled.fields:
            assert isinstance(filler, SceneFiller)
            filler = filler.with_fields(context.fields.of(name))
    return filler


def _settled(context: RunContext, indices: Iterable[int], number: int) -> Mapping[str, tuple[Settled, ...]]:
    """Return what all rounds up to this one have settled for each variable."""
    made = dict(context.settled)
    book, parts = context.book(f"round{number}"), context.plan.look_parts
    for index in indices:
        name = context.variable(index).name
        first, own = book.read(f"0-{index * parts:07d}"), book.read(f"settled-{index:07d}")
        if own is None:
            raise ScratchError(f"the record of what round {number} settled is gone; run the same command again")
        settled = Settled(
            file=str(context.settled_file(number, index)),
            sha256=str(own["sha256"]),
            fields=bool(first is not None and first["fields"]),
        )
        made[name] = (*made.get(name, ()), settled)
    return made


def _record(context: RunContext, number: int, level: int, member: int) -> str:
    """Return the digest of a file of sums."""
    record = context.book(f"round{number}").read(f"{level}-{member:07d}")
    if record is None:
        raise ScratchError(f"the record of part {member} of round {number} is gone; run the same command again")
    return str(record["sha256"])


def _kept(context: RunContext, info: VariableInfo, tiles: Sequence[Window], expected: Sequence[str]) -> bool:
    """Return whether the fields of a part are still what was written, if there were any."""
    if not expected:
        return True
    try:
        fields = context.fields.of(info.name)
        return [digest(fields.read(tile)) for tile in tiles] == list(expected)
    except ScratchError:
        return False


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # typeshed takes arrays for the flag
    content = file.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    try:
        content = read(path)
    except OSError as error:
        if not is_gone(error, path):
            raise
        raise ScratchError(f"sums of the scene are gone from {path} ({error})") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ScratchError(f"sums of the scene are not in {path} as they were written")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ScratchError(f"sums of the scene in {path} can't be read: {error}") from error
