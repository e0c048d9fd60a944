"""Run the command line as `pico-banana` and `python -m pico_banana.convert`, and end it by signals.

Signals are caught before anything large is imported: Ctrl-C may come in the first second. Streams
are there before anything is opened.
"""

from __future__ import annotations

import gc
import os
import sys

from .interpreter import collect_rarely, give_memory_back
from .signals import catch, end_within, let_go, received
from .streams import open_streams

__all__ = ["main"]

_INTERRUPTED = "interrupted: finished shards are kept; run the same command again to continue"
_END_S = 4.5


def main() -> None:
    """Run the command line; the exit codes are 0, 1 and 2, or 128 and the number of a signal."""
    try:
        open_streams()
        catch()
        collect_rarely()
        give_memory_back()
        # numpy starts a thread for each core, which spins for a while; nobody here needs one.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        end_within(_END_S, _INTERRUPTED)
        from .cli import main as run  # noqa: PLC0415  (see above)

        run()
    except BaseException as ended:
        number = received()
        # What the signal broke may have become another error on its way here.
        if number is None or (isinstance(ended, SystemExit) and not ended.code):
            raise
        _end(number)
    finally:
        let_go()
        gc.freeze()  # Python's end would look through all that is left, twice


def _end(number: int) -> None:
    """Say how to go on, and end; where the terminal is closed nobody listens."""
    sys.stderr.write(f"{_INTERRUPTED}\n")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not by way of Python's own end: it waits for threads, one of which may look up a host.
    if "pico_banana.convert.running.processes" in sys.modules:
        sys.modules["pico_banana.convert.running.processes"].sweep()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
