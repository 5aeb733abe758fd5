"""Serve the page that shows all studies while they run."""

import getpass
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from wpm.cli.options import LaunchOptions
from wpm.errors import UserError
from wpm.records import StudyPlace

_ROOT = Path(__file__).resolve().parents[2]  # where wpm and analysis are


def serve_page(options: LaunchOptions, show: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: there is no run folder, or the port cannot be used.
        KeyboardInterrupt: the server was stopped.
    """
    from wpm.live_page.server import open_port, serve  # here: the web libraries take a moment

    assert options.serve is not None
    run_root = options.run_root.resolve()
    if not run_root.is_dir():
        raise UserError(
            f"--run-root {options.run_root}: no such folder; start a search with python launch.py, "
            "or give the folder of one"
        )
    with open_port(options.serve) as listener:
        port: int = listener.getsockname()[1]
        for line in describe_addresses(port, run_root, os.environ, socket.gethostname()):
            show(line)
        sys.stdout.flush()
        serve(listener, run_root, lambda place, path: report_command(run_root, place, path), _ROOT)


def describe_addresses(
    port: int, run_root: Path, environment: Mapping[str, str], host_name: str
) -> list[str]:
    """Say where the page is, here and from another machine."""
    # "client port server port": under this address ssh has reached this machine.
    connection = environment.get("SSH_CONNECTION", "").split()
    host, ssh_port = connection[2:] if len(connection) == 4 else (host_name, "22")
    flag = "" if ssh_port == "22" else f" -p {ssh_port}"
    return [
        f"the studies under {run_root}: http://127.0.0.1:{port}/",
        f"from another machine: ssh -N -L {port}:127.0.0.1:{port}{flag} {_user()}@{host}",
        "    and open the same address there; Ctrl-C ends the page, and no search",
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "USER"


def report_command(run_root: Path, place: StudyPlace | None, out: Path) -> list[str]:
    """Return the command that writes the report of a study, or of all, into a file."""
    command = [sys.executable, "-m", "analysis.report", "--run-root", str(run_root)]
    if place is not None:
        selection = {"dataset": place.dataset, "protocol": place.protocol, "row": str(place.row)}
        for flag, name in selection.items():
            command += [f"--{flag}", name]
        command += ["--search", str(place.search)]
    return [*command, "--embeddings", str(Path("embeddings").resolve()), "--out", str(out)]
