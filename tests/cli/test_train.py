"""`stpipe train` as a user types it: tiny cubes, few steps, weights that can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from stpipe.cli.main import run
from stpipe.cli.train import _show
from stpipe.cli.training import JUDGING_WAYS, MOST_SAMPLES, SAMPLES_A_STEP, WAYS, TrainingJob
from stpipe.core.crops import fill_crop
from stpipe.io.training_data import Source, open_sources, split_sources
from stpipe.io.training_output import TrainingOutput
from stpipe.methods.network import network_of
from stpipe.methods.pconv import pconv_filler
from stpipe.methods.training_run import Settings
from stpipe.model.patches import Deck
from stpipe.model.weights import load_model, read_info
from tests.methods.scenes import made_up_scene

# Keras 3 saves arrays in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (9, 24, 24)
SCRATCH = ["--from", "scratch", "--steps", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cubes, one of them short, one complete, one empty, and folders of blocks."""
    place = tmp_path_factory.mktemp("train")
    crop, truth = made_up_scene(0, SHAPE)
    times = np.datetime64("2023-01-01", "ns") + crop.days.astype(int) * np.timedelta64(1, "D")
    values = {
        "ndvi": np.where(crop.valid, truth, np.nan),
        "full": truth,
        "nothing": np.full(SHAPE, np.nan),
        "late": np.where(np.arange(SHAPE[0])[:, None, None] >= 6, truth, np.nan),
    }
    cube = xr.Dataset({name: (("time", "y", "x"), array) for name, array in values.items()}, {"time": times})
    cube = cube.assign_coords(y=np.arange(24.0)[::-1], x=np.arange(24.0))
    cube.to_zarr(place / "cube.zarr", consolidated=False)
    cube.isel(time=slice(0, 1)).to_zarr(place / "one.zarr", consolidated=False)
    cube.to_netcdf(place / "cube.nc", engine="h5netcdf")
    assert (
        run(
            [
                "blocks",
                "export",
                str(place / "cube.zarr"),
                "--var",
                "ndvi",
                "--block",
                "3,24,24",
                "-o",
                str(place / "blocks"),
            ]
        )
        == 0
    )
    (place / "folder").mkdir()
    return place


def train(place: Path, out: Path, *words: str) -> int:
    return run(["train", str(place / "cube.zarr"), "--var", "ndvi", "-o", str(out), *words])


def weights_of(path: Path) -> list[np.ndarray[Any, Any]]:
    return list(load_model(path).network.get_weights())


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights from scratch."""
    out = tmp_path_factory.mktemp("trained") / "mine.keras"
    assert train(folder, out, *SCRATCH, "--seed", "7") == 0
    return out


def test_weights_say_where_they_are_from_and_can_be_used(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in trained.parent.iterdir()) == ["mine.keras", "mine.train.json", "mine.train.png"]
    info = read_info(trained)
    provenance = dict(info.provenance)
    assert provenance["data"] == ["cube"]
    assert provenance["split"] == {"cube:ndvi": "split by period: learned from frames 0 to 4, held out 6 to 9"}
    assert provenance["from"] == {"name": "scratch"}
    assert (provenance["seed"], provenance["steps"], provenance["examples"]) == (7, 4, 3)
    scores = provenance["held_out"]["cube:ndvi"]
    assert {"pyramid", "linear", "eof here", "base", "network", "coverage"} <= set(scores)
    assert 0 < scores["coverage"] <= 1
    assert provenance["held_out_against_base"]["base"] == 1
    curves = json.loads((trained.parent / "mine.train.json").read_text())
    assert [look["step"] for look in curves["looks"]] == [1, 2, 3, 4]
    assert min(look["held_out"] for look in curves["looks"]) == pytest.approx(
        provenance["held_out_against_base"]["network"], rel=1e-6
    )
    assert run(["info", "--model", str(trained)]) == 0
    assert '"cube:ndvi"' in capsys.readouterr().out
    assert str(folder) not in json.dumps(provenance)
    crop, _ = made_up_scene(1, SHAPE)
    filled = fill_crop(pconv_filler(str(trained)), crop)
    assert np.isfinite(filled.values).all()
    assert network_of(str(trained)).mixture.weights == info.mixture


def test_an_interrupted_training_goes_on_to_the_same_weights(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.keras"
    words = [*SCRATCH, "--seed", "7"]
    add = TrainingOutput.add

    def interrupted(place: TrainingOutput, record: dict[str, Any]) -> None:
        add(place, record)
        if record["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingOutput, "add", interrupted)
        assert train(folder, out, *words) == 1
    assert "what is done is kept: run the same command again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.keras.work"]
    capsys.readouterr()
    assert train(folder, out, *SCRATCH, "--seed", "8", "--batch", "2") == 2
    err = capsys.readouterr().err
    assert "holds an unfinished training that differs in --batch, --seed; give" in err
    assert err.count("\n") == 1
    assert train(folder, out, *words, "--resume", "--json") == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert "going on after step 2" in told.err
    assert "step 3 of 4" in told.err
    assert "step 2 of 4" not in told.err
    assert (result["steps"], len(json.loads(Path(result["curves"]).read_text())["looks"])) == (4, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.keras", "mine.train.json", "mine.train.png"]
    for one, other in zip(weights_of(trained), weights_of(out), strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_info(trained).calibration == read_info(out).calibration


def test_looks_of_a_checkpoint_that_was_removed_are_forgotten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, add = tmp_path / "mine.keras", TrainingOutput.add

    def interrupted(place: TrainingOutput, record: dict[str, Any]) -> None:
        add(place, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingOutput, "add", interrupted)
        assert train(folder, out, *SCRATCH) == 1
    TrainingOutput(out).checkpoint.unlink()
    capsys.readouterr()
    assert train(folder, out, *SCRATCH, "--json") == 0
    told = capsys.readouterr()
    assert "going on after" not in told.err
    looks = json.loads(Path(json.loads(told.out)["curves"]).read_text())["looks"]
    assert [look["step"] for look in looks] == [1, 2, 3, 4]


def test_blocks_that_share_samples_with_held_out_ones_are_left_out_where_others_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for block, left_out in (("3,12,24", False), ("4,24,24", True), ("6,24,24", None)):
        blocks = tmp_path / block
        words = ["blocks", "export", str(folder / "cube.zarr"), "--var", "full", "--block", block, "-o", str(blocks)]
        assert run(words) == 0
        (source,), _ = open_sources([blocks], variables=None, domain=None, time=None, trust=None)
        (family,) = split_sources([source], share=0.25, learned_samples=1, held_out_samples=1, seed=0)
        assert ("left out" in family.split) == bool(left_out)
        assert ("which share samples" in family.split) == (left_out is None)


def test_weights_that_lose_to_the_base_are_not_called_better(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"base": 1.0, "network": 2.0, "before": 3.0}
    result = {
        "held_out": {"a": {**row, "samples": 9, "coverage": None}},
        "held_out_against_base": row,
        "better": False,
        "steps": 1,
        "seconds": 1.0,
        "model": "mine.keras",
    }
    _show(result)
    assert "2 times that of the base, so that there is no reason to use these" in capsys.readouterr().out


def test_own_weights_go_on_with_other_data_and_keep_their_base(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more.keras"
    sources = [str(folder / "blocks"), str(folder / "cube.nc")]
    words = ["--var", "full", "--from", str(trained), "--steps", "2", "--family-weight", "cube:full=0.5"]
    assert run(["train", *sources, "-o", str(out), *words]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert any(line.split()[:1] == ["blocks:ndvi"] for line in lines)
    assert any(line.split()[:1] == ["cube:full"] for line in lines)
    assert "before" in told.out
    assert "of the weights it started from" in told.out or "than the weights it started from" in told.out
    assert "blocks:ndvi: split by number" in told.err
    assert read_info(out).mixture == read_info(trained).mixture
    assert read_info(out).provenance["from"] == {"name": "mine.keras", "sha256": read_info(trained).digest}
    assert read_info(out).provenance["families"] == {"blocks:ndvi": 1.0, "cube:full": 0.5}
    assert any((a != b).any() for a, b in zip(weights_of(trained), weights_of(out), strict=True))


def test_a_cube_without_gaps_is_told_and_a_loss_that_is_no_number_fails_and_keeps_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = Deck.batch

    def broken(deck: Deck, step: int, count: int) -> tuple[Any, Any]:
        inputs, wanted = batch(deck, step, count)
        return inputs, wanted * (np.nan if step == 1 else 1)

    monkeypatch.setattr(Deck, "batch", broken)
    cube, out = str(folder / "cube.zarr"), tmp_path / "a.keras"
    assert run(["train", cube, "--var", "full", "-o", str(out), *SCRATCH]) == 1
    *lines, error = capsys.readouterr().err.splitlines()
    assert any("there is no gap to learn shapes from: parts are hidden by blobs, speckle" in line for line in lines)
    assert lines[-1].startswith("step 1 of 4  loss ")
    assert error.startswith("stpipe: error: the loss of step 2 is nan; lower the learning rate of 0.002")
    assert not out.exists()
    assert TrainingOutput(out).checkpoint.exists()


@pytest.mark.parametrize("steps", [1, 400, 3000, 10**9], ids=str)
@pytest.mark.parametrize("families", [1, 7], ids=str)
def test_examples_are_bounded_however_long_the_training_and_however_many_the_families(
    tmp_path: Path, steps: int, families: int
) -> None:
    source = Source(name="a", families=tuple(f"a:{number}" for number in range(families)), identity=None)
    job = TrainingJob(
        sources=(source,),
        place=TrainingOutput(tmp_path / "a.keras"),
        start=None,
        start_name="scratch",
        settings=Settings(steps=steps, learning_rate=1e-3),
        hold_out=0.25,
        valid_range=None,
    )
    learned, held_out = job.samples
    made = learned * WAYS * families
    assert min(MOST_SAMPLES, SAMPLES_A_STEP * steps) - WAYS * families < made <= MOST_SAMPLES
    assert 0.09 * made < held_out * JUDGING_WAYS * families <= 0.11 * made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--learning-rate", "0"], "--learning-rate must be a number above 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a number above 0"),
        (["--hold-out", "0"], "--hold-out is a share above 0 and up to 0.5"),
        (["--hold-out", "0.6"], "--hold-out is a share above 0 and up to 0.5"),
        (["--family-weight", "ndvi"], "--family-weight needs NAME=W such as hls:NIR=2, got 'ndvi'"),
        (["--family-weight", "=2"], "--family-weight needs NAME=W"),
        (["--family-weight", "cube:evi=2"], "--family-weight names cube:evi, but there are cube:ndvi"),
        (["--family-weight", "cube:ndvi=0"], "--family-weight leaves nothing to learn from"),
        (["--family-weight", "cube:ndvi=-1"], "--family-weight cube:ndvi must be a number of at least 0"),
        (["--family-weight", "a=1", "--family-weight", "a=2"], "--family-weight names a twice"),
        (["--resume"], "--resume: there is no training to go on with"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--from", "nowhere.keras"], "no model 'nowhere.keras'"),
        (["--var", "evi"], "evi"),
        (["--var", "nothing"], "cube:nothing holds no part to learn from with a valid sample"),
        (["--var", "late"], "cube:late holds no part to learn from with a valid sample"),
        (["--valid-range", "5,6"], "cube:ndvi holds no part to learn from with a valid sample"),
        (["--valid-range", "6,5"], "--valid-range needs LO,HI with LO <= HI"),
        (["--time", "2023-01-01/2023-01-20"], "nothing of cube can be held out: by region it would need 96 pixels"),
        (["--domain", "lake"], "lake"),
        (["-o", "weights.h5"], "-o needs the name of a model file, which ends in .keras, got weights.h5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    variable = [] if "--var" in words else ["--var", "ndvi"]
    assert run(["train", str(folder / "cube.zarr"), "-o", str(tmp_path / "a.keras"), *variable, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    error = err.splitlines()[-1]
    assert error.startswith("stpipe: error: ")
    assert message in error
    assert err.count("stpipe: error") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.zarr", "there is no file or folder"),
        ("folder", "nor is it a folder of blocks"),
        (
            "one.zarr",
            "nothing of one can be held out: by region it would need 96 pixels along y or x, by period 8 frames",
        ),
    ],
)
def test_sources_that_are_none_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    assert run(["train", str(folder / source), "-o", str(tmp_path / "a.keras")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_weights_of_a_name_that_is_taken_and_published_ones_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data_folder: Path
) -> None:
    out = tmp_path / "a.keras"
    out.write_text("mine")
    assert train(folder, out) == 2
    assert "a.keras exists; choose another name with -o, or replace it with --overwrite" in capsys.readouterr().err
    published = data_folder / "stpconv_s5p_co" / "S5P_CO_model.h5"
    assert train(folder, tmp_path / "b.keras", "--from", str(published)) == 2
    assert "is the published network, which sees physical values" in capsys.readouterr().err
    assert train(folder, tmp_path / "b.keras", "--from", str(out)) == 2
    assert "is damaged, or no model file" in capsys.readouterr().err
    assert out.read_text() == "mine"
