"""Weights from elsewhere: nothing in a model file is run, unpacked beside it, or believed to any size."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from stpipe.errors import ModelFileError
from stpipe.model.features import GUIDES
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet
from stpipe.model.weights import load_model, save_model

from .doors import snapshot, tiny_cube

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MIXTURE = tuple(tuple(1.0 if i == 0 else 0.0 for i in range(len(GUIDES))) for _ in range(5))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = UNetSpec(filters=(4,), head_filters=4)
    path = tmp_path_factory.mktemp("model") / "honest.keras"
    save_model(path, build_unet(spec), spec, mixture=MIXTURE, calibration=1.0, provenance={})
    return path


def blocks(folder: Path) -> Path:
    """Write a folder of one block."""
    folder.mkdir()
    for name, samples in (("X_a", np.ones((4, 8, 8), np.float32)), ("MASK_a", np.ones((4, 8, 8), np.uint8))):
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=4, height=8, width=8, dtype=samples.dtype,
            transform=from_origin(0, 80, 10, 10),
        ) as file:  # fmt: skip
            file.write(samples)
    return folder


def spoil(honest: Path, path: Path, members: dict[str, bytes | None]) -> Path:
    """Copy a model with other members in place of its own, or without them."""
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in members:
                new.writestr(name, old.read(name))
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
    return path


def told(honest: Path, path: Path, **fields: Any) -> Path:
    """Copy a model that says other things of itself."""
    with zipfile.ZipFile(honest) as archive:
        said = json.loads(archive.read("stpipe.json"))
    return spoil(honest, path, {"stpipe.json": json.dumps(said | fields).encode()})


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """Make a Keras model that makes a file when it is opened and called, and say where that file would be."""
    canary, path = tmp_path / "canary", tmp_path / "trap.keras"
    source = f"lambda x: (__import__('pathlib').Path({str(canary)!r}).touch(), x)[1]"
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(eval(source))]).save(path)
    canary.unlink()
    return path, canary


def test_the_trap_would_shut(trap: tuple[Path, Path]) -> None:
    path, canary = trap
    keras.models.load_model(path, safe_mode=False)(np.ones((1, 2)))
    assert canary.exists()


def test_a_lambda_is_not_run(trap: tuple[Path, Path], honest: Path, tmp_path: Path, refused: Any) -> None:
    path, canary = trap
    folder = blocks(tmp_path / "blocks")
    cube = tiny_cube(tmp_path / "cube.zarr")
    assert "another Keras model, not a model that stpipe wrote" in refused("info", "--model", path)
    refused("fill-scene", cube, "--model", path, "-o", tmp_path / "out")
    refused("blocks", "fill", folder, "--model", path, "-o", tmp_path / "out")
    # With a label of ours on it, its numbers are read, which fit no network of ours; its layers never are.
    with zipfile.ZipFile(path) as theirs, zipfile.ZipFile(honest) as ours:
        members = {name: theirs.read(name) for name in theirs.namelist()} | {"stpipe.json": ours.read("stpipe.json")}
    labelled = spoil(honest, tmp_path / "labelled.keras", members)
    assert "holds weights that don't fit its own spec" in refused(
        "blocks", "fill", folder, "--model", labelled, "-o", tmp_path / "out"
    )
    # Where the numbers do fit, the layers that the file describes are of no interest.
    config = members["config.json"]
    assert load_model(spoil(honest, tmp_path / "layers.keras", {"config.json": config})).network.name != "sequential"
    assert not canary.exists()


def test_members_with_paths_are_unpacked_nowhere(honest: Path, tmp_path: Path) -> None:
    names = ("../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "model.weights.h5/../../evil")
    (tmp_path / "in").mkdir()
    path = spoil(honest, tmp_path / "in" / "model.keras", dict.fromkeys(names, b"evil"))
    before = snapshot(tmp_path)
    load_model(path)
    assert snapshot(tmp_path) == before


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(
    honest: Path, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spoil(honest, tmp_path / "bomb.keras", {"zeros": bytes(2**26)})
    load_model(path)
    monkeypatch.setattr("stpipe.model.weights.LARGEST", 2**26)
    assert "unpacks to 64." in refused("info", "--model", path)
    assert "more than any model of stpipe" in refused("info", "--model", path)


ODD: dict[str, dict[str, Any]] = {
    "a thousand levels": {"spec": {"filters": [4] * 1000, "head_filters": 4, "inputs": 1}},
    "a billion filters": {"spec": {"filters": [10**9], "head_filters": 4, "inputs": 1}},
    "infinite filters": {"spec": {"filters": [float("inf")], "head_filters": 4, "inputs": 1}},
    "no filters": {"spec": {"filters": [], "head_filters": 4, "inputs": 1}},
    "a spec that is none": {"spec": [1, 2]},
    "a calibration that is none": {"calibration": "\x1b[31m"},
    "an infinite calibration": {"calibration": float("inf")},
    "a mixture that is none": {"mixture": [[1e999]]},
    "guides that are none": {"guides": ["\x1b[31m", "[/bold]"]},
    "provenance that is none": {"provenance": 5},
}


@pytest.mark.parametrize("kind", ODD)
def test_what_a_file_says_of_itself_is_checked(kind: str, honest: Path, tmp_path: Path, refused: Any) -> None:
    refused("info", "--model", told(honest, tmp_path / "odd.keras", **ODD[kind]))


def test_a_label_without_end_is_no_label(honest: Path, tmp_path: Path, refused: Any) -> None:
    path = spoil(honest, tmp_path / "deep.keras", {"stpipe.json": b"[" * 100_000 + b"]" * 100_000})
    assert "can't be understood" in refused("info", "--model", path)


def test_numbers_without_end_or_in_other_files_are_not_read(honest: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    for name, make in (
        ("huge", lambda file: file.create_dataset("w", (10**12,), "f4", chunks=(1024,))),
        ("outside", lambda file: file.create_dataset("w", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])),
    ):
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            make(file)
        members = {"model.weights.h5": (tmp_path / "weights.h5").read_bytes()}
        message = "claims 1,000,000,000,000 numbers" if name == "huge" else "in other files"
        with pytest.raises(ModelFileError, match=message):
            load_model(spoil(honest, tmp_path / f"{name}.keras", members))
        (tmp_path / "S5P.json").write_text(json.dumps({"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1}))
        shutil.copy(tmp_path / "weights.h5", tmp_path / "S5P.h5")
        with pytest.raises(ModelFileError, match=message):
            load_model(tmp_path / "S5P.h5")


DESCRIPTIONS: dict[str, str] = {
    "levels without end": '{"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1000000000000}',
    "infinite levels": '{"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1e999}',
    "lengths without end": '{"nx": 1000000000000, "ny": 16, "nt": 4, "n_conv_layers": 1}',
    "convolutions without end": '{"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1, "n_conv_per_block": 1000000}',
    "filters without end": '{"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1, "n_filters": [1e300]}',
    "a Lambda": '{"class_name": "Lambda", "config": {"function": "evil"}}',
    "JSON without end": "[" * 100_000,
    "text": "evil",
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_descriptions_of_the_published_network_are_checked(kind: str, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "S5P.json").write_text(DESCRIPTIONS[kind])
    with h5py.File(tmp_path / "S5P.h5", "w") as file:
        file.create_dataset("stpconv/STpconv_kernel", data=np.zeros((3, 3, 3, 1, 4), np.float32))
    refused("info", "--model", tmp_path / "S5P.h5")


@pytest.mark.parametrize("shape", [(), (4,), (3, 3), (3, 3, 3, 1)])
def test_kernels_of_other_shapes_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "S5P.json").write_text(json.dumps({"nx": 16, "ny": 16, "nt": 4, "n_conv_layers": 1}))
    with h5py.File(tmp_path / "S5P.h5", "w") as file:
        for layer, name in (("stpconv", "STpconv_kernel"), ("conv3d", "kernel")):
            file.create_dataset(f"{layer}/{name}", data=np.zeros(shape, np.float32))
            file.create_dataset(f"{layer}/bias", data=np.zeros(4, np.float32))
    with pytest.raises(ModelFileError, match="holds kernels that are not over y, x, time, inputs and outputs"):
        load_model(tmp_path / "S5P.h5")


def test_a_draft_that_is_a_link_is_not_written_through(honest: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / ".mine.draft.keras").symlink_to(tmp_path / "precious")
    spec = UNetSpec(filters=(4,), head_filters=4)
    save_model(tmp_path / "mine.keras", build_unet(spec), spec, mixture=MIXTURE, calibration=1.0, provenance={})
    assert (tmp_path / "precious").read_text() == "years of work"
    assert load_model(tmp_path / "mine.keras").info.spec == load_model(honest).info.spec
