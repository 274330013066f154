"""Quality layers of real products: which values and bits mean what, each entry with its source.

A product's layer is a list of parts, such as cloud or snow. Those that are dropped unless told otherwise are marked;
others can be added, and these taken away: ``s2-scl:+dark,-snow``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from stpipe.core.conditions import AnyOf, Bits, Comparison, Field, Flags, Test, Values, parse_test
from stpipe.core.trust import Rule, Trust, parse_rule, plain_name
from stpipe.errors import OptionError


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a quality layer tells."""

    name: str
    """What to call it behind + and -."""

    test: str
    """Where it says so, as a rule's text behind the colon."""

    dropped: bool = True
    """Whether it is dropped unless told otherwise."""

    missing: bool = False
    """Whether it means that nothing was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The quality layer of one product."""

    title: str
    """What it is."""

    source: str
    """The document that defines it."""

    variables: tuple[str, ...]
    """Names it goes by, in any case."""

    parts: tuple[Part, ...] = ()
    """What it tells, if it is made of codes or bits."""

    kept: Comparison | None = None
    """What is kept, if it is a measure of quality."""

    lookalike: str = ""
    """Another product, whose layer would be unclear everywhere if it were taken for this one's."""


def _fill(test: str) -> Part:
    return Part("fill", test, missing=True)


_C2_GUIDE = (
    "USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide (LSDS-1619), Pixel Quality Assessment (QA_PIXEL); "
    "https://www.usgs.gov/landsat-missions/landsat-collection-2-quality-assessment-bands"
)
_C1_GUIDE = (
    "USGS, Landsat 8 Collection 1 Land Surface Reflectance Code Product Guide (LSDS-1368) and Landsat 4-7 Collection 1 "
    "Surface Reflectance Product Guide (LSDS-1370), Pixel Quality Assessment (pixel_qa)"
)
_C1_LEVEL1 = (
    "USGS, Landsat Collection 1 Level 1 Quality Assessment Band; "
    "https://www.usgs.gov/land-resources/nli/landsat/landsat-collection-1-level-1-quality-assessment-band"
)
# The bits of OLCI's Level 2 flags are not the same in all its versions: CLOUD of the land product was bit 3, and is
# bit 4. So they are found by the names that the files give them.
_OLCI_LEVEL2 = (
    "ESA, Sentinel-3 OLCI technical guide, Level 2 water quality and science flags; "
    "https://sentinel.esa.int/web/sentinel/technical-guides/sentinel-3-olci/level-2/quality-and-science-flags-op; "
    "what is dropped: flags that EUMETSAT recommends to leave out of validations"
)
_OLCI_LAND = (
    "ESA, Sentinel-3 OLCI technical guide, Level 2 land quality and science flags; "
    "https://sentinel.esa.int/web/sentinel/technical-guides/sentinel-3-olci/level-2/quality-and-science-flags-lp; "
    "what is dropped: what SNAP calls the recommendation of the quality working group, LQSF_GENERAL_RECOM"
)
_OLCI_LEVEL1 = "ESA, Sentinel-3 OLCI Level 1 products, flag_masks and flag_meanings of quality_flags"
_S5P_README = (
    "ESA, Sentinel-5 Precursor product readme files (S5P-MPC-SRON-PRF-CO and those beside it), recommendations for "
    "data usage; https://sentiwiki.copernicus.eu/web/s5p-products"
)

PRODUCTS: Mapping[str, Product] = {
    "s2-scl": Product(
        title="Sentinel-2 Level-2A scene classification (SCL)",
        source="ESA, Sen2Cor Configuration and User Manual (S2-PDGS-MPC-L2A-SUM), scene classification; "
        "http://step.esa.int/thirdparties/sen2cor/2.9.0/docs/S2-PDGS-MPC-L2A-SUM-V2.9.0.pdf",
        variables=("SCL", "scene_classification"),
        parts=(
            _fill("0"),
            Part("saturated", "1"),
            Part("dark", "2", dropped=False),
            Part("shadow", "3"),
            Part("vegetation", "4", dropped=False),
            Part("bare", "5", dropped=False),
            Part("water", "6", dropped=False),
            Part("unclassified", "7", dropped=False),
            Part("cloud-medium", "8"),
            Part("cloud-high", "9"),
            Part("cirrus", "10"),
            Part("snow", "11"),
        ),
    ),
    "landsat-c2": Product(
        title="Landsat Collection 2 QA_PIXEL",
        source=_C2_GUIDE,
        variables=("QA_PIXEL", "pixel_quality"),
        # Of Collection 1, each sample that is seen has one of the bits 1 to 5: clear, water, shadow, snow or cloud.
        lookalike="landsat-c1",
        parts=(
            _fill("bits=0"),
            Part("dilated", "bits=1"),
            Part("cirrus", "bits=2"),
            Part("cloud", "bits=3"),
            Part("shadow", "bits=4"),
            Part("snow", "bits=5"),
            Part("water", "bits=7", dropped=False),
            Part("cloud-medium", "bits=8-9:2-3", dropped=False),
            Part("cloud-high", "bits=8-9:3", dropped=False),
            Part("shadow-high", "bits=10-11:3", dropped=False),
            Part("snow-high", "bits=12-13:3", dropped=False),
            Part("cirrus-high", "bits=14-15:3", dropped=False),
        ),
    ),
    "landsat-c1": Product(
        title="Landsat Collection 1 surface reflectance, pixel_qa",
        source=_C1_GUIDE,
        variables=("pixel_qa",),
        parts=(
            _fill("bits=0"),
            Part("water", "bits=2", dropped=False),
            Part("shadow", "bits=3"),
            Part("snow", "bits=4"),
            Part("cloud", "bits=5"),
            Part("cloud-medium", "bits=6-7:2-3", dropped=False),
            Part("cloud-high", "bits=6-7:3", dropped=False),
            Part("cirrus-medium", "bits=8-9:2-3", dropped=False),
            Part("cirrus", "bits=8-9:3"),
            Part("terrain", "bits=10", dropped=False),
        ),
    ),
    "landsat-c1-bqa": Product(
        title="Landsat Collection 1 Level 1, BQA",
        source=_C1_LEVEL1,
        variables=("BQA",),
        parts=(
            _fill("bits=0"),
            Part("terrain", "bits=1", dropped=False),
            Part("saturated", "bits=2-3:1-3", dropped=False),
            Part("cloud", "bits=4"),
            Part("cloud-medium", "bits=5-6:2-3", dropped=False),
            Part("cloud-high", "bits=5-6:3", dropped=False),
            Part("shadow-medium", "bits=7-8:2-3", dropped=False),
            Part("shadow", "bits=7-8:3"),
            Part("snow-medium", "bits=9-10:2-3", dropped=False),
            Part("snow", "bits=9-10:3"),
            Part("cirrus-medium", "bits=11-12:2-3", dropped=False),
            Part("cirrus", "bits=11-12:3"),
        ),
    ),
    "hls-fmask": Product(
        title="Harmonized Landsat Sentinel-2 (HLS) version 2.0, Fmask",
        source="NASA, Harmonized Landsat Sentinel-2 (HLS) Product User Guide version 2.0, section 6.4, quality "
        "assessment layer; https://lpdaac.usgs.gov/documents/1698/HLS_User_Guide_V2.pdf",
        variables=("Fmask",),
        parts=(
            _fill("255"),
            Part("cirrus", "bits=0"),
            Part("cloud", "bits=1"),
            Part("adjacent", "bits=2"),
            Part("shadow", "bits=3"),
            Part("snow", "bits=4"),
            Part("water", "bits=5", dropped=False),
            Part("aerosol-moderate", "bits=6-7:2-3", dropped=False),
            Part("aerosol-high", "bits=6-7:3", dropped=False),
        ),
    ),
    "mod13-reliability": Product(
        title="MODIS vegetation indices (MOD13, MYD13), pixel reliability",
        source="Didan et al., MODIS Vegetation Index User's Guide (MOD13 series), pixel reliability; "
        "https://lpdaac.usgs.gov/documents/621/MOD13_User_Guide_V61.pdf",
        variables=(
            "pixel_reliability",
            "SummaryQA",
            "250m_16_days_pixel_reliability",
            "_250m_16_days_pixel_reliability",
            "250m 16 days pixel reliability",
            "500m 16 days pixel reliability",
            "1 km 16 days pixel reliability",
        ),
        parts=(
            _fill("-1,255"),  # 255 is -1 where the signed byte was written as an unsigned one
            Part("marginal", "1", dropped=False),
            Part("snow", "2"),
            Part("cloud", "3"),
        ),
    ),
    "mod09-state": Product(
        title="MODIS surface reflectance (MOD09, MYD09), state QA at 500 m and 1 km",
        source="Vermote et al., MODIS Surface Reflectance User's Guide, Collection 6, state QA; "
        "https://lpdaac.usgs.gov/documents/925/MOD09_User_Guide_V61.pdf",
        variables=("sur_refl_state_500m", "state_1km", "state_1km_1", "StateQA", "sur_refl_state"),
        parts=(
            _fill("65535"),
            Part("cloud", "bits=0-1:1"),
            Part("mixed", "bits=0-1:2"),
            Part("shadow", "bits=2"),
            Part("aerosol-high", "bits=6-7:3", dropped=False),
            Part("cirrus-small", "bits=8-9:1", dropped=False),
            Part("cirrus", "bits=8-9:2-3"),
            Part("cloud-internal", "bits=10"),
            Part("fire", "bits=11", dropped=False),
            Part("snow", "bits=12"),
            Part("adjacent", "bits=13"),
            Part("snow-internal", "bits=15"),
        ),
    ),
    "s5p": Product(
        title="Sentinel-5P: CO, CH4, HCHO",
        source=_S5P_README,
        variables=("qa_value",),
        kept=Comparison(">", 0.5),
    ),
    "s5p-no2": Product(
        title="Sentinel-5P: tropospheric NO2",
        source="KNMI, Sentinel-5 Precursor NO2 product readme file (S5P-MPC-KNMI-PRF-NO2) and product user manual "
        "(S5P-KNMI-L2-0021-MA): the filter for most users",
        variables=("qa_value",),
        kept=Comparison(">", 0.75),
    ),
    "s5p-aai": Product(
        title="Sentinel-5P: aerosol index",
        source=_S5P_README,
        variables=("qa_value",),
        kept=Comparison(">", 0.8),
    ),
    "s3-olci": Product(
        title="Sentinel-3 OLCI Level 2, water (WQSF)",
        source=_OLCI_LEVEL2,
        variables=("WQSF", "WQSF_lsb"),
        parts=(
            _fill("flags=INVALID"),
            Part("land", "flags=LAND"),
            Part("cloud", "flags=CLOUD"),
            Part("cloud-ambiguous", "flags=CLOUD_AMBIGUOUS"),
            Part("cloud-margin", "flags=CLOUD_MARGIN"),
            Part("snow", "flags=SNOW_ICE"),
            Part("inland-water", "flags=INLAND_WATER", dropped=False),
            Part("tidal", "flags=TIDAL", dropped=False),
            Part("cosmetic", "flags=COSMETIC"),
            Part("suspect", "flags=SUSPECT"),
            Part("high-sun-zenith", "flags=HISOLZEN"),
            Part("saturated", "flags=SATURATED"),
            Part("glint-corrected", "flags=MEGLINT", dropped=False),
            Part("glint", "flags=HIGHGLINT"),
            Part("whitecaps", "flags=WHITECAPS"),
            Part("correction-failed", "flags=AC_FAIL"),
        ),
    ),
    "s3-olci-land": Product(
        title="Sentinel-3 OLCI Level 2, land (LQSF)",
        source=_OLCI_LAND,
        variables=("LQSF",),
        parts=(
            _fill("flags=INVALID"),
            Part("water", "flags=WATER", dropped=False),
            Part("cloud", "flags=CLOUD"),
            Part("cloud-ambiguous", "flags=CLOUD_AMBIGUOUS"),
            Part("cloud-margin", "flags=CLOUD_MARGIN"),
            Part("snow", "flags=SNOW_ICE"),
            Part("inland-water", "flags=INLAND_WATER", dropped=False),
            Part("tidal", "flags=TIDAL", dropped=False),
            Part("cosmetic", "flags=COSMETIC", dropped=False),
            Part("suspect", "flags=SUSPECT", dropped=False),
            Part("high-sun-zenith", "flags=HISOLZEN", dropped=False),
            Part("saturated", "flags=SATURATED", dropped=False),
        ),
    ),
    "s3-olci-l1": Product(
        title="Sentinel-3 OLCI Level 1, quality_flags; it knows no cloud, but what is bright",
        source=_OLCI_LEVEL1,
        variables=("quality_flags",),
        parts=(
            _fill("bits=25"),
            Part("saturated", "bits=0-20", dropped=False),
            Part("dubious", "bits=21"),
            Part("glint", "bits=22", dropped=False),
            Part("duplicated", "bits=23", dropped=False),
            Part("cosmetic", "bits=24"),
            Part("straylight", "bits=26", dropped=False),
            Part("bright", "bits=27"),
            Part("land", "bits=31", dropped=False),
        ),
    ),
}
"""The products, by the names that ``--qa`` takes."""

_QA = re.compile(r"\s*([^:=]+?)\s*(?::\s*([^=]*?)\s*)?(?:=\s*(.+?)\s*)?")


def parse_qa(text: str) -> tuple[Rule, ...]:
    """Return the rules of a product: what tells fill, and what tells the rest, or what is to be kept.

    Parameters
    ----------
    text : str
        ``NAME``, ``NAME=VAR`` for another variable than the product's usual one, ``NAME:+PART,-PART`` to drop more or
        less; a part is named, or given by its value where the layer is a list of values.

    Raises
    ------
    OptionError
        If there is no such product, or it has no such part.

    Examples
    --------
    >>> [rule.test for rule in parse_qa("s2-scl:+dark,-snow")]
    [Values(ranges=((0, 0),)), Values(ranges=((1, 3), (8, 10)))]
    >>> [rule.test for rule in parse_qa("s5p=quality")], parse_qa("s5p=quality")[0].variable
    ([Comparison(operator='>', value=0.5)], 'quality')
    """
    match = _QA.fullmatch(text)
    name = "" if match is None else match[1].lower()
    if match is None or name not in PRODUCTS:
        having = [known for known in PRODUCTS if name in known] if name else []
        near = having or get_close_matches(name, PRODUCTS, n=1)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise OptionError(
            f"--qa {text!r} is NAME, NAME=VAR or NAME:+PART,-PART of a product; {hint}there are {', '.join(PRODUCTS)}"
        )
    product = PRODUCTS[name]
    variable, also = (match[3], ()) if match[3] else (product.variables[0], product.variables[1:])
    others = _others(product)
    if product.kept is not None:
        if match[2] is not None:
            raise OptionError(f"--qa {text!r}: {name} is a comparison without parts; another one goes with --keep")
        return (Rule(variable=variable, test=product.kept, keep=True, text=f"--qa {text}", also=also, others=others),)
    parts = _chosen_parts(product, name, match[2], text)
    rules = []
    for missing in (True, False):
        tests = [parse_test(part.test) for part in parts if part.missing is missing]
        if tests:
            rules.append(
                Rule(
                    variable=variable,
                    test=_joined(tests),
                    keep=False,
                    text=f"--qa {text}",
                    also=also,
                    missing=missing,
                    others=others,
                    lookalike="" if missing else product.lookalike,
                )
            )
    return tuple(rules)


def _others(product: Product) -> tuple[tuple[str, str], ...]:
    """Return the names of layers that belong to other products alone, each with its product."""
    own = {plain_name(name) for name in product.variables}
    pairs = ((name, key) for key, other in PRODUCTS.items() for name in other.variables)
    return tuple((name, key) for name, key in pairs if plain_name(name) not in own)


def parse_trust(
    qa: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    buffer: int = 0,
) -> Trust | None:
    """Return what was typed as rules; None if there was nothing.

    Parameters
    ----------
    qa : str or sequence of str
        Products, see `parse_qa`.
    keep, drop : str or sequence of str
        Rules, see `stpipe.core.trust.parse_rule`.
    buffer : int
        Pixels by which the unclear grows.

    Raises
    ------
    OptionError
        If a product is unknown, a rule can't be read, or there is a buffer and nothing to grow.

    Examples
    --------
    >>> [rule.text for rule in parse_trust([], ["SCL:4"], ["QA:bits=3"], 2).rules]
    ['--keep SCL:4', '--drop QA:bits=3']
    """
    qa, keep, drop = ((texts,) if isinstance(texts, str) else tuple(texts) for texts in (qa, keep, drop))
    rules = [rule for text in qa for rule in parse_qa(text)]
    rules += [parse_rule(text, keep=True) for text in keep]
    rules += [parse_rule(text, keep=False) for text in drop]
    return Trust(tuple(rules), buffer) if rules or buffer else None


def _chosen_parts(product: Product, name: str, changes: str | None, text: str) -> list[Part]:
    """Return the parts to drop."""
    chosen = [part.dropped for part in product.parts]
    for change in () if changes is None else changes.split(","):
        sign, wanted = change.strip()[:1], change.strip()[1:].strip().lower()
        found = [n for n, part in enumerate(product.parts) if wanted in (part.name, part.test)]
        if sign not in ("+", "-") or not found:
            names = ", ".join(part.name for part in product.parts)
            raise OptionError(
                f"--qa {text!r}: {change.strip()!r} is not +PART or -PART; the parts of {name} are {names}"
            )
        chosen[found[0]] = sign == "+"
    if not any(chosen):
        raise OptionError(f"--qa {text!r} leaves nothing to drop; leave it out instead")
    return [part for part, yes in zip(product.parts, chosen, strict=True) if yes]


def _joined(tests: list[Values | Bits | Field | Flags]) -> Test:
    """Return one test that holds where any does; lists become one list, and so do bits and flags."""
    ranges = sorted(pair for test in tests if isinstance(test, Values) for pair in test.ranges)
    bits = sorted(bit for test in tests if isinstance(test, Bits) for bit in test.bits)
    flags = [name for test in tests if isinstance(test, Flags) for name in test.names]
    joined: list[Values | Bits | Field | Flags] = [test for test in tests if isinstance(test, Field)]
    if flags:
        joined.insert(0, Flags(tuple(flags), some=True))
    if bits:
        joined.insert(0, Bits(tuple(bits)))
    if ranges:
        listed = parse_test(",".join(f"{first}-{last}" for first, last in ranges))
        joined.insert(0, listed)
    return joined[0] if len(joined) == 1 else AnyOf(tuple(joined))
