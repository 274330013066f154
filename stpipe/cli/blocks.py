"""`stpipe blocks`: speak the published training's folders of GeoTIFF blocks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from stpipe.cli.options import parse_period, parse_range, parse_triple
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.progress import progress_bar
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.words import tell, tell_note
from stpipe.errors import OptionError, ShapeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stpipe.io.block_export import Chosen, Exported, ExportSpec
    from stpipe.io.block_folders import BlockFile, BlockSamples
    from stpipe.io.cube import Cube


@click.group(name="blocks")
def command() -> None:
    """Cut cubes into folders of GeoTIFF blocks, and fill such folders."""


@command.command(name="fill")
@click.argument("folder", type=HerePath())
@click.option("-o", "--output", type=HerePath(), required=True, help="Folder of the PRED_*.tif.")
@click.option(
    "--model",
    default="default",
    show_default=True,
    metavar="NAME|PATH",
    help="Weights: default, a .keras file of stpipe, or a published .h5 with its .json beside it.",
)
@click.option("--raw", is_flag=True, help="Keep the network's answer at observed samples too.")
@click.option("--overwrite", is_flag=True, help="Replace PRED_*.tif in a folder that holds things.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fill(folder: Path, output: Path, model: str, raw: bool, overwrite: bool, as_json: bool) -> None:
    """Fill a folder of GeoTIFF blocks.

    FOLDER holds X_NAME.tif and MASK_NAME.tif (1 = observed), bands = time; PRED_NAME.tif come out. Where Y_NAME.tif and
    VALMASK_NAME.tif (1 = hidden) lie beside them, the answers are scored.
    """
    from stpipe.io.block_folders import find_blocks, prepare_output, read_block, write_bands
    from stpipe.model.weights import read_info

    blocks = find_blocks(folder)
    info = read_info(model)
    predict = _predictor(model, blocks)  # loads the weights, so that damaged ones are refused before any work
    prepare_output(output, [f"PRED_{block.name}.tif" for block in blocks], overwrite=overwrite)
    began, written, errors, empty = time.monotonic(), [], [], []
    for number, block in enumerate(blocks, start=1):
        samples = read_block(block)
        if not samples.valid.any():
            empty.append(block.name)
        predicted = predict(block, samples)
        errors.append(_errors(block, predicted))
        path = output / f"PRED_{block.name}.tif"
        write_bands(
            path,
            predicted if raw else _put_back(predicted, samples),
            profile=samples.profile,
            nodata=float("nan"),
            descriptions=samples.descriptions,
        )
        written.append(path.name)
        if sys.stderr.isatty():
            click.echo(f"\r{number} of {len(blocks)} blocks", nl=number == len(blocks), err=True)
    if empty:
        tell_note(f"nothing was observed in {len(empty)} of {len(blocks)} blocks, such as {empty[0]}: they stay empty")
    result = {
        "output": str(output),
        "blocks": len(written),
        "without_observations": len(empty),
        "model": {"path": str(info.path), "kind": info.kind, "sha256": info.digest},
        "raw": raw,
        "seconds": round(time.monotonic() - began, 2),
        **_score(errors),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    tell(f"{len(written)} blocks filled into {output} in {result['seconds']} s by the {info.kind} model {info.path}")
    if "mae" in result:
        click.echo(f"hidden samples: {result['scored']}, MAE {result['mae']:.6g}, RMSE {result['rmse']:.6g}")


def _predictor(model: str, blocks: list[BlockFile]) -> Any:
    """Return a function of a block and its samples that gives physical values."""
    from stpipe.model.legacy import LegacySpec
    from stpipe.model.weights import load_model, read_info

    spec = read_info(model).spec
    if not isinstance(spec, LegacySpec):
        from stpipe.methods.pconv import pconv_filler

        filler = pconv_filler(model)
        filler.load()
        return lambda block, samples: _fill_standardised(filler, block, samples)
    for block in blocks:
        if any(n % step for n, step in zip(block.shape, spec.stride, strict=True)):
            raise ShapeError(
                f"{block.observed} has (bands, rows, columns) {block.shape}, but {model} takes multiples of "
                f"{spec.stride}; cut or pad it, or use --model default, which takes any"
            )
    from stpipe.model.legacy import run_legacy

    network = load_model(model).network
    return lambda _, samples: run_legacy(network, samples.stored, samples.valid)


def _fill_standardised(filler: Any, block: BlockFile, samples: BlockSamples) -> NDArray[np.float32]:
    """Fill one block as a scene of its own, with its own location, spread and patterns."""
    import numpy as np

    from stpipe.core.crops import Crop, fill_crop
    from stpipe.core.survey import location_and_spread
    from stpipe.core.windows import Window

    known = samples.stored[samples.valid].astype(np.float64)
    location, spread = location_and_spread(known)
    standard = np.zeros(block.shape, dtype=np.float32)
    standard[samples.valid] = (known - location) / spread
    days = np.arange(float(block.shape[0])) if block.days is None else block.days
    crop = Crop(values=standard, valid=samples.valid, days=days, window=Window.of(block.shape))
    made = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    filled: NDArray[np.float32] = (made.values.astype(np.float64) * spread + location).astype(np.float32)
    return filled


def _put_back(predicted: NDArray[np.float32], samples: BlockSamples) -> NDArray[Any]:
    """Return the prediction in gaps and the observed samples, bit for bit, elsewhere."""
    import numpy as np

    # float32 holds neither float64 nor integers of 32 bits.
    dtype = np.result_type(samples.stored.dtype, np.float32)
    filled = predicted.astype(dtype)
    filled[samples.valid] = samples.stored[samples.valid]
    return filled


def _errors(block: BlockFile, predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    from stpipe.io.block_folders import read_truth

    truth = read_truth(block)
    if truth is None:
        return np.empty(0)
    values, where = truth
    errors: NDArray[np.float64] = (predicted - values)[where]
    return errors[np.isfinite(errors)]


def _score(errors: list[NDArray[np.float64]]) -> dict[str, float]:
    import numpy as np

    every = np.concatenate(errors)
    if not every.size:
        return {}
    return {"scored": every.size, "mae": float(np.abs(every).mean()), "rmse": float(np.sqrt((every**2).mean()))}


@command.command(name="export")
@click.argument("cube", type=AnyPath())
@click.option("-o", "--output", type=HerePath(), required=True, help="Folder of the blocks.")
@click.option("--var", "variables", multiple=True, metavar="V", help="Variable to export [all]; may be repeated.")
@click.option("--block", default="16,128,128", show_default=True, metavar="T,Y,X", help="Shape of a block.")
@click.option("--overlap", metavar="T,Y,X", help="What neighbouring blocks share [nothing].")
@click.option(
    "--gaps",
    type=click.Choice(["own", "none"]),
    default="own",
    show_default=True,
    help="Hide samples in shapes of the cube's own gaps, or none.",
)
@click.option("--share", metavar="LO,HI", help="How much of a block's valid samples to hide, about [0.05,0.25].")
@click.option(
    "--least-valid",
    type=float,
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Leave out blocks with a smaller share of valid samples.",
)
@click.option("--most", type=int, metavar="N", help="Export at most so many blocks of a variable, chosen by chance.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the gaps, and the choice of --most.")
@click.option("--domain", metavar="V", help="Static variable that is non-zero where values can exist.")
@click.option("--valid-range", metavar="LO,HI", help="Physical values outside of it are gaps.")
@trust_options
@click.option("--aoi", type=HerePath(), help="GeoJSON of the area to export.")
@click.option("--time", "period", metavar="START/END", help="Period to export.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds things, over these variables' blocks.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    cube: Path,
    output: Path,
    variables: tuple[str, ...],
    block: str,
    overlap: str | None,
    gaps: Literal["own", "none"],
    share: str | None,
    least_valid: float,
    most: int | None,
    seed: int,
    domain: str | None,
    valid_range: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    aoi: Path | None,
    period: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut a cube into a folder of GeoTIFF blocks.

    Y_VAR_T_Y_X.tif has what was observed, in physical units, bands = time; X_ the same with artificial gaps, in shapes
    of the cube's own gaps at other dates; MASK_ is 1 where X_ is observed, and VALMASK_ 1 where a sample was hidden.
    T, Y and X are the block's place in the cube, counted in blocks.
    """
    if share is not None and gaps == "none":
        raise OptionError(f"--share {share} says how much to hide, and --gaps none to hide nothing; give one of them")
    limits, selection = parse_range("--valid-range", valid_range), parse_period("--time", period)
    size, shared = parse_triple("--block", block), parse_triple("--overlap", overlap)
    from stpipe.core.gaps import SHARE
    from stpipe.io.block_export import ExportSpec, choose_blocks, export_blocks
    from stpipe.io.block_folders import check_output
    from stpipe.io.fillable import open_fillable
    from stpipe.io.run_folder import check_writable

    assert size is not None  # it has a default
    spec = ExportSpec(
        size=size,
        overlap=shared or (0, 0, 0),
        gaps=gaps,
        share=SHARE if share is None else _share(share),
        least_valid=least_valid,
        most=most,
        seed=seed,
        valid_range=limits,
    )
    trust = parse_trust(qa, keep, drop, buffer)
    source, notes = open_fillable(
        cube, variables=variables or None, domain=domain, time=selection, aoi=aoi, trust=trust
    )
    _refuse_inside(output, source)
    check_output(output, f"X_{source.names[0]}_0_0_0.tif", overwrite=overwrite)
    check_writable(output)
    began = time.monotonic()
    with progress_bar("looking") as progress:
        chosen = choose_blocks(source, spec, progress=progress)
    with progress_bar("writing") as progress:
        exported = export_blocks(source, chosen, spec, output, progress=progress)
    for note in (*notes, *_remarks(source, spec, chosen, exported)):
        tell_note(note)
    blocks, valid, hidden = (sum(getattr(part, key) for part in exported) for key in ("blocks", "valid", "hidden"))
    shape = [min(pair) for pair in zip(spec.size, source.extent, strict=True)]
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        result = {
            "output": str(output),
            "block": shape,
            "overlap": spec.overlap,
            "gaps": gaps,
            "share": spec.share if gaps == "own" else None,
            "seed": seed,
            "blocks": blocks,
            "left_out": sum(choice.left_out for choice in chosen),
            "valid": valid,
            "hidden": hidden,
            "seconds": seconds,
            "variables": [
                {"name": part.variable, "blocks": part.blocks, "left_out": choice.left_out, "valid": part.valid}
                | {"hidden": part.hidden}
                for part, choice in zip(exported, chosen, strict=True)
            ],
        }
        click.echo(json.dumps(result))
        return
    tell(
        f"{_blocks(blocks)} of {' x '.join(map(str, shape))} written into {output} in {seconds} s; "
        f"{100 * hidden / valid:.3g} % of their valid samples are hidden"
    )


def _blocks(count: int) -> str:
    return f"{count} block" if count == 1 else f"{count} blocks"


def _share(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--share needs two numbers LO,HI such as 0.05,0.25, got {text!r}") from None
    return low, high


def _refuse_inside(output: Path, source: Cube) -> None:
    """Refuse an output among the files of the cube."""
    place, cube = output.resolve(), Path(source.path)
    if place == cube or cube in place.parents:
        raise OptionError(f"the output {output} lies in the input {source.path}; choose another folder with -o")


def _remarks(source: Cube, spec: ExportSpec, chosen: Sequence[Chosen], exported: Sequence[Exported]) -> Iterator[str]:
    """Say what is other than was asked for."""
    from stpipe.io.frames import RasterGrid

    clipped = [min(pair) for pair in zip(spec.size, source.extent, strict=True)]
    if tuple(clipped) != spec.size:
        asked, cube, made = (" x ".join(map(str, shape)) for shape in (spec.size, source.extent, clipped))
        yield f"the cube is {cube}, so blocks are {made} and not {asked}"
    yield from chosen[0].remarks  # they are the same for every variable
    for choice in chosen:
        if choice.left_out:
            looked = len(choice.blocks) + choice.left_out
            yield (
                f"{choice.info.name}: {choice.left_out} of {looked} blocks left out, for less than "
                f"{100 * spec.least_valid:g} % of their samples are valid (--least-valid)"
            )
        if spec.most is not None and len(choice.blocks) < spec.most:
            can = _blocks(len(choice.blocks))
            yield f"{choice.info.name}: only {can} can be exported, and not {spec.most} (--most)"
    for part in exported:
        if part.astray:
            low, high = spec.share
            yield (
                f"{part.variable}: in {part.astray} of {part.blocks} blocks the hidden share is not between {low:g} "
                f"and {high:g} but as near as their gaps allowed"
            )
        if spec.gaps == "own" and part.valid == part.samples:
            yield (
                f"{part.variable}: there is no gap to take shapes from: parts are hidden by blobs, speckle, stripes, "
                "and weights learn more from a cube with gaps"
            )
    if source.domain is not None:
        yield "blocks have no domain: outside of it MASK_ is 0 as in any gap, and stpipe blocks fill fills it"
    note = RasterGrid.of(source).note
    if note is not None:
        yield note
