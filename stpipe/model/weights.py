"""Weights in and out: a Keras 3 file that also says what the network is, and the published network's own files.

A ``.keras`` file of stpipe is the archive that Keras writes, plus a member ``stpipe.json``: the version of the format,
the network's spec, the guides it leans on and their usual weights, the factor that calibrates its intervals, and where
the weights come from.
On loading, the network is rebuilt from the spec and only numbers are read from the archive: nothing in the file is
ever run. What the file says is read without Keras, so that planning stays light.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from stpipe.core.ports import JSON
from stpipe.core.sizes import gib
from stpipe.errors import MissingFileError, ModelFileError, ShapeError
from stpipe.model import backend
from stpipe.model.features import GUIDES
from stpipe.model.hdf5 import check_arrays
from stpipe.model.legacy import LegacySpec, description_of, load_legacy, read_legacy_spec
from stpipe.model.spec import UNetSpec

FORMAT_VERSION = 2
"""1 had a network that knew two guides."""

LARGEST = 2**30
"""Bytes of all members of a model file, unpacked; the packaged one has a few millions."""

DEFAULT = "default"
"""Name of the packaged weights."""

_MEMBER = "stpipe.json"
_WEIGHTS = "model.weights.h5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model file says of itself."""

    path: Path
    """Where it lies."""

    kind: Literal["unet", "legacy"]
    """The default network, or the published one."""

    digest: str
    """sha256 of the file; of weights and description for the published network."""

    spec: UNetSpec | LegacySpec
    """The network's shape."""

    mixture: tuple[tuple[float, ...], ...] = ()
    """Weight of each guide in the base at each distance, see `stpipe.methods.mixing`, where nothing was learned of a
    cube; empty for the published network."""

    calibration: float = 1.0
    """Half-widths are multiplied with this to cover 90 %."""

    provenance: Mapping[str, JSON] = field(default_factory=dict)
    """How and on what it was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network with its weights."""

    info: ModelInfo
    """What the file says."""

    network: Any
    """A Keras model, see `stpipe.model.unet.build_unet` and `stpipe.model.legacy.build_legacy`."""


def model_path(name: str | Path) -> Path:
    """Return the path of a model: ``default`` for the packaged weights, else a file."""
    if str(name) == DEFAULT:
        return Path(str(files("stpipe.model"))) / "packaged" / "default.keras"
    path = Path(name)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; a model is a .keras file, or a .h5 with its .json")
    if not path.is_file():
        raise MissingFileError(
            f"no model {str(name)!r}: give {DEFAULT!r}, the path of a .keras file that stpipe wrote, "
            "or that of a published .h5 with its .json beside it"
        )
    return path


def read_info(name: str | Path) -> ModelInfo:
    """Return what a model file says of itself, without building the network.

    Examples
    --------
    >>> info = read_info("default")
    >>> info.kind, info.spec.stride
    ('unet', (1, 4, 4))
    """
    path = model_path(name)
    if path.suffix == ".h5":
        spec = read_legacy_spec(path)
        return ModelInfo(path=path, kind="legacy", digest=_digest(path, description_of(path)), spec=spec)
    return _parse(path, _member(path, _MEMBER))


def load_model(name: str | Path) -> Model:
    """Return a model with its weights; `ModelFileError` says what is wrong with a file that is none."""
    info = read_info(name)
    backend.start()
    if isinstance(info.spec, LegacySpec):
        network, _ = load_legacy(info.path)
        return Model(info=info, network=network)
    import h5py

    from stpipe.model.unet import build_unet

    network = build_unet(info.spec)
    content = _member(info.path, _WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / _WEIGHTS
        weights.write_bytes(content)
        try:
            with h5py.File(weights, "r") as file:
                check_arrays(file, info.path)
            with warnings.catch_warnings():
                # What Keras finds no weights for it warns of and leaves at random.
                warnings.simplefilter("error", UserWarning)
                network.load_weights(weights)
        except ModelFileError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserWarning) as error:
            reason = str(error).strip().splitlines() or [repr(error)]
            raise ModelFileError(f"{info.path} holds weights that don't fit its own spec: {reason[0]}") from error
    return Model(info=info, network=network)


def save_model(
    path: Path,
    network: Any,
    spec: UNetSpec,
    *,
    mixture: Sequence[Sequence[float]],
    calibration: float,
    provenance: Mapping[str, JSON],
) -> ModelInfo:
    """Write a model file; it appears under its name only when complete."""
    if path.suffix != ".keras":
        raise ModelFileError(f"a model file's name ends in .keras, got {path.name}")
    fields = {
        "format_version": FORMAT_VERSION,
        "kind": "unet",
        "spec": spec.as_json(),
        "guides": list(GUIDES),
        "mixture": [list(row) for row in mixture],
        "calibration": calibration,
        "provenance": dict(provenance),
    }
    from stpipe.model.unet import build_unet

    bare = build_unet(spec)  # without the optimizer's state, which is twice the weights
    bare.set_weights(network.get_weights())
    draft = path.with_name(f".{path.stem}.draft.keras")
    draft.unlink(missing_ok=True)  # it may be a link
    try:
        bare.save(draft)
        with zipfile.ZipFile(draft, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(fields, indent=1, sort_keys=True))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return read_info(path)


def _member(path: Path, name: str) -> bytes:
    """Read one member of a model file; the archive checks its sum."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _MEMBER not in archive.namelist():
                raise ModelFileError(
                    f"{path} is {_guess(archive)}, not a model that stpipe wrote: it has no {_MEMBER}; "
                    f"train one, or use {DEFAULT!r}"
                )
            size = sum(member.file_size for member in archive.infolist())
            if size > LARGEST:
                raise ModelFileError(f"{path} unpacks to {gib(size)}, which is more than any model of stpipe")
            spoilt = archive.testzip()
            if spoilt is not None:
                raise ModelFileError(f"{path} is damaged: {spoilt} in it fails its checksum; get it again")
            return archive.read(name)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        KeyError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ModelFileError(
            f"{path} is damaged, or no model file: {error}; get it again, or use {DEFAULT!r}"
        ) from error


def _guess(archive: zipfile.ZipFile) -> str:
    return "another Keras model" if "config.json" in archive.namelist() else "some other archive"


def _parse(path: Path, content: bytes) -> ModelInfo:
    try:
        fields = json.loads(content)
        version, kind = fields["format_version"], fields["kind"]
        if version != FORMAT_VERSION or kind != "unet":
            raise ModelFileError(
                f"{path} has format {version} of kind {kind!r}; this version of stpipe reads format {FORMAT_VERSION} "
                f"of kind 'unet': train it anew, or use {DEFAULT!r}"
            )
        guides, calibration = tuple(fields["guides"]), float(fields["calibration"])
        mixture = tuple(tuple(float(weight) for weight in row) for row in fields.get("mixture", ()))
        spec_fields, provenance = dict(fields["spec"]), dict(fields.get("provenance", {}))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path} has a {_MEMBER} that can't be understood: {error!r}") from error
    if guides != GUIDES:
        raise ModelFileError(
            f"{path} leans on the guides {', '.join(map(str, guides)) or 'none'}; this version of stpipe gives "
            f"{', '.join(GUIDES)}"
        )
    if not mixture or not all(_is_mean(row) for row in mixture):
        raise ModelFileError(f"{path} has weights of its guides that don't sum to 1 at each distance: {mixture}")
    if not (math.isfinite(calibration) and calibration > 0):
        raise ModelFileError(f"{path} has a calibration factor of {calibration}; it must be above 0")
    try:
        spec = UNetSpec.from_json(spec_fields)
    except (ModelFileError, ShapeError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    return ModelInfo(
        path=path,
        kind="unet",
        digest=_digest(path),
        spec=spec,
        mixture=mixture,
        calibration=calibration,
        provenance=provenance,
    )


def _is_mean(row: Sequence[float]) -> bool:
    return len(row) == len(GUIDES) and min(row) >= 0 and abs(sum(row) - 1) <= 1e-6  # false for NaN


def _digest(*paths: Path) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()
