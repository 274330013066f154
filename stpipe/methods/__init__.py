"""The fillers, behind one Protocol; `make_filler` finds them by name."""

from __future__ import annotations

from stpipe.core.ports import Filler
from stpipe.errors import OptionError

METHODS = ("pconv", "pyramid", "linear")
"""Names of the methods, the default first."""


def make_filler(method: str, *, model: str | None = None) -> Filler:
    """Return a method by its name.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    model : str, optional
        Name or path of the weights; for pconv alone.

    Examples
    --------
    >>> make_filler("pyramid").name
    'pyramid'
    """
    if model is not None and method != "pconv":
        raise OptionError(f"--model {model} goes with --method pconv, not with {method}; leave one of them out")
    if method == "pyramid":
        from stpipe.methods.pyramid import PyramidFiller

        return PyramidFiller()
    if method == "linear":
        from stpipe.methods.linear import LinearFiller

        return LinearFiller()
    if method == "pconv":
        from stpipe.methods.pconv import pconv_filler

        return pconv_filler(model or "default")
    raise OptionError(f"no method {method!r}; there are {', '.join(METHODS)}")
