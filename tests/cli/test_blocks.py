"""`stpipe blocks`: the published predictions, observed samples bit for bit, and one line for every bad folder."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from stpipe.cli.main import run

Array = NDArray[Any]


def write(path: Path, bands: Array, **profile: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
            dtype=bands.dtype.name, **profile,
        ) as sink:  # fmt: skip
            sink.write(bands)


def read(path: Path) -> Array:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small blocks that the published network can take."""
    made = tmp_path / "blocks"
    made.mkdir()
    rng = np.random.default_rng(0)
    for name in ("0_0_0", "0_0_1"):
        values = rng.uniform(0.01, 0.05, (4, 16, 16)).astype(np.float32)
        valid = rng.random(values.shape) < 0.6
        profile = {"crs": "EPSG:32633", "transform": from_origin(500000, 5100000, 10, 10)}
        write(made / f"X_{name}.tif", np.where(valid, values, np.float32(-3.4e38)), nodata=-3.4e38, **profile)
        write(made / f"MASK_{name}.tif", valid.astype(np.uint8), **profile)
    return made


@pytest.fixture
def published(data_folder: Path) -> str:
    return str(data_folder / "stpconv_s5p_co/S5P_CO_model.h5")


def fill(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = run(["blocks", "fill", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else {}, err


def test_raw_answers_are_the_published_ones(
    data_folder: Path, published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data_folder / "stpconv_s5p_co"
    some = tmp_path / "some"
    some.mkdir()
    with np.load(source / "reference_predictions.npz") as reference:
        for name in reference:
            for kind in ("X", "Y", "MASK", "VALMASK"):
                shutil.copy(source / f"training/{kind}_{name}.tif", some)
        code, result, _ = fill(capsys, some, "-o", tmp_path / "raw", "--model", published, "--raw")
        assert (code, result["blocks"]) == (0, 3)
        for name in reference:
            assert np.abs(read(tmp_path / f"raw/PRED_{name}.tif") - reference[name]).max() < 1e-6
    assert 0 < result["mae"] < result["rmse"] < 0.01


@pytest.mark.parametrize("model", ["default", "published"])
def test_observed_samples_come_back_bit_for_bit(
    model: str, folder: Path, published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = published if model == "published" else model
    code, result, _ = fill(capsys, folder, "-o", tmp_path / "out", "--model", weights)
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["PRED_0_0_0.tif", "PRED_0_0_1.tif"]
    assert "mae" not in result  # there is no truth beside these
    for name in ("0_0_0", "0_0_1"):
        valid = read(folder / f"MASK_{name}.tif") == 1
        filled = read(tmp_path / f"out/PRED_{name}.tif")
        assert filled.dtype == np.float32
        np.testing.assert_array_equal(
            filled[valid].view(np.uint32), read(folder / f"X_{name}.tif")[valid].view(np.uint32)
        )
        assert np.isfinite(filled).all()
        assert np.abs(filled).max() < 1
        with (
            rasterio.open(tmp_path / f"out/PRED_{name}.tif") as made,
            rasterio.open(folder / f"X_{name}.tif") as source,
        ):
            assert (made.crs, made.transform) == (source.crs, source.transform)


def test_what_lies_in_gaps_does_not_matter(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(capsys, folder, "-o", tmp_path / "one")
    for path in folder.glob("X_*.tif"):
        values, valid = read(path), read(path.with_name(path.name.replace("X_", "MASK_"))) == 1
        write(path, np.where(valid, values, np.float32(0.7)))
    fill(capsys, folder, "-o", tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for path in sorted((tmp_path / "one").iterdir()):
            np.testing.assert_array_equal(read(path), read(tmp_path / "other" / path.name))


def test_the_default_model_takes_any_shape_and_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    rng = np.random.default_rng(1)
    counts = rng.integers(10**8, 10**8 + 900, (3, 13, 21)).astype(np.int32)
    profile = {"crs": "EPSG:32633", "transform": from_origin(0, 0, 1, 1)}
    write(folder / "X_a.tif", counts, **profile)
    valid = rng.random(counts.shape) < 0.5
    write(folder / "MASK_a.tif", valid.astype(np.uint8), **profile)
    assert fill(capsys, folder, "-o", tmp_path / "out")[0] == 0
    filled = read(tmp_path / "out/PRED_a.tif")
    assert filled.dtype == np.float64  # float32 can't hold these
    np.testing.assert_array_equal(filled[valid], counts[valid])
    assert np.abs(filled - 10**8).max() < 5000


def test_a_block_without_any_observation_stays_empty(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = folder / "MASK_0_0_1.tif"
    write(mask, np.zeros_like(read(mask)), crs="EPSG:32633", transform=from_origin(0, 0, 1, 1))
    code, result, err = fill(capsys, folder, "-o", tmp_path / "out")
    assert (code, result["without_observations"]) == (0, 1)
    assert "nothing was observed in 1 of 2 blocks, such as 0_0_1: they stay empty" in err
    assert np.isnan(read(tmp_path / "out/PRED_0_0_1.tif")).all()


def test_a_mask_that_marks_observations_by_another_number_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mask in folder.glob("MASK_*.tif"):
        write(mask, read(mask) * 255, crs="EPSG:32633", transform=from_origin(0, 0, 1, 1))
    code, _, err = fill(capsys, folder, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "has the value 255 and no 1" in err


def test_a_disk_that_is_full_leaves_no_half_of_a_block(
    folder: Path, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = fill(capsys, folder, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "No space left on device" in err
    assert list((tmp_path / "out").iterdir()) == []
    assert export(capsys, cube, "-o", tmp_path / "cut")[0] == 1
    assert not list(tmp_path.glob("cut/*.tif"))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def odd_shape(folder: Path) -> None:
    for kind in ("X", "MASK"):
        path = folder / f"{kind}_0_0_1.tif"
        write(path, read(path)[:, :15], crs="EPSG:32633", transform=from_origin(0, 0, 1, 1))


def other_shape(folder: Path) -> None:
    path = folder / "MASK_0_0_1.tif"
    write(path, read(path)[:3], crs="EPSG:32633", transform=from_origin(0, 0, 1, 1))


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no blocks": (lambda f: [p.unlink() for p in f.iterdir()], "holds no X_*.tif"),
    "no folder": (shutil.rmtree, "no folder"),
    "a mask is missing": (lambda f: (f / "MASK_0_0_1.tif").unlink(), "has no MASK_0_0_1.tif beside it"),
    "another shape": (other_shape, "MASK_0_0_1.tif has (bands, rows, columns) (3, 16, 16) but X_0_0_1.tif has"),
    "no multiple of the strides": (odd_shape, "but PATH takes multiples of (4, 4, 4)"),
    "a header is cut short": (lambda f: cut_short(f / "X_0_0_1.tif"), "X_0_0_1.tif can't be opened as GeoTIFF"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_refused_in_one_line(
    case: str, folder: Path, published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    code, _, err = fill(capsys, folder, "-o", tmp_path / "out", "--model", published)
    assert code == 2
    assert err.startswith("stpipe: error: ")
    assert err.count("\n") == 1
    assert message.replace("PATH", published) in err
    assert not (tmp_path / "out").exists()


def test_a_bad_model_is_refused_before_the_output_is_made(
    folder: Path, published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Path(shutil.copy(published, tmp_path / "alone.h5"))
    short = tmp_path / "short.keras"
    short.write_bytes(b"PK" + bytes(100))
    for model, message in ((alone, "alone.json beside it"), (short, "is damaged"), ("nosuch", "no model 'nosuch'")):
        code, _, err = fill(capsys, folder, "-o", tmp_path / "out", "--model", model)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_holds_things_is_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("dear to someone")
    code, _, err = fill(capsys, folder, "-o", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds thesis.txt; choose an empty one, or --overwrite" in err
    assert fill(capsys, folder, "-o", out, "--overwrite")[0] == 0
    assert (out / "thesis.txt").read_text() == "dear to someone"
    assert (out / "PRED_0_0_0.tif").is_file()


def test_a_block_that_turns_out_damaged_stops_the_run_and_keeps_what_is_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "X_0_0_1.tif"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1500])
    code, _, err = fill(capsys, folder, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "block 0_0_1 can't be read" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["PRED_0_0_0.tif"]


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 1, (6, 20, 26)).astype(np.float32)
    values[2, :, :13] = np.nan
    values[4, 10:] = np.nan
    data = xr.Dataset(
        {"ndvi": (("time", "y", "x"), values)},
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(6) * np.timedelta64(5, "D"),
            "y": 5000.0 - 10 * np.arange(20),
            "x": 300.0 + 10 * np.arange(26),
        },
    )
    path = tmp_path / "cube.nc"
    data.to_netcdf(path, engine="h5netcdf")
    return path


def export(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = run(["blocks", "export", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else {}, err


def test_a_cube_goes_out_as_blocks_and_comes_back_filled(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blocks"
    code, result, err = export(capsys, cube, "-o", out, "--block", "6,16,16")
    assert (code, result["blocks"], result["left_out"]) == (0, 4, 0)
    assert err == "stpipe: note: the cube has no CRS, so its GeoTIFF files have coordinates without one\n"
    with xr.open_dataset(cube) as source:
        values = source["ndvi"].values[:, 4:, 10:]
    truth, shown, valid, hidden = (read(out / f"{kind}_ndvi_0_1_1.tif") for kind in ("Y", "X", "MASK", "VALMASK"))
    np.testing.assert_array_equal(truth[np.isfinite(values)], values[np.isfinite(values)])
    np.testing.assert_array_equal((valid == 1) | (hidden == 1), np.isfinite(values))
    assert not ((valid == 1) & (hidden == 1)).any()
    assert (hidden == 1).any()
    np.testing.assert_array_equal(shown[valid == 1], values[valid == 1])
    assert (shown[valid == 0] < -3e38).all()
    with rasterio.open(out / "X_ndvi_0_1_1.tif") as made:
        assert made.descriptions[1] == "2020-01-06T00:00:00"
        assert made.interleaving.value == "PIXEL"  # the published training reads bands last
        assert made.xy(0, 0) == (400.0, 4960.0)
    export(capsys, cube, "-o", tmp_path / "again", "--block", "6,16,16")
    for path in sorted(out.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    code, scored, _ = fill(capsys, out, "-o", tmp_path / "filled")
    assert code == 0
    assert scored["scored"] == result["hidden"]
    assert 0 < scored["mae"] < scored["rmse"] < 1.5


def test_an_export_says_what_is_other_than_was_asked_for(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One quarter of the cube has no gap, and the others have less than 90 % valid samples."""
    words = ("--block", "6,10,13", "--least-valid", "0.9", "--most", "3")
    code, result, err = export(capsys, cube, "-o", tmp_path / "few", *words)
    assert (code, result["blocks"], result["left_out"]) == (0, 1, 3)
    assert "note: ndvi: 3 of 4 blocks left out, for less than 90 % of their samples are valid (--least-valid)" in err
    assert "note: ndvi: only 1 block can be exported, and not 3 (--most)" in err
    code, result, err = export(capsys, cube, "-o", tmp_path / "short", "--block", "1,4,4", "--share", "0.24,0.25")
    assert code == 0
    assert "blocks the hidden share is not between 0.24 and 0.25 but as near as their gaps allowed" in err
    code, result, err = export(capsys, cube, "-o", tmp_path / "one")
    assert result["block"] == [6, 20, 26]
    assert "note: the cube is 6 x 20 x 26, so blocks are 6 x 20 x 26 and not 16 x 128 x 128" in err
    with xr.open_dataset(cube) as source:
        source.fillna(0.0).assign(land=(("y", "x"), np.ones((20, 26), np.uint8))).to_netcdf(tmp_path / "whole.nc")
    code, result, err = export(capsys, tmp_path / "whole.nc", "-o", tmp_path / "whole", "--domain", "land")
    assert "note: ndvi: there is no gap to take shapes from" in err
    assert "note: blocks have no domain" in err
    capsys.readouterr()
    assert run(["blocks", "export", str(cube), "-o", str(tmp_path / "said")]) == 0
    assert capsys.readouterr().out.startswith(f"1 block of 6 x 20 x 26 written into {tmp_path / 'said'} in ")


def test_an_export_keeps_what_lies_in_its_folder(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("dear to someone")
    code, _, err = export(capsys, cube, "-o", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds thesis.txt; choose an empty one, or --overwrite to replace X_ndvi_0_0_0.tif and the like in it" in err
    assert export(capsys, cube, "-o", out, "--overwrite")[0] == 0
    assert (out / "thesis.txt").read_text() == "dear to someone"
    assert len(list(out.iterdir())) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["--block", "6,16"], "--block needs three whole numbers T,Y,X such as 16,128,128", id="two lengths"
        ),
        pytest.param(["--block", "a,b,c"], "three whole numbers", id="no numbers"),
        pytest.param(["--block", "0,8,8"], "needs at least 1 along time, got 0", id="nothing"),
        pytest.param(["--block", "6,8,8", "--overlap", "0,8,0"], "overlap along y must be in [0, 8)", id="all overlap"),
        pytest.param(["--seed", "-1"], "--seed must be at least 0", id="a seed below zero"),
        pytest.param(["--var", "evi"], "has no variable 'evi'", id="no such variable"),
        pytest.param(["--domain", "land"], "--domain: ", id="no such domain"),
        pytest.param(
            ["--share", "0.3"], "--share needs two numbers LO,HI such as 0.05,0.25, got '0.3'", id="one share"
        ),
        pytest.param(["--share", "0.5,1.5"], "--share needs 0 <= LO <= HI < 1", id="more than all hidden"),
        pytest.param(["--share", "0.1,0.2", "--gaps", "none"], "give one of them", id="how much of nothing"),
        pytest.param(["--gaps", "clouds"], "'clouds' is not one of 'own', 'none'", id="no such gaps"),
        pytest.param(["--least-valid", "20"], "--least-valid is a share between 0 and 1, got 20", id="a percentage"),
        pytest.param(["--most", "0"], "--most must be at least 1", id="no blocks"),
        pytest.param(["--valid-range", "5,9"], "has no valid sample", id="nothing valid"),
        pytest.param(["--time", "2021-01-01/"], "2021", id="no such period"),
        pytest.param(["--aoi", "nowhere.json"], "--aoi", id="no such area"),
    ],
)
def test_export_refuses_what_it_cannot_do(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, _, err = export(capsys, cube, "-o", tmp_path / "out", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_export_refuses_what_is_no_place_for_it(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with xr.open_dataset(cube) as source:
        source.to_zarr(tmp_path / "cube.zarr", consolidated=False)
    before = sorted((tmp_path / "cube.zarr").rglob("*"))
    for place, out, message in (
        (tmp_path / "no.zarr", tmp_path / "out", "no.zarr"),
        (cube, cube, "lies in the input"),
        (tmp_path / "cube.zarr", cube, "is a file; the output is a folder"),
        (tmp_path / "cube.zarr", tmp_path / "cube.zarr", "lies in the input"),
        (tmp_path / "cube.zarr", tmp_path / "cube.zarr/ndvi", "lies in the input"),
    ):
        code, _, err = export(capsys, place, "-o", out, "--overwrite")
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert sorted((tmp_path / "cube.zarr").rglob("*")) == before
