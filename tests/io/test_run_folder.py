"""What a run's folder trusts of what lies in it, and what it removes."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from stpipe.errors import OutputError
from stpipe.execution.storage import located, names_in
from stpipe.io.run_folder import RunFolder, State


def begun(folder: Path, made: object) -> RunFolder:
    (folder / "work" / "filled.zarr").mkdir(parents=True)
    (folder / "work" / "plan.json").write_text(json.dumps({"run_id": "1", "identity": {}, "made": made}))
    return RunFolder(folder)


@pytest.mark.parametrize(
    "name",
    [
        "filled.zarr/../../../outside",
        "filled.zarr/..",
        "filled.zarr//etc/outside",
        "../outside",
        "/etc/outside",
        "filled.zarr",
        "other.zarr/zarr.json",
        "filled.zarr/./zarr.json",
    ],
)
def test_a_plan_never_leads_out_of_its_stores(tmp_path: Path, name: str) -> None:
    folder = begun(tmp_path / "out", {name: base64.b64encode(b"{}").decode()})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"names .*, which no run makes; start anew with --overwrite"):
        folder.mend()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("made", [{"filled.zarr/zarr.json": "not base 64!"}, {"filled.zarr/zarr.json": 3}, ["a"]])
def test_a_plan_that_is_damaged_is_told_as_that(tmp_path: Path, made: object) -> None:
    with pytest.raises(OutputError, match=r"plan\.json is damaged .*; start anew with --overwrite"):
        begun(tmp_path / "out", made).mend()


def test_what_stores_say_of_themselves_is_mended(tmp_path: Path) -> None:
    folder = begun(tmp_path / "out", {"filled.zarr/lst/zarr.json": base64.b64encode(b"{}").decode()})
    folder.mend()
    assert (folder.work / "filled.zarr" / "lst" / "zarr.json").read_bytes() == b"{}"


def finished(folder: Path, products: list[str]) -> RunFolder:
    folder.mkdir()
    for name in products:
        place = folder / name / "zarr.json" if name.endswith(".zarr") else folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    report = {"run_id": "1", "identity": {}, "input_state": "s", "products": [{"path": name} for name in products]}
    (folder / "run.json").write_text(json.dumps(report))
    return RunFolder(folder)


def test_a_finished_run_lacks_none_of_its_products(tmp_path: Path) -> None:
    names = ["filled.zarr", "quicklook.png", "geotiff/lst/lst_20240101T000000.tif"]
    folder = finished(tmp_path / "out", names)
    assert folder.state("1", {}, "s", resume=False, overwrite=False) is State.FINISHED
    for name in names:
        away = tmp_path / "away"
        folder.product(name).rename(away)
        with pytest.raises(OutputError, match=f"is finished but {re.escape(name)} is gone"):
            folder.state("1", {}, "s", resume=False, overwrite=False)
        folder.product(name).symlink_to(away)  # what was moved to another disk and linked is there
        assert folder.state("1", {}, "s", resume=False, overwrite=False) is State.FINISHED
        folder.product(name).unlink()
        away.rename(folder.product(name))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an address in a store that is this process's own."""

    def rm(self: MemoryFileSystem, paths: list[str], **_: object) -> None:
        for path in paths:
            self.rm_file(path)

    monkeypatch.setattr(MemoryFileSystem, "rm", rm)  # its own takes no batches
    return located(f"memory://bucket/{uuid4().hex}")


def test_of_a_store_all_scratch_goes_but_the_lease(store: Path) -> None:
    folder = RunFolder(store)
    for name in ("work/lock", "work/turn", "work/plan.json", "work/records/survey/1.json", "work/blocks.zarr/c/0"):
        (store / name).write_bytes(b"1")
    folder.remove_work()
    assert names_in(folder.work) == ["lock"]


def test_a_store_that_is_being_cleared_is_still_a_run_s(store: Path) -> None:
    folder = RunFolder(store)
    report = {"run_id": "1", "identity": {}, "products": [{"path": "filled.zarr"}]}
    (store / "run.json").write_text(json.dumps(report))
    (store / "filled.zarr" / "zarr.json").write_bytes(b"{}")
    folder.clear()
    # As if it had been stopped after its report was gone.
    (store / "filled.zarr" / "zarr.json").write_bytes(b"{}")
    assert folder.state("2", {}, "s", resume=False, overwrite=False) is State.NEW
