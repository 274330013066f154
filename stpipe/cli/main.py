"""The command line: a group of verbs, each loaded when it is used, and one line for every error.

`stpipe --help` must answer at once, and a verb may need TensorFlow, so the list of verbs below carries the short helps,
and a verb's module is imported only when the verb is run or asked for its own help.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from stpipe import __version__
from stpipe.cli.words import plain
from stpipe.errors import StpipeError

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # as the shell says of a program that wrote into a closed pipe


class Verb(NamedTuple):
    """One line of the table of verbs."""

    module: str
    """Module with a `command`."""

    help: str
    """What `stpipe --help` says; a test holds it equal to the command's own."""


VERBS: dict[str, Verb] = {
    "blocks": Verb("stpipe.cli.blocks", "Cut cubes into folders of GeoTIFF blocks, and fill such folders."),
    "cluster": Verb("stpipe.cli.cluster", "Show what a cluster would start, or try one worker of it."),
    "demo": Verb("stpipe.cli.demo", "Fill a made-up scene by three methods and score them against the truth."),
    "evaluate": Verb("stpipe.cli.evaluate", "Score methods on artificial gaps of a cube."),
    "fill-scene": Verb("stpipe.cli.fill_scene", "Fill the gaps of a cube and mosaic it to GeoTIFF."),
    "gaps": Verb("stpipe.cli.gaps", "Show how long the gaps of a cube are."),
    "info": Verb("stpipe.cli.info", "Show what a cube holds."),
    "ingest": Verb("stpipe.cli.ingest", "Make a Zarr cube from other files."),
    "mosaic": Verb("stpipe.cli.mosaic", "Write a cube as GeoTIFF."),
    "plan": Verb("stpipe.cli.plan", "Show what fill-scene would do."),
    "report": Verb("stpipe.cli.report", "Draw a page of what a run made."),
    "run": Verb("stpipe.cli.run", "Do all stages of a named run."),
    "train": Verb("stpipe.cli.train", "Train weights for pconv on cubes or folders of blocks."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a verb's module and return its command."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = import_module(verb.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, VERBS[name].help) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one is nearest."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, VERBS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(VERBS))}"
            raise click.UsageError(f"no verb {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 failed while running, 2 refused before starting. Any verb takes --debug.",
    subcommand_metavar="VERB [ARGS]...",
)
@click.version_option(__version__, prog_name="stpipe", message="%(prog)s %(version)s")
def cli() -> None:
    """Fill the gaps in satellite image time series."""


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take --debug out of the arguments, wherever it stands before a bare ``--``.

    >>> _take_debug(["info", "--debug", "cube.zarr"])
    (['info', 'cube.zarr'], True)
    """
    ahead = list(arguments)
    behind: list[str] = []
    if "--" in ahead:
        cut = ahead.index("--")
        ahead, behind = ahead[:cut], ahead[cut:]
    kept = [word for word in ahead if word != "--debug"]
    return kept + behind, len(kept) < len(ahead)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _complain(message: str) -> None:
    sys.stdout.flush()
    print(f"stpipe: error: {plain(_one_line(message))}", file=sys.stderr)  # noqa: T201 - this is the door


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    words, debug = _take_debug(arguments)
    try:
        # Not cli.main(): it has its own answers to Ctrl-C and to a closed pipe.
        with cli.make_context("stpipe", list(words), obj=tuple(words)) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        return _refuse(error)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line and not a page
        if debug:
            traceback.print_exc()
        return _explain(error, debug=debug)
    return 0


def _refuse(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return EXIT_REFUSED
    at = getattr(error, "ctx", None)
    asked = f"; see '{at.command_path} --help'" if at is not None else ""
    _complain(error.format_message().rstrip(".") + asked)
    return EXIT_REFUSED


def _explain(error: Exception, *, debug: bool) -> int:
    if isinstance(error, StpipeError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader went away, as in `stpipe info | head -1`; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    if isinstance(error, OSError):
        # A full disk or a folder without permission is nobody's bug.
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        return EXIT_FAILED
    if isinstance(error, MemoryError):
        _complain(f"not enough memory{f': {error}' if str(error) else ''}; give it a smaller part, or a larger machine")
        return EXIT_FAILED
    hint = "" if debug else "; run again with --debug"
    _complain(f"internal error {type(error).__name__}: {str(error) or 'no message'}{hint}")
    return EXIT_FAILED


def _interrupted() -> int:
    _complain("interrupted")
    return EXIT_INTERRUPTED


def main() -> NoReturn:
    """Run the command line that the shell gave, and leave with its exit code."""
    if "_STPIPE_COMPLETE" in os.environ:  # the shell asks what could come next
        cli.main(prog_name="stpipe")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
