"""The picture of scores: whatever there is to draw is drawn, and the same scores give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from stpipe.core.comparison import GROUPS, Row
from stpipe.core.evaluation import Cost, Evaluation
from stpipe.report.scores_picture import COLOURS, LEAST_SAMPLES, draw_scores


def made(variable: str, methods: int, *, samples: int = 500) -> Evaluation:
    """Scores of many methods, unknown in some groups."""
    rng = np.random.default_rng(methods)
    names = [f"method{i}" for i in range(methods)]
    columns = [name for name in Row.__slots__ if name not in {"method", "grouping", "group", "samples"}]
    rows = []
    for name in names:
        for i, (grouping, group) in enumerate(GROUPS):
            values = {column: float("nan") if i % 7 == 3 else float(rng.uniform(0.1, 0.9)) for column in columns}
            rows.append(Row(method=name, grouping=grouping, group=group, samples=samples, **values))
    costs = [Cost(method=name, seconds_per_million=1.0, learning_seconds=2.0, seam_ratio=1.0) for name in names]
    return Evaluation(
        variable=variable, rows=tuple(rows), costs=tuple(costs), best_simple=names[0], hidden=samples, draws=1, seed=0,
        interval=0.9, spread=1.0, units="K",
    )  # fmt: skip


def test_more_methods_than_colours_and_odd_names_are_drawn_the_same_twice(tmp_path: Path) -> None:
    results = [made("$sst_{1}", len(COLOURS) + 2), made("ndvi", len(COLOURS) + 2)]
    for name in ("one.png", "two.png"):
        draw_scores(results, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_groups_with_few_samples_are_left_out(tmp_path: Path) -> None:
    draw_scores([made("v", 3, samples=LEAST_SAMPLES - 1)], tmp_path / "none.png")
    draw_scores([made("v", 3, samples=LEAST_SAMPLES)], tmp_path / "some.png")

    def coloured(name: str) -> int:
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        body = pixels[: int(0.8 * len(pixels))]  # the legend below has its dots in any case
        return int((np.ptp(body, axis=-1) > 80).sum())

    assert coloured("none.png") == 0
    assert coloured("some.png") > 500
