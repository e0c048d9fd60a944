"""Let a disk fail as network disks do; Python imports this where it is on the path.

With FLAKY_FLOCK every flock fails with that errno: Lustre without `-o flock`, NFS without lockd.

Below the folders of FLAKY_FOLDERS (separated by colons), one look in five at a path fails once, in
each process, with the errors of FLAKY_ERRNOS in turn. Which ones is seeded by function and path.
"""

import fcntl
import itertools
import os
import zlib

_FOLDERS = tuple(os.environ.get("FLAKY_FOLDERS", "").split(":"))
_NUMBERS = itertools.cycle(int(number) for number in os.environ.get("FLAKY_ERRNOS", "5").split(","))
_failed = set()


def _flaky(name):
    look = getattr(os, name)

    def looked(path=".", *args, **given):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(_FOLDERS):
            key = (name, os.fspath(path))
            if zlib.crc32(repr(key).encode()) % 5 == 0 and key not in _failed:
                _failed.add(key)
                number = next(_NUMBERS)
                raise OSError(number, os.strerror(number), os.fspath(path))
        return look(path, *args, **given)

    setattr(os, name, looked)


def _no_flock(_file, _how):
    number = int(os.environ["FLAKY_FLOCK"])
    raise OSError(number, os.strerror(number))


if "FLAKY_FLOCK" in os.environ:
    fcntl.flock = _no_flock
if _FOLDERS != ("",):
    for _name in ("stat", "lstat", "open", "listdir", "scandir"):
        _flaky(_name)
