"""Listen on this machine only, and serve the page until somebody stops it."""

import os
import signal
import socket
import tempfile
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from wpm.errors import UserError
from wpm.live_page.app import build_app
from wpm.live_page.reports import ReportCommand, ReportMaker
from wpm.live_page.watcher import Watcher

HOST = "127.0.0.1"
_STOP_S = 1  # for answers that are under way when the server is stopped


def open_port(port: int) -> socket.socket:
    """Listen on a port of this machine, which other machines cannot reach.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: the port is in use, or not allowed.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        # The message of the error itself repeats the address.
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"--serve {port}: cannot listen on {HOST}:{port} ({reason}); give another port from "
            "1024 to 65535, or 0 for any that is free"
        ) from error


def serve(listener: socket.socket, run_root: Path, command: ReportCommand, root: Path) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        listener: from `open_port`.
        run_root: folder of the records.
        command: makes a report.
        root: folder in which that command is run.

    Raises:
        KeyboardInterrupt: the server was stopped.
    """
    watcher = Watcher(run_root)
    watcher.start()
    with tempfile.TemporaryDirectory(prefix="wpm-reports-") as folder:
        server = make_server(build_app(watcher, ReportMaker(command, Path(folder), root)))
        # uvicorn ends its work and then raises the signal again, for this handler.
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)
            watcher.stop()


def make_server(app: Starlette) -> uvicorn.Server:
    """Return a server that is quiet, and that waits for no answer when it is stopped."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_STOP_S,
    )
    return uvicorn.Server(config)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
