"""Model files: there and back, and one line for everything that is no model."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from stpipe.errors import MissingFileError, ModelFileError
from stpipe.model.features import GUIDES, INPUTS
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet
from stpipe.model.weights import load_model, read_info, save_model

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SPEC = UNetSpec(filters=(4,), head_filters=4)

MIXTURE = ((0.5, 0.125, 0.25, 0.0, 0.0625, 0.0625, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
"""Weights of the guides at two distances, as floats that JSON keeps to the last bit."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    network, rng = build_unet(SPEC), np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.standard_normal(weight.shape))
    path = tmp_path_factory.mktemp("model") / "own.keras"
    save_model(path, network, SPEC, mixture=MIXTURE, calibration=1.25, provenance={"data": "made up"})
    return path, network


def test_a_model_comes_back_with_its_numbers(saved: tuple[Path, Any]) -> None:
    path, network = saved
    model = load_model(path)
    assert (model.info.spec, model.info.calibration, model.info.provenance) == (SPEC, 1.25, {"data": "made up"})
    assert model.info.mixture == MIXTURE
    assert read_info(path) == model.info
    inputs = np.random.default_rng(1).standard_normal((1, 2, 4, 4, INPUTS)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(model.network(inputs)), np.asarray(network(inputs)))
    assert sorted(p.name for p in path.parent.iterdir()) == ["own.keras"]


def test_keras_itself_opens_the_file(saved: tuple[Path, Any]) -> None:
    path, network = saved
    inputs = np.ones((1, 1, 2, 2, INPUTS), dtype=np.float32)
    loaded = keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(np.asarray(loaded(inputs)), np.asarray(network(inputs)))


def test_the_digest_is_the_files(saved: tuple[Path, Any], tmp_path: Path) -> None:
    copy = shutil.copy(saved[0], tmp_path / "copy.keras")
    assert read_info(copy).digest == read_info(saved[0]).digest
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("note.txt", "changed")
    assert read_info(copy).digest != read_info(saved[0]).digest


def test_the_packaged_weights_load_and_stay_small() -> None:
    info = read_info("default")
    assert info.path.stat().st_size < 4 * 2**20
    assert info.calibration > 0
    assert {len(row) for row in info.mixture} == {len(GUIDES)}
    assert {"data", "seed", "steps"} <= set(info.provenance)
    assert load_model("default").network.count_params() > 10_000


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the file says of itself."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    fields = json.loads(members["stpipe.json"])
    change(fields)
    members["stpipe.json"] = json.dumps(fields).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def drop_member(path: Path, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist() if n != name}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def flip_bytes(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
    content = bytearray(path.read_bytes())
    middle = member.header_offset + member.compress_size // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    path.write_bytes(bytes(content))


def old_format(fields: dict[str, Any]) -> None:
    """Say what a file of the first format says."""
    fields.update(format_version=1, guides=["pyramid", "linear"], spec={"filters": [24, 32], "inputs": 11})
    del fields["mixture"]


NO_SUM = "weights of its guides that don't sum to 1 at each distance"

DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:2000]), "damaged, or no model file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged, or no model file"),
    "flipped bytes": (flip_bytes, "damaged: model.weights.h5 in it fails its checksum"),
    "another Keras model": (lambda p: drop_member(p, "stpipe.json"), "another Keras model, not a model that stpipe wr"),
    "without weights": (lambda p: drop_member(p, "model.weights.h5"), "damaged, or no model file"),
    "of a later format": (lambda p: rewrite(p, lambda f: f.update(format_version=9)), "has format 9 of kind 'unet'"),
    "of the first format": (
        lambda p: rewrite(p, old_format),
        "has format 1 of kind 'unet'; this version of stpipe reads format 2 of kind 'unet': train it anew, or use 'def",
    ),
    "of another kind": (lambda p: rewrite(p, lambda f: f.update(kind="forest")), "has format 2 of kind 'forest'"),
    "without a mixture": (lambda p: rewrite(p, lambda f: f.pop("mixture")), NO_SUM),
    "of a mixture of no sum": (lambda p: rewrite(p, lambda f: f.update(mixture=[[0.1] * 7])), NO_SUM),
    "of a mixture below zero": (lambda p: rewrite(p, lambda f: f.update(mixture=[[2, -1, *[0] * 5]])), NO_SUM),
    "of a mixture of NaN": (lambda p: rewrite(p, lambda f: f.update(mixture=[[float("nan")] * 7])), NO_SUM),
    "of a mixture of few": (lambda p: rewrite(p, lambda f: f.update(mixture=[[1, *[0] * 6], [1]])), NO_SUM),
    "of a mixture of words": (lambda p: rewrite(p, lambda f: f.update(mixture=[["half"] * 7])), "can't be understood"),
    "for other guides": (lambda p: rewrite(p, lambda f: f.update(guides=["sar"])), "leans on the guides sar; this"),
    "for other bands": (lambda p: rewrite(p, lambda f: f["spec"].update(inputs=30)), "takes 30 channels of guides"),
    "of another shape": (lambda p: rewrite(p, lambda f: f["spec"].update(filters=[8])), "don't fit its own spec"),
    "of an endless calibration": (
        lambda p: rewrite(p, lambda f: f.update(calibration=float("inf"))),
        "calibration factor of inf",
    ),
    "uncalibrated": (lambda p: rewrite(p, lambda f: f.update(calibration=0)), "calibration factor of 0"),
    "no object": (lambda p: rewrite(p, dict.clear), "stpipe.json that can't be understood"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_model_is_refused_in_one_line(saved: tuple[Path, Any], tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copy(saved[0], tmp_path / "bad.keras"))
    spoil, message = DAMAGES[damage]
    spoil(path)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no model 'nosuch': give 'default'"):
        load_model("nosuch")
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)


def test_a_name_without_its_ending_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"ends in \.keras, got own\.h5"):
        save_model(tmp_path / "own.h5", saved[1], SPEC, mixture=MIXTURE, calibration=1.0, provenance={})
    assert not list(tmp_path.iterdir())


def published(folder: Path, *, bands: int = 1, filters: int = 4) -> Path:
    """Write a small network as the published training would have."""
    fields = {"nx": 8, "ny": 8, "nt": 4, "n_conv_layers": 1, "n_filters": [filters], "kernel_sizes": [[3, 3, 3]]}
    (folder / "own.json").write_text(json.dumps({**fields, "strides": [[2, 2, 2]]}))
    rng = np.random.default_rng(0)
    with h5py.File(folder / "own.h5", "w") as file:
        for name, shape in (("s_tpconv", (3, 3, 3, bands, 4)), ("s_tpconv_1", (3, 3, 3, 4 + bands, 1))):
            file[f"{name}/{name}/STpconv_kernel:0"] = rng.standard_normal(shape).astype(np.float32)
            file[f"{name}/{name}/bias:0"] = np.zeros(shape[-1], dtype=np.float32)
        file["conv3d/conv3d/kernel:0"] = np.ones((1, 1, 1, 1, 1), dtype=np.float32)
        file["conv3d/conv3d/bias:0"] = np.zeros(1, dtype=np.float32)
    return folder / "own.h5"


def test_a_published_pair_loads(tmp_path: Path) -> None:
    model = load_model(published(tmp_path))
    assert (model.info.kind, model.info.spec.stride) == ("legacy", (2, 2, 2))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        pytest.param(lambda p: p.with_suffix(".json").unlink(), MissingFileError, "own.json beside", id="no json"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:900]), ModelFileError, "is damaged", id="cut short"),
        pytest.param(lambda p: p.write_bytes(b"GIF89a"), ModelFileError, "is damaged", id="no HDF5"),
        pytest.param(lambda p: p.with_suffix(".json").write_text("{"), ModelFileError, "is no JSON", id="broken json"),
        pytest.param(lambda p: p.with_suffix(".json").write_text("[]"), ModelFileError, "no network", id="json list"),
        pytest.param(
            lambda p: p.with_suffix(".json").write_text('{"nx": 8}'),
            ModelFileError,
            "needs nx, ny",
            id="json of little",
        ),
        pytest.param(
            lambda p: published(p.parent, filters=8), ModelFileError, "different models", id="another description"
        ),
        pytest.param(lambda p: published(p.parent, bands=2), ModelFileError, "trained on 2 bands", id="two bands"),
    ],
)
def test_a_published_pair_that_is_none_is_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    path = published(tmp_path)
    spoil(path)
    with pytest.raises(error, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_another_h5_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path)
    with h5py.File(path, "w") as file:
        file["dense/kernel:0"] = np.ones(3)
    with pytest.raises(ModelFileError, match=r"holds no published network.*found dense"):
        load_model(path)
