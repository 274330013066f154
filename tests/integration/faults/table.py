"""The table of faults and outcomes, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.faults.plan import Fault

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
"""Between these two lines of a page the table stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one fault."""

    name: str
    """The fault's own name."""

    state: str
    """`passed`, `failed`, `skipped` or `known`."""

    codes: tuple[int, ...] = ()
    """Exit codes of the runs that met it."""

    said: str = ""
    """The last thing that was said by them."""

    resumed: str = ""
    """What the run that went on came to."""

    why: str = ""
    """Why it was skipped, failed or is known to fail."""


def save(outcome: Outcome, folder: Path) -> None:
    """Keep an outcome, so that a table can be made of several sessions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_slug(outcome.name)}.json").write_text(json.dumps(asdict(outcome)))


def load(folder: Path, faults: Iterable[Fault]) -> list[Outcome]:
    """Return the outcomes that were kept of some faults."""
    found = []
    for fault in faults:
        path = folder / f"{_slug(fault.name)}.json"
        if path.is_file():
            kept = json.loads(path.read_text())
            found.append(Outcome(**{**kept, "codes": tuple(kept["codes"])}))
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(faults: Sequence[Fault], outcomes: Sequence[Outcome]) -> str:
    """Return a row for each kind of fault, and a line of totals."""
    known = {outcome.name: outcome for outcome in outcomes}
    rows = ["| fault | times | in | exit codes | what was said | then |", "| --- | ---: | --- | --- | --- | --- |"]
    for kind in dict.fromkeys(fault.kind for fault in faults):
        mine = [fault for fault in faults if fault.kind == kind]
        ends = [known[fault.name] for fault in mine if fault.name in known]
        rows.append(
            f"| {kind} | {len(mine)} | {_stages(mine)} | {_codes(ends)} | {_said(ends)} | {_then(mine, ends)} |"
        )
    tried = [outcome for outcome in outcomes if outcome.state == "passed"]
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("failed", "known", "skipped")}
    more = "".join(f", {n} {state}" for state, n in counts.items() if n)
    return "\n".join([*rows, "", f"{len(faults)} faults: {len(tried)} as they should be{more}."])


def _stages(faults: Sequence[Fault]) -> str:
    stages = [fault.stage for fault in faults]
    return ", ".join(f"{stage} ×{n}" if (n := stages.count(stage)) > 1 else stage for stage in dict.fromkeys(stages))


def _codes(outcomes: Sequence[Outcome]) -> str:
    codes = dict.fromkeys(code for outcome in outcomes for code in outcome.codes)
    return ", ".join(f"killed ({-code})" if code < 0 else str(code) for code in codes)


def _said(outcomes: Sequence[Outcome]) -> str:
    words = next((outcome.said for outcome in outcomes if outcome.said), "")
    text = " ".join(re.sub(r"/\S*/", "", words.removeprefix("stpipe: error: ")).split()).replace("|", "\\|")
    return text if len(text) < 200 else f"{text[:150]} … {text[-48:]}"


def _then(faults: Sequence[Fault], outcomes: Sequence[Outcome]) -> str:
    words = [outcome.resumed for outcome in outcomes if outcome.state == "passed"]
    words += [f"{outcome.state}: {outcome.why}" for outcome in outcomes if outcome.state != "passed"]
    missing = len(faults) - len(outcomes)
    return "; ".join(dict.fromkeys([*words, *([f"{missing} not tried"] if missing else [])]))


def write(path: Path, text: str) -> None:
    """Put the table into a page, in place of the one there."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{path} has no lines {BEGIN} and {END} for the table to stand between"
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
