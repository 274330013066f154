"""The default network's shape, and what follows from it by arithmetic; no Keras here, so that planning stays light."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stpipe.core.windows import Triple
from stpipe.errors import ModelFileError, ShapeError
from stpipe.model.features import INPUTS

MOST_LEVELS, MOST_FILTERS = 8, 1024
"""Beyond these no memory holds the weights, let alone what is computed with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetSpec:
    """All that decides the network's shape; its weights come on top."""

    filters: tuple[int, ...] = (32, 48)
    """Channels at level 1 and deeper; each level halves y and x."""

    head_filters: int = 16
    """Channels at full resolution, before the heads."""

    inputs: int = INPUTS
    """Channels of the input, masks included."""

    def __post_init__(self) -> None:
        if not self.filters or min(self.filters) < 4 or self.head_filters < 1:
            raise ShapeError(f"need at least one level of 4 filters, got {self.filters} and {self.head_filters}")
        if len(self.filters) > MOST_LEVELS or max(*self.filters, self.head_filters) > MOST_FILTERS:
            raise ShapeError(
                f"the most are {MOST_LEVELS} levels of {MOST_FILTERS} filters, got {len(self.filters)} levels of up to "
                f"{max(*self.filters, self.head_filters)}"
            )
        if self.inputs != INPUTS:
            raise ModelFileError(
                f"the model takes {self.inputs} channels of guides and masks, this version of stpipe makes {INPUTS}"
            )

    @property
    def stride(self) -> Triple:
        """Lengths of windows are multiples of this."""
        return (1, 2 ** len(self.filters), 2 ** len(self.filters))

    @property
    def halo(self) -> Triple:
        """How far an answer can depend on the input, along each axis, by arithmetic.

        Examples
        --------
        >>> UNetSpec(filters=(8,)).halo
        (1, 5, 5)
        """
        before, after, step = 0, 0, 1  # reach of a cell towards the start and the end, in pixels
        skips = [(before, after)]
        for _ in self.filters:
            before, after, step = before + step, after + step, 2 * step  # strided convolution
            before, after = before + step, after + step
            skips.append((before, after))
        for left, right in reversed(skips[:-1]):
            before, step = before + step // 2, step // 2  # the second of two cells made from one looks further back
            before, after = max(before, left) + step, max(after, right) + step
        reach = max(before, after)
        return (len(self.filters), reach, reach)

    def as_json(self) -> dict[str, Any]:
        """Return what rebuilds it."""
        return {**asdict(self), "filters": list(self.filters)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> UNetSpec:
        """Rebuild it; `ModelFileError` if the fields aren't a spec's."""
        try:
            return cls(
                filters=tuple(int(n) for n in fields["filters"]),
                head_filters=int(fields["head_filters"]),
                inputs=int(fields["inputs"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"the model's spec can't be understood: {error!r}") from error
