"""The mosaic as a stage of a run: one task of `plan_mosaic` a task, with records like blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stpipe.core.ports import CubeReader
from stpipe.execution.records import RecordBook
from stpipe.io.mosaic import MosaicTask, write_frames
from stpipe.io.native import tiff_complaints_held


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicContext:
    """What every mosaic task shares."""

    tasks: tuple[MosaicTask, ...]
    """The tasks."""

    reader: CubeReader
    """Reads the filled cube."""

    folder: str
    """Where the GeoTIFFs go."""

    book: RecordBook
    """The stage's records."""


def mosaic_task(context: MosaicContext, number: int) -> str:
    """Write the files of one task, or confirm that they are there."""
    name = f"{number:07d}"
    record = context.book.read(name)
    known = {} if record is None else {file["path"]: file["sha256"] for file in record["files"]}
    with tiff_complaints_held():
        files = write_frames(context.tasks[number], context.reader, context.folder, replace=True, known=known)
    context.book.write(name, {"files": [asdict(file) for file in files]})
    return "had" if all(file.kept for file in files) else "done"


def written_files(book: RecordBook, numbers: Sequence[int]) -> list[dict[str, str | int]]:
    """Return path, bytes and sha256 of every file of some tasks, in order."""
    files = []
    for number in numbers:
        record = book.read(f"{number:07d}")
        if record is not None:
            files += [{key: file[key] for key in ("path", "bytes", "sha256")} for file in record["files"]]
    return files
