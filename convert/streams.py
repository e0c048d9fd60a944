"""Give a process standard streams that end no work: what cannot be told is dropped."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["lost_output", "open_streams"]

_INPUT, _OUTPUT, _ERROR = 0, 1, 2

_lost: dict[int, OSError] = {}


class _Descriptor(io.FileIO):
    """A descriptor to write to, which keeps its first error to itself.

    Text and buffers above it see none, and so neither does Python's own end.
    """

    def write(self, data: Buffer, /) -> int:
        """Write as much as goes; what meets an error is as good as written."""
        while True:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                _lost.setdefault(self.fileno(), error)
                return memoryview(data).nbytes
            if written is not None:
                return written
            # Who shares the descriptor has made it non-blocking, and its reader is slow.
            select.select([], [self], [])


def open_streams() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed, and let no write to 1 and 2 fail.

    Call it before anything is opened: a file or socket would get the number of a closed one, and
    whatever is printed, here or in a process that is started, would be written into it.
    """
    for number in (_INPUT, _OUTPUT, _ERROR):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # at the lowest free number
    sys.stdin = sys.stdin or open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _text(_OUTPUT, sys.stdout), _text(_ERROR, sys.stderr)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text(number: int, before: TextIO | None) -> io.TextIOWrapper:
    raw = _Descriptor(number, "w", closefd=False)
    # Edit types have arrows, which ASCII has not.
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="replace", line_buffering=True
    )


def lost_output() -> str | None:
    """Return why some of standard output is lost, in the system's words; None where none is.

    A reader that has gone, as `head` does, has read what it wanted.
    """
    sys.stdout.flush()
    error = _lost.get(_OUTPUT)
    return None if error is None or isinstance(error, ConnectionError) else error.strerror
