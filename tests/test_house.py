"""The house's own rules: who imports whom, what an import costs, and what a wheel holds."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import stpipe
from stpipe import resources
from stpipe.errors import MissingFileError

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted((REPOSITORY / "stpipe").rglob("*.py"))
HEAVY = {"tensorflow", "keras", "rasterio", "rioxarray", "xarray", "dask", "distributed", "matplotlib", "zarr", "scipy"}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rooms_import_one_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT" in done.stdout


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("stpipe", set()),
        ("stpipe.errors", set()),
        ("stpipe.resources", set()),
        ("stpipe.cli.main", set()),
        ("stpipe.core.blocks", set()),
        ("stpipe.core.samples", set()),
        ("stpipe.methods", {"scipy"}),
    ],
)
def test_an_import_loads_nothing_heavy(module: str, allowed: set[str]) -> None:
    code = f"import sys, json, {module}\nprint(json.dumps(sorted(n for n in sys.modules if '.' not in n)))"
    loaded = set(json.loads(run_python(code)))
    assert loaded & HEAVY <= allowed


NOT_IN_WORKERS = ("stpipe.methods.", "stpipe.cli", "rasterio", "xarray", "pandas", "dask.array")


# Each worker process pays for what it loads in memory, at every stage. Guides are resampled with SciPy's matrices, and
# only the workers of runs with guides unpickle them.
@pytest.mark.parametrize(
    ("parts", "unwanted"),
    [
        (
            ("execution.tasks", "io.workers", "io.reader", "io.scratch", "io.filled"),
            (*NOT_IN_WORKERS, "scipy"),
        ),
        (("io.guides",), NOT_IN_WORKERS),
    ],
    ids=["every run", "guides"],
)
def test_what_workers_unpickle_loads_no_method_and_no_command(
    parts: tuple[str, ...], unwanted: tuple[str, ...]
) -> None:
    code = f"import sys, json, {', '.join(f'stpipe.{part}' for part in parts)}\nprint(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run_python(code))
    assert not [name for name in loaded if name.startswith(unwanted)]


def test_public_names_are_sorted_and_exist() -> None:
    assert list(stpipe.__all__) == sorted(stpipe.__all__)
    for name in stpipe.__all__:
        assert getattr(stpipe, name) is not None
        assert name in dir(stpipe)
    with pytest.raises(AttributeError, match="module 'stpipe' has no attribute 'fil'"):
        stpipe.fil  # noqa: B018


def declared() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in ("indices", "s3", "stac") for line in project["optional-dependencies"][name]]
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in project["dependencies"] + extras}


def imported() -> set[str]:
    names: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"stpipe"}


# Libraries that xarray, matplotlib and others bring along, and that are used only together with them.
COMPANIONS = {
    "pil": "matplotlib",
    "pandas": "xarray",
    "pyproj": "rioxarray",
    "affine": "rasterio",
    "tornado": "distributed",
}


def test_every_library_that_is_imported_is_declared() -> None:
    known = declared()
    distributions = packages_distributions()
    for name in sorted(imported()):
        if COMPANIONS.get(name.lower()) in known:
            continue
        homes = {home.lower().replace("_", "-") for home in distributions.get(name, [name])}
        assert homes & (known | {"tensorflow"}), f"{name} is imported but not declared in pyproject.toml"


def test_every_library_that_is_declared_is_needed() -> None:
    # xarray opens NetCDF, and fsspec opens S3, through these without their being imported here.
    engines = {"netcdf4", "h5netcdf", "s3fs"}
    names = {name.lower().replace("_", "-") for name in imported()} | {"pyyaml" if "yaml" in imported() else ""}
    backends = {"tensorflow", "tensorflow-cpu"}
    names |= {"odc-geo", "odc-stac"} if "odc" in names else set()
    names |= {"universal-pathlib"} if "upath" in names else set()
    assert declared() - engines - backends <= names


def test_a_checkout_finds_its_own_pipelines() -> None:
    assert resources.shipped("pipelines", "demo.yaml").is_file()
    assert resources.shipped("cluster", "local/dask.yaml").is_file()
    with pytest.raises(MissingFileError, match=r"no pipelines/nope.yaml is shipped with stpipe; there is .*demo.yaml"):
        resources.shipped("pipelines", "nope.yaml")


def test_a_wheels_own_copy_comes_first_and_none_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "stpipe"
    (package / "_shipped" / "pipelines").mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "cluster").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.shelf("pipelines") == package / "_shipped" / "pipelines"
    assert resources.shelf("cluster") == tmp_path / "cluster"
    (tmp_path / "cluster").rmdir()
    with pytest.raises(MissingFileError, match="this installation of stpipe has no cluster/"):
        resources.shelf("cluster")


def test_shipped_cluster_settings_are_dasks_own() -> None:
    code = (
        "import yaml, pathlib, dask, distributed, json\n"
        "from stpipe.resources import shelf\n"
        "def walk(mine, known, at=''):\n"
        "    for key, value in mine.items():\n"
        "        assert key in known, at + key\n"
        "        if isinstance(value, dict) and not key.endswith('-environ'): walk(value, known[key], at + key + '.')\n"
        "files = sorted(shelf('cluster').rglob('dask.yaml'))\n"
        "for file in files: walk(yaml.safe_load(file.read_text()), dask.config.config)\n"
        "print(len(files))"
    )
    assert int(run_python(code)) >= 1


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def test_a_wheel_holds_the_package_and_what_it_ships_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(REPOSITORY).as_posix() for path in SOURCES} <= names
    assert "stpipe/py.typed" in names
    for shelf in ("pipelines", "cluster"):
        shipped = {p for p in (REPOSITORY / shelf).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert {f"stpipe/_shipped/{p.relative_to(REPOSITORY).as_posix()}" for p in shipped} <= names
    weights = [p for p in (REPOSITORY / "stpipe").rglob("*") if p.suffix in {".keras", ".h5", ".npz"}]
    assert {p.relative_to(REPOSITORY).as_posix() for p in weights} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"stpipe", f"stpipe-{stpipe.__version__}.dist-info"}
    assert wheel.stat().st_size < 30e6
    entry = zipfile.ZipFile(wheel).read(f"stpipe-{stpipe.__version__}.dist-info/entry_points.txt").decode()
    assert "stpipe = stpipe.cli.main:main" in entry


def test_a_source_archive_can_build_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")],
        cwd=root,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (first,), (again,) = built.glob("*.whl"), (tmp_path / "again").glob("*.whl")
    assert set(zipfile.ZipFile(first).namelist()) == set(zipfile.ZipFile(again).namelist())


def test_nothing_names_a_machine() -> None:
    """No absolute path of somebody's machine, and no address of a package index, stands in a file that is kept."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    bad = re.compile(r"(?<![\w.])/(?:work|home|root|Users|opt/wheels)/|extra-index-url|find-links")
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ""} and path.is_file():
            if path == Path(__file__):
                continue
            found = bad.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert found is None, f"{name}: {found}"
