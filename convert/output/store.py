"""Write and read an output, in a folder or on any fsspec file system, one whole file at a time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pico_banana.errors import OutputError, WriteError, bare_text, holds_password
from pico_banana.urls import path_of

from ..signals import held

__all__ = ["HashingFile", "Store", "dump_json", "sha256_of"]

_BLOCK_BYTES = 16 * 1024 * 1024
"""Of one request to an object store: short enough to be waited for where a signal ends the run."""

_READ_BYTES = 8 * 1024 * 1024
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{16}\.tmp")


def dump_json(value: dict[str, Any]) -> bytes:
    """Return the one spelling of a value that all ledgers use: sorted keys, UTF-8, a key a line.

    A list of objects has an object a line, so that line tools can search and compare ledgers.
    """

    def dump(part: Any) -> str:
        return json.dumps(part, sort_keys=True, ensure_ascii=False)

    def dump_top(part: Any) -> str:
        if isinstance(part, list) and part and isinstance(part[0], dict):
            return "[\n  " + ",\n  ".join(map(dump, part)) + "\n ]"
        return dump(part)

    lines = [f" {dump(key)}: {dump_top(value[key])}" for key in sorted(value)]
    # A lone surrogate, which a path may hold, is escaped as JSON escapes it.
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")


def sha256_of(file: BinaryIO) -> str:
    """Return the hex digest of a file's bytes, from where it stands to its end."""
    digest = hashlib.sha256()
    while block := file.read(_READ_BYTES):
        digest.update(block)
    return digest.hexdigest()


class HashingFile(io.RawIOBase):
    """A binary file for writing that keeps the size and the sha256 of what passes.

    Closing it leaves the file open: the store closes that, and gives it its name.

    Args:
        file: where the bytes go.
        failed: makes what is raised of what the file raises.
        take: told how many bytes come, before they are written.
    """

    def __init__(
        self,
        file: BinaryIO,
        failed: Callable[[Exception], Exception] = lambda error: error,
        take: Callable[[int], None] | None = None,
    ) -> None:
        self._file: BinaryIO | None = file
        self._failed, self._take = failed, take
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        """Write all of the data."""
        size = memoryview(data).nbytes
        if self._file is not None:
            if self._take is not None:
                self._take(size)
            try:
                self._file.write(data)
            except Exception as error:  # each file system has errors of its own
                raise self._failed(error) from error
            self._digest.update(data)
            self.size_bytes += size
        return size

    def abandon(self) -> None:
        """Drop what is written from now on: the file will not be kept."""
        self._file = None

    def tell(self) -> int:
        """Return the offset in bytes."""
        return self.size_bytes

    def writable(self) -> bool:
        """Whether the file can be written: yes."""
        return True

    @property
    def sha256(self) -> str:
        """The hex digest of all bytes so far."""
        return self._digest.hexdigest()


class _HeldFile:
    """A remote file each of whose writes a signal waits for.

    An upload that was broken off while it began has no name yet by which it could be taken back.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        with held():
            return cast("int", self._file.write(data))


class Store:
    """An output: files by their names below one root.

    A file appears under its name whole or not at all: in a folder it is written under a unique
    temporary name and renamed, on an object store it is committed by the close, and discarded
    where writing failed. Pickles; each process opens its own connection.
    """

    def __init__(self, root: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """Open an output at a path or an fsspec URL; `OutputError` where that is no place."""
        if not root:
            raise OutputError("the output must be a path or an fsspec URL, but is empty", root)
        path = path_of(root, is_new=True)
        if path is None and holds_password(root):
            raise OutputError(
                "the output must hold no user name and no password, but does; give them as "
                "storage_options in a settings file",
                "…",
            )
        self.root = root if path is None else path
        self._storage_options = storage_options or {}
        self.is_local = path is not None
        if path is None:
            self._fs, self._base = self._opened()
        else:
            if re.match(r"[a-z0-9]+:/", path) and not os.path.isdir(path.partition("/")[0]):
                raise OutputError(
                    f"the output must be a path or an fsspec URL, but is {path}", path
                )
            self._fs, self._base = LocalFileSystem(), os.path.abspath(path).rstrip("/")
        self.is_hub = not self.is_local and root.startswith("hf://")

    def _opened(self) -> tuple[Any, str]:
        """The file system of a URL, and its path there."""
        root, kind = self.root, self.root.partition("://")[0]
        try:
            file_system, path = fsspec.core.url_to_fs(root, **self._storage_options)
        except Exception as error:  # noqa: BLE001  (each file system has errors of its own)
            said = self._said(error)
            raise OutputError(f"the output {root} cannot be opened: {said}", root) from None
        if kind in ("http", "https", "memory"):
            why = "other processes cannot see it" if kind == "memory" else "http is read only"
            raise OutputError(f"the output {root} cannot be written: {why}", root)
        return file_system, str(path).rstrip("/")

    def _said(self, error: Exception) -> str:
        """What an error says, without what the user's storage options hold."""
        is_plain = isinstance(error, OSError) and error.strerror
        said = str(error) if is_plain else f"{type(error).__name__}: {error}".rstrip(": ")
        return bare_text(said, self._storage_options)

    def path(self, name: str) -> str:
        """Return a file's path as its file system takes it."""
        return f"{self._base}/{name}"

    def check_writable(self) -> None:
        """Refuse a repository of the Hub, where each file would be a commit."""
        if self.is_hub:
            raise OutputError(
                f"the output must be a folder or an object store, but is {self.root}; `convert "
                "--publish` and `publish` write to the Hub",
                self.root,
            )

    def make_folder(self, name: str) -> None:
        """Make a folder, where this file system has any; `OutputError` where that fails.

        Only where a conversion begins. A write makes none: an output that is deleted while it is
        written must be noticed, not begun again with a hole.
        """
        if self.is_local:
            try:
                os.makedirs(self.path(name), exist_ok=True)
            except OSError as error:
                raise OutputError(f"{self.path(name)} cannot be made: {error}", self.root) from None

    @contextlib.contextmanager
    def writing(
        self, name: str, take: Callable[[int], None] | None = None
    ) -> Iterator[HashingFile]:
        """Give a file to write; it takes its name when all went well, and vanishes otherwise.

        Args:
            name: of the file.
            take: told how many bytes come, before they are written.

        Raises:
            WriteError: the file cannot be written, with what the file system said.
        """
        opened = self._writing_local(name) if self.is_local else self._writing_remote(name)
        with opened as file:
            yield HashingFile(file, lambda error: self._write_error(name, error), take)

    def _write_error(self, name: str, error: Exception) -> WriteError:
        path = self.path(name)
        if self.is_local and not os.path.isdir(os.path.dirname(path)):
            message = (
                f"{path} cannot be written: its folder is gone, deleted or unmounted. Bring it "
                "back and run the same command again to continue; without it a run begins anew"
            )
        else:
            message = (
                f"{path} cannot be written: {self._said(error)}. What is finished stays finished; "
                "mend it and run the same command again to continue"
            )
        return WriteError(message, path)

    @contextlib.contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Say in words what a file system raises while it writes."""
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise self._write_error(name, error) from error

    @contextlib.contextmanager
    def _writing_local(self, name: str) -> Iterator[BinaryIO]:
        path = self.path(name)
        folder, base = os.path.split(path)
        temporary = os.path.join(folder, f".{base}.{secrets.token_hex(8)}.tmp")
        with contextlib.ExitStack() as left:
            left.callback(_unlink, temporary)
            with self._failing(name):
                file = open(temporary, "xb")  # noqa: SIM115
            left.callback(_close, file)
            yield file
            with self._failing(name):
                file.close()
                os.replace(temporary, path)

    @contextlib.contextmanager
    def _writing_remote(self, name: str) -> Iterator[BinaryIO]:
        self.check_writable()
        with self._failing(name):
            file = self._fs.open(self.path(name), "wb", autocommit=False, block_size=_BLOCK_BYTES)
        is_committed = False
        try:
            yield cast("BinaryIO", _HeldFile(file))
            with held(), self._failing(name):
                file.close()
                file.commit()
                is_committed = True
        finally:
            if not is_committed:
                # Closing would commit what is there so far. What went wrong before is what matters.
                with contextlib.suppress(Exception):
                    file.discard()
                file.closed = True

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        with self.writing(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Say in words what an object store's client raises: each has errors of its own."""
        if not self.is_hub:  # nobody writes there by files, and each call counts
            self._fs.invalidate_cache()  # workers write here too; s3fs remembers what was not there
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:
            raise OutputError(
                f"{self.path(name)} cannot be read: {self._said(error)}; check the output, the "
                "network and credentials",
                self.path(name),
            ) from error

    def read(self, name: str) -> bytes:
        """Return a whole file; `FileNotFoundError` where it is not there."""
        with self._asking(name):
            return cast("bytes", self._fs.cat_file(self.path(name)))

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, seekable; `OutputError` where it cannot be read."""
        with self._asking(name):
            return cast("BinaryIO", self._fs.open(self.path(name), "rb"))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to read piece by piece; `FileNotFoundError` where it is not there.

        Raises:
            OutputError: it cannot be opened, or something failed while it was read.
        """
        with self._asking(name), self._fs.open(self.path(name), "rb") as file:
            yield file

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value, None where it is not there; `OutputError` for no JSON."""
        try:
            data = self.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise OutputError(
                f"{self.path(name)} is no JSON ({error}); delete it to have a shard made again, or "
                "use --overwrite where it is the plan",
                self.path(name),
            ) from None

    def size_bytes(self, name: str) -> int | None:
        """Return a file's size, None where it is not there."""
        try:
            with self._asking(name):
                return int(self._fs.info(self.path(name))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def known_sha256(self, name: str) -> str | None:
        """Return a file's sha256 where its store keeps it: the Hub does, of large files."""
        if not self.is_hub:
            return None
        with self._asking(name):
            large = self._fs.info(self.path(name)).get("lfs")
        return None if large is None else str(large.sha256)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted; hidden ones too."""
        try:
            with self._asking(folder):
                found = self._fs.ls(self.path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(
            entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file"
        )

    def delete(self, name: str) -> None:
        """Delete a file, if it is there; `WriteError` where that fails."""
        try:
            self._fs.rm_file(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except Exception as error:  # each file system has errors of its own
            raise WriteError(
                f"{self.path(name)} cannot be deleted: {self._said(error)}; mend it and run the "
                "same command again",
                self.path(name),
            ) from error

    def sweep(self, folder: str) -> None:
        """Delete what killed writes have left in a folder; what cannot be deleted does no harm."""
        with contextlib.suppress(OutputError, WriteError):
            for name in self.names(folder):
                if _TEMPORARY.fullmatch(name):
                    self.delete(f"{folder}/{name}".lstrip("/"))


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        file.close()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
