"""Note what a process opens and connects to; Python imports this where it is on the path.

The file that AUDIT_LOG names gets a line each: process id, event, and what it was about, as a
Python tuple; at the end of the process the most memory it had, in KiB. AUDIT_NAMES is
`name=address,…`: what these host names resolve to.
"""

import atexit
import os
import socket
import sys

_ABOUT = {"open": 0, "socket.connect": 1}
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(event, about):
    about = os.fspath(about) if isinstance(about, os.PathLike) else about
    os.write(_log, f"{(os.getpid(), event, about)!r}\n".encode())


def _hook(event, arguments):
    if event in _ABOUT:
        _note(event, arguments[_ABOUT[event]])


def _note_peak():
    # Not getrusage's: that counts what the parent had when it started this process.
    with open("/proc/self/status", encoding="ascii") as file:
        peak = [line.split()[1] for line in file if line.startswith("VmHWM")]
    _note("peak", int(peak[0]))


_names = dict(pair.split("=") for pair in os.environ.get("AUDIT_NAMES", "").split(",") if pair)
_resolve = socket.getaddrinfo


def _getaddrinfo(host, port, *args, **given):
    _note("resolve", host)
    return _resolve(_names.get(host, host), port, *args, **given)


socket.getaddrinfo = _getaddrinfo
sys.addaudithook(_hook)
if os.path.exists("/proc/self/status"):
    atexit.register(_note_peak)
