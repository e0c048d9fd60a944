"""Stand in for the Hugging Face Hub on loopback: repositories of type dataset, kept in memory.

Written from what huggingface_hub and datasets ask for; one branch, main, is all there is. A client
is a process of its own, started with `FakeHub.env`: the libraries read the address when imported.
"""

import asyncio
import base64
import concurrent.futures
import copy
import fnmatch
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from aiohttp import web
from typing_extensions import Self

TOKEN = "hf_test"  # noqa: S105  # the one that is let in
READ_TOKEN = "hf_read"  # noqa: S105  # that of another, who may read all and write nothing
_BODY_BYTES = 1 << 30  # the most that a request may bring
_LFS_BYTES = 10 * 1024**2  # a larger file is an LFS file, whatever is in it
_REPO = "/datasets/{repo:[^/]+/[^/]+}"
_LFS = _REPO + ".git/info/lfs/objects"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Commit:
    """A commit: what it changed, and every file there is after it."""

    oid: str  # 40 hex digits
    title: str
    added: tuple[str, ...]  # paths, in the order of the request
    deleted: tuple[str, ...]
    files: Mapping[str, bytes]


@dataclass
class Repo:
    """A repository and its commits, oldest first; the first is the Hub's own .gitattributes."""

    id: str
    private: bool
    gated: str | bool = False
    commits: list[Commit] = field(default_factory=list)

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files as they are now, by path."""
        return self.commits[-1].files if self.commits else {}

    def commit(self, title: str, changes: Mapping[str, bytes | None]) -> Commit:
        """Add a commit; None deletes a file."""
        after = sorted({**self.files, **changes}.items())
        made = Commit(
            _sha1(f"{self.id} {len(self.commits)}".encode()),
            title,
            tuple(path for path, body in changes.items() if body is not None),
            tuple(path for path, body in changes.items() if body is None),
            {path: body for path, body in after if body is not None},
        )
        self.commits.append(made)
        return made


@dataclass
class Request:
    """One request, as it came, and how it was answered."""

    method: str
    path: str  # percent-decoded, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]  # ignores case
    body: bytes
    status: int | None = None  # None: not answered (yet)


@dataclass
class _Fault:
    glob: str
    status: int | None
    left: float
    headers: Mapping[str, str]
    late: bool
    passing: int


class FakeHub:
    """A Hub on a free port of 127.0.0.1, running while its `with` block does.

    Globs are fnmatch's, over "METHOD /decoded/path"; `*` crosses slashes.
    """

    def __init__(self) -> None:
        self.url = ""  # "http://127.0.0.1:PORT", once started
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS: sha256 -> bytes, committed or not
        self.part_bytes = 16 * 1024**2  # larger LFS files come in parts of this size
        self.page_entries = 1000  # the most entries of a tree in one answer
        self._parts: dict[tuple[str, int], bytes] = {}
        self._log: list[Request] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Condition()
        self._loop: asyncio.AbstractEventLoop
        self._stop = asyncio.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        ready: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="fake-hub", daemon=True
        )
        self._thread.start()
        self.url = ready.result()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def env(self, home: Path, token: str = TOKEN) -> dict[str, str]:
        """The variables that point a client's process here; its caches lie in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
        }

    @property
    def log(self) -> list[Request]:
        """A copy of every request so far, in order of arrival."""
        return self.requests()

    def wait(self, count: int, timeout_s: float, glob: str = "*") -> bool:
        """Wait until there were so many matching requests; whether there were."""

        def is_reached() -> bool:
            return sum(_matches(one, glob) for one in self._log) >= count

        with self._lock:
            return self._lock.wait_for(is_reached, timeout_s)

    def requests(self, glob: str = "*") -> list[Request]:
        """The matching requests, in order of arrival."""
        with self._lock:
            return [copy.copy(one) for one in self._log if _matches(one, glob)]

    def fail(
        self,
        glob: str,
        status: int | None = 500,
        times: float = 1,
        headers: Mapping[str, str] | None = None,
        *,
        late: bool = False,
        after: int = 0,
    ) -> None:
        """Answer the next matching requests with this status; None cuts their connection.

        Of several faults the newest acts. `times=math.inf` lasts. A late fault acts after the
        request was carried out: only its answer is lost. `after` so many requests pass first.
        """
        with self._lock:
            self._faults.append(_Fault(glob, status, times, headers or {}, late, after))

    def clear(self) -> None:
        """Forget the faults that are still to come."""
        with self._lock:
            self._faults.clear()

    def _fault_of(self, request: Request) -> _Fault | None:
        """The fault that acts on a request; that it has acted is noted."""
        for one in reversed(self._faults):
            if one.left and _matches(request, one.glob):
                if one.passing:
                    one.passing -= 1
                    return None
                one.left -= 1
                return one
        return None

    async def _serve(self, ready: concurrent.futures.Future[str]) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            app = web.Application(middlewares=[self._answer], client_max_size=_BODY_BYTES)
            app.add_routes(self._routes())
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ready.set_result("http://{}:{}".format(*runner.addresses[0]))
        except BaseException as error:
            ready.set_exception(error)
            raise
        await self._stop.wait()
        await runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/validate-yaml", self._validate_yaml),
            web.post("/api/repos/create", self._create),
            web.get(f"/api{_REPO}", self._info),
            web.get(f"/api{_REPO}/revision/{{rev}}", self._info),
            web.put(f"/api{_REPO}/settings", self._settings),
            web.get(f"/api{_REPO}/tree/{{rev}}", self._tree),
            web.get(f"/api{_REPO}/tree/{{rev}}/{{path:.+}}", self._tree),
            web.post(f"/api{_REPO}/paths-info/{{rev}}", self._paths_info),
            web.get(f"{_REPO}/resolve/{{rev}}/{{path:.+}}", self._resolve),
            web.post(f"/api{_REPO}/preupload/{{rev}}", self._preupload),
            web.post(f"{_LFS}/batch", self._batch),
            web.put("/-/lfs/{oid}", self._put),
            web.put("/-/lfs/{oid}/{part}", self._put_part),
            web.post("/-/lfs/{oid}", self._complete),
            web.post(f"{_LFS}/verify", self._verify),
            web.post(f"/api{_REPO}/commit/main", self._commit),
        ]

    @web.middleware
    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        body = await request.read()
        entry = Request(request.method, request.path, request.query, request.headers, body)
        with self._lock:
            self._log.append(entry)
            self._lock.notify_all()
            fault = self._fault_of(entry)
        response: web.StreamResponse = web.Response()
        if fault is None or fault.late:
            try:
                response = await handler(request)
            except _Refused as refused:
                response = refused.response
            except web.HTTPException as unknown:
                response = web.Response(status=unknown.status)
        if fault is not None and fault.status is not None:
            response = web.Response(status=fault.status, headers=fault.headers)
        elif fault is not None and request.transport is not None:
            request.transport.abort()
        entry.status = response.status if fault is None else fault.status
        return response

    # Repositories

    def _repo(self, request: web.Request, *, write: bool = False) -> Repo:
        repo = self.repos.get(request.match_info["repo"])
        if repo is None or repo.private or write:
            _check_token(request, write=write)  # a stranger does not learn what is private
        if repo is None:
            raise _Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def _at(self, request: web.Request) -> Commit:
        """The commit that a request asks for, by oid or as main."""
        repo, rev = self._repo(request), request.match_info.get("rev", "main")
        for commit in reversed(repo.commits):
            if rev in {"main", commit.oid}:
                return commit
        raise _Refused(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    async def _validate_yaml(self, _: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    async def _create(self, request: web.Request) -> web.Response:
        _check_token(request, write=True)
        asked = await request.json()
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        answer = {"url": f"{self.url}/datasets/{repo_id}"}
        if repo_id in self.repos:
            return web.json_response(answer, status=409)
        repo = self.repos[repo_id] = Repo(repo_id, _is_private(asked))
        repo.commit("initial commit", {".gitattributes": b"*.parquet filter=lfs\n"})
        return web.json_response(answer)

    async def _info(self, request: web.Request) -> web.Response:
        repo, commit = self._repo(request), self._at(request)
        siblings = [{"rfilename": path} for path in commit.files]
        shown = {"id": repo.id, "private": repo.private, "gated": repo.gated}
        return web.json_response({**shown, "sha": commit.oid, "siblings": siblings})

    async def _settings(self, request: web.Request) -> web.Response:
        repo, asked = self._repo(request, write=True), await request.json()
        repo.gated = asked.get("gated", repo.gated)
        if {"visibility", "private"} & set(asked):
            repo.private = _is_private(asked)
        return web.json_response({"private": repo.private, "gated": repo.gated})

    # Reading

    async def _tree(self, request: web.Request) -> web.Response:
        folder = request.match_info.get("path", "").rstrip("/")
        below = f"{folder}/" if folder else ""
        found = [one for path, one in _entries(self._at(request)).items() if path.startswith(below)]
        if folder and not found:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        if request.query.get("recursive", "").lower() != "true":
            found = [one for one in found if "/" not in one["path"][len(below) :]]
        start = int(request.query.get("cursor", "0"))
        end = start + self.page_entries
        headers = {}
        if end < len(found):
            headers["Link"] = f'<{request.url.update_query(cursor=str(end))}>; rel="next"'
        return web.json_response(found[start:end], headers=headers)

    async def _paths_info(self, request: web.Request) -> web.Response:
        entries, asked = _entries(self._at(request)), await request.post()
        paths = asked.getall("paths", []) if asked else (await request.json())["paths"]
        return web.json_response([entries[path] for path in paths if path in entries])

    async def _resolve(self, request: web.Request) -> web.Response:
        commit, path = self._at(request), request.match_info["path"]
        body = commit.files.get(path)
        if body is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{_oid(path, body)}"'}
        if "Range" not in request.headers:
            return web.Response(body=body, headers=headers)
        start, end, _ = request.http_range.indices(len(body))
        if start >= end:
            raise _Refused(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return web.Response(status=206, body=body[start:end], headers=headers)

    # Writing: which files are LFS, their bytes, the commit

    async def _preupload(self, request: web.Request) -> web.Response:
        there = self._repo(request, write=True).files
        found = []
        for file in (await request.json())["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            mode = "lfs" if _is_lfs(path, sample, file["size"]) else "regular"
            found.append({"path": path, "shouldIgnore": False, "uploadMode": mode})
            if path in there:
                found[-1]["oid"] = _oid(path, there[path])
        return web.json_response({"files": found})

    async def _batch(self, request: web.Request) -> web.Response:
        self._repo(request, write=True)
        verify = {"href": f"{self.url}{request.path.replace('/batch', '/verify')}"}
        found = []
        for one in (await request.json())["objects"]:
            found.append({"oid": one["oid"], "size": one["size"]})
            if one["oid"] in self.objects:
                continue
            upload: dict[str, Any] = {"href": f"{self.url}/-/lfs/{one['oid']}"}
            if one["size"] > self.part_bytes:
                count = -(-one["size"] // self.part_bytes)
                parts = {str(n): f"{upload['href']}/{n}" for n in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(self.part_bytes), **parts}
            found[-1]["actions"] = {"upload": upload, "verify": verify}
        return web.json_response({"transfer": "basic", "objects": found})

    async def _put(self, request: web.Request) -> web.Response:
        return self._keep(request.match_info["oid"], await request.read())

    async def _put_part(self, request: web.Request) -> web.Response:
        body, place = await request.read(), request.match_info
        self._parts[place["oid"], int(place["part"])] = body
        return web.Response(headers={"ETag": f'"{_sha1(body)}"'})

    async def _complete(self, request: web.Request) -> web.Response:
        oid, parts = request.match_info["oid"], (await request.json())["parts"]
        return self._keep(oid, b"".join(self._parts[oid, one["partNumber"]] for one in parts))

    def _keep(self, oid: str, body: bytes) -> web.Response:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the oid must be the sha256 of the bytes")
        self.objects[oid] = body
        return web.Response()

    async def _verify(self, request: web.Request) -> web.Response:
        self._repo(request, write=True)
        asked = await request.json()
        if len(self.objects.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "the object must be there, and of that size")
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        repo = self._repo(request, write=True)
        header, *lines = [json.loads(line) for line in (await request.read()).splitlines()]
        head = repo.commits[-1].oid
        if header["value"].get("parentCommit", head) != head:
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, bytes | None] = {}
        for line in lines:
            changes.update(self._change(repo, line["key"], line["value"]))
        oid = repo.commit(header["value"]["summary"], changes).oid
        url = f"{self.url}/datasets/{repo.id}/commit/{oid}"
        return web.json_response({"success": True, "commitOid": oid, "commitUrl": url})

    def _change(self, repo: Repo, key: str, value: Mapping[str, Any]) -> dict[str, bytes | None]:
        path = value["path"]
        if key == "file":
            return {path: base64.b64decode(value["content"])}
        if key == "lfsFile":
            if value["oid"] not in self.objects:
                raise _Refused(400, f"the LFS object of {path} must be there before its commit")
            return {path: self.objects[value["oid"]]}
        assert key in {"deletedFile", "deletedFolder"}, key
        gone = [one for one in repo.files if f"{one}/".startswith(f"{path.rstrip('/')}/")]
        if not gone:
            raise _Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        return dict.fromkeys(gone)


class _Refused(Exception):  # noqa: N818  # an answer, not a fault of the stand-in
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.response = web.json_response({"error": message}, status=status, headers=headers)


def _is_private(asked: Mapping[str, Any]) -> bool:
    """What older clients say in a word of its own."""
    return bool(asked.get("private", asked.get("visibility") == "private"))


def _check_token(request: web.Request, *, write: bool = False) -> None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if given not in {TOKEN, READ_TOKEN}:
        raise _Refused(401, "Invalid username or password.")
    if write and given != TOKEN:
        raise _Refused(403, "You don't have the rights to write here.")


def _matches(request: Request, glob: str) -> bool:
    return fnmatch.fnmatchcase(f"{request.method} {request.path}", glob)


def _sha1(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


def _is_lfs(path: str, sample: bytes, size_bytes: int) -> bool:
    """What .gitattributes names, what is binary, and what is large; never what is empty."""
    large = size_bytes > _LFS_BYTES
    return size_bytes > 0 and (path.endswith(".parquet") or b"\0" in sample or large)


def _oid(path: str, body: bytes) -> str:
    """An LFS file's sha256, another's git oid: what clients compare their own files with."""
    if _is_lfs(path, body[:512], len(body)):
        return hashlib.sha256(body).hexdigest()
    return _sha1(b"blob %d\0" % len(body) + body)


def _entries(commit: Commit) -> dict[str, dict[str, Any]]:
    """Files and folders as a tree lists them, by path."""
    found: dict[str, dict[str, Any]] = {}
    for path, body in commit.files.items():
        for folder in map(str, reversed(PurePosixPath(path).parents[:-1])):
            oid = _sha1(f"{commit.oid} {folder}".encode())
            found[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
        oid, size = _oid(path, body), len(body)
        found[path] = {"type": "file", "path": path, "oid": oid, "size": size}
        if _is_lfs(path, body[:512], size):
            # git's own oid is that of a pointer; no client looks at its value
            found[path]["oid"] = _sha1(oid.encode())
            found[path]["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
    return found
