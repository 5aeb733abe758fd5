"""Wait until nodes of a Slurm job have joined Ray, and name those that have not.

clusters/slurm.sh labels each node of Ray with the name that Slurm gives it.
"""

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

LABEL = "slurm-node"
_ASK_EVERY_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Wait; return 0 once Ray answers, even where nodes are missing, else 1."""
    parser = argparse.ArgumentParser(description="Wait until nodes of a Slurm job have joined Ray.")
    parser.add_argument("address", help="HOST:PORT of Ray's head")
    parser.add_argument("nodes", nargs="+", help="names that Slurm gives the nodes")
    parser.add_argument("--wait", type=float, required=True, metavar="S", help="seconds in all")
    parser.add_argument("--head", type=int, required=True, metavar="PID", help="step of the head")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.wait
    host, _, port = options.address.rpartition(":")
    while not _answers(host, int(port)):
        if not _is_alive(options.head) or time.monotonic() > deadline:
            return 1
        time.sleep(_ASK_EVERY_S)
    # Ray is imported here, so that the rest can be tested without it.
    import ray

    ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
    while missing := find_missing(options.nodes, ray.nodes()):
        if time.monotonic() > deadline:
            print(
                f"slurm.sh: without {', '.join(missing)}, which did not join Ray within "
                f"{options.wait:.0f} s; the search uses them should they still join",
                flush=True,
            )
            break
        time.sleep(_ASK_EVERY_S)
    return 0


def find_missing(names: Sequence[str], known: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which of the nodes are not among those that Ray knows and finds alive."""
    alive = {node["Labels"].get(LABEL) for node in known if node["Alive"]}
    return [name for name in names if name not in alive]


def _answers(host: str, port: int) -> bool:
    """Whether a port is open; `ray.init` would try for minutes where none is."""
    with suppress(OSError), socket.create_connection((host, port), timeout=_ASK_EVERY_S):
        return True
    return False


def _is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
