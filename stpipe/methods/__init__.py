"""The fillers, behind one Protocol; `make_filler` finds them by name."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from stpipe.errors import OptionError

if TYPE_CHECKING:
    from stpipe.core.ports import Filler

_FACTORIES = {
    "pconv": "stpipe.methods.pconv:pconv_filler",
    "pyramid": "stpipe.methods.pyramid:PyramidFiller",
    "linear": "stpipe.methods.linear:LinearFiller",
    "anomaly": "stpipe.methods.anomaly:AnomalyFiller",
    "idw": "stpipe.methods.idw:IdwFiller",
    "kriging": "stpipe.methods.kriging:KrigingFiller",
    "whittaker": "stpipe.methods.whittaker:WhittakerFiller",
    "harmonic": "stpipe.methods.harmonic:HarmonicFiller",
    "climatology": "stpipe.methods.climatology:ClimatologyFiller",
    "eof": "stpipe.methods.eof:EofFiller",
    "stack": "stpipe.methods.stack:StackFiller",
    "auto": "stpipe.methods.auto:auto_filler",
}
"""Where each method is made; its module is imported on first use."""

_TUNED = "stpipe.methods.tuned:tuned_pconv"
"""Where `pconv` is made that learns from the cube."""

METHODS = tuple(_FACTORIES)
"""Names of the methods, the default first."""


IN_TIME = frozenset({"linear", "whittaker", "harmonic", "climatology", "eof"})
"""Methods that have nothing of their own to say of a single frame."""

NO_CANDIDATES = frozenset({"auto", "sar"})
"""Methods that are not compared with the others: one chooses among them, one needs other data."""


def candidates(frames: int) -> tuple[str, ...]:
    """Return the names of the methods that can be compared on a cube of so many frames, the default first.

    >>> "linear" in candidates(2), "linear" in candidates(1), "auto" in candidates(2)
    (True, False, False)
    """
    return tuple(name for name in METHODS if name not in NO_CANDIDATES and (frames > 1 or name not in IN_TIME))


def make_filler(method: str, *, model: str | None = None, coverage: float = 0.9, tune: bool | None = None) -> Filler:
    """Return a method by its name, with intervals that are calibrated on the cube that it fills.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    model : str, optional
        Name or path of the weights; for pconv alone.
    coverage : float
        Share of the truth that the intervals are to hold.
    tune : bool, optional
        Whether pconv learns from artificial gaps of the cube what to trust; it does unless told otherwise.

    Examples
    --------
    >>> make_filler("pyramid").name
    'pyramid'
    """
    filler = bare_filler(method, model=model, tune=method == "pconv" if tune is None else tune)
    from stpipe.methods.calibrated import CalibratedFiller

    return CalibratedFiller(filler=filler, coverage=coverage)


def bare_filler(method: str, *, model: str | None = None, tune: bool = False) -> Filler:
    """Return a method by its name as it is, its intervals not calibrated; takes what `make_filler` takes."""
    if method not in _FACTORIES:
        near = get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise OptionError(f"no method {method!r}; {hint}there are {', '.join(METHODS)}, and guided with --guide")
    if model is not None and method != "pconv":
        raise OptionError(f"--model {model} goes with --method pconv, not with {method}; leave one of them out")
    if tune and method != "pconv":
        raise OptionError(f"--tune goes with --method pconv, not with {method}; leave one of them out")
    module, name = (_TUNED if tune else _FACTORIES[method]).split(":")
    factory = getattr(import_module(module), name)
    filler: Filler = factory() if model is None else factory(model)
    return filler
