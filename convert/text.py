"""Make foreign text harmless where a person or a page shows it."""

from __future__ import annotations

import re

from pico_banana.errors import CONTROLS

__all__ = ["printable", "short"]

# Besides controls the characters that reverse the direction of text, and those that some readers
# take for the end of a line.
_HARMFUL = re.compile(rf"{CONTROLS.pattern}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # as `os.fsdecode` gives them
_LONGEST = 120


def printable(text: str) -> str:
    r"""Return a text with a space for each control character.

    Bytes of a file's name that are not UTF-8 are shown as `\xe9`.
    """
    return _HARMFUL.sub(" ", _NO_UTF8.sub(lambda found: rf"\x{ord(found[0]) & 0xFF:02x}", text))


def short(text: str) -> str:
    """Return a text for a table's cell: printable, and cut where it is long."""
    text = printable(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
