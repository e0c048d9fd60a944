"""Budgets of hosts: in one event loop, and shared by real processes through a lease server."""

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
import time

import pytest

from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import Sources
from pico_banana.hosts.answers import Answer, Outcome
from pico_banana.hosts.budgets import HostBudgets
from pico_banana.hosts.leases import LeasedBudgets, LeaseServer
from pico_banana.missing import MissingReason
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import host_of
from tests import fake_cdn
from tests.fake_cdn import FakeCDN
from tests.forked import CONTEXT, process
from tests.paces import above_pace, most_above_pace, watched_stalls

HOST = "http://127.0.0.1:80"
WELL = Answer(Outcome.OK)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ["a", "b", "c"]:
        for number in range(20):
            (folder / f"{name}{number}.png").write_bytes(fake_cdn.PLACEHOLDER_PNG)
    with FakeCDN(("/cdn/images", folder)) as served:
        yield served


def settings(server, **budget):
    fetch = {"hosts": {"127.0.0.1": budget}, "retries": 3, "backoff_s": 0.001}
    return build_settings(Settings, {"cdn": f"{server.url}/cdn"}, {"fetch": fetch})


def policy(*, hosts=None, **given):
    """A policy with these budgets of hosts, or with one budget for all."""
    of_budget = ("connections", "requests_per_second")
    budget = {name: given.pop(name) for name in of_budget if name in given}
    return build_settings(Settings, {}, {"fetch": {"hosts": hosts or {"*": budget}, **given}}).fetch


def fetch_all(made, refs, leases, began, counts):
    """Fetch a process's images; runs in a process of its own."""
    with Fetcher(made, leases=leases) as fetcher:
        began.wait(30)
        found = [one for (one,) in fetcher.in_order([[[ref] for ref in refs]])]
    counts.put(sum(isinstance(one, Fetched) for one in found))


@contextlib.contextmanager
def processes(made, names, leases, *, began=None, images=20):
    """Start a process for each name, which begin together; give them and their queue of counts."""
    counts = CONTEXT.SimpleQueue()
    began = began or CONTEXT.Barrier(len(names))
    started = []
    for name in names:
        refs = [Sources(made).edited(f"images/{name}{number}.png") for number in range(images)]
        started.append(process(fetch_all, made, refs, leases, began, counts))
    for one in started:
        one.start()
    try:
        yield started, counts
        for one in started:
            one.join(30)
    finally:
        for one in started:
            one.kill()


# ---- many processes ----------------------------------------------------------------------------


def test_connections_are_shared_by_processes(server):
    made = settings(server, connections=4)
    server.delay_s = 0.02
    with (
        LeaseServer(made.fetch) as leases,
        processes(made, "abc", leases.address) as (_, counts),
    ):
        assert [counts.get() for _ in range(3)] == [20, 20, 20]
    assert server.peak() == 4


@pytest.mark.long
def test_a_pace_and_a_pause_are_shared_by_processes(server):
    made = settings(server, connections=16, requests_per_second=10)
    server.fail("*/a1.png", fake_cdn.too_many(1))
    with (
        watched_stalls() as stalls,
        LeaseServer(made.fetch) as leases,
        processes(made, "abc", leases.address, images=5) as (_, counts),
    ):
        assert [counts.get() for _ in range(3)] == [5, 5, 5]
    assert most_above_pace(server.log, 10, stalls) <= 2
    (throttled,) = [request for request in server.log if request.status == 429]
    pause_from = throttled.ended + 0.3 + 2 * stalls.longest_s
    pause_to = throttled.ended + 0.95
    assert not [one for one in server.log if pause_from < one.started < pause_to]
    assert max(one.started for one in server.log) > pause_to


def test_a_killed_process_gives_its_leases_back(server):
    made = settings(server, connections=3)
    server.hold("*/a*.png")
    began = CONTEXT.Event()
    with LeaseServer(made.fetch) as leases:
        with processes(made, "ab", leases.address, began=began) as (started, counts):
            began.set()
            server.wait_for_request("*/a*.png", 1)
            os.kill(started[0].pid, signal.SIGKILL)
            assert counts.get() == 20
            started[0].join(30)
            assert started[0].exitcode == -signal.SIGKILL
        assert server.peak("*/b*.png") <= 3

        async def all_are_free():
            budgets = LeasedBudgets(leases.address)
            for _ in range(3):
                await asyncio.wait_for(budgets.acquire(host_of(server.url)), 10)
            await budgets.close()

        asyncio.run(all_are_free())


def test_a_fetcher_hears_that_the_run_has_ended(server):
    made = settings(server, connections=1)
    ref = Sources(made).edited("images/a0.png")
    with LeaseServer(made.fetch) as leases:
        fetcher = Fetcher(made, leases=leases.address)
        assert isinstance(next(fetcher.in_order([[[ref]]]))[0], Fetched)
    with fetcher:
        for _ in range(2):
            with pytest.raises(ConnectionError, match="run that grants leases has ended"):
                next(fetcher.in_order([[[ref]]]))


# ---- the lease server --------------------------------------------------------------------------


def test_the_end_of_the_server_reaches_those_who_wait():
    async def wait_in_vain(leases):
        budgets = LeasedBudgets(leases.address)
        lease = await budgets.acquire(HOST)
        waiting = asyncio.ensure_future(budgets.acquire(HOST))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, leases.__exit__, None, None, None)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(budgets.acquire(HOST), 10)
        budgets.release(lease, WELL)
        await budgets.close()

    asyncio.run(wait_in_vain(LeaseServer(policy(connections=1)).__enter__()))


def test_a_lease_that_is_no_longer_wanted_goes_to_the_next():
    async def give_up(leases):
        first, second = LeasedBudgets(leases.address), LeasedBudgets(leases.address)
        lease = await first.acquire(HOST)
        waiting = [asyncio.ensure_future(first.acquire(HOST)) for _ in range(5)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        first.release(lease, WELL)
        second.release(await asyncio.wait_for(second.acquire(HOST), 10), WELL)
        await first.close()
        await second.close()

    with LeaseServer(policy(connections=1)) as leases:
        asyncio.run(give_up(leases))


def test_the_server_leaves_nothing_behind():
    with LeaseServer(policy()) as leases:
        assert os.stat(os.path.dirname(leases.address)).st_mode & 0o077 == 0
    assert not os.path.exists(os.path.dirname(leases.address))
    assert "pico-banana-leases" not in [thread.name for thread in threading.enumerate()]


def test_a_long_folder_for_temporary_files_is_no_hindrance(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with LeaseServer(policy()) as leases:
        assert os.path.exists(leases.address)
    assert not os.path.exists(leases.address)
    assert not list(folder.iterdir())


# ---- one event loop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.example/x?y", "https://a.example:443"),
        ("http://a.example:8080/x", "http://a.example:8080"),
        ("http://[::1]/x", "http://[::1]:80"),
    ],
)
def test_a_host_is_scheme_name_and_port(url, host):
    assert host_of(url) == host


async def granted_at_once(budgets, host):
    """Return how many leases of a host are granted without waiting for one to be given back."""
    tasks = [asyncio.ensure_future(budgets.acquire(host)) for _ in range(100)]
    for _ in range(10):
        await asyncio.sleep(0)
    granted = [task.result() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for lease in granted:
        budgets.release(lease, WELL)
    return len(granted)


def test_the_first_glob_that_matches_wins():
    budgets = {"a.example": {"connections": 2}, "*.EXAMPLE": {"connections": 3}}

    async def count():
        made = HostBudgets(policy(hosts=budgets))
        hosts = ["https://a.example:443", "https://b.example:443", "https://c.test:443"]
        twice: list[list[bool]] = [[], []]  # not in one expression: Python 3.10 cannot
        for granted in twice:
            for host in hosts:
                granted.append(await granted_at_once(made, host))
        assert twice == [[2, 3, 64], [2, 3, 64]]

    asyncio.run(count())


def test_ports_have_budgets_of_their_own():
    async def count():
        made = HostBudgets(policy(connections=2))
        await made.acquire("http://a:80")
        await made.acquire("http://a:80")
        assert await granted_at_once(made, "http://a:81") == 2

    asyncio.run(count())


def test_a_pause_acts_on_those_who_wait_already():
    async def pause():
        made = HostBudgets(policy(connections=2, requests_per_second=20))
        lease = await made.acquire(HOST)
        waiting = asyncio.ensure_future(made.acquire(HOST))
        await asyncio.sleep(0)
        began = time.monotonic()
        made.release(lease, Answer(Outcome.FAILED, MissingReason.SERVER_ERROR, 0.3))
        await waiting
        assert time.monotonic() - began >= 0.3

    asyncio.run(pause())


@pytest.mark.parametrize("rate", [50, 400])
def test_a_pace_is_neither_exceeded_nor_wasted(rate):
    async def ask(made, times):
        lease = await made.acquire(HOST)
        times.append(time.monotonic())
        made.release(lease, WELL)

    async def all_at_once():
        made = HostBudgets(policy(connections=8, requests_per_second=rate))
        times = []
        await asyncio.gather(*[ask(made, times) for _ in range(rate // 2)])
        return times

    with watched_stalls() as stalls:
        times = asyncio.run(all_at_once())
    assert above_pace(times, rate, stalls) <= 2
    assert times[-1] - times[0] < 0.5 * 3 + 2 * stalls.longest_s
