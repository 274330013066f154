"""Small objects of a store that are written only if nobody else has: made once, replaced only as they were read.

A store decides between two writers by the tag of an object, which changes with its content. All of this goes by the
door, which gives up soon: see `stpipe.execution.storage.door_of`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpipe.execution.storage import door_of

_TAKEN = (409, 412)
"""What a store answers if there is an object already, or if somebody else is writing it this moment."""


def create(path: Path, content: bytes) -> bool:
    """Write a small object unless there is one already; return whether it was written."""
    system, key = door_of(path)
    try:
        system.pipe_file(key, content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if _status(error) in _TAKEN:
            return False
        raise
    return True


def read_tagged(path: Path) -> tuple[bytes, str] | None:
    """Return the content of a small object and its tag, which changes with it; None if there is none."""
    system, key = door_of(path)
    bucket, _, name = key.partition("/")
    try:
        answer = system.call_s3("get_object", Bucket=bucket, Key=name)
        return bytes(_body(system, answer)), str(answer["ETag"])
    except FileNotFoundError:
        return None


def replace_tagged(path: Path, content: bytes, tag: str) -> str | None:
    """Write a small object in place of the one with this tag; return its new tag, or None if that one is gone."""
    system, key = door_of(path)
    bucket, _, name = key.partition("/")
    try:
        return str(system.call_s3("put_object", Bucket=bucket, Key=name, Body=content, IfMatch=tag)["ETag"])
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, FileExistsError) or _status(error) in _TAKEN:
            return None
        raise


def _body(system: Any, answer: dict[str, Any]) -> Any:
    from fsspec.asyn import sync

    return sync(system.loop, answer["Body"].read)


def _status(error: BaseException) -> int | None:
    """Return what a store answered by HTTP, if it did."""
    answer = getattr(error.__cause__, "response", None) or {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)
