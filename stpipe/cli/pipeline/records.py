"""What is done of a pipeline: a record beside the products, by which a stage is not done again.

    s2-ndvi.run/
      cube.zarr   gaps/   filled/   geotiff/     what the stages make
      stages.json                                which options and inputs each of them was made with

A stage is done if it was finished with the same options, if the files that it read are as they were (names, sizes and
times), and if its products are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from glob import glob
from pathlib import Path
from typing import Any

from stpipe import __version__
from stpipe.cli.pipeline.commands import Stage

RECORD = "stages.json"


class Need(Enum):
    """What is to be done of a stage."""

    NOTHING = "done"
    GO_ON = "go on"
    BEGIN = "to do"
    AGAIN = "to do again"


@dataclass(slots=True)
class Records:
    """The record of one folder."""

    folder: Path
    """Where all products go."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is known of each stage."""

    @classmethod
    def of(cls, folder: Path) -> Records:
        """Return the record of a folder; an empty one where there is none."""
        try:
            place = folder / RECORD
            stages = dict(json.loads(place.read_bytes())["stages"]) if place.is_file() else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            stages = {}
        return cls(folder, {name: told for name, told in stages.items() if _is_told(told)})

    def need(self, stage: Stage) -> Need:
        """Say what is to be done of a stage, as long as what it reads is there already."""
        told = self.stages.get(stage.name)
        if told is None:
            return Need.BEGIN
        if told.get("digest") != self.digest(stage):
            return Need.AGAIN
        if told.get("state") != "done":
            return Need.GO_ON
        there = all((self.folder / product).exists() for product in told.get("products", ()))
        return Need.NOTHING if there and stage.output.exists() else Need.AGAIN

    def digest(self, stage: Stage) -> str:
        """Return what tells a stage's options and inputs from others."""
        inputs = [self._state(text) for text in stage.inputs]
        told = json.dumps([__version__, stage.identity, inputs], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def begin(self, stage: Stage, words: tuple[str, ...]) -> None:
        """Say that a stage is being done."""
        self.stages[stage.name] = {"state": "begun", "digest": self.digest(stage), "command": ["stpipe", *words]}
        self._write()

    def restore(self, stage: Stage, told: dict[str, Any] | None) -> None:
        """Say of a stage what was said before it began."""
        self.stages.pop(stage.name, None)
        if told is not None:
            self.stages[stage.name] = told
            self._write()
        elif self.stages:
            self._write()
        else:
            (self.folder / RECORD).unlink(missing_ok=True)

    def finish(self, stage: Stage, seconds: float) -> None:
        """Say that a stage is done."""
        products = sorted(str(path.relative_to(self.folder)) for path in _products(stage.output))
        self.stages[stage.name] |= {"state": "done", "seconds": round(seconds, 1), "products": products}
        self._write()

    def _write(self) -> None:
        from stpipe.execution.storage import write_whole

        document = {"stpipe": __version__, "stages": self.stages}
        write_whole(self.folder / RECORD, (json.dumps(document, indent=2) + "\n").encode())

    def _state(self, text: str) -> list[str]:
        """Return what tells whether the files behind an input are those that they were."""
        if "://" in text:
            return [text, *_state_there(text)]
        place = Path(text).expanduser()
        places = [place] if place.exists() else sorted(map(Path, glob(str(place), recursive=True)))  # noqa: PTH207
        if not places:
            return [text]  # a word that is no file, such as first
        total = hashlib.sha256()
        for path in places:
            for file in self._files(path.resolve()):
                about = file.stat()
                total.update(f"{file} {about.st_size} {about.st_mtime_ns}\n".encode())
        return [str(place.absolute()), total.hexdigest()]

    def _files(self, path: Path) -> Iterator[Path]:
        """Yield the files of a folder, in order; the products of this run are none of its inputs."""
        if path.is_file():
            yield path
            return
        mine = self.folder.resolve()
        for folder, names, files in os.walk(path):
            if not path.is_relative_to(mine):
                names[:] = [name for name in names if Path(folder, name) != mine]
            names.sort()
            yield from (Path(folder, name) for name in sorted(files))


def _is_told(told: Any) -> bool:
    """Whether what was read of a stage is what `Records` says of one."""
    if not isinstance(told, dict) or not isinstance(told.get("seconds", 0.0), int | float):
        return False
    products = told.get("products", [])
    return isinstance(products, list) and all(isinstance(product, str) for product in products)


def _products(output: Path) -> Iterator[Path]:
    """Yield the files of an output; of a Zarr group its metadata alone, for the rest are thousands."""
    if output.suffix == ".zarr" or output.is_file():
        yield output / "zarr.json" if output.is_dir() else output
        return
    for folder, names, files in os.walk(output):
        groups = [name for name in names if name.endswith(".zarr")]
        names[:] = [name for name in names if name not in groups and name != "work"]
        yield from (Path(folder, name, "zarr.json") for name in groups)
        # Viewers leave their statistics beside a file.
        yield from (Path(folder, name) for name in files if not name.endswith(".aux.xml"))


def _state_there(address: str) -> list[str]:
    """Return what tells whether what lies under an address is what it was; of what has no list only the address."""
    from stpipe.execution.storage import WRITABLE, files_below, located, scheme_of

    if scheme_of(address) not in WRITABLE:
        return []
    total = hashlib.sha256()
    for name, file in files_below(located(address)).items():
        total.update(f"{name} {file.size} {file.state}\n".encode())
    return [total.hexdigest()]
