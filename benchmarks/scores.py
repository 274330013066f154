"""Score every method on data that nothing was trained on, and write the tables: `make scores`.

    python benchmarks/scores.py [DATA] -o FOLDER [--quick] [--only ROW,...] [--methods A,B | --without A,B]
                                [--ablations JSON] [--page docs/scores.md] [--card MODEL_CARD.md]

Nothing is trained here; methods that learn from the cube itself do so on what is left of it, as in any run. What a
method said of the hidden samples is kept in FOLDER for as long as neither its code nor the samples change, so that a
run that was interrupted goes on, and a method that is new is compared with the others on the same samples.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from score_cases import CASES, QUICK, SEED, Case, case_of, small
from score_page import Measured, page

from stpipe.core.comparison import Sums, cluster_frames, clusters_of, groups_of, is_simple
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gap_classes import space_distance
from stpipe.core.ports import Filler, Learner
from stpipe.core.seams import seam_ratio
from stpipe.core.survey import location_and_spread
from stpipe.core.windows import Window, triple
from stpipe.errors import OptionError, StpipeError
from stpipe.methods import METHODS, make_filler

ROOT = Path(__file__).resolve().parent.parent
ABLATIONS = ROOT / "benchmarks" / "ablations.json"
"""What networks without a part of theirs come to; an hour and a half of training, so it is kept."""

UNTUNED = " untuned"
"""Marks the variant of a method with its packaged weights alone."""

DEEP_PX = 16
"""A gap sample farther than this from anything observed in its frame is in a wide gap."""

FILLED = 0.5
"""A method that fills less of a row than this is not compared there."""

TINY = 2**16
"""Scenes are cut to so many samples, about, to see whether the answer follows a change of units."""


def methods_there_are() -> list[str]:
    """Return all methods, and the default with its packaged weights alone where it can be tuned."""
    names = list(METHODS)
    if "tune" in inspect.signature(make_filler).parameters:
        names.insert(1, METHODS[0] + UNTUNED)
    return names


def filler_of(method: str, model: str | None) -> Filler:
    """Return a method or a variant by name; `model` is for the default alone."""
    name = method.removesuffix(UNTUNED)
    options = {"tune": False} if method.endswith(UNTUNED) else {}
    return make_filler(name, model=model if name == METHODS[0] else None, **options)


def imported(path: Path) -> set[Path]:
    """Return the files of this repository that a file imports, anywhere in it, and those that they import."""
    found, new = set(), [path]
    while new:
        source = new.pop()
        if source in found:
            continue
        found.add(source)
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                if not all((ROOT / name.replace(".", "/")).with_suffix(".py").is_file() for name in names):
                    names.append(node.module)  # or else modules of a package are all that is asked of it
            for name in names:
                base = ROOT / name.replace(".", "/")
                new += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
        if source == ROOT / "stpipe/methods/__init__.py":  # it imports the others by name
            new += sorted(source.parent.glob("*.py"))
    return found


def parts_of(filler: object) -> set[type]:
    """Return the types of a method and of all that it is made of, such as the methods that are its guides."""
    found, new = set(), [filler]
    while new:
        part = new.pop()
        if isinstance(part, tuple):
            new += part
        elif is_dataclass(part) and type(part).__module__.startswith("stpipe."):
            found.add(type(part))
            new += [getattr(part, each.name) for each in fields(part)]
    return found


@cache
def version(method: str, model: str | None) -> str:
    """Return a digest of a method's code and weights; what it doesn't import can change without telling."""
    filler = filler_of(method, model)
    made = hashlib.sha256(json.dumps(filler.identity(), sort_keys=True, default=str).encode())
    sources = {source for part in parts_of(filler) for source in imported(Path(inspect.getfile(part)).resolve())}
    for path in sorted(sources):
        made.update(path.read_bytes())
    return made.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One scene in one draw: what is left of it, standardised by what is left."""

    crop: Crop
    """With the hidden samples, to compare with."""

    left: Crop
    """Without them."""

    location: float
    """Physical value = location + spread x standardised one."""

    spread: float
    """See `location`."""

    hidden: NDArray[np.bool_]
    """(time, y, x)."""


def shown(case: Case, *, scale: float = 1.0, offset: float = 0.0) -> list[list[Shown]]:
    """Return each draw's scenes, with values in other units if asked for."""
    draws = []
    for draw in case.hidden:
        scenes = []
        for scene, hidden in zip(case.scenes, draw, strict=True):
            values = scene.values.astype(np.float64) * scale + offset
            location, spread = location_and_spread(values[scene.valid & ~hidden])
            crop = Crop(
                values=np.where(scene.valid, (values - location) / spread, 0).astype(np.float32),
                valid=scene.valid,
                days=scene.days,
                window=Window.of(triple(scene.valid.shape)),
                domain=scene.domain,
            )
            left = crop.without(hidden)
            scenes.append(Shown(crop=crop, left=left, location=location, spread=spread, hidden=hidden))
        draws.append(scenes)
    return draws


def ready(filler: Filler, left: Crop, seed: int) -> Filler:
    """Let a method learn from what is left, and load what it needs."""
    if isinstance(filler, Learner):  # learning fills, for which it has loaded everything
        return filler.taught(filler.learn([left], seed=seed))
    filler.prepare()
    return filler


def score(case: Case, filler: Filler) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Fill what is hidden in a case.

    Returns
    -------
    (2, n) ndarray of float32
        Value and half-width of each hidden sample, physical, in the order of draws and scenes.
    dict
        Seconds of learning and filling, samples filled, the seam ratio, and how constant wide gaps are.
    """
    said, seconds, size = [], [0.0, 0.0], 0
    seam, same, pairs = float("nan"), 0, 0
    for number, draw in enumerate(shown(case)):
        for scene in draw:
            began = time.process_time()  # of one thread: what else runs makes no difference
            taught = ready(filler, scene.left, SEED + number)
            middle = time.process_time()
            made = fill_crop(taught, scene.left)
            seconds[0] += middle - began
            seconds[1] += time.process_time() - middle
            size += made.values.size
            answer = np.stack([made.values, made.half_width])[:, scene.hidden] * np.float64(scene.spread)
            answer[0] += scene.location
            said.append(answer.astype(np.float32))
            deep = (space_distance(scene.left.valid) > DEEP_PX) & np.isfinite(made.values)
            if scene.left.domain is not None:
                deep &= scene.left.domain
            both = deep[:, :, 1:] & deep[:, :, :-1]
            same += int((np.diff(made.values, axis=2) == 0)[both].sum())
            pairs += int(both.sum())
            if number == 0 and np.isnan(seam):
                seam = seam_ratio(taught, scene.left)
    return np.concatenate(said, axis=1), {
        "learning": seconds[0],
        "filling": seconds[1],
        "size": size,
        "seam": seam,
        "same": same / pairs if pairs else float("nan"),
    }


def follows_units(case: Case, filler: Filler) -> float:
    """Return how far the answer is off, in spreads, after values are multiplied by 1000 and 7 is added."""
    answers = []
    for scale, offset in ((1.0, 0.0), (1000.0, 7.0)):
        scene = shown(small(case), scale=scale, offset=offset)[0][0]
        made = fill_crop(ready(filler, scene.left, SEED), scene.left).values[scene.hidden].astype(np.float64)
        answers.append((made * scene.spread + scene.location - offset) / scale / (scene.spread / scale))
    difference = np.abs(answers[0] - answers[1])
    return float(np.nanmax(difference)) if np.isfinite(difference).any() else float("nan")


def file_of(folder: Path, case: Case, method: str, model: str | None) -> Path:
    """Return where a result is kept."""
    key = hashlib.sha256(f"{case.digest()} {version(method, model)}".encode()).hexdigest()[:16]
    return folder / "results" / f"{case.name}--{method.replace(' ', '-')}--{key}.npz"


def work(name: str, method: str, data: Path, path: Path, model: str | None, *, quick: bool = False) -> float:
    """Score one method on one row, unless its file is there; return the seconds it took."""
    began = time.perf_counter()
    if not path.exists():
        case = case_of(name, data, quick=quick)
        try:
            filler = filler_of(method, model)
            said, record = score(case, filler)
            if case.scenes[0].valid.size <= TINY or name == "sst":
                record["units"] = follows_units(case, filler)
        except StpipeError as error:  # the method can't do this row, which is worth knowing, and final
            said, record = np.empty((2, 0), dtype=np.float32), {"refused": str(error)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, said=said, record=np.frombuffer(json.dumps(record).encode(), dtype=np.uint8))
        part.replace(path)
    return time.perf_counter() - began


def gather(case: Case, files: dict[str, Path]) -> Measured:
    """Compare the methods that have a result for a row, on the samples that all of them filled."""
    said, records, left_out = {}, {}, {}
    for method, path in files.items():
        with np.load(path) as stored:
            answer, record = stored["said"], json.loads(stored["record"].tobytes())
        records[method] = record
        share = float(np.isfinite(answer[0]).mean()) if answer.size else 0.0
        if share < FILLED:
            left_out[method] = record.get("refused", f"fills {100 * share:.0f} %")
        else:
            said[method] = answer
    draws = shown(case)
    truth = np.concatenate([s.values[h] for draw in case.hidden for s, h in zip(case.scenes, draw, strict=True)])
    location, spread = location_and_spread(truth.astype(np.float64))
    frames = [cluster_frames(scene.crop) for scene in draws[0]]
    offsets = np.cumsum([0, *(part.size for part in frames)])
    before = np.cumsum([0, *(len(scene.crop.valid) for scene in draws[0])])  # frames of other scenes are other frames
    numbers = np.concatenate([part + first for part, first in zip(frames, before[:-1], strict=True)])
    sums, start = Sums(tuple(said), numbers), 0
    for draw in draws:
        for scene, offset in zip(draw, offsets[:-1], strict=True):
            count = int(scene.hidden.sum())
            part = slice(start, start + count)
            sums.add(
                (truth[part] - location) / spread,
                [((a[0, part] - location) / spread, a[1, part] / spread) for a in said.values()],
                groups_of(scene.left, scene.hidden),
                clusters_of(scene.crop, scene.hidden) + offset,
            )
            start += count
    rows, best = sums.rows(spread, np.random.default_rng(SEED)) if said else ((), None)
    return Measured(case=case, rows=rows, best_simple=best, hidden=truth.size, records=records, left_out=left_out)


def cost(method: str, model: str | None) -> tuple[bool, float]:
    """Return what to sort methods by: cheap ones first, those that need weights or trees last."""
    filler = filler_of(method, model)
    learning = filler.learn_seconds([(100, 100, 100)]) if isinstance(filler, Learner) else 0.0
    return not is_simple(method), filler.seconds_per_million + learning


ERRORS = "## Mean absolute errors"
"""Heading of the page's table of errors."""

BESIDE = "## Beside every method"
"""Heading of the same table in a model card."""


def carded(card: str, text: str) -> str:
    """Put the table of errors of a page of scores into a model card, in place of the one that is there."""
    table = text.split(f"{ERRORS}\n", 1)[1].split("\n## ", 1)[0].rstrip("\n")
    before, _, after = card.partition(f"{BESIDE}\n")
    rest = after.split("\n## ", 1)[1] if "\n## " in after else ""
    return f"{before}{BESIDE}\n{table}\n" + (f"\n## {rest}" if rest else "")


def _chosen(asked: str | None, there: Sequence[str], kind: str) -> list[str]:
    names = list(there) if asked is None else [name.strip() for name in asked.split(",") if name.strip()]
    wrong = [name for name in names if name not in there]
    if wrong or not names:
        raise OptionError(f"no {kind} {', '.join(wrong) or 'given'}; there are {', '.join(there)}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Path(os.environ.get("STPIPE_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("data", type=Path, nargs="?", default=usual, help="folder of the public data")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for results, and for scores.md")
    parser.add_argument(
        "--quick", action="store_true", help=f"one draw, of {', '.join(QUICK)} unless --only says otherwise"
    )
    parser.add_argument("--only", metavar="ROWS", help="rows to score, with commas between them")
    parser.add_argument("--methods", metavar="NAMES", help="methods to score, with commas between them")
    parser.add_argument("--without", metavar="NAMES", help="methods to leave out; the page says so")
    parser.add_argument("--model", help="other weights for the default method")
    parser.add_argument("--ablations", type=Path, default=ABLATIONS, help="what ablations.py wrote, for its tables")
    parser.add_argument("--page", type=Path, help="write the tables of a whole run here too")
    parser.add_argument("--card", type=Path, help="put the table of errors of a whole run into this model card too")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args(arguments)


def _run(jobs: dict[tuple[str, str], Path], options: argparse.Namespace) -> list[str]:
    """Do all jobs, a method and a row each, in processes; return what went wrong."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # one process a core; they read it when they load NumPy
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    wrong, done = [], 0
    context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow in it hangs
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        futures: dict[Future[float], tuple[str, str]] = {
            pool.submit(work, row, method, options.data, path, options.model, quick=options.quick): (row, method)
            for (method, row), path in jobs.items()
        }
        for future in as_completed(futures):
            row, method = futures[future]
            done += 1
            error = future.exception()
            if error is not None:
                wrong.append(f"{method} on {row}: {type(error).__name__}: {error}")
            said = wrong[-1] if error is not None else f"{method} on {row} in {future.result():.1f} s"
            print(f"{done} of {len(futures)}: {said}", file=sys.stderr, flush=True)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, compare, write; 0 if all went well, 1 if some method failed, 2 if there is nothing to score."""
    options = _options(arguments)
    if options.ablations != ABLATIONS and not options.ablations.is_file():
        print(f"--ablations {options.ablations} is no file; ablations.py writes one", file=sys.stderr)
        return 2
    if not options.data.is_dir():
        print(f"no data at {options.data}: set STPIPE_DATA to the folder of the public data sets", file=sys.stderr)
        return 2
    try:
        rows = _chosen(options.only, tuple(CASES), "row") if options.only or not options.quick else list(QUICK)
        methods = _chosen(options.methods, methods_there_are(), "method")
        left_out = _chosen(options.without, methods, "method") if options.without else []
        methods = [name for name in methods if name not in left_out]
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    methods.sort(key=lambda method: cost(method, options.model))
    # Where results go is settled before any work: code that changes meanwhile belongs to the next run.
    cases = {row: case_of(row, options.data, quick=options.quick) for row in rows}
    jobs = {
        (method, row): file_of(options.out, case, method, options.model)
        for method in methods
        for row, case in cases.items()
    }
    wrong = _run(jobs, options)
    measured = []
    for row, case in cases.items():
        files = {method: jobs[method, row] for method in methods if jobs[method, row].exists()}
        if files:
            measured.append(gather(case, files))
    ablations = json.loads(options.ablations.read_text(encoding="utf-8")) if options.ablations.exists() else {}
    text = page(
        measured, default=METHODS[0], untuned=METHODS[0] + UNTUNED, ablations=ablations, without=tuple(left_out)
    )
    (options.out / "scores.md").write_text(text, encoding="utf-8")
    print(text)
    whole = (
        not wrong
        and options.model is None
        and not options.quick
        and (rows, {*methods, *left_out}) == (list(CASES), set(methods_there_are()))
    )
    if options.page is not None and whole:
        options.page.write_text(text, encoding="utf-8")
    if options.card is not None and whole:
        options.card.write_text(carded(options.card.read_text(encoding="utf-8"), text), encoding="utf-8")
    for path in (options.page, options.card):
        if path is not None and not whole:
            print(f"{path} is left as it is, for this was not every method on every row", file=sys.stderr)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
