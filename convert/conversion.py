"""Carry out a conversion: plan, compare with what is there, run what is left, write the card."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from pico_banana.cache import cache_folder
from pico_banana.errors import (
    OutputError,
    TooManyMissingError,
    UsageError,
    WorkError,
    WriteError,
)
from pico_banana.open_images import Index, open_index
from pico_banana.release import Release
from pico_banana.schema import CONFIGS

from .card import CARD_NAME, ConfigReport, read_reports, write_card
from .ledger import Ledger, ShardLedger
from .options import ConvertSettings, RunOptions
from .plan import Plan, ShardTask, differences, make_plan
from .progress import Shown
from .runners import LocalRunner
from .store import Store

__all__ = ["Outcome", "convert", "plan_configs"]

_SPARE_BYTES = 256 * 1024 * 1024


@dataclass
class Outcome:
    """What a conversion came to.

    Attributes:
        reports: every finished config of the output.
        made: shards made in this run.
        kept: shards that were finished before.
        missing: examples with a missing image, of the configs converted, kept shards too.
        is_within: whether that is within `--max-missing`.
    """

    reports: list[ConfigReport] = field(default_factory=list)
    made: int = 0
    kept: int = 0
    missing: int = 0
    is_within: bool = True


def plan_configs(
    configs: Sequence[str], settings: ConvertSettings, shown: Shown
) -> tuple[list[Plan], Index | None]:
    """Return the plans of configs and the index; fetches the JSONL files and the index once."""
    for config in configs:
        settings.for_config(config)
    release = Release(settings)
    release.check_open_images()
    files = [release.jsonl(config) for config in configs]
    paths = []
    for config, file in zip(configs, files, strict=True):
        with shown.bytes_bar(f"records of {config}") as progress:
            paths.append(file.kept("jsonl", progress))
    with shown.bytes_bar("Open Images' image list (about 600 MB, once)") as progress:
        place = settings.open_images_metadata
        index = open_index(release.mirror(place), settings.storage_options, progress)
    plans = []
    for config, path in zip(configs, paths, strict=True):
        shown.say(f"planning {config} ...")
        plans.append(make_plan(config, settings, path, release.manifest(config), index))
    return plans, index


def convert(
    configs: Sequence[str],
    settings: ConvertSettings,
    options: RunOptions,
    store: Store,
    shown: Shown,
) -> Outcome:
    """Convert configs into an output; what is finished there is kept.

    Raises:
        UsageError: before any image is fetched: a release that cannot be read, an output of
            other settings, too little disk.
        WorkError: after work began; running again continues.
    """
    with contextlib.ExitStack() as locks:
        _check_output(store, settings)
        for config in configs:
            locks.enter_context(_locked(store, config))
        plans, index = plan_configs(configs, settings, shown)
        if not any(plan.shards for plan in plans):
            counts = "; ".join(
                f"{plan.config}: {plan.lines:,} lines, {len(plan.bad):,} bad, "
                f"{len(plan.filtered):,} filtered, {len(plan.left_out):,} left out"
                for plan in plans
            )
            raise UsageError(f"nothing is selected ({counts}); ask for more, or see `plan`")
        conversion = _Conversion(settings, options, store, shown, index)
        begun = [conversion.compared(plan) for plan in plans]
        _check_disk(begun, store)
        conversion.begin(begun)
        shown.plans([one.plan for one in begun], kept=sum(len(one.finished) for one in begun))
        return conversion.run(begun)


@dataclass
class _Begun:
    """A plan that the output agrees with, and the ledgers of its shards that are finished."""

    plan: Plan
    finished: list[ShardLedger]

    @property
    def left(self) -> set[str]:
        return {shard.name for shard in self.plan.shards} - {one.shard for one in self.finished}

    @property
    def records_left(self) -> int:
        left = self.left
        return sum(len(shard) for shard in self.plan.shards if shard.name in left)


@dataclass
class _Conversion:
    settings: ConvertSettings
    options: RunOptions
    store: Store
    shown: Shown
    index: Index | None

    def compared(self, plan: Plan) -> _Begun:
        """Compare a plan with the one that is there, and see what is finished; changes nothing."""
        if self.options.overwrite:
            return _Begun(plan, [])
        old = Ledger(self.store, plan.config).read_plan()
        if old is not None:
            plan = self._agreed(plan, old)
        return _Begun(plan, _finished(plan, self.store))

    def begin(self, begun: Sequence[_Begun]) -> None:
        """Delete what is to be overwritten, and write the plans."""
        for one in begun:
            ledger = Ledger(self.store, one.plan.config)
            if self.options.overwrite:
                ledger.delete_all()
            try:
                ledger.write_plan(one.plan.to_json())
            except WriteError as error:
                raise OutputError(str(error), error.path) from None

    def _agreed(self, plan: Plan, old: dict[str, Any]) -> Plan:
        """The plan to carry out where the output holds an old one; `OutputError` for another."""
        found = differences(old, plan.to_json())
        if old["settings"].get("exclude_ids") != plan.settings["exclude_ids"]:
            self.shown.say(
                f"{plan.config}: exclude_ids is another list than before; shards that either list "
                "touches are made again"
            )
        if found and old["jsonl"]["sha256"] != plan.sha256:
            plan = self._plan_of_kept_copy(plan, old)
            found = differences(old, plan.to_json())
        if found:
            raise OutputError(
                f"{self.store.root} holds {plan.config} of another plan; it differs: "
                f"{'; '.join(found)}. Use the settings of before to continue it, another "
                "--output, or --overwrite to delete its files and begin anew",
                self.store.root,
            )
        return plan

    def _plan_of_kept_copy(self, plan: Plan, old: dict[str, Any]) -> Plan:
        """The plan of the JSONL copy that the output began with, where the cache still has it."""
        sha256, size = old["jsonl"]["sha256"], old["jsonl"]["size_bytes"]
        for path in sorted(glob.glob(os.path.join(cache_folder(), "jsonl", "*"))):
            if os.path.getsize(path) == size and _sha256(path) == sha256:
                self.shown.say(
                    f"the release's {plan.config} has changed since this output was begun; going "
                    f"on with the copy kept in {path}"
                )
                manifest = Release(self.settings).manifest(plan.config)
                return make_plan(plan.config, self.settings, path, manifest, self.index)
        return plan

    def run(self, begun: Sequence[_Begun]) -> Outcome:
        """Carry out what is left, then write the card."""
        kept = [ledger for one in begun for ledger in one.finished]
        made = self._carry_out(begun) if any(one.left for one in begun) else []
        missing = sum(len(ledger.missing) for ledger in kept + made)
        planned = sum(one.plan.records for one in begun)
        allowed = self.options.max_missing
        reports, unfinished = read_reports(self.store)
        mine = tuple(f"{one.plan.config}/" for one in begun)
        if lost := [name for name in unfinished if name.startswith(mine)]:
            raise WorkError(
                f"{lost[0]} of {self.store.root} is gone after it was written ({len(lost)} in "
                "all); run the same command again to have it made"
            )
        if unfinished:
            self.shown.say(f"no card: {len(unfinished):,} shards of other configs are not finished")
        else:
            _write_card(self.store, reports)
        is_within = allowed.allows(missing, planned) if allowed else not missing
        return Outcome(reports, len(made), len(kept), missing, is_within)

    def _carry_out(self, begun: Sequence[_Begun]) -> list[ShardLedger]:
        tasks: Iterator[ShardTask] = itertools.chain.from_iterable(
            one.plan.tasks(one.left, self.index) for one in begun
        )
        planned = sum(one.plan.records for one in begun)
        before = planned - sum(one.records_left for one in begun)
        missing_before = sum(len(ledger.missing) for one in begun for ledger in one.finished)
        workers = min(self.options.workers, sum(len(one.left) for one in begun))
        made: list[ShardLedger] = []
        with (
            LocalRunner(self.settings, self.store, workers) as runner,
            self.shown.examples_bar(planned, before, missing_before) as update,
        ):
            for ledger in runner.run(tasks):
                if ledger is not None:
                    made.append(ledger)
                counts = runner.counts
                update(counts)
                done, missing = before + counts.records, missing_before + counts.examples_missing
                allowed = self.options.max_missing
                if allowed and allowed.is_judged(done) and not allowed.allows(missing, planned):
                    raise TooManyMissingError(missing, allowed.text)
        return made


def _write_card(store: Store, reports: Sequence[ConfigReport]) -> None:
    """Write the card, one convert at a time: those of other configs end here too."""
    if not store.is_local:
        write_card(store, reports)
        return
    with FileLock(store.path("_ledger/.lock")):
        store.sweep("")
        write_card(store, reports)


def _check_output(store: Store, settings: ConvertSettings) -> None:
    """Refuse an output that is the release, or where the card would replace another README."""
    if store.root.rstrip("/") and os.path.abspath(store.root) == settings.cdn:
        raise OutputError(
            f"--output must not be the release itself, but is {store.root}", store.root
        )
    is_ours = any(Ledger(store, config).has_plan() for config in CONFIGS)
    if not is_ours and store.size_bytes(CARD_NAME) is not None:
        raise OutputError(
            f"{store.path(CARD_NAME)} is there already and not ours: the card would replace it; "
            "give another --output, or move it away",
            store.root,
        )


@contextlib.contextmanager
def _locked(store: Store, config: str) -> Iterator[None]:
    """Hold the lock of one config in a local output, and sweep what killed runs left there."""
    ledger = Ledger(store, config)
    if not store.is_local:
        yield
        return
    path = store.path(f"{ledger.folder}/.lock")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()  # given back below
    except Timeout:
        raise OutputError(
            f"another pico-banana convert of {config} is writing to {store.root}; wait for it, or "
            "give another --output",
            store.root,
        ) from None
    except OSError as error:
        raise OutputError(f"the output {store.root} cannot be written: {error}", path) from None
    # Not the output's root, where another config's convert may be writing the card.
    folders = (config, ledger.folder)
    try:
        for folder in folders:
            store.sweep(folder)
        yield
    finally:
        for folder in folders:
            store.sweep(folder)
        lock.release()


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


def _finished(plan: Plan, store: Store) -> list[ShardLedger]:
    ledger = Ledger(store, plan.config)
    # One listing tells which are there at all: a look at each of 1,000 files takes long on S3.
    present = set(store.names(ledger.folder))
    found = [
        ledger.finished(shard.name, shard.digest)
        for shard in plan.shards
        if f"{shard.name}.json" in present
    ]
    return [one for one in found if one is not None]


def _check_disk(begun: Sequence[_Begun], store: Store) -> None:
    """Refuse a local disk that is too small for what is left to write."""
    needed = sum(
        int(one.plan.estimated_bytes * one.records_left / one.plan.records)
        for one in begun
        if one.plan.records
    )
    if not store.is_local or not needed:
        return
    free = shutil.disk_usage(store.path("_ledger")).free
    # Nothing is deleted before this is decided, so what --overwrite frees does not count.
    if needed + _SPARE_BYTES > free:
        raise OutputError(
            f"{store.root} has {free / 1e9:,.1f} GB free, but the plan needs about "
            f"{needed / 1e9:,.1f} GB; take less (--limit, --edit-types), or another --output",
            store.root,
        )
