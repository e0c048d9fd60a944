"""What a host's answers do to its pace: halved, paused, broken off, given up, and back again."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import Sources
from pico_banana.hosts.answers import Answer, Outcome
from pico_banana.hosts.breaker import Breaker, Denials
from pico_banana.hosts.budgets import HostBudgets
from pico_banana.hosts.leases import LeaseServer
from pico_banana.hosts.rate import Rate
from pico_banana.hosts.traffic import HostTraffic, Traffic
from pico_banana.missing import GivenUpError, MissingReason
from pico_banana.settings import HostBudget, Settings, build_settings
from pico_banana.urls import host_of
from tests import fake_cdn
from tests.fake_cdn import FakeCDN

HOST = "http://127.0.0.1:80"
WELL = Answer(Outcome.OK)
THROTTLED = Answer(Outcome.THROTTLED, MissingReason.THROTTLED)
FAILED = Answer(Outcome.FAILED, MissingReason.TIMEOUT)
QUICK = {"retries": 3, "backoff_s": 0.02, "backoff_max_s": 0.05, "recovery_s": 0.05}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(60):
        (tmp_path / "images" / f"{number}.png").write_bytes(fake_cdn.PLACEHOLDER_PNG)
    with FakeCDN(("/cdn", tmp_path)) as served:
        yield served


def settings(server, **fetch):
    return build_settings(Settings, {"cdn": f"{server.url}/cdn"}, {"fetch": {**QUICK, **fetch}})


def policy(**fetch):
    return build_settings(Settings, {}, {"fetch": {**QUICK, **fetch}}).fetch


def fetch_all(made, count=60, leases=None):
    refs = [Sources(made).edited(f"images/{number}.png") for number in range(count)]
    with Fetcher(made, leases=leases) as fetcher:
        return [found for (found,) in fetcher.in_order([[[ref] for ref in refs]])]


def reasons(found):
    return [None if isinstance(one, Fetched) else one.reason.value for one in found]


# ---- the rate ------------------------------------------------------------------------------------


def test_a_rate_is_halved_once_for_what_was_under_way_together():
    rate = Rate(HostBudget(requests_per_second=8), 10)
    for granted_s in (1.0, 1.1, 1.2):
        rate.slow_down(granted_s, 2.0)
    assert (rate.per_s, rate.slowed) == (4, 1)
    rate.slow_down(2.5, 3.0)
    assert (rate.per_s, rate.slowed) == (2, 2)


def test_a_rate_comes_back_slowly_and_never_above_its_budget():
    rate = Rate(HostBudget(requests_per_second=8), 10)
    rate.slow_down(1, 2)
    rate.recover(7)
    assert rate.per_s == pytest.approx(6)
    rate.recover(12)
    assert rate.per_s == 8
    rate.recover(1000)
    assert rate.per_s == 8


def test_a_long_silence_is_no_good_answer():
    rate = Rate(HostBudget(requests_per_second=8), 60)
    rate.slow_down(0, 0)
    rate.recover(100_000)
    assert rate.per_s < 5


@pytest.mark.parametrize(("budget", "floor"), [(400, 0.2), (0.32, 0.02)])
def test_a_rate_has_a_floor(budget, floor):
    rate = Rate(HostBudget(requests_per_second=budget), 60)
    for second in range(100):
        rate.slow_down(second, second + 0.5)
    assert rate.per_s == pytest.approx(floor)


def test_a_host_without_a_rate_is_halved_from_what_it_was_asked():
    rate = Rate(HostBudget(connections=4), 10)
    assert (rate.per_s, rate.interval_s) == (None, 0)
    for request in range(1000):
        rate.granted(request / 100)
    assert rate.slow_down(10, 10)
    assert rate.per_s == pytest.approx(50, rel=0.01)
    rate.recover(20)
    assert rate.per_s == pytest.approx(100, rel=0.01)
    for second in (30, 40, 50):
        rate.recover(second)
    assert rate.per_s is None


def test_a_host_that_is_asked_less_than_it_may_be_is_halved_all_the_same():
    rate = Rate(HostBudget(requests_per_second=400), 60)
    for request in range(500):
        rate.granted(request / 50)
    rate.slow_down(10, 10)
    assert rate.per_s == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize("budget", [0.3, 1, 400])
def test_a_burst_is_seen_however_slow_the_pace_has_become(budget):
    rate = Rate(HostBudget(requests_per_second=budget), 60)
    denials, now_s, lone = Denials(rate), 0.0, 0
    for _ in range(200):  # it denies all it is asked
        granted_s, now_s = now_s, now_s + rate.interval_s
        denials.note(now_s, is_denied=True)
        if denials.is_burst(now_s):
            rate.slow_down(granted_s + 0.001, now_s)
        else:
            lone += 1
    assert lone == 4
    denials.note(now_s, is_denied=False)
    assert denials.is_burst(now_s + 30)
    assert not denials.is_burst(now_s + 24 * 3600)


# ---- the breaker ---------------------------------------------------------------------------------


class Failing:
    """A breaker whose requests fail one after the other."""

    def __init__(self, **fetch):
        self.breaker = Breaker(policy(**fetch))
        self.now_s = 0.0

    def fail(self, at_s=None, *, is_probe=False):
        granted_s, self.now_s = self.now_s, at_s if at_s is not None else self.now_s + 0.01
        return self.breaker.failed(
            MissingReason.TIMEOUT, granted_s + 0.001, self.now_s, is_probe=is_probe
        )


def test_a_breaker_pauses_longer_each_time_and_then_gives_up():
    failing = Failing(breaker_failures=3, breaker_pause_s=10, breaker_pauses=2)
    assert [failing.fail(), failing.fail()] == [None, None]
    assert "failed all of the last 3 requests (timeout)" in failing.fail(1)
    assert (failing.breaker.is_open, failing.breaker.opens_s) == (True, 11)
    assert failing.fail(2) is None  # it was under way
    assert "not asked for 20 s" in failing.fail(11, is_probe=True)
    assert (failing.breaker.opens_s, failing.breaker.reason) == (31, None)
    assert "given up" in failing.fail(31, is_probe=True)
    assert failing.breaker.reason is MissingReason.TIMEOUT


def test_what_was_under_way_together_counts_once():
    breaker = Breaker(policy(breaker_failures=3))
    for request in range(50):
        assert breaker.failed(MissingReason.TIMEOUT, 1.0, 2 + request, is_probe=False) is None
    assert breaker.failed(MissingReason.TIMEOUT, 60, 61, is_probe=False) is None
    assert breaker.failed(MissingReason.TIMEOUT, 60, 62, is_probe=False)


def test_a_good_answer_closes_a_breaker():
    failing = Failing(breaker_failures=2, breaker_pause_s=10, breaker_pauses=1)
    for _ in range(5):  # it never gets to a pause
        assert failing.fail() is None
        assert not failing.breaker.well()
    for _ in range(5):  # nor on from the first
        assert failing.fail() is None
        assert "not asked for 10 s" in failing.fail()
        assert failing.breaker.well()
    assert failing.breaker.reason is None


def test_after_a_pause_one_request_goes_ahead():
    async def ask():
        budgets = HostBudgets(policy(breaker_failures=2, breaker_pause_s=0.05, breaker_pauses=9))
        for _ in range(2):
            budgets.release(await budgets.acquire(HOST), FAILED)
        waiting = [asyncio.ensure_future(budgets.acquire(HOST)) for _ in range(5)]
        for answer in (FAILED, Answer(Outcome.UNKNOWN), WELL):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            (probe,) = done
            waiting = [*waiting]
            budgets.release(probe.result(), answer)
        done, _ = await asyncio.wait(waiting)
        assert len(done) == 2

    asyncio.run(ask())


def test_those_who_wait_hear_that_a_host_is_given_up():
    async def ask():
        budgets = HostBudgets(policy(breaker_failures=1, breaker_pause_s=0, breaker_pauses=1))
        budgets.release(await budgets.acquire(HOST), FAILED)
        probe = await budgets.acquire(HOST)
        waiting = [asyncio.ensure_future(budgets.acquire(HOST)) for _ in range(5)]
        await asyncio.sleep(0)
        budgets.release(probe, THROTTLED)
        for one in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
            assert isinstance(one, GivenUpError)
            assert one.reason is MissingReason.THROTTLED

    asyncio.run(ask())


# ---- against a server ---------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [fake_cdn.too_many(), fake_cdn.status(503)])
def test_what_asks_for_less_halves_the_pace_of_that_host_alone(server, tmp_path, answer):
    with FakeCDN(("/cdn", tmp_path)) as other:
        made = settings(server)
        elsewhere = settings(other)
        server.fail("*/[0-2].png", answer)
        with LeaseServer(made.fetch) as leases:
            assert set(reasons(fetch_all(made, leases=leases.address))) == {None}
            assert set(reasons(fetch_all(elsewhere, leases=leases.address))) == {None}
        traffic = leases.traffic
    assert traffic[host_of(server.url)].slowed >= 1
    assert traffic[host_of(other.url)].slowed == 0
    assert traffic[host_of(server.url)].asked == server.count() == 63
    assert traffic[host_of(server.url)].got == 60


def fetch_held(server, made, count, waves):
    """Fetch, each wave of requests answered together once all have come."""
    server.hold()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(fetch_all, made, count)
        for wave in range(1, waves + 1):
            server.wait_for_request(n=count * wave)
            server.release()
            if wave < waves:
                server.hold()
        return found.result(60)


def test_a_burst_of_403_is_throttling_and_passes(server):
    server.fail("*", fake_cdn.status(403))
    assert set(reasons(fetch_held(server, settings(server), 15, 1))) == {None}
    assert server.count() == 30


def test_a_burst_of_403_that_does_not_pass_is_transient(server):
    server.fail("*", forever=fake_cdn.status(403))
    found = fetch_held(server, settings(server, retries=1), 8, 2)
    assert set(reasons(found)) == {"throttled"}
    assert {one.tries for one in found} == {2}


def test_a_lone_403_is_the_images_own_matter(server):
    server.fail("*/7.png", forever=fake_cdn.status(403))
    server.fail("*/40.png", forever=fake_cdn.status(403))
    found = reasons(fetch_all(settings(server)))
    assert {number: reason for number, reason in enumerate(found) if reason} == {
        7: "forbidden",
        40: "forbidden",
    }
    assert server.count() == 60


@pytest.mark.parametrize("is_leased", [False, True])
def test_a_host_that_is_down_is_given_up(server, caplog, is_leased):
    server.fail("*", forever=fake_cdn.reset(-1))
    made = settings(server, breaker_failures=5, breaker_pause_s=0.01, breaker_pauses=3)
    made = made.model_copy(update={"concurrency": 4})
    caplog.set_level(logging.WARNING, "pico_banana")
    said = []
    with LeaseServer(made.fetch, said.append) as leases:
        found = fetch_all(made, leases=leases.address if is_leased else None)
    said = said or caplog.messages
    assert set(reasons(found)) == {"connection"}
    assert "given up for this run" in said[-1]
    assert sum("not asked for" in one for one in said) == 3
    # Five, one after each pause, and twice what was under way together.
    assert 5 + 3 <= server.count() < 20
    assert sum(one.tries for one in found) == server.count()
    assert found[-1].tries == 0


def test_a_host_that_comes_back_leaves_no_hole(server, caplog):
    server.fail("*", forever=fake_cdn.status(500))
    caplog.set_level(logging.WARNING, "pico_banana")
    is_broken_off = threading.Event()

    def listen(record):
        if "not asked for" in record.getMessage():
            is_broken_off.set()
        return True

    caplog.handler.addFilter(listen)
    made = settings(server, retries=9, breaker_failures=5, breaker_pause_s=0.001, breaker_pauses=14)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(fetch_all, made)
        assert is_broken_off.wait(30)
        server.clear()
        assert set(reasons(found.result(60))) == {None}
    assert any("not asked for" in one for one in caplog.messages)
    assert any("answers again" in one for one in caplog.messages)


def test_a_host_that_is_given_up_does_not_keep_others_from_being_asked(server, tmp_path):
    with FakeCDN(("/cdn", tmp_path)) as down:
        down.fail("*", forever=fake_cdn.reset(-1))
        made = settings(server, breaker_failures=3, breaker_pause_s=0.01, breaker_pauses=1)
        broken = settings(down)
        refs = [
            Sources(made if number % 2 else broken).edited(f"images/{number}.png")
            for number in range(60)
        ]
        both = made.model_copy(update={"concurrency": 4, "mirrors": {"named.example": down.url}})
        with Fetcher(both) as fetcher:
            found = [one for (one,) in fetcher.in_order([[[ref] for ref in refs]])]
    assert set(reasons(found)[1::2]) == {None}
    assert set(reasons(found)[::2]) == {"connection"}
    assert down.count() < 20


# ---- what is counted ----------------------------------------------------------------------------


def test_traffic_adds_up(server):
    server.fail("*/[0-4].png", fake_cdn.status(500), fake_cdn.cut(10))
    server.fail("*/5.png", forever=fake_cdn.status(404))
    server.fail("*/6.png", fake_cdn.redirect("/cdn/images/7.png"))
    made = settings(server)
    with LeaseServer(made.fetch) as leases:
        fetch_all(made, leases=leases.address)
    one = leases.traffic[host_of(server.url)]
    assert one.asked == server.count() == 60 + 10 + 1
    assert one.got == 59
    assert one.again == {"server_error": 5, "truncated": 5}
    assert one.missing == {"not_found": 1}
    assert one.durations.total() == one.asked
    assert one.size_bytes >= 59 * len(fake_cdn.PLACEHOLDER_PNG)


def test_durations_are_right_to_within_five_percent():
    one = HostTraffic()
    for milliseconds in range(1, 1001):
        one.request(milliseconds / 1000, 1)
    assert one.duration_s(0.5) == pytest.approx(0.5, rel=0.05)
    assert one.duration_s(0.99) == pytest.approx(0.99, rel=0.05)
    assert HostTraffic().duration_s(0.5) is None
    one.request(0, 1)  # no logarithm of nothing


def test_traffic_survives_json_and_adds_up_over_runs():
    first = Traffic()
    for duration_s in (0.1, 0.2, 3):
        first["http://a:80"].request(duration_s, 10)
    first["http://a:80"].again["timeout"] += 2
    again = HostTraffic.from_json(first.to_json()["http://a:80"])
    assert again == first["http://a:80"]
    first.add([("http://a:80", again), ("http://b:80", again)])
    assert (first["http://a:80"].asked, first["http://b:80"].asked) == (6, 3)
    assert first["http://a:80"].again == {"timeout": 4}
