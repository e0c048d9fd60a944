"""Conversions on a Ray cluster: two nodes at most on one machine, all of it on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray")

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.convert.options import ConvertSettings
from pico_banana.convert.output.store import Store
from pico_banana.convert.running.on_ray import _on_node, _Shared
from pico_banana.errors import WorkError
from pico_banana.hosts.leases import LeaseServer
from pico_banana.schema import CONFIGS
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import PUBLISHED_BASE
from tests.commands import (
    QUICK_FETCH,
    Ended,
    arguments_of,
    count,
    digests,
    ledgers,
    pico_banana,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN, status
from tests.fake_s3 import BUCKET, fetch
from tests.strangers import SCRIPT, make_strangers, noted, run_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

# Ray's name for it: on Linux too it makes all of a cluster's servers listen on loopback alone.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 1024**2}
# Without what watches a cluster: each is a process that takes seconds to start.
HEAD = {**NODE, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

head, other = json.loads(sys.argv[1])
made = Cluster(initialize_head=True, head_node_args=head)
print(made.address, flush=True)
node = None
for _ in sys.stdin:
    if node is not None:
        made.remove_node(node, allow_graceful=False)
    node = made.add_node(**other)
    print("done", flush=True)
made.shutdown()
"""


@pytest.fixture(scope="module")
def whole(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run by one local worker."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert pico_banana(*command(release, out, "--workers", "1")).code == 0
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node, whose processes know nothing of the tests' environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ON_LOOPBACK.items():
            patch.setenv(name, value)
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CLUSTER, json.dumps([HEAD, NODE])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def renew_a_node() -> None:
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "done\n"

            address = process.stdout.readline().strip()
            assert address.startswith("127.0.0.1:")
            yield SimpleNamespace(address=address, renew_a_node=renew_a_node)
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def two_nodes(cluster: Any) -> Any:
    """The cluster, with a second node from now on."""
    cluster.renew_a_node()
    return cluster


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ON_LOOPBACK.items():
        monkeypatch.setenv(name, value)


def command(release: SampleRelease, out: Path | str, *words: Any, cdn: FakeCDN | None = None):
    place = f"{cdn.url}/cdn" if cdn else None
    sizes = ("--limit", "12", "--records-per-shard", "5")  # 8 shards in all
    return ["convert", "all", *release_flags(release, place), *sizes, "--output", out, *words]


def by_ray(cluster: Any) -> list[str]:
    return ["--runner", "ray", "--ray-address", cluster.address]


@pytest.mark.long
@pytest.mark.skipif(not SCRIPT.exists(), reason="the project is not installed")
def test_no_node_imports_from_the_folder_that_a_run_begins_in(
    cluster: Any, release: SampleRelease, tmp_path: Path
) -> None:
    strange = make_strangers(tmp_path / "strange")
    ended = run_in(strange, *command(release, tmp_path / "out", *by_ray(cluster)))
    assert ended.code == 0, ended.err
    assert noted(strange) == ""


# ---- the same bytes ----------------------------------------------------------------------------


def test_a_cluster_gives_the_bytes_of_a_local_worker(
    cluster: Any, release: SampleRelease, whole: Path, tmp_path: Path
) -> None:
    ended = pico_banana(*command(release, tmp_path / "out", *by_ray(cluster)))
    assert ended.code == 0, ended.err
    assert "(raylet)" not in ended.out
    assert "8 shards made, 0 kept" in ended.out
    assert digests(tmp_path / "out") == digests(whole)
    for config in CONFIGS:
        assert ledgers(tmp_path / "out", config) == ledgers(whole, config)


@pytest.mark.long
def test_slices_on_s3_by_ray_and_by_local_workers_are_the_same_too(
    two_nodes: Any, release: SampleRelease, whole: Path, s3: Any, tmp_path: Path
) -> None:
    # The cluster was begun before there was an AWS_ENDPOINT_URL: the run carries it there.
    out = f"s3://{BUCKET}/out"
    for number, words in enumerate([by_ray(two_nodes), ["--workers", "4"]]):
        part = ("--slice", f"{number}/2")
        ended = pico_banana(*command(release, out, *part, *words))
        assert ended.code == 0, ended.err
    assert pico_banana("finish", out).code == 0
    fetch(s3, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(whole)


# ---- nodes that die ----------------------------------------------------------------------------


def edits_of(shard: Path) -> set[str]:
    """The paths by which the edits of a shard are asked for."""
    found: set[str] = set()
    for row in pq.read_table(shard).to_pylist():
        for name in ("edited_url", "chosen_url", "edited_urls", "rejected_urls"):
            urls = row.get(name) or []
            found.update([urls] if isinstance(urls, str) else urls)
    return {f"/cdn/{url.removeprefix(PUBLISHED_BASE)}" for url in found}


@pytest.mark.long
def test_a_node_that_dies_in_the_middle_costs_no_byte(
    two_nodes: Any, release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path
) -> None:
    cdn.hold("*/images/*")
    # The other node's requests wait as long as a new node takes to start.
    patient = quick_settings(tmp_path, fetch={**QUICK_FETCH, "read_timeout_s": 60})
    words = [*patient, *by_ray(two_nodes)]
    run = subprocess.Popen(
        arguments_of(*command(release, tmp_path / "out", *words, cdn=cdn)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    # Five edits of a shard of sft: each node is at work.
    cdn.wait_for_request("*/images/*", n=10, timeout_s=60)
    two_nodes.renew_a_node()
    cdn.release()
    told, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "is begun again: its Ray node or process died" in said
    assert "8 shards made, 0 kept" in told
    assert "(raylet)" not in told  # Ray's own words are no results
    assert digests(tmp_path / "out") == digests(whole)
    assert pico_banana("verify", tmp_path / "out").code == 0
    # What was under way on the dead node was asked twice, and nothing else.
    asked = Counter(request.path for request in cdn.requests("*/images/*"))
    again = {path for path, times in asked.items() if times > 1}
    assert again
    assert max(asked.values()) == 2
    assert any(again <= edits_of(path) for path in (tmp_path / "out").glob("*/*.parquet"))


@pytest.mark.long
def test_ctrl_c_ends_the_run_and_it_goes_on(
    two_nodes: Any, release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = [*quick_settings(tmp_path), *by_ray(two_nodes)]
    cdn.delay_s = 0.02
    run = subprocess.Popen(
        arguments_of(*command(release, tmp_path / "out", *words, cdn=cdn)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    cdn.wait_for_request("*/images/*", n=15, timeout_s=60)
    cdn.hold("*/images/*")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=10)
    assert run.returncode == 130, said
    assert "interrupted: finished shards are kept" in said
    cdn.release()
    ended = pico_banana(*command(release, tmp_path / "out", *words, cdn=cdn))
    assert ended.code == 0, ended.err
    assert digests(tmp_path / "out") == digests(whole)
    assert not list((tmp_path / "out").glob("**/*.tmp"))


# ---- hosts -------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_hosts_budget_holds_for_the_whole_cluster(
    two_nodes: Any, release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    hosts = {"127.0.0.1": {"connections": 3}}
    settings = quick_settings(tmp_path, fetch={**QUICK_FETCH, "hosts": hosts})
    cdn.delay_s = 0.02
    ended = pico_banana(*command(release, tmp_path / "out", *settings, *by_ray(two_nodes), cdn=cdn))
    assert ended.code == 0, ended.err
    assert cdn.most_open("*/images/*") == 3
    (asked,) = [line for line in ended.err.splitlines() if line.startswith("http://127.0.0.1")][:1]
    assert f" {cdn.count('*/images/*')} " in asked


@pytest.mark.long
def test_what_is_missing_is_accounted_for(
    two_nodes: Any, release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path
) -> None:
    lines = (release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    failing = os.path.basename(json.loads(lines[3])["output_image"])
    cdn.fail(f"*/{failing}", forever=status(500))
    words = [*quick_settings(tmp_path), *by_ray(two_nodes)]
    ended = pico_banana(*command(release, tmp_path / "out", *words, cdn=cdn))
    assert ended.code == 1
    assert "examples with missing images" in ended.out
    missing = [one for one in ledgers(tmp_path / "out", "sft") if one["missing"]]
    assert sum(count(one["missing_lines"]) for one in missing) >= 1
    # It stops where it must not be missing, with the words of local workers.
    fails = [*words, "--on-missing", "fail"]
    ended = pico_banana(*command(release, tmp_path / "fail", *fails, cdn=cdn))
    assert ended.code == 1
    assert failing in ended.err
    assert "server_error" in ended.err
    cdn.clear()
    ended = pico_banana(*command(release, tmp_path / "out", *words, "--retry-missing", cdn=cdn))
    assert ended.code == 0, ended.err
    assert digests(tmp_path / "out") == digests(whole)


# ---- what cannot be ----------------------------------------------------------------------------


def refused(release: SampleRelease, tmp_path: Path, *words: str, **more: Any) -> Ended:
    ended = pico_banana(*command(release, tmp_path / "out", *words), **more)
    assert ended.code == 2
    return ended


def test_without_the_extra_it_is_named(release: SampleRelease, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('none here')", encoding="utf-8")
    ended = refused(release, tmp_path, "--runner", "ray", env={"PYTHONPATH": str(tmp_path)})
    assert "--runner ray needs Ray, which is not installed" in ended.err
    assert "pip install 'pico-banana-400k[ray]'" in ended.err


def test_a_node_that_does_not_see_what_others_see_makes_no_hole(
    release: SampleRelease, whole: Path, tmp_path: Path
) -> None:
    def carry_out(output: Path, cdn: Path) -> None:
        shutil.copytree(release.cdn / "jsonl", tmp_path / "cdn" / "jsonl", dirs_exist_ok=True)
        settings = build_settings(ConvertSettings, {"cdn": os.fspath(cdn)})
        shutil.rmtree(tmp_path / "cdn")
        shared = _Shared(settings, Store(os.fspath(output)), os.fspath(cdn), None, {})
        _on_node(shared, SimpleNamespace(config="sft"))  # type: ignore[arg-type]

    with pytest.raises(WorkError, match=r"the output .* is not there on the Ray node"):
        carry_out(tmp_path, release.cdn)
    with pytest.raises(WorkError, match=r"the folder .*cdn is not there on the Ray node"):
        carry_out(whole, tmp_path / "cdn")


def test_words_that_do_not_fit_are_refused(release: SampleRelease, tmp_path: Path) -> None:
    for words, said in (
        (["--runner", "slurm"], "runner must be local or ray, but got 'slurm'"),
        (["--ray-address", "auto"], "ray_address must come with --runner ray"),
        (["--runner", "ray", "--ray-address", "ray://head:10001"], "run the command on a node"),
    ):
        assert said in refused(release, tmp_path, *words).err


def test_a_cluster_that_is_not_there_is_said(release: SampleRelease, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    ended = refused(release, tmp_path, "--runner", "ray", "--ray-address", address)
    assert f"no Ray cluster at {address} can be used" in ended.err
    assert "ray start --head" in ended.err


def test_a_stranger_gets_no_leases() -> None:
    policy = build_settings(Settings, {}).fetch
    with LeaseServer(policy, host="127.0.0.1") as leases:
        port = int(leases.address.rpartition(":")[2])
        for word in (b"", b"guess", b"x" * 100_000):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.settimeout(20)
                stranger.sendall(word + b'\n["acquire", 1, "http://h:80"]\n')
                with contextlib.suppress(ConnectionResetError):
                    assert stranger.recv(100) == b""
    assert not leases.traffic
