"""Look whether slices have made all of an output, then write its card."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pico_banana.errors import OutputError, WorkError
from pico_banana.schema import CONFIGS

from .output.card import write_card
from .output.finished import ConfigReport, read_reports
from .output.ledger import Ledger
from .output.lock import locked
from .output.store import Store
from .reporting.outcome import Outcome
from .screen import Shown

__all__ = ["finish"]

_SHOWN = 5


def finish(store: Store, shown: Shown) -> Outcome:
    """Look whether slices have made all of an output, then write its card.

    Raises:
        OutputError: it is no output, or somebody is writing to it.
        WorkError: shards are not finished, or are not what their ledgers say.
    """
    store.check_writable()
    with contextlib.ExitStack() as locks:
        for config in CONFIGS:
            if Ledger(store, config).has_plan():
                locks.enter_context(locked(store, config))
        reports = _check_whole(store, shown)
        write_card(store, reports)
    missing = sum(len(ledger.missing) for report in reports for ledger in report.ledgers)
    return Outcome(reports, 0, sum(len(report.ledgers) for report in reports), missing)


def _check_whole(store: Store, shown: Shown) -> list[ConfigReport]:
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
