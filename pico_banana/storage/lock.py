"""Hold a lock file: by flock where the file system has it, else by the file's being there."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

__all__ = ["HeldError", "hold"]

_log = logging.getLogger("pico_banana")

_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What flock says on Lustre, on NFS without its lock service, and on some FUSE file systems."""

_LOOK_S = 3.0
"""In which filelock has taken over what a dead process of this machine left."""


class HeldError(OSError):
    """Another process holds a lock; the message names it, the file, and the way out."""


@contextmanager
def hold(path: str, timeout_s: float | None = None) -> Iterator[None]:
    """Hold a lock file for as long as the block lasts; then the file is gone.

    Args:
        path: the file, in a folder that is there; it says who holds it.
        timeout_s: how long another holder is waited for; None for as long as it takes, with a
            word in the log where that is long.

    Raises:
        HeldError: another process holds it still.
        OSError: the file cannot be written.
    """
    lock = _lock(path)
    first_s = _LOOK_S if timeout_s is None else timeout_s
    try:
        lock.acquire(max(first_s, _LOOK_S) if isinstance(lock, SoftFileLock) else first_s)
    except Timeout:
        if timeout_s is not None:
            raise HeldError(_held(path)) from None
        _log.warning("waiting: %s", _held(path))
        lock.acquire(-1)
    try:
        if isinstance(lock, SoftFileLock):
            yield
        else:
            with _named(path):
                yield
    finally:
        lock.release()


def _lock(path: str) -> BaseFileLock:
    """A lock of the kind that the folder's file system bears.

    Tried at another file: what a failed flock leaves would look like a soft lock that is held.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as probe:
        try:
            lock_descriptor(probe.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            return SoftFileLock(path)
    return FileLock(path)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Write into a file that is locked by flock who holds it, as a soft lock does; then unlink it.

    Whoever has opened it meanwhile sees that it is unlinked, and opens the next one.
    """
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n{socket.gethostname()}\n")
    mine = os.stat(path).st_ino
    try:
        yield
    finally:
        # Not the file of somebody who came after this one was deleted by hand.
        with suppress(OSError):
            if os.stat(path).st_ino == mine:
                os.unlink(path)


def _held(path: str) -> str:
    """Who holds a lock, as its file says, and what to do where nobody does any more."""
    holder, since = "a process", ""
    with suppress(OSError):
        with open(path, encoding="utf-8", errors="replace") as file:
            pid, host, *_ = [*file.read(1024).split("\n"), "", ""]
            changed_s = os.fstat(file.fileno()).st_mtime
        since = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(changed_s))} UTC"
        if pid and host:
            holder = f"process {pid} on {host.partition('?')[0]}"  # filelock adds ?pidns-…
    return f"{path} is held by {holder}{since}; if that has ended, delete this file"
