"""What is said of a run in words."""

from __future__ import annotations

from collections.abc import Mapping

from stpipe.core.ports import JSON


def learning_notes(learned: Mapping[str, JSON]) -> list[str]:
    """Return what the method noted while it learned, with the variable's name where there are several.

    >>> learning_notes({"ndvi": {"notes": ["tuning gained 4 %"]}, "evi": {"notes": []}})
    ['ndvi: tuning gained 4 %']
    """
    prefix = "{}: " if len(learned) > 1 else ""
    return [prefix.format(name) + note for name, row in learned.items() for note in row.get("notes") or []]


def guide_words(guide: Mapping[str, JSON]) -> str:
    """Return one of a run's guides in words.

    >>> guide_words({"name": "VV", "variable": "vv", "resampling": "average", "window_days": 6.0})
    'VV (variable vv, resampled by average, at most 6 days off)'
    >>> guide_words({"name": "dem", "variable": "dem", "resampling": "bilinear", "window_days": None})
    'dem (resampled by bilinear)'
    """
    name, variable, days = str(guide.get("name", "")), guide.get("variable"), guide.get("window_days")
    about = []
    if variable and variable != name:
        about.append(f"variable {variable}")
    if guide.get("resampling"):
        about.append(f"resampled by {guide['resampling']}")
    if isinstance(days, int | float):
        about.append(f"at most {days:g} days off")
    return f"{name} ({', '.join(about)})" if about else name
