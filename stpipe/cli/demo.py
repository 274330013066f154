"""`stpipe demo`: make up a scene, fill it by several methods, and score each against the truth."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from stpipe.cli.paths import HerePath
from stpipe.core.scene import Scene, SceneSpec, make_scene
from stpipe.core.scores import Scores, Tally
from stpipe.core.sky import Sample
from stpipe.core.windows import AXES, Triple, triple
from stpipe.errors import OptionError, OutputError
from stpipe.resources import shipped

if TYPE_CHECKING:
    from stpipe.report.panels import Column

PIPELINE = "demo.yaml"
KEYS = ("scene", "small", "methods", "block")
MARK = "demo.json"
"""This file in a folder says that the folder is the demo's own, to be replaced."""

KINDS = {
    "all gaps": (Sample.CLOUD_EDGE, Sample.CLOUD_CORE, Sample.SWATH, Sample.LINES, Sample.WHOLE_FRAME),
    "cloud edge": (Sample.CLOUD_EDGE,),
    "cloud core": (Sample.CLOUD_CORE,),
    "swath edge": (Sample.SWATH,),
    "dead lines": (Sample.LINES,),
    "whole frame": (Sample.WHOLE_FRAME,),
}
"""Kinds of gap that are scored apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSpec:
    """What the demo does."""

    scene: SceneSpec
    """What is made up."""

    small: SceneSpec
    """The same for --small."""

    methods: tuple[str, ...]
    """What fills it, in this order."""

    block: Triple | None
    """What a block writes; from the worker's memory if not given."""

    @classmethod
    def read(cls, path: Path) -> DemoSpec:
        """Return the spec in a YAML file, or say which key is wrong."""
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise OptionError(f"{path} is not YAML: {error}") from error
        if not isinstance(content, Mapping):
            raise OptionError(f"{path} must hold keys and values, got {type(content).__name__}")
        for key in content:
            if key not in KEYS:
                near = get_close_matches(str(key), KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KEYS)}"
                raise OptionError(f"{path.name}: no key {str(key)!r} in a demo; {hint}")
        sections = {name: content.get(name) or {} for name in ("scene", "small")}
        for name, section in sections.items():
            if not isinstance(section, Mapping):
                raise OptionError(f"{path.name}: {name} must hold keys and values, got {section!r}")
        methods = content.get("methods")
        if not isinstance(methods, list) or not methods or not all(isinstance(name, str) for name in methods):
            raise OptionError(f"{path.name}: methods must be a list of names, got {methods!r}")
        block = content.get("block")
        if block is not None and not (
            isinstance(block, list) and len(block) == len(AXES) and all(type(n) is int and n > 0 for n in block)
        ):
            raise OptionError(f"{path.name}: block must be three whole numbers above 0 for {AXES}, got {block!r}")
        merged = {**sections["scene"], **sections["small"]}
        return cls(
            scene=SceneSpec.from_mapping(sections["scene"], where=path.name),
            small=SceneSpec.from_mapping(merged, where=f"{path.name}, small"),
            methods=tuple(methods),
            block=None if block is None else triple(block),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one method did."""

    method: str
    """Its name."""

    seconds: float
    """From start to the last product."""

    scores: Mapping[str, Scores]
    """Scores of each kind of gap that the scene has."""

    folder: Path
    """Where its products are."""


@click.command("demo", short_help="Fill a made-up scene by three methods and score them against the truth.")
@click.option("-o", "--output", type=HerePath(), default=Path("demo"), show_default=True, help="Folder.")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Worker processes; default: as fill-scene.")
@click.option("--small", is_flag=True, help="A scene of a tenth of the size, for a quick look.")
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Make up another scene.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def command(output: Path, workers: int | None, small: bool, seed: int | None, as_json: bool) -> None:
    """Fill a made-up scene by three methods and score them against the truth.

    Makes a season of NDVI over farmland with clouds, shadows, swath edges and dead lines, fills it just as fill-scene
    does, and writes the scene, its truth, every method's products, the scores and a picture into one folder.
    """
    spec = DemoSpec.read(shipped("pipelines", PIPELINE))
    wanted = spec.small if small else spec.scene
    if seed is not None:
        wanted = replace(wanted, seed=seed)
    _claim(output)
    scene = _make(wanted, output)
    outcomes = [_run_method(scene, output, method, workers, spec.block) for method in spec.methods]
    best = min(outcomes, key=lambda outcome: _rank(outcome.scores["all gaps"]))
    _draw(scene, best, output / "demo.png")
    result = _summary(scene, outcomes, best, output)
    text = json.dumps(result, indent=2, allow_nan=False)
    (output / MARK).write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
    else:
        _print(scene, outcomes, best, output)


def _rank(scores: Scores) -> tuple[float, float]:
    """Order by what was left unfilled first: a method could else win by filling the easy samples only."""
    return (1.0 - scores.filled, scores.mae) if np.isfinite(scores.mae) else (1.0, np.inf)


def _claim(output: Path) -> None:
    """Make the folder, or clear what an earlier demo left in it; anything else in it is a reason to refuse."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; name a folder with -o")
    if (output / MARK).is_file():
        shutil.rmtree(output / "filled", ignore_errors=True)
    elif output.is_dir() and any(output.iterdir()):
        raise OutputError(f"{output} holds files that are not the demo's; name a new or empty folder with -o")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).write_text("{}\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"can't write into {output} ({error.strerror}); name another folder with -o") from error


def _say(message: str) -> None:
    click.echo(message, err=True)


def _make(spec: SceneSpec, output: Path) -> Scene:
    from stpipe.io.scene import write_scene

    began = time.perf_counter()
    scene = make_scene(spec)
    write_scene(scene, output / "scene.zarr", output / "truth.zarr")
    _say(
        f"made {output / 'scene.zarr'}: {spec.frames} dates x {spec.height} x {spec.width} pixels, "
        f"{scene.gap_share:.0%} gap, in {time.perf_counter() - began:.0f} s"
    )
    return scene


def _run_method(scene: Scene, output: Path, method: str, workers: int | None, block: Triple | None) -> Outcome:
    folder = output / "filled" / method
    began = time.perf_counter()
    fill(output / "scene.zarr", folder, method, workers=workers, block=block)
    seconds = time.perf_counter() - began
    _say(f"filled by {method} in {seconds:.0f} s")
    return Outcome(method=method, seconds=seconds, scores=score(scene, folder), folder=folder)


def fill(scene: Path, folder: Path, method: str, *, workers: int | None, block: Triple | None) -> None:
    """Fill the scene just as `stpipe fill-scene` does."""
    from stpipe.cli.progress import shown
    from stpipe.cli.scene_plan import FillOptions, prepare
    from stpipe.cli.scene_run import execute
    from stpipe.cli.watch import Watch

    options = FillOptions(cube=scene, output=folder, method=method, domain="land", workers=workers, block=block)
    prepared = prepare(options)
    watch = Watch(limit=prepared.memory_limit)
    with shown(watch):
        execute(prepared, watch=watch)


def _frames(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each frame's filled values and half-widths."""
    import xarray as xr

    from stpipe.io.scene import VARIABLE

    with xr.open_zarr(folder / "filled.zarr", consolidated=False, chunks=None) as filled:
        for number in range(filled.sizes["time"]):
            frame = filled[[VARIABLE, f"{VARIABLE}_ci90"]].isel(time=number)
            yield frame[VARIABLE].values, frame[f"{VARIABLE}_ci90"].values


def score(scene: Scene, folder: Path) -> dict[str, Scores]:
    """Score a filled scene against its truth, for each kind of gap that the scene has."""
    tallies = {kind: Tally() for kind in KINDS}
    for number, (values, half_width) in enumerate(_frames(folder)):
        for kind, codes in KINDS.items():
            where = np.isin(scene.sample[number], codes)
            tallies[kind].add(scene.truth[number], values, half_width=half_width, where=where)
    scores = {kind: tally.scores() for kind, tally in tallies.items()}
    return {kind: each for kind, each in scores.items() if each.samples or kind == "all gaps"}


def _draw(scene: Scene, best: Outcome, path: Path) -> None:
    from stpipe.report.panels import draw_panels

    chosen = choose_frames(scene)
    columns = [
        _column(scene, number, kind, values, half_width)
        for number, (values, half_width) in enumerate(_frames(best.folder))
        if (kind := chosen.get(number)) is not None
    ]
    mae = best.scores["all gaps"].mae
    title = f"stpipe demo: made-up NDVI, {scene.gap_share:.0%} gap, filled by {best.method} (mean error {mae:.3f})"
    draw_panels(columns, path, method=best.method, title=title)


def _column(scene: Scene, number: int, kind: str, values: np.ndarray, half_width: np.ndarray) -> Column:
    from stpipe.report.panels import Column

    day = np.datetime_as_string(scene.times[number], unit="D")
    return Column(
        title=f"{day}: {kind}",
        observed=scene.observed[number],
        filled=values,
        truth=scene.truth[number],
        half_width=half_width,
    )


def choose_frames(scene: Scene) -> dict[int, str]:
    """Return up to five frames that show different gaps, by their number, each with what it shows."""
    inside = scene.sample != Sample.OUTSIDE_DOMAIN
    total = inside.sum(axis=(1, 2))

    def shares(*codes: Sample) -> np.ndarray:
        return np.asarray(np.isin(scene.sample, codes).sum(axis=(1, 2)) / total)

    cloud = shares(Sample.CLOUD_EDGE, Sample.CLOUD_CORE)
    swath, lines, whole = shares(Sample.SWATH), shares(Sample.LINES), shares(Sample.WHOLE_FRAME)
    ordinary = (swath == 0) & (lines == 0) & (whole == 0)
    wishes = [
        ("some cloud", np.where(ordinary, -np.abs(cloud - 0.25), -np.inf)),
        ("much cloud", np.where(ordinary, -np.abs(cloud - 0.65), -np.inf)),
        ("swath edge", np.where(swath > 0, -np.abs(cloud - 0.15), -np.inf)),
        ("dead lines", np.where(lines > 0, lines - np.abs(cloud - 0.2), -np.inf)),
        ("nothing observed", np.where(whole > 0, whole, -np.inf)),
    ]
    chosen: dict[int, str] = {}
    for kind, wish in wishes:
        free = np.array([-np.inf if number in chosen else value for number, value in enumerate(wish)])
        if np.isfinite(free).any():
            chosen[int(free.argmax())] = kind
    return chosen


def _summary(scene: Scene, outcomes: list[Outcome], best: Outcome, output: Path) -> dict[str, Any]:
    spec = scene.spec
    return {
        "scene": {
            "path": str(output / "scene.zarr"),
            "shape": [spec.frames, spec.height, spec.width],
            "gap_share": round(scene.gap_share, 4),
            "seed": spec.seed,
        },
        "truth": str(output / "truth.zarr"),
        "picture": str(output / "demo.png"),
        "best": best.method,
        "methods": {
            outcome.method: {
                "seconds": round(outcome.seconds, 1),
                "folder": str(outcome.folder),
                "scores": {kind: scores.as_dict() for kind, scores in outcome.scores.items()},
            }
            for outcome in outcomes
        },
    }


def _print(scene: Scene, outcomes: list[Outcome], best: Outcome, output: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from stpipe.cli.console import PlainConsole

    console = PlainConsole()
    inside = int((scene.sample != Sample.OUTSIDE_DOMAIN).sum())
    table = Table(box=SIMPLE_HEAD)
    for name in ("", "method", "MAE", "RMSE", "bias", "in 90 %", "width", "filled", "seconds"):
        table.add_column(name, justify="left" if name in {"", "method"} else "right", no_wrap=True)
    for outcome in outcomes:
        s = outcome.scores["all gaps"]
        mark, style = ("*", "bold") if outcome is best else ("", None)
        errors = (f"{s.mae:.4f}", f"{s.rmse:.4f}", f"{s.bias:+.4f}")
        interval = (f"{s.coverage:.1%}", f"{s.width:.3f}")
        table.add_row(
            mark, outcome.method, *errors, *interval, f"{s.filled:.1%}", f"{outcome.seconds:.0f}", style=style
        )
    console.print()
    console.print("Against the truth, over all gap samples (NDVI):")
    console.print(table)

    kinds = [kind for kind in outcomes[0].scores if kind != "all gaps"]
    lowest = {kind: min(outcome.scores[kind].mae for outcome in outcomes) for kind in kinds}
    by_kind = Table(box=SIMPLE_HEAD)
    by_kind.add_column("kind of gap", no_wrap=True)
    by_kind.add_column("share", justify="right", no_wrap=True)
    for outcome in outcomes:
        by_kind.add_column(outcome.method, justify="right", no_wrap=True)
    for kind in kinds:
        maes = [outcome.scores[kind].mae for outcome in outcomes]
        cells = [Text(f"*{mae:.4f}", style="bold") if mae == lowest[kind] else f"{mae:.4f}" for mae in maes]
        by_kind.add_row(kind, f"{outcomes[0].scores[kind].samples / inside:.1%}", *cells)
    console.print("MAE by kind of gap, and the kind's share of the scene:")
    console.print(by_kind)
    click.echo("* the best; width: mean full width of the 90 % interval\n")
    click.echo(f"picture  {output / 'demo.png'}")
    click.echo(f"scene    {output / 'scene.zarr'}, and its truth {output / 'truth.zarr'}")
    for outcome in outcomes:
        click.echo(f"{outcome.method:8s} {outcome.folder}")
    click.echo(f"scores   {output / MARK}")
