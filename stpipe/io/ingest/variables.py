"""What each variable of the cube will be: its type, its nodata, and the rules that decide on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stpipe.core.conditions import Bits, Values, parse_test
from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.qa_products import PRODUCTS, Product
from stpipe.core.samples import CLEAR_CODES, tells_clear
from stpipe.core.trust import Rule, Trust
from stpipe.errors import CubeError, OptionError
from stpipe.io.ingest.layers import Layer
from stpipe.io.ingest.options import IngestOptions
from stpipe.io.ingest.scenes import Frame
from stpipe.io.rasters import Grid
from stpipe.io.times import label


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablePlan:
    """One variable that is read."""

    name: str
    """Name in the cube."""

    dtype: str
    """Stored type."""

    nodata: float | None
    """Stored value of gaps; NaN for floats; None where integers have none."""

    extra_nodata: float | None
    """Stored value that also means gap in the files."""

    scale: float
    """Physical value = stored value x scale + offset."""

    offset: float
    """See `scale`."""

    attrs: Mapping[str, JSON]
    """Units and whatever else the files say."""

    codes: bool
    """Whether it is a quality variable: never averaged, never interpolated, and never dropped by rules."""

    trust: Trust | None
    """The rules that decide on its samples."""

    @property
    def info(self) -> VariableInfo:
        """What the rest of the house knows of it."""
        return VariableInfo(
            name=self.name,
            dtype=self.dtype,
            chunks=(1, 1, 1),
            nodata=self.nodata,
            scale_factor=self.scale,
            add_offset=self.offset,
            attrs=self.attrs,
        )


def is_quality(name: str, layers: Sequence[Layer]) -> bool:
    """Whether a variable holds codes or bits, by its name or by CF's flag attributes."""
    attrs = layers[0].attrs
    return bool(_products(name)) or "flag_values" in attrs or "flag_masks" in attrs


def _products(name: str) -> list[Product]:
    """Return the products whose quality layer goes by a name."""
    plain = name.lower().replace("-", "_")
    return [p for p in PRODUCTS.values() if p.parts and plain in {variable.lower() for variable in p.variables}]


def _product_fill(name: str, dtype: np.dtype[Any]) -> int | None:
    """Return the code by which a quality layer of this name says that nothing was seen, if it has one."""
    for product in _products(name):
        for test in (parse_test(part.test) for part in product.parts if part.missing):
            codes: list[int] = []
            if isinstance(test, Values):
                codes = [first for first, _ in test.ranges]
            elif isinstance(test, Bits):
                codes = [1 << bit for bit in test.bits]
            for code in codes:
                if _holds(dtype, code):
                    return code
    return None


def plan_variables(
    frames: Sequence[Frame], grid: Grid, trust: Trust | None, quality: set[str], options: IngestOptions
) -> tuple[VariablePlan, ...]:
    """Return what each variable of these frames will be.

    Parameters
    ----------
    frames : sequence of Frame
        The time steps.
    grid : Grid
        The cube's.
    trust : Trust, optional
        All rules, resolved.
    quality : set of str
        Variables that hold codes, bits or measures of quality.
    options : IngestOptions
        What the user says.
    """
    names = sorted({name for frame in frames for scene in frame.scenes for name in scene.layers})
    for name in options.nodata_of:
        if name not in names:
            raise OptionError(f"--nodata: there is no variable {name!r}; there are {', '.join(names)}")
    return tuple(
        _plan_variable(
            name,
            frames,
            grid,
            trust=None if trust is None or name in quality else _rules_for(name, trust, frames),
            codes=name in quality,
            extra=options.nodata_of.get(name, None if name in quality else options.nodata),
        )
        for name in names
    )


def _rules_for(name: str, trust: Trust, frames: Sequence[Frame]) -> Trust | None:
    """Return the rules whose quality variable was acquired together with a variable."""
    scenes = [scene for frame in frames for scene in frame.scenes if name in scene.layers]
    rules: list[Rule] = []
    for rule in trust.rules:
        without = [scene for scene in scenes if rule.variable not in scene.layers]
        if len(without) == len(scenes):
            continue
        if without:
            raise CubeError(
                f"{rule.text}: {len(without)} of {len(scenes)} scenes of variable {name!r} have no {rule.variable} "
                f"beside them, such as {without[0].layers[name].path} ({label(np.datetime64(without[0].time))}); leave "
                "them out with a glob, or name the variables that have it with --var"
            )
        rules.append(rule)
    return Trust(tuple(rules), trust.buffer) if rules else None


def _plan_variable(
    name: str, frames: Sequence[Frame], grid: Grid, *, trust: Trust | None, codes: bool, extra: float | None
) -> VariablePlan:
    layers = [scene.layers[name] for frame in frames for scene in frame.scenes if name in scene.layers]
    first = layers[0]
    dtype = _common_dtype(name, layers)
    for layer in layers:
        if (layer.scale, layer.offset) != (first.scale, first.offset):
            raise CubeError(
                f"variable {name!r} needs one scale and offset, but {first.path} has {first.scale:g} and "
                f"{first.offset:g}, and {layer.path} has {layer.scale:g} and {layer.offset:g}; bring them to one first"
            )
    nodata = _common_nodata(name, layers, dtype, extra)
    why = _why_nodata(name, frames, layers, grid, trust) if nodata is None else None
    if why is not None:
        fill = CLEAR_CODES["no_data"] if tells_clear(first.attrs) else _product_fill(name, dtype)
        if fill is None:
            raise CubeError(
                f"{why}, and its type {dtype} has no nodata to say so; give one with --nodata VALUE, or --nodata "
                f"{name}=VALUE for it alone"
            )
        nodata = fill
    for layer in layers:
        if layer.nodata is not None or nodata is None or _holds(np.dtype(layer.dtype), nodata):
            continue
        if not grid.covered_by(layer.grid):
            raise CubeError(
                f"{layer.path} does not cover the cube, and its type {layer.dtype} can't hold the nodata {nodata:g} of "
                f"variable {name!r}; choose another with --nodata {name}=VALUE"
            )
    return VariablePlan(
        name=name,
        dtype=dtype.name,
        nodata=nodata,
        extra_nodata=extra,
        scale=first.scale,
        offset=first.offset,
        attrs=_common_attrs(layers),
        codes=codes,
        trust=trust,
    )


def _why_nodata(
    name: str, frames: Sequence[Frame], layers: Sequence[Layer], grid: Grid, trust: Trust | None
) -> str | None:
    """Return why a variable needs a nodata, if it does."""
    absent = [frame for frame in frames if not any(name in scene.layers for scene in frame.scenes)]
    if absent:
        date = label(np.datetime64(absent[0].time))
        return f"variable {name!r} has no file on {len(absent)} of {len(frames)} dates ({date})"
    covers = {one: grid.covered_by(one) for one in {layer.grid for layer in layers}}
    part = next((layer for layer in layers if not covers[layer.grid]), None)
    if part is not None:
        moved = "is to be warped" if grid.offset_in(part.grid) is None else "does not cover the cube"
        return f"{part.path} {moved}, so that variable {name!r} may have gaps"
    return f"variable {name!r} loses samples to rules" if trust is not None else None


def _common_attrs(layers: Sequence[Layer]) -> dict[str, JSON]:
    """Return the attributes in which no layer contradicts the first that has them."""
    attrs: dict[str, JSON] = {}
    conflicts: set[str] = set()
    for layer_attrs in {id(layer.attrs): layer.attrs for layer in layers}.values():
        for key, value in layer_attrs.items():
            if attrs.setdefault(key, value) != value:
                conflicts.add(key)
    return {key: value for key, value in attrs.items() if key not in conflicts or key == "units"}


def _common_dtype(name: str, layers: Sequence[Layer]) -> np.dtype[Any]:
    """Return the type that holds all samples of a variable exactly."""
    by_type = {np.dtype(layer.dtype): layer for layer in layers}
    common = np.result_type(*by_type)
    for dtype, layer in by_type.items():
        if dtype.kind in "iu" and common.kind == "f":
            other = next(o for d, o in by_type.items() if d != dtype)
            raise CubeError(
                f"variable {name!r} has several types that have no common one: {dtype} in {layer.path}, {other.dtype} "
                f"in {other.path}; convert them first: gdal_translate -ot"
            )
    return common


def _common_nodata(name: str, layers: Sequence[Layer], dtype: np.dtype[Any], extra: float | None) -> float | None:
    if dtype.kind == "f":
        return float("nan")
    if extra is not None:
        if not _holds(dtype, extra):
            raise OptionError(f"--nodata {extra:g} can't be stored in variable {name!r}, whose type is {dtype}")
        return int(extra)
    stated = {layer.nodata: layer for layer in layers if layer.nodata is not None and _holds(dtype, layer.nodata)}
    if len(stated) > 1:
        (a, one), (b, other) = list(stated.items())[:2]
        raise CubeError(
            f"variable {name!r} needs one nodata, but {one.path} has {a:g} and {other.path} has {b:g}; choose one with "
            "--nodata, and both will become it"
        )
    return int(next(iter(stated))) if stated else None


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and value == np.rint(value) and limits.min <= value <= limits.max
