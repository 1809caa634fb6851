"""A stand-in for the Hub on this machine, which the real client accepts; it misbehaves on order.

Two servers: the Hub itself, and the host that large files are redirected to. Every request is
logged, with the bytes that answered it and the token that it carried.

    with hub_server() as hub:
        hub.add("org/name", {"model.safetensors": data, "config.json": b"{}"})
        hub.misbehave(file="model.safetensors", cut_after=1000, times=2)
        ...
        assert hub.bytes_sent("model.safetensors") < 2000
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

LFS_ENDINGS = (".safetensors", ".bin", ".gguf", ".pt", ".h5")


class Content(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> bytes: ...


@dataclass(frozen=True)
class Sparse:
    """A file of any size: its first bytes, then zeros that are made when they are asked for."""

    head: bytes
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size_bytes)
        return self.head[start:stop] + bytes(max(0, stop - max(start, len(self.head))))


@dataclass(frozen=True)
class Served:
    content: Content
    lfs: bool

    @property
    def sha256(self) -> str:
        if isinstance(self.content, Sparse):
            return hashlib.sha256(self.content.head).hexdigest()
        return hashlib.sha256(self.content[:]).hexdigest()

    @property
    def oid(self) -> str:
        data = self.content[:] if not self.lfs else self.sha256.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repo:
    commits: dict[str, dict[str, Served]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong, with which requests, and how often."""

    file: str = ""  # the end of the path; the file's name also for the other host
    method: str = ""
    host: str = ""  # "hub" or "cdn"
    times: int = 10**9
    skip: int = 0
    beyond: int = 0  # only ranges that start there or later
    status: int = 0
    retry_after: str = ""
    cut_after: int | None = None
    stall_after: int | None = None
    delay_s: float = 0.0
    ignore_range: bool = False
    shift_range: int = 0
    etag: str = ""
    wrong_bytes: bool = False
    commit: str = ""
    redirect_to: str = ""

    def strikes(self, request: Request) -> bool:
        meant = (
            request.file.endswith(self.file)
            and request.method.startswith(self.method)
            and request.host.startswith(self.host)
            and request.first_byte >= self.beyond
        )
        if not meant or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Request:
    host: str
    method: str
    path: str
    file: str
    range: str | None
    token: str | None
    at_s: float
    status: int = 0
    sent_bytes: int = 0

    @property
    def first_byte(self) -> int:
        return int(self.range.removeprefix("bytes=").partition("-")[0]) if self.range else 0


class Hub:
    """The two servers' state; `url` is what HF_ENDPOINT should be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.token = "hf_" + "s3cret" * 6  # who carries it may see gated and private models
        self.redirects = False
        self.page_size = 1000
        self.signature = 0
        self.lock = threading.Lock()
        self.let_go = threading.Event()  # of what is delayed or stalled
        self.stalled = threading.Event()
        self.url = self.cdn_url = ""

    def add(
        self,
        repo_id: str,
        files: Mapping[str, Content],
        *,
        branch: str = "main",
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Commit these files; gives the commit."""
        repo = self.repos.setdefault(repo_id, Repo())
        repo.gated, repo.private = gated, private
        served = {path: Served(data, path.endswith(LFS_ENDINGS)) for path, data in files.items()}
        listing = json.dumps({path: file.etag for path, file in served.items()})
        commit = hashlib.sha1(f"{repo_id}{branch}{listing}".encode()).hexdigest()
        repo.commits[commit] = served
        repo.branches[branch] = commit
        return commit

    def misbehave(self, **fault: Any) -> Fault:
        self.faults.append(Fault(**fault))
        return self.faults[-1]

    def behave(self) -> None:
        """From now on; what is delayed or stalled ends."""
        self.faults.clear()
        self.log.clear()
        self.let_go.set()
        self.let_go = threading.Event()

    def expire_signatures(self) -> None:
        self.signature += 1

    def requests(self, file: str = "", *, method: str = "", host: str = "") -> list[Request]:
        return [
            request
            for request in self.log
            if request.file.endswith(file)
            and request.method.startswith(method)
            and request.host.startswith(host)
        ]

    def bytes_sent(self, file: str = "") -> int:
        return sum(request.sent_bytes for request in self.requests(file))

    def blob(self, sha256: str) -> tuple[str, Served] | None:
        for repo in self.repos.values():
            for files in repo.commits.values():
                for path, file in files.items():
                    if file.lfs and file.sha256 == sha256:
                        return path, file
        return None


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    servers = [_serve(hub, "hub"), _serve(hub, "cdn")]
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.cdn_url = f"http://localhost:{servers[1].server_port}"
    try:
        yield hub
    finally:
        hub.let_go.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that left is none
            super().handle_error(request, client_address)


def _serve(hub: Hub, host: str) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.host = hub, host
    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    hub: Hub
    host: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/agent-harnesses":  # the client's own telemetry
            return self.answer(Request("", "", "", "", None, None, 0.0), 404)
        token = self.headers.get("Authorization")
        request = Request(
            self.host,
            self.command,
            self.path,
            unquote(parts.path),
            self.headers.get("Range"),
            token.removeprefix("Bearer ") if token else None,
            time.monotonic(),
        )
        found = self.hub.blob(parts.path.rpartition("/")[2]) if self.host == "cdn" else None
        if found:
            request.file = found[0]
        with self.hub.lock:
            self.hub.log.append(request)
            fault = next((f for f in self.hub.faults if f.strikes(request)), Fault())
        self.hub.let_go.wait(fault.delay_s)
        with contextlib.suppress(ConnectionError):
            if fault.status:
                extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                self.answer(request, fault.status, headers=extra)
            elif fault.redirect_to:
                self.answer(request, 302, headers={"Location": fault.redirect_to})
            elif self.host == "cdn":
                self.cdn(request, fault, found, parse_qs(parts.query))
            elif parts.path.startswith("/api/models/"):
                self.api(request, unquote(parts.path).removeprefix("/api/models/"), parts.query)
            elif "/resolve/" in parts.path:
                self.resolve(request, fault, parts.path[1:])
            else:
                self.answer(request, 404)
        return None

    def api(self, request: Request, path: str, query: str) -> None:
        repo_id = next((name for name in self.hub.repos if f"{path}/".startswith(f"{name}/")), None)
        if repo_id is None or not self.allowed(self.hub.repos[repo_id].private):
            return self.refuse(request, 404 if request.token else 401, "RepoNotFound")
        repo, rest = self.hub.repos[repo_id], path[len(repo_id) + 1 :]
        what, _, revision = rest.partition("/")
        commit = repo.commit(revision or "main")
        if what == "refs":
            refs = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": target}
                for name, target in repo.branches.items()
            ]
            return self.json(request, {"branches": refs, "tags": [], "converts": []})
        if commit is None:
            return self.refuse(request, 404, "RevisionNotFound")
        if what == "tree":
            return self.tree(request, repo.commits[commit], query)
        siblings = [{"rfilename": file} for file in repo.commits[commit]]
        return self.json(
            request, {"id": repo_id, "sha": commit, "siblings": siblings, "gated": repo.gated}
        )

    def tree(self, request: Request, files: dict[str, Served], query: str) -> None:
        start = int(parse_qs(query).get("cursor", ["0"])[0])
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders
        ]
        for path, file in sorted(files.items()):
            entry = {"type": "file", "path": path, "oid": file.oid, "size": len(file.content)}
            if file.lfs:
                entry["lfs"] = {
                    "oid": file.sha256,
                    "size": len(file.content),
                    "pointerSize": 134,
                }
            entries.append(entry)
        stop = start + self.hub.page_size
        headers = {}
        if stop < len(entries):
            path = urlsplit(self.path).path
            link = f"{self.hub.url}{path}?recursive=true&cursor={stop}"
            headers["Link"] = f'<{link}>; rel="next"'
        self.json(request, entries[start:stop], headers)

    def resolve(self, request: Request, fault: Fault, path: str) -> None:
        repo_id, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repo = self.hub.repos.get(unquote(repo_id))
        if repo is None or not self.allowed(repo.private):
            return self.refuse(request, 404 if request.token else 401, "RepoNotFound")
        if not self.allowed(repo.gated):
            return self.refuse(request, 403 if request.token else 401, "GatedRepo")
        commit = repo.commit(unquote(revision))
        if commit is None:
            return self.refuse(request, 404, "RevisionNotFound")
        served = repo.commits[commit].get(unquote(file))
        if served is None:
            return self.refuse(request, 404, "EntryNotFound")
        headers = {"X-Repo-Commit": fault.commit or commit}
        if served.lfs:
            headers["X-Linked-Etag"] = f'"{fault.etag or served.sha256}"'
            headers["X-Linked-Size"] = str(len(served.content))
        if served.lfs and self.hub.redirects:
            signed = f"{self.hub.cdn_url}/blobs/{served.sha256}?signature={self.hub.signature}"
            return self.answer(request, 302, headers={**headers, "Location": signed})
        return self.send(request, fault, served, headers)

    def cdn(
        self,
        request: Request,
        fault: Fault,
        found: tuple[str, Served] | None,
        query: dict[str, list[str]],
    ) -> None:
        if query.get("signature") != [str(self.hub.signature)]:
            return self.answer(request, 403)
        if found is None:
            return self.answer(request, 404)
        return self.send(request, fault, found[1], {})

    def send(self, request: Request, fault: Fault, file: Served, headers: dict[str, str]) -> None:
        size_bytes = len(file.content)
        start, stop, status = 0, size_bytes, 200
        if request.range and not fault.ignore_range:
            first, _, last = request.range.removeprefix("bytes=").partition("-")
            start = int(first) + fault.shift_range
            stop = min(int(last) + 1 if last else size_bytes, size_bytes)
            if start >= size_bytes:
                return self.answer(request, 416, headers={"Content-Range": f"bytes */{size_bytes}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
            status = 206
        body = b"" if self.command == "HEAD" else file.content[start:stop]
        if fault.wrong_bytes:
            body = body.translate(bytes(range(255, -1, -1)))
        headers["ETag"] = f'"{fault.etag or file.etag}"'
        headers["Accept-Ranges"] = "bytes"
        headers["Content-Length"] = str(stop - start)
        return self.answer(request, status, body, headers, fault)

    def answer(
        self,
        request: Request,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        fault = fault or Fault()
        request.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = min(
            filter(lambda n: n is not None, (fault.cut_after, fault.stall_after, len(body)))
        )
        for start in range(0, whole, 2**16):
            piece = body[start : min(start + 2**16, whole)]
            request.sent_bytes += len(piece)  # before, or a quick client would see too few
            self.wfile.write(piece)
        if whole < len(body):
            if fault.stall_after is not None:
                self.hub.stalled.set()
                self.hub.let_go.wait()
            self.close_connection = True

    def json(self, request: Request, value: object, headers: Mapping[str, str] = {}) -> None:
        body = json.dumps(value).encode()
        self.answer(request, 200, body, {**headers, "Content-Type": "application/json"})

    def refuse(self, request: Request, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": f"{code}: as ordered"}
        self.answer(request, status, json.dumps({"error": code}).encode(), headers)

    def allowed(self, closed: bool) -> bool:
        return not closed or self.headers.get("Authorization") == f"Bearer {self.hub.token}"
