"""Show a person what goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from pico_banana.storage.cache import Fetching

from .text import printable

__all__ = ["Counts", "Say", "Shown"]

_LINE_EVERY_S = 10.0


Say = Callable[[str], None]
"""Tells a person a line."""


@dataclass(frozen=True)
class Counts:
    """What the workers have done so far in this run."""

    rows: int = 0
    examples_missing: int = 0
    records: int = 0
    images: int = 0
    size_bytes: int = 0
    images_missing: int = 0

    def __add__(self, more: Counts) -> Counts:
        """Return the sums."""
        return Counts(*map(sum, zip(astuple(self), astuple(more), strict=True)))


class Shown:
    """What a person sees, on standard error; standard output is left to results."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Show a line; foreign text in it is no markup."""
        self._console.print(escape(printable(text)), highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def bytes_bar(self, what: str) -> Iterator[Fetching]:
        """Give a function that is told the bytes so far and in all; it shows them."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as bar:
            task = None

            def update(done: int, total: int | None) -> None:
                nonlocal task
                if task is None:
                    if not self._console.is_terminal:
                        size = f" ({total / 1e6:,.0f} MB)" if total else ""
                        self.say(f"{what}{size}")
                    task = bar.add_task(escape(what), total=total)
                bar.update(task, completed=done)

            yield update

    @contextlib.contextmanager
    def examples_bar(
        self, planned: int, before: int, missing_before: int
    ) -> Iterator[Callable[[Counts], None]]:
        """Give a function that is told the workers' counts; it shows examples and speed."""
        begun = time.monotonic()
        said = begun
        with Progress(
            TextColumn("examples"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as bar:
            task = bar.add_task("", total=planned, completed=before, speed="")

            def update(counts: Counts) -> None:
                nonlocal said
                now = time.monotonic()
                passed = max(now - begun, 1e-3)
                speed = f"{missing_before + counts.examples_missing:,} missing"
                if counts.images or counts.images_missing:  # else none is fetched, or none came yet
                    speed = (
                        f"{counts.images / passed:,.0f} images/s  "
                        f"{counts.size_bytes / passed / 1e6:,.1f} MB/s  {speed}"
                    )
                done = before + counts.records
                bar.update(task, completed=done, speed=speed)
                if not self._console.is_terminal and now - said >= _LINE_EVERY_S:
                    said = now
                    self.say(f"{done:,} of {planned:,} examples  {speed}")

            yield update

    def table(self, table: Table) -> None:
        """Show a table."""
        self._console.print(table)
