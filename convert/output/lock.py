"""Let one convert at a time write a config of a local output, and slices apart."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pico_banana.errors import OutputError
from pico_banana.storage.lock import HeldError, hold

from ..options import Slice
from .ledger import Ledger
from .store import Store

__all__ = ["in_turn", "locked"]

_LOOK_S = 10


@contextlib.contextmanager
def locked(store: Store, config: str, part: Slice | None = None) -> Iterator[None]:
    """Hold the lock of one config in a local output, and sweep what killed runs left there.

    Slices have a lock each, and leave the sweeping to those who write alone. Nothing is left
    where nothing was written.
    """
    ledger = Ledger(store, config)
    if not store.is_local:
        yield
        return
    folder = store.path(ledger.folder)
    whole = os.path.join(folder, ".lock")
    own = whole if part is None else f"{whole}-{part.index}-of-{part.count}"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_made(folder))
            held.enter_context(hold(own, 0))
            if part is not None:
                # Held for a moment only: other slices look too.
                with hold(whole, _LOOK_S):
                    pass
            else:
                for name in os.listdir(folder):
                    if name.startswith(".lock-"):
                        with hold(os.path.join(folder, name), 0):
                            pass
        except HeldError as error:
            raise OutputError(
                f"another pico-banana convert of {config} is writing to {store.root}; wait for "
                f"it, or give another --output ({error})",
                store.root,
            ) from None
        except OSError as error:
            raise OutputError(f"the output {store.root} cannot be written: {error}", own) from None
        # Not the output's root, where another config's convert may be writing the card.
        folders = (config, ledger.folder) if part is None else ()
        try:
            for folder in folders:
                store.sweep(folder)
            yield
        finally:
            for folder in folders:
                store.sweep(folder)


@contextlib.contextmanager
def in_turn(store: Store) -> Iterator[None]:
    """Let slices of a local output begin one after the other: what one asks for, all find."""
    if not store.is_local:
        yield
        return
    path = store.path("_ledger/.begin.lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(path))
        except OSError as error:
            raise OutputError(f"the output {store.root} cannot be written: {error}", path) from None
        yield


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    """Make a folder; take away what of it is new and still empty in the end."""
    new = []
    while not os.path.isdir(folder):
        new.append(folder)
        folder = os.path.dirname(folder)
    try:
        for missing in reversed(new):
            with contextlib.suppress(FileExistsError):
                os.mkdir(missing)
        yield
    finally:
        with contextlib.suppress(OSError):
            for made in new:
                os.rmdir(made)
