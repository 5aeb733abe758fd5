"""The commands of `launch.py`: search, final runs, dry run, doctor and status."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wpm.cli.arguments import AUTO, DEFAULT_ROWS
from wpm.cli.checks import (
    check_address,
    check_parameters,
    check_writable,
    locate_weights,
    parse_rows,
)
from wpm.errors import UserError
from wpm.protocols import Protocol, default_protocol, find_protocol

if TYPE_CHECKING:
    from wpm.cli.console import Console
    from wpm.cli.notify import Notifier
    from wpm.cli.prepare import Prepared
    from wpm.cluster.connection import Resources
    from wpm.data.index import DataSource
    from wpm.records import StudyPlace
    from wpm.studies.budget import MeteredWork
    from wpm.studies.study_end import StudyEnd

# How a launch ended, as `--notify` is told; a doctor's findings end one too.
FINISHED, OVER, INTERRUPTED, FAILED, ILL = "finished", "budget", "interrupted", "failed", "ill"


def make_notifier(args: argparse.Namespace) -> "Notifier":
    """Return what runs the command of `--notify`, or nothing without one."""
    from wpm.cli.notify import Notifier, split_command

    command = [] if args.notify is None else split_command(args.notify)
    studies = " ".join(f"{args.dataset}/{row}" for row in args.rows or DEFAULT_ROWS)
    return Notifier(command, studies, args.run_root)


def show_status(args: argparse.Namespace) -> int:
    """Print the studies of the run folder, here or on a cluster's head; return the exit code."""
    from wpm.cli.status import describe_status, watch_status

    if args.address == "local":
        watch_status(lambda: describe_status(args.run_root), print, args.watch)
        return 0
    from wpm.cluster.connection import Resources, connect
    from wpm.cluster.remote import call_on_a_node, run_on_head

    root = args.run_root.resolve()
    if args.address.startswith(("http://", "https://")):
        if args.watch is not None:
            raise UserError("--watch needs an --address of Ray itself, HOST:PORT, or none")
        command = ["python", "launch.py", "--status", "--run-root", str(root)]
        print(run_on_head(args.address, command))
        return 0
    check_address(args.address)
    with connect(Resources(args.address, 1, 0)):
        watch_status(lambda: call_on_a_node(describe_status, root), print, args.watch)
    return 0


def launch(args: argparse.Namespace, notifier: "Notifier") -> str:
    """Do what was asked; return how it ended."""
    if args.published and not args.best_only:
        raise UserError("--published needs --best-only: it trains without a search")
    if args.address.startswith("http"):
        raise UserError(
            f"--address {args.address}: http addresses are for --status; give HOST:PORT"
        )
    if args.top > 1 and (args.published or not args.best_only):
        raise UserError("--top needs --best-only after a search, without --published")
    rows = parse_rows(args)
    if args.sampler is not None:
        from wpm.studies.samplers import build_sampler

        build_sampler(args.sampler, args.seed, trials=0)
    protocol = find_protocol(
        args.protocol or default_protocol(args.dataset),
        args.dataset,
        trunk=args.trunk,
        precision=args.precision,
    )
    check_writable(args.run_root)
    check_writable(args.work_root)
    check_address(args.address)

    from wpm.model.embedding import check_model

    args.weights = locate_weights(args, protocol)
    check_model(protocol, args.weights)
    for row in rows:
        check_parameters(row, args.search_spaces)

    from wpm.cli.console import Console
    from wpm.cli.prepare import prepare_pixels, prepare_retraining, prepare_search
    from wpm.data.index import DataSource
    from wpm.records import StudyPlace

    # Absolute: workers run elsewhere.
    source = DataSource(
        args.dataset,
        None if args.data_root is None else args.data_root.resolve(),
        args.work_root.resolve(),
        args.skip_unreadable,
    )
    places = [StudyPlace(args.run_root.resolve(), args.dataset, protocol.name, row) for row in rows]
    if args.doctor or args.dry_run:
        return _look_ahead(args, protocol, places, source)
    with Console() as console:
        if args.fetch and args.rows is None and not args.best_only:
            prepare_pixels(args, protocol, source, console)
            console.line("fetched; next: the same command with --rows in place of --fetch")
            return FINISHED
        prepare = prepare_retraining if args.best_only else prepare_search
        with ExitStack() as held:
            hear = notifier.tell_study
            prepared = prepare(args, protocol, places, source, console, held, hear)
            if prepared is not None and not _run(args, prepared, console, hear):
                return OVER
        console.clear()
        hint = "python -m analysis.table" if args.best_only else "python launch.py --best-only"
        console.line(f"done; next: {hint} with the same selection")
    return FINISHED


def _look_ahead(
    args: argparse.Namespace,
    protocol: Protocol,
    places: "list[StudyPlace]",
    source: "DataSource",
) -> str:
    """Print what is wrong with the cluster, or what a launch would take."""
    from wpm.cli.forecast import forecast_finals, forecast_search, format_forecasts
    from wpm.cluster.connection import Resources, connect, count_gpus
    from wpm.cluster.disk_needs import PlannedRun, estimate_disk
    from wpm.cluster.doctor import examine
    from wpm.cluster.nodes import ask_nodes, count_slots, list_nodes
    from wpm.data.datasets import load_index
    from wpm.studies.disk_cap import GIB, FolderSize

    trials, runs = args.trials or protocol.trials, args.runs or protocol.runs
    weights, run_root = Path(args.weights), args.run_root.resolve()
    index = load_index(source, fetch=args.fetch)
    for folder in (run_root, source.work_root):
        folder.mkdir(parents=True, exist_ok=True)
    asked = None if args.gpus_per_trial == AUTO else args.gpus_per_trial
    resources = Resources(args.address, args.cpus_per_trial, asked)
    with connect(resources):
        gpus = count_gpus(resources)
        planned = PlannedRun(
            run_root=run_root,
            source=source,
            index=index,
            protocol=protocol,
            rows=len(places),
            trials=trials,
            runs=runs * args.top,
            weights=weights if weights.is_file() else None,
            cpus=args.cpus_per_trial,
            gpus=gpus,
        )
        if args.doctor:
            blocking = 0
            for finding in examine(planned, ask_nodes):
                print(finding)
                blocking += finding.blocking
            print(f"{blocking} to fix before a search" if blocking else "nothing to fix")
            return ILL if blocking else FINISHED
        forecasts = [
            forecast_finals(place, protocol, runs, args.top)
            if args.best_only
            else forecast_search(place, trials)
            for place in places
        ]
        nodes = list_nodes()
        slots = count_slots(nodes, args.cpus_per_trial, gpus)
        print(format_forecasts(forecasts, slots, gpus, estimate_disk(planned, nodes)))
        if args.max_disk is not None:
            used = FolderSize(run_root).measure()
            cap = args.max_disk * GIB
            print(f"{run_root} holds {used / 1e9:.2f} GB of {cap / 1e9:.2f} (--max-disk)")
    return FINISHED


def _run(
    args: argparse.Namespace,
    prepared: "Prepared",
    console: "Console",
    on_study_end: "Callable[[StudyEnd], None]",
) -> bool:
    """Run work on Ray, with everything that libraries print in a log file.

    Returns:
        Whether it ran to its end, and no budget ended it.
    """
    from wpm.cli.console import log_to_file, new_log

    log = new_log(args.run_root.resolve())
    console.line(f"log: {log}")
    console.live(lambda: "starting Ray ...")
    with log_to_file(log):
        from wpm.cluster.connection import Resources, connect
        from wpm.cluster.doctor import check_shared
        from wpm.cluster.gpu_share import measure_gpus
        from wpm.cluster.nodes import ask_nodes
        from wpm.cluster.runner import StoppedBySignalError, run_work

        asked = None if args.gpus_per_trial == AUTO else args.gpus_per_trial
        resources = Resources(args.address, args.cpus_per_trial, asked)
        try:
            with connect(resources) as dashboard:
                if dashboard:
                    console.line(f"Ray's dashboard: http://{dashboard}")
                if args.address != "local":
                    check_shared([args.run_root.resolve(), args.work_root.resolve()], ask_nodes)
                if args.gpus_per_trial == AUTO and prepared.probe is not None:
                    gpus = measure_gpus(prepared.probe)
                    resources = dataclasses.replace(resources, gpus=gpus)
                    console.line(f"GPUs a trial, measured: {resources.gpus:.3g}")
                metered = _meter(args, prepared, resources, console, on_study_end)
                run_work(
                    metered, resources, args.run_root.resolve(), console.live, metered.limit_reached
                )
        except StoppedBySignalError:
            raise KeyboardInterrupt from None
    console.clear()
    remaining = prepared.work.remaining
    if remaining and metered.limit_reached():
        console.line(f"stopped at {metered.limit_reached()}; the same command with more goes on")
        return False
    return not (remaining and metered.stopped_studies)


def _meter(
    args: argparse.Namespace,
    prepared: "Prepared",
    resources: "Resources",
    console: "Console",
    on_study_end: "Callable[[StudyEnd], None]",
) -> "MeteredWork":
    """Put the work under the budgets that the flags give."""
    from wpm.cluster.connection import count_gpus
    from wpm.records import gpu_seconds, read_all_reports
    from wpm.studies.budget import Budget, MeteredWork
    from wpm.studies.disk_cap import GIB, DiskCap
    from wpm.studies.study_end import STUDY_BUDGET, StudyEnd

    budget = Budget(
        hours=args.max_hours,
        study_hours=args.max_hours_per_study,
        gpu_hours=args.max_gpu_hours,
        study_gpu_hours=args.max_gpu_hours_per_study,
    )
    in_gpu_hours = budget.gpu_hours is not None or budget.study_gpu_hours is not None
    if in_gpu_hours and count_gpus(resources) == 0:
        flag = "--max-gpu-hours" + ("-per-study" if budget.gpu_hours is None else "")
        raise UserError(f"{flag} has no meaning where trials take no GPU; use --max-hours")
    # Read for these budgets only: it takes as long as a ranking.
    spent = {
        place.name: {folder: gpu_seconds(r) for folder, r in read_all_reports(place).items()}
        for place in (prepared.places if in_gpu_hours else [])
    }

    def announce(study: str, reason: str) -> None:
        console.line(f"{study} stopped at {reason}; the same command with more goes on")
        on_study_end(StudyEnd(study, STUDY_BUDGET, f"stopped at {reason}"))

    metered = MeteredWork(prepared.work, budget, spent, announce=announce)
    if args.max_disk is not None:
        cap = DiskCap(
            args.run_root,
            args.max_disk * GIB,
            _checkpoint_bytes(prepared.probe),
            lambda: metered.running,
        )
        metered.cap_disk(cap.limit_reached)
    return metered


def _checkpoint_bytes(probe: Mapping[str, Any] | None) -> int:
    """Estimate a checkpoint of a training of that size; 0 where nothing is trained."""
    from wpm.cluster.disk_needs import estimate_checkpoint
    from wpm.data.pixels import Pixels
    from wpm.training.config import TrainingConfig

    if probe is None:
        return 0
    config = TrainingConfig.from_json(probe["config"])
    channels = Pixels(Path(probe["pixels"])).channels
    return estimate_checkpoint(config.protocol, channels, len(config.folds))
