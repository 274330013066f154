"""The picture of a training: drawn for one look and for many, the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from stpipe.report.training_picture import draw_training


def looks(count: int) -> list[dict[str, float | None]]:
    rng = np.random.default_rng(count)
    return [
        {"step": 25 * i, "loss": float(rng.random()), "held_out": float(rng.uniform(0.8, 1.1))}
        for i in range(1, count + 1)
    ]


def test_the_same_looks_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_training(looks(9), tmp_path / name, before=0.97)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_single_look_and_an_unknown_loss_are_drawn(tmp_path: Path) -> None:
    draw_training([{"step": 4, "loss": None, "held_out": 0.9}], tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    half = pixels.shape[1] // 2
    coloured = (np.ptp(pixels, axis=-1) > 80).sum(axis=0)
    assert coloured[:half].sum() == 0
    assert coloured[half:].sum() > 20
