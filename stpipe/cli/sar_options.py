"""The options of infilling from radar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.paths import AnyPath
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from stpipe.io.guides import GuideOptions
    from stpipe.methods.sar.options import RadarOptions, SarOptions

_WORDS = {
    "sar_window": "--sar-window",
    "sar_average": "--sar-average",
    "by_orbit": "--by-orbit",
    "sar_clear_dates": "--sar-clear-dates",
    "sar_components": "--sar-components",
    "sar_explained": "--sar-explained",
    "sar_cloud": "--sar-cloud",
    "sar_smoothing": "--no-sar-smoothing",
    "sar_calibration": "--no-sar-calibration",
    "coefficients": "--coefficients",
}


@dataclass(frozen=True, slots=True)
class SarChoice:
    """What the user asked for of infilling from radar."""

    radar: RadarOptions
    """How radar comes onto the cube's frames."""

    steps: SarOptions
    """What the steps go by."""

    coefficients: Path | None = None
    """Those of another run, to go by."""


def sar_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of infilling from radar to a command: `_WORDS` has their names."""
    return _with_options(function)


def scored_sar_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the same to a command that scores; the one that `parse_scored_sar` always refuses is not in its help."""
    return _with_options(function, scored=True)


def _with_options(function: Callable[..., Any], *, scored: bool = False) -> Callable[..., Any]:
    decorators: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "--sar-window", type=float, metavar="DAYS", help="sar: images count so long before and after [12]."
        ),
        click.option(
            "--sar-average",
            type=click.Choice(["power", "db"]),
            help="sar: average images in linear power, or in dB as published [power].",
        ),
        click.option("--by-orbit", metavar="V", help="sar: a regression for each orbit direction, which V names."),
        click.option("--sar-clear-dates", type=int, metavar="N", help="sar: a pixel's regression needs so many [18]."),
        click.option("--sar-components", type=float, metavar="SHARE", help="sar: share of components to keep [0.5]."),
        click.option("--sar-explained", type=float, metavar="SHARE", help="sar: or those that explain this share."),
        click.option("--sar-cloud", type=float, metavar="SHARE", help="sar: cloudier frames aren't calibrated [0.5]."),
        click.option("--no-sar-smoothing", "sar_smoothing", is_flag=True, help="sar: keep all components."),
        click.option("--no-sar-calibration", "sar_calibration", is_flag=True, help="sar: calibrate no frame."),
        click.option(
            "--coefficients",
            type=AnyPath(),
            help="sar: fit nothing, go by the coefficients.zarr that another run left.",
            hidden=scored,
        ),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def parse_sar(method: str, guides: GuideOptions, **typed: Any) -> SarChoice | None:
    """Turn what was typed about radar into options, or refuse; None for other methods.

    Parameters
    ----------
    method : str
        The method's name.
    guides : GuideOptions
        What was typed about guides.
    **typed
        What `sar_options` adds; None, or False for flags, where nothing was typed.
    """
    from stpipe.methods.sar.options import NAME, RadarOptions, SarOptions

    given = {name: value for name, value in typed.items() if value is not None and value is not False}
    if method != NAME:
        if given:
            raise OptionError(f"{_WORDS[next(iter(given))]} goes with --method {NAME}, not with {method}")
        return None
    if guides.window_days is not None:
        raise OptionError(
            f"--guide-window is for other methods; say with --sar-window how long radar counts for {NAME}"
        )
    for option, others in (("sar_smoothing", ("sar_components", "sar_explained")), ("sar_calibration", ("sar_cloud",))):
        for other in others:
            if option in given and other in given:
                raise OptionError(f"{_WORDS[option]} leaves out what {_WORDS[other]} is about; give one of them")
    if "coefficients" in given and "sar_clear_dates" in given:
        raise OptionError("--coefficients fits nothing, so --sar-clear-dates has no use; give one of them")
    if "sar_components" in given and "sar_explained" in given:
        raise OptionError(
            "--sar-components and --sar-explained both say how many components are kept; give one of them"
        )
    radar: dict[str, Any] = {"variables": guides.variables, "resampling": guides.resampling}
    steps: dict[str, Any] = {"smoothing": "sar_smoothing" not in given, "calibration": "sar_calibration" not in given}
    for name, target, key in (
        ("sar_window", radar, "window_days"),
        ("sar_average", radar, "average"),
        ("by_orbit", radar, "by_orbit"),
        ("sar_clear_dates", steps, "least_clear"),
        ("sar_components", steps, "share"),
        ("sar_explained", steps, "explained"),
        ("sar_cloud", steps, "cloud_threshold"),
    ):
        if name in given:
            target[key] = given[name]
    if "sar_explained" in given:
        steps["share"] = None
    return SarChoice(RadarOptions(**radar), SarOptions(**steps), given.get("coefficients"))


def lean_on_guides(methods: Sequence[str]) -> bool:
    """Return whether some other method than infilling from radar is to lean on guides; there may be none at all.

    >>> lean_on_guides(["sar", "linear"]), lean_on_guides(["sar", "stack"]), lean_on_guides([])
    (False, True, True)
    """
    from stpipe.methods.sar.options import NAME
    from stpipe.methods.with_guides import TAKE_GUIDES

    return NAME not in methods or any(name in TAKE_GUIDES for name in methods if name != NAME)


def parse_scored_sar(
    methods: Sequence[str], guides: GuideOptions, *, guided: bool, coefficients: Path | None, **typed: Any
) -> SarChoice | None:
    """Turn what was typed about radar into options to score infilling from it with, or refuse; see `parse_sar`.

    Parameters
    ----------
    methods : sequence of str
        Names of the methods to score, none for those that are scored unless told.
    guides : GuideOptions
        What was typed about guides.
    guided : bool
        Whether there are any.
    coefficients : Path, optional
        Refused: they have seen what a score hides.
    **typed
        The other options that `scored_sar_options` adds.
    """
    from stpipe.methods.sar.options import NAME
    from stpipe.methods.with_guides import check_method

    if coefficients is not None:
        raise OptionError(
            "--coefficients have seen the very samples that a score hides; leave them out: the regression is fitted "
            "anew to what is left"
        )
    if NAME not in methods:
        return parse_sar(", ".join(methods) or "those that are scored unless named", guides, **typed)
    check_method(NAME, guided=guided)
    # How long guides count is then for the others.
    return parse_sar(NAME, replace(guides, window_days=None) if lean_on_guides(methods) else guides, **typed)
