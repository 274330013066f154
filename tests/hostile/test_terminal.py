"""Names and attributes are shown and never obeyed: not by the terminal, and not as markup of tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from stpipe.cli.console import PlainConsole
from stpipe.cli.main import run
from stpipe.cli.words import plain

from .doors import edited, tiny_cube

CLEAR = "\x1b[2J\x1b]0;title\x07"
"""Clears a terminal, and renames it."""


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_holds_anything_that_a_terminal_obeys(text: str) -> None:
    shown = plain(text)
    assert all(letter.isprintable() or letter.isspace() for letter in shown if letter not in text)
    assert not set(shown) & {"\x1b", "\x07", "\r", "\n", "\x9b", "\u202e", "\u2028", "\udcff"}
    shown.encode()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("name", ["[red]x", "[/bold]", ":smile:", "[link=https://a.b]c[/link]", "a\\[b]"])
def test_tables_show_brackets_and_colons_as_they_are(name: str) -> None:
    page = io.StringIO()
    console = PlainConsole(file=page, width=80)
    table = Table(name)
    table.add_row(name)
    console.print(table)
    console.print(f"{name}: done")
    assert page.getvalue().count(name) == 3


def test_an_error_about_a_name_stays_one_printable_line(tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    with edited(cube / "ndvi" / "zarr.json") as metadata:
        metadata["dimension_names"][1] = f"row\n{CLEAR}"
    assert "row \\x1b[2J\\x1b]0;title\\x07" in refused("info", cube)
    refused("info", tmp_path / f"missing{CLEAR}\u202e.zarr")
    refused("info", cube, "--var", "\udcff")


def test_info_shows_a_name_that_holds_control_characters_on_one_line(tmp_path: Path, capsys: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    (cube / "ndvi").rename(cube / f"[b]\n{CLEAR}")
    assert run(["info", str(cube)]) == 0
    shown = capsys.readouterr().out
    assert "[b]\\n\\x1b[2J\\x1b]0;title\\x07" in shown
    assert "\x1b" not in shown
    assert run(["info", str(cube), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["variables"]) == [f"[b]\n{CLEAR}"]
