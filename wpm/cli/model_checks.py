"""Checks that need torch: the trunk's weights, and whether every row's loss can be built."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wpm.cli.options import LaunchOptions
from wpm.data.archives import fetch_archive
from wpm.data.hub import HubFile, fetch_hub_file
from wpm.errors import UserError
from wpm.jobs.failures import describe_failure
from wpm.loss_classes import check_arguments
from wpm.loss_description import TRAINING_PARAMETERS, LossDescription
from wpm.losses import build_loss
from wpm.miners import find_miner
from wpm.model.trunks import (
    RANDOM_WEIGHTS,
    find_source,
    find_weights,
    find_weights_page,
    needs_weights,
)
from wpm.protocol_files import read_protocol
from wpm.protocols import Protocol
from wpm.rows import Row
from wpm.spaces import SearchSpace

# The batch with which every loss is tried: a few images of some classes.
_CLASSES, _IMAGES, _DIM = 4, 4, 8


def check_parameters(space: SearchSpace, folder: Path) -> None:
    """Refuse a search space with which every trial would fail, or that searches what nothing reads.

    The loss is built, and computed once on random embeddings.

    Args:
        space: the space of a row.
        folder: where its file lies, for the message.

    Raises:
        UserError: a class does not exist, is no loss or does not work; an argument or parameter is
            missing or unknown; or the miner has no meaning for the loss.
    """
    row, path, described = space.row, folder / f"{space.row.loss}.toml", space.loss
    if described is None:
        return
    values = space.lowest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            check_arguments("loss", described.loss, described.modules)
            if described.miner is not None:
                check_arguments("miner", described.miner, described.modules)
            plain = _build(Row(row.loss), values, described)
            _compute(plain, torch.randn(_CLASSES * _IMAGES, _DIM))
        except (UserError, ValueError) as error:
            raise UserError(f"{path}: {error}") from error
        _check_searched(space, described, path, has_weights=any(True for _ in plain.parameters()))
        if row.miner is None:
            return
        try:
            _compute(_build(row, values, described), torch.randn(2, _CLASSES * _IMAGES, _DIM))
        except ValueError as error:
            raise UserError(f"row {row}: {error}; use {row.loss}") from error


def _build(row: Row, values: Mapping[str, float], described: LossDescription) -> nn.Module:
    """Build a loss for a few classes.

    Raises:
        UserError: a parameter is missing, or a class cannot be constructed.
        ValueError: the miner has no meaning for the loss.
    """
    try:
        return build_loss(
            row, values, num_classes=_CLASSES, embedding_dim=_DIM, description=described
        )
    except UserError as error:
        raise UserError(f"{error}, searched or fixed") from error
    except ValueError:
        raise
    except Exception as error:  # whatever a constructor raises
        raise UserError(
            f"{described.loss.name} cannot be built ({describe_failure(error)})"
        ) from error


def _compute(loss: nn.Module, embeddings: Tensor) -> None:
    """Compute a loss and its gradient once.

    Raises:
        ValueError: it does not return a scalar with a gradient, or raises anything.
    """
    name = type(loss.base_loss).__name__
    labels = torch.arange(_CLASSES).repeat_interleave(_IMAGES)
    try:
        value = loss(embeddings.requires_grad_(), labels)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            found = f"{tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
            raise ValueError(f"{name} returned {found}, must be a scalar tensor with a gradient")
        value.sum().backward()
    except ValueError:
        raise
    except Exception as error:  # of a loss that somebody else wrote
        raise ValueError(f"{name} cannot be computed ({describe_failure(error)})") from error


def _check_searched(
    space: SearchSpace, described: LossDescription, path: Path, *, has_weights: bool
) -> None:
    """Refuse a search of what nothing reads, and a loss whose weights have no learning rate."""
    miner = find_miner(space.row)
    of_loss = {*described.parameters, *TRAINING_PARAMETERS}
    read = of_loss | (set(miner.parameters) if miner else set())
    if not has_weights:
        read -= {"metric_loss_lr", "metric_loss_weight_decay"}
    for name in space.searched:
        if name not in read:
            raise UserError(
                f"{path}: search.{name} is read by nothing; {described.loss.name} reads "
                f"{', '.join(described.parameters)}"
            )
    if has_weights and "metric_loss_lr" not in space.complete(space.lowest()):
        raise UserError(
            f"{path}: {described.loss.name} has weights of its own; search or fix metric_loss_lr, "
            "their learning rate"
        )


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
