"""Which samples are clear, a bit each, in a file that many processes write and read.

A cube whose chunks are whole planes can't be read a column at a time, or each plane would be decoded again for every
column. So it is read once, chunk by chunk, and what is clear goes here: an eighth of a byte a sample, laid out so that
a column lies in one piece::

    cell (y, x) | frame | row | bytes of 8 pixels        a cell is `CELL` x `CELL` pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.windows import Triple, Window

CELL = 512
"""Pixels along a side of a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitStore:
    """Bits of a cube; cheap to pickle."""

    path: str
    """The file."""

    extent: Triple
    """Shape of the cube."""

    shift: int = 0
    """Pixels before the first column, 0 to 7, so that borders between writers lie between bytes."""

    @property
    def _shape(self) -> tuple[int, int, int, int, int]:
        frames, height, width = self.extent
        return -(-height // CELL), -(-(width + self.shift) // CELL), frames, CELL, CELL // 8

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(np.prod(self._shape, dtype=np.int64))

    def create(self) -> None:
        """Make the file, of zeros."""
        with Path(self.path).open("wb") as file:
            file.truncate(self.bytes)

    def _open(self, mode: Any) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode=mode, shape=self._shape)

    def write(self, window: Window, clear: NDArray[np.bool_]) -> None:
        """Write a window; two writers may share a row where one ends, and the next begins, at a multiple of 8."""
        frames, rows, _ = window.slices
        left, right = window.start[2] + self.shift, window.stop[2] + self.shift
        first = left // 8 * 8
        bits = np.packbits(np.pad(clear, ((0, 0), (0, 0), (left - first, 0))) if left > first else clear, axis=2)
        cells = self._open("r+")
        for y, x, part, cut in self._cells(rows.start, rows.stop, first, right):
            cells[y, x, frames, part[0], part[1]] = bits[:, cut[0], cut[1]]

    def read(self, window: Window) -> NDArray[np.bool_]:
        """Return a window."""
        frames, rows, _ = window.slices
        left, right = window.start[2] + self.shift, window.stop[2] + self.shift
        first = left // 8 * 8
        bits = np.empty((*window.shape[:2], -(-(right - first) // 8)), dtype=np.uint8)
        cells = self._open("r")
        for y, x, part, cut in self._cells(rows.start, rows.stop, first, right):
            bits[:, cut[0], cut[1]] = cells[y, x, frames, part[0], part[1]]
        return np.unpackbits(bits, axis=2, count=right - first).view(np.bool_)[:, :, left - first :]

    def _cells(self, top: int, bottom: int, left: int, right: int) -> Any:
        """Yield each cell that a window touches, the part of it, and the part of the window in bytes."""
        for y in range(top // CELL, -(-bottom // CELL)):
            start, stop = max(top, y * CELL), min(bottom, (y + 1) * CELL)
            for x in range(left // CELL, -(-right // CELL)):
                begin, end = max(left, x * CELL), min(right, (x + 1) * CELL)
                width = -(-(end - begin) // 8)
                inside = slice((begin - x * CELL) // 8, (begin - x * CELL) // 8 + width)
                of_window = slice((begin - left) // 8, (begin - left) // 8 + width)
                part = (slice(start - y * CELL, stop - y * CELL), inside)
                yield y, x, part, (slice(start - top, stop - top), of_window)
