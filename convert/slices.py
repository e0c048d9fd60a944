"""Share a conversion out among runs that know nothing of each other, and put the output together.

A job array starts n of them; each plans all, carries out every n-th shard, and takes its share of
every host's budget. `finish` then looks whether all is there, and writes the card.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from filelock import FileLock, Timeout

from pico_banana.errors import OutputError, SettingError, WorkError
from pico_banana.schema import CONFIGS
from pico_banana.settings import HostBudget
from pico_banana.urls import FLICKR_HOSTS

from .ledger import Ledger
from .options import ConvertSettings
from .progress import Shown
from .reports import ConfigReport, read_reports
from .store import Store

__all__ = ["Slice", "check_whole", "locked"]

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_SHOWN = 5
_LOOK_S = 10


@dataclass(frozen=True)
class Slice:
    """One of several runs that share a conversion.

    Attributes:
        index: which one, from 0.
        count: how many there are.
        at_once: how many run at the same time, and share the budgets of hosts.
    """

    index: int
    count: int
    at_once: int

    @classmethod
    def parse(cls, text: str, at_once: int | None = None) -> Slice:
        """Return what "2/8" means: the third of eight; `SettingError` for anything else."""
        found = _FORM.fullmatch(text)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not index < count:
            raise SettingError(
                "slice", text, "must be i/n, i from 0 up to n-1, like 0/8 for the first of eight"
            )
        if at_once is not None and not 1 <= at_once <= count:
            raise SettingError(
                "slices_at_once", at_once, f"must be from 1 up to the number of slices, {count}"
            )
        return cls(index, count, at_once or count)

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.index}/{self.count}"

    def names(self, shards: Sequence[str]) -> set[str]:
        """Return which of a config's shards are this slice's."""
        return set(shards[self.index :: self.count])

    def settings(self, settings: ConvertSettings) -> ConvertSettings:
        """Return the settings with this slice's share of every host's budget."""
        # A host that none names has a budget too.
        hosts = {**settings.fetch.hosts, "*": settings.fetch.hosts.get("*", HostBudget())}
        shared = {glob: self._share(budget) for glob, budget in hosts.items()}
        fetch = settings.fetch.model_copy(update={"hosts": shared})
        return settings.model_copy(update={"fetch": fetch})

    def _share(self, budget: HostBudget) -> HostBudget:
        rate = budget.requests_per_second
        return HostBudget(
            connections=max(1, budget.connections // self.at_once),
            requests_per_second=None if rate is None else rate / self.at_once,
        )

    def overrun(self, settings: ConvertSettings) -> list[str]:
        """Return the globs of hosts that have fewer connections than slices run at once."""
        asks_flickr = "flickr" in settings.sources
        return [
            glob
            for glob, budget in settings.fetch.hosts.items()
            if budget.connections < self.at_once and (asks_flickr or glob != FLICKR_HOSTS)
        ]


@contextlib.contextmanager
def locked(store: Store, config: str, part: Slice | None = None) -> Iterator[None]:
    """Hold the lock of one config in a local output, and sweep what killed runs left there.

    Slices have a lock each, and leave the sweeping to those who write alone.
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
            os.makedirs(folder, exist_ok=True)
            held.enter_context(FileLock(own, timeout=0))
            if part is not None:
                # Held for a moment only: other slices look too.
                with FileLock(whole, timeout=_LOOK_S):
                    pass
            else:
                for name in os.listdir(folder):
                    if name.startswith(".lock-"):
                        with FileLock(os.path.join(folder, name), timeout=0):
                            os.unlink(os.path.join(folder, name))
        except Timeout:
            raise OutputError(
                f"another pico-banana convert of {config} is writing to {store.root}; wait for "
                "it, or give another --output",
                store.root,
            ) from None
        except OSError as error:
            raise OutputError(f"the output {store.root} cannot be written: {error}", own) from None
        # Not the output's root, where another config's convert may be writing the card.
        folders = (config, ledger.folder) if part is None else ()
        try:
            for one in folders:
                store.sweep(one)
            yield
        finally:
            for one in folders:
                store.sweep(one)


def check_whole(store: Store, shown: Shown) -> list[ConfigReport]:
    """Return the reports of an output of which every shard is finished, and as its ledger says.

    Reads every Parquet file. The ledger of one that is not what its ledger says is deleted: then
    the next convert makes the shard again.

    Raises:
        OutputError: it is no output.
        WorkError: shards are not finished, or were not what their ledgers say.
    """
    if not any(Ledger(store, config).has_plan() for config in CONFIGS):
        raise OutputError(
            f"{store.root} is no output of `pico-banana convert`: no plan in _ledger/", store.root
        )
    reports, unfinished = read_reports(store)
    if unfinished:
        raise WorkError(
            f"{store.root} is not complete: {_few(unfinished)} not finished; run the slices that "
            "hold them again, or the same convert without --slice, which makes what is left"
        )
    made = [(report.config, ledger) for report in reports for ledger in report.ledgers]
    damaged = []
    with shown.bytes_bar("checking files") as progress:
        done, total = 0, sum(ledger.size_bytes for _, ledger in made)
        for config, ledger in made:
            if not Ledger(store, config).is_intact(ledger):
                damaged.append(f"{config}/{ledger.shard}")
                store.delete(Ledger(store, config).ledger_name(ledger.shard))
            done += ledger.size_bytes
            progress(done, total)
    if damaged:
        whose = "its ledger says" if len(damaged) == 1 else "their ledgers say"
        raise WorkError(
            f"{_few(damaged)} not what {whose}: two runs wrote to {store.root}, or it was changed. "
            "These ledgers are deleted; run the same convert again, with --slice or without, and "
            "then finish"
        )
    return reports


def _few(names: Sequence[str]) -> str:
    """Some names in words, with the verb that fits."""
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
