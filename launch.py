#!/usr/bin/env python
"""Search margins and mining thresholds, retrain and test the best, or tell how far things are."""

import argparse
import dataclasses
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wpm.arguments import AUTO, DEFAULT_ROWS, EXIT_BAD_INPUT, build_parser
from wpm.config import Protocol, Row, default_protocol, find_protocol
from wpm.errors import UserError

if TYPE_CHECKING:  # slow to import: only once the arguments are known to be good
    from wpm.budget import MeteredWork
    from wpm.cluster import Resources
    from wpm.console import Console
    from wpm.datasets import DataSource
    from wpm.notify import Notifier
    from wpm.records import StudyPlace, TrainingRecord
    from wpm.spaces import SearchSpace
    from wpm.study import StudyPlan
    from wpm.work import StudyEnd, WorkSource

    # Work, its studies, and a training of its size.
    _Prepared = tuple[WorkSource, list[StudyPlace], Mapping[str, Any] | None]

_ANSWER_S = 10.0  # that a cluster's head may take to answer
# How a launch ended, as `--notify` is told; a doctor's findings end one too.
FINISHED, OVER, INTERRUPTED, FAILED, ILL = "finished", "budget", "interrupted", "failed", "ill"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = build_parser(__doc__).parse_args(arguments)
    notifier: Notifier | None = None
    event, message = FAILED, ""
    try:
        if args.watch is not None and not args.status:
            raise UserError("--watch needs --status: it prints the status again and again")
        if args.status:
            return _show_status(args)
        notifier = _make_notifier(args)
        event = _launch(args, notifier)
        return EXIT_BAD_INPUT if event == ILL else 0
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(f"launch.py: error: {error}", file=sys.stderr)
        message = str(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        if args.status:
            return 0
        print("launch.py: interrupted; give the same command again to continue", file=sys.stderr)
        event = INTERRUPTED
        return 130
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        if notifier is not None:
            notifier.tell_launch(event, message)
            for line in notifier.complaints:
                print(f"launch.py: {line}", file=sys.stderr)


def _make_notifier(args: argparse.Namespace) -> "Notifier":
    from wpm.notify import Notifier, split_command

    command = [] if args.notify is None else split_command(args.notify)
    studies = " ".join(f"{args.dataset}/{row}" for row in args.rows or DEFAULT_ROWS)
    return Notifier(command, studies, args.run_root)


def _show_status(args: argparse.Namespace) -> int:
    from wpm.status import describe_status, watch_status

    if args.address == "local":
        watch_status(lambda: describe_status(args.run_root), print, args.watch)
        return 0
    from wpm.cluster import Resources, call_on_a_node, connect, run_on_head

    root = args.run_root.resolve()
    if args.address.startswith(("http://", "https://")):
        if args.watch is not None:
            raise UserError("--watch needs an --address of Ray itself, HOST:PORT, or none")
        command = ["python", "launch.py", "--status", "--run-root", str(root)]
        print(run_on_head(args.address, command))
        return 0
    _check_address(args.address)
    with connect(Resources(args.address, 1, 0)):
        watch_status(lambda: call_on_a_node(describe_status, root), print, args.watch)
    return 0


def _launch(args: argparse.Namespace, notifier: "Notifier") -> str:
    """Do what was asked; return how it ended."""
    if args.published and not args.best_only:
        raise UserError("--published needs --best-only: it trains without a search")
    if args.address.startswith("http"):
        raise UserError(
            f"--address {args.address}: http addresses are for --status; give HOST:PORT"
        )
    if args.top > 1 and (args.published or not args.best_only):
        raise UserError("--top needs --best-only after a search, without --published")
    rows = _parse_rows(args)
    if args.sampler is not None:
        from wpm.study import build_sampler

        build_sampler(args.sampler, args.seed, trials=0)
    protocol = find_protocol(
        args.protocol or default_protocol(args.dataset),
        args.dataset,
        trunk=args.trunk,
        precision=args.precision,
    )
    _check_writable(args.run_root)
    _check_writable(args.work_root)
    _check_address(args.address)

    from wpm.model import check_model

    args.weights = _find_weights(args, protocol)
    check_model(protocol, args.weights)
    for row in rows:
        _check_parameters(row, args.search_spaces)

    from wpm.console import Console
    from wpm.datasets import DataSource
    from wpm.records import StudyPlace

    # Absolute: workers run elsewhere.
    source = DataSource(
        args.dataset,
        None if args.data_root is None else args.data_root.resolve(),
        args.work_root.resolve(),
        args.skip_unreadable,
    )
    places = [
        StudyPlace(args.run_root.resolve(), args.dataset, protocol.name, str(row)) for row in rows
    ]
    if args.doctor or args.dry_run:
        return _look_ahead(args, protocol, places, source)
    with Console() as console:
        if args.fetch and args.rows is None and not args.best_only:
            _prepare_pixels(args, protocol, source, console)
            console.line("fetched; next: the same command with --rows in place of --fetch")
            return FINISHED
        prepare = _prepare_retraining if args.best_only else _prepare_search
        with ExitStack() as held:
            hear = notifier.tell_study
            prepared = prepare(args, protocol, places, source, console, held, hear)
            if prepared is not None and not _run(args, *prepared, console, hear):
                return OVER
        console.clear()
        hint = "python -m analysis.table" if args.best_only else "python launch.py --best-only"
        console.line(f"done; next: {hint} with the same selection")
    return FINISHED


def _parse_rows(args: argparse.Namespace) -> list[Row]:
    """Check rows against the search spaces before anything slow starts."""
    from wpm.spaces import SPACES_FOLDER, TABLE_ROWS, load_space

    args.search_spaces = args.search_spaces or SPACES_FOLDER
    asked = args.rows or DEFAULT_ROWS
    names = [n for name in asked for n in (TABLE_ROWS if name == "all" else (name,))]
    rows = [Row.parse(name) for name in dict.fromkeys(names)]
    for row in rows:
        load_space(row, args.search_spaces)
    return rows


def _check_parameters(row: Row, folder: Path) -> None:
    """Refuse a search space that lacks a parameter of its loss, before trials fail for it."""
    import torch

    from wpm.losses import build_loss
    from wpm.spaces import load_space

    if not row.trained:
        return
    space = load_space(row, folder)
    parameters = space.complete({name: r.low for name, r in space.searched.items()})
    try:
        with torch.random.fork_rng(devices=[]):
            build_loss(row, parameters, num_classes=2, embedding_dim=2)
    except UserError as error:
        raise UserError(f"{folder / row.loss}.toml: {error}, searched or fixed") from error


def _find_weights(args: argparse.Namespace, protocol: Protocol) -> str:
    """Return the trunk's weights file, fetched if asked; "random" for trunks without one."""
    from wpm.datasets import fetch_archive
    from wpm.model import RANDOM_WEIGHTS, find_weights, find_weights_page, needs_weights

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


def _check_writable(folder: Path) -> None:
    """Refuse a folder that records could not be written to."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder}: cannot be written ({existing} is not a writable folder); choose another"
        )


def _check_address(address: str) -> None:
    """Refuse a cluster that nobody answers for, before anything is written or decoded."""
    if address == "local":
        return
    there, where = address, "there"
    if address == "auto":
        from wpm.cluster import find_cluster

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


def _prepare_pixels(
    args: argparse.Namespace, protocol: Protocol, source: "DataSource", console: "Console"
) -> Path:
    """Index the images, check that they can be split, decode the trainval half."""
    from wpm.contents import name_first
    from wpm.datasets import load_index
    from wpm.pixels import build_pixels, read_left_out
    from wpm.splits import check_splits, class_disjoint_splits

    index = load_index(source, fetch=args.fetch)
    splits = class_disjoint_splits(index.labels, protocol.folds)
    check_splits(splits, index.labels)
    console.line(
        f"{index.dataset}: {len(index.paths)} images, {len(index.class_names)} classes, "
        f"{len(splits.trainval_classes)} of them to train and validate on, "
        f"{len(splits.test_classes)} kept for the test"
    )

    def show(done: int, total: int) -> None:
        console.live(lambda: f"decoding: {done} of {total} images")

    trainval = index.subset(splits.trainval_classes)
    folder = build_pixels(
        trainval, protocol.resize, source.work_root, show, skip_unreadable=source.skip_unreadable
    )
    left_out = read_left_out(folder)
    if left_out:
        console.line(
            f"left out: {len(left_out)} of {len(trainval.paths)} images to train and validate on "
            f"cannot be read: {name_first(left_out)} (all in {folder / 'meta.json'})"
        )
    return folder


def _look_ahead(
    args: argparse.Namespace,
    protocol: Protocol,
    places: "list[StudyPlace]",
    source: "DataSource",
) -> str:
    """Print what is wrong with the cluster, or what a launch would take."""
    from wpm.cluster import Resources, ask_nodes, connect, count_gpus, list_nodes
    from wpm.datasets import load_index
    from wpm.disk import GIB, FolderSize
    from wpm.doctor import Undertaking, estimate_disk, examine
    from wpm.forecast import forecast_finals, forecast_search, format_forecasts
    from wpm.machine import count_slots

    trials, runs = args.trials or protocol.trials, args.runs or protocol.runs
    weights, run_root = Path(args.weights), args.run_root.resolve()
    index = load_index(source, fetch=args.fetch)
    for folder in (run_root, source.work_root):
        folder.mkdir(parents=True, exist_ok=True)
    asked = None if args.gpus_per_trial == AUTO else args.gpus_per_trial
    resources = Resources(args.address, args.cpus_per_trial, asked)
    with connect(resources):
        gpus = count_gpus(resources)
        undertaking = Undertaking(
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
            grave = 0
            for finding in examine(undertaking, ask_nodes):
                print(finding)
                grave += finding.grave
            print(f"{grave} to mend before a search" if grave else "nothing to mend")
            return ILL if grave else FINISHED
        forecasts = [
            forecast_finals(place, protocol, runs, args.top)
            if args.best_only
            else forecast_search(place, trials)
            for place in places
        ]
        nodes = list_nodes()
        slots = count_slots(nodes, args.cpus_per_trial, gpus)
        print(format_forecasts(forecasts, slots, gpus, estimate_disk(undertaking, nodes)))
        if args.max_disk is not None:
            used = FolderSize(run_root).measure()
            cap = args.max_disk * GIB
            print(f"{run_root} holds {used / 1e9:.2f} GB of {cap / 1e9:.2f} (--max-disk)")
    return FINISHED


def _prepare_search(
    args: argparse.Namespace,
    protocol: Protocol,
    places: "list[StudyPlace]",
    source: "DataSource",
    console: "Console",
    held: ExitStack,
    hear_study_end: "Callable[[StudyEnd], None]",
) -> "_Prepared | None":
    from wpm.search import SearchWork
    from wpm.study import Study

    pixels = _prepare_pixels(args, protocol, source, console)
    searched = [place for place in places if Row.parse(place.row).trained]
    for place in places:
        if place not in searched:
            console.line(f"{place.name}: nothing to search; --best-only tests it")
    plans = [_plan_study(args, protocol, place, pixels) for place in searched]
    studies = [held.enter_context(Study(plan)) for plan in plans]
    work = SearchWork(studies, console.line, hear_study_end)
    if work.exhausted:
        return None
    parameters: dict[Row, Mapping[str, float]] = {
        plan.space.row: plan.space.complete({n: r.low for n, r in plan.space.searched.items()})
        for plan in plans
    }
    folds = tuple(range(protocol.folds))
    return work, places, _describe_probe(args, protocol, parameters, folds, pixels)


def _plan_study(
    args: argparse.Namespace, protocol: Protocol, place: "StudyPlace", pixels: Path
) -> "StudyPlan":
    from wpm.pixels import read_left_out
    from wpm.spaces import load_space
    from wpm.study import DEFAULT_SAMPLER, StudyPlan

    space = load_space(Row.parse(place.row), args.search_spaces)
    return StudyPlan(
        place=place,
        space=space,
        protocol=protocol,
        images={"pixels": pixels.name},
        pixels=pixels,
        trials=args.trials or protocol.trials,
        seed=args.seed,
        first_points=_first_points(args, space),
        early_stopping=not args.no_early_stopping,
        weights=args.weights,
        sampler=args.sampler or DEFAULT_SAMPLER,
        left_out=read_left_out(pixels),
    )


def _first_points(args: argparse.Namespace, space: "SearchSpace") -> tuple[dict[str, float], ...]:
    """Return what a study tries first: published thresholds, and the published loss if asked."""
    from wpm.spaces import published_thresholds

    point = dict(published_thresholds(args.search_spaces)) if space.row.mined else {}
    if args.warm_start and space.row.trained:
        point |= space.find_published(args.dataset).parameters
        for name, value in point.items():
            searched = space.searched[name]
            if not searched.contains(value):
                raise UserError(
                    f"row {space.row}: published {name} {value:g} is outside the searched "
                    f"{searched.low:g} to {searched.high:g}; widen it with --search-spaces, or "
                    "leave out --warm-start"
                )
    return (point,) if point else ()


def _prepare_retraining(
    args: argparse.Namespace,
    protocol: Protocol,
    places: "list[StudyPlace]",
    source: "DataSource",
    console: "Console",
    held: ExitStack,
    hear_study_end: "Callable[[StudyEnd], None]",
) -> "_Prepared | None":
    from wpm.retrain import RetrainPlan, RetrainWork, check_same_study, choose_best_trials
    from wpm.study import record_plan

    searched = [p for p in places if Row.parse(p.row).trained and not args.published]
    best = {
        place: choose_best_trials(place, args.top, allow_unfinished=args.allow_unfinished)
        for place in searched
    }
    pixels = _prepare_pixels(args, protocol, source, console)
    plans = []
    for place in places:
        if place in best:
            check_same_study(place, protocol, pixels, args.weights)
            configurations = [_describe_choice(record) for record in best[place]]
        else:
            study = _plan_study(args, protocol, place, pixels)
            configurations = [_configure_unsearched(args, study.space)]
            record_plan(study, trials=0)
        # Nothing is drawn at random where nothing is trained.
        runs = (args.runs or protocol.runs) if Row.parse(place.row).trained else 1
        for parameters, chosen, told in configurations:
            console.line(f"{place.name}: {told}")
            plans.append(
                RetrainPlan(
                    place=place,
                    protocol=protocol,
                    parameters=parameters,
                    chosen=chosen,
                    source=source,
                    pixels=pixels,
                    runs=runs,
                    weights=args.weights,
                )
            )
    work = held.enter_context(RetrainWork(plans, console.line, hear_study_end))
    if work.exhausted:
        return None
    by_row = {Row.parse(plan.place.row): plan.parameters for plan in plans}
    return work, places, _describe_probe(args, protocol, by_row, (0,), pixels)


def _describe_probe(
    args: argparse.Namespace,
    protocol: Protocol,
    parameters: Mapping[Row, Mapping[str, float]],
    folds: tuple[int, ...],
    pixels: Path,
) -> Mapping[str, Any] | None:
    """Describe a training as large as any of the rows': one with mining, if one has it.

    Returns:
        Its payload, None where nothing is trained.
    """
    from wpm.config import TrainingConfig
    from wpm.jobs import training_payload

    row = max(parameters, key=lambda row: (row.mined, row.trained))
    if not row.trained:
        return None
    config = TrainingConfig(str(row), protocol, parameters[row], args.seed, folds, args.weights)
    return training_payload(Path(), pixels, config, export=False)


# A configuration to retrain: its parameters, where they come from, and that in words.
_Choice = tuple[dict[str, float], dict[str, Any], str]


def _describe_choice(record: "TrainingRecord") -> _Choice:
    assert record.result is not None
    number, score = record.identity["number"], record.result["score"]
    told = f"trial {number}, validation MAP@R {score:.4f}"
    return record.identity["parameters"], {"trial": number, "score": score}, told


def _configure_unsearched(args: argparse.Namespace, space: "SearchSpace") -> _Choice:
    """Return the published configuration of a row, or that of the row without any."""
    from wpm.spaces import published_thresholds

    if not space.row.trained:
        return {}, {"trial": None, "score": None}, "the trunk as it comes, without training"
    point = space.find_published(args.dataset)
    thresholds = published_thresholds(args.search_spaces) if space.row.mined else {}
    parameters = space.complete({**thresholds, **point.parameters})
    chosen = {"trial": None, "score": None, "published": point.source}
    return parameters, chosen, f"as published ({point.source})"


def _run(
    args: argparse.Namespace,
    work: "WorkSource",
    places: "list[StudyPlace]",
    probe: Mapping[str, Any] | None,
    console: "Console",
    hear_study_end: "Callable[[StudyEnd], None]",
) -> bool:
    """Run work on Ray, with everything that libraries print in a log file.

    Returns:
        Whether it ran to its end, and no budget ended it.
    """
    from wpm.console import log_to_file
    from wpm.records import new_log

    log = new_log(args.run_root.resolve())
    console.line(f"log: {log}")
    console.live(lambda: "starting Ray ...")
    with log_to_file(log):
        from wpm.cluster import (
            Resources,
            StoppedBySignalError,
            ask_nodes,
            connect,
            measure_gpus,
            run_work,
        )
        from wpm.doctor import check_shared

        asked = None if args.gpus_per_trial == AUTO else args.gpus_per_trial
        resources = Resources(args.address, args.cpus_per_trial, asked)
        try:
            with connect(resources) as dashboard:
                if dashboard:
                    console.line(f"Ray's dashboard: http://{dashboard}")
                if args.address != "local":
                    check_shared([args.run_root.resolve(), args.work_root.resolve()], ask_nodes)
                if args.gpus_per_trial == AUTO and probe is not None:
                    resources = dataclasses.replace(resources, gpus=measure_gpus(probe))
                    console.line(f"GPUs a trial, measured: {resources.gpus:.3g}")
                metered = _meter(args, work, places, probe, resources, console, hear_study_end)
                run_work(metered, resources, args.run_root.resolve(), console.live, metered.over)
        except StoppedBySignalError:
            raise KeyboardInterrupt from None
    console.clear()
    if work.remaining and metered.over():
        console.line(f"stopped at {metered.over()}; the same command with more goes on")
        return False
    return not (work.remaining and metered.retired)


def _meter(
    args: argparse.Namespace,
    work: "WorkSource",
    places: "list[StudyPlace]",
    probe: Mapping[str, Any] | None,
    resources: "Resources",
    console: "Console",
    hear_study_end: "Callable[[StudyEnd], None]",
) -> "MeteredWork":
    """Put the work under the budgets that the flags give."""
    from wpm.budget import Budget, MeteredWork
    from wpm.cluster import count_gpus
    from wpm.disk import GIB, DiskCap
    from wpm.records import gpu_seconds, read_all_reports
    from wpm.work import STUDY_BUDGET, StudyEnd

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
        for place in (places if in_gpu_hours else [])
    }

    def announce(study: str, reason: str) -> None:
        console.line(f"{study} stopped at {reason}; the same command with more goes on")
        hear_study_end(StudyEnd(study, STUDY_BUDGET, f"stopped at {reason}"))

    metered = MeteredWork(work, budget, spent, announce=announce)
    if args.max_disk is not None:
        cap = DiskCap(
            args.run_root, args.max_disk * GIB, _checkpoint_bytes(probe), lambda: metered.running
        )
        metered.cap_disk(cap.over)
    return metered


def _checkpoint_bytes(probe: Mapping[str, Any] | None) -> int:
    """Estimate a checkpoint of a training of that size; 0 where nothing is trained."""
    from wpm.config import TrainingConfig
    from wpm.doctor import estimate_checkpoint
    from wpm.pixels import Pixels

    if probe is None:
        return 0
    config = TrainingConfig.from_json(probe["config"])
    channels = Pixels(Path(probe["pixels"])).channels
    return estimate_checkpoint(config.protocol, channels, len(config.folds))


if __name__ == "__main__":
    sys.exit(main())
