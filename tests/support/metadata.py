"""A machine's metadata service as AWS offers it (version 2), on loopback."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "token-of-this-machine"
NOTICE = '{"action": "terminate", "time": "2026-01-01T00:02:00Z"}'


class MetadataService:
    """Announces no interruption until `notice` is set; refuses requests without the token."""

    def __init__(self) -> None:
        self.notice: str | None = None
        self.broken = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                asked = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                right = self.path == "/latest/api/token" and asked and 1 <= int(asked) <= 21600
                self.answer(200 if right else 400, TOKEN)

            def do_GET(self) -> None:
                if service.broken:
                    self.answer(500)
                elif self.headers["X-aws-ec2-metadata-token"] != TOKEN:
                    self.answer(401)
                elif service.notice is None or not self.path.endswith("/spot/instance-action"):
                    self.answer(404)
                else:
                    self.answer(200, service.notice)

            def answer(self, code: int, text: str = "") -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/latest"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> "MetadataService":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
