"""Show a person what goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

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

from pico_banana.cache import Fetching

from .text import printable

if TYPE_CHECKING:  # `index` needs neither, nor the second that they take
    from .plan import Plan
    from .runners import Counts

__all__ = ["Shown"]

_LINE_EVERY_S = 10.0


class Shown:
    """What a person sees, on standard error; standard output is left to results."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Show a line; foreign text in it is no markup."""
        self._console.print(escape(printable(text)), highlight=False, soft_wrap=True)

    def plans(self, plans: Sequence[Plan], *, kept: int) -> None:
        """Show in a line a config what will be done."""
        for plan in plans:
            self.say(
                f"{plan.config}: records {plan.records:,}, files {len(plan.shards):,}, about "
                f"{plan.estimated_bytes / 1e9:,.1f} GB; {len(plan.bad):,} bad, "
                f"{len(plan.filtered):,} filtered, {len(plan.left_out):,} left out"
            )
            for name, count in plan.unmatched.items():
                self.say(f"{plan.config}: {count:,} of {name} match none of the records looked at")
        if kept:
            self.say(f"finished already, and left as they are: {kept:,} shards")

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
