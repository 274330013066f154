"""Kinds of paths that users type: those of this machine, and those that may be addresses of a store as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_SHOWN = 200


class HerePath(click.Path):
    """A path of this machine; an address would silently become a folder of an odd name."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path, or refuse an address."""
        if isinstance(value, str) and "://" in value:
            from stpipe.errors import OptionError

            what = param.opts[0] if param is not None and param.opts[0].startswith("-") else "here"
            raise OptionError(f"{what} takes a path of this machine, not an address such as {value[:_SHOWN]}")
        return super().convert(value, param, ctx)


class AnyPath(click.Path):
    """A path of this machine, or an address such as ``s3://bucket/cube.zarr``."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path, or what behaves like one."""
        if isinstance(value, str) and "://" in value:
            from stpipe.execution.storage import located

            return located(value)
        return super().convert(value, param, ctx)
