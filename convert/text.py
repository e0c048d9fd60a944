"""Make foreign text harmless where a person or a page shows it, and sizes short."""

from __future__ import annotations

import re

from pico_banana.errors import CONTROLS

__all__ = ["printable", "short", "shown_bytes"]

# Besides controls the characters that reverse the direction of text, and those that some readers
# take for the end of a line.
_HARMFUL = re.compile(rf"{CONTROLS.pattern}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONGEST = 120


def printable(text: str) -> str:
    """Return a text with a space for each control character."""
    return _HARMFUL.sub(" ", text)


def shown_bytes(size: float) -> str:
    """Return "438.1 GB", "2.5 MB" or "0.4 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"  # noqa: PLR2004


def short(text: str) -> str:
    """Return a text for a table's cell: printable, and cut where it is long."""
    text = printable(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
