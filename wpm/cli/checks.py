"""What the flags name outside this program: rows, weights, folders, a cluster.

Each is looked at before anything slow starts, and refused in one line.
"""

import argparse
import dataclasses
import os
import socket
from pathlib import Path

from wpm.cli.arguments import DEFAULT_ROWS
from wpm.errors import UserError
from wpm.protocols import Protocol
from wpm.rows import TABLE_ROWS, Row
from wpm.spaces import SPACES_FOLDER, load_space

_ANSWER_S = 10.0  # that a cluster's head may take to answer


def parse_rows(args: argparse.Namespace) -> list[Row]:
    """Check rows against the search spaces before anything slow starts."""
    args.search_spaces = args.search_spaces or SPACES_FOLDER
    asked = args.rows or DEFAULT_ROWS
    names = [n for name in asked for n in (TABLE_ROWS if name == "all" else (name,))]
    rows = [Row.parse(name) for name in dict.fromkeys(names)]
    for row in rows:
        load_space(row, args.search_spaces)
    return rows


def check_parameters(row: Row, folder: Path) -> None:
    """Refuse a search space that lacks a parameter of its loss, before trials fail for it."""
    import torch

    from wpm.losses import build_loss

    if not row.is_trained:
        return
    space = load_space(row, folder)
    parameters = space.lowest()
    try:
        with torch.random.fork_rng(devices=[]):
            build_loss(row, parameters, num_classes=2, embedding_dim=2)
    except UserError as error:
        raise UserError(f"{folder / row.loss}.toml: {error}, searched or fixed") from error


def locate_weights(args: argparse.Namespace, protocol: Protocol) -> str:
    """Return the trunk's weights file, fetched if asked; "random" for trunks without one."""
    from wpm.data.archives import fetch_archive
    from wpm.model.trunks import RANDOM_WEIGHTS, find_weights, find_weights_page, needs_weights

    trunk = protocol.trunk
    archive = find_weights(trunk)
    if not needs_weights(trunk):
        if args.weights not in (None, RANDOM_WEIGHTS):
            raise UserError(f"--weights has no meaning for trunk {trunk}; leave it out")
        return RANDOM_WEIGHTS
    if args.weights == RANDOM_WEIGHTS:
        return RANDOM_WEIGHTS
    or_give = f"give --weights FILE (--weights {RANDOM_WEIGHTS} to try without)"
    if args.weights is None and archive is None:
        page = find_weights_page(trunk)
        get_it = f"download model.safetensors from {page} and " if page else ""
        raise UserError(f"trunk {trunk} has no weights that could be fetched; {get_it}{or_give}")
    folder = args.work_root / "weights"
    if args.weights is not None or archive is None:
        file = Path(args.weights)
    elif args.fetch:
        file = fetch_archive(dataclasses.replace(archive, elsewhere=or_give), folder)
    else:
        file = folder / archive.name
    if not file.is_file():
        get_it = "" if archive is None else f"add --fetch, or download {archive.url} there, or "
        raise UserError(f"no weights of trunk {trunk} at {file}; {get_it}{or_give}")
    return str(file.resolve())


def check_writable(folder: Path) -> None:
    """Refuse a folder that records could not be written to."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder}: cannot be written ({existing} is not a writable folder); choose another"
        )


def check_address(address: str) -> None:
    """Refuse a cluster that nobody answers for, before anything is written or decoded."""
    if address == "local":
        return
    there, where = address, "there"
    if address == "auto":
        from wpm.cluster.connection import find_cluster

        there = find_cluster()
        where = f"at {there} (of RAY_ADDRESS, or where Ray last ran)"
    host, _, port = there.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(
            f"--address {address}: nothing answers {where} ({error}); give the address that ray "
            "start printed on the head, or --address auto on a node of the cluster"
        ) from error
