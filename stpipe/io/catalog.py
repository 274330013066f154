"""What GeoTIFFs there are, when and where: a STAC ItemCollection, for software that loads them by date and place.

Written as a file it stands beside the folder of the GeoTIFFs, and names them relative to itself, so that both can be
moved together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stpipe import __version__
from stpipe.core.ports import JSON
from stpipe.core.samples import SOURCE_CODES
from stpipe.io.footprint import placed
from stpipe.io.frames import SOURCE_COLOURS, holds_sources
from stpipe.io.mosaic import MosaicTask, raster_dtype

EXTENSIONS = (
    # Both proj:code and the older proj:epsg, which much software still looks for.
    "https://stac-extensions.github.io/projection/v1.2.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
"""What gives the fields their meaning."""

CLASSES = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
"""The same of source codes."""


@dataclass(slots=True)
class _Item:
    """What is known of one date, or of a stack of them."""

    dates: tuple[str, ...]
    label: str
    assets: dict[str, Any] = field(default_factory=dict)


def item_collection(
    tasks: Sequence[MosaicTask],
    files: Iterable[Mapping[str, Any]],
    *,
    labels: Sequence[str],
    name: str,
    folder: str,
    about: Mapping[str, JSON] | None = None,
) -> bytes:
    """Return the items of a mosaic as JSON: one for each date, or one for all where files are stacks.

    An asset is a variable, or a variable's source codes. Item and asset fields are those of STAC 1.1 and its
    extensions projection, raster, file, processing and classification (https://stac-extensions.github.io).

    Parameters
    ----------
    tasks : sequence of MosaicTask
        What was written, from `plan_mosaic`.
    files : iterable of mapping
        ``path``, below the folder of the mosaic, ``bytes`` and ``sha256`` of each file.
    labels : (time,) sequence of str
        Name of each frame, see `frame_labels`.
    name : str
        What the identifiers of items begin with.
    folder : str
        Where the files lie, relative to the JSON.
    about : mapping, optional
        More properties of every item.

    Returns
    -------
    bytes
        The same for the same files, whoever wrote them, and wherever they lie.
    """
    import pystac

    known = {str(file["path"]): file for file in files}
    items: dict[str, _Item] = {}
    for task in tasks:
        for number, path in enumerate(task.files):
            frame = task.first + number
            label = f"{labels[frame]}_{labels[frame + len(task.dates) - 1]}" if task.is_stack else labels[frame]
            dates = task.dates if task.is_stack else task.dates[number : number + 1]
            item = items.setdefault(label, _Item(dates=dates, label=label))
            item.assets[task.variable] = _asset(task, known[path], f"./{folder}/{path}", dates)
    place = placed(tasks[0].grid)
    made = []
    for item in sorted(items.values(), key=lambda item: (item.dates[0], item.label)):
        first, last = (_instant(item.dates[at]) for at in (0, -1))
        stack = len(item.dates) > 1
        one = pystac.Item(
            id=f"{name}_{item.label}",
            geometry=place.geometry,
            bbox=place.bbox,
            datetime=None if stack else first,
            start_datetime=first if stack else None,
            end_datetime=last if stack else None,
            properties={**place.properties, "processing:software": {"stpipe": __version__}, **(about or {})},
            stac_extensions=list(EXTENSIONS),
        )
        for key, asset in item.assets.items():
            one.add_asset(key, pystac.Asset.from_dict(asset))
            if "classification:classes" in asset["raster:bands"][0]:
                one.stac_extensions = [*EXTENSIONS, CLASSES]
        made.append(one)
    document = pystac.ItemCollection(made, clone_items=False).to_dict(transform_hrefs=False)
    features = [json.dumps(one, ensure_ascii=False, allow_nan=False) for one in document.pop("features")]
    head = json.dumps(document, ensure_ascii=False, allow_nan=False).removesuffix("}")
    return '{}, "features": [\n{}\n]}}\n'.format(head, ",\n".join(features)).encode()  # a line an item


def _instant(date: str) -> datetime:
    """Return a frame's date; STAC has no more than microseconds."""
    return datetime.fromisoformat(str(np.datetime64(date, "us"))).replace(tzinfo=UTC)


def _asset(task: MosaicTask, file: Mapping[str, Any], href: str, dates: Sequence[str]) -> dict[str, Any]:
    """Return one file as STAC describes it."""
    attrs = task.stored.attrs
    asset: dict[str, Any] = {
        "href": href,
        "title": str(attrs.get("long_name") or task.variable),
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data-mask" if task.is_source else "data"],
        "raster:bands": [_band(task)] * len(dates),
        "file:size": file["bytes"],
        "file:checksum": f"1220{file['sha256']}",  # as a multihash: sha2-256, 32 bytes
    }
    if task.is_stack:
        asset["description"] = "a band for each date"
        asset["bands"] = [{"name": str(number), "description": date} for number, date in enumerate(dates, 1)]
    return asset


def _band(task: MosaicTask) -> dict[str, Any]:
    # rasterio takes a while to load, and a plan has no need of it.
    from stpipe.io.geotiff import file_nodata

    stored, nodata = task.stored, file_nodata(task)
    band: dict[str, Any] = {"data_type": raster_dtype(stored.dtype).name, "sampling": "area"}
    if nodata is not None:
        band["nodata"] = nodata if np.isfinite(nodata) else _spelled(nodata)
    if stored.attrs.get("units"):
        band["unit"] = str(stored.attrs["units"])
    if (stored.scale_factor, stored.add_offset) != (1.0, 0.0):
        band |= {"scale": float(stored.scale_factor), "offset": float(stored.add_offset)}
    if task.is_source and holds_sources(stored):
        band["classification:classes"] = [
            {"value": value, "name": meaning, "color_hint": SOURCE_COLOURS[meaning].removeprefix("#").upper()}
            for meaning, value in SOURCE_CODES.items()
        ]
    return band


def _spelled(value: float) -> str:
    """Return a number that JSON hasn't, as the raster extension spells it.

    >>> _spelled(float("nan")), _spelled(float("-inf"))
    ('nan', '-inf')
    """
    return "nan" if np.isnan(value) else f"{value:f}"
