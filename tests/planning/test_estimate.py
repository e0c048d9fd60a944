"""What `plan` reckons: requests, bytes, and the hours by what binds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import pico_banana, quick_settings, release_flags
from tests.fake_cdn import FakeCDN

RECORDS = 70


def hours(out: str) -> dict[str, float]:
    """The table of what binds, in its order."""
    lines = out.partition("at least, by")[2].partition("what binds")[0].splitlines()[1:]
    return {line.rpartition(" ")[0].strip(): float(line.split()[-1]) for line in lines if line}


def test_hours_are_those_of_line_budget_and_cpus(release: SampleRelease, tmp_path: Path) -> None:
    hosts = {"127.0.0.1": {"connections": 4, "requests_per_second": 0.001}}
    settings = quick_settings(tmp_path, fetch={"hosts": hosts})
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        words = ["plan", "sft", *release_flags(release, f"{cdn.url}/cdn"), *settings]
        one = pico_banana(*words, "--bandwidth", "1kbit")
        eight = pico_banana(*words, "--bandwidth", "1kbit/s", "--nodes", "8")
        assert cdn.count("*/images/*") == 0
        budget, line = f"budget of {cdn.url}", RECORDS * 1.4e6 * 8 / 1e3 / 3600
    # 70 edits of about 1.4 MB; the inputs lie in a folder.
    assert [row.split() for row in one.out.splitlines() if row.startswith(f"{cdn.url} ")] == [
        [cdn.url, str(RECORDS), "0.1"]
    ]
    assert hours(one.out)["line"] == pytest.approx(line, abs=0.01)
    assert hours(eight.out)["line"] == pytest.approx(line / 8, abs=0.01)
    # More machines do not loosen a host's budget.
    assert hours(one.out)[budget] == pytest.approx(RECORDS / 0.001 / 3600, abs=0.01)
    assert hours(eight.out)[budget] == hours(one.out)[budget]
    assert next(iter(hours(one.out))) == "line"
    assert "what binds 1 node: line" in one.out
    assert any(name.startswith("CPUs, 8 x") for name in hours(eight.out))


def test_connections_bind_where_no_rate_does(release: SampleRelease, tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, fetch={"hosts": {"127.0.0.1": {"connections": 1}}})
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        flags = release_flags(release, f"{cdn.url}/cdn")
        ended = pico_banana("plan", "sft", *flags, *settings, "--nodes", "2")
        # 70 requests, each taken to last 0.2 s: 14 s.
        found = hours(ended.out)
        assert found[f"budget of {cdn.url}"] == pytest.approx(14 / 3600, rel=0.2)
        (cpus,) = [value for name, value in found.items() if name.startswith("CPUs, 2 x")]
        assert 0 < cpus < 14 / 3600
        assert f"what binds 2 nodes: budget of {cdn.url}" in ended.out


def test_an_estimate_is_of_the_hosts_that_are_contacted(release: SampleRelease) -> None:
    def hosts_of(*mirrors: str) -> set[str]:
        flags = [word for mirror in mirrors for word in ("--mirrors", mirror)]
        words = [*release_flags(release), "--input-sources", "flickr", "--nodes", "1", *flags]
        ended = pico_banana("plan", "sft", *words)
        assert ended.code == 0, ended.err
        table = ended.out.partition("requests")[2].partition("in all")[0]
        return {line.split()[0] for line in table.splitlines()[1:] if line.strip()}

    assert hosts_of() == {"*.staticflickr.com"}
    assert hosts_of("farm*.staticflickr.com=http://127.0.0.1:9") == {"*.staticflickr.com"}
    assert hosts_of("*.staticflickr.com=http://127.0.0.1:9/{host}") == {"http://127.0.0.1:9"}
    assert hosts_of(f"*.staticflickr.com={release.flickr}/{{host}}") == set()


def test_links_fetch_nothing(release: SampleRelease) -> None:
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        flags = release_flags(release, f"{cdn.url}/cdn")
        ended = pico_banana("plan", "sft", *flags, "--images", "url", "--nodes", "1")
    assert ended.code == 0
    assert [name.split(",")[0] for name in hours(ended.out)] == ["CPUs"]


@pytest.mark.parametrize("text", ["1", "fast", "0Gbit", "-1Gbit", "1 parsec", ""])
def test_what_is_no_bandwidth_is_refused(release: SampleRelease, text: str) -> None:
    ended = pico_banana("plan", "sft", *release_flags(release), "--bandwidth", text)
    assert ended.code == 2
    assert "bandwidth must be like 1Gbit, 200Mbit or 100MB, a second" in ended.err
    assert "planning" not in ended.err
