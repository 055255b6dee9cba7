"""A W&B server on this machine that says yes to everything and keeps what was asked: what a client sends, not what W&B makes of it."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """GraphQL operations with their variables, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def inputs(self, operation: str) -> list[dict[str, Any]]:
        return [variables["input"] for name, variables in self.asked if name == operation]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        if operation == "Viewer":
            return {
                "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            }
        if operation == "UpsertBucket":
            project = {"id": "1", "name": asked.get("project"), "entity": {"id": "1", "name": "me"}}
            bucket = {"id": "1", "name": asked.get("name"), "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateArtifact":
            made = {"id": asked["input"]["digest"], "state": "PENDING", "artifactSequence": {"id": "1"}}
            return {"createArtifact": {"artifact": {"__typename": "Artifact", **made}}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "CreateArtifactManifest":
            return {
                "createArtifactManifest": {"artifactManifest": {"id": "1", "file": {"id": "1", **upload}}}
            }
        if operation in ("CommitArtifact", "UseArtifact"):
            return {
                operation[0].lower() + operation[1:]: {
                    "artifact": {"id": "1", "digest": "1", "state": "COMMITTED"}
                }
            }
        if operation == "CreateRunFiles":
            files = [{"name": name, **upload} for name in asked.get("files", [])]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": "me", "defaultEntity": {"id": "1", "name": "me"}}}
        if operation == "ProjectInternalId":
            return {"project": {"internalId": "1"}}
        if operation == "GetProjects":
            return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}
        if operation == "CreateProject":
            return {"upsertModel": {"model": {"id": "1", "name": "project"}}}
        if operation == "upsertView":
            project = {"name": asked["projectName"], "entityName": asked["entityName"]}
            view = {
                "id": "VmlldzoxMjM0",
                "project": project,
                **{key: asked[key] for key in ("displayName", "description", "spec")},
            }
            return {"upsertView": {"view": view, "inserted": True}}
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data: dict[str, Any] = {}
        if self.path.startswith("/graphql"):
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation, variables = named.group(1) if named else "", request.get("variables") or {}
            self.server.asked.append((operation, variables))
            data = {"data": self.server.answer(operation, variables)}
        answer = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_GET = do_POST


@contextmanager
def running() -> Iterator[Server]:
    """The server, for the length of a block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
