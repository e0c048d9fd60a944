"""Report what became of a load's images, and whether a host gave any."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pico_banana.errors import MissingImageError
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import ImageRef
from pico_banana.hosts.budgets import FILES
from pico_banana.input_sources import Place
from pico_banana.missing import Missing
from pico_banana.urls import host_of

__all__ = ["LoadReport"]


@dataclass
class LoadReport:
    """What became of a load's images, in one process or, added up, in several.

    Attributes:
        examples: rows that were made.
        missing: missing images by reason.
        answers: by host, the images that it gave, or said that there are none.
        failures: by host, the images that it gave no such answer for.
        shown: by host, what one of these failures was.
    """

    examples: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    shown: dict[str, str] = field(default_factory=dict)

    def note(self, refs: Sequence[ImageRef], found: Sequence[Fetched | Missing]) -> None:
        """Note what came of a record's images."""
        for ref, one in zip(refs, found, strict=True):
            if isinstance(one, Fetched):
                self.answers.update(_hosts(place for place in ref.places if place.way == one.way))
                continue
            self.missing[one.reason.value] += 1
            for host in _hosts(place for place in ref.places if place.address == one.address):
                if one.reason.is_absence:
                    self.answers[host] += 1
                else:
                    self.failures[host] += 1
                    shown = f"{one.url} is {one.reason.value} ({one.detail})"
                    self.shown.setdefault(host, shown)

    def add(self, other: LoadReport) -> None:
        """Add what another process reports."""
        self.examples += other.examples
        for name in ("missing", "answers", "failures"):
            getattr(self, name).update(getattr(other, name))
        self.shown = {**other.shown, **self.shown}

    def write(self, folder: str) -> None:
        """Write it into a folder, for `read`."""
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(vars(self), file)

    @classmethod
    def read(cls, folder: str) -> LoadReport:
        """Return what all processes wrote into a folder."""
        total = cls()
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                given = json.load(file)
            counts = {key: Counter(given[key]) for key in ("missing", "answers", "failures")}
            total.add(cls(**{**given, **counts}))
        return total

    @property
    def counted(self) -> str:
        """The missing images in words."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.missing.items()))

    def faults(self) -> Iterator[str]:
        """Say, of each host that gave nothing, and of a load without examples, what is wrong."""
        for host, count in sorted(self.failures.items()):
            if not self.answers[host]:
                yield (
                    f"{host} gave none of the {count:,} images that it was asked for: "
                    f"{self.shown[host]}"
                )
        if self.missing and not self.examples:
            yield f"no example is left: images are missing, {self.counted}"

    def refuse(self) -> None:
        """Raise `MissingImageError` where a cache must not keep what came."""
        if faults := [*self.faults()]:
            raise MissingImageError(
                f"{'; '.join(faults)}. Nothing is cached. Look whether a login page or a proxy "
                "answers in the host's place, and load again; leave a source out by "
                "input_sources, or choose other records",
                "",
                min(self.missing),
            )


def _hosts(places: Iterable[Place]) -> set[str]:
    return {FILES if place.is_local else host_of(place.address) for place in places}
