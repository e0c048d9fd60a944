"""Let /dev/shm fail as one that is read only, full or absent; Python imports this on its path.

Semaphores, and files below it, fail with the error that SHM_ERRNO numbers.
"""

import _multiprocessing
import os

_FOLDER = "/dev/shm"  # noqa: S108  (it is not written)
_NUMBER = int(os.environ["SHM_ERRNO"])


def _fail(name):
    raise OSError(_NUMBER, os.strerror(_NUMBER), name)


class _SemLock(_multiprocessing.SemLock):
    def __new__(cls, *_):
        _fail(None)


def _failing(function, failed=_fail):
    def called(path, *args, **given):
        if isinstance(path, str) and path.startswith(_FOLDER):
            return failed(path)
        return function(path, *args, **given)

    return called


_multiprocessing.SemLock = _SemLock
os.open, os.statvfs = _failing(os.open), _failing(os.statvfs)
os.access = _failing(os.access, lambda _: False)
