"""Where the shipped pipelines and cluster settings are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stpipe.errors import MissingFileError

_PACKAGE = Path(__file__).resolve().parent

Shelf = Literal["pipelines", "cluster"]


def shelf(name: Shelf) -> Path:
    """Return the folder of shipped pipelines or cluster settings.

    >>> (shelf("pipelines") / "demo.yaml").is_file()
    True
    """
    # A wheel's own copy comes first: beside an installed package there may be anybody's folder of that name.
    inside, beside = _PACKAGE / "_shipped" / name, _PACKAGE.parent / name
    for folder in (inside, beside):
        if folder.is_dir():
            return folder
    raise MissingFileError(f"this installation of stpipe has no {name}/ in {inside} or {beside}; install it again")


def shipped(name: Shelf, path: str) -> Path:
    """Return one shipped file by its path on its shelf.

    >>> shipped("pipelines", "demo.yaml").name
    'demo.yaml'
    """
    folder = shelf(name)
    file = folder / path
    if not file.is_file():
        there = ", ".join(sorted(str(p.relative_to(folder)) for p in folder.rglob("*.yaml"))) or "nothing"
        raise MissingFileError(f"no {name}/{path} is shipped with stpipe; there is {there}")
    return file
