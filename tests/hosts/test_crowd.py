"""A host that takes few connections at once, or resets some at random, leaves no hole."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import Sources
from pico_banana.hosts.answers import Lease
from pico_banana.hosts.crowd import Crowd
from pico_banana.settings import Settings, build_settings
from tests import fake_cdn
from tests.certificates import make_certificate
from tests.commands import pico_banana, release_flags
from tests.fake_cdn import FakeCDN

IMAGES = 400


@pytest.fixture
def server(tmp_path: Path):
    for number in range(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(fake_cdn.PLACEHOLDER_PNG)
    with FakeCDN(("/cdn/images", tmp_path)) as served:
        served.delay_s = 0.02
        yield served


def holes(server: FakeCDN, **fetch: object) -> list[object]:
    made = build_settings(Settings, {"cdn": f"{server.url}/cdn"}, {"fetch": fetch})
    refs = [Sources(made).edited(f"images/{number}.png") for number in range(IMAGES)]
    with Fetcher(made) as fetcher:
        found = [one for (one,) in fetcher.in_order([[[ref] for ref in refs]])]
    return [one for one in found if not isinstance(one, Fetched)]


@pytest.mark.parametrize("most", [8, pytest.param(32, marks=pytest.mark.long), 60])
@pytest.mark.parametrize("keeps_alive", [True, False])
def test_connections_come_down_to_what_a_server_takes(
    server: FakeCDN, most: int, keeps_alive: bool
) -> None:
    server.most_connections = most
    if not keeps_alive:
        server.fail("*", forever=fake_cdn.Answer(end="close"))
    assert holes(server) == []
    assert server.count() == IMAGES  # nothing was asked for twice
    assert server.most_open() == most
    assert 0 < sum(one.was_refused for one in server.connections) < 100


def test_resets_of_old_connections_bring_nothing_down(server: FakeCDN) -> None:
    seeded = random.Random(5)
    for number in seeded.sample(range(IMAGES), IMAGES // 10):
        server.fail(f"*/{number}.png", fake_cdn.reset(-1))
    assert holes(server, backoff_s=0.01) == []
    late = [request.started for request in server.log[-150:-50]]
    assert min(map(server.are_open, late)) > 8


@pytest.mark.parametrize("refuses_by", ["reset", "close"])
@pytest.mark.parametrize("is_tls", [False, pytest.param(True, marks=pytest.mark.long)])
def test_workers_of_a_run_find_it_together(
    refuses_by: str, is_tls: bool, release: SampleRelease, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path / "certificate.pem") if is_tls else None
    with FakeCDN(("/cdn", release.cdn), certificate=certificate) as cdn:
        cdn.most_connections, cdn.refuses_by, cdn.delay_s = 5, refuses_by, 0.02
        words = ("--records-per-shard", "10", "--workers", "4", "--output", tmp_path / "out")
        ended = pico_banana(
            *("convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), *words),
            env={"SSL_CERT_FILE": str(certificate)} if is_tls else {},
        )
        assert ended.code == 0, ended.err
        assert "not asked for" not in ended.err
        assert any(one.was_refused for one in cdn.connections)
        images = [request.path for request in cdn.requests("*/images/*")]
        assert len(images) == len({*images})


# ---- the limit, without a server -----------------------------------------------------------------


@dataclass
class Simulated:
    """A server of so many connections, and a client that has as many open as the limit allows."""

    takes: int
    budget: int = 64
    resets: float = 0.0
    crowd: Crowd = field(init=False)
    now_s: float = 0.0
    number: int = 0
    refused: int = 0
    limits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.crowd = Crowd(self.budget, recovery_s=60)
        self.leases: list[Lease] = []
        self.seeded = random.Random(1)

    def round(self) -> None:
        """Let every connection make a request of 50 ms, and open new ones up to the limit."""
        while len(self.leases) < self.crowd.limit:
            self.number += 1
            self.leases.append(Lease("h", self.number, self.now_s))
        self.leases = [one._replace(granted_s=self.now_s) for one in self.leases]
        for lease in self.leases:
            self.crowd.began(lease)
        is_reset = [self.seeded.random() < self.resets for _ in self.leases]
        over = [n for n, _ in enumerate(self.leases) if n >= self.takes or is_reset[n]]
        kept = [one for n, one in enumerate(self.leases) if n not in over]
        self.now_s += 0.001
        for count, place in enumerate(over, 1):
            self.refused += 1
            self.crowd.refused(self.leases[place], len(self.leases) - count, self.now_s)
        self.now_s += 0.05
        for lease in kept:
            self.crowd.ended(lease, self.now_s, is_good=True)
        self.leases = kept
        self.limits.append(self.crowd.limit)


@pytest.mark.parametrize("takes", [1, 8, 32, 60])
def test_it_stays_near_what_is_taken_and_asks_ever_more_rarely(takes: int) -> None:
    server = Simulated(takes)
    for _ in range(1200):  # a minute
        server.round()
    assert {*server.limits[10:]} <= {takes, takes + 1}
    assert server.refused <= 64 - takes + 8


def test_it_rises_when_more_are_taken_again() -> None:
    server = Simulated(8)
    for _ in range(200):
        server.round()
    server.takes = 1000
    for _ in range(1200):
        server.round()
    assert server.limits[-1] == 64


def test_a_host_that_was_down_is_asked_as_before() -> None:
    server = Simulated(0)
    for _ in range(5):
        server.round()
    assert server.crowd.limit == 1
    server.takes = 1000
    server.round()
    server.round()
    assert server.crowd.limit == 64


@pytest.mark.parametrize(("share", "least"), [(0.02, 48), (0.1, 32), (0.3, 8)])
def test_resets_at_random_do_not_drive_it_down_to_one(share: float, least: int) -> None:
    server = Simulated(1000, resets=share)
    for _ in range(1200):
        server.round()
    assert min(server.limits) >= least
