"""Small fillers for tests: they count, they fail, they need nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stpipe.core.crops import Crop
from stpipe.core.ports import JSON, BlockInput, Fields, Look, Prediction
from stpipe.core.windows import Triple, samples_in


@dataclass(frozen=True, kw_only=True)
class SumFiller:
    """Predicts the mean of the 3 x 3 x 3 valid samples around, so that a halo of one is exact; counts its calls."""

    calls: Path | None = None
    fails_at: tuple[Triple, ...] = ()
    halo: tuple[int | None, int, int] = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    process_bytes: int = 200 * 2**20
    sample_bytes: float = 60.0
    pixel_bytes: float = 0.0
    seconds_per_million: float = 0.1
    name: str = "sum"

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name}

    def prepare(self) -> None:
        if self.calls is not None:
            self.calls.mkdir(exist_ok=True)

    def fill(self, block: BlockInput) -> Prediction:
        if self.calls is not None:
            with (self.calls / "calls").open("a") as file:
                file.write(f"{block.window.start}\n")
        if block.window.start in self.fails_at and not (self.calls and (self.calls / "mended").exists()):
            raise FloatingPointError("made to fail")
        total, count = around(np.where(block.valid, block.values, 0)), around(block.valid.astype(np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (total / count).astype(np.float32)
        known = np.isfinite(values)
        return Prediction(
            values=values, half_width=np.where(known, np.float32(1), np.float32(np.nan)), fallback=np.zeros_like(known)
        )


@dataclass(frozen=True, kw_only=True)
class LearningFiller(SumFiller):
    """Adds the mean of the crops' valid values to the sum filler's answer, so that the product tells what it learned.

    In the folder of its calls, a file ``deadly`` kills the process that learns, once; ``broken`` makes learning fail;
    what is in ``mood`` is added to what it learns.
    """

    lesson: float | None = None
    learn_sample_bytes: int = 8
    name: str = "learning"

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        return self.learn_sample_bytes * samples_in(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        return 0.5e-6 * samples_in(crops)

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name, "calls": str(self.calls), "lesson": self.lesson}

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        assert self.calls is not None
        assert self.calls.is_dir(), "not prepared"
        with (self.calls / "learnt").open("a") as file:
            file.write(f"{[crop.window.start for crop in crops]}\n")
        if (self.calls / "deadly").exists():
            (self.calls / "deadly").unlink()
            os._exit(9)
        if (self.calls / "broken").exists():
            raise FloatingPointError("nothing to learn from")
        mood = float((self.calls / "mood").read_text()) if (self.calls / "mood").exists() else 0.0
        known = np.concatenate([crop.values[crop.valid] for crop in crops])
        return json.dumps([float(known.mean(dtype=np.float64)) + mood, len(crops), seed]).encode()

    def taught(self, learned: bytes) -> LearningFiller:
        return replace(self, lesson=json.loads(learned)[0])

    def notes(self) -> tuple[str, ...]:
        return (f"learned {self.lesson:.3f}",)

    def fill(self, block: BlockInput) -> Prediction:
        assert self.lesson is not None, "not taught"
        plain = super().fill(block)
        return replace(plain, values=plain.values + np.float32(self.lesson))


@dataclass(frozen=True)
class ArraySums:
    """Sums that are arrays."""

    held: dict[str, np.ndarray]

    def __add__(self, other: ArraySums) -> ArraySums:
        return ArraySums({name: own + other.held[name] for name, own in self.held.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        return self.held


@dataclass(frozen=True, kw_only=True)
class SceneMeanFiller(SumFiller):
    """Predicts the scene's mean of the frame and the pixel's mean difference from it: two rounds, one field."""

    means: np.ndarray | None = None
    pixels: int | None = None
    offsets: Fields | None = None
    halo: tuple[int | None, int, int] = (None, 2, 2)
    name: str = "scene"

    rounds = ("means", "offsets")
    fields = ("offset",)

    def look(self, number: int, block: BlockInput) -> Look:
        assert block.wanted is not None
        assert block.window.shape[0] == block.all_days.size
        assert block.window.intersect(block.wanted) == block.wanted
        part = block.wanted.within(block.window).slices
        values, valid = block.values[part].astype(np.float64), block.valid[part]
        if self.calls is not None:
            with (self.calls / "looks").open("a") as file:
                file.write(f"{number} {block.wanted.start}\n")
        if number == 0:
            held = {"sum": np.where(valid, values, 0).sum(axis=(1, 2)), "count": valid.sum(axis=(1, 2))}
            return Look(sums=ArraySums(held))
        assert self.means is not None, "the first round is not settled"
        off = np.where(valid, values - self.means[:, None, None], 0).sum(axis=0)
        kept = off / np.maximum(valid.sum(axis=0), 1)
        return Look(sums=ArraySums({"pixels": np.array(kept.size)}), fields=kept[None].astype(np.float32))

    def sums(self, number: int, arrays: Mapping[str, np.ndarray]) -> ArraySums:
        return ArraySums(dict(arrays))

    def settle(self, number: int, sums: ArraySums) -> dict[str, np.ndarray]:
        if number == 0:
            return {"means": sums.held["sum"] / np.maximum(sums.held["count"], 1)}
        return sums.held

    def settled(self, number: int, given: Mapping[str, np.ndarray]) -> SceneMeanFiller:
        return replace(self, means=given["means"]) if number == 0 else replace(self, pixels=int(given["pixels"]))

    def with_fields(self, fields: Fields) -> SceneMeanFiller:
        return replace(self, offsets=fields)

    def fill(self, block: BlockInput) -> Prediction:
        assert self.means is not None
        assert self.pixels is not None
        assert self.offsets is not None
        first, last = block.window.start[0], block.window.stop[0]
        values = self.means[first:last, None, None] + self.offsets.read(block.window)
        made = values.astype(np.float32)
        return Prediction(values=made, half_width=np.ones_like(made), fallback=np.zeros(made.shape, dtype=bool))


def around(values: np.ndarray) -> np.ndarray:
    """Sum over each sample's neighbours, nothing beyond the array."""
    padded = np.pad(values.astype(np.float64), 1)
    t, y, x = values.shape
    return sum(padded[i : i + t, j : j + y, k : k + x] for i in range(3) for j in range(3) for k in range(3))  # type: ignore[return-value]
