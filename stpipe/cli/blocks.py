"""`stpipe blocks`: speak the published training's folders of GeoTIFF blocks."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.errors import OptionError, ShapeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stpipe.core.windows import Triple
    from stpipe.io.block_folders import BlockFile, BlockSamples
    from stpipe.io.cube import Cube

AXES_OF_BLOCK = 3


@click.group(name="blocks")
def command() -> None:
    """Fill folders of GeoTIFF blocks."""


@command.command(name="fill")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the PRED_*.tif.")
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
    began, written, errors = time.monotonic(), [], []
    for number, block in enumerate(blocks, start=1):
        samples = read_block(block)
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
    result = {
        "output": str(output),
        "blocks": len(written),
        "model": {"path": str(info.path), "kind": info.kind, "sha256": info.digest},
        "raw": raw,
        "seconds": round(time.monotonic() - began, 2),
        **_score(errors),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{len(written)} blocks filled into {output} in {result['seconds']} s by the {info.kind} model {info.path}"
    )
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
    """Fill one block as a scene of its own, with its own location and spread."""
    import numpy as np

    from stpipe.core.ports import BlockInput
    from stpipe.core.survey import ArrayOverviews, location_and_spread
    from stpipe.core.windows import Window, round_up, triple

    known = samples.stored[samples.valid].astype(np.float64)
    location, spread = location_and_spread(known)
    shape = triple(round_up(n, step) for n, step in zip(block.shape, filler.stride, strict=True))
    around = [(0, have - n) for n, have in zip(block.shape, shape, strict=True)]
    valid = np.pad(samples.valid, around)
    standard = np.zeros(shape, dtype=np.float64)
    standard[valid] = (known - location) / spread
    days = np.arange(float(shape[0])) if block.days is None else block.days
    made = filler.fill(
        BlockInput(
            values=standard.astype(np.float32),
            valid=valid,
            days=days,
            window=Window.of(shape),
            overviews=ArrayOverviews.of(standard, valid),
            all_days=days,
        )
    )
    inside = Window.of(block.shape).slices
    filled: NDArray[np.float32] = (made.values[inside].astype(np.float64) * spread + location).astype(np.float32)
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


def _block_size(text: str) -> Triple:
    from stpipe.core.windows import triple

    try:
        size = triple(int(part) for part in text.split(","))
    except (ValueError, TypeError) as error:
        raise OptionError(f"--block takes three lengths T,Y,X such as 16,128,128, got {text!r}") from error
    if min(size) < 1:
        raise OptionError(f"--block takes lengths of at least 1, got {text!r}")
    return size


@command.command(name="export")
@click.argument("cube", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the blocks.")
@click.option("--block", "size", default="16,128,128", show_default=True, metavar="T,Y,X", help="Shape of a block.")
@click.option("--var", "variable", metavar="VAR", help="The variable. [default: the only one]")
@click.option("--seed", default=1, show_default=True, help="Of the artificial gaps.")
@click.option("--overwrite", is_flag=True, help="Replace blocks in a folder that holds things.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    cube: Path, output: Path, size: str, variable: str | None, seed: int, overwrite: bool, as_json: bool
) -> None:
    """Cut a cube into a folder of GeoTIFF blocks.

    Y_NAME.tif has what was observed; X_NAME.tif the same with artificial gaps, the cube's own from other dates;
    MASK_NAME.tif is 1 where X_ is observed, and VALMASK_NAME.tif 1 where Y_ is and X_ is not. Blocks without an
    observation are left out.
    """
    if seed < 0:
        raise OptionError(f"--seed must be at least 0, got {seed}")
    from stpipe.core.blocks import BlockGrid, BlockSpec
    from stpipe.core.samples import check_fillable
    from stpipe.io.block_folders import prepare_output
    from stpipe.io.cube import open_source

    block = _block_size(size)
    source = open_source(cube, variables=None if variable is None else [variable])
    if len(source.names) > 1:
        raise OptionError(f"{cube} has the variables {', '.join(source.names)}; choose one with --var")
    check_fillable(source.variables[0])
    grid = BlockGrid(source.extent, BlockSpec(size=block))
    prepare_output(output, ["X_0_0_0.tif"], overwrite=overwrite)
    hidden, written = 0, 0
    for number in range(len(grid)):
        cut = grid.block(number)
        count = _export_block(source, cut.write, output, "_".join(map(str, cut.index)), [seed, number])
        hidden += count or 0
        written += count is not None
    result = {"output": str(output), "blocks": written, "empty": len(grid) - written, "hidden": hidden, "seed": seed}
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{written} blocks written to {output}, {result['empty']} without any observation left out")


def _export_block(source: Cube, window: Any, output: Path, name: str, seed: list[int]) -> int | None:
    """Write the four files of one block; return the number of hidden samples, None for a block without any."""
    import numpy as np

    from stpipe.core.gaps import artificial_gaps
    from stpipe.core.samples import physical
    from stpipe.core.windows import Window
    from stpipe.io.block_folders import NODATA, georeference, write_bands
    from stpipe.io.georeference import shifted

    info = source.variables[0]
    reader = source.reader([info.name])
    values = physical(reader.read(info.name, window), info)
    valid = np.isfinite(values)
    if not valid.any():
        return None
    (_, top, left), (_, bottom, right) = window.start, window.stop
    # A frame at a time: the whole time axis of a window may be long.
    shapes = np.stack(
        [
            ~np.isfinite(physical(reader.read(info.name, Window((t, top, left), (t + 1, bottom, right))), info)[0])
            for t in range(source.extent[0])
        ]
    )
    hidden = artificial_gaps(valid, np.random.default_rng(seed), kind="own", shapes=shapes)
    shown = valid & ~hidden
    transform = None if source.transform is None else shifted(source.transform, top, left)
    profile = georeference(source.crs_wkt, transform)
    dates = [str(np.datetime64(when, "s")) for when in source.times[window.slices[0]]]
    for kind, where in (("Y", valid), ("X", shown)):
        bands = np.where(where, values, NODATA).astype(np.float32)
        write_bands(
            output / f"{kind}_{name}.tif", bands, profile=profile, nodata=float(np.float32(NODATA)), descriptions=dates
        )
    for kind, where in (("MASK", shown), ("VALMASK", hidden)):
        write_bands(output / f"{kind}_{name}.tif", where.astype(np.uint8), profile=profile, nodata=None)
    return int(hidden.sum())
