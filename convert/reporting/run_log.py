"""Account for a run: what each host was asked and gave, as tables, and as JSON in `_ledger/runs/`.

These files tell of the network and the time of day: they are no part of what is compared.
"""

from __future__ import annotations

import contextlib
import platform
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pyarrow as pa
from rich.markup import escape
from rich.table import Table

from pico_banana import __version__
from pico_banana.errors import OutputError, PicoBananaError, WriteError
from pico_banana.hosts.traffic import HostTraffic, Traffic
from pico_banana.storage.lock import hold

from ..output.store import Store, dump_json
from ..screen import Shown
from ..text import printable

__all__ = ["RUNS_FOLDER", "Run", "read_traffic", "recorded", "shown_host", "traffic_tables"]

RUNS_FOLDER = "_ledger/runs"
_FORMAT = 1
_LOCK_S = 2
_USUAL_PORT = re.compile(r"(https://[^ ]*):443$|(http://[^ ]*):80$")


@dataclass
class Run:
    """One run of a conversion.

    Attributes:
        configs: what it converted.
        runner: local or ray.
        workers: how many processes.
        traffic: what the hosts were asked.
        made: shards that it made.
        ended: how it ended: done, interrupted, or what went wrong.
    """

    configs: Sequence[str]
    runner: str
    workers: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    made: int = 0
    ended: str = "done"
    _begun: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    _begun_s: float = field(default_factory=time.monotonic)

    def write(self, store: Store) -> None:
        """Write the run's file; `WriteError` where that cannot be."""
        name = f"{RUNS_FOLDER}/{self._begun:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
        value = {
            "format": _FORMAT,
            "configs": list(self.configs),
            "runner": self.runner,
            "workers": self.workers,
            "begun": f"{self._begun:%Y-%m-%dT%H:%M:%SZ}",
            "seconds": round(time.monotonic() - self._begun_s, 1),
            "ended": self.ended,
            "shards_made": self.made,
            "versions": {
                "pico_banana_400k": __version__,
                "pyarrow": pa.__version__,
                "python": platform.python_version(),
            },
            "hosts": self.traffic.to_json(),
        }
        with self._alone(store):
            store.write(name, dump_json(value))

    @staticmethod
    @contextlib.contextmanager
    def _alone(store: Store) -> Iterator[None]:
        """One run at a time, so that what killed ones left can be swept."""
        if not store.is_local:
            yield
            return
        path = store.path("_ledger/.lock")
        try:
            with hold(path, _LOCK_S):
                store.sweep(RUNS_FOLDER)
                yield
        except OSError as error:
            raise WriteError(f"{path} cannot be locked: {error}", path) from None


@contextlib.contextmanager
def recorded(store: Store, shown: Shown, configs: Sequence[str], runner: str) -> Iterator[Run]:
    """Give a run to be filled; however it ends, its file is written, and what it asked is shown."""
    run = Run(configs, runner)
    try:
        yield run
    except PicoBananaError as error:
        run.ended = printable(str(error))
        raise
    except BaseException as error:
        is_signal = not isinstance(error, Exception)
        run.ended = "interrupted" if is_signal else f"failed: {type(error).__name__}"
        raise
    finally:
        if run.traffic:
            shown.say("asked in this run:")
        for table in traffic_tables(run.traffic):
            shown.table(table)
        try:
            run.write(store)
        except (WriteError, OutputError) as error:
            shown.say(f"the report of this run is lost: {error}")


def read_traffic(store: Store) -> tuple[Traffic, int, list[str]]:
    """Return what all runs of an output asked, how many they are, and the files that are none."""
    total, count, broken = Traffic(), 0, []
    for name in store.names(RUNS_FOLDER):
        if name.startswith("."):
            continue
        try:
            hosts = store.read_json(f"{RUNS_FOLDER}/{name}")["hosts"].items()
            found = [(host, HostTraffic.from_json(value)) for host, value in hosts]
        except (OutputError, AttributeError, KeyError, TypeError, ValueError):
            broken.append(f"{RUNS_FOLDER}/{name}")
        else:
            total.add(found)
            count += 1
    return total, count, broken


def traffic_tables(traffic: Traffic) -> list[Table]:
    """Return what hosts were asked and gave, and why not, as tables; none where none was asked."""
    if not traffic:
        return []
    hosts, reasons = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for table in (hosts, reasons):
        table.add_column("host", overflow="fold")  # numbers are never cut, nor is a name
    names = ("asked", "got", "again", "missing", "MB", "median s", "99% s", "slowed")
    for name in names:
        hosts.add_column(name, justify="right", no_wrap=True)
    reasons.add_column("reason", no_wrap=True)
    for name in ("again", "missing"):
        reasons.add_column(name, justify="right")
    for host, asked in sorted(traffic.items()):
        shown = shown_host(host)
        hosts.add_row(shown, *_cells(asked))
        for reason in sorted({*asked.again, *asked.missing}):
            reasons.add_row(shown, reason, f"{asked.again[reason]:,}", f"{asked.missing[reason]:,}")
    return [hosts, reasons] if reasons.row_count else [hosts]


def shown_host(host: str) -> str:
    """Return a host as a person writes it, without its usual port; foreign text is no markup."""
    return escape(printable(_USUAL_PORT.sub(r"\1\2", host)))


def _cells(traffic: HostTraffic) -> list[str]:
    seconds = (traffic.duration_s(0.5), traffic.duration_s(0.99))
    return [
        f"{traffic.asked:,}",
        f"{traffic.got:,}",
        f"{traffic.again.total():,}",
        f"{traffic.missing.total():,}",
        f"{traffic.size_bytes / 1e6:,.1f}",
        *["-" if value is None else f"{value:.3g}" for value in seconds],
        f"{traffic.slowed:,}",
    ]
