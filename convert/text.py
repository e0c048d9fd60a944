"""Make foreign text harmless where a person or a page shows it."""

from __future__ import annotations

import re

__all__ = ["printable", "short"]

# Controls (C0, DEL, C1), which move a terminal's cursor or change its title, the characters that
# reverse the direction of text, and those that some readers take for the end of a line.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONGEST = 120


def printable(text: str) -> str:
    """Return a text with a space for each control character."""
    return _CONTROLS.sub(" ", text)


def short(text: str) -> str:
    """Return a text for a table's cell: printable, and cut where it is long."""
    text = printable(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
