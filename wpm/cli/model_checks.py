"""Checks that need torch: the trunk's weights, and whether every row's loss can be built."""

import dataclasses
from pathlib import Path

import torch

from wpm.cli.options import LaunchOptions
from wpm.data.archives import fetch_archive
from wpm.data.hub import HubFile, fetch_hub_file
from wpm.errors import UserError
from wpm.losses import build_loss
from wpm.model.trunks import (
    RANDOM_WEIGHTS,
    find_source,
    find_weights,
    find_weights_page,
    needs_weights,
)
from wpm.protocol_files import read_protocol
from wpm.protocols import Protocol
from wpm.spaces import SearchSpace


def check_parameters(space: SearchSpace, folder: Path) -> None:
    """Refuse a search space with which every trial would fail.

    Args:
        space: the space of a row.
        folder: where its file lies, for the message.

    Raises:
        UserError: a parameter of the loss is missing, or the miner has no meaning for the loss.
    """
    row = space.row
    if not row.is_trained:
        return
    with torch.random.fork_rng(devices=[]):
        try:
            loss = build_loss(row, space.lowest(), num_classes=2, embedding_dim=2)
        except UserError as error:
            raise UserError(f"{folder / row.loss}.toml: {error}, searched or fixed") from error
        if row.miner is None:
            return
        try:  # two views of two images of each class
            loss(torch.randn(2, 4, 2), torch.tensor([0, 0, 1, 1]))
        except ValueError as error:
            raise UserError(f"row {row}: {error}; use {row.loss}") from error


def check_trunk(options: LaunchOptions, protocol: Protocol) -> None:
    """Refuse a trunk that does not exist.

    Raises:
        UserError: lists the choices, after the protocol's file where the name stands there.
    """
    try:
        find_source(protocol.trunk)
    except UserError as error:
        if "trunk" in options.protocol_changes() or options.protocol is None:
            raise
        files = read_protocol(options.protocol, options.protocols_folder)
        naming = [file.path for file in files if "trunk" in file.values_for(options.dataset)]
        raise UserError(f"{naming[-1]}: {error}") from error


def locate_weights(options: LaunchOptions, trunk: str) -> str:
    """Return the file of the trunk's weights, or "random" for a trunk that starts without.

    Raises:
        UserError: there is no such file, or --weights has no meaning for the trunk.
    """
    archive = find_weights(trunk)
    # --check-pipeline compares with figures of these very weights.
    without = "" if options.check_pipeline else f" (--weights {RANDOM_WEIGHTS} to try without)"
    if not needs_weights(trunk):
        if options.weights not in (None, RANDOM_WEIGHTS):
            raise UserError(f"--weights has no meaning for trunk {trunk}; leave it out")
        return RANDOM_WEIGHTS
    if options.weights == RANDOM_WEIGHTS:
        return RANDOM_WEIGHTS
    or_give = f"give --weights FILE{without}"
    if options.weights is not None:
        file = Path(options.weights)
    elif archive is None:
        page = find_weights_page(trunk)
        get_it = f"download them from {page} and " if page else ""
        raise UserError(f"trunk {trunk} has no weights that could be fetched; {get_it}{or_give}")
    elif options.fetch:
        folder = options.work_root / "weights"
        if isinstance(archive, HubFile):
            file = fetch_hub_file(archive, folder, or_give)
        else:
            file = fetch_archive(dataclasses.replace(archive, elsewhere=or_give), folder)
    else:
        file = options.work_root / "weights" / archive.name
    if not file.is_file():
        get_it = "" if archive is None else f"add --fetch, or download {archive.url} there, or "
        raise UserError(f"no weights of trunk {trunk} at {file}; {get_it}{or_give}")
    return str(file.resolve())
