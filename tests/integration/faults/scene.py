"""The scene that faults are tried on: a small cube of two variables, and what an undisturbed run makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr

from stpipe.cli.report import HEAD
from stpipe.io.run_folder import tree_digest
from stpipe.report.page import MARK
from tests.cli.test_fill_scene import digests, make_cube
from tests.integration.faults.plan import RECORDS

VARIABLES = ("ndvi", "lst")
NODATA = -32768
MEMORY = "512MiB"
_BLOCKS = ("--block", "6,24,24", "--overlap", "0,4,4", "--memory-limit")
WORDS = ("--method", "linear", *_BLOCKS, MEMORY)

OPTIONS = {"linear": WORDS, "pconv": ("--method", "pconv", "--no-tune", *_BLOCKS, "2GiB")}
"""How each method fills the scene; tuning the network is learning, which others do as well, at length."""

TOO_MUCH = {"linear": 2**29, "pconv": 2**31}
"""Bytes that a worker of each can't take besides what it has."""


def make_scene(path: Path, *, seed: int = 5) -> None:
    """Write a cube of two packed variables with clouds and an all-gap frame, in chunks of a quarter of the scene."""
    make_cube(path, frames=6, side=80, seed=seed)
    second = make_cube(path.with_name("second.zarr"), frames=6, side=80, seed=seed + 1)[["ndvi"]].rename(ndvi="lst")
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": NODATA, "chunks": (3, 40, 40)}
    bare = second.drop_vars(list(second.coords))
    bare.to_zarr(path, mode="a", zarr_format=3, consolidated=False, encoding={"lst": packed})
    shutil.rmtree(path.with_name("second.zarr"))


@dataclass(frozen=True, slots=True)
class Scene:
    """A cube and the digests of what an undisturbed run makes of it."""

    cube: Path
    """The input."""

    cube_digest: tuple[int, str]
    """Of all its files."""

    products: dict[str, str]
    """sha256 of each product of the undisturbed run, by its path in the output folder."""

    counts: dict[str, dict[str, int]]
    """Samples of each variable by where they come from, as that run's report says."""

    notes: str
    """What that run said on stderr."""

    observed: dict[str, np.ndarray] = field(repr=False)
    """The cube's stored samples."""

    method: str = "linear"
    """How it is filled."""

    @classmethod
    def of(cls, cube: Path, out: Path, notes: str, method: str = "linear") -> Scene:
        """Take down what an undisturbed run left, after checking that it is what this harness counts on."""
        found = {stage: len(list((out / "work" / "records" / stage).glob("*.json"))) for stage in RECORDS}
        assert found == RECORDS
        samples = {name: stored(cube, name) for name in VARIABLES}
        scene = cls(cube, tree_digest(cube), digests(out), counts(out), notes, samples, method)
        for path in scene.products:
            assert tree_digest(out / path)[1] == scene.products[path], path
        scene.check_observed(out / "filled.zarr")
        return scene

    def check_observed(self, filled: Path) -> None:
        """Hold the observed samples of a filled cube, read by Zarr alone, against those of the input."""
        for name, before in self.observed.items():
            after, seen = stored(filled, name), before != NODATA
            assert after.dtype == before.dtype
            assert after[seen].tobytes() == before[seen].tobytes(), f"observed samples of {name} have changed"
            assert (stored(filled, f"{name}_source")[seen] == 1).all()

    def check_cube(self) -> None:
        """Hold the input's bytes against what they were."""
        assert tree_digest(self.cube) == self.cube_digest, "the input has changed"

    def check_products(self, out: Path) -> list[str]:
        """Hold whatever lies under a final name against the undisturbed run's; return the names that are there."""
        there = sorted(_finals(out))
        for name in there:
            if name == "run.json":
                assert digests(out) == self.products
                assert counts(out) == self.counts
            elif name == "report.html":  # it holds the seconds of its run
                page = (out / name).read_text()
                assert MARK in page[:HEAD]
                assert page.endswith("</html>"), f"{name} is not whole"
            else:
                assert name in self.products, f"{name} is no product"
                assert tree_digest(out / name)[1] == self.products[name], f"{name} is not whole"
        if "filled.zarr" in there:
            self.check_observed(out / "filled.zarr")
        return there


def _finals(out: Path) -> Iterator[str]:
    """Give what users would take for products."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.name == "geotiff":
            files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".partial-"))
            yield from (file.relative_to(out).as_posix() for file in files)
        elif path.name != "work" and not path.name.endswith(".partial"):
            yield path.name


def counts(out: Path) -> dict[str, dict[str, int]]:
    """Return a report's counts of samples."""
    return dict(json.loads((out / "run.json").read_text())["counts"])


def stored(path: Path, name: str) -> np.ndarray:
    """Return the stored samples of an array."""
    return np.asarray(zarr.open_group(str(path), mode="r")[name][...])  # type: ignore[index]


def left_over(out: Path) -> list[str]:
    """Return what a finished run should not have left."""
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if "partial" in path.name]
    return names + (["work"] if (out / "work").exists() else [])
