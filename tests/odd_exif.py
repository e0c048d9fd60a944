"""Make EXIF as cameras and editors should not."""

from __future__ import annotations

import struct


def exif_with(orientation: int, tag: int, kind: int) -> bytes:
    """EXIF of an orientation and another tag, that one with four bytes as another type's value."""
    entries = {0x0112: (3, 1, orientation.to_bytes(4, "little")), tag: (kind, 4, b"abc\0")}
    packed = [
        struct.pack("<HHI", at, *entry[:2]) + entry[2] for at, entry in sorted(entries.items())
    ]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4)
