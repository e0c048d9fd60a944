"""Ask one dataset repository of the Hugging Face Hub: what it holds, uploads, commits.

Each call is tried again where its failure may pass. No message holds the token.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, yet not in __all__
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from pico_banana import __version__
from pico_banana.errors import PicoBananaError, SettingError, UsageError, WorkError, bare_text

__all__ = ["Held", "Patience", "Repository", "repository_id"]

Operation = CommitOperationAdd | CommitOperationDelete
_Result = TypeVar("_Result")

_KIND = "dataset"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PASSING = {408, 409, 412, 425, 429}
_UNAUTHORIZED, _NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 401, 404, 429, 500
_REFUSALS = (402, 403, 413)
_CLIENTS = ("httpx", "requests", "httpcore", "urllib3")
_RESET = re.compile(r";\s*t=(\d+)")
_LONGEST_REST_S = 3600
_AGAIN = "; what is published stays, run the same command again to continue"


@dataclass(frozen=True)
class Held:
    """A file of the repository.

    Attributes:
        size_bytes: its size.
        sha256: its hash as hex where it is a large file, None where git itself holds it.
        blob_id: git's hash of what git holds.
    """

    size_bytes: int
    sha256: str | None
    blob_id: str

    def is_of(self, data: bytes) -> bool:
        """Return whether these are the file's bytes, of a file that may be large or not."""
        if self.sha256 is not None:
            return hashlib.sha256(data).hexdigest() == self.sha256
        blob = b"blob %d\0" % len(data) + data
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.blob_id


@dataclass(frozen=True)
class Patience:
    """How often a call is tried, and how long is waited between: doubled each time."""

    tries: int = 16
    first_s: float = 0.25
    longest_s: float = 120.0


def repository_id(name: str) -> str:
    """Return the id OWNER/NAME of a repository as users write it; `SettingError` for no such."""
    found = re.sub(r"^(hf://|https://huggingface\.co/)?(datasets/)?", "", name).rstrip("/")
    if not _ID.fullmatch(found):
        raise SettingError("REPO", name, "must be OWNER/NAME, like me/pico-banana-400k")
    return found


class Repository:
    """A dataset repository on the Hub, with the token of the environment or of a login.

    One thread uses it at a time; several may `read`.

    Args:
        repo_id: OWNER/NAME.
        say: told a line before a call is tried again.
        patience: how long failures are put up with.

    Attributes:
        id: OWNER/NAME.
        is_there: whether it exists.
        is_private: whether only those see it who may.
        files: what it holds, by path; see `look`.

    Raises:
        UsageError: there is no token, or the Hub does not accept it.
    """

    def __init__(
        self, repo_id: str, say: Callable[[str], None], patience: Patience | None = None
    ) -> None:
        self.id = repo_id
        self._say, self._patience = say, patience or Patience()
        self._token = huggingface_hub.get_token()
        if not self._token:
            raise UsageError(
                "there is no token for the Hub: set HF_TOKEN, or log in with `hf auth login`; it "
                "needs the right to write"
            )
        self._api = HfApi(
            token=self._token,
            library_name="pico-banana-400k",
            library_version=__version__,
        )
        self.is_there = self.is_private = False
        self.files: Mapping[str, Held] = {}
        self._head: str | None = None
        self._random = random.Random()  # noqa: S311  (spreads waits)
        self._ended = threading.Event()
        with self._usage():
            self.look()

    @property
    def url(self) -> str:
        """Where a person sees it."""
        return f"{self._api.endpoint}/datasets/{self.id}"

    def leave(self) -> None:
        """Wait no longer, from any thread: what is to be tried again fails at once."""
        self._ended.set()

    def look(self) -> None:
        """See anew what is there: `is_there`, `is_private` and `files`."""
        try:
            info = self._call("looked up", self._api.repo_info, self.id, repo_type=_KIND)
        except WorkError as error:
            if _status(error) != _NOT_FOUND:
                raise
            self.is_there, self.is_private, self.files, self._head = False, False, {}, None
            return
        self.is_there, self.is_private, self._head = True, bool(info.private), info.sha
        self.files = self._call("listed", self._list)

    def _list(self) -> dict[str, Held]:
        entries = self._api.list_repo_tree(
            self.id, recursive=True, revision=self._head, repo_type=_KIND
        )
        return {
            entry.path: Held(
                entry.size, None if entry.lfs is None else entry.lfs.sha256, entry.blob_id
            )
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def create(self) -> None:
        """Make it, private, where it is not there; `UsageError` where the token may not."""
        with self._usage():
            if not self.is_there:
                self._call(
                    "made",
                    self._api.create_repo,
                    self.id,
                    private=True,
                    repo_type=_KIND,
                    exist_ok=True,
                )
                self.look()
            # The Hub looks at rights here. Nothing is uploaded: such a small file is none of LFS.
            probe = CommitOperationAdd("README.md", b"# Pico-Banana-400K\n")
            self._call("written", self._preupload, probe)

    def make_public(self) -> None:
        """Let everybody see it."""
        self._call(
            "made public",
            self._api.update_repo_settings,
            self.id,
            private=False,
            repo_type=_KIND,
        )
        self.is_private = False

    def read(self, path: str) -> bytes:
        """Return a small file's bytes."""

        def ask() -> bytes:
            url = huggingface_hub.hf_hub_url(self.id, path, repo_type=_KIND, revision=self._head)
            answer = get_session().get(url, headers=build_hf_headers(token=self._token))
            hf_raise_for_status(answer)
            return bytes(answer.content)

        return self._call(f"asked for {path}", ask)

    def download(self, path: str, write: Callable[[bytes], object], block_bytes: int) -> None:
        """Hand over a large file's bytes, a block at a time; `WorkError` where that fails."""
        files = huggingface_hub.HfFileSystem(token=self._token, skip_instance_cache=True)
        place = f"datasets/{self.id}@{self._head}/{path}"
        with self._call(f"asked for {path}", files.open, place, "rb", cache_type="none") as file:
            while block := self._call(f"asked for {path}", _block, file, file.tell(), block_bytes):
                write(block)

    def upload(self, addition: CommitOperationAdd) -> bool:
        """Upload what a commit will add; return whether its local file is needed no more."""
        self._call(f"given {addition.path_in_repo}", self._preupload, addition)
        return bool(addition.path_or_fileobj == b"")

    def _preupload(self, addition: CommitOperationAdd) -> None:
        self._api.preupload_lfs_files(self.id, [addition], repo_type=_KIND)

    def commit(self, title: str, operations: Sequence[Operation], after: Mapping[str, Any]) -> None:
        """Commit, once: before a commit is tried again, it is looked whether it has landed.

        It names the commit that it follows, so it cannot land twice, nor over another's unseen.

        Args:
            title: of the commit.
            operations: what it adds and deletes.
            after: by path what will then be there: a sha256 as hex, bytes, or None for nothing.
        """

        def once() -> None:
            if self._head is None:
                self.look()
                if self._is_landed(after):
                    return
            head, self._head = self._head, None
            made = self._api.create_commit(
                self.id,
                operations,
                commit_message=title,
                parent_commit=head,
                repo_type=_KIND,
            )
            self._head = made.oid

        self._call("given a commit", once)
        self.look()

    def _is_landed(self, after: Mapping[str, Any]) -> bool:
        return all(
            (held is None)
            if wanted is None
            else held is not None
            and (held.is_of(wanted) if isinstance(wanted, bytes) else held.sha256 == wanted)
            for path, wanted in after.items()
            for held in [self.files.get(path)]
        )

    def _call(self, what: str, ask: Callable[..., _Result], *given: Any, **named: Any) -> _Result:
        """Ask, and ask again where the failure may pass; `WorkError` where it does not."""
        for tried in range(1, self._patience.tries + 1):
            try:
                return ask(*given, **named)
            except PicoBananaError:  # noqa: PERF203  (that is what trying again is)
                raise
            except Exception as error:  # the clients have errors of their own
                if not _may_pass(error):
                    raise self._failed(what, error) from error
                if tried == self._patience.tries or self._ended.is_set():
                    raise self._failed(what, error, tried) from error
                self._rest(what, error, tried)
        raise AssertionError

    def _rest(self, what: str, error: Exception, tried: int) -> None:
        wait_s = min(self._patience.longest_s, self._patience.first_s * 2 ** (tried - 1))
        wait_s = max(wait_s * self._random.uniform(0.5, 1), _asked_rest_s(error))
        self._say(
            f"{self.id} could not be {what} ({_short(self._said(error))}); again in {wait_s:.1f} s"
        )
        self._ended.wait(wait_s)

    def _failed(self, what: str, error: Exception, tried: int = 1) -> WorkError:
        status, said = _status(error), self._said(error)
        if status == _UNAUTHORIZED:
            return WorkError(
                f"the Hub does not accept the token: {self.id} could not be {what} ({said}); set "
                f"HF_TOKEN to a valid one, or log in with `hf auth login`{_AGAIN}"
            )
        if status in _REFUSALS:
            return WorkError(
                f"the Hub refused: {self.id} could not be {what} ({said}); the token needs the "
                f"right to write there, and its owner enough storage{_AGAIN}"
            )
        tries = f" after {tried} tries" if tried > 1 else ""
        return WorkError(f"{self.id} could not be {what}{tries} ({said}){_AGAIN}")

    def _said(self, error: Exception) -> str:
        told = getattr(error, "server_message", None)
        status = _status(error)
        text = f"status {status}: {told}" if told and status else str(error) or repr(error)
        cause = error.__cause__
        if isinstance(error, RuntimeError) and cause is not None:
            text = f"{text} {cause}"
        return " ".join(bare_text(text, [self._token]).split())

    @contextlib.contextmanager
    def _usage(self) -> Iterator[None]:
        """Before any work has begun, what fails is wrong use."""
        try:
            yield
        except WorkError as error:
            raise UsageError(str(error).split(_AGAIN)[0]) from error


def _block(file: Any, offset: int, size: int) -> bytes:
    """The next bytes of a file that is read again from where it was."""
    file.seek(offset)
    return bytes(file.read(size))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The status of the answer behind an error, None where there was no answer."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return int(status)
    return None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in _PASSING or status >= _SERVER_ERROR
    if isinstance(error, OfflineModeIsEnabled | FileNotFoundError):
        return False
    # Xet's client raises RuntimeError for whatever its network does; an answer that is no JSON was
    # cut, or is a gateway's.
    return any(
        isinstance(cause, OSError | RuntimeError | json.JSONDecodeError)
        or type(cause).__module__.startswith(_CLIENTS)
        for cause in _chain(error)
    )


def _asked_rest_s(error: Exception) -> float:
    """How long the Hub asks to be left alone: Retry-After, or the time of its RateLimit."""
    for cause in _chain(error):
        headers = getattr(getattr(cause, "response", None), "headers", {})
        text = str(headers.get("Retry-After", ""))
        found = (
            _RESET.search(str(headers.get("RateLimit", "")))
            if _status(error) == _TOO_MANY
            else None
        )
        if text.isdecimal() or found:
            return min(float(text if text.isdecimal() else found[1]), _LONGEST_REST_S)  # type: ignore[index]
    return 0.0


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:159]}…"  # noqa: PLR2004
