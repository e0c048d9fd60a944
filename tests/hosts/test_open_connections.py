"""Budgets bound open connections, idle ones too: by the server's own count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.hosts.answers import Answer, Outcome
from pico_banana.hosts.leases import LeasedBudgets, LeaseServer
from pico_banana.settings import Settings, build_settings
from tests.certificates import make_certificate
from tests.commands import QUICK_FETCH, pico_banana, quick_settings, release_flags
from tests.fake_cdn import FakeCDN

HOST = "http://127.0.0.1:80"
WELL = Answer(Outcome.OK)


def flags(folder: Path, connections: int, **more: Any) -> list[str]:
    hosts = {"127.0.0.1": {"connections": connections}}
    return quick_settings(folder, fetch={**QUICK_FETCH, "hosts": hosts}, **more)


MANY = [
    pytest.param(connections, workers, marks=pytest.mark.long)
    for connections, workers in ((8, 1), (8, 4), (8, 8), (2, 4))
]


@pytest.mark.parametrize(("connections", "workers"), [(8, 2), (1, 4), *MANY])
def test_workers_share_a_hosts_connections(
    connections: int, workers: int, release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    cdn.delay_s = 0.03
    words = ("--records-per-shard", "5", "--workers", str(workers))
    ended = pico_banana(
        *("convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), *words),
        *("--output", tmp_path / "out", *flags(tmp_path, connections)),
    )
    assert ended.code == 0, ended.err
    assert connections / 2 < cdn.most_open("*/images/*") <= connections


def test_connections_over_tls_are_closed_before_others_are_opened(
    release: SampleRelease, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path / "certificate.pem")
    with FakeCDN(("/cdn", release.cdn), certificate=certificate) as cdn:
        cdn.delay_s = 0.01
        words = ("--records-per-shard", "10", "--workers", "4", "--output", tmp_path / "out")
        ended = pico_banana(
            *("convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), *words),
            *flags(tmp_path, 3),
            env={"SSL_CERT_FILE": str(certificate)},
        )
        assert ended.code == 0, ended.err
        assert 1 < cdn.most_open("*/images/*") <= 3


def policy(connections: int) -> Any:
    fetch = {"hosts": {"*": {"connections": connections}}}
    return build_settings(Settings, {}, {"fetch": fetch}).fetch


def test_a_connection_stays_with_its_process_until_another_wants_it() -> None:
    async def ask(address: str) -> None:
        first, second = LeasedBudgets(address), LeasedBudgets(address)
        lease = await first.acquire(HOST)
        first.release(lease, WELL)
        assert (await first.acquire(HOST)).number == lease.number
        recalled: asyncio.Queue[int] = asyncio.Queue()
        first.on_recall(lambda lease: recalled.put_nowait(lease.number))
        waiting = asyncio.ensure_future(second.acquire(HOST))
        first.release(lease, WELL)
        assert await asyncio.wait_for(recalled.get(), 10) == lease.number
        await asyncio.sleep(0.05)
        assert not waiting.done()  # the socket is not closed yet
        first.closed(lease)
        assert (await asyncio.wait_for(waiting, 10)).number != lease.number
        await first.close()
        await second.close()

    with LeaseServer(policy(1)) as leases:
        asyncio.run(ask(leases.address))


def test_who_is_busy_gives_up_what_makes_shares_more_equal() -> None:
    async def ask(address: str) -> list[int]:
        closes: list[LeasedBudgets] = []
        for _ in range(3):
            budgets = LeasedBudgets(address)
            budgets.on_recall(budgets.closed)
            closes.append(budgets)
        granted = [0, 0, 0]
        held = [await closes[0].acquire(HOST) for _ in range(6)]

        async def work(place: int, lease: Any) -> None:
            for _ in range(40):
                await asyncio.sleep(0.01)
                closes[place].release(lease, WELL)
                lease = await closes[place].acquire(HOST)
                granted[place] += 1
            closes[place].release(lease, WELL)

        async def begin(place: int) -> None:
            await work(place, await closes[place].acquire(HOST))

        await asyncio.wait_for(
            asyncio.gather(
                *(work(0, lease) for lease in held),
                *(begin(1) for _ in range(6)),
                *(begin(2) for _ in range(6)),
            ),
            60,
        )
        for budgets in closes:
            await budgets.close()
        return granted

    with LeaseServer(policy(6)) as leases:
        assert asyncio.run(ask(leases.address)) == [240, 240, 240]
