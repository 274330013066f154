"""Bits go in by windows of any shape and come out by others."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.windows import Window
from stpipe.errors import ShapeError
from stpipe.io import bit_store
from stpipe.io.bit_store import BitStore


@given(
    extent=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 70)),
    shift=st.integers(0, 7),
    step=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 4)),
    data=st.data(),
)
def test_every_window_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    extent: tuple[int, int, int],
    shift: int,
    step: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bit_store, "CELL", 16)
        store = BitStore(path=str(tmp_path_factory.mktemp("bits") / "clear.bits"), extent=extent, shift=shift)
        store.create()
        assert Path(store.path).stat().st_size == store.bytes
        clear = np.random.default_rng(data.draw(st.integers(0, 99))).random(extent) < 0.5
        frames, height, width = extent
        # Borders along x lie at multiples of 8, counted from where the file's chunks do.
        edges = [0, *range(8 * step[2] - shift, width, 8 * step[2]), width]
        for t in range(0, frames, step[0]):
            for y in range(0, height, step[1]):
                for left, right in pairwise(edges):
                    window = Window((t, y, left), (min(frames, t + step[0]), min(height, y + step[1]), right))
                    store.write(window, clear[window.slices])
        for _ in range(5):
            bounds = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in extent]
            start = tuple(low for low, _ in bounds)
            stop = tuple(max(high, low + 1) for low, high in bounds)
            window = Window(start, stop)  # type: ignore[arg-type]
            assert np.array_equal(store.read(window), clear[window.slices])


@pytest.mark.parametrize("window", [(1, 9), (0, 8), (5, 12), (6, 20)], ids=str)
def test_a_border_within_a_byte_is_refused(tmp_path: Path, window: tuple[int, int]) -> None:
    store = BitStore(path=str(tmp_path / "clear.bits"), extent=(1, 2, 20), shift=3)
    store.create()
    store.write(Window((0, 0, 0), (1, 2, 20)), np.ones((1, 2, 20), dtype=bool))
    left, right = window
    with pytest.raises(ShapeError, match=f"columns {left} to {right} of 20, after 3 pixels, end within a byte"):
        store.write(Window((0, 0, left), (1, 2, right)), np.zeros((1, 2, right - left), dtype=bool))
    assert store.read(Window((0, 0, 0), (1, 2, 20))).all()


def test_a_write_hands_over_its_own_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others may hold, on a disk of several machines, is neither read nor written back."""
    monkeypatch.setattr(bit_store, "CELL", 16)
    store = BitStore(path=str(tmp_path / "clear.bits"), extent=(3, 40, 70), shift=5)
    store.create()
    true = os.pwrite
    written: list[int] = []

    def slow_disk(file: int, content: bytes, at: int) -> int:
        done = true(file, content[:3], at)
        written.extend(range(at, at + done))
        return done

    monkeypatch.setattr(os, "pwrite", slow_disk)
    window = Window((1, 7, 11), (3, 37, 59))
    store.write(window, np.ones(window.shape, dtype=bool))
    content = np.fromfile(store.path, dtype=np.uint8)
    # All bits of the window are set, and it ends between bytes, so each of its bytes is 255 and no other is.
    assert sorted(written) == np.flatnonzero(content).tolist()
    assert set(content[written].tolist()) == {255}
    assert len(written) == window.size // 8
