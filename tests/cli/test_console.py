"""Laws of tables that are wider than the terminal."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from stpipe.cli.console import PlainConsole, in_parts


def console_of(width: int) -> PlainConsole:
    return PlainConsole(width=width, file=io.StringIO())


@given(
    widths=st.lists(st.integers(1, 24), min_size=1, max_size=14),
    keys=st.integers(1, 3),
    width=st.integers(60, 200),
    rows=st.integers(1, 4),
)
def test_parts_fit_and_hold_every_cell_once(widths: list[int], keys: int, width: int, rows: int) -> None:
    names = [f"k{i}" for i in range(keys)] + [f"{i}".rjust(size, "c") for i, size in enumerate(widths)]
    cells = [[f"{name}_{row}"[-24:] for name in names] for row in range(rows)]
    console = console_of(width)
    parts = in_parts(console, names, cells, keys=keys)
    console.print(*parts)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in console.file.getvalue()
    headings = [[column.header for column in part.columns] for part in parts]
    assert all(part[:keys] == names[:keys] for part in headings)
    assert [name for part in headings for name in part[keys:]] == names[keys:]
    for row in cells:
        assert sum(line.split()[:keys] == row[:keys] for line in lines if line.strip()) == len(parts)


def test_a_table_that_fits_stays_one() -> None:
    assert len(in_parts(console_of(200), ["a", "b", "c"], [["1", "2", "3"]])) == 1
