"""The scene, the runs that faults share, and the table that is made in the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.plan import Fault, faults
from tests.integration.faults.runs import Bench
from tests.integration.faults.scene import Scene, make_scene
from tests.integration.faults.table import Outcome, load, save, table, write

SEEN = pytest.StashKey[dict[str, object]]()
OUTCOMES = pytest.StashKey[dict[str, Outcome]]()


@pytest.fixture(scope="session")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube with gaps."""
    path = tmp_path_factory.mktemp("cube") / "cube.zarr"
    make_scene(path)
    return path


def undisturbed(cube: Path, folder: Path, method: str) -> Scene:
    """Return a cube and the digests of its undisturbed run."""
    bench = Bench(None, folder, folder / "out", cube=cube, method=method)
    ended = bench.start_share("1/1", "--keep-work").end()
    assert ended.code == 0, ended
    return Scene.of(cube, bench.out, ended.said, method)


@pytest.fixture(scope="session")
def scene(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A cube and the digests of its undisturbed run."""
    return undisturbed(cube, tmp_path_factory.mktemp("linear"), "linear")


@pytest.fixture(scope="session")
def network(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same cube, filled by the network."""
    return undisturbed(cube, tmp_path_factory.mktemp("pconv"), "pconv")


class Runs:
    """Runs that faults share; see `inject.Shelf`."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self.folder = scene, folder

    def interrupted(self, stage: str, after: int) -> Path:
        place = self.folder / stage
        if not place.exists():
            bench = Bench(self.scene, place, place / "out")
            place.mkdir()
            bench.interrupted(stage, after)
        return place / "out"

    def other(self) -> Path:
        place = self.folder / "other"
        if not place.exists():
            place.mkdir()
            make_scene(place / "cube.zarr", seed=50)
            bench = Bench(self.scene, place, place / "out", cube=place / "cube.zarr")
            ended = bench.start_share("1/1", "--keep-work").end()
            assert ended.code == 0, ended
        return place / "out"


@pytest.fixture(scope="session")
def shelf(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs that several faults share."""
    return Runs(scene, tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A fault's own place; all that was started ends with it."""
    method = request.node.callspec.params["fault"].method
    scene = request.getfixturevalue("network" if method == "pconv" else "scene")
    here = Bench(scene, tmp_path, tmp_path / "out", method=method)
    try:
        yield here
    finally:
        here.close()
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> dict[str, object]:
    """What the table is to say of this fault; filled by the test."""
    return request.node.stash.setdefault(SEEN, {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    fault = getattr(item, "callspec", None) and item.callspec.params.get("fault")
    if isinstance(fault, Fault) and (report.when == "call" or report.skipped or report.failed):
        outcome = _outcome(fault, report, item.stash.get(SEEN, {}))
        item.config.stash.setdefault(OUTCOMES, {})[fault.name] = outcome
        kept = item.config.getoption("--fault-outcomes")
        if kept is not None and not (report.skipped and "run with --integration" in outcome.why):
            save(outcome, Path(kept))
    return report


def _outcome(fault: Fault, report: pytest.TestReport, seen: dict[str, object]) -> Outcome:
    if hasattr(report, "wasxfail") and report.outcome != "passed":
        state, why = "known", report.wasxfail.removeprefix("reason: ").removeprefix("[NOTRUN] ")
    elif report.skipped:
        state, why = "skipped", str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    elif report.failed:
        state, why = "failed", str(report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else "")
    else:
        state, why = "passed", ""
    return Outcome(name=fault.name, state=state, why=" ".join(why.split())[:200], **seen)  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of the faults that were tried, and write it where asked."""
    outcomes, plan = config.stash.get(OUTCOMES, {}), faults()
    kept = config.getoption("--fault-outcomes")
    if kept is not None:  # of processes of their own, and of earlier sessions
        outcomes = {outcome.name: outcome for outcome in load(Path(kept), plan)} | outcomes
    if not outcomes or all("run with --integration" in outcome.why for outcome in outcomes.values()):
        return
    tried = [fault for fault in plan if fault.name in outcomes]
    terminalreporter.section("faults and outcomes")
    terminalreporter.line(table(tried, list(outcomes.values())))
    if (page := config.getoption("--fault-table")) is not None:
        write(Path(page), table(plan, list(outcomes.values())))
