"""Errors come home from workers as what they were."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
import tblib.pickling_support

from stpipe.errors import StpipeError


def kinds(root: type[StpipeError]) -> Iterator[type[StpipeError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", sorted(kinds(StpipeError), key=lambda kind: kind.__name__))
def test_an_error_that_was_raised_comes_home_as_it_was(kind: type[StpipeError]) -> None:
    tblib.pickling_support.install()  # as Dask does
    with pytest.raises(kind) as raised:
        raise kind("chunk 3 of 'b4' is gone; make it again")
    there = pickle.loads(pickle.dumps(raised.value))
    assert type(there) is kind
    assert str(there) == "chunk 3 of 'b4' is gone; make it again"
    assert there.exit_code == kind.exit_code
    assert there.__traceback__ is not None
