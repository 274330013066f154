"""Dates and variables from file names: by a template, a regular expression, or by looking."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from stpipe.errors import CubeError, OptionError

_SHOWN = 3

YEAR_WITHOUT = 2000
"""Year of dates whose template has none; a leap year, so that 29 February is a date."""

_DIRECTIVES = {
    "Y": r"\d{4}",
    "y": r"\d{2}",
    "m": r"\d{1,2}",
    "d": r"\d{1,2}",
    "j": r"\d{1,3}",
    "H": r"\d{1,2}",
    "M": r"\d{1,2}",
    "S": r"\d{1,2}",
    "f": r"\d{1,6}",
    "b": r"[A-Za-z]{3}",
    "B": r"[A-Za-z]+",
    "%": "%",
}
_CLOCK = r"(?:T(?P<H>\d{2})[:\-]?(?P<M>\d{2})(?:[:\-]?(?P<S>\d{2}))?Z?)?"
_LOOKS = (
    re.compile(rf"(?<!\d)(?P<Y>(?:19|20)\d{{2}})(?P<m>\d{{2}})(?P<d>\d{{2}}){_CLOCK}(?!\d)"),
    re.compile(r"(?<!\d)(?P<Y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})(?P<H>\d{2})(?P<M>\d{2})(?P<S>\d{2})(?!\d)"),
    re.compile(rf"(?<!\d)(?P<Y>(?:19|20)\d{{2}})(?P<s>[-_.])(?P<m>\d{{2}})(?P=s)(?P<d>\d{{2}}){_CLOCK}(?!\d)"),
    re.compile(rf"(?<!\d)(?P<Y>(?:19|20)\d{{2}})-?(?P<j>\d{{3}}){_CLOCK}(?!\d)"),
)
_KNOWN_VARIABLE = re.compile(
    r"(?i)(B\d{1,2}A?|SR_B\d+|ST_B\d+|BQA|QA_?\w*|SCL|CLM|CLP|Fmask|pixel_?qa|NIR\d?|RED\d?|GREEN|BLUE|SWIR\d*|TIR\d?|"
    r"RE\d|NDVI|EVI2?|NDWI|NDMI|NBR|SAVI|LAI|FAPAR|LST|SST|ALBEDO|V[VH]|H[VH]|CO|NO2|CHL)"
)
# Names of several parts, as Landsat's Collections have them.
_COMPOUND = re.compile(
    r"(?i)(?<![^_.\s])(?:S[RT]_B\d+|(?:SR_)?QA_(?:PIXEL|RADSAT|AEROSOL)|ST_QA|pixel_qa|radsat_qa)(?![^_.\s])"
)
_RESOLUTION = re.compile(r"\d+m")
_SPLIT = re.compile(r"[_.\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """One file and what its name says."""

    path: Path
    """The file."""

    time: datetime
    """When it was acquired, as far as the name tells."""

    variable: str
    """What it shows."""

    scene: str = ""
    """The rest of the name: files of one time that share it were acquired together."""


def read_names(paths: Sequence[Path], pattern: str | None = None) -> list[NamedFile]:
    """Return date and variable of each file, in the order of paths.

    Parameters
    ----------
    paths : sequence of Path
        The files.
    pattern : str, optional
        A template such as ``{date:%Y%m%d}_{sensor}_{tile}_{variable}.tif``, or a regular expression with a group
        named ``date`` and perhaps one named ``variable``. Without it, the first date in a name counts, and the
        variable is the last part of the names that is a band, or that differs.

    Examples
    --------
    >>> for named in read_names([Path("20230602_L30_B02.tif"), Path("20230607_S30_NIR.tif")]):
    ...     print(named.time.date(), named.variable)
    2023-06-02 B02
    2023-06-07 NIR
    """
    if pattern is None:
        return _by_looking(paths)
    expression, date_format = compile_pattern(pattern)
    found = [(path, _match(expression, path)) for path in paths]
    odd = [path for path, match in found if match is None]
    if odd:
        some = f"the name of {odd[0]} does" if len(odd) == 1 else f"{len(odd)} of {len(paths)} names do"
        raise CubeError(f"{some} not fit --pattern {pattern}{_such_as(odd)}; choose files with a glob or change it")
    named = []
    for path, match in found:
        assert match is not None  # the odd ones were refused
        groups = match.groupdict()
        time = _parse(groups["date"], date_format, path)
        scene = match[0]
        if groups.get("variable"):
            start, stop = (at - match.start() for at in match.span("variable"))
            scene = scene[:start] + scene[stop:]
        named.append(NamedFile(path=path, time=time, variable=_clean(groups.get("variable") or "data"), scene=scene))
    return named


def _such_as(odd: Sequence[Path]) -> str:
    """Return up to three of several files, for a message."""
    return "" if len(odd) == 1 else f", such as {', '.join(path.name for path in odd[:_SHOWN])}"


def has_year(pattern: str | None) -> bool:
    """Whether dates read by a pattern have a year of their own.

    >>> has_year("month_{date:%m}_{variable}.tif")
    False
    """
    if pattern is None or (date := re.search(r"\{date:([^}]*)\}", pattern)) is None:
        return True
    return any(directive in date[1] for directive in ("%Y", "%y"))


def compile_pattern(pattern: str) -> tuple[re.Pattern[str], str | None]:
    """Return the regular expression of a template or expression, and the format of its date; None: any date.

    >>> expression, date_format = compile_pattern("S2_{date:%Y%j}_{variable}.tif")
    >>> expression.fullmatch("S2_2020123_red.tif")["variable"], date_format
    ('red', '%Y%j')
    """
    if "(?P<" in pattern:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise OptionError(f"--pattern is no regular expression: {error} in {pattern!r}") from error
        if "date" not in expression.groupindex:
            raise OptionError(f"--pattern needs a group (?P<date>...), got {pattern!r}")
        return expression, None
    parts: list[str] = []
    date_format: str | None = None
    seen: set[str] = set()
    for number, piece in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if number % 2 == 0:
            parts.append(re.escape(piece).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
            continue
        name, _, spec = piece.partition(":")
        if not name.isidentifier() and name != "":
            raise OptionError(f"--pattern: a field needs a plain name, got {{{piece}}} in {pattern!r}")
        if name == "date":
            date_format = spec or None
            body = _date_expression(spec, pattern) if spec else r"[^/]+?"
        else:
            body = r"[^/]+?"
        repeated, anonymous = name in seen, name in {"", "_"}
        seen.add(name)
        parts.append(f"(?P={name})" if repeated and not anonymous else body if anonymous else f"(?P<{name}>{body})")
    if "date" not in seen:
        raise OptionError(f"--pattern needs a {{date:%Y%m%d}} field, got {pattern!r}")
    return re.compile("".join(parts)), date_format


def _date_expression(date_format: str, pattern: str) -> str:
    pieces = re.split(r"%(.)", date_format)
    expression = ""
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            expression += re.escape(piece)
        elif piece in _DIRECTIVES:
            expression += _DIRECTIVES[piece]
        else:
            known = " ".join(f"%{directive}" for directive in _DIRECTIVES)
            raise OptionError(f"--pattern: {{date}} can't have %{piece}; it can have {known}; got {pattern!r}")
    return expression


def _match(expression: re.Pattern[str], path: Path) -> re.Match[str] | None:
    """Match a name with or without its suffix, or the end of the path if the expression reaches into folders."""
    if "/" in expression.pattern:
        return re.search(f"(?:^|/)(?:{expression.pattern})$", path.as_posix())
    return expression.fullmatch(path.name) or expression.fullmatch(path.stem)


def _parse(text: str, date_format: str | None, path: Path) -> datetime:
    if date_format is None:
        found = next(_dates_in(text), None)
        if found is None:
            raise CubeError(
                f"no date in {text!r}, which --pattern takes from {path}; say how it is written: {{date:%Y%j}}"
            )
        return found[1]
    try:
        if any(directive in date_format for directive in ("%Y", "%y")):
            return datetime.strptime(text, date_format)  # noqa: DTZ007 (file names carry no zone; UTC by convention)
        return datetime.strptime(f"{YEAR_WITHOUT} {text}", f"%Y {date_format}")  # noqa: DTZ007
    except ValueError as error:
        raise CubeError(f"{text!r} in the name of {path} is no date of the form {date_format}") from error


def _dates_in(text: str) -> Iterator[tuple[tuple[int, int], datetime]]:
    """Yield (span, date) of what reads as a date, from left to right."""
    found: dict[tuple[int, int], datetime] = {}
    for look in _LOOKS:
        for match in look.finditer(text):
            time = _date_of(match.groupdict())
            if time is not None and not any(a < match.end() and match.start() < b for a, b in found):
                found[match.span()] = time
    yield from sorted(found.items())


def _date_of(groups: Mapping[str, str | None]) -> datetime | None:
    year = int(groups["Y"] or 0)
    try:
        if groups.get("j"):
            day = int(groups["j"] or 0)
            time = datetime(year, 1, 1) + timedelta(days=day - 1)  # noqa: DTZ001
            if day < 1 or time.year != year:
                return None
        else:
            time = datetime(year, int(groups["m"] or 0), int(groups["d"] or 0))  # noqa: DTZ001
        hour, minute, second = (int(groups.get(key) or 0) for key in "HMS")
        return time.replace(hour=hour, minute=minute, second=second)
    except ValueError:
        return None


# --- without a pattern -------------------------------------------------------------------------------------------


def _by_looking(paths: Sequence[Path]) -> list[NamedFile]:
    times: list[datetime] = []
    rests: list[list[str]] = []
    found = [list(_dates_in(path.stem)) or list(_dates_in(path.parent.name)) for path in paths]
    odd = [path for path, dates in zip(paths, found, strict=True) if not dates]
    if odd:
        where = odd[0] if len(odd) == 1 else f"{len(odd)} of {len(paths)} files"
        raise CubeError(
            f"no date in the name of {where}{_such_as(odd)}; say where it is: --pattern "
            f"'{{date:%Y%m%d}}_{{variable}}{odd[0].suffix}', or leave out with a glob what is no frame"
        )
    for path, dates in zip(paths, found, strict=True):
        times.append(dates[0][1])
        rest = path.stem
        for (start, stop), _ in reversed(list(_dates_in(path.stem))):
            rest = f"{rest[:start]}_{rest[stop:]}"
        rest = _COMPOUND.sub(lambda found: found[0].replace("_", "\0"), rest)
        rests.append([token.strip("-").replace("\0", "_") for token in _SPLIT.split(rest) if token.strip("-")])
    chosen = _variables(rests)
    return [
        NamedFile(path=path, time=time, variable="data" if at is None else _clean(rest[at]), scene=_scene(rest, at))
        for path, time, rest, at in zip(paths, times, rests, chosen, strict=True)
    ]


def _scene(rest: Sequence[str], variable: int | None) -> str:
    """Return what is left of a name without date and variable, and without a resolution such as 10m."""
    parts = [part for number, part in enumerate(rest) if number != variable]
    return "_".join(part for part in parts if not _RESOLUTION.fullmatch(part))


def _variables(rests: Sequence[Sequence[str]]) -> list[int | None]:
    """Return which part of each name, without its date, is the variable; None where none is.

    The last part that is the name of a band counts; if some name has none, the last part (counted from the end) that
    has a letter and differs between names; else the last with a letter.
    """
    known = [
        next((at for at in range(len(rest) - 1, -1, -1) if _KNOWN_VARIABLE.fullmatch(rest[at])), None) for rest in rests
    ]
    if all(at is not None for at in known):
        return known
    by_place: defaultdict[int, set[str]] = defaultdict(set)
    for rest in rests:
        for place, part in enumerate(reversed(rest)):
            by_place[place].add(part)
    shared = min((len(rest) for rest in rests), default=0)
    lettered = [p for p in range(shared) if all(any(c.isalpha() for c in part) for part in by_place[p])]
    differing = [place for place in lettered if len(by_place[place]) > 1]
    chosen = next(iter(differing or lettered), None)
    return [None if chosen is None else len(rest) - 1 - chosen for rest in rests]


def _clean(name: str) -> str:
    """Return a name that can be a folder in a Zarr group."""
    return re.sub(r"[^\w.\-]+", "_", name).strip("._") or "data"
