"""Checks that need neither torch nor images, so that wrong flags are refused within a second."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from wpm.cli.options import LaunchOptions
from wpm.cluster.ray_files import find_ray_folder
from wpm.data.parts import SPLIT_FOLDERS
from wpm.errors import UserError
from wpm.loss_description import suggest
from wpm.protocol_files import default_protocol, read_protocol
from wpm.rows import Row
from wpm.spaces import SPACES_FOLDER, SearchSpace, load_spaces
from wpm.studies.seeds import MAX_SEARCHES
from wpm.studies.warm_start import WarmStart

PIPELINE_DATASETS = ("cub200", "cars196")  # the row without training was published for these
_CONNECT_TIMEOUT_S = 10.0


def check_options(options: LaunchOptions) -> list[SearchSpace]:
    """Check flags, rows, folders and the cluster's address before anything slow starts.

    Returns:
        The search space of each row. Every file was read once.

    Raises:
        UserError: a flag contradicts another, or names something that does not exist.
    """
    check_combinations(options)
    rows = map(Row.parse, options.table_rows)
    spaces = load_spaces(rows, options.search_spaces, options.dataset)
    check_datasets(options, spaces)
    if options.sampler is not None:
        from wpm.studies.samplers import build_sampler  # imports Optuna

        build_sampler(options.sampler, options.seed, trials=0)
    check_protocol(options)
    check_writable(options.run_root)
    check_writable(options.work_root)
    if options.address != "local":
        check_address(options.address)
    elif not (options.only_fetches or options.check_pipeline):  # these need no Ray
        find_ray_folder()
    return spaces


def check_datasets(options: LaunchOptions, spaces: Sequence[SearchSpace]) -> None:
    """Refuse ranges of a data set that does not exist."""
    from wpm.data.datasets import DATASETS  # imports numpy and Pillow

    for space in spaces:
        for dataset in space.datasets:
            if dataset not in DATASETS:
                raise UserError(
                    f"{options.search_spaces}: dataset.{dataset} of row {space.row} is not known"
                    f"{suggest(dataset, DATASETS)}; choose from {', '.join(DATASETS)}"
                )


def check_protocol(options: LaunchOptions) -> None:
    """Refuse a protocol that does not exist, is not understood, or does not fit the changes.

    Where the images decide which protocol it is, only the changes are checked.

    Raises:
        UserError: names the file, the field and the rule.
    """
    name = options.named_protocol
    if name is None:
        options.protocol_changes()
        return
    options.find_protocol(name)
    from wpm.data.datasets import DATASETS  # imports numpy and Pillow

    for file in read_protocol(name, options.protocols_folder):
        unknown = sorted(file.datasets.keys() - DATASETS.keys())
        if unknown:
            raise UserError(
                f"{file.path}: dataset.{unknown[0]} is not known; choose from {', '.join(DATASETS)}"
            )


def check_combinations(options: LaunchOptions) -> None:
    """Refuse flags that have no meaning without, or together with, another flag."""
    if options.watch is not None and not options.status:
        raise UserError("--watch needs --status: it prints the status again and again")
    if options.serve is not None and options.address != "local":
        raise UserError(
            f"--address {options.address}: --serve reads the folder on its own machine; run it on "
            "one that has the folder, such as the head: docs/cluster.md"
        )
    if options.status or options.serve is not None:
        return  # it reads neither the flags of searches nor those of final runs
    if options.same_classes and options.split is None:
        raise UserError("--same-classes needs --split: the protocol's halves share no class")
    if options.split == SPLIT_FOLDERS and options.classes_by is not None:
        raise UserError(
            "--classes-by has no meaning with --split folders: a class is named by its path below "
            "the folder of its half"
        )
    if options.published and not options.best_only:
        raise UserError("--published needs --best-only: it trains without a search")
    if options.address.startswith("http"):
        raise UserError(
            f"--address {options.address}: http addresses are for --status; give HOST:PORT"
        )
    if options.check_pipeline:
        check_published_figures(options)
    check_searches(options)
    if options.warm_start == WarmStart.TWIN and not options.best_only:
        check_twins(options)
    if options.top > 1 and (options.published or not options.best_only):
        raise UserError("--top needs --best-only after a search, without --published")


def check_searches(options: LaunchOptions) -> None:
    """Refuse more searches, or more final runs of each, than there are seeds for.

    Raises:
        UserError: names the flag and the limit.
    """
    if options.searches == 1:
        return
    if options.published:
        raise UserError(
            "--published trains one configuration that no search of yours chose, so --searches has "
            "no meaning; --runs repeats it with more seeds"
        )
    if options.searches > MAX_SEARCHES:
        raise UserError(
            f"--searches {options.searches} is too large, must be at most {MAX_SEARCHES}: final "
            "runs of more searches would have seeds of trials"
        )


def check_twins(options: LaunchOptions) -> None:
    """Refuse to begin with a twin's trials where a row has no twin that was searched before it.

    Raises:
        UserError: names the row.
    """
    rows = [Row.parse(name) for name in options.table_rows]
    twins = {row.twin for row in rows}
    for row in rows:
        if row.twin is None and row.is_trained and row not in twins:
            raise UserError(
                f"--warm-start twin: row {row} has no miner, so there is no plain twin to begin "
                "with; search it with another --warm-start"
            )


def check_published_figures(options: LaunchOptions) -> None:
    """Refuse to check a pipeline that is not the published one: it has no published figures.

    Raises:
        UserError: names the flag.
    """
    if options.dataset not in PIPELINE_DATASETS:
        raise UserError(
            f"--check-pipeline has no published figures of {options.dataset}; give --dataset "
            f"{' or '.join(PIPELINE_DATASETS)}"
        )
    given = {
        "--rows": options.rows,
        "--protocol": options.protocol not in (None, default_protocol(options.dataset)),
        "--set": options.settings,
        "--trunk": options.trunk,
        "--precision": options.precision,
        "--search-spaces": options.search_spaces != SPACES_FOLDER,
        "--weights random": options.weights == "random",
        "--split": options.split,
        "--dry-run": options.dry_run,
    }
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise UserError(
            f"--check-pipeline checks the published pipeline, which has figures to compare with; "
            f"leave out {flag}"
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written."""
    existing = folder.resolve()
    while not os.access(existing, os.F_OK):  # `exists` raises errors below a hidden folder
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder}: cannot be written ({existing} is not a writable folder); choose another"
        )


def check_address(address: str) -> None:
    """Refuse the address of a cluster that does not answer."""
    if address == "local":
        return
    target, where = address, "there"
    if address == "auto":
        from wpm.cluster.connection import find_cluster  # imports Ray

        target = find_cluster()
        where = f"at {target} (from RAY_ADDRESS, or where Ray last ran)"
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(
            f"--address {address}: nothing answers {where} ({error}); give the address that ray "
            "start printed on the head, or --address auto on a node of the cluster"
        ) from error
