"""Streams through `datasets` itself; runs on every version that constraints/ names."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import datasets.distributed
import pyarrow.parquet as pq
import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.schema import CONFIGS
from tests import fake_cdn
from tests.commands import QUICK_FETCH
from tests.fake_cdn import FakeCDN
from tests.forked import run_script

ROOT = Path(__file__).parents[2]
SFT = 60
MAJOR = int(datasets.__version__.partition(".")[0])
LOSES_NO_BUFFER = 5
WINDOW = 2 * 4  # images that may be under way with a concurrency of 4
EDITS = "*/images/*"

# Of the library's own code, which is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(root, sft=SFT, preference=10, multi_turn=8, size=(48, 32))


@pytest.fixture(scope="module")
def server(release: SampleRelease):
    with FakeCDN(("/cdn", release.cdn)) as running:
        yield running


@pytest.fixture
def cdn(server: FakeCDN) -> FakeCDN:
    server.clear()
    return server


def arguments(release: SampleRelease, cdn: FakeCDN, **more: Any) -> dict[str, Any]:
    return {
        "cdn": f"{cdn.url}/cdn",
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
        "concurrency": 4,
        "fetch": QUICK_FETCH,
        **more,
    }


def stream(release: SampleRelease, cdn: FakeCDN, config: str = "sft", **more: Any) -> Any:
    given = arguments(release, cdn, **more)
    return pico_banana_400k.load(config, split="train", streaming=True, **given)


def ids(examples: Any) -> list[str]:
    return [example["id"] for example in examples]


def published_ids(release: SampleRelease) -> list[str]:
    """The ids of sft in the order of the release, from its file."""
    lines = (release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    paths = [json.loads(line)["output_image"] for line in lines]
    return [path.removeprefix("images/").rpartition(".")[0] for path in paths]


def asked(cdn: FakeCDN) -> list[str]:
    """The ids whose edits were asked for, in order."""
    return [
        request.path.removeprefix("/cdn/images/").rpartition(".")[0]
        for request in cdn.requests(EDITS)
    ]


def test_examples_come_in_the_order_of_the_release(release: SampleRelease, cdn: FakeCDN) -> None:
    ds = stream(release, cdn)
    assert ids(ds) == published_ids(release)
    assert sorted(asked(cdn)) == sorted(published_ids(release))
    assert (ds.n_shards if hasattr(ds, "n_shards") else ds.num_shards) >= 64


@pytest.mark.parametrize("read", [1, 23, SFT - 1])
def test_it_goes_on_after_the_last_example_that_was_handed_out(
    release: SampleRelease, cdn: FakeCDN, read: int
) -> None:
    ds = stream(release, cdn)
    before = ids(itertools.islice(ds, read))
    state = json.loads(json.dumps(ds.state_dict()))
    cdn.clear()
    again = stream(release, cdn)
    again.load_state_dict(state)
    after = ids(again)
    assert before + after == published_ids(release)
    assert len(set(asked(cdn)) & set(before)) <= 10
    assert len(asked(cdn)) <= len(after) + 10


@pytest.mark.parametrize("config", ["preference", "multi_turn"])
def test_every_config_goes_on(release: SampleRelease, cdn: FakeCDN, config: str) -> None:
    whole = ids(stream(release, cdn, config))
    ds = stream(release, cdn, config)
    before = ids(itertools.islice(ds, 4))
    again = stream(release, cdn, config)
    again.load_state_dict(ds.state_dict())
    assert before + ids(again) == whole


@pytest.mark.parametrize(
    ("read", "seed"),
    [(17, 3), *[pytest.param(*case, marks=pytest.mark.long) for case in ((0, 1), (SFT - 1, 4))]],
)
def test_a_shuffled_stream_goes_on(
    release: SampleRelease, cdn: FakeCDN, read: int, seed: int
) -> None:
    def shuffled() -> Any:
        return stream(release, cdn).shuffle(seed=seed, buffer_size=1)

    whole = ids(shuffled())
    assert sorted(whole) == sorted(published_ids(release)) != whole
    ds = shuffled()
    before = ids(itertools.islice(ds, read))
    again = shuffled()
    if read:
        again.load_state_dict(ds.state_dict())
    after = ids(again)
    # Continued, older versions lose what the library's buffer held: here one example.
    lost = SFT - len(before) - len(after)
    assert after == whole[read + lost :]
    assert lost <= (0 if MAJOR >= LOSES_NO_BUFFER else 1)


@pytest.mark.parametrize(("given", "count"), [({"limit": 7}, 7), ({"offset": 20}, 40)])
def test_no_range_of_a_small_selection_is_empty(
    release: SampleRelease, cdn: FakeCDN, given: dict[str, int], count: int
) -> None:
    begin = given.get("offset", 0)
    ds = stream(release, cdn, **given)
    parts = [ids(datasets.distributed.split_dataset_by_node(ds, n, count)) for n in range(count)]
    assert parts == [[one] for one in published_ids(release)[begin : begin + count]]


def test_a_selection_of_nothing_ends(release: SampleRelease, cdn: FakeCDN) -> None:
    assert ids(stream(release, cdn, offset=SFT)) == []


def test_an_offset_fetches_nothing_of_what_it_leaves_out(
    release: SampleRelease, cdn: FakeCDN
) -> None:
    left = published_ids(release)[40:]
    assert ids(stream(release, cdn, offset=40)) == left
    assert sorted(asked(cdn)) == sorted(left)


def test_a_filter_fetches_nothing_of_what_it_leaves_out(
    release: SampleRelease, cdn: FakeCDN
) -> None:
    kept = ids(stream(release, cdn, edit_types=["zoom-in", "outpainting"]))
    assert 0 < len(kept) < SFT
    assert sorted(asked(cdn)) == sorted(kept)


def test_a_slow_reader_is_not_run_away_from(release: SampleRelease, cdn: FakeCDN) -> None:
    reader = iter(stream(release, cdn))
    for read in range(1, 21):
        next(reader)
        # an edit an example; the library may itself hold one example back
        assert cdn.count(EDITS) <= read + 1 + WINDOW
    reader.close()


def test_what_stops_reading_stops_fetching(release: SampleRelease, cdn: FakeCDN) -> None:
    assert len(list(stream(release, cdn).take(5))) == 5
    stopped = cdn.count(EDITS)
    assert stopped <= 6 + WINDOW
    # the same fetcher serves another stream meanwhile
    rows = list(stream(release, cdn, offset=50))
    assert cdn.count(EDITS) <= stopped + WINDOW + len(rows)
    assert len(set(asked(cdn)) - set(ids(rows))) <= 6 + WINDOW


def test_several_readers_see_every_example_once(release: SampleRelease, cdn: FakeCDN) -> None:
    parts = [
        ids(datasets.distributed.split_dataset_by_node(stream(release, cdn), node, 4))
        for node in range(4)
    ]
    assert all(parts)
    assert sorted(itertools.chain(*parts)) == sorted(published_ids(release))
    assert len(asked(cdn)) == SFT


PART = """
import json, multiprocessing, sys
import datasets.distributed
import pico_banana_400k

def read(node, given, put):
    ds = pico_banana_400k.load("sft", split="train", streaming=True, **given)
    ds = datasets.distributed.split_dataset_by_node(ds, node, 2)
    put([row["id"] for row in ds])

if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    # this process has fetched before: a child must not take over what its parent runs
    next(iter(pico_banana_400k.load("sft", split="train", streaming=True, **given)))
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    children = [context.Process(target=read, args=(n, given, queue.put)) for n in range(2)]
    for child in children:
        child.start()
    print(json.dumps(sum((queue.get(timeout=90) for _ in children), [])))
    for child in children:
        child.join()
    # nor may a child, as it ends, take from its parent what that goes on with
    next(iter(pico_banana_400k.load("sft", split="train", streaming=True, **given)))
    sys.exit(sum(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_two_processes_see_every_example_once(
    release: SampleRelease, cdn: FakeCDN, method: str
) -> None:
    ended = run_script(PART, method, json.dumps(arguments(release, cdn)))
    assert ended.code == 0, ended.err
    assert sorted(json.loads(ended.out)) == sorted(published_ids(release))


def test_a_stream_and_its_state_travel(release: SampleRelease, cdn: FakeCDN) -> None:
    ds = stream(release, cdn)
    before = ids(itertools.islice(ds, 7))
    travelled = pickle.loads(pickle.dumps(stream(release, cdn)))  # noqa: S301
    travelled.load_state_dict(ds.state_dict())
    assert before + ids(travelled) == published_ids(release)


@pytest.mark.parametrize("on_missing", ["skip", "null", "fail"])
def test_a_broken_image_in_the_middle_follows_on_missing(
    release: SampleRelease, cdn: FakeCDN, on_missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    published = published_ids(release)
    cdn.fail(f"*/{published[30]}.png", forever=fake_cdn.body(b"no picture", "image/png"))
    ds = stream(release, cdn, on_missing=on_missing)
    if on_missing == "fail":
        read = []
        with pytest.raises(pico_banana_400k.PicoBananaError, match="edited_image"):
            read.extend(row["id"] for row in ds)
        return
    with caplog.at_level(logging.WARNING, "pico_banana"):
        rows = list(ds)
    assert "missing images: 1 not_an_image" in caplog.text
    expected = published if on_missing == "null" else published[:30] + published[31:]
    assert ids(rows) == expected
    if on_missing == "null":
        assert [row["id"] for row in rows if row["edited_image"] is None] == [published[30]]


@pytest.mark.parametrize("config", CONFIGS)
def test_written_by_tables_the_bytes_are_the_published_ones(
    release: SampleRelease, cdn: FakeCDN, config: str
) -> None:
    seen = 0
    for table in stream(release, cdn, config).with_format("arrow"):
        seen += check_rows(table.to_pylist())
    assert seen >= 2 * release.good[config]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_stream_written_as_parquet_keeps_the_bytes(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, config: str
) -> None:
    if not hasattr(datasets.IterableDataset, "to_parquet"):
        pytest.skip("this version of datasets writes no Parquet of a stream")
    path = tmp_path / "rows.parquet"
    stream(release, cdn, config).to_parquet(os.fspath(path))
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == release.good[config]
    assert check_rows(rows) >= 2 * len(rows)


def check_rows(rows: list[dict[str, Any]]) -> int:
    """Hold every image of some rows against its sha256 column; return how many there were."""
    images = 0
    for row in rows:
        for name, value in row.items():
            if name.endswith("_image"):
                pairs = [(value, row[f"{name.removesuffix('_image')}_sha256"])]
            elif name.endswith("_images"):
                pairs = zip(value, row[f"{name.removesuffix('_images')}_sha256s"], strict=True)
            else:
                continue
            for image, sha256 in pairs:
                assert hashlib.sha256(image["bytes"]).hexdigest() == sha256
                images += 1
    return images


@pytest.mark.parametrize("count", [0, 1, 50, SFT])
def test_skip_and_take_part_a_stream(release: SampleRelease, cdn: FakeCDN, count: int) -> None:
    # 4.8.5 leaves out too little where a stream comes by tables
    first, rest = ids(stream(release, cdn).take(count)), ids(stream(release, cdn).skip(count))
    assert first == published_ids(release)[:count]
    assert rest == published_ids(release)[count:]


WORKERS = """
import itertools, json, sys
import pico_banana_400k
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

def stream():
    given = json.loads(sys.argv[1])
    return pico_banana_400k.load("sft", split="train", streaming=True, **given)

def ids(rows):
    return [row["id"] for row in rows]

if __name__ == "__main__":
    for start in ("fork", "spawn"):
        loader = DataLoader(stream(), batch_size=None, num_workers=2, multiprocessing_context=start)
        print(json.dumps(ids(loader)))
    for workers in (0, 2):
        loader = lambda: StatefulDataLoader(stream(), batch_size=None, num_workers=workers)
        half = loader()
        before = ids(itertools.islice(iter(half), 20))
        state = half.state_dict()
        del half
        again = loader()
        again.load_state_dict(state)
        print(json.dumps(before + ids(again)))
"""


def test_torch_workers_see_every_example_once_and_go_on(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    pytest.importorskip("torchdata.stateful_dataloader")
    script = tmp_path / "workers.py"
    script.write_text(WORKERS, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(ROOT), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", script, json.dumps(arguments(release, cdn))],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(found) == 4
    assert all(sorted(one) == sorted(published_ids(release)) for one in found)
