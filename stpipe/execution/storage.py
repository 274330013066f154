"""Where things lie: folders and files here, or prefixes and objects of a store such as S3, in the same words.

`located` gives a `pathlib.Path`, or for an address what `universal_pathlib` makes of it, which has the same methods as
far as both kinds of storage can do the same. What they can't do alike is done by the functions of this module: an
object store has no folders, renames nothing, and syncs nothing; an object is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from stpipe.errors import CubeError, MissingFileError, OptionError, OutputError

WRITABLE = ("s3",)
"""Kinds of addresses that runs can write to; read is whatever fsspec reads."""

# A listing that is kept would hide what other processes write. What may be read in parts is asked for its size first, a
# request more for each chunk; so chunks come in one piece, and large ones go piece after piece.
_READ_AT_ONCE: dict[str, Any] = {"use_listings_cache": False, "max_concurrency": 1}

_PARTS = {"max_concurrency": 10}
"""For GeoTIFFs, which may be large: their parts travel side by side."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {**_READ_AT_ONCE, "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 5}}},
}
"""What fsspec is told for each kind of address; of how often to try, the environment may say something else."""

DOOR: dict[str, dict[str, Any]] = {
    "s3": {
        **_READ_AT_ONCE,
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 2}, "connect_timeout": 5, "read_timeout": 20},
    }
}
"""The same where an answer is wanted soon: who has mistyped an address, or holds a lease, can't wait for minutes."""

OPENS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Names of what makes a store one that can be opened."""

HALF = ".partial"
"""End of the name of what is being written."""

STORE_BYTES = 64 * 2**20
"""Memory of a process that has loaded what speaks to a store."""

AT_ONCE = 64 * 2**20
"""Bytes of objects that are fetched together."""

REQUESTS = 32
"""Requests that are under way together."""

_LIBRARIES = frozenset({"botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs"})

_SHOWN = 200

_PATTERNS = "*?[]"
"""Letters that stand for others where fsspec takes several keys."""


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
    if scheme_of(path) in OPTIONS and {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        return _READ_AT_ONCE
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
    """Refuse an address of S3 that names no bucket, or holds what is no part of a key, or a pattern to fsspec.

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
    if any(letter in path for letter in _PATTERNS):  # what is one place must never be taken for several
        raise OptionError(f"{path[:_SHOWN]} holds one of * ? [ ], which stand for other letters; choose another name")


def without_secrets(text: str) -> str:
    """Return what a user typed without what opens doors: a name and password in an address, or a signature after it.

    >>> without_secrets("https://me:secret@host/cube.zarr?sig=1"), without_secrets("cube.zarr?")
    ('https://host/cube.zarr?...', 'cube.zarr?')
    """
    return re.sub(r"(://[^?]*\?).+", r"\1...", re.sub(r"://[^/@?]*@", "://", text))


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


def read(path: Path) -> bytes:
    """Return the content of a file; `FileNotFoundError` if there is none."""
    if not is_remote(path):
        return path.read_bytes()
    system, key = system_of(path)
    return bytes(system.cat_file(key))  # by its handles it would be asked about first


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether a file is there, and has this digest."""
    try:
        return hashlib.sha256(read(path)).hexdigest() == sha256
    except OSError as error:
        if not is_gone(error, path):
            raise
        return False


def read_many(paths: Iterable[Path]) -> Iterator[bytes | None]:
    """Yield the content of each file, None where there is none; from a store many at once."""
    batch: list[Path] = []
    for path in paths:
        batch.append(path)
        if len(batch) == REQUESTS or not is_remote(path):
            yield from _read_batch(batch)
            batch = []
    yield from _read_batch(batch)


def _read_batch(batch: list[Path]) -> Iterator[bytes | None]:
    if not batch:
        return
    if not is_remote(batch[0]):
        for path in batch:
            try:
                yield path.read_bytes()
            except FileNotFoundError:
                yield None
        return
    system = system_of(batch[0])[0]
    keys = [system_of(path)[1] for path in batch]
    found = system.cat(keys, on_error="return", batch_size=REQUESTS)
    for key in keys:
        content = found[key]
        if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
            raise content
        yield None if isinstance(content, BaseException) else bytes(content)


def is_gone(error: Exception, path: str | Path) -> bool:
    """Whether an error of reading means that what was there is gone or damaged, and not that a store is out of reach.

    >>> is_gone(PermissionError(), "s3://bucket/a"), is_gone(FileNotFoundError(), "s3://bucket/a")
    (False, True)
    """
    return not is_remote(path) or not is_of_store(error)


def is_of_store(error: BaseException) -> bool:
    """Whether an error is one of reaching a store, whatever library raised it."""
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, OSError) or is_from_store(error)


def is_from_store(error: BaseException) -> bool:
    """Whether an error was raised by a library that speaks to stores."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def is_unlisted(error: Exception, path: str | Path) -> bool:
    """Whether an error of listing a folder means that it may be read, but not listed, as on a plain web server.

    >>> is_unlisted(PermissionError(), "s3://bucket/a"), is_unlisted(TimeoutError(), "s3://bucket/a")
    (True, False)
    """
    listable = not is_remote(path) or scheme_of(path) in OPTIONS
    return isinstance(error, PermissionError | NotImplementedError) or (not listable and is_of_store(error))


def is_there(path: Path) -> bool:
    """Whether a file is there; where a store can't tell, its error is raised instead of taken for a no."""
    if not is_remote(path):
        return path.is_file()
    system, key = system_of(path)
    return bool(system.exists(key))


def drop(path: Path) -> None:
    """Remove a file or an object, if it is there."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    system, key = system_of(path)
    with suppress(FileNotFoundError):
        system.rm_file(key)  # that of many at once tells nobody what it could not remove


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there.

    Raises
    ------
    OutputError
        If a store keeps what it was to remove.
    """
    if is_remote(path):
        system, key = system_of(path)
        keys = list(system.find(key))
        if keys:
            system.rm(keys, batch_size=REQUESTS)
            if kept := list(system.find(key)):
                raise OutputError(
                    f"{len(kept)} objects under {path} can't be removed, such as {kept[0]}; look at rights"
                )
    elif path.is_symlink() or path.is_file():
        path.unlink()
    else:
        while path.is_dir():
            with suppress(FileNotFoundError):  # another share of the run removes it as well
                shutil.rmtree(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that its final name never shows half of it."""
    if is_remote(path):
        system, key = system_of(path)
        system.pipe_file(key, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{HALF}")  # process ids repeat from host to host
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


def names_in(folder: Path) -> list[str]:
    """Return the names of what lies in a folder, in order; empty if there is no such folder."""
    if not is_remote(folder):
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    system, key = system_of(folder)
    try:
        found = system.ls(key, detail=False)
    except FileNotFoundError:
        return []
    # A console's "create folder" leaves an empty object of the folder's own name.
    names = {name.removeprefix(key).strip("/") for name in found if name.startswith(f"{key}/")}
    return sorted(names - {""})


def files_below(path: Path) -> dict[str, StoredFile]:
    """Return all files of a folder by their names in it, in order; empty if there is no such folder."""
    found: dict[str, StoredFile] = {}
    if is_remote(path):
        system, key = system_of(path)
        for name, about in system.find(key, detail=True).items():
            if name.startswith(f"{key}/") and not name.endswith("/"):
                found[name.removeprefix(f"{key}/")] = StoredFile(int(about["size"] or 0), _tag(about))
    else:
        for folder, _, names in os.walk(path, onerror=_unless_gone):
            for file in (Path(folder) / name for name in names):
                with suppress(FileNotFoundError):  # it has been renamed meanwhile
                    if file.is_file():
                        about = file.stat()
                        found[file.relative_to(path).as_posix()] = StoredFile(about.st_size, f"{about.st_mtime_ns}")
    return {name: found[name] for name in sorted(found, key=lambda name: PurePosixPath(name).parts)}


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _tag(about: dict[str, Any]) -> str:
    return next((str(about[key]).strip('"') for key in ("ETag", "etag", "mtime", "LastModified") if key in about), "")


def contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and, piece by piece, the content of each file of a folder, in order, but of halves."""
    files = {name: file for name, file in files_below(path).items() if not name.endswith(HALF)}
    if not is_remote(path):
        for name in files:
            yield name, pieces(path / name)
        return
    batch: list[str] = []
    size = 0
    for name, file in files.items():
        if batch and (size + file.size > AT_ONCE or len(batch) == REQUESTS):
            yield from _fetched(path, batch)
            batch, size = [], 0
        batch.append(name)
        size += file.size
    yield from _fetched(path, batch)


def _fetched(path: Path, names: list[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    for name, content in zip(names, read_many(path / name for name in names), strict=True):
        if content is None:
            raise FileNotFoundError(f"{path / name} is gone")
        yield name, iter([content])


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's content piece by piece."""
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            yield piece


def move(source: Path, target: Path) -> None:
    """Give a finished folder of the same storage another name, under which nothing is there by halves.

    A store copies object by object. What makes a Zarr store one that can be opened comes last, the outermost at the
    very end, so that until then there is nothing to be opened.
    """
    if not is_remote(source):
        source.replace(target)
        return
    system, old = system_of(source)
    _, new = system_of(target)
    names = list(files_below(source))
    inner = [name for name in names if PurePosixPath(name).name not in OPENS]
    doors = [name for name in names if PurePosixPath(name).name in OPENS]
    depths = sorted({name.count("/") for name in doors}, reverse=True)
    for group in (inner, *([name for name in doors if name.count("/") == depth] for depth in depths)):
        if group:
            system.copy(
                [f"{old}/{name}" for name in group],
                [f"{new}/{name}" for name in group],
                on_error="raise",
                batch_size=REQUESTS,
            )
    remove(source)


def fetch(path: Path, local: Path) -> None:
    """Copy an object to a file here."""
    system, key = system_of(path)
    system.get_file(key, str(local), **_PARTS)


def send(local: Path, path: Path) -> None:
    """Copy a file from here to an object, which is there as a whole or not at all."""
    system, key = system_of(path)
    system.put_file(str(local), key, **_PARTS)


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


def door_of(path: Path) -> tuple[Any, str]:
    """Return the same with connections of its own, which wait for nothing else, and give up soon."""
    import fsspec

    scheme, (system, key) = scheme_of(path), system_of(path)
    return (fsspec.filesystem(scheme, **DOOR[scheme]) if scheme in DOOR else system), key


def names_at(path: Path) -> list[str] | None:
    """Return the names under an address, at the door of a store: briefly tried, and whatever it answers is a refusal.

    Returns
    -------
    list of str or None
        Empty if there is nothing there, though there is such a bucket; None if they can't be listed, though what is
        named may be there.

    Raises
    ------
    MissingFileError
        If there is no such bucket.
    CubeError
        If the store doesn't answer, or doesn't let anybody in who comes with these credentials.
    """
    system, key = door_of(path)
    listable = scheme_of(path) in OPTIONS
    try:
        found = system.ls(key, detail=False)
    except (PermissionError, NotImplementedError):
        return None
    except FileNotFoundError as error:
        if listable and not system.exists(key.split("/")[0]):
            raise MissingFileError(f"{str(path)[:_SHOWN]}: there is no bucket {key.split('/')[0]}") from error
        return [] if listable else None
    except MemoryError:
        raise
    except Exception as error:
        if not listable:  # a plain web server has no lists
            return None
        raise CubeError(
            f"{str(path)[:_SHOWN]} can't be reached: {one_line(error)}; look at the address, the credentials, and "
            "AWS_ENDPOINT_URL if the store is not Amazon's"
        ) from error
    return sorted({name.rpartition("/")[2] for name in found if not name.endswith("/")} | _folders(found))


def _folders(found: list[str]) -> set[str]:
    return {name.rstrip("/").rpartition("/")[2] for name in found if name.endswith("/")}


def check_output(path: Path, variables: Iterable[str] = ()) -> None:
    """Refuse an address that runs can't write to, or that can't be reached; folders here are another matter.

    Parameters
    ----------
    path : Path
        The output.
    variables : iterable of str
        Names of what is to be written there.

    Raises
    ------
    OptionError, OutputError
        With what to choose instead.
    """
    if not is_remote(path):
        return
    if scheme_of(path) not in WRITABLE:
        raise OptionError(
            f"the output {str(path)[:_SHOWN]} can't be written to; name a folder, or an address that begins with "
            f"{' or '.join(f'{scheme}://' for scheme in WRITABLE)}, with -o"
        )
    if "/" not in str(path).partition("://")[2].rstrip("/"):
        raise OptionError(f"the output {path} is a whole bucket; name a place in it with -o")
    patterned = next((name for name in variables if any(letter in name for letter in _PATTERNS)), None)
    if patterned is not None:
        raise OptionError(
            f"the variable {patterned!r} can't be written to {path}: its name holds one of {' '.join(_PATTERNS)}, "
            "which stand for other letters there; name a folder with -o"
        )
    if names_at(path) is None:
        raise OutputError(
            f"what lies under {path} may not be listed with these credentials; choose another place with -o"
        )


def one_line(error: BaseException) -> str:
    """Return an exception's type and text on one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
