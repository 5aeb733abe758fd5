"""A web server on loopback that offers one archive, and misbehaves where a test asks it to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wpm.data.archives import Archive


@dataclass
class Server:
    """What a test's server does, and the Range headers it was sent.

    `cut_at` ends a connection after so many bytes of an answer.
    """

    data: bytes
    resumes: bool = True
    cut_at: int | None = None
    status: int = 200
    raw: bytes | None = None
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""

    @property
    def archive(self) -> Archive:
        """The archive as a data set would name it, with its checksum."""
        return Archive(self.url, hashlib.sha256(self.data).hexdigest())


@contextmanager
def serve(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            if server.raw is not None:
                self.wfile.write(server.raw)
                return
            if server.status != 200:
                self.send_error(server.status)
                return
            start = 0
            if server.resumes and asked:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(server.data):
                    self.send_error(416)
                    return
                self.send_response(206)
                size = len(server.data)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            answer = server.data[start:]
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[: server.cut_at])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/images.zip"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
