"""The files of a training: what may be replaced, what can be gone on with, and what differs if not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stpipe.errors import OptionError, OutputError
from stpipe.io.training_output import TrainingOutput

SETTINGS = {"--steps": 4, "--seed": 0, "--family-weight": {"a": 1.0}, "--valid-range": (0.0, 1.0)}


def begun(path: Path) -> TrainingOutput:
    """A training that was killed after a checkpoint."""
    place = TrainingOutput(path)
    with place.locked():
        place.begin(SETTINGS)
        place.checkpoint.write_bytes(b"weights")
        place.add({"step": 2, "loss": 0.5})
    return place


def test_what_was_begun_goes_on_and_nothing_else(tmp_path: Path) -> None:
    place = begun(tmp_path / "a.keras")
    assert place.goes_on(SETTINGS, resume=False, overwrite=False)
    assert place.goes_on(SETTINGS, resume=True, overwrite=False)
    assert not place.goes_on(SETTINGS, resume=False, overwrite=True)
    assert place.records() == [{"step": 2, "loss": 0.5}]
    other = SETTINGS | {"--seed": 1, "--steps": 5}
    with pytest.raises(
        OutputError, match=r"a\.keras\.work holds an unfinished training that differs in --seed, --steps;"
    ):
        place.goes_on(other, resume=False, overwrite=False)
    with pytest.raises(OptionError, match="--resume: there is no training to go on with"):
        TrainingOutput(tmp_path / "b.keras").goes_on(SETTINGS, resume=True, overwrite=False)
    place.begin(other)
    assert place.records() == []
    assert not place.checkpoint.exists()
    assert place.goes_on(other, resume=False, overwrite=False)
    place.finish()
    assert not place.has_work


def test_what_fails_before_a_checkpoint_leaves_nothing_and_after_it_the_checkpoint(tmp_path: Path) -> None:
    place = TrainingOutput(tmp_path / "a.keras")

    def fail(*, late: bool) -> None:
        with place.locked():
            place.begin(SETTINGS)
            if late:
                place.checkpoint.write_bytes(b"weights")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(late=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError):
        fail(late=True)
    assert place.checkpoint.exists()


def test_names_that_are_taken_are_refused_unless_they_may_be_replaced(tmp_path: Path) -> None:
    place = TrainingOutput(tmp_path / "a.b.keras")
    place.check_place(overwrite=False)
    for taken in (place.model, place.curves, place.picture):
        taken.write_text("mine")
        with pytest.raises(OutputError, match=rf"{taken.name} exists; choose another name with -o, or .* --overwrite"):
            place.check_place(overwrite=False)
        place.check_place(overwrite=True)
        taken.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_a_training_that_was_killed_at_its_very_end_can_be_ended(tmp_path: Path) -> None:
    place = begun(tmp_path / "a.keras")
    place.write_curves({"looks": []})
    place.check_place(overwrite=False)
    place.model.write_bytes(b"weights")
    with pytest.raises(OutputError, match=r"a\.keras exists"):
        place.check_place(overwrite=False)


def test_what_is_not_a_trainings_is_never_touched(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"-o needs the name of a model file, which ends in \.keras, got .*a\.h5"):
        TrainingOutput(tmp_path / "a.h5").check_place(overwrite=True)
    place = TrainingOutput(tmp_path / "a.keras")
    place.work.mkdir()
    (place.work / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.keras\.work holds something else \(thesis.txt\)"):
        place.check_place(overwrite=True)
    (place.work / "thesis.txt").unlink()
    (place.work / ".settings.json.f00.partial").write_text("killed while writing")
    place.check_place(overwrite=False)
    (place.work / ".settings.json.f00.partial").unlink()
    place.work.rmdir()
    place.work.write_text("mine")
    with pytest.raises(OutputError, match="is in the way"):
        place.check_place(overwrite=True)
    place.work.unlink()
    place.model.mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        place.check_place(overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file"):
        TrainingOutput(tmp_path / "file" / "a.keras").check_place(overwrite=False)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    place = TrainingOutput(tmp_path / "a.keras")
    code = (
        "import sys, pathlib\nfrom stpipe.io.training_output import TrainingOutput\n"
        "with TrainingOutput(pathlib.Path(sys.argv[1])).locked(): pass"
    )
    with place.locked():
        place.checkpoint.write_bytes(b"weights")
        done = subprocess.run(
            [sys.executable, "-c", code, str(place.model)], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert "another process is training" in done.stderr
    assert place.checkpoint.exists()
