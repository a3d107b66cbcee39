"""A server on this machine that answers as the Hugging Face hub does."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Serves a folder as the repository ``name`` of ``kind`` models or datasets; ``asked`` lists the requests."""

    daemon_threads = True

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.kind, self.name, self.folder, self.asked = kind, name, folder, list[str]()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        """Answer inside; ``GET /close`` ends it before."""
        Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """The variables of a process that has this hub, and none other's cache."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        paths = os.pathsep.join(filter(None, sys.path))
        return kept | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache), "PYTHONPATH": paths}


class Answer(BaseHTTPRequestHandler):
    """One request to a `Hub`."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        hub.asked.append(f"{self.command} {path}")
        body, headers = self.found(path), {"X-Repo-Commit": COMMIT}
        if body is None:
            known = "main" in path or COMMIT in path
            headers["X-Error-Code"] = (
                "RepoNotFound" if hub.name not in path else "EntryNotFound" if known else "RevisionNotFound"
            )
        else:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        self.send_response(404 if body is None else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def found(self, path: str) -> bytes | None:
        hub, folder = self.server, self.server.folder
        api, tree = f"/api/{hub.kind}/{hub.name}", f"/api/{hub.kind}/{hub.name}/tree/{COMMIT}"
        files = f"/{hub.name}/resolve/" if hub.kind == "models" else f"/{hub.kind}/{hub.name}/resolve/"
        if path == "/close":
            hub.socket.close()  # before the answer: whoever has it finds nobody here
            Thread(target=hub.shutdown).start()
            return b""
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            names = [{"rfilename": each.relative_to(folder).as_posix()} for each in folder.rglob("*") if each.is_file()]
            return json.dumps({"id": hub.name, "sha": COMMIT, "siblings": names}).encode()
        if path.startswith(tree):
            entries = [
                {
                    "type": "directory" if each.is_dir() else "file",
                    "oid": "0" * 40,
                    "size": 0 if each.is_dir() else each.stat().st_size,
                    "path": each.relative_to(folder).as_posix(),
                }
                for each in (folder / path.removeprefix(tree).strip("/")).iterdir()
            ]
            return json.dumps(entries).encode()
        revision, _, name = path.removeprefix(files).partition("/")
        known = path.startswith(files) and revision in ("main", COMMIT) and (folder / name).is_file()
        return (folder / name).read_bytes() if known else None

    def log_message(self, *arguments: object) -> None:
        pass
