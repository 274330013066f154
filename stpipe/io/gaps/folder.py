"""The output folder of gap statistics: what may be there, and when a product gets its name.

    cube.gaps/
      VAR_gaps.tif  VAR_gaps.png  gaps.zarr  gaps.json     each under its name only when all of them are complete
      work/                                                gone when they are

`gaps.json` comes last: where it is, the statistics are finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stpipe.core.ports import JSON
from stpipe.core.sizes import gib
from stpipe.errors import OutputError, PlanError
from stpipe.execution.storage import write_whole
from stpipe.io.locks import held
from stpipe.io.run_folder import check_writable

REPORT = "gaps.json"
"""Says what was found; written last."""

STORE = "gaps.zarr"
"""The statistics as Zarr."""

_OWNER = "owner.json"
_SHOWN = 3
_PRODUCT = re.compile(r"[A-Za-z0-9._-]+_gaps\.(tif|png)")


@dataclass(frozen=True, slots=True)
class GapsFolder:
    """One output folder."""

    path: Path
    """The folder."""

    @property
    def work(self) -> Path:
        """Where unfinished things lie."""
        return self.path / "work"

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder in which something would be lost.

        Raises
        ------
        OutputError
            If it is a file, holds what is not of gap statistics, or finished ones that are not to be replaced.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"the output {self.path} is a file; choose a folder with -o")
        check_writable(self.path)
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        foreign = sorted(names - self._own())
        if foreign:
            raise OutputError(
                f"the output folder {self.path} holds something else ({', '.join(foreign[:_SHOWN])}); "
                "choose an empty or new one with -o"
            )
        if self._listed(self.path / REPORT) and not overwrite:
            raise OutputError(
                f"{self.path} holds finished gap statistics; choose another folder with -o, or replace them with "
                "--overwrite"
            )

    def _own(self) -> set[str]:
        """Return the names that are certainly ours: only they may ever be replaced or removed."""
        listed = self._listed(self.path / REPORT) | self._listed(self.work / _OWNER)
        # Before anything is listed there is no more in it than the lock.
        begun = self.work.is_dir() and not self.work.is_symlink()
        ours = begun and (bool(listed) or {entry.name for entry in self.work.iterdir()} <= {"lock"})
        return listed | ({"work"} if ours else set())

    @staticmethod
    def _listed(path: Path) -> set[str]:
        """Return the products that a file of ours lists; none if it is not ours, or not there."""
        try:
            content = json.loads(path.read_bytes()) if path.is_file() else None
            listed = {*content["gap_statistics"]["products"]}  # type: ignore[index]  # None is a TypeError below
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return set()
        # What a list names is removed in the end, so that it may name nothing but what statistics are called.
        own = all(isinstance(name, str) and (name == STORE or _PRODUCT.fullmatch(name)) for name in listed)
        return {*listed, REPORT} if own else set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        with held(self.work / "lock", work=f"writing into {self.path}"):
            yield

    def begin(self, products: Sequence[str]) -> None:
        """Remove what an interrupted run left, and say what is coming."""
        for entry in self.work.iterdir():
            if entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        earlier = (self._listed(self.path / REPORT) - {REPORT}) | set(products)
        write_whole(self.work / _OWNER, json.dumps({"gap_statistics": {"products": sorted(earlier)}}).encode())

    def publish(self, report: JSON, products: Sequence[str]) -> None:
        """Give all products their names, the report last, in place of earlier ones."""
        earlier = self._listed(self.path / REPORT)
        (self.path / REPORT).unlink(missing_ok=True)
        for name in sorted((earlier | set(products)) - {REPORT}):
            place = self.path / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        for name in products:
            (self.work / name).replace(self.path / name)
        document = {"gap_statistics": {"products": sorted(products)}, **report}
        write_whole(self.path / REPORT, json.dumps(document, indent=2).encode())
        shutil.rmtree(self.work)


def check_space(path: Path, needed: int) -> None:
    """Refuse what can't fit on the disk.

    Raises
    ------
    PlanError
        With what is needed and what there is.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise PlanError(
            f"gap statistics may need {gib(needed)} of disk, but {place} has {gib(free)} free; free some, choose "
            "another disk with -o, or look at a part with --time or --aoi"
        )
