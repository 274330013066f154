"""Sizes in bytes, as people read them."""

from __future__ import annotations

MIB = 2**20
GIB = 2**30


def gib(n_bytes: float) -> str:
    """Return a size as people read it.

    >>> gib(3 * 2**30), gib(5e6)
    ('3.0 GiB', '4.8 MiB')
    """
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB / 2 else f"{n_bytes / MIB:.1f} MiB"
