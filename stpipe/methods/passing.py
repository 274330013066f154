"""What a method around another one hands through to it: the rounds over the whole scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray

from stpipe.core.ports import BlockInput, Fields, Filler, Look, SceneFiller, Seamless, Sums


class PassesRounds:
    """A part of a `Filler` around an inner one: a `SceneFiller`, with no rounds where the inner one has none."""

    __slots__ = ()

    filler: Filler
    """The inner method."""

    @property
    def rounds(self) -> tuple[str, ...]:
        """Those of the inner method."""
        return self.filler.rounds if isinstance(self.filler, SceneFiller) else ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of the inner method."""
        return self.filler.fields if isinstance(self.filler, SceneFiller) else ()

    def look(self, number: int, block: BlockInput) -> Look:
        """Let the inner method look."""
        return self._inner.look(number, block)

    def sums(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> Sums:
        """Return the inner method's sums."""
        return self._inner.sums(number, arrays)

    def settle(self, number: int, sums: Sums) -> Mapping[str, NDArray[Any]]:
        """Let the inner method say what a round gives."""
        return self._inner.settle(number, sums)

    def settled(self, number: int, given: Mapping[str, NDArray[Any]]) -> Self:
        """Return the method around the inner one with what a round gave."""
        return replace(self, filler=self._inner.settled(number, given))  # type: ignore[type-var]

    def with_fields(self, fields: Fields) -> Self:
        """Return the method around the inner one with its fields."""
        return replace(self, filler=self._inner.with_fields(fields))  # type: ignore[type-var]

    @property
    def seamless(self) -> bool:
        """Whether blocks of the inner method need no overlap: see `stpipe.core.ports.Seamless`."""
        return isinstance(self.filler, Seamless) and self.filler.seamless

    @property
    def _inner(self) -> SceneFiller:
        assert isinstance(self.filler, SceneFiller)  # it has rounds
        return self.filler
