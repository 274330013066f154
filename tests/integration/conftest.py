"""A Slurm of this machine for the tests that need one, or the reason why there is none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_site import SlurmSite, why_not


@pytest.fixture(scope="session")
def site() -> Iterator[SlurmSite]:
    """Return a running Slurm of one node."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no Slurm: {reason}")
    # Not pytest's own folder: munged and jobs look at it as other users do.
    folder = Path(tempfile.mkdtemp(prefix="stpipe-slurm-"))
    folder.chmod(0o755)
    here = SlurmSite(folder)
    try:
        try:
            here.start()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{here.logs()}") from None
        yield here
    finally:
        here.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(site: SlurmSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmSite]:
    """Return the Slurm, found by this process and its children; no job is left when the test ends."""
    monkeypatch.setenv("SLURM_CONF", str(site.configuration))
    yield site
    site.cancel_all()
