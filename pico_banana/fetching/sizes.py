"""Ask how large some images are, without fetching them, within hosts' budgets and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pico_banana.errors import PicoBananaError
from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.fetching.transport import Transport
from pico_banana.hosts.budgets import HostBudgets
from pico_banana.hosts.guard import AddressGuard
from pico_banana.input_sources import SOURCES
from pico_banana.missing import AskError, MissingReason, NotAskedError
from pico_banana.open_images.tars import Tars
from pico_banana.settings import Settings
from pico_banana.urls import host_of

__all__ = ["ask_sizes"]

_DEADLINE_S = 10.0
_AT_ONCE = 8  # of one group: where a host refuses HEAD, so many requests are lost at most
# Nothing is asked twice, so nothing is waited for: a host that fails is left alone.
_IMPATIENT = {"breaker_failures": 4, "breaker_pauses": 0, "retry_after_max_s": 0.0}


@dataclass
class _Group:
    """Images of one kind: those still to be asked for, requests left, and the sizes that came."""

    refs: Iterator[ImageRef]
    left: int
    sizes: dict[ImageRef, int] = field(default_factory=dict)


def ask_sizes(
    groups: Sequence[Sequence[ImageRef]], settings: Settings, most: int
) -> list[list[int]]:
    """Return the sizes in bytes of each group's images, as many as were told within 10 seconds.

    An image that stands there several times is asked for once, and counts as often. Who bans is
    not asked, nor is a group that has had `most` requests. What fails is left out: nothing is
    raised.
    """
    asked = [_Group(iter(dict.fromkeys(refs)), most) for refs in groups]
    # In a thread: the caller's may have a loop of its own, and must not wait for a name server.
    thread = threading.Thread(
        target=_run, args=(asked, settings), name="pico-banana-sizes", daemon=True
    )
    thread.start()
    thread.join(_DEADLINE_S + 1)
    told = [dict(group.sizes) for group in asked]
    return [
        [sizes[ref] for ref in refs if ref in sizes]
        for refs, sizes in zip(groups, told, strict=True)
    ]


def _run(groups: Sequence[_Group], settings: Settings) -> None:
    # A folder that cannot be read is for those to tell who read it next.
    with contextlib.suppress(PicoBananaError):
        asyncio.run(_ask(groups, settings))


async def _ask(groups: Sequence[_Group], settings: Settings) -> None:
    pool = ThreadPoolExecutor(4, thread_name_prefix="pico-banana-sizes")
    asker = _Asker(settings, pool)
    work = [asyncio.ensure_future(asker.ask(one)) for one in groups for _ in range(_AT_ONCE)]
    try:
        if work:
            await asyncio.wait(work, timeout=_DEADLINE_S)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await asker.transport.close()
        pool.shutdown(wait=False, cancel_futures=True)


class _Asker:
    """Asks for sizes with the means that images are fetched with, and less patience."""

    def __init__(self, settings: Settings, pool: ThreadPoolExecutor) -> None:
        policy = settings.fetch.model_copy(update=_IMPATIENT)
        sources = Sources(settings)
        guard = AddressGuard(sources.allowed_hosts(), sources.named_hosts())
        budgets = HostBudgets(policy, lambda _: None)
        impatient = settings.model_copy(update={"fetch": policy})
        self._tars = Tars(settings)
        self._most_bytes = policy.max_image_bytes
        self._slow: Counter[str] = Counter()
        self.transport = Transport(guard, budgets, impatient, self._tars, pool)

    async def ask(self, group: _Group) -> None:
        """Ask for a group's images, one after the other."""
        for ref in group.refs:
            if not group.left:
                return
            size = await self._size(ref, group)
            if size is not None and 0 < size <= self._most_bytes:
                group.sizes[ref] = size

    async def _size(self, ref: ImageRef, group: _Group) -> int | None:
        """The size at the first of an image's places that has it, None where that is not told."""

        def admit(url: str) -> None:
            if not group.left or self._slow[host_of(url)] or _is_banning(url):
                raise NotAskedError(MissingReason.FORBIDDEN_ADDRESS, "not asked for sizes")
            group.left -= 1

        for place in ref.places:
            if place.way == "tar" and not self._tars:
                continue
            try:
                size = await self.transport.size(place, admit)
            except AskError as error:
                if error.reason is MissingReason.THROTTLED:
                    self._slow[host_of(place.address)] += 1
                if not error.reason.is_absence:
                    return None
            except (PicoBananaError, OSError):
                return None
            else:
                if size is not None or place.way != "tar":
                    return size
        return None


def _is_banning(url: str) -> bool:
    return any(source.bans_at(url) for source in SOURCES.values())
