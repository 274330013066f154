import os

import pytest

from stpipe.core.sizes import GIB
from stpipe.execution.clusters.connect import KEPT_BYTES, connect

TRIM = "MALLOC_TRIM_THRESHOLD_"
MMAP = "MALLOC_MMAP_THRESHOLD_"


def allocator() -> tuple[str | None, str | None]:
    return os.environ.get(TRIM), os.environ.get(MMAP)


def test_workers_keep_memory_where_told_to_and_the_user_does_not_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRIM, raising=False)
    monkeypatch.setenv(MMAP, "131072")
    with connect(scheduler=None, workers=1, memory_limit=GIB, keep_memory=True) as client:
        (told,) = client.run(allocator).values()
    assert told == (str(KEPT_BYTES), "131072")
