"""Coefficients of the regressions on radar, as each pixel keeps them: their names, and their units.

A regression is fitted to values that are standardised by the scene's location and spread, which another scene does not
share. In a file coefficients are in the variable's own units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stpipe.methods.sar.covariates import covariate_names

F32 = NDArray[np.float32]

Groups = Sequence[Sequence[str]]
"""Names of the radar that goes into one regression each."""


def field_names(groups: Groups) -> tuple[str, ...]:
    """Return the names of what is kept of each pixel: of each regression its coefficients and what they leave over.

    Examples
    --------
    >>> field_names([["VV"]])
    ('constant', 'VV_mean', 'VV_diff', 'VV_Nmean', 'VV_Ndiff', 'spread')
    >>> field_names([["VV ascending"], ["VV descending"]])[5:7]
    ('spread ascending', 'constant descending')
    """
    made: list[str] = []
    for group in groups:
        _, _, orbit = group[0].partition(" ")
        end = f" {orbit}" if len(groups) > 1 and orbit else ""
        made += [f"constant{end}", *covariate_names(group), f"spread{end}"]
    return tuple(made)


def in_units(fields: F32, groups: Groups, location: float, spread: float) -> F32:
    """Return coefficients of standardised values as those of values in the variable's units.

    Parameters
    ----------
    fields : (field, ...) ndarray of float32
        In the order of `field_names`.
    groups : sequence of sequence of str
        See `Groups`.
    location, spread : float
        What the values were standardised by: (value - location) / spread.

    Returns
    -------
    (field, ...) ndarray of float32
        `standardised` brings them back.

    Examples
    --------
    >>> in_units(np.ones((6, 1), dtype=np.float32), [["VV"]], location=0.5, spread=0.25).ravel().tolist()
    [0.75, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    made = fields.astype(np.float64) * spread
    made[_constants(groups)] += location
    return made.astype(np.float32)


def standardised(fields: F32, groups: Groups, location: float, spread: float) -> F32:
    """Return coefficients of values in the variable's units as those of standardised ones, see `in_units`."""
    made = fields.astype(np.float64)
    made[_constants(groups)] -= location
    made /= spread
    return made.astype(np.float32)


def _constants(groups: Groups) -> list[int]:
    """Return the places of the constants."""
    return [place for place, name in enumerate(field_names(groups)) if name.startswith("constant")]
