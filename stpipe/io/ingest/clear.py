"""What the rules of an ingest said of each pixel: a layer beside the variables that lost samples to them.

There is one layer for all variables that the same rules decide on, and not one each: rules look at the pixel and not at
the band, so that the layers of a scene's bands would say the same thing as many times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.samples import CLEAR_CODES
from stpipe.core.trust import Trust
from stpipe.io.indices import IndexPlan
from stpipe.io.ingest.variables import VariablePlan

CLEAR = "clear"
"""Name of the layer, if there is one; several have the names of their quality variables behind it."""

CLEAR_TYPE = np.dtype("uint8")
"""Its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearPlan:
    """One layer, for all variables that the same rules decide on."""

    name: str
    """Its name."""

    trust: Trust
    """The rules."""

    variables: tuple[str, ...]
    """What is written that they decide on: variables, and indices of such."""

    @property
    def attrs(self) -> dict[str, object]:
        """Return CF's words for what its values mean."""
        return {
            "long_name": "what rules said of each pixel",
            "flag_values": list(CLEAR_CODES.values()),
            "flag_meanings": " ".join(CLEAR_CODES),
            "quality_rules": rules_text(self.trust),
        }


def rules_text(trust: Trust) -> str:
    """Return rules as they were typed."""
    texts = list(dict.fromkeys(rule.text.removesuffix(" (fill)") for rule in trust.rules))
    return " ".join([*texts, f"--buffer {trust.buffer}"] if trust.buffer else texts)


def plan_clear(
    variables: Sequence[VariablePlan],
    indices: Sequence[IndexPlan],
    written: Collection[str],
    taken: Collection[str],
) -> tuple[ClearPlan, ...]:
    """Return the layers that go with what is written.

    Parameters
    ----------
    variables : sequence of VariablePlan
        What is read.
    indices : sequence of IndexPlan
        What is computed.
    written : collection of str
        Names of those that are written.
    taken : collection of str
        Names that the cube has already, such as that of a layer from an earlier ingest.
    """
    decided: dict[Trust, list[str]] = {v.trust: [] for v in variables if v.trust is not None}
    by_name = {variable.name: variable for variable in variables}
    for variable in variables:
        if variable.trust is not None and variable.name in written:
            decided[variable.trust].append(variable.name)
    for index in indices:
        for trust in dict.fromkeys(by_name[band].trust for _, band in index.bands):
            if trust is not None:
                decided[trust].append(index.name)
    groups = [(trust, names) for trust, names in decided.items() if names]
    layers: list[ClearPlan] = []
    for trust, names in groups:
        name = CLEAR if len(groups) == 1 else "_".join([CLEAR, *trust.variables])
        free = _free(name, {*taken, *(layer.name for layer in layers)})
        layers.append(ClearPlan(name=free, trust=trust, variables=tuple(names)))
    return tuple(layers)


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number behind it where it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def clear_codes(
    seen: Sequence[NDArray[np.bool_]], trusted: Sequence[NDArray[np.bool_]], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return what the rules said of each pixel of a frame.

    Parameters
    ----------
    seen : sequence of (y, x) ndarray of bool
        For each of its scenes, where any of the variables has a sample, trusted or not.
    trusted : sequence of (y, x) ndarray of bool
        For each of its scenes, where the rules trust it.
    shape : (rows, columns)
        Of the frame.

    Returns
    -------
    (y, x) ndarray of uint8
        See `stpipe.core.samples.CLEAR_CODES`: ``clear`` where one scene at least has a sample that is trusted;
        ``dropped`` where scenes have samples, and none is trusted; ``no_data`` where none has any.

    Examples
    --------
    >>> seen, trusted = np.array([[False, True, True]]), np.array([[True, True, False]])
    >>> clear_codes([seen], [trusted], (1, 3))
    array([[0, 1, 2]], dtype=uint8)
    """
    codes = np.full(shape, CLEAR_CODES["no_data"], dtype=CLEAR_TYPE)
    for some in seen:
        codes[some] = CLEAR_CODES["dropped"]
    for some, good in zip(seen, trusted, strict=True):
        codes[some & good] = CLEAR_CODES["clear"]
    return codes


def beside(attrs: Mapping[str, object], name: str, layers: Sequence[ClearPlan], written: Collection[str]) -> str:
    """Return CF's ``ancillary_variables`` of a variable: what its file says that is still there, and its layers."""
    kept = [other for other in str(attrs.get("ancillary_variables", "")).split() if other in written]
    return " ".join(dict.fromkeys([*kept, *(layer.name for layer in layers if name in layer.variables)]))
