"""Text on its way to a terminal: names and attributes come from files, and may hold what a terminal would obey."""

from __future__ import annotations

import unicodedata

import click

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's control and format characters, halves of characters, and ends of lines and paragraphs."""


def plain(text: str) -> str:
    r"""Return text with what a terminal would obey, or can't show, spelled out.

    Examples
    --------
    >>> plain("ndvi"), plain("a" + chr(27) + "[2J" + chr(10) + "b")
    ('ndvi', 'a\\x1b[2J\\nb')
    """
    if text.isprintable():
        return text
    return "".join(_spelled(letter) if unicodedata.category(letter) in _OBEYED else letter for letter in text)


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def tell(line: str, *, err: bool = False) -> None:
    """Print a line, whatever the names in it hold, to stdout or to stderr."""
    click.echo(plain(line), err=err)


def tell_note(line: str) -> None:
    """Tell the user on stderr what is good to know."""
    tell(f"stpipe: note: {line}", err=True)


def warn(line: str) -> None:
    """Tell the user on stderr what may be wrong."""
    tell(f"stpipe: warning: {line}", err=True)
