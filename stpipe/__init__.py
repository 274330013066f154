"""Fill the gaps in satellite image time series.

Names are loaded on first use, so that importing stpipe costs nothing.

>>> import stpipe
>>> stpipe.__version__.count(".")
2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stpipe import accessor_hook

if TYPE_CHECKING:
    from stpipe.io.api import fill
    from stpipe.io.cube import open_cube
    from stpipe.io.evaluate import evaluate
    from stpipe.io.gaps.objects import gap_statistics

__all__ = ["__version__", "evaluate", "fill", "gap_statistics", "open_cube"]

__version__ = "0.1.0"

_HOMES = {
    "evaluate": "stpipe.io.evaluate",
    "fill": "stpipe.io.api",
    "gap_statistics": "stpipe.io.gaps.objects",
    "open_cube": "stpipe.io.cube",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use doesn't come here
    return value


accessor_hook.register()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
