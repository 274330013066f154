"""Which samples are clear, a bit each, in a file that many processes write and read.

A cube whose chunks are whole planes can't be read a column at a time, or each plane would be decoded again for every
column. So it is read once, chunk by chunk, and what is clear goes here: an eighth of a byte a sample, laid out so that
a column lies in one piece::

    cell (y, x) | frame | row | bytes of 8 pixels        a cell is `CELL` x `CELL` pixels
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.windows import Triple, Window
from stpipe.errors import ShapeError

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

    def write(self, window: Window, clear: NDArray[np.bool_]) -> None:
        """Write a window, and no byte beside it: other processes, on any machine, may write around it meanwhile.

        Pages of a mapped file may go to a shared disk whole, and undo what other machines wrote into them; so each run
        of bytes is written by itself.

        Raises
        ------
        ShapeError
            If the window begins or ends within a byte, other than at an edge of the cube: the byte would lose what its
            neighbour wrote.
        """
        frames, rows, _ = window.slices
        left, right = window.start[2] + self.shift, window.stop[2] + self.shift
        if (window.start[2] and left % 8) or (window.stop[2] != self.extent[2] and right % 8):
            raise ShapeError(
                f"columns {window.start[2]} to {window.stop[2]} of {self.extent[2]}, after {self.shift} pixels, end "
                "within a byte of 8"
            )
        first = left // 8 * 8
        bits = np.packbits(np.pad(clear, ((0, 0), (0, 0), (left - first, 0))) if left > first else clear, axis=2)
        file = os.open(self.path, os.O_WRONLY)
        try:
            for y, x, part, cut in self._cells(rows.start, rows.stop, first, right):
                for t in range(frames.start, frames.stop):
                    start = int(np.ravel_multi_index((y, x, t, part[0].start, part[1].start), self._shape))
                    self._write_rows(file, bits[t - frames.start, cut[0], cut[1]], start)
        finally:
            os.close(file)

    @staticmethod
    def _write_rows(file: int, rows: NDArray[np.uint8], start: int) -> None:
        """Write rows of one frame of a cell; those of its full width follow one another."""
        pieces = [rows.reshape(-1)] if rows.shape[1] == CELL // 8 else list(rows)
        for number, piece in enumerate(pieces):
            content, at = piece.tobytes(), start + number * (CELL // 8)
            while content:
                done = os.pwrite(file, content, at)
                content, at = content[done:], at + done

    def read(self, window: Window) -> NDArray[np.bool_]:
        """Return a window."""
        frames, rows, _ = window.slices
        left, right = window.start[2] + self.shift, window.stop[2] + self.shift
        first = left // 8 * 8
        bits = np.empty((*window.shape[:2], -(-(right - first) // 8)), dtype=np.uint8)
        cells = np.memmap(self.path, dtype=np.uint8, mode="r", shape=self._shape)
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
