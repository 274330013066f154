"""Tables and paragraphs for people; a module of its own, for rich takes a while to load."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
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
