"""The output folder of a run: what may be there, what comes under which name, and when.

    cube.filled/
      filled.zarr   geotiff/   items.json   quicklook.png   report.html   run.json
                    products, each under its name only when it is complete
      work/         plan.json, records, overviews.zarr, rounds, fields.zarr, learned, blocks.zarr, filled.zarr; gone
                    when the run is finished

`run.json` is written last: where it is, the run is finished.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from stpipe.core.plan import canonical
from stpipe.core.ports import JSON
from stpipe.core.sizes import gib
from stpipe.errors import OptionError, OutputError, PlanError
from stpipe.execution.storage import (
    HALF,
    OPENS,
    contents,
    drop,
    files_below,
    is_gone,
    is_remote,
    is_unlisted,
    is_whole,
    make_folder,
    move,
    names_in,
    pieces,
    read,
    remove,
    write_whole,
)
from stpipe.io.leases import check_held, leased
from stpipe.io.locks import held

PRODUCTS = ("filled.zarr", "coefficients.zarr", "geotiff", "items.json", "quicklook.png", "report.html", "run.json")
"""Names that a run may leave in its folder."""

WORK = (
    "plan.json", "records", "overviews.zarr", "rounds", "fields.zarr", "learned", "blocks.zarr", "filled.zarr",
    "coefficients.zarr", "claims", "hung", "lock", "turn",
)  # fmt: skip
"""Names that it may have in its work folder."""

STORES = ("overviews.zarr", "fields.zarr", "blocks.zarr", "filled.zarr")
"""Those of them that a run is begun with."""

_SHAPES: dict[str, tuple[type[dict[str, Any] | list[Any]], type]] = {
    "counts": (dict, dict),
    "learned": (dict, dict),
    "stages": (dict, dict),
    "guides": (list, dict),
    "notes": (list, str),
    "versions": (dict, object),
    "blocks": (dict, object),
    "method": (dict, object),
    "identity": (dict, object),
}
"""What run.json holds under a name, and what is in it."""

HALVES = re.compile(
    r"\.((plan|run|items)\.json|quicklook\.png|report\.html)\.[0-9a-f]{32}\.partial|quicklook\.png\.partial"
)
"""Files that a process was killed at, or that another one, which shares the run, is writing."""

LOCKS = ("lock", "turn")
"""Those that stay while there is a process at work."""


_MADE = re.compile(rf"({'|'.join(map(re.escape, STORES))})(/(?!\.\.?(/|$))[^/\\\0]+)+")
"""Names of files that stores are made with: they never lead out of their store."""

DEEPEST = 20
"""Levels of options in options; a plan has a few."""


class State(Enum):
    """What an output folder holds."""

    NEW = "new"
    RESUMABLE = "resumable"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's output folder."""

    path: Path
    """The folder."""

    @property
    def work(self) -> Path:
        """Where unfinished things lie."""
        return self.path / "work"

    def product(self, name: str) -> Path:
        """Return the final place of a product."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Return whether a product is there as a whole."""
        place = self.product(name)
        return (place / "zarr.json" if name.endswith(".zarr") else place).exists()

    def state(self, run_id: str, identity: JSON, input_state: str, *, resume: bool, overwrite: bool) -> State:
        """Say how a run may begin here, or refuse.

        Raises
        ------
        OutputError
            If the folder holds something that is not this run's.
        OptionError
            If resuming was asked for and there is nothing to resume.
        """
        if not is_remote(self.path) and self.path.exists() and not self.path.is_dir():
            raise OutputError(f"the output {self.path} is a file; choose a folder with -o")
        foreign, ours = self._contents()
        if foreign:
            raise OutputError(
                f"the output folder {self.path} holds something else ({', '.join(foreign[:3])}); "
                "choose an empty or new one with -o"
            )
        state = self._own_state(run_id, identity, input_state) if ours and not overwrite else State.NEW
        # What is begun anew is removed before, and links are not followed in that.
        if state is State.RESUMABLE and not is_remote(self.path):
            self._refuse_links()
        if resume and state is State.NEW:
            raise OptionError(f"--resume: there is no run to go on with in {self.path}; leave --resume out")
        return state

    def _refuse_links(self) -> None:
        """Refuse links in what is about to be gone on with: whatever is written there would land elsewhere."""
        places = [self.path / name for name in PRODUCTS] + [self.work / name for name in WORK]
        link = next((link for place in places for link in links_in(place, depth=2)), None)
        if link is not None:
            raise OutputError(
                f"{link} is a link, and nothing is written through one; put in its place what it leads to, or choose "
                "another folder with -o"
            )

    def _contents(self) -> tuple[list[str], bool]:
        """Return what in the folder is not a run's, and whether the rest is one's.

        Only what is certainly a run's own may ever be replaced or removed.
        """
        names = _names(self.path)
        report = _load(self.path / "run.json")
        finished = report is not None and _is_report(report)
        work = _names(self.work)
        foreign = [f"work/{name}" for name in work if name not in WORK]
        if self.work.is_symlink() or (self.work.exists() and not self.work.is_dir()):
            foreign.append("work")
        ours = finished or (bool(work) and not foreign)
        known = {"work", *(PRODUCTS if ours else ())} - (set() if finished else {"run.json"})
        return foreign + [name for name in names if name not in known], ours

    def _own_state(self, run_id: str, identity: JSON, input_state: str) -> State:
        finished, begun = _load(self.path / "run.json"), _load(self.work / "plan.json")
        if finished is not None:
            if finished.get("run_id") != run_id:
                changes = _differences(finished.get("identity"), identity)
                raise OutputError(
                    f"{self.path} holds a finished run of another kind (differs in {changes}); choose another folder "
                    "with -o, or replace it with --overwrite"
                )
            if finished.get("input_state") != input_state:
                raise OutputError(
                    f"{self.path} holds a finished run, but the cube's files have changed since; choose another folder "
                    "with -o, or replace it with --overwrite"
                )
            for name in self._gone([product["path"] for product in finished["products"]]):
                raise OutputError(
                    f"the run in {self.path} is finished but {name} is gone; make it again with --overwrite"
                )
            return State.FINISHED
        if begun is None:
            return State.NEW  # killed before its plan was written: there is nothing in it yet
        if begun.get("run_id") == run_id:
            stores = () if self.has("filled.zarr") else ("overviews.zarr", "blocks.zarr", "filled.zarr")
            # A store that is gone can't be gone on with.
            return State.RESUMABLE if all((self.work / name).exists() for name in stores) else State.NEW
        changes = _differences(begun.get("identity"), identity)
        raise OutputError(
            f"{self.path} holds an unfinished run of another kind (differs in {changes}); "
            "give the options of that run to go on with it, or start anew with --overwrite"
        )

    def _gone(self, products: Sequence[str]) -> Iterator[str]:
        """Yield the products that are no longer there; of the many GeoTIFFs in a store by a list of them."""
        head = "geotiff/"
        listed = files_below(self.path / "geotiff") if is_remote(self.path) else None
        for name in products:
            of_list = listed is not None and name.startswith(head)
            if not (name.removeprefix(head) in (listed or ()) if of_list else self.has(name)):
                yield name

    def report(self) -> dict[str, JSON]:
        """Return run.json of a finished run."""
        return _load(self.path / "run.json") or {}

    def clear(self) -> None:
        """Remove what an earlier run left here; its report and plan first, so that a kill leaves nothing to trust."""
        self._check_held()
        if is_remote(self.path):
            write_whole(self.work / "turn", b"")  # without a report it is this that says whose the rest is
        for place in (self.path / "run.json", self.work / "plan.json"):
            drop(place)
        for place in [self.path / name for name in PRODUCTS] + [self.work / name for name in WORK if name not in LOCKS]:
            remove(place)

    def begin(self, run_id: str, identity: JSON) -> None:
        """Say whose work this is, and what its stores were made with; called when they exist, and are empty."""
        made = {
            f"{store}/{name}": base64.b64encode(read(self.work / store / name)).decode()
            for store in STORES
            for name in files_below(self.work / store)
        }
        write_whole(self.work / "plan.json", canonical({"run_id": run_id, "identity": identity, "made": made}))

    def made(self) -> dict[str, bytes]:
        """Return the files that the stores were made with, by their names in the work folder."""
        made = (_load(self.work / "plan.json") or {}).get("made", {})
        try:
            files = {str(name): base64.b64decode(content, validate=True) for name, content in made.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise OutputError(f"{self.work / 'plan.json'} is damaged ({error}); start anew with --overwrite") from error
        for name in files:
            if not _MADE.fullmatch(name):
                raise OutputError(
                    f"{self.work / 'plan.json'} names {name!r}, which no run makes; start anew with --overwrite"
                )
        return files

    def mend(self) -> None:
        """Write again what stores say of themselves, where it is not as it was made: without it they are lost."""
        there = {store for store in STORES if (self.work / store).exists()}
        for name, content in self.made().items():
            place = self.work / name
            if name.partition("/")[0] in there and not is_whole(place, hashlib.sha256(content).hexdigest()):
                write_whole(place, content)

    @contextmanager
    def locked(self, *, shared: bool = False, announce: Callable[[str], None] | None = None) -> Iterator[None]:
        """Keep out other drivers, or all but those that share the run; the lock goes with the process.

        Parameters
        ----------
        shared : bool
            Whether others may share the run.
        announce : callable, optional
            Told if there is something to wait for.
        """
        make_folder(self.work)
        lock, work = self.work / "lock", f"filling into {self.path}"
        remote = is_remote(self.path)
        with leased(lock, work=work, announce=announce) if remote else held(lock, work=work, shared=shared):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process that shares the run does what one alone may do."""
        with held(self.work / "turn", work=f"filling into {self.path}", wait=True):
            yield

    def publish(self, name: str) -> None:
        """Give a complete product its final name, without what killed writers left in it."""
        self._check_held()
        unfinished = self.work / name
        if unfinished.exists():
            for file in files_below(unfinished):
                if file.endswith(HALF):
                    drop(unfinished / file)
            move(unfinished, self.path / name)

    def withdraw(self, name: str) -> None:
        """Take a product's final name away: it is no longer what was given it."""
        self._check_held()
        remove(self.work / name)
        move(self.path / name, self.work / name)

    def finish(self, report: JSON, *, keep_work: bool) -> None:
        """Write run.json, then remove what killed writers left, and the scratch."""
        self._check_held()
        for name in names_in(self.path):
            if HALVES.fullmatch(name):
                drop(self.path / name)
        write_whole(self.path / "run.json", json.dumps(report, indent=2).encode())
        if not keep_work:
            self.remove_work()

    def remove_work(self) -> None:
        """Remove the scratch, but for a lease in a store, which goes when its holder gives it back."""
        if not is_remote(self.path):
            remove(self.work)
            return
        for name in names_in(self.work):
            if name != "lock":
                remove(self.work / name)

    def _check_held(self) -> None:
        """End the run where another process may have taken it over."""
        check_held(self.work / "lock")


def finished_run(path: Path) -> tuple[Path, dict[str, JSON]]:
    """Return the folder and the report of a finished run; `path` may be that of a named run, which has it inside.

    Raises
    ------
    OutputError
        If there is no finished run.
    """
    folder = RunFolder(path)
    if not (folder.path / "run.json").exists() and (path / "filled" / "run.json").exists():
        folder = RunFolder(path / "filled")
    told = folder.report()
    if not told and not is_remote(path) and not path.is_dir():
        raise OutputError(f"there is no folder {path}; name one that fill-scene wrote, such as cube.filled")
    if not told and (folder.work / "plan.json").exists():
        raise OutputError(f"the run in {path} is not finished; run its fill-scene command again to finish it")
    if not _is_report(told) or not _is_told(told):
        what = "its run.json is damaged" if (folder.path / "run.json").exists() else "it has no run.json"
        raise OutputError(f"{path} holds no run: {what}; name a folder that fill-scene wrote, such as cube.filled")
    if not folder.has("filled.zarr"):
        raise OutputError(f"the run in {folder.path} has lost its filled.zarr; fill it again with --overwrite")
    return folder.path, told


def _names(folder: Path) -> list[str]:
    """Return what is in a folder of the run, but for files that are half written."""
    return [name for name in names_in(folder) if not HALVES.fullmatch(name)]


def links_in(place: Path, depth: int) -> Iterator[Path]:
    """Yield the links at a place and some levels below it; they are not followed."""
    if place.is_symlink():
        yield place
    elif depth and place.is_dir():
        for entry in place.iterdir():
            yield from links_in(entry, depth - 1)


def _load(path: Path) -> dict[str, JSON] | None:
    try:
        content = json.loads(read(path)) if is_remote(path) or path.is_file() else None
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        if not is_gone(error, path):  # what can't be read now must not be taken for what is not there
            raise
        return None
    return content if isinstance(content, dict) else None


def _is_told(told: Mapping[str, JSON]) -> bool:
    """Whether what a report says has its usual shape; earlier runs say less."""
    for key, (outer, inner) in _SHAPES.items():
        value = told.get(key)
        if value is None:
            continue
        if not isinstance(value, outer):
            return False
        held: Iterable[Any] = value.values() if isinstance(value, dict) else value
        if not all(isinstance(one, inner) for one in held):
            return False
    counts: Any = told.get("counts")
    return bool(counts) and all(isinstance(count, int) for row in counts.values() for count in row.values())


def _is_report(content: dict[str, JSON]) -> bool:
    """Whether what was read is a report as `RunFolder.finish` leaves it, as far as it is to be relied on."""
    products = content.get("products")
    return (
        isinstance(content.get("run_id"), str)
        and isinstance(products, list)
        and all(isinstance(product, dict) and isinstance(product.get("path"), str) for product in products)
    )


def _differences(old: JSON, new: JSON) -> str:
    """Name the options in which two identities differ."""
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(json.loads(canonical(new))))
    names = [key for key in sorted({*flat_old, *flat_new}) if flat_old.get(key) != flat_new.get(key)]
    # An identity is nested; users know its parts by the names of options.
    spelled = {"geometry.filler.coverage": "interval", "geometry.filler": "method or model", "input": ""}
    short = []
    for name in names:
        head = next((head for head in spelled if f"{name}.".startswith(f"{head}.")), None)
        short.append(spelled.get(head or "") or name.rsplit(".", 1)[-1])
    short = list(dict.fromkeys(short))
    if len(short) > 1 and "cube" in short:
        short.remove("cube")  # the cube's fingerprint covers the domain and the period too
    return ", ".join(short[:4]) or "its version"


def _flatten(value: JSON, prefix: str = "") -> Iterator[tuple[str, JSON]]:
    if isinstance(value, dict) and prefix.count(".") < DEEPEST:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def check_disk(path: Path, needed: int) -> None:
    """Refuse a run whose scratch and products can't fit; a store is as large as it is paid for.

    Raises
    ------
    PlanError
        With what is needed and what there is.
    """
    free = free_bytes(path)
    if free is not None and free < needed:
        raise PlanError(
            f"the run may need {gib(needed)} of disk, but {_existing(path)} has {gib(free)} free; free some, choose "
            "another disk with -o, leave the GeoTIFFs out with --no-geotiff, or fill a part with --time or --aoi"
        )


def free_bytes(path: Path) -> int | None:
    """Return what is free where a folder is, or would be; None where nobody says."""
    return None if is_remote(path) else shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def check_writable(path: Path) -> None:
    """Refuse a folder that can't be made or written; of a store only writing tells."""
    if is_remote(path):
        return
    place = path.absolute()
    while not place.exists():
        if place.is_symlink():
            raise OutputError(f"the output {path} can't be made: {place} is a link that leads nowhere; remove it")
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"the output {path} can't be made: {place} is a file; choose another folder with -o")
    if not os.access(place, os.W_OK):
        raise OutputError(f"the output {path} can't be made: no right to write in {place}; choose another with -o")


def tree_digest(path: Path) -> tuple[int, str]:
    """Return the size and sha256 of a file, or of a folder: that of the list of its files, see `total_digest`."""
    return _digest(pieces(path)) if path.is_file() else total_digest(file_digests(path))


def file_digests(path: Path) -> dict[str, tuple[int, str]]:
    """Return the size and sha256 of each file of a folder by its name there, in order."""
    return {name: _digest(parts) for name, parts in contents(path) if not _is_stray(name)}


def _is_stray(name: str) -> bool:
    """Whether a file is one that file managers and file systems leave, which is no part of any store."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last not in OPENS


def total_digest(files: Mapping[str, tuple[int, str]]) -> tuple[int, str]:
    r"""Return the size of files, and the sha256 of the list that ``sha256sum`` would print of them.

    >>> total_digest({"a": (1, "00"), "b": (2, "ff")}) == (3, hashlib.sha256(b"00  a\nff  b\n").hexdigest())
    True
    """
    lines = "".join(f"{sha256}  {name}\n" for name, (_, sha256) in files.items())
    return sum(size for size, _ in files.values()), hashlib.sha256(lines.encode()).hexdigest()


def _digest(parts: Iterable[bytes]) -> tuple[int, str]:
    total, size = hashlib.sha256(), 0
    for piece in parts:
        total.update(piece)
        size += len(piece)
    return size, total.hexdigest()


def file_state(path: Path, variables: Sequence[str]) -> str:
    """Return a digest of the names, sizes and times of the files that hold some variables' samples.

    It changes when a chunk is written again, whatever is in it; empty where there are no files to look at.
    """
    total = hashlib.sha256()
    if path.is_file():
        about = path.stat()
        total.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
        return total.hexdigest()
    for variable in variables:
        place = path / variable
        if not is_remote(path) and place.is_file():
            about = place.stat()
            total.update(f"{path.name}/{variable} {about.st_size} {about.st_mtime_ns}\n".encode())
            continue
        try:
            files = files_below(place)
        except Exception as error:
            if not is_unlisted(error, place):
                raise
            continue  # what may be read need not be listed; then nobody can say
        for name, file in files.items():
            total.update(f"{path.name}/{variable}/{name} {file.size} {file.state}\n".encode())
    return total.hexdigest()
