"""Show plans, outcomes and accounts as tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pico_banana.missing import MissingReason
from pico_banana.schema import category_of

from ..options import ConvertSettings
from ..output.loading import load_code
from ..output.store import Store
from ..output.verify import Accounts
from ..planning.estimate import CPU_S_PER_GB, CPU_S_PER_IMAGE, REQUEST_S, Estimate
from ..planning.plan import Plan
from ..text import printable, short, shown_bytes
from .outcome import Outcome
from .run_log import read_traffic, shown_host, traffic_tables

if TYPE_CHECKING:  # its library is slow to import
    from ..publishing.publication import Publication

__all__ = [
    "counted",
    "show_accounts",
    "show_estimate",
    "show_outcome",
    "show_plan",
    "show_publication",
    "show_runs",
]

_SHOWN_BAD = 10


def counted(number: int, what: str) -> str:
    """Return "1 file", "2 files", "1,000 files"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _two_columns(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    return table


def show_plan(plan: Plan, settings: ConvertSettings, console: Console) -> None:
    """Show a plan: where its lines went, its shards, edit types, odd and bad records."""
    table = _two_columns(plan.config)
    splits = Counter(shard.split for shard in plan.shards)
    counts: list[tuple[str, int]] = [
        ("lines", plan.lines),
        ("bad", len(plan.bad)),
        ("filtered", len(plan.filtered)),
        ("left out", len(plan.left_out)),
        ("planned records", plan.records),
        *[(f"shards of {split}", count) for split, count in splits.items()],
        *[(f"odd: {kind.replace('_', ' ')}", count) for kind, count in sorted(plan.odd.items())],
    ]
    if settings.open_images_metadata != "none":
        counts.append(("photos without ImageID", plan.unlisted))
    for name, count in counts:
        table.add_row(name, f"{count:,}")
    table.add_row("estimated size", shown_bytes(plan.estimated_bytes))
    table.add_row("reckoned", plan.reckoned)
    console.print(table)
    if plan.edit_types and plan.config != "multi_turn":
        console.print(_edit_types(plan))
    for bad in plan.bad[:_SHOWN_BAD]:
        console.print(
            escape(
                printable(f"bad: {plan.jsonl}, {bad.line.where}: {bad.reason.value}: {bad.detail}")
            ),
            highlight=False,
            soft_wrap=True,
        )
    if len(plan.bad) > _SHOWN_BAD:
        console.print(f"... and {len(plan.bad) - _SHOWN_BAD:,} bad lines more; plan.json has all")
    console.print()


def show_estimate(found: Estimate, console: Console) -> None:
    """Show what each host is asked for, and the hours by what binds."""
    hosts = Table("host", box=None, pad_edge=False)
    for name in ("requests", "GB"):
        hosts.add_column(name, justify="right")
    for host in found.hosts:
        name = shown_host(host.host)
        hosts.add_row(name, f"{host.requests:,}", f"{host.size_bytes / 1e9:,.1f}")
    hosts.add_row("in all, local files too", f"{found.images:,}", f"{found.size_bytes / 1e9:,.1f}")
    console.print(hosts)
    hours = Table("at least, by", box=None, pad_edge=False)
    hours.add_column("hours", justify="right")
    bounds = found.bounds()
    for what, seconds in bounds:
        hours.add_row(shown_host(what), _hours(seconds))
    console.print(hours)
    nodes = counted(found.nodes, "node")
    console.print(
        f"what binds {nodes}: {shown_host(bounds[0][0])}. Budgets hold for all nodes together; a "
        f"request is taken to last {REQUEST_S} s; of a CPU like an AMD EPYC's an image takes "
        f"{1000 * CPU_S_PER_IMAGE:.1f} ms, a GB {CPU_S_PER_GB:.1f} s (docs/scale.md)",
        highlight=False,
        soft_wrap=True,
    )


def _hours(seconds: float) -> str:
    """Hours with two decimals, few with two digits: a small plan takes some thousandths."""
    hours = seconds / 3600
    return f"{hours:,.2f}" if hours >= 0.1 or not hours else f"{hours:.2g}"  # noqa: PLR2004


def _edit_types(plan: Plan) -> Table:
    table = Table("edit type", "category", box=None, pad_edge=False)
    table.add_column("records", justify="right")
    for kind, count in plan.edit_types.most_common():
        name = escape(short(kind)) if kind is not None else "(none stated)"
        table.add_row(name, category_of(kind) or "-", f"{count:,}")
    return table


def show_outcome(outcome: Outcome, store: Store, console: Console) -> None:
    """Show what a conversion came to: rows, and what is missing by reason."""
    table = Table("config", "split", box=None, pad_edge=False)
    for name in ("examples", "files", "MB"):
        table.add_column(name, justify="right")
    for report in outcome.reports:
        for split, made in report.splits.items():
            size = sum(ledger.size_bytes for ledger in made)
            rows = sum(ledger.rows for ledger in made)
            table.add_row(report.config, split, f"{rows:,}", f"{len(made):,}", f"{size / 1e6:,.1f}")
    console.print(table)
    reasons: Counter[str] = sum(
        (report.missing_images() for report in outcome.reports), start=Counter()
    )
    for reason, count in reasons.most_common():
        is_are = "is" if count == 1 else "are"
        console.print(f"missing: {counted(count, 'image')} {is_are} {reason}", highlight=False)
    if any(reason.is_transient and reasons[reason.value] for reason in MissingReason):
        console.print(
            "some of them may be had later: the same command with --retry-missing tries again",
            highlight=False,
        )
    if outcome.missing:
        console.print(
            f"examples with missing images: {outcome.missing:,}; _ledger/ lists each with its URL "
            "and reason",
            highlight=False,
        )
    root, is_local = store.root, store.is_local
    loadable = [report.config for report in outcome.reports if report.splits]
    hint = ""
    if loadable and outcome.publication is not None:
        there = outcome.publication.repository.id
        hint = f". Load it with: {load_code(there, loadable[0], outcome.reports)}"
    elif loadable and is_local:
        # The whole path: a bare name like "parquet" may be a builder's of `datasets`.
        code = load_code(os.path.abspath(root), loadable[0], outcome.reports)
        hint = f". Load it with: {code}"
    done = f"{root}: {counted(outcome.made, 'shard')} made, {outcome.kept:,} kept{hint}"
    console.print(escape(printable(done)), highlight=False, soft_wrap=True)


def show_publication(publication: Publication, console: Console) -> None:
    """Show where an output is published."""
    there = publication.repository
    seen = "private" if there.is_private else "public"
    files = sum(path.endswith(".parquet") for path in there.files)
    console.print(
        f"published: {there.url} ({seen}), {counted(files, 'Parquet file')}, "
        f"{counted(publication.commits, 'commit')} in this run",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def show_accounts(accounts: Sequence[Accounts], console: Console) -> None:
    """Show how every line of each config ended."""
    if not accounts:
        return
    names = ("lines", "bad", "filtered", "left_out", "missing", "written")
    table = Table("config", box=None, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for account in accounts:
        table.add_row(account.config, *[f"{getattr(account, name):,}" for name in names])
    console.print(table)


def show_runs(store: Store, console: Console) -> None:
    """Show what hosts were asked and gave in all runs that wrote to an output."""
    traffic, runs, broken = read_traffic(store)
    for name in broken:
        console.print(printable(f"{name}: no report of a run of this version"), highlight=False)
    if traffic:
        console.print(f"\nasked in {counted(runs, 'run')}:", highlight=False)
    for table in traffic_tables(traffic):
        console.print(table)
