"""Where things lie: folders and files here, or prefixes and objects of a store such as S3, in the same words.

`located` gives a `pathlib.Path`, or for an address what `universal_pathlib` makes of it, which has the same methods as
far as both kinds of storage can do the same. What they can't do alike is done by the functions of this module: an
object store has no folders, renames nothing, and syncs nothing; an object is there as a whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from stpipe.errors import CubeError, MissingFileError, OptionError

WRITABLE = ("s3",)
"""Kinds of addresses that runs can write to; read is whatever fsspec reads."""

OPTIONS: dict[str, dict[str, Any]] = {
    # A listing that is kept would hide what other processes write; transient errors are tried again, ever more slowly.
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}},
    }
}
"""What fsspec is told for each kind of address."""

DOOR: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 2}, "connect_timeout": 5, "read_timeout": 20},
    }
}
"""The same while it is asked whether there is anything at all: who has mistyped an address wants to know soon."""

OPENS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Names of what makes a store one that can be opened."""

STORE_BYTES = 64 * 2**20
"""Memory of a process that has loaded what speaks to a store."""

AT_ONCE = 64 * 2**20
"""Bytes of objects that are fetched together."""

_SHOWN = 200


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address.

    >>> is_remote("s3://bucket/cube.zarr"), is_remote("cube.zarr")
    (True, False)
    """
    return "://" in str(path)


def scheme_of(path: str | Path) -> str:
    """Return the kind of an address, empty for what is here.

    >>> scheme_of("s3://bucket/cube.zarr"), scheme_of("cube.zarr")
    ('s3', '')
    """
    head, mark, _ = str(path).partition("://")
    return head.lower() if mark else ""


def storage_options(path: str | Path) -> dict[str, Any]:
    """Return what fsspec is to be told for an address; empty for what is here."""
    return OPTIONS.get(scheme_of(path), {})


def located(path: str | Path) -> Path:
    """Return a path, or what behaves like one for an address.

    Raises
    ------
    OptionError
        If what it takes to go there is not installed, or the address is none.
    """
    if not is_remote(path):
        return Path(path)
    if not isinstance(path, str):
        return path
    check_address(path)
    try:
        from upath import UPath

        return cast("Path", UPath(path.rstrip("/"), **storage_options(path)))
    except ImportError as error:
        raise OptionError(f"{path[:_SHOWN]} needs more packages: pip install 'stpipe[s3]' ({error.name})") from error
    except ValueError as error:
        raise OptionError(f"{path[:_SHOWN]} is no address that fsspec knows: {error}") from error


def check_address(path: str) -> None:
    """Refuse an address of S3 that names no bucket, or holds what is no part of a key.

    >>> check_address("s3:///cube.zarr")
    Traceback (most recent call last):
    ...
    stpipe.errors.OptionError: s3:///cube.zarr names no bucket; an address is s3://BUCKET/NAME
    """
    if scheme_of(path) not in OPTIONS:
        return
    bucket, *parts = path.partition("://")[2].rstrip("/").split("/")
    if not bucket:
        raise OptionError(f"{path[:_SHOWN]} names no bucket; an address is s3://BUCKET/NAME")
    if any(part in {"", ".", ".."} for part in parts):
        raise OptionError(f"{path[:_SHOWN]} has an empty part, or one of dots, which is no name in a store")


def absolute(path: Path) -> Path:
    """Return a path as absolute; an address as it is."""
    return path if is_remote(path) else path.absolute()


def resolved(path: str | Path) -> Path:
    """Return a path as absolute, without links; an address as a path that can be compared with others of its kind.

    >>> resolved("s3://bucket/a") in resolved("s3://bucket/a/b.zarr").parents
    True
    """
    return Path("/", *str(path).rstrip("/").split("/")) if is_remote(path) else Path(path).resolve()


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in; a store has none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if is_remote(path):
        system, key = system_of(path)
        with suppress(FileNotFoundError):
            system.rm(key, recursive=True)
    elif path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that its final name never shows half of it."""
    if is_remote(path):
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")  # process ids repeat from host to host
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or an object."""

    size: int
    """Bytes."""

    state: str
    """Changes when it is written again, whatever is in it."""


def files_below(path: Path) -> dict[str, StoredFile]:
    """Return all files of a folder by their names in it, in order; empty if there is no such folder."""
    if is_remote(path):
        system, key = system_of(path)
        found = {
            name.removeprefix(key).lstrip("/"): StoredFile(int(about["size"]), _tag(about))
            for name, about in system.find(key, detail=True).items()
        }
    else:
        found = {}
        for file in path.rglob("*"):
            if file.is_file():
                about = file.stat()
                found[file.relative_to(path).as_posix()] = StoredFile(about.st_size, f"{about.st_mtime_ns}")
    return {name: found[name] for name in sorted(found, key=lambda name: PurePosixPath(name).parts)}


def _tag(about: dict[str, Any]) -> str:
    return next((str(about[key]).strip('"') for key in ("ETag", "etag", "mtime", "LastModified") if key in about), "")


def contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and, piece by piece, the content of each file of a folder, in order."""
    if not is_remote(path):
        for name in files_below(path):
            yield name, pieces(path / name)
        return
    system, key = system_of(path)
    batch: list[str] = []
    size = 0

    def fetched() -> Iterator[tuple[str, Iterator[bytes]]]:
        got = system.cat([f"{key}/{name}" for name in batch], on_error="raise") if batch else {}
        for name in batch:
            yield name, iter([got[f"{key}/{name}"]])

    for name, file in files_below(path).items():
        if batch and size + file.size > AT_ONCE:
            yield from fetched()
            batch, size = [], 0
        batch.append(name)
        size += file.size
    yield from fetched()


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's content piece by piece."""
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            yield piece


def move(source: Path, target: Path) -> None:
    """Give a finished file or folder of the same storage another name, under which nothing is there by halves.

    A store copies object by object. What makes a Zarr store one that can be opened comes last, the outermost at the
    very end, so that until then there is nothing to be opened.
    """
    if not is_remote(source):
        source.replace(target)
        return
    system, old = system_of(source)
    _, new = system_of(target)
    names = list(files_below(source))
    if not names and source.is_file():
        system.copy(old, new)
    inner = [name for name in names if PurePosixPath(name).name not in OPENS]
    doors = [name for name in names if PurePosixPath(name).name in OPENS]
    depths = sorted({name.count("/") for name in doors}, reverse=True)
    for group in (inner, *([name for name in doors if name.count("/") == depth] for depth in depths)):
        if group:
            system.copy([f"{old}/{name}" for name in group], [f"{new}/{name}" for name in group], on_error="raise")
    remove(source)


def create(path: Path, content: bytes) -> bool:
    """Write a small object unless there is one already; return whether it was written."""
    system, key = system_of(path)
    try:
        system.pipe_file(key, content, mode="create")
    except FileExistsError:
        return False
    return True


def fetch(path: Path, local: Path) -> None:
    """Copy an object to a file here."""
    system, key = system_of(path)
    system.get_file(key, str(local))


def send(local: Path, path: Path) -> None:
    """Copy a file from here to an object, which is there as a whole or not at all."""
    system, key = system_of(path)
    system.put_file(str(local), key)


def zarr_place(path: str | Path) -> Any:
    """Return what zarr and xarray open a store by."""
    if not is_remote(path):
        return str(path)
    from zarr.storage import FsspecStore

    check_address(str(path))
    return FsspecStore.from_url(str(path), storage_options=dict(storage_options(path)))


def system_of(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and what the address is called there."""
    remote = cast("Any", path)
    return remote.fs, str(remote.path).rstrip("/")


def names_at(path: Path) -> list[str] | None:
    """Return the names under an address, at the door of a store: briefly tried, and whatever it answers is a refusal.

    Returns
    -------
    list of str or None
        Empty if there is nothing there, though there is such a bucket; None if they may not be listed.

    Raises
    ------
    MissingFileError
        If there is no such bucket.
    CubeError
        If the store doesn't answer, or doesn't let anybody in who comes with these credentials.
    """
    import fsspec

    scheme, (_, key) = scheme_of(path), system_of(path)
    system = fsspec.filesystem(scheme, **DOOR.get(scheme, storage_options(path)))
    try:
        found = system.ls(key, detail=False)
    except PermissionError:
        return None
    except FileNotFoundError as error:
        if scheme in OPTIONS and not system.exists(key.split("/")[0]):
            raise MissingFileError(f"{str(path)[:_SHOWN]}: there is no bucket {key.split('/')[0]}") from error
        return []
    except MemoryError:
        raise
    except Exception as error:
        raise CubeError(
            f"{str(path)[:_SHOWN]} can't be reached: {one_line(error)}; look at the address, the credentials, and "
            "AWS_ENDPOINT_URL if the store is not Amazon's"
        ) from error
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found})


def check_output(path: Path) -> None:
    """Refuse an address that runs can't write to, or that can't be reached; folders here are another matter."""
    if not is_remote(path):
        return
    if scheme_of(path) not in WRITABLE:
        raise OptionError(
            f"the output {str(path)[:_SHOWN]} can't be written to; name a folder, or an address that begins with "
            f"{' or '.join(f'{scheme}://' for scheme in WRITABLE)}, with -o"
        )
    if "/" not in str(path).partition("://")[2].rstrip("/"):
        raise OptionError(f"the output {path} is a whole bucket; name a place in it with -o")
    names_at(path)


def one_line(error: BaseException) -> str:
    """Return an exception's type and text on one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
