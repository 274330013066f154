"""A live display on a terminal: a line for each stage that has ended, and below them how the present one goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stpipe.cli.progress_lines import Standing, amount, details, ended_line

if TYPE_CHECKING:
    from stpipe.cli.watch import Watch
    from stpipe.execution.lookout import News

REFRESHES = 2
"""Times a second that it is drawn anew."""

BAR = 30
"""Columns of the bar."""


class LiveDisplay:
    """Draws how a run goes, on stderr.

    Parameters
    ----------
    watch : Watch
        The run; asked how it stands whenever it is drawn.
    keep : bool
        Whether each stage leaves a line when it has ended.
    """

    def __init__(self, watch: Watch, *, keep: bool) -> None:
        self._watch = watch
        self._keep = keep
        self._console = Console(stderr=True, highlight=False)
        # What goes to stdout is for pipes and files, whatever stderr is.
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begun(self, at: Standing) -> None:
        """Leave it to the next drawing."""

    def failed(self, stage: str, number: int, message: str) -> None:
        """Leave it to the next drawing, which counts them."""

    def look(self, at: Standing | None, news: Sequence[News]) -> None:
        """Leave it to the next drawing."""

    def ended(self, at: Standing) -> None:
        """Leave a line above what is drawn."""
        if self._keep and at.worth_telling:
            self._console.print(Text(ended_line(at)), soft_wrap=True)

    def _draw(self) -> RenderableType:
        at = self._watch.standing()
        return Text("") if at is None else picture(at)


def picture(at: Standing) -> RenderableType:
    """Return a stage's bar and, below, what else there is to say of it."""
    rest = Text("  " + ", ".join(details(at)), style="dim", overflow="ellipsis", no_wrap=True)
    if not at.total:
        return Group(Text(at.stage, style="bold"), rest)
    head = Table.grid(padding=(0, 1))
    for _ in range(3):
        head.add_column(no_wrap=True)
    head.add_row(Text(at.stage, style="bold"), ProgressBar(total=at.total, completed=at.ended, width=BAR), amount(at))
    return Group(head, rest)
