"""The command line's door: one line for every error, the right exit code, and nothing loaded before it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import click
import pytest

from stpipe.cli import main as door
from stpipe.errors import CubeError, MissingFileError, RunError

HEAVY = ("tensorflow", "keras", "rasterio", "xarray", "dask", "distributed", "matplotlib", "numpy", "zarr", "pandas")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> object:
    """Put a verb `try` on the table that does what the test says."""

    def install(action: object) -> None:
        @click.command("try")
        @click.argument("words", nargs=-1)
        def command(words: tuple[str, ...]) -> None:
            action(words)  # type: ignore[operator]

        monkeypatch.setattr(door, "VERBS", {"try": door.Verb("nowhere", "Try.")})
        monkeypatch.setattr(door, "import_module", lambda _: SimpleNamespace(command=command))

    return install


def raiser(error: BaseException) -> object:
    def action(_: object) -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(CubeError("no variable 'ndvi' in a.zarr"), 2, "no variable 'ndvi' in a.zarr", id="refused"),
        pytest.param(MissingFileError("a.zarr does not exist"), 2, "a.zarr does not exist", id="missing file"),
        pytest.param(RunError("block 3 failed"), 1, "block 3 failed", id="failed while running"),
        pytest.param(RunError("two\n lines"), 1, "two lines", id="a message of two lines becomes one"),
        pytest.param(OSError(28, "No space left", "a.tif"), 1, "No space left: a.tif", id="a full disk"),
        pytest.param(KeyError("x"), 1, "internal error KeyError: 'x'; run again with --debug", id="a bug"),
        pytest.param(ValueError(), 1, "internal error ValueError: no message; run again with --debug", id="a mute bug"),
        pytest.param(KeyboardInterrupt(), 130, "interrupted", id="interrupted"),
        pytest.param(click.BadParameter("no", param_hint="--x"), 2, "Invalid value for --x: no", id="bad option"),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(
    verb: object, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    verb(raiser(error))  # type: ignore[operator]
    assert door.run(["try"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"stpipe: error: {line}")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--debug", "try"], ["try", "--debug"], ["try", "a", "--debug"]], ids=" ".join)
def test_debug_shows_the_traceback_wherever_it_stands(
    verb: object, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    verb(raiser(CubeError("a rule")))  # type: ignore[operator]
    assert door.run(words) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("stpipe: error: a rule\n")


def test_debug_after_two_dashes_is_an_ordinary_word(verb: object) -> None:
    seen: list[tuple[str, ...]] = []
    verb(seen.append)  # type: ignore[operator]
    assert door.run(["try", "--debug", "--", "--debug"]) == 0
    assert seen == [("--debug",)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fil-scene"], "no verb 'fil-scene'; did you mean 'fill-scene'?"),
        (["zzz"], "no verb 'zzz'; there are blocks, cluster, demo"),
        (["--zzz"], "No such option '--zzz'"),
        (["demo", "--workers", "0"], "Invalid value for '--workers': 0 is not in the range x>=1"),
        (["demo", "--wrkers", "2"], "No such option '--wrkers'"),
        (["demo", "surplus"], "Got unexpected extra argument (surplus)"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert door.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.replace("'", "").replace(": ", " ") in err.replace("'", "").replace(": ", " ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_no_verb_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.run([]) == 2
    assert "fill-scene" in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", sorted(door.VERBS))
def test_the_table_says_what_the_verb_says_of_itself(name: str) -> None:
    command = import_module(door.VERBS[name].module).command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(limit=200).rstrip(".") == door.VERBS[name].help.rstrip(".")


@pytest.mark.parametrize("name", sorted(door.VERBS))
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert door.run([name, "--help"]) == 0
    assert f"stpipe {name}" in capsys.readouterr().out


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, json\n"
        "from stpipe.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = run_python("from stpipe.cli.main import main; main()", "--help")
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0
    assert min(seconds) < 0.5  # the best of three: the machine may be busy


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = (
        "import click, stpipe.cli.main as door\n"
        "from types import SimpleNamespace\n"
        "@click.command('try')\n"
        "def command():\n"
        "    click.echo('x' * 200_000)\n"
        "door.VERBS = {'try': door.Verb('nowhere', 'Try.')}\n"
        "door.import_module = lambda _: SimpleNamespace(command=command)\n"
        "door.main()"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "try"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import stpipe

    assert door.run(["--version"]) == 0
    assert capsys.readouterr().out == f"stpipe {stpipe.__version__}\n"
