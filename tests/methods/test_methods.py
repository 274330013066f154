"""Methods by name: every one is there, loads on use, and has intervals that the cube itself calibrates."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stpipe.core.ports import Filler, Learner
from stpipe.errors import OptionError
from stpipe.methods import METHODS, make_filler


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_found_by_its_own_name_and_learns_its_intervals(method: str) -> None:
    filler, narrow = make_filler(method), make_filler(method, coverage=0.8)
    assert isinstance(filler, Filler)
    assert isinstance(filler, Learner)
    assert filler.name == method
    assert json.dumps(filler.identity()) == json.dumps(make_filler(method).identity())
    assert filler.identity() != narrow.identity()


def test_the_first_method_is_the_default() -> None:
    assert METHODS[0] == "pconv"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        pytest.param("magic", {}, "no method 'magic'; there are pconv, pyramid, linear", id="unknown"),
        pytest.param("linear", {"model": "x.keras"}, "goes with --method pconv, not with linear", id="model"),
        pytest.param("linear", {"coverage": 1.0}, "between 0 and 1", id="coverage"),
    ],
)
def test_what_no_method_can_do_is_refused(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_filler(method, **options)  # type: ignore[arg-type]


def test_naming_the_methods_loads_none_of_them() -> None:
    code = "import sys, stpipe.methods\nassert not {'numpy', 'scipy', 'stpipe.methods.linear'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
