"""Make foreign text harmless where a person or a page shows it, and sizes short."""

from __future__ import annotations

import os
import re
import shlex

from pico_banana.errors import CONTROLS

__all__ = ["in_shell", "is_loadable", "printable", "short", "shown_bytes"]

# Besides controls the characters that reverse the direction of text, and those that some readers
# take for the end of a line.
_HARMFUL = re.compile(rf"{CONTROLS.pattern}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # as `os.fsdecode` gives them
# What `datasets` takes for a pattern, for one file system behind another, or for a variable, and
# what it cannot hash: bytes that are not UTF-8.
_PATTERN = re.compile(r"[\[\]*?$\udc80-\udcff]|::")
_LONGEST = 120


def printable(text: str) -> str:
    r"""Return a text with a space for each control character.

    Bytes of a file's name that are not UTF-8 are shown as `\xe9`.
    """
    return _HARMFUL.sub(" ", _NO_UTF8.sub(lambda found: rf"\x{ord(found[0]) & 0xFF:02x}", text))


def in_shell(word: str) -> str:
    """Return a word as a shell takes it: as it is where that is harmless, else quoted.

    With `$'…'`, as bash and zsh know it, where it holds what no terminal shows as it is.
    """
    if printable(word) == word:
        return shlex.quote(word if not word.startswith("-") else f"./{word}")
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}"  # noqa: PLR2004
        for byte in os.fsencode(word)
    )
    return f"$'{quoted}'"


def is_loadable(place: str) -> bool:
    """Whether `load_dataset` finds what lies in a folder, by the folder's name."""
    return not _PATTERN.search(place)


def shown_bytes(size: float) -> str:
    """Return "438.1 GB", "2.5 MB" or "0.4 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"  # noqa: PLR2004


def short(text: str) -> str:
    """Return a text for a table's cell: printable, and cut where it is long."""
    text = printable(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
