"""Reckon how long a conversion takes, and what binds it: the line, a host's budget, or CPUs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from pico_banana.errors import SettingError
from pico_banana.input_sources import SOURCES
from pico_banana.settings import HostBudget
from pico_banana.urls import host_of, mirrored

from ..options import ConvertSettings
from .plan import Plan

__all__ = ["Estimate", "HostLoad", "bits_per_s", "estimate"]

CPU_S_PER_GB, CPU_S_PER_IMAGE = 2.9, 0.0007
"""Of one core, for fetching, checking, hashing and writing, as measured: see docs/scale.md."""

REQUEST_S = 0.2
"""What a request is taken to last, for the budgets that bound connections; no measure of hosts."""

_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "kb": 8e3, "mb": 8e6, "gb": 8e9}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]+?)(?:/s|ps)?", re.IGNORECASE)


def bits_per_s(text: str) -> float:
    """Return the bits a second that "1Gbit", "200Mbit/s" or "100MB" means; else `SettingError`."""
    found = _FORM.fullmatch(text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or not float(found[1]):
        raise SettingError("bandwidth", text, "must be like 1Gbit, 200Mbit or 100MB, a second")
    return float(found[1]) * unit


@dataclass(frozen=True)
class HostLoad:
    """What one host is asked for.

    Attributes:
        host: scheme, name and port, or a glob of names.
        requests: how many images.
        size_bytes: about how much.
        budget: what it may be asked at most, by all nodes together.
    """

    host: str
    requests: int
    size_bytes: float
    budget: HostBudget

    @property
    def seconds(self) -> float:
        """How long its budget makes it last at least, each request taken to last `REQUEST_S`."""
        rate = self.budget.connections / REQUEST_S
        return self.requests / min(rate, self.budget.requests_per_second or rate)


@dataclass(frozen=True)
class Estimate:
    """How long a conversion takes.

    Attributes:
        hosts: what each host is asked for.
        images: how many in all, those of local files too.
        size_bytes: about how much.
        bandwidth: of each node, in bits a second; None where it was not given.
        nodes: how many machines.
        cores: of each.
    """

    hosts: list[HostLoad]
    images: int
    size_bytes: float
    bandwidth: float | None
    nodes: int
    cores: int

    def bounds(self) -> list[tuple[str, float]]:
        """Return what bounds it with the seconds that it takes at least, the longest first."""
        found = [(f"budget of {host.host}", host.seconds) for host in self.hosts]
        cpu_s = CPU_S_PER_GB * self.size_bytes / 1e9 + CPU_S_PER_IMAGE * self.images
        found.append((f"CPUs, {self.nodes} x {self.cores}", cpu_s / (self.nodes * self.cores)))
        if self.bandwidth is not None:
            size = sum(host.size_bytes for host in self.hosts)
            found.append(("line", 8 * size / (self.nodes * self.bandwidth)))
        return sorted(found, key=lambda bound: -bound[1])


def estimate(
    plans: Sequence[Plan], settings: ConvertSettings, bandwidth: float | None, nodes: int
) -> Estimate:
    """Reckon what plans take on so many nodes like this one, each with a line of its own."""
    images = 0
    size_bytes = 0.0
    requests: Counter[str] = Counter()
    sizes: dict[str, float] = defaultdict(float)
    places = (_edits(settings), _inputs(settings))
    for plan in plans if settings.images == "bytes" else ():
        spec = settings.for_config(plan.config)
        edits = {kind: count for kind, count in plan.images.items() if kind != "input"}
        # Within a shard each photo is fetched once; without an ImageID only some sources have it.
        rows = [np.array(shard.rows, np.int64) for shard in plan.shards]
        inputs = sum(len(np.unique(found[found >= 0])) for found in rows)
        if not SOURCES[settings.sources[0]].needs_image_id:
            inputs += sum(int((found < 0).sum()) for found in rows)
        counts = (
            (sum(edits.values()), plan.means.size_bytes(edits, spec)),
            (inputs, inputs * plan.means.size_of("input", spec)),
        )
        for place, (count, size) in zip(places, counts, strict=True):
            images += count
            size_bytes += size
            if place is not None:
                requests[place] += count
                sizes[place] += size
    hosts = [
        HostLoad(
            host, count, sizes[host], settings.fetch.budget_of(urlsplit(host).hostname or host)
        )
        for host, count in requests.items()
    ]
    return Estimate(hosts, images, size_bytes, bandwidth, nodes, os.cpu_count() or 1)


def _edits(settings: ConvertSettings) -> str | None:
    place = mirrored(settings.cdn, settings.mirrors)
    return None if os.path.isabs(place) else host_of(place)


def _inputs(settings: ConvertSettings) -> str | None:
    """The host that inputs come from, None where they lie in a folder or in tars."""
    source = SOURCES[settings.sources[0]]
    places = source.asked(settings.mirrors)
    hosts = {host_of(place) for place in places if not os.path.isabs(place)}
    # A source of several names is shown as their glob; mirrors mostly lead all to one place.
    return source.hosts if len(hosts) > 1 else next(iter(hosts), None)
