"""Images from folders and fsspec places, through `find_file`: what is read, and what is not."""

import asyncio
import os
import socket

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from pico_banana.fetching.files import find_file
from pico_banana.fetching.sources import Place, Sources
from pico_banana.missing import AskError, MissingReason
from pico_banana.open_images.index import Photo
from pico_banana.release.records import Record
from pico_banana.settings import Settings, build_settings

DATA = b"picture" * 100
IMAGE_ID = "1a1b2c3d4e5f6071"
PHOTO = Photo(IMAGE_ID, None, None, None, None, None, None, None, None)


def read(place, most=10**6, **storage_options):
    return find_file(place, storage_options).read(most)


def reason(place, **storage_options):
    with pytest.raises(AskError) as caught:
        read(place, **storage_options)
    assert caught.value.detail
    return caught.value.reason.value


def write(path, data=DATA):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sources(**arguments):
    return Sources(build_settings(Settings, arguments))


def places(**arguments):
    """The places of an input image by the user's settings."""
    record = Record("x", "https://farm1.staticflickr.com/12/34_o.jpg", ("x",), ("images/0.png",))
    return sources(**arguments).input(record, PHOTO).places


def edit(base, path="images/a/0.png"):
    return sources(cdn=str(base)).edited(path).places[0]


# ---- folders -----------------------------------------------------------------------------------


def test_a_file_in_the_folder(tmp_path):
    write(tmp_path / "images/a/0.png")
    assert read(edit(tmp_path)) == DATA
    assert find_file(edit(tmp_path), {}).size_bytes == len(DATA)
    assert reason(edit(tmp_path, "images/a/1.png")) == "not_found"
    assert reason(edit(tmp_path, "images/a/0.png/0.png")) == "not_found"
    assert reason(edit(tmp_path, "images/a")) == "forbidden"
    assert reason(edit(tmp_path, f"images/{'a' * 300}.png")) == "not_found"


def test_a_place_that_names_no_folder_may_read_nothing(tmp_path):
    assert reason(Place("cdn", str(write(tmp_path / "0.png")))) == "forbidden"


def test_links_inside_are_followed_and_links_to_the_outside_are_not(tmp_path):
    base, outside = tmp_path / "base", tmp_path / "base-outside"
    write(base / "images/a/1.png")
    write(outside / "a/0.png")
    (base / "images/a/0.png").symlink_to("1.png")
    assert read(edit(base)) == DATA
    for target in (outside / "a/0.png", "../../../base-outside/a/0.png", outside / "nothing"):
        (base / "images/a/0.png").unlink()
        (base / "images/a/0.png").symlink_to(target)
        assert reason(edit(base)) == "forbidden"
    (base / "images/b").symlink_to(outside / "a")
    assert reason(edit(base, "images/b/0.png")) == "forbidden"
    (base / "images/loop.png").symlink_to("loop.png")
    assert reason(edit(base, "images/loop.png")) == "forbidden"


def test_the_folder_and_its_images_may_be_links(tmp_path):
    write(tmp_path / "disk/a/0.png")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/images").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    assert read(edit(tmp_path / "link")) == DATA
    write(tmp_path / "other.png")
    (tmp_path / "disk/a/1.png").symlink_to(tmp_path / "other.png")
    assert reason(edit(tmp_path / "link", "images/a/1.png")) == "forbidden"


def test_the_folders_of_open_images_may_be_links(tmp_path):
    root = tmp_path / "open_images"
    root.mkdir()
    name = f"{IMAGE_ID}.jpg"
    own, train, top = places(open_images=root, input_sources=["folder"])
    write(tmp_path / "disk" / name)
    (root / "train_1").symlink_to(tmp_path / "disk")
    assert read(own) == DATA
    # from one of them into another one
    (root / "train").mkdir()
    (root / "train" / name).symlink_to(tmp_path / "disk" / name)
    (root / name).symlink_to(root / "train_1" / name)
    assert read(train) == read(top) == DATA
    # other entries are no part of it
    write(tmp_path / "private" / name)
    (root / "validation").symlink_to(tmp_path / "private")
    for place in (train, top):
        os.unlink(place.address)
        os.symlink(root / "validation" / name, place.address)
        assert reason(place) == "forbidden"


@pytest.mark.parametrize("base", ["{host}/x", "x-{host}", "x"])
def test_a_mirror_that_is_a_folder(tmp_path, base):
    folder = tmp_path / "mirror" / base.replace("{host}", "farm1.staticflickr.com") / "12"
    mirrors = {"*.staticflickr.com": str(tmp_path / "mirror" / base)}
    (place,) = places(input_sources=["flickr"], mirrors=mirrors)
    write(folder / "34_o.jpg")
    assert read(place) == DATA
    os.rename(folder / "34_o.jpg", tmp_path / "34_o.jpg")
    os.symlink(tmp_path / "34_o.jpg", folder / "34_o.jpg")
    assert reason(place) == "forbidden"


def test_a_path_that_looks_like_an_address_is_a_path(tmp_path):
    mirrors = {"*.staticflickr.com": str(tmp_path / "mirror")}
    settings = build_settings(Settings, {"input_sources": ["flickr"], "mirrors": mirrors})
    write(tmp_path / "secret.jpg")
    (tmp_path / "mirror/memory:/x").mkdir(parents=True)
    (tmp_path / "mirror/memory:/x/1.jpg").symlink_to(tmp_path / "secret.jpg")
    url = "https://farm1.staticflickr.com/memory://x/1.jpg"
    record = Record("x", url, ("x",), ("images/0.png",))
    (place,) = Sources(settings).input(record, None).places
    assert reason(place) == "forbidden"


def test_a_bucket_that_is_a_folder(tmp_path):
    mirrors = {"open-images-dataset.s3.amazonaws.com": str(tmp_path)}
    (place,) = places(mirrors=mirrors)
    write(tmp_path / "train" / f"{IMAGE_ID}.jpg")
    assert read(place) == DATA


def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch):
    folder = tmp_path / "images/a"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "0.png")
    assert reason(edit(tmp_path)) == "forbidden"
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)  # a socket has a short path
        listening.bind("1.png")
    assert reason(edit(tmp_path, "images/a/1.png")) == "forbidden"
    for name in ("zero", "null"):
        assert reason(Place("cdn", f"/dev/{name}", ("/dev",))) == "forbidden"


def test_a_file_that_changes_between_the_look_and_the_reading(tmp_path):
    path = write(tmp_path / "images/a/0.png")
    file = find_file(edit(tmp_path), {})
    write(path, DATA * 5)
    assert file.read(10**6) == DATA * 5
    assert len(file.read(len(DATA) * 2)) == len(DATA) * 2
    path.unlink()
    write(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")
    with pytest.raises(AskError) as caught:
        file.read(10**6)
    assert caught.value.reason is MissingReason.FORBIDDEN
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(AskError):
        file.read(10**6)


# ---- fsspec ------------------------------------------------------------------------------------


class OddFileSystem(MemoryFileSystem):
    """A file system that fails, or says a wrong size, as its options tell it."""

    protocol = "odd"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("odd://", "memory://"))

    def __init__(self, error=None, size=..., **_):
        super().__init__()
        self.error, self.size = error, size

    def info(self, path, **given):
        if self.error is not None:
            raise self.error
        found = super().info(path, **given)
        return found if self.size is ... else {**found, "size": self.size}


class CredentialsNotFound(Exception):  # noqa: N818  (as object stores' clients have them)
    pass


class ReadTimeoutError(Exception):
    pass


@pytest.fixture
def odd():
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    memory = fsspec.filesystem("memory")
    memory.pipe("/odd/images/a/0.png", DATA)
    memory.pipe("/odd/images/empty.png", b"")
    yield "odd://odd"
    memory.rm("/odd", recursive=True)


ERRORS = [
    (FileNotFoundError("x"), "not_found"),
    (NotADirectoryError("x"), "not_found"),
    (PermissionError("x"), "forbidden"),
    (IsADirectoryError("x"), "forbidden"),
    (FSTimeoutError(), "timeout"),
    (asyncio.TimeoutError(), "timeout"),
    (TimeoutError(), "timeout"),
    (ReadTimeoutError("x"), "timeout"),
    (CredentialsNotFound("x"), "connection"),
    (ConnectionResetError("x"), "connection"),
    (OSError(5, "x"), "connection"),
    (ValueError("x"), "connection"),
    (KeyError("x"), "connection"),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=lambda one: type(one).__name__)
def test_every_failure_has_a_reason(odd, error, expected):
    assert reason(edit(odd), error=error) == expected


def test_a_file_system_that_is_not_there():
    assert reason(Place("cdn", "nosuch://x/y", ("nosuch://x",))) == "connection"


def test_details_show_no_secret(odd):
    error = CredentialsNotFound("GET https://me:p4ssw0rd@h/x?sig=p4ssw0rd: key p4ssw0rd is wrong")
    with pytest.raises(AskError) as caught:
        read(edit(odd), error=error, secret={"inner": "p4ssw0rd"})
    assert caught.value.detail == "CredentialsNotFound: GET https://h/x key … is wrong"


def test_a_file_behind_fsspec(odd):
    assert read(edit(odd)) == DATA
    assert find_file(edit(odd), {}).size_bytes == len(DATA)
    assert read(edit(odd, "images/empty.png")) == b""
    assert reason(edit(odd, "images/b.png")) == "not_found"
    assert reason(edit(odd, "images/a")) == "forbidden"


@pytest.mark.parametrize("size", [None, 1, len(DATA)])
def test_no_more_is_read_than_asked_for(odd, size):
    place = edit(odd)
    assert read(place, size=size) == DATA
    assert len(read(place, most=10, size=size)) == 10


def test_a_file_that_is_shorter_than_it_should_be(odd):
    assert reason(edit(odd), size=10**5) == "truncated"


def test_a_path_is_never_read_as_an_address(tmp_path):
    """Parts of a URL with "::" between them are file systems on each other to fsspec."""
    secret = write(tmp_path / "secret.png")
    memory = fsspec.filesystem("memory")
    for path in (f"images/x::{secret}", "images/x::file", "images/x::memory", "images/x::local"):
        assert reason(edit("memory://test-files", path)) == "not_found"
    memory.pipe("/test-files/images/x::file", DATA)
    assert read(edit("memory://test-files", "images/x::file")) == DATA
    memory.rm("/test-files", recursive=True)


@pytest.mark.parametrize("base", ["memory://{host}", "memory://test-{host}/x", "memory://test"])
def test_a_mirror_behind_fsspec(base):
    mirrors = {"*.staticflickr.com": base}
    (place,) = places(input_sources=["flickr"], mirrors=mirrors)
    memory = fsspec.filesystem("memory")
    path = f"/{base.removeprefix('memory://')}/12/34_o.jpg"
    memory.pipe(path.replace("{host}", "farm1.staticflickr.com"), DATA)
    assert read(place) == DATA
    memory.store.clear()


# ---- hosts in upper case -----------------------------------------------------------------------


def test_a_photo_address_in_upper_case_is_one_of_http():
    record = Record("x", "HTTPS://FARM1.staticflickr.com/12/34_o.jpg", ("x",), ("images/0.png",))
    (place,) = sources(input_sources=["flickr"]).input(record, PHOTO).places
    assert place.address.startswith("https://")
