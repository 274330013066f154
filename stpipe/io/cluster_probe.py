"""What one worker of a cluster sees and can do; each function runs there and gives a small mapping home."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from distributed import get_worker

from stpipe import __version__
from stpipe.core.ports import JSON
from stpipe.core.scene import SceneSpec, make_scene
from stpipe.core.windows import Window
from stpipe.errors import ReadError, RunError, StpipeError
from stpipe.execution.clusters.connect import cores, machine_memory
from stpipe.execution.storage import is_remote, located, one_line
from stpipe.io.cube import open_source
from stpipe.io.scratch import use_one_thread

SCENE = SceneSpec(frames=16, height=128, width=128, swath_frames=2, striped_frames=1, overcast_frames=1)
"""What a worker fills to show its speed: 262 144 samples."""

METHOD = "pyramid"
"""How it fills it: it loads nothing, and keeps processor and memory busy."""


def told(function: Callable[..., dict[str, JSON]], *arguments: Any) -> dict[str, JSON]:
    """Return what a function returns, or why it can't, as ``failed``.

    Errors travel as text: not every one of them survives the way home.
    """
    try:
        return function(*arguments)
    except StpipeError as error:
        return {"failed": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there is for the user to read
        return {"failed": f"{type(error).__name__}: {error}"}


def versions() -> dict[str, str]:
    """Return what has to be the same here and there."""
    return {"stpipe": __version__, "python": platform.python_version(), "distributed": version("distributed")}


def machine() -> dict[str, JSON]:
    """Return what a worker is, and where."""
    worker: Any = get_worker()
    return {
        "host": socket.gethostname(),
        "address": worker.address,
        "cores": cores(),
        "threads": worker.state.nthreads,
        "memory_bytes": machine_memory(),
        "limit_bytes": worker.memory_manager.memory_limit,
        "scratch": worker.local_directory,
        "lifetime_seconds": worker.lifetime,
        "versions": versions(),
    }


def cube(path: str) -> dict[str, JSON]:
    """Return what tells a cube from another one: its fingerprint, and a digest of its first samples.

    Raises
    ------
    RefusedError
        If it isn't there, or is no cube.
    ReadError
        If its first chunk can't be read.
    """
    source = open_source(path)
    info = source.variables[0]
    lengths = [min(length, chunk) for length, chunk in zip(source.extent, info.chunks, strict=True)]
    samples = source.reader().read(info.name, Window(start=(0, 0, 0), stop=(lengths[0], lengths[1], lengths[2])))
    return {"fingerprint": source.fingerprint, "sha256": sha256(samples.tobytes()).hexdigest(), "bytes": samples.nbytes}


def write(folder: str, name: str, content: str) -> dict[str, JSON]:
    """Write a small file, all the way to the disk; `RunError` if that can't be done."""
    path = located(folder) / name
    try:
        if is_remote(path):
            path.write_bytes(content.encode())
        else:  # a folder that is not there is not made: it lies elsewhere
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except Exception as error:  # a store answers with all kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise RunError(f"can't write into {folder}: {reason}") from error
    return {"path": str(path)}


def remove(path: str) -> dict[str, JSON]:
    """Remove the file; nothing is said if it isn't there."""
    with suppress(FileNotFoundError):
        located(path).unlink()
    return {"there": located(path).exists()}


def read_soon(path: str, seconds: float = 10) -> str:
    """Return what a file holds that another machine wrote; network file systems take a while to tell.

    Raises
    ------
    ReadError
        If it doesn't appear.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return located(path).read_bytes().decode()
        except OSError as error:
            if time.monotonic() > until:
                raise ReadError(f"what the worker wrote does not appear here ({error.strerror}: {path})") from error
        time.sleep(0.1)


def model(name: str) -> dict[str, JSON]:
    """Load a model and return its digest and how long that took; `RefusedError` if it can't be."""
    from stpipe.model.weights import load_model

    began = time.perf_counter()
    digest = load_model(name).info.digest
    return {"sha256": digest, "seconds": round(time.perf_counter() - began, 2)}


def speed() -> dict[str, JSON]:
    """Fill a small made-up scene and return how fast."""
    import xarray as xr

    from stpipe.io.api import fill

    use_one_thread()
    scene = make_scene(SCENE)
    dims = ("time", "y", "x")
    axes = {
        "time": scene.times.astype("datetime64[ns]"),
        "y": -1.0 * range_of(SCENE.height),
        "x": range_of(SCENE.width),
    }
    gappy = xr.Dataset({"ndvi": (dims, scene.observed)}, coords=axes)
    began = time.perf_counter()
    fill(gappy, method=METHOD, memory_limit=2**30)
    seconds = time.perf_counter() - began
    return {"method": METHOD, "samples": scene.observed.size, "seconds": round(seconds, 3)}


def range_of(length: int) -> Any:
    """Return made-up coordinates along an axis.

    >>> range_of(3).tolist()
    [0.0, 1.0, 2.0]
    """
    import numpy as np

    return np.arange(length, dtype=np.float64)
