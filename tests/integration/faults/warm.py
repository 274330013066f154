"""What a run that is forked has loaded already: starting it takes milliseconds, not seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.figure  # noqa: F401
import rasterio  # noqa: F401
import rioxarray  # noqa: F401
import xarray.backends.zarr  # noqa: F401

import stpipe.cli.fill_scene
import stpipe.cli.scene_run
import stpipe.cli.shard_run
import stpipe.execution.tasks
import stpipe.methods.linear
import stpipe.report.quicklook  # noqa: F401
from stpipe.cli.main import run


def serve(words: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    """Run one command line in this process, which was forked for it; what it says goes to files."""
    os.setsid()
    os.environ.update(environment)
    for number, name in ((1, "said.out"), (2, "said.err")):
        with Path(folder, name).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.exit(run(words))
