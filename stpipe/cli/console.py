"""Tables and paragraphs for people; a module of its own, for rich takes a while to load."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stpipe.cli.words import plain

WIDE = 160
"""Columns away from a terminal, where there is no width to keep to, and a folded table can't be searched."""


class PlainConsole(Console):
    """A console that shows strings as they are: brackets are no markup, and colons no pictures.

    What is to be bold is a `Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich shows it."""
        return super().render_str(plain(text), **options)


def wide_console() -> PlainConsole:
    """Return a console for tables that are to be seen whole."""
    return PlainConsole() if sys.stdout.isatty() else PlainConsole(width=WIDE)


def in_parts(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, keys: int = 1, left: int = 1
) -> list[Table]:
    """Return a table, or several with the first columns in each, none of them wider than the console.

    A table that is squeezed loses its columns one after the other, the names of the rows first.

    Parameters
    ----------
    console : Console
        Where it is to be shown.
    headings : sequence of str
        One of each column.
    rows : sequence of sequence of str or Text
        The cells.
    keys : int
        How many columns tell what a row is about. The first of them is folded where even one column is too many.
    left : int
        How many columns stand to the left, for they are words.

    Examples
    --------
    >>> headings, rows = ["method", *"abcdefgh"], [["linear", *["0.12345"] * 8], ["eof", *["1.2"] * 8]]
    >>> [len(table.columns) for table in in_parts(PlainConsole(width=60), headings, rows)]
    [6, 4]
    """

    def table(columns: Sequence[int]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            justify: Literal["left", "right"] = "left" if column < left else "right"
            made.add_column(
                headings[column], justify=justify, overflow="fold", no_wrap=column > 0, min_width=8 * (not column)
            )
        for row in rows:
            made.add_row(*(row[column] for column in columns))
        return made

    first = list(range(keys))
    endless = console.options.update(width=2**16)  # or else what is measured is cut to the console's width
    parts: list[Table] = []
    taken: list[int] = []
    for column in range(keys, len(headings)):
        if taken and console.measure(table([*first, *taken, column]), options=endless).maximum > console.width:
            parts.append(table([*first, *taken]))
            taken = []
        taken.append(column)
    return [*parts, table([*first, *taken])]
