"""A photo's URL leads to its ImageID and attribution, by an index that is made once."""

import base64
import gzip
import hashlib
import itertools
import os
import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico_banana.errors import ReleaseError
from pico_banana.open_images.index import Index, Photo, is_image_id, open_index
from pico_banana.open_images.make_index import _key, keys_of
from tests.commands import pico_banana
from tests.fake_cdn import FakeCDN
from tests.image_list import COLUMNS, row, write

PHOTO = "https://farm5.staticflickr.com/4012/4300123456_0a1b2c3d4e_o.jpg"


def indexed(path, rows):
    return open_index(write(path, rows), {})


def image_ids(index, *urls):
    photos = index.photos(index.rows(urls))
    return [None if photo is None else int(photo.image_id, 16) for photo in photos]


@pytest.fixture
def made():
    """How many index files there are in the cache."""

    def count():
        folder = os.path.join(os.environ["PICO_BANANA_CACHE"], "open_images")
        return sum(name.endswith(".arrow") for name in os.listdir(folder))

    return count


TITLES = ["a, b", 'the "best"', "two\nlines", "é 🙂 ↔", "  spaces ", "NULL", "nan", "'", "\\N", ","]


@pytest.mark.parametrize("title", TITLES)
def test_texts_come_through_to_the_letter(tmp_path, title):
    rows = [row(1, PHOTO, Title=title, Author=title), row(2, "https://h/2_o.jpg", Title="next")]
    index = indexed(tmp_path / "list.csv", rows)
    first, second = index.photos(index.rows([PHOTO, "https://h/2_o.jpg"]))
    assert (first.title, first.author) == (title, title)
    assert second.title == "next"
    assert first.attribution() == {
        "author": title,
        "author_url": "https://www.flickr.com/people/somebody/",
        "title": title,
        "license": "https://creativecommons.org/licenses/by/2.0/",
        "landing_url": "https://www.flickr.com/photos/somebody/1",
    }


def test_empty_values_are_unknown(tmp_path):
    names = ("Author", "AuthorProfileURL", "Title", "License", "OriginalLandingURL")
    empty = dict.fromkeys([*names, "OriginalSize", "OriginalMD5", "Rotation"], "")
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO, **empty)])
    (photo,) = index.photos([0])
    assert set(photo.attribution().values()) == {None}
    assert (photo.original_md5, photo.original_size) == (None, None)


def test_photos_are_plain_values(tmp_path):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO)])
    (photo,) = index.photos([0])
    assert photo.original_size == 1000
    assert photo.original_md5 == "1B2M2Y8AsgTpgAmY7PhCfg=="
    assert pickle.loads(pickle.dumps(photo)) == photo  # noqa: S301
    assert len(index) == 1


@pytest.mark.parametrize(
    "url",
    [
        PHOTO,
        PHOTO.replace("https", "http"),
        PHOTO.replace("farm5", "c8"),
        PHOTO + "?zz=1",
        "https://live.staticflickr.com/4300123456_0a1b2c3d4e_o.jpg",
    ],
)
def test_a_photo_is_found_by_its_name(tmp_path, url):
    index = indexed(tmp_path / "list.csv", [row(7, PHOTO), row(8, "https://h/8_o.jpg")])
    assert image_ids(index, url) == [7]


def test_the_exact_address_comes_first(tmp_path):
    urls = [f"https://{host}.staticflickr.com/1/5_a_o.jpg" for host in ("farm1", "c1", "c2")]
    index = indexed(tmp_path / "list.csv", [row(n, url) for n, url in enumerate(urls)])
    assert image_ids(index, *urls) == [0, 1, 2]
    assert image_ids(index, urls[1].replace("https", "http")) == [0]  # the list's first


def test_of_a_doubled_address_the_first_counts(tmp_path):
    index = indexed(tmp_path / "list.csv", [row(3, PHOTO), row(1, PHOTO), row(2, PHOTO)])
    assert image_ids(index, PHOTO) == [3]
    assert len(index) == 3


@pytest.mark.parametrize(
    "url",
    [
        "https://farm5.staticflickr.com/4012/4300123456_ffffffffff_o.jpg",  # the number only
        "https://farm5.staticflickr.com/4012/430012345_0a1b2c3d4e_o.jpg",
        "https://farm5.staticflickr.com/4012/4300123456",
        "https://farm5.staticflickr.com/",
        "",
        "https://farm5.staticflickr.com/named.jpg",
        "99999999999999999999_o.jpg",
    ],
)
def test_an_unlisted_photo(tmp_path, url):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO), row(2, ""), row(3, "https://h/")])
    assert index.rows([url]) == [None]
    assert index.photos([None]) == [None]


def test_no_urls(tmp_path):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO)])
    assert index.rows([]) == index.photos([]) == []


ODD = [
    "https://h/named_o.jpg",
    "https://h/0.jpg",
    "https://h/12",
    "https://h/12/named.jpg",
    "https://h/00012_o.jpg",
    "https://h/123456789012345678_o.jpg",
    "https://h/1234567890123456789_o.jpg",
    "https://h/12345678901234567890123_o.jpg",
    "https://h/12٣_o.jpg",
    "https://h/é.jpg",
    "https://h/12a?x=/3.jpg",
    "https://h/12b#/3.jpg",
    "https://h/12?/4.jpg",
    "77_o.jpg",
    "https://h/-5.jpg",
]


def test_names_without_a_number_and_with_odd_ones(tmp_path):
    index = indexed(tmp_path / "list.csv", [row(n, url) for n, url in enumerate(ODD)])
    assert image_ids(index, *ODD) == [*range(len(ODD))]


def test_names_that_end_alike(tmp_path):
    """They share a checksum, so each must be told from all others, however many are asked for."""
    urls = [f"https://h{n % 3}/{n}_0123456789abcdef_o.jpg" for n in range(200)]
    index = indexed(tmp_path / "list.csv", [row(n, url) for n, url in enumerate(urls)])
    elsewhere = [url.replace("//h", "//elsewhere") for url in urls]
    unlisted = [f"https://h/{n}_0123456789abcdef_o.jpg" for n in range(200, 230)]
    for asked in (urls, elsewhere):
        assert image_ids(index, *asked, *unlisted) == [*range(200), *[None] * 30]
        assert [image_ids(index, url) for url in asked[::50]] == [[n] for n in range(0, 200, 50)]


def test_a_search_tells_exact_addresses_from_other_spellings(tmp_path):
    urls = [f"https://h/{n}_0a1b2c3d4e_o.jpg" for n in range(9)]
    index = indexed(tmp_path / "list.csv", [row(n, url) for n, url in enumerate(urls)])
    asked = [urls[4], urls[5].replace("//h", "//other"), "https://h/x.jpg", urls[0]]
    for times in (1, 10):  # fewer addresses than photos, and more
        rows, is_exact = index.matches(asked * times)
        assert rows.tolist() == [4, 5, -1, 0] * times
        assert is_exact.tolist() == [True, False, False, True] * times


def test_licences_come_through_in_any_order(tmp_path):
    licences = [*"aabbb", "", "", *"abab", ""]
    rows = [row(n, f"https://h/{n}.jpg", License=text) for n, text in enumerate(licences)]
    index = indexed(tmp_path / "list.csv", rows)
    for step in (1, -1, 3):
        places = [*range(len(licences))][::step]
        found = [photo.license for photo in index.photos(places)]
        assert found == [licences[place] or None for place in places]


@pytest.mark.long
@given(st.lists(st.text("0129٣_/?#.aé\n", min_size=1, max_size=12), min_size=1, unique=True))
def test_every_listed_address_is_found(tmp_path_factory, urls):
    path = tmp_path_factory.mktemp("list") / "list.csv"
    index = indexed(path, [row(n, url) for n, url in enumerate(urls)])
    assert image_ids(index, *urls) == [*range(len(urls))]


def test_many_photos_in_any_order(tmp_path):
    rng = random.Random(5)
    numbers = rng.sample(range(10**9, 10**10), 5_000)
    urls = [f"https://farm{n % 9}.staticflickr.com/{n % 99}/{n}_{n % 7:x}_o.jpg" for n in numbers]
    index = indexed(tmp_path / "list.csv", [row(n, url) for n, url in enumerate(urls)])
    wanted = rng.sample(range(5_000), 1_000)
    assert image_ids(index, *(urls[n] for n in wanted)) == wanted
    assert image_ids(index, "https://h/none.jpg", urls[5], "x") == [None, 5, None]


# The list


@pytest.mark.parametrize("name", ["ImageID", "OriginalURL", "Author", "License", "Rotation"])
def test_a_missing_column_is_named(tmp_path, name):
    columns = [column for column in COLUMNS if column != name]
    path = write(tmp_path / "list.csv", [row(1, PHOTO)], columns)
    with pytest.raises(ReleaseError, match=f"but.*{name}") as caught:
        open_index(path, {})
    assert caught.value.url == path


def test_columns_in_any_order_and_unknown_ones(tmp_path):
    path = write(tmp_path / "list.csv", [row(1, PHOTO, Extra="x")], [*COLUMNS[::-1], "Extra"])
    assert image_ids(open_index(path, {}), PHOTO) == [1]


LISTS = {
    "nothing": b"",
    "header only": (",".join(COLUMNS) + "\n").encode(),
    "HTML": b"<html>\n<body>gone</body>\n</html>",
    "too few values": (",".join(COLUMNS) + "\n1,train\n").encode(),
    "not UTF-8": (",".join(COLUMNS) + f"\n1,train,{PHOTO},,,,caf\xe9,,5,,,\n").encode("latin-1"),
    "size": (",".join(COLUMNS) + f"\n1,train,{PHOTO},,,,,,large,,,\n").encode(),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_what_is_no_list(tmp_path, content, made):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"list\.csv must be Open Images' image list"):
        open_index(str(path), {})
    assert made() == 0


@pytest.mark.parametrize(
    "bad", ["1,train", f"1,train,{PHOTO},,,,,,large,,,", "1,train,caf\xe9" + 9 * ","]
)
def test_the_row_that_is_wrong_is_named(tmp_path, bad):
    path = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(5)])
    with open(path, "a", encoding="latin-1") as file:
        file.write(f"{bad}\n")
    with pytest.raises(ReleaseError, match=f"{re.escape(path)}.*Row #7"):  # the header is the first
        open_index(path, {})


def test_a_row_is_counted_from_the_top_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr("pico_banana.open_images.make_index._SECTION_BYTES", 2000)
    path = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(500)])
    with open(path, "a", encoding="utf-8") as file:
        file.write("1,train\n")
    with pytest.raises(ReleaseError, match=r"Row #502: Expected 12 columns, got 2"):
        open_index(path, {})


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pico_banana.open_images.make_index._SECTION_BYTES", 2000)
    monkeypatch.setattr("pico_banana.open_images.make_index._MOST_ROW_BYTES", 20_000)
    path = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(500)])
    text = Path(path).read_text(encoding="utf-8")
    start = text.index("Photo 200,")
    Path(path).write_text(f'{text[:start]}"{text[start:]}', encoding="utf-8")
    line = text.rindex("\n", 0, start) + 1
    with pytest.raises(ReleaseError, match=f"the row at byte {line:,} .* is a quote not closed"):
        open_index(path, {})


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ReleaseError, match=r"absent\.csv"):
        open_index(str(tmp_path / "absent.csv"), {})


def test_none_is_no_index():
    assert open_index("none", {}) is None


def test_the_index_is_made_once_and_again_where_the_list_changed(tmp_path, made):
    path = tmp_path / "list.csv"
    first = indexed(path, [row(1, PHOTO)])
    assert open_index(str(path), {}).path == first.path
    assert made() == 1
    second = indexed(path, [row(2, PHOTO), row(3, "https://h/3.jpg")])
    assert image_ids(second, PHOTO) == [2]
    assert image_ids(first, PHOTO) == [1]  # who has it open reads on
    assert made() == 2


def test_a_list_that_did_not_change_is_not_indexed_again(tmp_path, made):
    path = write(tmp_path / "list.csv", [row(1, PHOTO)])
    told = []
    first = Path(open_index(path, {}, lambda *_: told.append("made")).path).stat()
    assert told
    told.clear()
    again = Path(open_index(path, {}, lambda *_: told.append("made")).path).stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert not told
    assert made() == 1


def test_a_list_of_the_same_size_and_another_time_is_another_one(tmp_path, made):
    path = write(tmp_path / "list.csv", [row(1, PHOTO)])
    assert image_ids(open_index(path, {}), PHOTO) == [1]
    before = os.stat(path)
    write(path, [row(2, PHOTO)])
    os.utime(path, (before.st_atime + 10, before.st_mtime + 10))
    assert os.stat(path).st_size == before.st_size
    assert image_ids(open_index(path, {}), PHOTO) == [2]
    assert made() == 2


def test_processes_that_start_at_once_make_one_index(tmp_path, made):
    path = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(50_000)])
    words = ("index", "--open-images-metadata", path)
    with ThreadPoolExecutor(3) as pool:
        ended = [*pool.map(lambda _: pico_banana(*words), range(3))]
    assert [one.code for one in ended] == [0] * 3
    assert len({one.out for one in ended}) == 1
    # Only who makes it has something to read.
    assert sum("indexing Open Images' image list" in one.err for one in ended) == 1
    assert made() == 1


@pytest.mark.parametrize("is_packed", [False, True])
def test_making_an_index_of_a_local_list_shows_how_far_it_is(tmp_path, monkeypatch, is_packed):
    monkeypatch.setattr("pico_banana.open_images.make_index._SECTION_BYTES", 10_000)
    path = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(500)])
    if is_packed:
        Path(path + ".gz").write_bytes(gzip.compress(Path(path).read_bytes()))
        path += ".gz"
    told = []
    open_index(path, {}, lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {os.path.getsize(path)}
    assert len(told) > 5
    assert all(one <= after for (one, _), (after, _) in itertools.pairwise(told))
    assert told[-1][0] == os.path.getsize(path)


def test_an_index_is_a_place_too(tmp_path, made):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO)])
    copy = tmp_path / "own.index"
    copy.write_bytes(Path(index.path).read_bytes())
    again = open_index(str(copy), {})
    assert image_ids(again, PHOTO) == [1]
    assert again.path == str(copy)
    assert made() == 1


@pytest.mark.parametrize("size", [6, 106, -1])
def test_a_broken_index_is_refused(tmp_path, size):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO)])
    path = tmp_path / "own.index"
    path.write_bytes((Path(index.path).read_bytes())[:size])
    with pytest.raises(ReleaseError, match=r"own\.index is no index"):
        open_index(str(path), {})


def test_an_index_of_another_version_is_refused(tmp_path):
    path = tmp_path / "own.index"
    table = pa.table({"url": [PHOTO]}).replace_schema_metadata({"pico_banana_index": "1"})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ReleaseError, match=r"own\.index is no index of this version; make it anew"):
        open_index(str(path), {})


@pytest.mark.parametrize("section_bytes", [1, 300, 1000])
def test_a_list_of_many_sections(tmp_path, monkeypatch, section_bytes):
    """Rows are found in whichever section they lie, and no cut goes through a quoted line's end."""
    monkeypatch.setattr("pico_banana.open_images.make_index._SECTION_BYTES", section_bytes)
    title = 'one\ntwo, "three"\n\nfour'
    rows = [row(n, f"https://h{n % 3}/{n % 20}_o.jpg", Title=title) for n in range(60)]
    index = indexed(tmp_path / "list.csv", rows)
    assert len(index) == 60
    urls = [f"https://h{n % 3}/{n % 20}_o.jpg" for n in range(60)]
    assert image_ids(index, *urls) == list(range(60))
    # By the name alone the first one counts.
    assert image_ids(index, "https://elsewhere/7_o.jpg") == [7]
    assert {photo.title for photo in index.photos(range(60))} == {title}


ODD_URLS = st.lists(
    st.one_of(
        st.text("/?#0123456789_.ajö", max_size=30),
        st.integers(0, 10**19).map(lambda number: f"https://h/{number}_a_o.jpg"),
        st.none(),
    ),
    max_size=20,
)


@given(ODD_URLS, st.integers(0, 5))
def test_keys_of_a_column_are_those_of_its_urls(urls, offset):
    column = pa.array(urls, pa.string())[offset:]
    assert keys_of(column).tolist() == [_key(url or "") for url in urls[offset:]]


def test_opening_an_index_loads_nothing(tmp_path):
    path = indexed(
        tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(20_000)]
    ).path
    Index(path)
    before = pa.total_allocated_bytes()
    index = Index(path)
    assert pa.total_allocated_bytes() - before < 10_000
    assert image_ids(index, "https://h/19999.jpg") == [19_999]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_index(tmp_path, monkeypatch, threads):
    monkeypatch.setattr("pico_banana.open_images.make_index._SECTION_BYTES", 3_000)
    rows = [row(n, f"https://h/{n % 50}_{n}_0a1b2c3d4e_o.jpg") for n in range(300)]
    monkeypatch.setattr("pico_banana.open_images.make_index._THREADS", 3)
    usual = indexed(tmp_path / "list.csv", rows)
    monkeypatch.setattr("pico_banana.open_images.make_index._THREADS", threads)
    made = indexed(tmp_path / "other.csv", rows)
    assert Path(made.path).read_bytes() == Path(usual.path).read_bytes()


def test_the_same_list_makes_the_same_index(tmp_path):
    rows = [row(n, f"https://h/{n % 5}_{n}.jpg") for n in range(50)]
    one, other = indexed(tmp_path / "a.csv", rows), indexed(tmp_path / "b.csv", rows)
    assert one.path != other.path
    assert Path(one.path).read_bytes() == Path(other.path).read_bytes()


def test_a_compressed_list(tmp_path):
    plain = write(tmp_path / "list.csv", [row(1, PHOTO)])
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert image_ids(open_index(plain + ".gz", {}), PHOTO) == [1]
    with FakeCDN(("/lists", tmp_path)) as cdn:
        assert image_ids(open_index(f"{cdn.url}/lists/list.csv.gz", {}), PHOTO) == [1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda packed: packed[:-2000], "it cannot be unpacked: Truncated"),
        (lambda packed: packed[:-3], "it cannot be unpacked: Truncated"),
        (gzip.decompress, "it cannot be unpacked: .*incorrect header"),
        (lambda packed: packed[:3000] + bytes(99) + packed[3099:], "it cannot be unpacked: "),
        (lambda _: b"", "it is empty"),
        (lambda _: gzip.compress(b""), "it is empty"),
    ],
    ids=["cut", "cut in its end", "not packed", "corrupt", "no byte", "nothing in it"],
)
def test_a_compressed_list_that_is_broken(tmp_path, made, change, said):
    plain = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(2_000)])
    path = tmp_path / "list.csv.gz"
    path.write_bytes(change(gzip.compress(Path(plain).read_bytes())))
    with pytest.raises(ReleaseError, match=f"{re.escape(str(path))} must be .*but: {said}"):
        open_index(str(path), {})
    assert made() == 0


def test_a_compressed_list_of_several_members_makes_the_same_index(tmp_path):
    plain = write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg") for n in range(2_000)])
    text = Path(plain).read_bytes()
    packed = gzip.compress(text[:100_000]) + gzip.compress(text[100_000:])
    (tmp_path / "list.csv.gz").write_bytes(packed)
    one, other = open_index(plain, {}), open_index(f"{plain}.gz", {})
    assert Path(one.path).read_bytes() == Path(other.path).read_bytes()


def test_a_list_behind_http_is_fetched_once(tmp_path, made):
    write(tmp_path / "list.csv", [row(n, f"https://h/{n}.jpg", Title="t" * 99) for n in range(999)])
    told = []
    with FakeCDN(("/lists", tmp_path)) as cdn:
        url = f"{cdn.url}/lists/list.csv"
        index = open_index(url, {}, lambda done, total: told.append((done, total)))
        size = os.path.getsize(tmp_path / "list.csv")
        assert told[-1][0] == size
        told.clear()
        assert open_index(url, {}, lambda *_: told.append("again")).path == index.path
        assert told == []
        assert made() == 1
    folder = os.path.dirname(index.path)
    assert not [name for name in os.listdir(folder) if name.endswith((".csv", ".gz"))]
    assert image_ids(index, "https://h/500.jpg") == [500]


def test_what_killed_processes_left_of_an_index_is_swept(tmp_path):
    path = write(tmp_path / "list.csv", [row(1, PHOTO)])
    made = Path(open_index(path, {}).path)
    made.unlink()
    left = [made.with_name(f".{made.name}.{16 * digit}{end}") for digit in "0f" for end in ENDS]
    others = [".other.arrow.0123456789abcdef", f".{made.name}.notes", f"{made.name}.csv"]
    for file in [*left, *map(made.with_name, others)]:
        file.touch()
    assert open_index(path, {}).path == str(made)
    assert not [file for file in left if file.exists()]
    assert all(made.with_name(name).exists() for name in others)


ENDS = ("", ".csv", ".csv.gz")


def test_an_index_behind_http_is_kept(tmp_path):
    index = indexed(tmp_path / "list.csv", [row(1, PHOTO)])
    (tmp_path / "own.arrow").write_bytes(Path(index.path).read_bytes())
    with FakeCDN(("/lists", tmp_path)) as cdn:
        assert image_ids(open_index(f"{cdn.url}/lists/own.arrow", {}), PHOTO) == [1]


ORIGINAL = b"the original's bytes"
MD5 = base64.b64encode(hashlib.md5(ORIGINAL, usedforsecurity=False).digest()).decode()
MARKS = [
    (len(ORIGINAL), MD5, None),
    (None, None, None),
    (None, MD5, None),
    (len(ORIGINAL), None, None),
    (0, MD5, None),
    (len(ORIGINAL) + 1, MD5, "original_size_differs"),
    (len(ORIGINAL) + 1, None, "original_size_differs"),
    (1, "1B2M2Y8AsgTpgAmY7PhCfg==", "original_size_differs"),
    (None, "1B2M2Y8AsgTpgAmY7PhCfg==", "original_md5_differs"),
    (len(ORIGINAL), "1B2M2Y8AsgTpgAmY7PhCfg==", "original_md5_differs"),
    *[(None, odd, None) for odd in ("", "1B2M2Y8AsgTpgAmY7PhCfg", "AAAA", "é", "=", "x y", "\n")],
]


@pytest.mark.parametrize(("size", "md5", "mark"), MARKS)
def test_an_original_is_held_against_the_list(size, md5, mark):
    unknown = dict.fromkeys(Photo._fields)
    photo = Photo(**{**unknown, "original_size": size, "original_md5": md5})
    assert photo.mark_of_original(ORIGINAL) == mark


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0005c7c3ff3a4b21", True),
        ("0005C7C3FF3A4B21", False),
        ("0005c7c3ff3a4b2", False),
        ("0005c7c3ff3a4b21\n", False),
        ("../c7c3ff3a4b21x", False),
        ("", False),
    ],
)
def test_is_image_id(text, is_one):
    assert is_image_id(text) is is_one
