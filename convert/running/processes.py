"""Start worker processes: loaded beside what this process does, deaf to the terminal's Ctrl-C.

Imports nothing large, so that loading can begin in a command's first moments.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import resource_tracker, util
from multiprocessing.context import BaseContext

from pico_banana.hosts.scratch import make_scratch

__all__ = ["LOADED", "away_from_here", "deaf_to_sigint", "load", "sweep", "worker_context"]

LOADED = "pico_banana.convert.running.loaded"
"""Loads what each worker needs: the fork server swallows it where it is not there."""
_AFTER_ITS_OWN = -200
"""`multiprocessing` deletes its folder at -100, and complains where it is gone."""

_scratch: list[str] = []


def worker_context() -> BaseContext:
    """Return how workers are started: never forked from this process, with its threads' locks.

    Linux forks them from a process that has loaded all and has no threads, so that it is loaded
    once.
    """
    return multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


def load() -> None:
    """Begin to load what workers need, in a process of its own."""
    if worker_context().get_start_method() != "forkserver":
        with away_from_here():
            resource_tracker.ensure_running()
        return
    from multiprocessing import forkserver  # noqa: PLC0415  (not everywhere)

    # `multiprocessing` makes its folder once, wherever temporary files go at that time: in one
    # whose path is short enough, and that is swept where this process is killed.
    before, tempfile.tempdir = tempfile.tempdir, _own_folder()
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = before
    multiprocessing.set_forkserver_preload([LOADED])
    with away_from_here(), deaf_to_sigint():
        forkserver.ensure_running()


@contextlib.contextmanager
def away_from_here() -> Iterator[None]:
    """Stand in an empty folder meanwhile, so that what is started imports nothing from this one.

    Python puts the current folder first in the path of what it starts with `-c`, and Ray that of
    its workers. It may hold another version of this project, or a `numpy.py` of somebody's. Only
    where this process imports from there itself (`python -m`, PYTHONPATH), so do its workers.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was deleted: nothing can be imported from it
        yield
        return
    if here in map(os.path.abspath, sys.path):
        yield
        return
    empty = os.path.join(_own_folder(), "empty")
    os.makedirs(empty, exist_ok=True)
    os.chdir(empty)
    try:
        yield
    finally:
        os.chdir(here)


def _own_folder() -> str:
    """This process' folder for what is needed until it ends."""
    if not _scratch:
        _scratch.append(make_scratch())
        util.Finalize(None, sweep, exitpriority=_AFTER_ITS_OWN)
    return _scratch[0]


@contextlib.contextmanager
def deaf_to_sigint() -> Iterator[None]:
    """Let processes that are started be deaf to SIGINT.

    The terminal sends it to all; their mask is inherited, and this process acts.
    """
    resource_tracker.ensure_running()  # the first start would else lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sweep() -> None:
    """Delete what loading needs; for a process that does not end by Python's own end."""
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)
