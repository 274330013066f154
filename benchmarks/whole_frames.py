"""Tell what whole frames say of methods: which one they suit, and how many frames it takes to know.

    python benchmarks/whole_frames.py [DATA]

On the parts of the public data that weights are trained on, whole frames are hidden as in the rows of
`benchmarks/scores.py` that end in "overcast", and predicted by the simple methods and by the network with its usual
mean of the guides. The first table compares errors frame by frame, the second one those of the network's answer with a
part of another method's mixed in. The third one asks of a few frames of a scene, drawn at random, how the network
compares with the simple method that turns out to be best on these very frames.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from data import Scene, split
from numpy.typing import NDArray
from score_cases import whole_frames

from stpipe.core.crops import Crop
from stpipe.core.survey import location_and_spread
from stpipe.core.windows import Window, triple
from stpipe.methods.climatology import ClimatologyFiller
from stpipe.methods.guides import GuideMaker
from stpipe.methods.harmonic import HarmonicFiller
from stpipe.methods.lessons import Lesson, Look
from stpipe.methods.mixing import NODES_PX, SMALLEST_ERROR
from stpipe.methods.network import Network, network_of
from stpipe.methods.stack import NETWORK
from stpipe.methods.whittaker import WhittakerFiller

SIDE = 40
"""Middle parts of so many pixels a side are looked at: frames are what counts."""

SCENES, DRAWS = 3, 2
"""Scenes of a family, and ways in which each is hidden."""

LEAST_FRAMES, LEAST_SAMPLES = 8, 40
"""Scenes with fewer frames, and frames with fewer samples, say nothing."""

SIMPLE = ("pyramid", "anomaly", "idw", "linear", "eof", "whittaker", "harmonic", "climatology")
"""Methods to compare with; kriging has nothing of its own to say of a whole frame."""

PARTS = (0.2, 0.5)
"""Parts of another method's answer in the second table."""

FEW = (2, 5, 6, 12)
"""Frames of the third table."""

TIMES = 200
"""How often frames are drawn for it."""


def errors_of(
    scene: Scene, maker: GuideMaker, network: Network, draw: int
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """Return the methods' names, the network's last, and for each hidden frame mean absolute errors in spreads.

    The first row is the methods' own, those after it the network's with each of `PARTS` of theirs.
    """
    _, height, width = scene.valid.shape
    top, left = max(0, height - SIDE) // 2, max(0, width - SIDE) // 2
    part = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
    values, valid = scene.values[part], scene.valid[part]
    hidden = whole_frames(valid, np.random.default_rng(100 + draw))
    location, spread = location_and_spread(values[valid & ~hidden].astype(np.float64))
    standard = np.where(valid, (values - location) / spread, 0).astype(np.float32)
    crop = Crop(values=standard, valid=valid, days=scene.days, window=Window.of(triple(valid.shape)))
    look = Look.at(Lesson(draw=draw, crop=crop, hidden=hidden), maker, rank=None, seed=0)
    answer, half_width = network.refine(look.made, look.place, network.mixture)
    made = replace(
        look.made,
        values={**look.made.values, NETWORK: answer},
        half_widths={**look.made.half_widths, NETWORK: half_width},
    )
    samples = replace(look, made=made).samples()
    samples = samples.where(samples.distance >= NODES_PX[-1])
    frames = []
    for frame in np.unique(samples.frames):
        own = samples.where(samples.frames == frame)
        if own.truth.size >= LEAST_SAMPLES:
            mixed = [own.answers, *(part * own.answers + (1 - part) * own.answers[:, -1:] for part in PARTS)]
            frames.append(np.array([np.abs(each - own.truth[:, None]).mean(axis=0) for each in mixed]))
    return list(made.values), frames


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Path(os.environ.get("STPIPE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("data", type=Path, nargs="?", default=usual, help="folder of the public data")
    data = parser.parse_args().data
    network = network_of()
    network.prepare()
    maker = GuideMaker(others=(WhittakerFiller(), HarmonicFiller(), ClimatologyFiller()), margin=network.margin)
    families: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    scenes: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    names: list[str] = []
    for family in split(data)[0]:
        for scene in [each for each in family if len(each.valid) >= LEAST_FRAMES][:SCENES]:
            for draw in range(DRAWS):
                names, frames = errors_of(scene, maker, network, draw)
                families[scene.name.split()[0]] += frames
                scenes[scene.name] += frames
    columns = [names.index(name) for name in SIMPLE]
    families["all"] = [frame for frames in families.values() for frame in frames]
    print("mean logarithm of the errors' ratio to the network's, frame by frame, and its standard error")
    for row, what in enumerate(("methods alone", *(f"{part:g} of a method in the network's" for part in PARTS))):
        print(f"\n{what}\n\n| family | frames | " + " | ".join(SIMPLE) + " |")
        print("| --- | ---: |" + " ---: |" * len(SIMPLE))
        for family, frames in families.items():
            errors = np.array(frames) + SMALLEST_ERROR
            ratios = np.log(errors[:, row, columns] / errors[:, 0, [names.index(NETWORK)]])
            sure = ratios.std(axis=0) / len(ratios) ** 0.5
            cells = [f"{mean:+.3f} ({error:.3f})" for mean, error in zip(ratios.mean(axis=0), sure, strict=True)]
            print(f"| {family} | {len(frames)} | " + " | ".join(cells) + " |")
    print("\nerror of the network over that of the simple method that is best on the very frames\n")
    print("| frames | median | over 1.02, % | over 1.09, % | over 1.2, % |\n| ---: | ---: | ---: | ---: | ---: |")
    rng = np.random.default_rng(0)
    for count in FEW:
        found = []
        for frames in (np.array(part)[:, 0] for part in scenes.values() if len(part) >= count):
            for _ in range(TIMES):
                means = frames[rng.choice(len(frames), count, replace=False)].mean(axis=0)
                found.append(means[names.index(NETWORK)] / means[columns].min())
        over = [f"{100 * np.mean(np.array(found) > limit):.0f}" for limit in (1.02, 1.09, 1.2)]
        print(f"| {count} | {np.median(found):.3f} | " + " | ".join(over) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
