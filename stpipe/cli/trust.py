"""The options that say which samples to trust, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from stpipe.core.qa_products import PRODUCTS, parse_trust

__all__ = ["parse_trust", "trust_options"]


def trust_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--qa``, ``--keep``, ``--drop`` and ``--buffer`` to a command: `qa`, `keep`, `drop` and `buffer`."""
    for decorate in reversed(
        [
            click.option(
                "--qa",
                multiple=True,
                metavar="NAME[:±PART,...][=VAR]",
                help=f"Drop what a product's quality layer says is unclear; one of {', '.join(PRODUCTS)}. Parts can be "
                "added and left in: s2-scl:+dark,-snow.",
            ),
            click.option(
                "--keep",
                multiple=True,
                metavar="RULE",
                help="Trust only samples that match: SCL:4,5,7-9, QA:bits=6, QA:bits=8-9:0,1 or qa_value>=0.5; may be "
                "repeated.",
            ),
            click.option("--drop", multiple=True, metavar="RULE", help="Trust no samples that match; may be repeated."),
            click.option(
                "--buffer",
                type=click.IntRange(min=0),
                default=0,
                metavar="PIXELS",
                help="Grow what these rules call unclear.",
            ),
        ]
    ):
        function = decorate(function)
    return function
