"""The exceptions, and the exit code each one means on the command line.

A refusal (exit code 2) happens before any work and leaves everything on disk as it was. A failure (exit code 1)
happens while running: what is done is kept, and the message says how to go on. Every class also inherits a fitting
built-in, and takes one message only, so that Dask can pickle it home.
"""

from __future__ import annotations

from typing import ClassVar


class StpipeError(Exception):
    """Base of everything stpipe raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[type[StpipeError], tuple[object, ...]]:
        """Say how it is made again elsewhere; what Dask would make of two built-in bases is refused by both."""
        return type(self), self.args


class RefusedError(StpipeError, ValueError):
    """The request can't be carried out; nothing was done."""

    exit_code: ClassVar[int] = 2


class OptionError(RefusedError):
    """An option has a value it can't have, or contradicts another."""


class PlanError(RefusedError):
    """The blocks, the memory or the disk don't allow the run."""


class ShapeError(RefusedError):
    """Arrays, or a model and its input, disagree on a shape."""


class CubeError(RefusedError):
    """A file or folder is not the cube that was asked for."""


class ModelFileError(RefusedError):
    """A model file is damaged, of another kind, or made for other input."""


class MissingFileError(RefusedError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class OutputError(RefusedError, FileExistsError):
    """The output folder holds something that would be lost."""


class RunError(StpipeError, RuntimeError):
    """A run stopped before its end; what is done is kept."""


class ReadError(RunError, OSError):
    """A chunk of the input can't be read or decoded."""


class ScratchError(RunError):
    """A block in the scratch store is missing, changed, or of another run."""
