"""Carry out a conversion: plan, compare with what is there, run what is left, write the card."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pico_banana.errors import OutputError, TooManyMissingError, UsageError, WorkError, WriteError
from pico_banana.fetching.prepare import prepare_tars
from pico_banana.open_images.index import Index, open_index
from pico_banana.open_images.tars import Tars, check_open_images
from pico_banana.release.files import Release
from pico_banana.release.selection import Unmatched
from pico_banana.schema import CONFIGS
from pico_banana.storage.cache import cache_folder

from .interpreter import without_collection, without_pandas
from .open_files import check_open_files
from .options import ConvertSettings, RunOptions
from .output.card import CARD_NAME, write_card
from .output.disk_budget import DiskBudget
from .output.finished import read_reports
from .output.ledger import Ledger, ShardLedger
from .output.lock import in_turn, locked
from .output.store import Store, sha256_of
from .planning.make_plan import make_plan
from .planning.plan import Plan, differences
from .planning.refill import Refill, refills_of, told
from .planning.sizes import keep, reckon_by_sample
from .planning.task import ShardTask
from .reporting.outcome import Outcome
from .reporting.run_log import RUNS_FOLDER, recorded
from .running.base import Runner
from .running.local import LocalRunner
from .running.threads import ThreadRunner
from .screen import Shown
from .text import in_shell, shown_bytes

if TYPE_CHECKING:
    from .publishing.publication import Publication

__all__ = ["convert_configs", "plan_configs"]

_WORKERS = 2
_SPARE_BYTES = 256 * 1024 * 1024


@without_pandas()
def plan_configs(
    configs: Sequence[str], settings: ConvertSettings, shown: Shown
) -> tuple[list[Plan], Index | None]:
    """Return the plans of configs and the index; fetches the JSONL files and the index once."""
    for config in configs:
        settings.for_config(config)
    release = Release(settings)
    check_open_images(settings)
    files = [release.jsonl(config) for config in configs]
    paths = []
    for config, file in zip(configs, files, strict=True):
        with shown.bytes_bar(f"fetching records of {config}") as progress:
            paths.append(file.kept("jsonl", progress))
    with shown.bytes_bar("fetching Open Images' image list (about 600 MB, once)") as progress:
        place = settings.open_images_metadata
        index = open_index(release.mirror(place), settings.storage_options, progress)
    # Two at once: most of the work is in libraries that let other threads run.
    with ThreadPoolExecutor(2, thread_name_prefix="pico-banana-plan") as pool, without_collection():
        begun = [
            pool.submit(make_plan, config, settings, path, release.manifest(config), index)
            for config, path in zip(configs, paths, strict=True)
        ]
        plans = []
        for config, future in zip(configs, begun, strict=True):
            shown.say(f"planning {config} ...")
            plans.append(future.result())
    unmatched = Unmatched(settings)
    for plan in plans:
        unmatched.intersect(plan.unmatched)
    for line in unmatched.told(", ".join(configs)):
        shown.say(line)
    return plans, index


@without_pandas()
def convert_configs(
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
    if settings.images == "bytes" and options.runner == "local":
        check_open_files(settings.concurrency, options.workers or _WORKERS)
    with contextlib.ExitStack() as locks:
        _check_output(store, settings)
        publication = _publication(options, store, shown)
        for config in configs:
            locks.enter_context(locked(store, config, options.slice))
        plans, index = plan_configs(configs, settings, shown)
        if options.slice is not None:
            for host in options.slice.overrun(settings) if settings.images == "bytes" else ():
                shown.say(
                    f"{host} may have fewer connections at once than there are slices: together "
                    "they have one each, which is more; --slices-at-once says how many really run"
                )
            settings = options.slice.settings(settings)
        if not any(plan.shards for plan in plans):
            counts = "; ".join(
                f"{plan.config}: {plan.lines:,} lines, {len(plan.bad):,} bad, "
                f"{len(plan.filtered):,} filtered, {len(plan.left_out):,} left out"
                for plan in plans
            )
            raise UsageError(f"nothing is selected ({counts}); ask for more, or see `plan`")
        conversion = _Conversion(settings, options, store, shown, index, publication)
        works = conversion.compared(plans)
        left = [work.plan for work in works if work.left]
        with in_turn(store) if options.slice else contextlib.nullcontext():
            reckon_by_sample(left, settings, index, store)
            budget = options.publish.budget_bytes if options.publish else None
            _check_disk(works, store, options.workers or _WORKERS, budget)
            if settings.images == "bytes":
                photos = (photo for work in works for photo in work.photos_left(index))
                for note in prepare_tars(Tars(settings), settings, photos, shown.bytes_bar):
                    shown.say(note)
            conversion.begin(works)
        _say_plans(works, shown)
        if options.refill:
            refills = [refill for work in works for refill in work.refills.values()]
            shown.say(told(refills, options.refill))
        return conversion.run(works)


def _say_plans(works: Sequence[_Work], shown: Shown) -> None:
    """Show in a line a config what will be done."""
    for plan in (work.plan for work in works):
        shown.say(
            f"{plan.config}: records {plan.records:,}, files {len(plan.shards):,}, about "
            f"{shown_bytes(plan.estimated_bytes)} {plan.reckoned}; {len(plan.bad):,} bad, "
            f"{len(plan.filtered):,} filtered, {len(plan.left_out):,} left out"
        )
    if kept := sum(len(work.finished) for work in works):
        shown.say(f"finished already, and left as they are: {kept:,} shards")


@dataclass
class _Work:
    """The work on one config: a plan that the output agrees with, and what is there of its shards.

    Attributes:
        plan: the plan.
        mine: the shards that are this run's.
        finished: the ledgers of shards that are finished, and stay as they are.
        refills: by shard, what is tried again of those that are finished, and made anew.
        unsettled: ledgers of finished shards whose files carry another one besides.
    """

    plan: Plan
    mine: set[str]
    finished: list[ShardLedger] = field(default_factory=list)
    refills: dict[str, Refill] = field(default_factory=dict)
    unsettled: list[ShardLedger] = field(default_factory=list)

    @property
    def left(self) -> set[str]:
        return self.mine - {ledger.shard for ledger in self.finished}

    @property
    def records(self) -> int:
        return sum(len(shard) for shard in self.plan.shards if shard.name in self.mine)

    @property
    def records_left(self) -> int:
        left = self.left
        return sum(len(shard) for shard in self.plan.shards if shard.name in left)

    def photos_left(self, index: Index | None) -> Iterator[str]:
        """The ImageIDs of the inputs of what is left."""
        left = self.left
        for shard in self.plan.shards:
            if shard.name in left:
                yield from filter(None, self.plan.image_ids(shard, index))

    def needed_bytes(self, workers: int) -> int:
        """About how much is still to be written, beyond what old files give back."""
        if not self.plan.records:
            return 0
        refilled = sum(len(shard) for shard in self.plan.shards if shard.name in self.refills)
        # A shard that is made anew grows by what was missing; its old file goes when it is whole.
        growing = sum(len(refill.ledger.missing) for refill in self.refills.values())
        records = self.records_left - refilled + growing
        sizes = sorted((refill.ledger.size_bytes for refill in self.refills.values()), reverse=True)
        return int(self.plan.estimated_bytes * records / self.plan.records) + sum(sizes[:workers])


@dataclass
class _Conversion:
    settings: ConvertSettings
    options: RunOptions
    store: Store
    shown: Shown
    index: Index | None
    publication: Publication | None

    def compared(self, plans: Sequence[Plan]) -> list[_Work]:
        """Compare plans with those that are there, and see what is finished; changes nothing.

        But for ledgers that a repository has and the output has not.
        """
        agreed = []
        for plan in plans:
            old = None if self.options.overwrite else Ledger(self.store, plan.config).read_plan()
            agreed.append(plan if old is None else self._agreed(plan, old))
        if self.publication is not None:
            for plan in agreed:
                self.publication.agree(plan.config, plan.to_json())
            self.publication.bring_ledgers()
        return [self._work(plan) for plan in agreed]

    def _work(self, plan: Plan) -> _Work:
        ledger = Ledger(self.store, plan.config, self._published)
        names = [shard.name for shard in plan.shards]
        mine = self.options.slice.names(names) if self.options.slice else set(names)
        if self.options.overwrite:
            return _Work(plan, mine)
        finished = _finished(plan, mine, ledger, self.store)
        refills = refills_of(finished, self.options.refill)
        return _Work(
            plan,
            mine,
            [made for made in finished if made.shard not in refills],
            refills,
            [made for made in finished if made.shard in ledger.unsettled],
        )

    @property
    def _published(self) -> dict[str, str] | None:
        return None if self.publication is None else self.publication.published

    def begin(self, works: Sequence[_Work]) -> None:
        """Delete what is to be overwritten, write the plans, and settle ledgers."""
        if self.publication is not None:
            self.publication.repository.create()
        for work in works:
            ledger = Ledger(self.store, work.plan.config)
            try:
                if self.options.overwrite:
                    ledger.delete_all()
                ledger.write_plan(work.plan.to_json())
                keep(work.plan, self.settings, self.store)
                for unsettled in work.unsettled:
                    ledger.write_shard(unsettled)
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
            if os.path.getsize(path) != size:
                continue
            with open(path, "rb") as file:
                is_kept = sha256_of(file) == sha256
            if is_kept:
                self.shown.say(
                    f"the release's {plan.config} has changed since this output was begun; going "
                    f"on with the copy kept in {path}"
                )
                manifest = Release(self.settings).manifest(plan.config)
                return make_plan(plan.config, self.settings, path, manifest, self.index)
        return plan

    def run(self, works: Sequence[_Work]) -> Outcome:
        """Carry out what is left, then write the card."""
        kept = [ledger for work in works for ledger in work.finished]
        disk = self._disk_budget() if any(work.left for work in works) else None
        with self.publication or contextlib.nullcontext():
            made = self._made(works, disk)
        missing = sum(len(ledger.missing) for ledger in kept + made)
        planned = sum(work.records for work in works)
        allowed = self.options.max_missing
        reports, unfinished = read_reports(self.store, self._published)
        mine = {f"{work.plan.config}/{name}" for work in works for name in work.mine}
        if lost := [name for name in unfinished if name in mine]:
            raise WorkError(
                f"{lost[0]} of {self.store.root} is gone after it was written ({len(lost)} in "
                "all); run the same command again to have it made"
            )
        configs = [work.plan.config for work in works]
        if gone := [name for name in configs if not Ledger(self.store, name).has_plan()]:
            raise WorkError(
                f"{self.store.root} was deleted after it was written: it has no plan of {gone[0]} "
                "any more; bring it back, or run the same command again to begin anew"
            )
        if self.options.slice is not None:
            self.shown.say(
                f"slice {self.options.slice} is done; when all are, "
                f"`pico-banana finish {in_shell(self.store.root)}` writes the card"
            )
        elif unfinished:
            self.shown.say(f"no card: {len(unfinished):,} shards of other configs are not finished")
        else:
            write_card(self.store, reports)
        is_within = allowed.allows(missing, planned) if allowed else not missing
        complete = [] if self.options.slice else reports
        return Outcome(complete, len(made), len(kept), missing, is_within, self.publication)

    def _made(self, works: Sequence[_Work], disk: DiskBudget | None) -> list[ShardLedger]:
        """Carry out what is left, and publish what is not published."""
        publication = self.publication
        if publication is not None:
            publication.disk = disk
            for work in works:
                publication.settle(work.plan.config, work.finished)
        made = self._run_tasks(works, disk) if any(work.left for work in works) else []
        if publication is not None:
            publication.finish()
        return made

    def _disk_budget(self) -> DiskBudget | None:
        budget_bytes = self.options.publish.budget_bytes if self.options.publish else None
        if budget_bytes is None:
            return None
        return DiskBudget(budget_bytes)

    def _runner(self, shards: int, disk: DiskBudget | None) -> Runner:
        options, say = self.options, self.shown.say
        if options.runner == "ray":
            from .running.on_ray import RayRunner  # noqa: PLC0415  (an extra)

            return RayRunner(self.settings, self.store, options.workers, say, options.ray_address)
        kind = LocalRunner if self.settings.images == "bytes" else ThreadRunner
        workers = min(options.workers or _WORKERS, shards)
        return kind(self.settings, self.store, workers, say, disk)

    def _rounds(self, works: Sequence[_Work]) -> Iterator[Iterator[ShardTask]]:
        """Tasks that are carried out together: all; where others wait in a repository, one by one.

        A shard that is made anew is read back from there, one on disk at a time.
        """
        alone = (
            {} if self.publication is None else {work.plan.config: work.refills for work in works}
        )
        yield itertools.chain.from_iterable(
            work.plan.tasks(
                work.left - set(alone.get(work.plan.config, ())), self.index, work.refills
            )
            for work in works
        )
        for work in works:
            for shard, refill in alone.get(work.plan.config, {}).items():
                assert self.publication is not None
                self.publication.bring_back(work.plan.config, refill.ledger)
                yield work.plan.tasks({shard}, self.index, work.refills)

    def _run_tasks(self, works: Sequence[_Work], disk: DiskBudget | None) -> list[ShardLedger]:
        configs = {shard.digest: work.plan.config for work in works for shard in work.plan.shards}
        planned = sum(work.records for work in works)
        before = planned - sum(work.records_left for work in works)
        missing_before = sum(len(ledger.missing) for work in works for ledger in work.finished)
        made: list[ShardLedger] = []
        self.store.make_folder(RUNS_FOLDER)
        with (
            recorded(
                self.store, self.shown, [work.plan.config for work in works], self.options.runner
            ) as run,
            self._runner(sum(len(work.left) for work in works), disk) as runner,
            self.shown.examples_bar(planned, before, missing_before) as update,
        ):
            run.traffic, run.workers = runner.traffic, runner.workers
            for ledger in itertools.chain.from_iterable(map(runner.run, self._rounds(works))):
                if ledger is not None:
                    made.append(ledger)
                    run.made += 1
                    if self.publication is not None:
                        self.publication.add(configs[ledger.digest], ledger)
                if self.publication is not None:
                    self.publication.check()
                counts = runner.counts
                update(counts)
                done, missing = before + counts.records, missing_before + counts.examples_missing
                allowed = self.options.max_missing
                if allowed and allowed.is_judged(done) and not allowed.allows(missing, planned):
                    raise TooManyMissingError(missing, allowed.text)
        return made


def _publication(options: RunOptions, store: Store, shown: Shown) -> Publication | None:
    if options.publish is None:
        return None
    if not store.is_local:
        raise OutputError(
            f"--output must be a local folder with --publish, but is {store.root}; convert without "
            "it, then `pico-banana publish OUT REPO`",
            store.root,
        )
    from .publishing.publication import Publication  # noqa: PLC0415  (its library is slow to import)

    return Publication(options.publish, store, shown.say)


def _check_output(store: Store, settings: ConvertSettings) -> None:
    """Refuse an output that is the release, or where the card would replace another README."""
    if store.root.rstrip("/") and os.path.abspath(store.root) == settings.cdn:
        raise OutputError(
            f"--output must not be the release itself, but is {store.root}", store.root
        )
    store.check_writable()
    is_ours = any(Ledger(store, config).has_plan() for config in CONFIGS)
    if not is_ours and store.size_bytes(CARD_NAME) is not None:
        raise OutputError(
            f"{store.path(CARD_NAME)} is there already and not ours: the card would replace it; "
            "give another --output, or move it away",
            store.root,
        )


def _finished(plan: Plan, mine: set[str], ledger: Ledger, store: Store) -> list[ShardLedger]:
    # One listing tells which are there at all: a look at each of 1,000 files takes long on S3.
    present = set(store.names(ledger.folder))
    found = [
        ledger.finished(shard.name, shard.digest)
        for shard in plan.shards
        if shard.name in mine and f"{shard.name}.json" in present
    ]
    return [made for made in found if made is not None]


def _check_disk(
    works: Sequence[_Work], store: Store, workers: int, budget_bytes: int | None
) -> None:
    """Refuse a local disk that is too small for what is left to write, or for the budget of it."""
    needed = sum(work.needed_bytes(workers) for work in works)
    if budget_bytes is not None:
        needed = min(needed, budget_bytes)
    if not store.is_local or not needed:
        return
    try:
        free = shutil.disk_usage(store.path("_ledger")).free
    except OSError as error:
        raise OutputError(f"the output {store.root} is gone: {error}", store.root) from None
    # Nothing is deleted before this is decided, so what --overwrite frees does not count.
    if needed + _SPARE_BYTES > free:
        reckoned = ", ".join(dict.fromkeys(work.plan.reckoned for work in works if work.left))
        raise OutputError(
            f"{store.root} has {free / 1e9:,.1f} GB free, but the plan needs about "
            f"{shown_bytes(needed)}, reckoned {reckoned}; take less (--limit, --edit-types), "
            "another --output, or with --publish a smaller --disk-budget",
            store.root,
        )
