from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stpipe.execution.storage import remove


def test_a_folder_that_several_remove_at_once_is_gone_and_nobody_complains(tmp_path: Path) -> None:
    """Shares of a run that end together all clear the scratch."""
    for turn in range(3):
        folder = tmp_path / f"work{turn}"
        for number in range(600):
            place = folder / f"{number % 7}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.json").write_text("{}")
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(remove, folder) for _ in range(4)]:
                done.result()
        assert not folder.exists()
