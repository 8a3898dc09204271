"""Whether container tests can run here, and an engine that only answers as Docker's does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from rlskit.containers import Container

FOLDER = Path(__file__).parent


@cache
def why_not() -> str:
    """In words why no container can be had; empty where one can."""
    found = Container().find()
    return found if isinstance(found, str) else ""


def are_asked_for(arguments: list[str]) -> bool:
    """Whether pytest's arguments name this folder, something in it, or a folder around it."""
    paths = [Path(each.partition("::")[0]).resolve() for each in arguments]
    return any(FOLDER.is_relative_to(path) or path.is_relative_to(FOLDER) for path in paths)


@dataclass
class FakeEngine:
    """What it has, how its one container fares, and what it was asked to do."""

    address: str
    images: set[str] = field(default_factory=lambda: {"postgres:18-alpine"})
    status: str = "exited"
    refusal: str = ""
    holds_on: bool = False
    log: str = "no moon tonight"
    requests: list[str] = field(default_factory=list)
    created: dict = field(default_factory=dict)

    @property
    def password(self) -> str:
        return next(each for each in self.created["Env"] if each.startswith("POSTGRES_PASSWORD=")).partition("=")[2]

    def answer(self, method: str, path: str, query: dict[str, str], body: dict) -> tuple[int, object]:
        """Status and JSON, or text."""
        match method, path.strip("/").split("/"):
            case "GET", ["version"]:
                return 200, {"ApiVersion": "1.44", "MinAPIVersion": "1.24"}
            case "GET", ["images", *name, "json"]:
                there = "/".join(name) in self.images
                return (200, {"Id": "sha256:1", "RepoTags": []}) if there else (404, {"message": "No such image"})
            case "POST", ["images", "create"]:
                return 404, {"message": f"pull access denied for {query['fromImage']}"}
            case "POST", ["containers", "create"]:
                self.created = body
                return 201, {"Id": "c1", "Warnings": []}
            case "POST", ["containers", "c1", "start"]:
                return (400, {"message": self.refusal}) if self.refusal else (204, None)
            case "GET", ["containers", "c1", "json"]:
                # Its port is one that nobody listens on.
                ports = {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}]}
                state = {"Status": self.status, "ExitCode": 3}
                return 200, {"Id": "c1", "State": state, "Config": {"Tty": True}, "NetworkSettings": {"Ports": ports}}
            case "GET", ["containers", "c1", "logs"]:
                return 200, f"{self.log} {self.password}"
            case "DELETE", ["containers", "c1"]:
                return (500, {"message": "the device is busy"}) if self.holds_on else (204, None)
        return 501, {"message": f"{method} {path} is not known to the fake engine"}


@contextmanager
def fake_engine(folder: Path) -> Iterator[FakeEngine]:
    """An engine that listens on a Unix socket in the folder."""
    engine = FakeEngine(f"unix://{folder}/docker.sock")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # a client that is gone
                super().handle()

        def handle_any(self) -> None:
            url = urlsplit(unquote(self.path))
            path = "/" + url.path.split("/", 2)[2] if url.path.startswith("/v1.") else url.path
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            engine.requests.append(f"{self.command} {path}{'?' if url.query else ''}{url.query}")
            status, said = engine.answer(self.command, path, query, json.loads(sent or b"{}"))
            data = b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(f"{folder}/docker.sock", Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
