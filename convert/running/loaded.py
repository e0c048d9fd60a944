"""Load what each worker needs, once, in the process that they are forked from."""

from __future__ import annotations

import gc
import importlib

from ..interpreter import collect_rarely

collect_rarely()
for _name in ("pico_banana.convert.running.local", "pico_banana.fetching.fetcher"):
    importlib.import_module(_name)
gc.freeze()  # what was loaded stays: no worker's collector looks through it
