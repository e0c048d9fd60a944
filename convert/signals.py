"""Turn the signals that end a process into one exception, once, where it does no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = [
    "ENDING",
    "SignalError",
    "catch",
    "check",
    "die_of",
    "end_within",
    "held",
    "let_go",
    "received",
]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run: Ctrl-C, a polite kill, a terminal that is closed."""

_ERROR_STREAM = 2


class SignalError(BaseException):
    """A signal asks this process to end.

    No `KeyboardInterrupt`: the command line's library has its own end for that.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    """What has come in this process; signals are a process's own matter, so there is only one."""

    received: int | None = None
    is_over = False
    held = 0


def catch(numbers: Sequence[signal.Signals] = ENDING) -> None:
    """Raise `SignalError` in the main thread at the first of these signals; ignore the later ones.

    What the first one has begun to end must not be broken off by a second one.
    """
    for number in numbers:
        # What nohup has switched off stays so.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _come)
    sys.unraisablehook = _pass_over


def _come(number: int, _frame: FrameType | None) -> None:
    if _State.received is None and not _State.is_over:
        _State.received = number
        check()


def check() -> None:
    """Raise the `SignalError` again that a library has swallowed.

    pyarrow does, while it imports pandas behind one of its functions.
    """
    if _State.received is not None and not _State.held and not _State.is_over:
        raise SignalError(_State.received)


def _pass_over(lost: sys.UnraisableHookArgs) -> None:
    """Print nothing of a `SignalError` that came where Python raises none; see `end_within`."""
    if not isinstance(lost.exc_value, SignalError):
        sys.__unraisablehook__(lost)


def received() -> int | None:
    """Return the number of the signal that came, None where none did."""
    return _State.received


def let_go() -> None:
    """Raise nothing from now on: the work is done, and Python's own end is no place for it."""
    _State.is_over = True


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal wait for the end of the block, which would leave something half begun.

    Blocks may lie within each other. Other threads than the main one get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    check()


def die_of(number: int) -> None:
    """End this process by a signal, without a further word; whoever waits for it sees which."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def end_within(seconds: float, said: str) -> None:
    """From now on, end this process so many seconds after a caught signal, whatever it waits for.

    A library may swallow the exception, or wait for what never comes. `said` is written to stderr
    then, and the exit code is 128 and the signal's number.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written when the signal comes, not when Python next looks.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        number = os.read(reader, 1)[0]
        time.sleep(seconds)
        with contextlib.suppress(OSError):
            os.write(_ERROR_STREAM, f"\n{said}\n".encode())
        os._exit(128 + number)

    threading.Thread(target=watch, name="pico-banana-end", daemon=True).start()
