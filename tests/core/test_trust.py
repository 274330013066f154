"""Rules on what to trust: slow loops over single samples are the oracle, and SciPy's distances that of the buffer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.conditions import Bits, Comparison, Field, Values
from stpipe.core.ports import VariableInfo
from stpipe.core.qa_products import PRODUCTS, parse_qa, parse_trust
from stpipe.core.trust import Rule, Trust, grown, judge, parse_rule, remarks, trusted
from stpipe.errors import OptionError


def info_of(dtype: str, name: str = "QA", **more: Any) -> VariableInfo:
    return VariableInfo(name=name, dtype=dtype, chunks=(1, 1, 1), **more)


def judged_by(rules: tuple[Rule, ...], values: list[float], dtype: str, **more: Any) -> list[bool]:
    """Return which of some stored values of one variable are trusted."""
    info = info_of(dtype, **more)
    samples = np.array(values).astype(dtype).reshape(1, 1, -1)
    resolved = Trust(tuple(Rule(variable="QA", test=r.test, keep=r.keep, text="", missing=r.missing) for r in rules))
    return trusted(resolved, {"QA": samples}, {"QA": info}).ravel().tolist()


def kept(text: str, values: list[float], dtype: str = "uint8", **more: Any) -> list[float]:
    """Return the stored values that a keep rule lets through."""
    trust = judged_by((parse_rule(text, keep=True),), values, dtype, **more)
    return [value for value, yes in zip(values, trust, strict=True) if yes]


# --- one sample at a time ------------------------------------------------------------------------------------------


def holds(test: Any, number: int, width: int) -> bool:
    """Whether a stored integer passes a test, by the binary digits that Python writes."""
    digits = format(number % 2**width, f"0{width}b")[::-1]
    if isinstance(test, Values):
        return any(number in range(first, last + 1) for first, last in test.ranges)
    if isinstance(test, Bits):
        return any(digits[bit] == "1" for bit in test.bits)
    field = int(digits[test.first : test.last + 1][::-1], 2)
    return any(field in range(first, last + 1) for first, last in test.ranges)


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int64")


@st.composite
def integer_rules(draw: st.DrawFn) -> tuple[str, list[Rule]]:
    dtype = draw(st.sampled_from(DTYPES))
    top = 8 * np.dtype(dtype).itemsize - 1
    rules = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["values", "bits", "field"]))
        numbers = draw(st.lists(st.integers(-20, 20), min_size=1, max_size=4))
        if kind == "values":
            text = ",".join(f"{n}-{n + draw(st.integers(0, 9))}" if draw(st.booleans()) else str(n) for n in numbers)
        elif kind == "bits":
            text = "bits=" + ",".join(str(abs(n) % (top + 1)) for n in numbers)
        else:
            first = draw(st.integers(0, min(top, 30)))
            last = draw(st.integers(first, min(top, first + 4)))
            text = f"bits={first}-{last}:" + ",".join(str(abs(n) % 2 ** (last - first + 1)) for n in numbers)
        rules.append(parse_rule(f"QA:{text}", keep=draw(st.booleans())))
    return dtype, rules


@given(integer_rules(), st.integers(0, 2**32), st.booleans())
def test_rules_combine_as_a_loop_over_samples_says(drawn: tuple[str, list[Rule]], seed: int, nodata: bool) -> None:
    dtype, rules = drawn
    rng = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    small = rng.integers(max(-25, limits.min), 25, (2, 5, 6))
    wide = rng.integers(limits.min, limits.max, (2, 5, 6), dtype=dtype, endpoint=True)
    samples = np.where(rng.random((2, 5, 6)) < 0.6, small, wide).astype(dtype)
    info = info_of(dtype, nodata=3 if nodata else None)
    found, counts = judge(Trust(tuple(rules)), {"QA": samples}, {"QA": info})
    width = 8 * np.dtype(dtype).itemsize
    for at, number in np.ndenumerate(samples):
        expected = all(holds(rule.test, int(number), width) == rule.keep for rule in rules)
        assert found[at] == (expected and not (nodata and number == 3)), (number, rules)
    known = [int(n) for n in samples.ravel() if not (nodata and n == 3)]
    assert counts.tolist() == [[sum(holds(r.test, n, width) for n in known), len(known)] for r in rules]


@given(
    st.sampled_from([">=", "<=", "==", "!=", ">", "<"]),
    st.integers(0, 100),
    st.sampled_from([0.01, -0.01, 0.1, 1.0]),
)
def test_a_comparison_is_of_physical_values_and_exact_for_decimals(
    operator: str, hundredths: int, scale: float
) -> None:
    text = f"QA{operator}{hundredths * scale:.10g}"
    compare = {">=": "__ge__", "<=": "__le__", "==": "__eq__", "!=": "__ne__", ">": "__gt__", "<": "__lt__"}[operator]
    order = 1 if scale > 0 else -1
    expected = [n for n in range(101) if getattr(order * n, compare)(order * hundredths)]
    assert kept(text, list(range(101)), scale_factor=scale) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_float_equals_the_number_it_was_written_as(dtype: str) -> None:
    tenths = [n / 10 for n in range(11)]
    assert kept("QA>=0.7", tenths, dtype) == [0.7, 0.8, 0.9, 1.0]
    assert kept("QA==0.7", tenths, dtype) == [0.7]
    assert judged_by((parse_rule("QA<5", keep=True),), [np.nan, 1.0, -9999.0], dtype, nodata=-9999) == [
        False,
        True,
        False,
    ]


def test_a_number_between_stored_ones_is_met_by_none() -> None:
    assert kept("QA==0.5", [0, 1, 2]) == []
    assert kept("QA!=0.5", [0, 1, 2]) == [0, 1, 2]
    assert kept("QA>0.5", [0, 1, 2]) == [1, 2]
    assert kept("QA<-300", [0, 1, 2]) == []
    assert kept("QA>-300", [0, 255]) == [0, 255]


def test_bools_are_read_as_0_and_1() -> None:
    assert judged_by((parse_rule("QA:1", keep=False),), [0, 1], "bool") == [True, False]
    assert judged_by((parse_rule("QA:bits=0", keep=True),), [0, 1], "bool") == [False, True]
    assert judged_by((parse_rule("QA>0.5", keep=True),), [0, 1], "bool") == [False, True]


def test_rules_on_several_variables_have_to_be_met_together() -> None:
    samples = {"A": np.array([[[1, 1, 2, 9]]], dtype="uint8"), "B": np.array([[[0.2, 0.8, 0.8, 0.8]]])}
    infos = {"A": info_of("uint8", "A", nodata=9), "B": info_of("float64", "B")}
    trust = Trust((parse_rule("A:2", keep=False), parse_rule("B>=0.5", keep=True)))
    assert trust.variables == ("A", "B")
    assert trusted(trust, samples, infos).ravel().tolist() == [False, True, False, False]


# --- the buffer ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 14), st.tuples(st.integers(1, 14), st.integers(1, 14)))
def test_growing_reaches_as_far_as_scipy_s_distances(seed: int, radius: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    unclear = rng.random(shape) < rng.choice([0.0, 0.02, 0.1, 0.5])
    expected = np.zeros(shape, dtype=bool)
    if unclear.any():
        # Squared, the distances are whole numbers.
        expected = np.rint(ndimage.distance_transform_edt(~unclear) ** 2) <= radius**2
    np.testing.assert_array_equal(grown(unclear, radius), expected)


@given(st.integers(0, 2**32), st.integers(1, 4), st.data())
def test_a_part_with_its_surroundings_is_judged_as_in_the_whole(seed: int, buffer: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    scl = rng.choice([0, 4, 4, 4, 4, 5, 9], (2, 12, 13)).astype("uint8")
    trust, infos = parse_trust("s2-scl", keep="SCL:4,0,9", buffer=buffer), {"SCL": info_of("uint8", "SCL")}
    assert trust is not None
    whole, counts = judge(trust, {"SCL": scl}, infos)
    top, left = data.draw(st.integers(0, 11)), data.draw(st.integers(0, 12))
    bottom, right = data.draw(st.integers(top + 1, 12)), data.draw(st.integers(left + 1, 13))
    y0, y1, x0, x1 = max(0, top - buffer), min(12, bottom + buffer), max(0, left - buffer), min(13, right + buffer)
    inner = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
    part, some = judge(trust, {"SCL": scl[:, y0:y1, x0:x1]}, infos, inner=inner)
    np.testing.assert_array_equal(part, whole[:, top:bottom, left:right])
    assert (some <= counts).all()
    assert some[0, 1] == part.size


def row(trust: Trust | None, values: list[int], **more: Any) -> str:
    assert trust is not None
    samples = {"SCL": np.array(values, dtype="uint8").reshape(1, 1, -1)}
    found = trusted(trust, samples, {"SCL": info_of("uint8", "SCL", **more)})
    return "".join("x" if yes else "." for yes in found.ravel())


def test_what_is_missing_does_not_grow_whether_the_file_or_the_product_says_so() -> None:
    line = [4, 4, 4, 0, 4, 4, 4, 9, 4, 4]
    assert row(parse_trust("s2-scl", buffer=2), line) == "xxx.x....."
    assert row(parse_trust("s2-scl", buffer=2), line, nodata=0) == "xxx.x....."
    # A rule of one's own tells unclear from clear, and no fill.
    assert row(parse_trust(drop="SCL:0,9", buffer=1), line) == "xx...x...x"
    assert row(parse_trust(keep="SCL:4", buffer=1), line) == "xx...x...x"


# --- products --------------------------------------------------------------------------------------------------------

BITS: dict[str, tuple[str, list[int], list[int]]] = {
    # dtype, values that are trusted by default, values that are not
    "s2-scl": ("uint8", [2, 4, 5, 6, 7], [0, 1, 3, 8, 9, 10, 11]),
    # Clear land 21824, water 21952; then dilated, cirrus, cloud, shadow, snow over land, and fill.
    "landsat-c2": ("uint16", [21824, 21952], [1, 21826, 54596, 22280, 23888, 30048]),
    # Clear land 322, water 324; then shadow 328, snow 336, cloud 352, cloud of high confidence 480, cirrus 834, fill.
    "landsat-c1": ("uint16", [322, 324, 386, 1346], [1, 328, 336, 352, 480, 834]),
    # Clear 2720; then cloud 2800, shadow 2976, snow 3744, cirrus 6816, fill.
    "landsat-c1-bqa": ("uint16", [2720, 2752, 2722, 2724], [1, 2800, 2976, 3744, 6816]),
    # Clear land with low and with high aerosol 64 and 192, water 32; then cirrus, cloud, beside it, shadow, snow.
    "hls-fmask": ("uint8", [0, 64, 192, 32, 96], [255, 1, 2, 4, 8, 16, 66, 68, 72, 80]),
    "mod13-reliability": ("int8", [0, 1], [-1, 2, 3]),
    # Land 8, not set 11, small cirrus 264, fire 2056, high aerosol 200; then cloudy, mixed, shadow, cirrus, internal
    # cloud, snow, beside cloud, internal snow, fill.
    "mod09-state": (
        "uint16",
        [8, 11, 264, 2056, 200],
        [9, 10, 12, 520, 776, 1032, 4104, 8200, 32776, 65535],
    ),
    "s3-olci-l1": ("uint32", [0, 2**31, 2**29, 2**22, 1], [2**25, 2**21, 2**24, 2**27, 2**31 + 2**27]),
}


@pytest.mark.parametrize("name", BITS)
def test_a_product_drops_what_its_document_calls_unclear(name: str) -> None:
    dtype, clear, unclear = BITS[name]
    assert judged_by(parse_qa(name), [*clear, *unclear], dtype) == [True] * len(clear) + [False] * len(unclear)


def flags_info(*names: str, first: int = 0, **more: Any) -> dict[str, Any]:
    """Return attributes of a variable whose flags are bits, from a first one."""
    masks = [1 << bit for bit in range(first, first + len(names))]
    return {"attrs": {"flag_meanings": " ".join(names), "flag_masks": masks, **more}}


OLD = ("INVALID", "WATER", "LAND", "CLOUD", "SNOW_ICE", "INLAND_WATER", "TIDAL", "COSMETIC", "SUSPECT", "HISOLZEN")
NEW = (
    "INVALID", "WATER", "LAND", "COASTLINE", "CLOUD", "CLOUD_AMBIGUOUS", "CLOUD_MARGIN", "SNOW_ICE", "INLAND_WATER",
    "TIDAL", "COSMETIC", "SUSPECT", "HISOLZEN", "SATURATED", "HIGHGLINT", "WHITECAPS", "AC_FAIL",
)  # fmt: skip


@pytest.mark.parametrize("names", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(
    ("product", "clear"),
    [
        ("s3-olci", {"WATER", "COASTLINE", "INLAND_WATER", "TIDAL"}),
        (
            "s3-olci-land",
            {"WATER", "LAND", "COASTLINE", "INLAND_WATER", "TIDAL", "COSMETIC", "SUSPECT", "HISOLZEN", "SATURATED"}
            | {"HIGHGLINT", "WHITECAPS", "AC_FAIL"},
        ),
    ],
)
def test_flags_of_olci_are_found_wherever_the_file_has_them(
    names: tuple[str, ...], product: str, clear: set[str]
) -> None:
    values = [1 << bit for bit in range(len(names))]
    found = judged_by(parse_qa(product), [0, *values], "uint32", **flags_info(*names))
    assert found == [True, *(name in clear for name in names)]


def test_flags_may_be_bits_fields_or_values() -> None:
    drop = parse_rule("QA:flags=cloud,Snow", keep=False)
    bits = flags_info("LAND", "CLOUD", "SNOW", first=2)
    assert judged_by((drop,), [0, 4, 8, 16, 12], "uint8", **bits) == [True, True, False, False, False]
    fields: dict[str, Any] = {"flag_meanings": "clear cloud snow", "flag_masks": [6, 6, 1], "flag_values": [0, 4, 1]}
    assert judged_by((drop,), [0, 2, 4, 6, 3], "uint8", attrs=fields) == [True, True, False, True, False]
    values = {"flag_meanings": "clear cloud snow", "flag_values": [0, 2, -1]}
    assert judged_by((drop,), [0, 1, 2, -1], "int8", attrs=values) == [True, True, False, False]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "QA has no flag_meanings with flag_masks or flag_values to find CLOUD by; give values or bits instead"),
        ({"attrs": {"flag_meanings": "CLOUD SNOW", "flag_masks": [1]}}, "QA has no flag_meanings with flag_masks"),
        (flags_info("LAND", "SNOW"), "QA has no flag CLOUD; it has land, snow"),
    ],
    ids=["none", "too-few", "another"],
)
def test_flags_that_the_file_does_not_name_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Trust((parse_rule("QA:flags=CLOUD", keep=False),)).check({"QA": info_of("uint8", **more)})
    with pytest.raises(OptionError, match="--qa s3-olci-land=QA: QA has no flag"):
        Trust(parse_qa("s3-olci-land=QA")).check({"QA": info_of("uint8", **more)})


def test_quality_values_of_sentinel_5p_are_compared_as_recommended() -> None:
    hundredths = [0, 50, 51, 75, 76, 80, 81, 100]
    for name, least in (("s5p", 51), ("s5p-no2", 76), ("s5p-aai", 81)):
        found = judged_by(parse_qa(name), [*hundredths, 255], "uint8", scale_factor=0.01, nodata=255)
        assert found == [*(value >= least for value in hundredths), False]
    assert judged_by(parse_qa("s5p"), [0.5, 0.51], "float32") == [False, True]


def test_every_product_is_tested_and_names_its_source() -> None:
    assert {*BITS, "s3-olci", "s3-olci-land", "s5p", "s5p-no2", "s5p-aai"} == set(PRODUCTS)
    for product in PRODUCTS.values():
        assert len(product.source) > 40
        assert product.title
        assert product.variables
        assert bool(product.parts) != (product.kept is not None)
        names = [part.name for part in product.parts]
        assert len(set(names)) == len(names)


def test_the_page_on_masks_has_the_table_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "masks.md").read_text(encoding="utf-8")
    for name, product in PRODUCTS.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        _, _, layer, names, dropped, more, _ = (cell.strip() for cell in row.split("|"))
        assert layer == product.title
        assert names == ", ".join(f"`{variable}`" for variable in product.variables)
        for part in product.parts:
            assert (f"{part.name} `{part.test}`" in dropped.split(", ")) == part.dropped or "," in part.test
            assert f"{part.name} `{part.test}`" in (dropped if part.dropped else more)
        assert f"- `{name}`: {product.source}\n" in page


@pytest.mark.parametrize(
    ("text", "trust", "values"),
    [
        ("s2-scl:+dark,+unclassified", "xx...", [4, 5, 2, 7, 11]),
        ("s2-scl:+2,+7,-snow", "xx..x", [4, 5, 2, 7, 11]),
        ("S2-SCL:-cirrus", "x.x", [10, 9, 7]),
        ("hls-fmask:-snow,+water=SCL", ".x.", [32, 16, 8]),
        ("hls-fmask:+aerosol-high=SCL", "xx.", [64, 128, 192]),
    ],
    ids=["by-name", "by-value", "one-less", "of-another-variable", "a-field"],
)
def test_parts_of_a_product_can_be_added_and_left_in(text: str, trust: str, values: list[int]) -> None:
    assert row(parse_trust(text), values) == trust


def test_confidences_of_landsat_are_fields_of_two_bits() -> None:
    clear = 21824  # confidences of cloud, shadow, snow and cirrus are all low
    medium = clear - (1 << 8) + (2 << 8)
    for text, expected in (("landsat-c2", True), ("landsat-c2:+cloud-medium", False)):
        assert judged_by(parse_qa(text), [clear, medium], "uint16") == [True, expected]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SCL", r"--keep 'SCL' can't be read; a rule is VAR:4,5,8-10 .*VAR:bits=3,4 .*VAR:bits=8-9:2,3 .*VAR>=0.5"),
        (":4", "can't be read"),
        ("SCL:", "'' is neither a whole number nor a range"),
        ("SCL:4,x", "'x' is neither a whole number nor a range"),
        ("SCL:4.5", "'4.5' is neither a whole number"),
        ("SCL:9-3", "the range 9-3 is empty"),
        ("QA:bits", "bits are given as bits=3,4"),
        ("QA:bits=-1", "bits are counted from 0 to 63"),
        ("QA:bits=64", "bits are counted from 0 to 63"),
        ("QA:bits=8-9:4", "a field of 2 bits holds 0 to 3"),
        ("QA:bits=1,3:1", "a field is one run of bits"),
        ("QA:flags", "flags are given as flags=CLOUD,SNOW_ICE"),
        ("QA:flags=", "flags are given as flags=CLOUD,SNOW_ICE"),
        ("QA:flags=CLOUD,,SNOW", "flags are given as"),
        ("qa_value=0.5", "can't be read"),
        ("qa_value>=", "can't be read"),
        ("qa_value>=nan", "can't be read"),
    ],
    ids=lambda text: text[:20],
)
def test_a_rule_that_is_none_is_refused_with_the_forms_there_are(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        parse_rule(text, keep=True)
    assert "VAR:bits=3,4" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s2-slc", "did you mean s2-scl.* there are s2-scl, landsat-c2"),
        ("", "NAME of a product|there are s2-scl"),
        ("s2-scl:dark", "'dark' is not .PART or -PART; the parts of s2-scl are fill, saturated, dark"),
        ("s2-scl:+cloudy", "the parts of s2-scl are"),
        ("s5p:+cloud", "s5p is a comparison without parts"),
        ("mod13-reliability:-fill,-snow,-cloud", "leaves nothing to drop"),
    ],
    ids=["misspelt", "empty", "no-sign", "no-such-part", "no-parts", "nothing-left"],
)
def test_a_product_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_qa(text)


@pytest.mark.parametrize(
    ("text", "dtype", "message"),
    [
        ("QA:bits=3,8", "uint8", "--drop QA:bits=3,8: bit 8 lies beyond QA, whose type uint8 has bits 0 to 7"),
        ("QA:bits=15-16:1", "int16", "bit 16 lies beyond QA"),
        ("QA:bits=3", "float32", "QA is stored as float32, and bits are asked of integers alone"),
        ("QA:3", "float64", "QA is stored as float64, and lists of values are asked of integers alone"),
    ],
)
def test_a_rule_its_variable_can_not_answer_is_refused(text: str, dtype: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Trust((parse_rule(text, keep=False),)).check({"QA": info_of(dtype)})


def test_bits_of_a_product_are_checked_too() -> None:
    trust = parse_trust("landsat-c2:+cirrus-high=QA")
    assert trust is not None
    with pytest.raises(OptionError, match=r"--qa landsat-c2:\+cirrus-high=QA: bit 15 lies beyond QA"):
        trust.check({"QA": info_of("uint8")})


def test_variables_are_found_in_any_case_and_suggested_if_missing() -> None:
    trust = parse_trust("mod13-reliability")
    assert trust is not None
    assert trust.resolved(["NDVI", "SUMMARYQA"]).variables == ("SUMMARYQA",)
    with pytest.raises(OptionError, match=r"the cube has no variable 'pixel_reliability' \(nor SummaryQA"):
        trust.resolved(["NDVI"])
    rules = Trust((parse_rule("SLC:4", keep=True),))
    with pytest.raises(OptionError, match=r"did you mean 'SCL'\? it has B04, SCL"):
        rules.resolved(["B04", "SCL"])
    # Two that differ in case alone have to be named as they are.
    assert Trust((parse_rule("qa:4", keep=True),)).resolved(["qa", "QA"]).variables == ("qa",)
    with pytest.raises(OptionError, match="no variable 'Qa'"):
        Trust((parse_rule("Qa:4", keep=True),)).resolved(["qa", "QA"])


def test_what_decides_the_answers_decides_the_identity() -> None:
    texts: list[dict[str, Any]] = [
        {"keep": "SCL:4"},
        {"drop": "SCL:4"},
        {"keep": "SCL:4,5"},
        {"keep": "QA:4"},
        {"keep": "SCL:4", "buffer": 1},
        {"qa": "s2-scl"},
        {"qa": "s2-scl:+dark"},
    ]
    trusts = [parse_trust(**text) for text in texts]
    identities = [str(trust.identity()) for trust in trusts if trust is not None]
    assert len(set(identities)) == len(texts)
    assert pickle.loads(pickle.dumps(trusts[4])) == trusts[4]
    assert parse_trust() is None


@pytest.mark.parametrize("buffer", [-1, 1001])
def test_a_buffer_beyond_reason_is_refused(buffer: int) -> None:
    with pytest.raises(OptionError, match="--buffer takes 0 to 1000 pixels"):
        parse_trust(keep="SCL:4", buffer=buffer)


def test_a_buffer_needs_something_to_grow() -> None:
    with pytest.raises(OptionError, match="--buffer grows what rules call unclear"):
        parse_trust(buffer=3)


def test_rules_that_match_nothing_or_everything_are_said_aloud() -> None:
    def said(values: NDArray[np.uint8], **rules: Any) -> tuple[str, ...]:
        trust = parse_trust(**rules)
        assert trust is not None
        return remarks(trust, judge(trust, {"SCL": values}, {"SCL": info_of("uint8", "SCL", nodata=0)})[1])

    clear = np.full((2, 3, 3), 4, dtype="uint8")
    mixed = clear.copy()
    mixed[0] = 9
    assert said(mixed, qa="s2-scl", keep="SCL:4") == ()
    assert said(clear, qa="s2-scl") == ("--qa s2-scl matches none of 18 samples, so that it drops nothing",)
    assert said(clear, keep="SCL:4") == ("--keep SCL:4 matches all of 18 samples, so that it drops nothing",)
    assert said(clear, keep="SCL:5") == ("--keep SCL:5 matches none of 18 samples, so that nothing is trusted",)
    assert said(clear, drop="SCL:4") == ("--drop SCL:4 matches all of 18 samples, so that nothing is trusted",)
    assert said(0 * clear, drop="SCL:4") == ("--drop SCL:4: SCL is nodata everywhere, so that nothing is trusted",)


def test_a_rule_has_a_test_of_its_form() -> None:
    assert parse_rule(" SCL : 4 , 5 ", keep=True).test == Values(((4, 5),))
    assert parse_rule("QA:BITS = 3 , 1", keep=True).test == Bits((1, 3))
    assert parse_rule("QA:bits=5:0", keep=True).test == Field(5, 5, ((0, 0),))
    assert parse_rule("a b != -1.5e-3", keep=True).test == Comparison("!=", -1.5e-3)
    assert parse_rule("R:-3--1", keep=True).test == Values(((-3, -1),))


@pytest.mark.parametrize("factor", [0.01, float(np.float32(0.01))], ids=["double", "single"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_comparison_meets_its_number_however_the_factor_is_written(factor: float, sign: int) -> None:
    info = VariableInfo(name="q", dtype="int16", chunks=(1, 1, 1), scale_factor=sign * factor)
    stored = sign * np.arange(101, dtype=np.int16).reshape(1, 1, -1)
    for number in range(101):
        for operator, expected in ((">=", 101 - number), (">", 100 - number), ("==", 1), ("<=", number + 1)):
            rule = parse_rule(f"q{operator}{number / 100}", keep=True)
            assert trusted(Trust((rule,)), {"q": stored}, {"q": info}).sum() == expected
    assert not trusted(Trust((parse_rule("q==0.505", keep=True),)), {"q": stored}, {"q": info}).any()


def test_a_number_beyond_all_is_refused() -> None:
    with pytest.raises(OptionError, match="compares with no finite number"):
        parse_rule("q>=1e999", keep=True)


@pytest.mark.parametrize(
    ("typed", "there", "message"),
    [
        (
            "landsat-c2",
            "pixel_qa",
            r"no variable 'QA_PIXEL' \(nor .* but pixel_qa, which goes with --qa landsat-c1; take",
        ),
        (
            "landsat-c1",
            "QA_PIXEL",
            "no variable 'pixel_qa' .* but QA_PIXEL, which goes with --qa landsat-c2; take that",
        ),
        ("landsat-c1", "qa-pixel", "but qa-pixel, which goes with --qa landsat-c2"),
        ("landsat-c2", "BQA", "but BQA, which goes with --qa landsat-c1-bqa"),
        ("s5p", "SCL", "but SCL, which goes with --qa s2-scl"),
    ],
)
def test_the_rule_of_another_product_is_advised(typed: str, there: str, message: str) -> None:
    trust = parse_trust([typed])
    assert trust is not None
    with pytest.raises(OptionError, match=message):
        trust.resolved(["B04", there])


def test_layers_taken_for_those_of_another_product_are_said() -> None:
    """By their values, where those of Collection 1 are unclear everywhere to the rules of Collection 2; or by name."""
    clear, cloudy = [322, 324, 328, 336, 352], [21824, 22280]
    for typed, name, codes, said in (
        ("landsat-c2=quality", "quality", clear, "nothing is trusted; a layer of --qa landsat-c1 looks like this"),
        ("landsat-c2=SCL", "SCL", clear, "SCL is what the layer of --qa s2-scl is called"),
        ("landsat-c1=QA_PIXEL", "QA_PIXEL", cloudy, "QA_PIXEL is what the layer of --qa landsat-c2 is called"),
        ("landsat-c1", "pixel_qa", clear, None),
        ("landsat-c2", "QA-PIXEL", cloudy, None),
    ):
        trust = parse_trust([typed])
        assert trust is not None
        trust = trust.resolved([name])
        samples = {name: np.array(codes, dtype=np.uint16).reshape(1, 1, -1)}
        counts = judge(trust, samples, {name: VariableInfo(name=name, dtype="uint16", chunks=(1, 1, 1))})[1]
        lines = remarks(trust, counts)
        if said is None:
            assert not any("of --qa landsat" in line for line in lines)
        else:
            assert said in lines[-1]
            assert sum("of --qa" in line for line in lines) == 1
