"""Make foreign text harmless where a person or a page shows it."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Controls (C0, DEL, C1), which move a terminal's cursor or change its title, and the characters
# that reverse the direction of text.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with a space for each control character."""
    return _CONTROLS.sub(" ", text)
