"""What every test room shares: where the real data lies, which tests are opt-in, and quiet libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before any heavy library is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parent.parent

# Deadlines measure the machine's other work, not ours.
settings.register_profile("stpipe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stpipe")


OPT_IN = {
    "slow": "takes more than ten seconds",
    "gpu": "needs an accelerator",
    "integration": "belongs to make integration",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker, why in OPT_IN.items():
        parser.addoption(f"--{marker}", action="store_true", help=f"also run the tests marked {marker}: {why}")
    parser.addoption("--fault-outcomes", metavar="FOLDER", help="keep there what came of each fault of the chaos tests")
    parser.addoption("--fault-table", metavar="PAGE", help="write the table of faults and outcomes into this page")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, why in OPT_IN.items():
        if config.getoption(f"--{marker}"):
            continue
        skip = pytest.mark.skip(reason=f"{why}; run with --{marker}")
        for item in items:
            if marker in item.keywords:
                item.add_marker(skip)


def find_data_folder() -> Path | None:
    """Return the folder of real data: STPIPE_DATA if set, else ../shared/data; None if there is none."""
    named = os.environ.get("STPIPE_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real data, or skip where there is none."""
    folder = find_data_folder()
    if folder is None:
        pytest.skip("no real data: set STPIPE_DATA to its folder, or put it at ../shared/data")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of this checkout."""
    return REPOSITORY
