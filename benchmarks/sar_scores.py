"""Infilling from radar on a real site: errors of `sar`, of what else can lean on radar, and of what needs none.

    python benchmarks/sar_scores.py DATA_FOLDER [--draws 2] [--seed 0] [--quick] [--json FILE]

Makes the 10 m NDVI cube of the WorldCereal site, clouds out by its scene classification, with `stpipe ingest`, and
calls `stpipe evaluate` on it several times with the same seed and draws, so that the same samples are hidden in each: a
call has one set of options for `sar`, and `stack` and `pconv` are scored with radar and without. `--quick` leaves these
two and `guided` out, which take most of the time.

Printed are the mean absolute errors by kind of gap, with the middle 90 % of the bootstrap's differences to `linear`,
those of `sar` by frame, and what each method notes, such as whether radar helps `pconv`, draw by draw. The packaged
weights of `pconv` were trained on the site's first dates; the last column is over the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITE = "worldcereal_s1_s2_l8"
TAIL = "00002806639B424A_32631_2017-08-01_2018-11-30.nc"

LEARNED = 80
"""Dates of the site that the packaged weights were trained on, see `data.split`."""

GUIDE = "GUIDE"
"""Stands for the options that name the radar."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `stpipe evaluate`."""

    words: tuple[str, ...]
    """Its options."""

    rows: dict[str, str]
    """What a row of the table is called, and the method that it is of."""


QUICK = (
    Call(
        ("--method", "sar", GUIDE),
        {name: name for name in ("sar", "sar-shuffled", "linear", "whittaker", "pyramid")},
    ),
    Call(("--method", "sar", GUIDE, "--sar-average", "db"), {"sar --sar-average db": "sar"}),
    Call(("--method", "sar", GUIDE, "--sar-components", "0.1"), {"sar --sar-components 0.1": "sar"}),
)
SLOW = (
    Call(
        ("--method", "guided", "--method", "stack", "--method", "pconv", GUIDE),
        {"guided": "guided", "stack with radar": "stack", "pconv --guide": "pconv"},
    ),
    Call(("--method", "stack", "--method", "pconv"), {"stack": "stack", "pconv": "pconv"}),
)


def stpipe(*words: str | Path) -> str:
    """Return what a command prints."""
    code = "import sys; from stpipe.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def make_cube(folder: Path, made: Path) -> None:
    """Make the NDVI cube; the scene classification stays in it."""
    bands = [folder / SITE / f"S2_L2A_{side}_{TAIL}" for side in ("10m", "20m")]
    index = ("--index", "ndvi=B08,B04", "--drop-bands")
    stpipe("ingest", *bands, "-o", made, "--qa", "s2-scl", "--resolution", "10", *index)


def evaluated(call: Call, cube: Path, radar: Path, draws: int, seed: int) -> dict[str, Any]:
    """Return what `stpipe evaluate --json` says of the cube, and how long it took."""
    words: list[str | Path] = []
    for word in call.words:
        words += ["--guide", radar] if word == GUIDE else [word]
    began = time.perf_counter()
    said = stpipe("evaluate", cube, "--var", "ndvi", *words, "--draws", str(draws), "--seed", str(seed), "--json")
    (found,) = json.loads(said)["variables"]
    seconds = time.perf_counter() - began
    print(f"{seconds:6.0f} s  {' '.join(map(str, call.words))}", file=sys.stderr, flush=True)
    return {**found, "options": call.words, "seconds": round(seconds, 1)}


def table(calls: list[tuple[Call, dict[str, Any]]]) -> list[str]:
    """Return the errors by kind of gap as lines of Markdown."""
    first = calls[0][1]
    groups = ["all", *dict.fromkeys(row["group"] for row in first["rows"] if row["grouping"] == "gap class")]
    samples = {row["group"]: row["samples"] for row in first["rows"]}
    lines = [
        f"| MAE [difference to linear] | {' | '.join(groups)} | later dates |",
        f"| --- |{' ---: |' * (len(groups) + 1)}",
        f"| samples | {' | '.join(f'{samples[group]:,}' for group in groups)} | {_later(first)[1]:,} |",
    ]
    for call, found in calls:
        if {row["group"]: row["samples"] for row in found["rows"]} != samples:
            sys.exit(f"the call with {' '.join(call.words)} compared other samples than the first one")
        for title, method in call.rows.items():
            cells = [_cell(found, method, group) for group in groups]
            lines.append(f"| {title} | {' | '.join(cells)} | {_later(found, method)[0]:.4f} |")
    return lines


def _cell(found: dict[str, Any], method: str, group: str) -> str:
    """Return an error, and its difference's error bars."""
    (mae,) = [row["mae"] for row in found["rows"] if (row["method"], row["group"]) == (method, group)]
    if mae is None:
        return "-"
    apart = [one for one in found["differences"] if (one["method"], one["other"]) == (method, "linear")]
    bars = [(one["difference_low"], one["difference_high"]) for one in apart if one["group"] == group]
    if not bars or None in bars[0]:
        return f"{mae:.4f}"
    low, high = bars[0]
    return f"{mae:.4f} [{low:+.4f}, {high:+.4f}]"


def _later(found: dict[str, Any], method: str = "linear") -> tuple[float, int]:
    """Return the error of a method in the frames that no packaged weights were trained on, and their samples."""
    later = [frame for frame in found["frames"] if frame["frame"] >= LEARNED and frame["samples"]]
    count = sum(frame["samples"] for frame in later)
    return sum(frame["mae"][method] * frame["samples"] for frame in later) / max(count, 1), count


def frames(found: dict[str, Any]) -> list[str]:
    """Return the errors by frame as lines of Markdown."""
    methods = list(found["frames"][0]["mae"])
    lines = [
        f"| frame | clear | hidden | calibrated | {' | '.join(methods)} |",
        f"| --- |{' ---: |' * (3 + len(methods))}",
    ]
    for frame in found["frames"]:
        errors = [frame["mae"][method] for method in methods]
        cells = ["-" if error is None else f"{error:.4f}" for error in errors]
        calibrated = "-" if frame["calibrated"] is None else f"{frame['calibrated']:.0%}"
        about = [frame["date"][:10], f"{frame['clear']:.0%}", f"{frame['hidden']:,}", calibrated]
        lines.append(f"| {' | '.join(about + cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the public data sets")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="sar and simple methods alone")
    parser.add_argument("--json", type=Path, help="write all that was found")
    options = parser.parse_args()
    radar = options.data / SITE / f"S1_GRD-ASCENDING_20m_{TAIL}"
    if not radar.is_file():
        sys.exit(f"there is no {radar}; name the folder that holds {SITE}")
    with tempfile.TemporaryDirectory() as scratch:
        cube = Path(scratch) / "ndvi.zarr"
        make_cube(options.data, cube)
        calls = [
            (call, evaluated(call, cube, radar, options.draws, options.seed))
            for call in (QUICK if options.quick else QUICK + SLOW)
        ]
    if options.json is not None:
        options.json.write_text(json.dumps([found for _, found in calls], indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(calls)), end="\n\n")
    print("\n".join(frames(calls[0][1])), end="\n\n")
    for _, found in calls:
        for note in found["notes"]:
            print(f"{' '.join(found['options'])}: {note}")


if __name__ == "__main__":
    main()
