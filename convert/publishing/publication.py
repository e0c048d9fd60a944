"""Bring shards to a repository of the Hub, one by one, in commits that can be loaded."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from pico_banana.errors import PicoBananaError, UsageError, WorkError
from pico_banana.schema import CONFIGS, arrow_schema

from ..options import PublishOptions
from ..output.card import CARD_NAME, card_of
from ..output.disk_budget import DiskBudget
from ..output.finished import ConfigReport
from ..output.ledger import LEDGER_FORMAT, Ledger, ShardLedger
from ..output.store import Store, dump_json
from ..output.verify import file_faults
from ..planning.plan import differences
from ..signals import check
from .repository import Repository, repository_id

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..screen import Say

__all__ = ["Publication", "check_file"]

_COMMIT_SHARDS = 40  # with their ledgers some 80 files; the Hub asks for at most 100 a commit
_COMMIT_BYTES = 5 * 10**9
_COMMIT_S = 30 * 60
_LOOK_S = 0.25
_READERS = 8
_BLOCK_BYTES = 16 * 1024 * 1024
_LEAVE_S = 1
_OWN_FILES = (CARD_NAME, ".gitattributes", ".gitignore", "LICENSE")


@dataclass(frozen=True)
class _Uploaded:
    config: str
    ledger: ShardLedger
    addition: CommitOperationAdd
    is_needed: bool  # whether the commit still reads the local file


class Publication:
    """What a repository holds of an output, and what is on its way there.

    Shards are uploaded in a thread, one after the other, and committed in batches with their
    ledgers and the card, so that what is committed can be loaded at any time. A context manager,
    which runs the thread: see `add` and `finish`.

    Args:
        options: where, and how.
        store: the output.
        say: told what a person should know.

    Raises:
        UsageError: there is no such place for it, see `Repository`, or the licences forbid it.
    """

    def __init__(self, options: PublishOptions, store: Store, say: Say) -> None:
        disable_progress_bars()
        self._options, self._store, self._say = options, store, say
        self.repository = Repository(repository_id(options.repo), say)
        self.disk: DiskBudget | None = None
        self.commits = 0
        self._plans = {config: self._plan_there(config) for config in CONFIGS}
        self._wanted: dict[str, dict[str, Any]] = {}
        self._held: dict[str, dict[str, ShardLedger]] = {config: {} for config in CONFIGS}
        self._brought: dict[str, int] = {}
        self._ready: queue.SimpleQueue[tuple[str, ShardLedger] | None] = queue.SimpleQueue()
        self._pending = 0
        self._batch: list[_Uploaded] = []
        self._batch_begun_s = 0.0
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._is_hurried = False
        self._thread = threading.Thread(target=self._work, name="pico-banana-publish", daemon=True)
        self._check_visibility()
        self._check_is_ours()

    @property
    def published(self) -> dict[str, str]:
        """The sha256 of each large file that the repository holds, by path."""
        files = self.repository.files.items()
        return {path: held.sha256 for path, held in files if held.sha256 is not None}

    # Before anything is made

    def _check_visibility(self) -> None:
        there = self.repository
        if there.is_there and not there.is_private and not self._options.public:
            raise UsageError(
                f"{there.id} is public, and --public was not given. The data are CC BY-NC-ND 4.0, "
                "their photos CC BY 2.0: allowed is to pass on unchanged files for non-commercial "
                "use, with licences and attribution. Make the repository private, give another, or "
                "give --public --accept-license"
            )

    def _check_is_ours(self) -> None:
        strange = [path for path in self.repository.files if path not in _OWN_FILES]
        if strange and not any(self._plans.values()):
            raise UsageError(
                f"{self.repository.id} holds other files ({strange[0]}), and no plan of ours: give "
                "another repository. Of one that push_to_hub made, `pico-banana publish "
                "--card-only` writes the card"
            )

    def _check_public(self) -> None:
        """Refuse to make public what no ledger vouches for."""
        if not self._options.public:
            return
        plans = {**self._plans, **self._wanted}
        known = {
            f"{config}/{shard['name']}.parquet"
            for config, plan in plans.items()
            for shard in (plan or {}).get("shards", ())
        }
        for path, held in sorted(self.repository.files.items()):
            if not path.endswith(".parquet") or (path in known and path not in self._strange()):
                continue
            config = path.partition("/")[0]
            if config in self._wanted and self._replaced(config):
                continue  # it goes before the repository is made public
            raise UsageError(
                f"{self.repository.id} must not be made public: {path} ({held.size_bytes:,} bytes) "
                "has no ledger of its sha256, so nobody can tell that its images are the published "
                "ones. Delete it there, or leave --public out: private is allowed"
            )

    def _strange(self) -> set[str]:
        """The Parquet files whose ledger is absent, or of another file."""
        published = self.published
        fitting = {
            f"{config}/{name}.parquet"
            for config, held in self._held.items()
            for name, ledger in held.items()
            if published.get(f"{config}/{name}.parquet") == ledger.sha256
        }
        return {path for path in published if path.endswith(".parquet")} - fitting

    def agree(self, config: str, plan: dict[str, Any]) -> None:
        """Refuse a plan that is not the repository's, unless it is to be replaced.

        Args:
            config: whose.
            plan: plan.json's value.
        """
        old = self._plans[config]
        found = differences(old, json.loads(dump_json(plan))) if old else []
        if found and not self._options.replace:
            raise UsageError(
                f"{self.repository.id} holds {config} of another plan; it differs: "
                f"{'; '.join(found)}. Use the settings of before to continue it, another "
                "repository, or --replace, which deletes its files once all new ones are there"
            )
        self._wanted[config] = plan

    def bring_ledgers(self) -> None:
        """Read what the repository has finished, and note it in the output, which may be empty."""
        for config in CONFIGS:
            plan = self._wanted.get(config) or self._plans[config]
            if plan is None:
                continue
            ledger = Ledger(self._store, config, self.published)
            names = [
                shard["name"]
                for shard in plan["shards"]
                if ledger.ledger_name(shard["name"]) in self.repository.files
            ]
            with ThreadPoolExecutor(_READERS, thread_name_prefix="pico-banana-ledgers") as pool:
                found = [*pool.map(partial(self._bring_ledger, ledger), names)]
            self._held[config] = {
                name: made for name, made in zip(names, found, strict=True) if made is not None
            }
        self._check_public()

    def _bring_ledger(self, ledger: Ledger, shard: str) -> ShardLedger | None:
        path = ledger.ledger_name(shard)
        data = self._small(path)
        try:
            held = ShardLedger.from_json(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError):
            self._say(f"{path} of {self.repository.id} is no ledger; its shard is made again")
            return None
        if not ledger.is_published(held):
            return None  # of another file than the one that is there
        if ledger.config in self._wanted:
            ours = ledger.read_shard(shard)
            if ours != held and (ours is None or not ledger.is_there(ours)):
                self._store.write(path, data)
        return held

    def _small(self, path: str) -> bytes:
        """A small file of the repository, from the output where that has the same."""
        with contextlib.suppress(OSError):
            data = self._store.read(path)
            if self.repository.files[path].is_of(data):
                return data
        return self.repository.read(path)

    def _plan_there(self, config: str) -> dict[str, Any] | None:
        path = f"{Ledger(self._store, config).folder}/plan.json"
        if path not in self.repository.files:
            return None
        try:
            plan: dict[str, Any] = json.loads(self._small(path))
            found = plan["format"]
        except (ValueError, TypeError, KeyError):
            found = None
        if found != LEDGER_FORMAT:
            raise UsageError(
                f"{path} of {self.repository.id} is of format {found}, but this version reads "
                f"{LEDGER_FORMAT}; use the version that wrote it, or give another repository"
            )
        return plan

    # While shards are made

    def __enter__(self) -> Self:
        """Begin to upload."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End; what is uploaded is committed, unless a signal ends the run."""
        if kind is not None and issubclass(kind, PicoBananaError) and self._error is None:
            self._is_hurried = True
            self._ready.put(None)
            while self._thread.is_alive():
                self._thread.join(_LOOK_S)
                check()
        self.repository.leave()
        self._thread.join(_LEAVE_S)

    def add(self, config: str, ledger: ShardLedger) -> None:
        """Have a finished shard published, once its turn comes."""
        with self._changed:
            self._pending += 1
        name = f"{config}/{ledger.shard}"
        if self.disk is not None and name in self._brought:
            self.disk.give_back(self._brought.pop(name), is_kept=True)
        self._ready.put((config, ledger))

    def check(self) -> None:
        """Raise what ended the publishing, if anything did."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until all that was added is uploaded."""
        while True:
            with self._changed:
                if not self._pending or self._error is not None:
                    break
                self._changed.wait(_LOOK_S)
            check()
        self.check()

    def settle(self, config: str, finished: Sequence[ShardLedger]) -> None:
        """Publish finished shards that are not there yet, and delete files of those that are."""
        ledger = Ledger(self._store, config, self.published)
        for made in finished:
            is_local = ledger.is_there(made)
            if not ledger.is_published(made):
                if self.disk is not None:
                    self.disk.add(made.size_bytes)
                self.add(config, made)
            elif is_local and not self._options.keep_local:
                self._store.delete(ledger.parquet_name(made.shard))

    def bring_back(self, config: str, ledger: ShardLedger) -> None:
        """Bring a shard's Parquet file back into the output, once all others are uploaded."""
        ours = Ledger(self._store, config)
        if ours.is_there(ledger):
            return
        self.wait()
        if self.disk is not None:
            self.disk.add(ledger.size_bytes, is_kept=True)
            self._brought[f"{config}/{ledger.shard}"] = ledger.size_bytes
        name = ours.parquet_name(ledger.shard)
        with self._store.writing(name) as file:
            self.repository.download(name, file.write, _BLOCK_BYTES)

    def finish(self) -> None:
        """Commit what is left, and the last changes; then see that all planned files are there.

        Raises:
            WorkError: the Hub refuses, or the repository does not hold what it was given.
        """
        self.wait()
        self._ready.put(None)
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)
            check()
        self.check()
        self._commit(is_last=True)
        published = self.published
        for config, plan in self._wanted.items():
            for shard in plan["shards"]:
                made = self._held[config].get(shard["name"])
                path = f"{config}/{shard['name']}.parquet"
                if made is None or published.get(path) != made.sha256:
                    raise WorkError(
                        f"{path} of {self.repository.id} is not what was published: somebody else "
                        "writes there; run the same command again to continue"
                    )
        if self._options.public and self.repository.is_private:
            try:
                self._check_public()  # once more: old files are gone now, and others may have come
            except UsageError as error:
                raise WorkError(str(error)) from None
            self.repository.make_public()

    # The thread

    def _work(self) -> None:
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    ready = self._ready.get(timeout=1)
                    if ready is None or self._is_hurried:
                        break
                    try:
                        self._upload(*ready)
                    except PicoBananaError:
                        self._commit()  # what is uploaded has no local file any more
                        raise
                if self._is_due():
                    self._commit()
            if self._is_hurried:
                self._commit()
        except Exception as error:  # noqa: BLE001  (the edge of a thread: `check` raises it)
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def _upload(self, config: str, made: ShardLedger) -> None:
        ledger = Ledger(self._store, config)
        name = ledger.parquet_name(made.shard)
        check_file(self._store, config, made, self._wanted[config])
        with _local_file(self._store, name) as path:
            addition = CommitOperationAdd(name, path)
            is_uploaded = self.repository.upload(addition)
            if not is_uploaded and not self._store.is_local:
                addition = CommitOperationAdd(name, self._store.read(name))
        self._batch_begun_s = self._batch_begun_s if self._batch else time.monotonic()
        self._batch.append(_Uploaded(config, made, addition, not is_uploaded))
        if is_uploaded:
            self._let_go(config, made)
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def _let_go(self, config: str, made: ShardLedger) -> None:
        """Delete a file that is uploaded."""
        if self._options.keep_local:
            return
        self._store.delete(Ledger(self._store, config).parquet_name(made.shard))
        if self.disk is not None:
            self.disk.give_back(made.size_bytes)

    def _is_due(self) -> bool:
        size = sum(sent.ledger.size_bytes for sent in self._batch)
        waits = any(sent.is_needed for sent in self._batch) and self.disk is not None
        is_old = time.monotonic() - self._batch_begun_s >= _COMMIT_S
        is_full = len(self._batch) >= _COMMIT_SHARDS or size >= _COMMIT_BYTES
        return bool(self._batch) and (is_full or is_old or waits)

    def _replaced(self, config: str) -> list[str]:
        """The files of the config that the wanted plan does not name."""
        old, new = self._plans[config], self._wanted.get(config)
        if old is None or new is None:
            return []
        ledger = Ledger(self._store, config)
        gone = {shard["name"] for shard in old["shards"]} - {kept["name"] for kept in new["shards"]}
        paths = [
            of(name) for name in sorted(gone) for of in (ledger.parquet_name, ledger.ledger_name)
        ]
        return [path for path in paths if path in self.repository.files]

    def _commit(self, *, is_last: bool = False) -> None:
        """Commit the batch, with ledgers, plans and card; nothing where nothing changes."""
        batch = self._batch
        if not batch and not is_last:
            return
        held = {config: dict(ledgers) for config, ledgers in self._held.items()}
        for sent in batch:
            held[sent.config][sent.ledger.shard] = sent.ledger
        replaced = [path for config in self._wanted for path in self._replaced(config)]
        texts = {
            name: self._store.read(name)
            for sent in batch
            for name in [Ledger(self._store, sent.config).ledger_name(sent.ledger.shard)]
        }
        if not replaced or is_last:
            # Until the last commit the old card loads the old files.
            texts |= self._texts(held)
        texts = {
            path: data
            for path, data in texts.items()
            if path not in self.repository.files or not self.repository.files[path].is_of(data)
        }
        after: dict[str, Any] = {sent.addition.path_in_repo: sent.ledger.sha256 for sent in batch}
        after |= texts
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *[sent.addition for sent in batch],
            *[CommitOperationAdd(path, data) for path, data in texts.items()],
        ]
        if is_last:
            after |= dict.fromkeys(replaced)
            operations += [CommitOperationDelete(path) for path in replaced]
        if operations:
            self.repository.commit(self._title(batch, held), operations, after)
            self.commits += 1
        for sent in batch:
            if sent.is_needed:
                self._let_go(sent.config, sent.ledger)
        self._held, self._batch = held, []
        if is_last:
            self._plans |= self._wanted

    def _texts(self, held: Mapping[str, Mapping[str, ShardLedger]]) -> dict[str, bytes]:
        """The plans and the card of what will then be held."""
        plans = {config: self._wanted.get(config) or self._plans[config] for config in CONFIGS}
        reports = [
            ConfigReport.of(
                config, plan, [held[config].get(shard["name"]) for shard in plan["shards"]]
            )
            for config, plan in plans.items()
            if plan is not None
        ]
        found = {
            f"{Ledger(self._store, config).folder}/plan.json": dump_json(plan)
            for config, plan in self._wanted.items()
        }
        return {**found, CARD_NAME: card_of(reports, self.repository.id)}

    def _title(
        self, batch: Sequence[_Uploaded], held: Mapping[str, Mapping[str, ShardLedger]]
    ) -> str:
        if not batch:
            return "Write the card"
        done = sum(len(held[config]) for config in self._wanted)
        planned = sum(len(plan["shards"]) for plan in self._wanted.values())
        title = f"Add {len(batch):,} files ({min(done, planned):,} of {planned:,})"
        size = sum(sent.ledger.size_bytes for sent in batch)
        self._say(f"{self.repository.id}: {title[0].lower()}{title[1:]}, {size / 1e6:,.1f} MB")
        return title


def check_file(store: Store, config: str, made: ShardLedger, plan: Mapping[str, Any]) -> None:
    """Refuse a Parquet file that is not its ledger's, or of other columns; reads all of it.

    Raises:
        WorkError: with what is wrong.
    """
    schema = arrow_schema(config, images=plan["settings"]["images"])
    name = Ledger(store, config).parquet_name(made.shard)
    for fault in file_faults(store, name, made, schema):
        raise WorkError(
            f"{store.root}: {fault}. It must not be published: nobody can tell that its images are "
            "the published ones. Delete it and run `pico-banana convert` again to have it made"
        )


@contextlib.contextmanager
def _local_file(store: Store, name: str) -> Iterator[str]:
    """Give the path of an output's file; of one on an object store, that of a copy."""
    if store.is_local:
        yield store.path(name)
        return
    with tempfile.TemporaryDirectory(prefix="pico-banana-") as folder:
        path = os.path.join(folder, os.path.basename(name))
        with store.reading(name) as source, open(path, "wb") as copy:
            while block := source.read(_BLOCK_BYTES):
                copy.write(block)
        yield path
