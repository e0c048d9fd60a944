"""Fetch images: many at once within every host's budget, checked, tried again, and in order.

`Fetcher` is used from plain synchronous code. It runs an event loop in a thread of its own, which
it starts at first use in each process: it may be made before a fork, and pickled.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pico_banana.fetching.failures import Failures
from pico_banana.fetching.folders import Folders
from pico_banana.fetching.inspect import Fetched, FlawError, ImageFormat, inspect, is_quick
from pico_banana.fetching.room import Room, Ticket
from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.fetching.transport import Body, NeedRoomError, Transport
from pico_banana.hosts.answers import Doubt
from pico_banana.hosts.budgets import FILES, NOWHERE, Budgets, HostBudgets
from pico_banana.hosts.guard import AddressGuard
from pico_banana.hosts.leases import LeasedBudgets
from pico_banana.input_sources import SOURCES, Place
from pico_banana.missing import AskError, Missing, MissingReason, NotAskedError, TooManyError
from pico_banana.open_images.tars import Tars
from pico_banana.settings import FetchPolicy, Settings
from pico_banana.urls import host_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Fetcher", "Tally"]


@dataclass
class Tally:
    """What a fetcher has done so far; read from any thread."""

    images: int = 0
    size_bytes: int = 0
    missing: int = 0


Group = Sequence[ImageRef]
Batch = Sequence[Group]
_END = object()


class _Engine:
    """The asynchronous half: fetches one reference through its places and tries.

    Attributes:
        room: the memory of what is fetched and not yet handed over.
        doubted: images whose host must show by others whether it or the image is odd.
        doubt: done when there is one more of these.
    """

    def __init__(self, settings: Settings, budgets: Budgets, tally: Tally, *, decode: bool) -> None:
        self._policy: FetchPolicy = settings.fetch
        self._decode, self._tally, self.budgets = decode, tally, budgets
        self._folders = Folders(settings)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="pico-banana-look")
        sources = Sources(settings)
        guard = AddressGuard(sources.allowed_hosts(), sources.named_hosts())
        self._tars = Tars(settings)
        self._transport = Transport(guard, budgets, settings, self._tars, self._pool)
        self.room = Room(self._policy.held_bytes)
        self.doubted: frozenset[ImageRef] = frozenset()  # replaced, for others look at it
        self.doubt: Future[None] = Future()

    async def close(self) -> None:
        await self._transport.close()
        await self.budgets.close()
        self._pool.shutdown(cancel_futures=True)
        self._tars.close()

    async def fetch(self, ref: ImageRef, ticket: Ticket) -> Fetched | Missing:
        try:
            result = await self._fetch(ref, ticket)
        except BaseException:
            ticket.give()
            raise
        if isinstance(result, Fetched):
            self._tally.images += 1
            self._tally.size_bytes += len(result.data)
            ticket.settle(len(result.data))
        else:
            self._tally.missing += 1
            ticket.give()
        return result

    async def _fetch(self, ref: ImageRef, ticket: Ticket) -> Fetched | Missing:
        """Try the places in order; the next one only where the image is known to be absent."""
        result: Fetched | Missing = Missing(ref.url, ref.absent, 0, None, "no place to try")
        tries = 0
        for place in ref.places:
            if place.way == "tar" and not self._tars:
                continue
            outcome = await self._from_place(ref, place, ticket)
            tries += outcome.tries
            result = outcome._replace(tries=tries)
            if isinstance(result, Fetched) or not result.reason.is_absence:
                break
        if not ref.places:
            self.budgets.count(NOWHERE, "missing", ref.absent)
        return result

    async def _from_place(self, ref: ImageRef, place: Place, ticket: Ticket) -> Fetched | Missing:
        """Ask one place, again while what failed may pass; and count what came of it."""
        host = FILES if place.is_local else host_of(place.address)
        tries, doubt = 0, Doubt.ODD
        failures = Failures(self._policy)
        while True:
            tries += 1
            try:
                found, asked_s = await self._once(ref, place, ticket, tries)
            except NeedRoomError as need:
                await ticket.take(need.size_bytes)
                continue
            except NotAskedError as error:
                missing = Missing(ref.url, error.reason, tries - 1, place.address, error.detail)
            except AskError as error:
                ticket.give()
                if isinstance(error, TooManyError) and failures.forgive():
                    self.budgets.count(host, "again", error.reason)
                    continue
                reason, is_last = failures.judge(self._reason(place, error), error.sha256)
                if not is_last:
                    self.budgets.count(host, "again", reason)
                    await asyncio.sleep(self._backoff_s(failures.count))
                    continue
                if await self._is_hosts_fault(ref, place, doubt, error):
                    doubt = Doubt.ODD_AGAIN
                    self.budgets.count(host, "again", reason)
                    continue
                missing = Missing(ref.url, reason, tries, place.address, error.detail)
            else:
                self.budgets.count(host, "got", ago_s=time.monotonic() - asked_s)
                if place.is_local:
                    self._folders.note(place.address)
                return found
            self.budgets.count(host, "missing", missing.reason)
            return missing

    async def _is_hosts_fault(
        self, ref: ImageRef, place: Place, doubt: Doubt, error: AskError
    ) -> bool:
        """Whether the host answers oddly whatever it is asked: no reason to do without an image."""
        if place.is_local or not error.reason.is_odd:
            return False
        # Of what is no image the detail may tell of the bytes, which differ.
        is_image = error.reason is not MissingReason.NOT_AN_IMAGE
        answer = f"{error.reason.value}: {error.detail}" if is_image else error.reason.value
        self.doubted |= {ref}
        told, self.doubt = self.doubt, Future()
        told.set_result(None)
        try:
            return await self.budgets.is_hosts_fault(host_of(place.address), doubt, answer)
        finally:
            self.doubted -= {ref}

    def _reason(self, place: Place, error: AskError) -> MissingReason:
        if error.reason is not MissingReason.NOT_FOUND or not place.is_local:
            return error.reason
        try:
            self._folders.check(place.address)
        except OSError:
            return MissingReason.CONNECTION
        is_in_folder = place.way in SOURCES and SOURCES[place.way].needs_folder
        return MissingReason.NOT_LISTED if is_in_folder else error.reason

    def _backoff_s(self, failures: int) -> float:
        longest: float = min(
            self._policy.backoff_s * 2.0 ** (failures - 1), self._policy.backoff_max_s
        )
        return longest * random.uniform(0.5, 1)  # noqa: S311  (jitter, no secret)

    async def _once(
        self, ref: ImageRef, place: Place, ticket: Ticket, tries: int
    ) -> tuple[Fetched, float]:
        """Try a place once; return the image, and when it was asked for."""
        if not ticket.taken:
            await ticket.take(self.room.guess())
        body = await self._transport.ask(place, ticket.grow)
        if self._decode or not is_quick(body.data):
            looking = asyncio.get_running_loop().run_in_executor(self._pool, self._look, body)
            sha256, image = await looking
        else:
            sha256, image = self._look(body)
        measures = {"sha256": sha256, **image.measures()}
        found = Fetched(ref.url, ref.name, body.data, measures, image.mark, place.way, tries)
        return found, body.asked_s

    def _look(self, body: Body) -> tuple[str, ImageFormat]:
        data = body.data
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in self._policy.placeholder_sha256s:
            raise AskError(MissingReason.PLACEHOLDER, "the bytes are a known placeholder's")
        try:
            image = inspect(
                data,
                decode=self._decode,
                max_pixels=self._policy.max_pixels,
                is_whole=body.is_whole,
            )
        except FlawError as flaw:
            # Twice the same is what was published, but only of bytes that are known to be all.
            known = sha256 if body.is_whole else ""
            raise AskError(flaw.reason, flaw.detail, sha256=known) from None
        return sha256, image


@dataclass
class _Running:
    """An engine, its loop and its thread, in one process."""

    pid: int
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    engine: _Engine


class _Wanted(NamedTuple):
    """An image under way, or had and not yet handed over."""

    order: int
    ticket: Ticket
    future: Future[Fetched | Missing]


@dataclass
class _Window:
    """What is under way: groups in order, what they share, and how often each is still wanted."""

    groups: deque[Group] = field(default_factory=deque)
    wanted: dict[ImageRef, _Wanted] = field(default_factory=dict)
    uses: Counter[ImageRef] = field(default_factory=Counter)
    images: int = 0


class Fetcher:
    """Fetches images in order, many at once.

    Args:
        settings: sources, concurrency, mirrors, fetch policy.
        decode: decode every image in full, besides looking at its structure.
        leases: address of a run's `LeaseServer`; None keeps budgets for this process alone.

    Attributes:
        tally: images, bytes, missing and requests so far, in this process.

    Safe to make before a fork and to pickle: each process starts its own thread at first use. One
    thread at a time may use it.
    """

    def __init__(
        self, settings: Settings, *, decode: bool = False, leases: str | None = None
    ) -> None:
        self._settings, self._decode, self._leases = settings, decode, leases
        self._order = 0
        self._running: _Running | None = None
        self.tally = Tally()

    def __getstate__(self) -> dict[str, Any]:
        """A thread does not travel: the copy starts its own."""
        return {**self.__dict__, "_running": None, "tally": Tally()}

    def __enter__(self) -> Self:
        """Return itself; the thread starts at first use."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop fetching, close connections, and end the thread."""
        running, self._running = self._running, None
        if running is not None and running.pid == os.getpid():
            asyncio.run_coroutine_threadsafe(_stop(running.engine), running.loop).result()
            running.loop.call_soon_threadsafe(running.loop.stop)
            running.thread.join()
            running.loop.close()

    def in_order(self, batches: Iterable[Batch | None]) -> Iterator[list[Fetched | Missing]]:
        """Yield the results of each group of references, in the order of batches and groups.

        Within a batch (a shard's groups, say) an address is fetched once. Batches are taken from
        the iterator as the window empties, so the next one's images are fetched while the last
        one's are still handed over; it may yield None for "none yet, take results first". When
        the reader stops, what is under way is cancelled.
        """
        window = _Window()
        running = self._start()
        running.loop.call_soon_threadsafe(running.engine.budgets.begin)
        upcoming: deque[Group] = deque()
        source = iter(batches)
        with self._ending(window, running):
            ended = False
            while True:
                doubt = running.engine.doubt
                while not ended and self._has_room(running, window):
                    if not upcoming:
                        batch = next(source, _END)
                        ended = batch is _END
                        if not isinstance(batch, Sequence):
                            break
                        upcoming.extend(batch)
                        window.uses.update(ref for group in batch for ref in group)
                    else:
                        self._submit(running, window, upcoming.popleft())
                if not window.groups:
                    if ended:
                        return
                elif self._is_had(running, window, doubt) or ended:
                    yield self._take(running, window)

    def _has_room(self, running: _Running, window: _Window) -> bool:
        # What waits for the answers to others must not keep others from being asked.
        doubted = running.engine.doubted
        waiting = 0
        if doubted:
            waiting = sum(len(one) for one in window.groups if not doubted.isdisjoint(one))
        images = window.images - waiting
        # Twice as many as may be under way: some wait for their turn, some for the ones before.
        return images < 2 * self._settings.concurrency or not window.groups

    def _is_had(self, running: _Running, window: _Window, doubt: Future[None]) -> bool:
        """Wait for the next group's images; return False where others must be fetched before."""
        group = [window.wanted[ref] for ref in window.groups[0]]
        head = max((wanted.order for wanted in group), default=0)
        running.loop.call_soon_threadsafe(running.engine.room.advance, head)
        for wanted in group:
            if not wanted.future.done():
                pending: list[Future[Any]] = [wanted.future, doubt]
                wait(pending, return_when=FIRST_COMPLETED)
            if not wanted.future.done():
                return False
        return True

    def _submit(self, running: _Running, window: _Window, group: Group) -> None:
        for ref in group:
            if ref not in window.wanted:
                self._order += 1
                ticket = Ticket(running.engine.room, self._order)
                work = running.engine.fetch(ref, ticket)
                future = asyncio.run_coroutine_threadsafe(work, running.loop)
                window.wanted[ref] = _Wanted(self._order, ticket, future)
        window.groups.append(group)
        window.images += len(group)

    def _take(self, running: _Running, window: _Window) -> list[Fetched | Missing]:
        group = window.groups.popleft()
        window.images -= len(group)
        results = []
        for ref in group:
            wanted = window.wanted[ref]
            results.append(wanted.future.result())
            window.uses[ref] -= 1
            if not window.uses[ref]:
                del window.uses[ref], window.wanted[ref]
                running.loop.call_soon_threadsafe(wanted.ticket.give)
        return results

    @contextmanager
    def _ending(self, window: _Window, running: _Running) -> Iterator[None]:
        """Cancel what is still under way when the reader stops, and give its room back."""
        try:
            yield
        finally:
            # After a fork, or a close, there is nothing here to be cancelled any more.
            if running.pid == os.getpid() and not running.loop.is_closed():
                # The last ones first: else those that wait would begin as others make room.
                for wanted in reversed(window.wanted.values()):
                    wanted.future.cancel()
                    running.loop.call_soon_threadsafe(wanted.ticket.give)

    def _start(self) -> _Running:
        if self._running is None or self._running.pid != os.getpid():
            loop = asyncio.new_event_loop()
            engines: list[_Engine] = []
            thread = threading.Thread(
                target=_run, args=(loop, engines), name="pico-banana-fetch", daemon=True
            )
            thread.start()
            engine = asyncio.run_coroutine_threadsafe(self._make_engine(), loop).result()
            engines.append(engine)
            self._running = _Running(os.getpid(), loop, thread, engine)
        return self._running

    async def _make_engine(self) -> _Engine:
        budgets: Budgets = HostBudgets(self._settings.fetch)
        if self._leases is not None:
            budgets = leased = LeasedBudgets(self._leases)
            await leased.connect()
        return _Engine(self._settings, budgets, self.tally, decode=self._decode)


def _run(loop: asyncio.AbstractEventLoop, engines: list[_Engine]) -> None:
    """Run the loop in its thread, holding on to its engine.

    After a fork the child has this frame, but not its thread, so the frame stays for ever, and the
    engine with it. Were the child's copy of the engine to be collected, it would close the
    parent's connections: it would take them out of the epoll that both share, and send TLS
    closures over them.
    """
    loop.run_forever()
    engines.clear()


async def _stop(engine: _Engine) -> None:
    under_way = asyncio.all_tasks() - {asyncio.current_task()}
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    await engine.close()
