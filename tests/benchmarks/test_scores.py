"""The script behind `make scores`: its gaps, its comparison against a plain loop, and what the page says of it."""

from __future__ import annotations

import doctest
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.comparison import ALL

NAMES = ("data", "score_cases", "score_page", "scores")


@pytest.fixture(scope="module")
def modules(repository: Path) -> Iterator[dict[str, ModuleType]]:
    """Return the script's modules, found beside it as when it is run."""
    if not (repository / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        yield {name: importlib.import_module(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_docstrings_run(modules: dict[str, ModuleType], name: str) -> None:
    assert doctest.testmod(modules[name]).failed == 0


def test_both_indices_of_the_composites_are_there_and_each_field_once(
    modules: dict[str, ModuleType], data_folder: Path
) -> None:
    data = modules["data"]
    ndvi, evi = data.load_sinop(data_folder)
    assert (ndvi.name, evi.name) == ("sinop ndvi", "sinop evi")
    assert evi.values.shape == ndvi.values.shape
    np.testing.assert_array_equal(evi.days, ndvi.days)
    assert np.corrcoef(ndvi.values[ndvi.valid & evi.valid], evi.values[ndvi.valid & evi.valid])[0, 1] > 0.5
    one, other = data.load_fusets(data_folder)
    assert not np.array_equal(one.values, other.values)


def made_case(modules: dict[str, ModuleType], draws: int = 2) -> object:
    """Two scenes of waves, each with gaps of its own and others hidden."""
    scenes, hidden = [], []
    for number in range(2):
        rng = np.random.default_rng(number)
        days = np.cumsum(rng.integers(1, 6, 8)).astype(np.float64)
        y, x = np.mgrid[:24, :30] / 9
        values = np.stack([280 + 5 * np.sin(y + day / 9) * np.cos(x) for day in days]) + 0.2 * rng.normal(size=y.shape)
        valid = rng.random(values.shape) > 0.1
        valid[::3, :, :12] = False
        scenes.append(modules["data"].scene_of(f"waves {number}", values, days, valid))
    for draw in range(draws):
        rngs = [np.random.default_rng([draw, number]) for number in range(2)]
        pairs = zip(scenes, rngs, strict=True)
        hidden.append(tuple(modules["score_cases"].gaps_of_other_dates(scene.valid, rng) for scene, rng in pairs))
    return modules["score_cases"].Case(
        name="waves", kind="held out", units="K", what="waves", scenes=tuple(scenes), hidden=tuple(hidden)
    )


def kept(modules: dict[str, ModuleType], folder: Path, case: object, methods: tuple[str, ...]) -> dict[str, Path]:
    """Score methods, and return where their results are."""
    scores, files = modules["scores"], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "case_of", lambda name, folder, quick: case)
        for method in methods:
            files[method] = scores.file_of(folder, case, method, None)
            scores.work("waves", method, folder, files[method], None)
    return files


@given(seed=st.integers(0, 2**16), frames=st.integers(1, 12))
def test_gaps_are_those_of_other_dates_in_half_of_the_frames(
    modules: dict[str, ModuleType], seed: int, frames: int
) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((frames, 5, 6)) > rng.choice([0.0, 0.3, 1.0], size=(frames, 1, 1))
    hidden = modules["score_cases"].gaps_of_other_dates(valid, rng)
    assert (hidden <= valid).all()
    seen = valid.any(axis=(1, 2))
    touched = np.flatnonzero(hidden.any(axis=(1, 2)))
    assert len(touched) <= np.ceil(seen.sum() / 2)
    for t in touched:
        assert any(seen[other] and (hidden[t] == (valid[t] & ~valid[other])).all() for other in range(frames))


def test_whole_frames_are_whole_and_some_are_neighbours(modules: dict[str, ModuleType]) -> None:
    valid = np.ones((23, 3, 3), dtype=bool)
    valid[4] = False
    valid[:, 0, 0] = False
    hidden = modules["score_cases"].whole_frames(valid, np.random.default_rng(0))
    away = hidden.any(axis=(1, 2))
    assert (hidden[away] == valid[away]).all()
    assert away.sum() == 6
    assert (away[1:] & away[:-1]).any()


def test_scores_are_those_of_a_loop_and_results_are_kept(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    scores, case = modules["scores"], made_case(modules)
    files = kept(modules, tmp_path, case, ("pyramid", "linear"))
    found = scores.gather(case, files)
    errors: dict[str, list[np.ndarray]] = {"pyramid": [], "linear": []}
    for number, draw in enumerate(scores.shown(case)):
        for scene, raw in zip(draw, case.scenes, strict=True):
            values = {}
            for method in errors:
                taught = scores.ready(scores.filler_of(method, None), scene.left, scores.SEED + number)
                made = scores.fill_crop(taught, scene.left).values[scene.hidden].astype(np.float64)
                values[method] = made * scene.spread + scene.location - raw.values[scene.hidden]
            both = np.isfinite(list(values.values())).all(axis=0)
            for method, error in values.items():
                errors[method].append(np.abs(error[both]))
    for method, parts in errors.items():
        assert found.find(method).mae == pytest.approx(np.concatenate(parts).mean(), rel=1e-4)
        assert found.find(method).samples == sum(map(len, parts))
    best = min(errors, key=lambda method: found.find(method).mae)
    assert found.best_simple == best
    assert found.ratio(best) == pytest.approx(1.0)
    assert found.records["pyramid"]["units"] < 1e-4
    before = files["linear"].stat().st_mtime_ns
    scores.work("waves", "linear", tmp_path, files["linear"], None)
    assert files["linear"].stat().st_mtime_ns == before


def test_results_are_found_by_samples_and_by_code(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    scores = modules["scores"]
    one, other = (scores.file_of(tmp_path, made_case(modules, draws), "linear", None) for draws in (1, 2))
    assert one != other
    assert scores.file_of(tmp_path, made_case(modules, 1), "linear", None) == one
    assert scores.version("linear", None) != scores.version("pyramid", None)
    files = scores.imported(scores.ROOT / "stpipe/methods/calibrated.py")
    assert {scores.ROOT / "stpipe/core/intervals.py", scores.ROOT / "stpipe/core/windows.py"} <= files
    learns = scores.imported(scores.ROOT / "stpipe/methods/stack.py")
    assert scores.ROOT / "stpipe/methods/forests.py" in learns  # from stpipe.methods import forests
    assert scores.ROOT / "stpipe/methods/auto.py" not in learns
    parts = {part.__name__ for part in scores.parts_of(scores.filler_of("pconv", None))}
    assert {"CalibratedFiller", "StackFiller", "GuideMaker", "Network", "KrigingFiller", "ClimatologyFiller"} <= parts
    assert parts <= {part.__name__ for part in scores.parts_of(scores.filler_of("auto", None))}


def test_the_page_says_what_holds_and_leaves_out_what_was_not_measured(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    scores, show, case = modules["scores"], modules["score_page"], made_case(modules)
    files = kept(modules, tmp_path, case, ("pyramid", "linear"))
    found = scores.gather(case, files)
    text = show.page([found], default="pconv", untuned="pconv untuned", ablations={}, without=("auto",))
    assert "Left out of this run: auto." in text
    assert "| waves (K) |" in text
    assert "| pyramid |" in text
    assert not {"## Targets", "## Intervals", "## Ablations"} & set(text.splitlines())
    # A default that says what the best simple method says ties, and one that is a copy of a worse one loses.
    worse = max(files, key=lambda method: found.find(method).mae)
    for source, ratio in ((found.best_simple, 1.0), (worse, found.ratio(worse))):
        doubled = scores.gather(case, {**files, "pconv": files[source]})
        targets = show.targets([doubled], default="pconv", untuned="pconv")
        assert show.geometric_mean([doubled.ratio("pconv")]) == pytest.approx(ratio)
        assert targets[0].holds is False
        assert "waves" in targets[0].found
        assert targets[2].holds is None
        assert targets[4].holds is (ratio <= 1.05)
        row = doubled.find("pconv", ALL)
        assert targets[6].holds is (0.87 <= row.coverage <= 0.93)
    networks = {
        "full": {"errors": {"a": 1, "b": 1}, "widths": {"a": 5, "b": 5}},
        "bare": {"errors": {"a": 2, "b": 8}, "widths": {"a": 5, "b": 20}},
    }
    ablations = {"steps": 9, "seed": 3, "networks": networks}
    text = show.page([doubled], default="pconv", untuned="pconv", ablations=ablations)
    assert {"## Targets", "## Intervals", "## By kind of gap", "## Ablations"} <= set(text.splitlines())
    assert "| bare | 2.000 | 8.000 | 4.00 |" in text
    assert "| bare | 5.000 | 20.00 | 2.00 |" in text


def test_a_method_that_fills_too_little_is_named_and_not_compared(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    scores, case = modules["scores"], made_case(modules)
    files = kept(modules, tmp_path, case, ("pyramid",))
    with np.load(files["pyramid"]) as stored:
        said, record = stored["said"].copy(), stored["record"]
    said[0, : said.shape[1] * 3 // 4] = np.nan
    files["sparse"], files["no"] = tmp_path / "sparse.npz", tmp_path / "no.npz"
    np.savez(files["sparse"], said=said, record=record)
    refusal = np.frombuffer(json.dumps({"refused": "one frame"}).encode(), dtype=np.uint8)
    np.savez(files["no"], said=np.empty((2, 0), dtype=np.float32), record=refusal)
    found = scores.gather(case, files)
    assert dict(found.left_out) == {"sparse": "fills 25 %", "no": "one frame"}
    assert found.find("pyramid").samples == found.hidden
    text = modules["score_page"].page([found], default="pconv", untuned="pconv", ablations={})
    assert "- no not compared in waves: one frame" in text


def test_without_data_there_is_one_line(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert modules["scores"].main([str(tmp_path / "nothing"), "-o", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "set STPIPE_DATA to the folder of the public data sets" in said.err
    assert modules["scores"].main([str(tmp_path), "-o", str(tmp_path), "--only", "cow"]) == 2
    assert capsys.readouterr().err.startswith("no row cow; there are co, hls-ndvi")


def test_the_model_card_has_the_table_of_the_page(modules: dict[str, ModuleType]) -> None:
    scores = modules["scores"]
    page = (scores.ROOT / "docs/scores.md").read_text(encoding="utf-8")
    card = (scores.ROOT / "stpipe/model/packaged/MODEL_CARD.md").read_text(encoding="utf-8")
    assert scores.carded(card, page) == card
    other = scores.carded(card, page.replace("| sst (K) |", "| sea (K) |"))
    assert "| sea (K) |" in other
    assert [line for line in other.splitlines() if line.startswith("#")] == [
        line for line in card.splitlines() if line.startswith("#")
    ]
    assert scores.carded(other, page) == card
