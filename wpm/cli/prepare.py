"""Flags to work: pixels decoded, studies opened or configurations chosen, for Ray to run."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.cli.console import Console
from wpm.data.datasets import load_index
from wpm.data.digests import name_first
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixels
from wpm.data.pixels import read_left_out
from wpm.errors import UserError
from wpm.jobs.payloads import training_payload
from wpm.jobs.work import WorkSource
from wpm.protocols import Protocol
from wpm.records import Chosen, StudyPlace, TrainingRecord
from wpm.rows import Row
from wpm.spaces import SearchSpace, load_space
from wpm.splits import check_splits, class_disjoint_splits
from wpm.studies.best_trials import check_same_study, choose_best_trials
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.samplers import DEFAULT_SAMPLER
from wpm.studies.search import SearchWork
from wpm.studies.study import Study
from wpm.studies.study_end import StudyEnd
from wpm.training.config import TrainingConfig

# A configuration to train again: its parameters, and where they come from.
_Choice = tuple[Mapping[str, float], Chosen]


@dataclass(frozen=True)
class Prepared:
    """Work that only needs to be run.

    Attributes:
        work: the source of it.
        places: the studies that it belongs to.
        probe: payload of a training as large as any of the work's; None where nothing is trained.
    """

    work: WorkSource
    places: Sequence[StudyPlace]
    probe: Mapping[str, Any] | None


def prepare_pixels(
    args: argparse.Namespace, protocol: Protocol, source: DataSource, console: Console
) -> Path:
    """Index the images, check that they can be split, decode the trainval half."""
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


def prepare_search(
    args: argparse.Namespace,
    protocol: Protocol,
    places: list[StudyPlace],
    source: DataSource,
    console: Console,
    held: ExitStack,
    on_study_end: Callable[[StudyEnd], None],
) -> Prepared | None:
    """Open a study for every row, decode what they train on.

    Args:
        args: of launch.py.
        protocol: of the trials.
        places: the studies; those of rows without training have nothing to search.
        source: where the images are.
        console: told what is seen.
        held: closes the studies.
        on_study_end: told when a study has ended.

    Returns:
        The trials that are left to run, None if there are none.

    Raises:
        UserError: images or studies are not what they were, or in use, or cannot be read.
    """
    pixels = prepare_pixels(args, protocol, source, console)
    searched = [place for place in places if place.row.is_trained]
    for place in places:
        if place not in searched:
            console.line(f"{place.name}: nothing to search; --best-only tests it")
    plans = [_plan_study(args, protocol, place, pixels) for place in searched]
    studies = [held.enter_context(Study(plan)) for plan in plans]
    work = SearchWork(studies, console.line, on_study_end)
    if work.exhausted:
        return None
    parameters: dict[Row, Mapping[str, float]] = {
        plan.space.row: plan.space.lowest() for plan in plans
    }
    folds = tuple(range(protocol.folds))
    return Prepared(work, places, _describe_probe(args, protocol, parameters, folds, pixels))


def _plan_study(
    args: argparse.Namespace, protocol: Protocol, place: StudyPlace, pixels: Path
) -> StudyPlan:
    space = load_space(place.row, args.search_spaces)
    return StudyPlan(
        place=place,
        space=space,
        protocol=protocol,
        images={"pixels": pixels.name},
        pixel_cache=pixels,
        trials=args.trials or protocol.trials,
        seed=args.seed,
        first_points=_first_points(args, space),
        early_stopping=not args.no_early_stopping,
        weights=args.weights,
        sampler=args.sampler or DEFAULT_SAMPLER,
        left_out=read_left_out(pixels),
    )


def _first_points(args: argparse.Namespace, space: SearchSpace) -> tuple[dict[str, float], ...]:
    """Return what a study tries first: published thresholds, and the published loss if asked."""
    point = dict(space.thresholds)
    if args.warm_start and space.row.is_trained:
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


def prepare_retraining(
    args: argparse.Namespace,
    protocol: Protocol,
    places: list[StudyPlace],
    source: DataSource,
    console: Console,
    held: ExitStack,
    on_study_end: Callable[[StudyEnd], None],
) -> Prepared | None:
    """Choose the configurations to retrain; arguments and errors as of `prepare_search`.

    Returns:
        The final runs that are left, None if there are none.
    """
    searched = [p for p in places if p.row.is_trained and not args.published]
    best = {
        place: choose_best_trials(place, args.top, allow_unfinished=args.allow_unfinished)
        for place in searched
    }
    pixels = prepare_pixels(args, protocol, source, console)
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
        runs = (args.runs or protocol.runs) if place.row.is_trained else 1
        for parameters, chosen in configurations:
            console.line(f"{place.name}: {chosen}")
            plans.append(
                FinalPlan(
                    place=place,
                    protocol=protocol,
                    parameters=parameters,
                    chosen=chosen,
                    source=source,
                    pixel_cache=pixels,
                    runs=runs,
                    weights=args.weights,
                )
            )
    work = held.enter_context(FinalRunsWork(plans, console.line, on_study_end))
    if work.exhausted:
        return None
    by_row = {plan.place.row: plan.parameters for plan in plans}
    return Prepared(work, places, _describe_probe(args, protocol, by_row, (0,), pixels))


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
    row = max(parameters, key=lambda row: (row.miner is not None, row.is_trained))
    if not row.is_trained:
        return None
    config = TrainingConfig(row, protocol, parameters[row], args.seed, folds, args.weights)
    return training_payload(Path(), pixels, config, export=False)


def _describe_choice(record: TrainingRecord) -> _Choice:
    return record.parameters, Chosen(trial=record.number, score=record.outcome.score)


def _configure_unsearched(args: argparse.Namespace, space: SearchSpace) -> _Choice:
    """Return the published configuration of a row, or that of the row without any."""
    if not space.row.is_trained:
        return {}, Chosen()
    point = space.find_published(args.dataset)
    return space.complete({**space.thresholds, **point.parameters}), Chosen(source=point.source)
