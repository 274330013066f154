"""What README.md tells people to type works, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from stpipe.core.scene import SceneSpec, make_scene
from stpipe.io.scene import write_scene

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RUN = re.findall(r"<!-- run -->\n```(sh|python)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands are given: cube.zarr, and scenes/ with a raster a date."""
    folder = tmp_path_factory.mktemp("readme")
    spec = SceneSpec(frames=8, height=64, width=64, swath_frames=1, striped_frames=1, overcast_frames=1)
    scene = make_scene(spec)
    write_scene(scene, folder / "cube.zarr", folder / "truth.zarr")
    (folder / "scenes").mkdir()
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": 1, "height": 64, "width": 64, "nodata": float("nan"),
        "crs": spec.crs, "transform": from_origin(spec.west_m, spec.north_m, spec.resolution_m, spec.resolution_m),
    }  # fmt: skip
    for day, frame in zip(np.datetime_as_string(scene.times, unit="D"), scene.observed, strict=True):
        with rasterio.open(folder / "scenes" / f"ndvi_{day.replace('-', '')}.tif", "w", **profile) as raster:
            raster.write(frame, 1)
    return folder


def test_there_is_something_to_run() -> None:
    assert len(RUN) >= 4
    assert any("stpipe fill-scene cube.zarr\n" in code for _, code in RUN)


@pytest.mark.integration
@pytest.mark.xdist_group("readme")
@pytest.mark.processes
@pytest.mark.parametrize(("language", "code"), RUN, ids=[code.strip().splitlines()[0] for _, code in RUN])
def test_a_marked_block_runs(place: Path, language: str, code: str) -> None:
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=place, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "stpipe fill-scene cube.zarr\n" in code:
        products = {path.name for path in (place / "cube.filled").iterdir() if not path.name.startswith(".")}
        assert products == {"filled.zarr", "geotiff", "items.json", "quicklook.png", "report.html", "run.json"}
        for name in products:
            assert f"`{name}" in README
    if language == "python":
        assert re.fullmatch(r"\d+% of the samples were filled\n", done.stdout)


def test_targets_of_make_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z]+)", README))
    known = {"demo", "test", "integration", "lint", "wheel", "clean"}
    assert known - {"clean"} <= targets
    for target in targets & known:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_continuous_integration_runs_what_the_readme_says() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make lint", "make test", "make integration"]
    assert "`.ci/run` runs `make lint`, `make test` and `make integration`" in README
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/README.md", "cluster/local/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = REPOSITORY / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_picture_is_small() -> None:
    assert (REPOSITORY / "docs" / "demo.png").stat().st_size < 400_000
