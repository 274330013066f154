"""The same model file answers alike, and is trained on, with Keras on TensorFlow, JAX and Torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

LESSON = """
import sys
from pathlib import Path

import keras
import numpy as np

from stpipe.model.patches import Deck
from stpipe.model.training import Schedule, answer, train
from stpipe.model.weights import load_model, save_model
from tests.model.sceneries import biased_example

folder, given = Path(sys.argv[1]), sys.argv[2]
model = load_model(given)
each = biased_example(9, (8, 24, 24))
before, width, _ = answer(model.network, each)
told = []
if given == "default":
    deck = Deck([biased_example(number, (6, 16, 16)) for number in range(3)], size=(4, 16, 16), seed=1)
    # The rate still rises at first: a few steps move the weights, and little.
    train(model.network, deck, Schedule(steps=6, batch=2, every=1), report=lambda progress: told.append(progress.loss))
    info = model.info
    save_model(
        folder / "taught.keras",
        model.network,
        info.spec,
        mixture=info.mixture,
        calibration=info.calibration,
        provenance={},
    )
after, *_ = answer(model.network, each)
np.savez(
    folder / "answers.npz", before=before, width=width, after=after, told=told, backend=keras.backend.backend()
)
"""


def lesson(backend: str, folder: Path, model: str = "default") -> dict[str, np.ndarray]:
    """Let a process of its own answer, learn and write with a backend."""
    folder.mkdir()
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", LESSON, str(folder), model],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as file:
        answers = {name: file[name] for name in file.files}
    assert answers["backend"] == backend
    return answers


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return lesson("tensorflow", tmp_path_factory.mktemp("backends") / "tensorflow")


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_one_file_answers_alike_and_learns_alike(
    backend: str, tensorflow: dict[str, np.ndarray], tmp_path: Path
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = lesson(backend, tmp_path / "there")
    spread = float(np.std(tensorflow["before"]))
    for name, tolerance in (("before", 1e-5), ("after", 1e-3)):
        np.testing.assert_allclose(here[name], tensorflow[name], rtol=0, atol=tolerance * spread)
    np.testing.assert_allclose(here["width"], tensorflow["width"], rtol=1e-4)
    np.testing.assert_allclose(here["told"], tensorflow["told"], rtol=1e-3)
    moved = float(np.abs(tensorflow["after"] - tensorflow["before"]).max())
    assert moved > 5e-3 * spread  # or learning alike would say nothing
    # What was learned there is read here.
    again = lesson("tensorflow", tmp_path / "here", str(tmp_path / "there" / "taught.keras"))
    np.testing.assert_allclose(again["before"], here["after"], rtol=0, atol=1e-5 * spread)
