"""Gives xarray objects their ``.stpipe`` without loading xarray.

xarray takes half a second to import, which `import stpipe` must not. So the accessor is registered at once where
xarray is loaded already, and otherwise right after somebody loads it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

ACCESSOR = "stpipe.io.accessor"


class _AfterXarray(MetaPathFinder):
    """Stands in the way of the first import of xarray, and steps aside."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the finder's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return xarray's own spec, with a loader that registers the accessor afterwards."""
        if fullname != "xarray" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            import_module(ACCESSOR)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the accessor now or when xarray comes."""
    if "xarray" in sys.modules:
        import_module(ACCESSOR)
    elif not any(isinstance(finder, _AfterXarray) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterXarray())
