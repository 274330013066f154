"""Where a training leaves what it makes: the weights, their curves, and what it takes to go on.

    OUT.keras        the weights
    OUT.train.json   a record of each look at what was held out, and the errors at the end
    OUT.train.png    the curves
    OUT.keras.work/  settings.json, checkpoint.npz, records.json; gone when the training is finished

All but the work folder appear when they are complete, the weights last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stpipe.core.plan import canonical
from stpipe.core.ports import JSON
from stpipe.errors import OptionError, OutputError
from stpipe.execution.storage import write_whole
from stpipe.io.locks import held
from stpipe.io.run_folder import check_writable

WORK = ("settings.json", "checkpoint.npz", ".checkpoint.npz.draft.npz", "records.json", "lock")
"""Names that the work folder may hold."""


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """The files of one training.

    Examples
    --------
    >>> out = TrainingOutput(Path("mine.keras"))
    >>> out.curves.name, out.picture.name, out.work.name
    ('mine.train.json', 'mine.train.png', 'mine.keras.work')
    """

    model: Path
    """The weights."""

    @property
    def curves(self) -> Path:
        """Records of the looks."""
        return self.model.with_suffix(".train.json")

    @property
    def picture(self) -> Path:
        """The same, drawn."""
        return self.model.with_suffix(".train.png")

    @property
    def work(self) -> Path:
        """Where unfinished things lie."""
        return self.model.with_name(f"{self.model.name}.work")

    @property
    def checkpoint(self) -> Path:
        """What training goes on from."""
        return self.work / "checkpoint.npz"

    def check_place(self, *, overwrite: bool) -> None:
        """Refuse a name that can't be written, or that is taken.

        Parameters
        ----------
        overwrite : bool
            Whether earlier weights of this name may be replaced at the end.

        Raises
        ------
        OptionError, OutputError
            Before anything is touched.
        """
        if self.model.suffix != ".keras":
            raise OptionError(f"-o needs the name of a model file, which ends in .keras, got {self.model}")
        for place in (self.model, self.curves, self.picture):
            if place.is_dir():
                raise OutputError(f"{place} is a folder; choose another name with -o")
            # A training that was killed at its very end has left its curves, and its work.
            if place.exists() and not overwrite and (place == self.model or not self.has_work):
                raise OutputError(f"{place} exists; choose another name with -o, or replace it with --overwrite")
        if self.work.is_symlink() or (self.work.exists() and not self.work.is_dir()):
            raise OutputError(
                f"{self.work} is in the way: a training keeps what is unfinished in a folder of this name"
            )
        names = sorted(place.name for place in self.work.iterdir()) if self.has_work else []
        foreign = [name for name in names if name not in WORK and not name.endswith(".partial")]
        foreign += [name for name in names if (self.work / name).is_symlink()]
        if foreign:
            raise OutputError(
                f"{self.work} holds something else ({', '.join(foreign[:3])}); choose another name with -o"
            )
        check_writable(self.model.parent)

    @property
    def has_work(self) -> bool:
        """Whether there is something unfinished."""
        return self.work.is_dir()

    def goes_on(self, settings: Mapping[str, JSON], *, resume: bool, overwrite: bool) -> bool:
        """Say whether there is a training of these settings to go on with, or refuse.

        Parameters
        ----------
        settings : mapping
            All that decides the weights, by the name of the option that sets it.
        resume : bool
            Refuse to begin.
        overwrite : bool
            Begin anew, whatever there is.

        Raises
        ------
        OutputError
            If what is there is of other settings.
        OptionError
            If there is nothing to go on with, and there should be.
        """
        begun = None if overwrite else _load(self.work / "settings.json")
        if begun is None:
            if resume:
                raise OptionError(f"--resume: there is no training to go on with in {self.work}; leave --resume out")
            return False
        now = json.loads(canonical(dict(settings)))
        if begun != now:
            changed = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
            raise OutputError(
                f"{self.work} holds an unfinished training that differs in {', '.join(changed)}; give what it was "
                "begun with to go on with it, or start anew with --overwrite"
            )
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second training out; the lock goes with the process, however it ends.

        What fails before there is a checkpoint leaves nothing behind.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with held(self.work / "lock", work=f"training {self.model}"):
            try:
                yield
            except BaseException:
                if not self.checkpoint.exists():
                    shutil.rmtree(self.work)
                raise

    def begin(self, settings: Mapping[str, JSON]) -> None:
        """Remove what another training left, and say whose work this is."""
        for name in WORK:
            if name != "lock":
                (self.work / name).unlink(missing_ok=True)
        write_whole(self.work / "settings.json", canonical(dict(settings)))

    def records(self) -> list[dict[str, JSON]]:
        """Return the records of the looks so far."""
        found = _load(self.work / "records.json")
        return [] if found is None else list(found["looks"])

    def add(self, record: Mapping[str, JSON]) -> None:
        """Keep the record of a look."""
        write_whole(self.work / "records.json", json.dumps({"looks": [*self.records(), dict(record)]}).encode())

    def write_curves(self, content: JSON) -> None:
        """Write the records under their final name."""
        write_whole(self.curves, json.dumps(content, indent=1).encode())

    def finish(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.work)


def _load(path: Path) -> dict[str, JSON] | None:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
