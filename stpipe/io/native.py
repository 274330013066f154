"""What native libraries write to stderr, below Python."""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_TIFF = re.compile(rb"_tiff(Seek|Read|Write|Size|Close)Proc: .*")


@contextmanager
def tiff_complaints_held() -> Iterator[None]:
    """Hold back a library's own lines on a disk that fails or is full: GDAL raises the same, once.

    Whatever else is written to stderr meanwhile comes out at the end. A process that draws on its terminal is left
    alone.
    """
    drawing = os.isatty(2) and multiprocessing.parent_process() is None
    try:
        kept = -1 if drawing else os.dup(2)
    except OSError:  # no stderr at all
        kept = -1
    if kept < 0:
        yield
        return
    with _held() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            other = [line for line in held.read().splitlines(keepends=True) if not _TIFF.match(line)]
            os.write(kept, b"".join(other))
            os.close(kept)


def _held() -> IO[bytes]:
    """Return a file in memory, where there are such: the disk that is full may be that of temporary files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "r+b")
    return tempfile.TemporaryFile()
