"""STAC items as layers: one an asset's band; odc-stac reads them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.errors import CubeError, OptionError, ReadError
from stpipe.execution.storage import is_remote, one_line
from stpipe.io.georeference import read_area
from stpipe.io.ingest.files import file_identity
from stpipe.io.ingest.layers import Layer, Want
from stpipe.io.ingest.target import Target, check_degrees, crs_wkt_of_text, moved_box
from stpipe.io.rasters import Grid, open_raster
from stpipe.io.stored import check_plain, local

JSON_SUFFIXES = (".json", ".geojson")
"""What is taken for a file of STAC items."""

_KINDS = frozenset({"FeatureCollection", "Feature", "Catalog", "Collection"})
_AREA = "GeoJSON of an area to cut out goes behind --aoi"


@dataclass(frozen=True, slots=True, kw_only=True)
class StacQuery:
    """What to ask of a STAC API."""

    collections: tuple[str, ...] = ()
    """Collections to search."""

    time: tuple[str | None, str | None] = (None, None)
    """First and last date."""

    assets: frozenset[str] | None = None
    """Names of the assets that will be needed, in lower case; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemBand:
    """One band of one item."""

    item: Any
    """The pystac item."""

    band: str
    """What odc-stac calls it."""

    href: str
    """Where the asset is."""

    dtype: str
    """NumPy dtype of the samples."""

    digest: str
    """Of what the item says."""

    def read(self, want: Want) -> NDArray[Any]:
        """Return the stored samples of a window of the target grid, (y, x)."""
        import odc.stac
        from affine import Affine
        from odc.geo.geobox import GeoBox

        window = want.window
        nodata = want.fill if want.source_nodata is None else want.source_nodata
        asset = self.band.split(".", maxsplit=1)[0]
        told: dict[str, Any] = {"data_type": self.dtype}
        if nodata is not None:
            told["nodata"] = "nan" if np.isnan(nodata) else nodata
        try:
            loaded = odc.stac.load(
                [self.item],
                bands=[self.band],
                geobox=GeoBox(window.shape, Affine(*window.transform), window.crs_wkt),
                resampling=want.resampling,
                stac_cfg={"*": {"assets": {asset: told, "*": {"data_type": self.dtype}}}},
            )
            samples = np.asarray(loaded[self.band].values[0])
        except MemoryError:
            raise
        except Exception as error:
            raise ReadError(f"{self.href} of item {self.item.id} can't be read: {one_line(error)}") from error
        return samples

    def identity(self) -> JSON:
        """Return the asset, and what the item says."""
        return [*file_identity(self.href.removeprefix("file://")), self.band, self.digest]


def _digest(item: Any) -> str:
    return hashlib.sha256(json.dumps(item.to_dict(), sort_keys=True, default=str).encode()).hexdigest()


def is_stac(source: str) -> bool:
    """Whether a source is a file of STAC items, or the address of an API."""
    if source.startswith(("http://", "https://")):
        return not source.lower().endswith((".tif", ".tiff", ".jp2", ".vrt"))
    return Path(source).suffix.lower() in JSON_SUFFIXES


def describe_items(source: str, target: Target, query: StacQuery) -> list[Layer]:
    """Return one layer for each raster band of each item.

    Parameters
    ----------
    source : str
        A JSON file: an ItemCollection, an Item, or a Catalog or Collection with items; or the address of a STAC API.
    target : Target
        Where an API is asked for items.
    query : StacQuery
        Collections and period of an API.
    """
    try:
        import odc.stac
        import pystac  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"{source} holds STAC items, which need the library odc-stac; install it: pip install 'stpipe[stac]'"
        ) from error
    api = is_remote(source) and not source.lower().endswith(JSON_SUFFIXES)
    items = _searched(source, target, query) if api else _from_file(source)
    if not items:
        raise CubeError(f"{source} holds no STAC item" + (" of this place, period and collection" if api else ""))
    try:
        parsed = list(odc.stac.parse_items(items))
    except Exception as error:
        raise CubeError(f"{source} holds items that odc-stac can't read: {one_line(error)}") from error
    layers: list[Layer] = []
    for item, known in zip(items, parsed, strict=True):
        layers += _layers(item, known, target, query.assets)
    if not layers:
        there = ", ".join(sorted({name for item in items for name in item.assets}))
        raise CubeError(f"the items of {source} have no raster assets that were asked for; they have {there or 'none'}")
    return layers


def _from_file(source: str) -> list[Any]:
    import pystac

    if not is_remote(source) and local(source).exists():
        check_plain(local(source))
    try:
        document = pystac.StacIO.default().read_json(source)
    except Exception as error:
        raise CubeError(f"{source} can't be read as JSON: {one_line(error)}") from error
    kind = document.get("type") if isinstance(document, dict) else None
    if kind not in _KINDS:
        hint = f"; {_AREA}" if kind in {"Polygon", "MultiPolygon", "GeometryCollection"} else ""
        raise CubeError(f"{source} is no STAC ItemCollection, Item, Collection or Catalog: its type is {kind!r}{hint}")
    try:
        if kind in {"Catalog", "Collection"}:
            catalog: Any = pystac.read_file(source)
            return list(catalog.get_items(recursive=True))
        single = kind == "Feature"
        items = [pystac.Item.from_dict(document)] if single else list(pystac.ItemCollection.from_dict(document).items)
    except Exception as error:
        if kind in {"Feature", "FeatureCollection"} and not _have_assets(document):
            raise CubeError(f"{source} holds no STAC items, for none has assets; {_AREA}") from error
        raise CubeError(f"{source} holds no valid STAC items: {one_line(error)}") from error
    for item in items:
        for asset in item.assets.values():
            if not is_remote(asset.href) and not Path(asset.href).is_absolute() and item.get_self_href() is None:
                asset.href = pystac.utils.make_absolute_href(asset.href, str(Path(source).absolute()))
    return items


def _have_assets(document: dict[str, Any]) -> bool:
    """Whether a feature, or one of several, has the assets that make it an item."""
    features = document.get("features")
    found = features if isinstance(features, list) else [document]
    return any(isinstance(one, dict) and "assets" in one for one in found)


def _searched(address: str, target: Target, query: StacQuery) -> list[Any]:
    try:
        from pystac_client import Client
    except ImportError as error:
        raise OptionError(
            f"{address} is asked with the library pystac-client; install it: pip install 'stpipe[stac]'"
        ) from error
    if not query.collections:
        raise OptionError(f"a STAC API is asked for a collection; name one of {address} with --collection")
    box = _search_box(target)
    if box is None:
        raise OptionError(f"{address} holds items of the whole world; say where with --bbox or --aoi")
    start, end = query.time
    period = None if query.time == (None, None) else f"{start or '..'}/{end or '..'}"
    try:
        client = Client.open(address)
        return list(client.search(collections=list(query.collections), bbox=box, datetime=period).items())
    except Exception as error:
        raise CubeError(
            f"{address} can't be searched: {one_line(error)}; see that it is the address of a STAC API and can be "
            "reached, or give its items as a file"
        ) from error


def _search_box(target: Target) -> list[float] | None:
    """Return the box to search, in degrees."""
    degrees = crs_wkt_of_text("EPSG:4326", "--bbox-crs")
    if target.bbox is not None:
        source = crs_wkt_of_text(target.bbox_crs, "--bbox-crs")
        check_degrees(target, source, "an EPSG code such as that of a UTM zone")
        return list(moved_box(target.bbox, source, degrees, "--bbox"))
    if target.aoi is None:
        return None
    area = json.loads(read_area(target.aoi, degrees, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "the catalogue"))
    points = np.array([point[:2] for polygon in area["coordinates"] for ring in polygon for point in ring])
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _layers(item: Any, parsed: Any, target: Target, wanted: frozenset[str] | None) -> list[Layer]:
    when = parsed.nominal_datetime
    time = when.astimezone(UTC).replace(tzinfo=None) if when.tzinfo else when
    bands: Mapping[tuple[str, int], Any] = {key: one for key, one in parsed.bands.items() if hasattr(one, "geobox")}
    count = {asset: sum(name == asset for name, _ in bands) for asset, _ in bands}
    digest = _digest(item)
    stack = next((asset for asset, number in count.items() if number > 1 and _are_dates(item.assets[asset])), None)
    if stack is not None:
        raise CubeError(
            f"the asset {stack!r} of item {item.id} holds a band for each date, and ingest takes an item for one date; "
            "give items of single dates, such as of a mosaic with --layout frames, or the filled cube itself"
        )
    layers = []
    for (asset, index), source in sorted(bands.items()):
        variable = asset if count[asset] == 1 else f"{asset}_b{index}"
        if wanted is not None and variable.lower() not in wanted:
            continue  # before its file is looked into
        href = source.uri
        said = _band_facts(item.assets[asset], index)
        facts = said if said.get("data_type") else {**_header(href, index), **said}
        dtype = np.dtype(str(facts["data_type"]))
        nodata = facts.get("nodata")
        layers.append(
            Layer(
                path=str(item.get_self_href() or href),
                variable=variable,
                time=time,
                scene=item.id,
                grid=_grid(item, source, asset, target),
                dtype=dtype.name,
                nodata=None if nodata is None else float(nodata),
                source=ItemBand(
                    item=item,
                    band=asset if index == 1 else f"{asset}.{index}",
                    href=href,
                    dtype=dtype.name,
                    digest=digest,
                ),
                scale=float(facts.get("scale") or 1.0),
                offset=float(facts.get("offset") or 0.0),
                attrs={"units": facts["unit"]} if facts.get("unit") else {},
            )
        )
    return layers


def _are_dates(asset: Any) -> bool:
    """Whether the bands of an asset are described by dates, as `stpipe.io.catalog` does."""
    said = [str(band.get("description") or "") for band in asset.to_dict().get("bands") or ()]
    return bool(said) and all(re.fullmatch(r"\d{4}-\d\d-\d\d(T[\d:.]+)?", one) for one in said)


def _band_facts(asset: Any, index: int) -> dict[str, Any]:
    """Return what an item says of a band's samples, by either version of the raster extension."""
    document = asset.to_dict()
    names = ("data_type", "nodata", "unit", "scale", "offset")
    facts: dict[str, Any] = {}
    for key in ("bands", "raster:bands"):
        listed: Sequence[Mapping[str, Any]] = document.get(key) or ()
        said = {**document, **(listed[index - 1] if len(listed) >= index else {})}
        for name in names:
            value = said.get(name, said.get(f"raster:{name}"))
            if value is not None:
                facts.setdefault(name, value)
    return facts


@lru_cache(maxsize=4096)
def _header_facts(href: str, index: int) -> tuple[tuple[str, Any], ...]:
    with open_raster(Path(href) if not is_remote(href) else href) as source:
        at = index - 1
        facts = {
            "data_type": source.dtypes[at],
            "nodata": source.nodatavals[at],
            "scale": source.scales[at],
            "offset": source.offsets[at],
            "unit": source.units[at],
        }
    return tuple((key, value) for key, value in facts.items() if value is not None)


def _header(href: str, index: int) -> dict[str, Any]:
    """Return what a file says of a band whose item says nothing."""
    return dict(_header_facts(href, index))


def _grid(item: Any, source: Any, asset: str, target: Target) -> Grid:
    box = source.geobox
    if box is not None and box.crs is not None:
        a, b, c, d, e, f = (float(number) for number in tuple(box.transform)[:6])
        wkt = _rasterio_wkt(str(box.crs.to_wkt()))
        return Grid(crs_wkt=wkt, transform=(a, b, c, d, e, f), shape=tuple(box.shape.yx))
    if target.crs is None or target.resolution is None or item.bbox is None:
        raise CubeError(
            f"item {item.id} does not say CRS, shape and transform of its asset {asset!r} (proj:code, proj:shape, "
            "proj:transform), so the cube's grid can't be told; give --crs and --resolution"
        )
    west, south, east, north = item.bbox if len(item.bbox) == 4 else (*item.bbox[:2], *item.bbox[3:5])
    return Grid(  # where it is, in one pixel; odc-stac looks into the file for the rest
        crs_wkt=crs_wkt_of_text("EPSG:4326", "--crs"),
        transform=(east - west, 0.0, west, 0.0, south - north, north),
        shape=(1, 1),
    )


@lru_cache(maxsize=64)
def _rasterio_wkt(wkt: str) -> str:
    """Return a CRS as files read by GDAL spell it."""
    from rasterio.crs import CRS

    return str(CRS.from_wkt(wkt).to_wkt())
