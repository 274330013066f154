"""Infilling from radar, killed in each of its stages and gone on with, leaves the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stpipe.cli.main import run
from tests.cli.test_fill_scene import digests
from tests.cli.test_sar import scene

STAGES = ("survey", "round0", "round1", "round2", "learn", "fill", "blend")
"""Stages that keep records, in their order."""


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    """Kill a driver and its workers, as a machine that goes down does."""
    try:
        family = [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in (driver.pid, *family):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    driver.wait()


@pytest.mark.integration
def test_a_run_killed_in_each_stage_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    optical, radar, _ = scene()
    cube, guide = tmp_path / "ndvi.zarr", tmp_path / "s1.zarr"
    optical.to_zarr(cube, zarr_format=2, consolidated=False)
    radar.to_zarr(guide, zarr_format=2, consolidated=False)
    words = [
        "fill-scene", str(cube), "--method", "sar", "--guide", str(guide), "--sar-clear-dates", "12",
        "--block", "30,8,8", "--no-geotiff", "--workers", "2",
    ]  # fmt: skip
    assert run([*words, "-o", str(tmp_path / "whole")]) == 0
    expected = digests(tmp_path / "whole")
    assert "coefficients.zarr" in expected

    out = tmp_path / "killed"
    chance = random.Random(5)
    killed = set()
    for stage in STAGES:
        records = out / "work" / "records" / stage
        driver = subprocess.Popen(
            [sys.executable, "-m", "stpipe.cli.main", *words, "-o", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        enough = 1 if stage in {"survey", "learn", "blend"} else chance.randint(1, 6)
        while driver.poll() is None and len(list(records.glob("*.json"))) < enough:
            time.sleep(0.01)
        if driver.poll() is None:
            killed.add(stage)
        kill_all(driver)
        assert not (out / "run.json").exists() or driver.returncode == 0
    assert len(killed) >= len(STAGES) - 1  # the last may be over before anyone looks
    assert run([*words, "-o", str(out)]) == 0
    assert digests(out) == expected
