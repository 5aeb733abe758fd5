"""A web server on loopback that answers the client of Hugging Face as the hub does."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = 40 * "c"


@dataclass
class Hub:
    """What the hub holds, and the requests that it got.

    Attributes:
        files: content by path, such as `timm/NAME/resolve/main/model.safetensors`.
        checksum: announced for every file in place of its own.
        requests: method and path, in their order.
    """

    files: dict[str, bytes]
    checksum: str = ""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        return [
            request
            for request in self.requests
            if request.startswith("GET ") and "/resolve/" in request
        ]


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def _answer(self, *, with_content: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            content = hub.files.get(self.path.removeprefix("/"))
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                content = b""
            checksum = hub.checksum or hashlib.sha256(content).hexdigest()
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{checksum}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
