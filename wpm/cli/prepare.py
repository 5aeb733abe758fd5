"""Turn a launch's plan into work for Ray: open studies, choose configurations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wpm.cli.console import Console
from wpm.cli.launch_plan import LaunchPlan
from wpm.cli.prepare_images import PreparedImages, prepare_images
from wpm.data.pixels import read_findings, read_left_out
from wpm.jobs.payloads import training_payload
from wpm.jobs.work import WorkSource
from wpm.records import Chosen, StudyPlace, TrainingRecord, read_study, remove_empty_study
from wpm.rows import Row
from wpm.spaces import SearchSpace
from wpm.studies.best_trials import check_same_loss, check_same_study, choose_best_trials
from wpm.studies.earlier_searches import add_first_points, describe_first_points
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.samplers import DEFAULT_SAMPLER
from wpm.studies.search import SearchWork
from wpm.studies.seeds import search_seed
from wpm.studies.study import Study
from wpm.studies.study_end import StudyEnd
from wpm.studies.warm_start import WarmStart
from wpm.training.config import TrainingConfig

OnStudyEnd = Callable[[StudyEnd], None]

# A configuration to train again: its parameters, and where they come from.
_Choice = tuple[Mapping[str, float], Chosen]


@dataclass(frozen=True)
class Prepared:
    """Work that only needs to be run.

    Attributes:
        work: hands out the work.
        places: the studies that the work belongs to.
        probe: payload of a training as large as the largest of the work, to measure what one
            takes; None where nothing is trained.
    """

    work: WorkSource
    places: Sequence[StudyPlace]
    probe: Mapping[str, Any] | None


def prepare_search(
    plan: LaunchPlan, console: Console, stack: ExitStack, on_study_end: OnStudyEnd
) -> Prepared | None:
    """Decode the images, and open a study for every search of a row that can be searched.

    Args:
        plan: what the launch works on.
        console: shows the progress.
        stack: closes the studies.
        on_study_end: called when a study has ended.

    Returns:
        The trials that are left to run; None if there are none.

    Raises:
        UserError: the images cannot be read, or a study is in use, damaged or of another plan.
    """
    images = prepare_images(plan, console)
    searched = [place for place in plan.places if place.row.is_trained]
    for place in plan.places:
        if place not in searched:
            console.line(f"{place.name}: nothing to search; --best-only tests it")
    said = list[tuple[StudyPlace, str]]()
    study_plans = [_plan_search(plan, place, images, said) for place in searched]
    studies = [stack.enter_context(Study(study_plan)) for study_plan in study_plans]
    for study in studies:
        if not study.started and (words := describe_first_points(study.plan)):
            said.append((study.plan.place, words))
    say_together(said, console)
    work = SearchWork(studies, console.line, on_study_end)
    if work.exhausted:
        return None
    parameters = {study_plan.place.row: study_plan.space.lowest() for study_plan in study_plans}
    folds = tuple(range(plan.protocol.folds))
    return Prepared(work, plan.places, _describe_probe(plan, parameters, folds, images.pixel_cache))


def _plan_search(
    plan: LaunchPlan, place: StudyPlace, images: PreparedImages, said: list[tuple[StudyPlace, str]]
) -> StudyPlan:
    """Plan a search with what it tries first; add what is known and not tried to what is said."""
    choice = WarmStart(plan.options.warm_start)
    study_plan, notes = add_first_points(
        _plan_study(plan, place, images), choice, plan.options.search_spaces
    )
    said += [(place, note) for note in notes]
    return study_plan


def say_together(said: Sequence[tuple[StudyPlace, str]], console: Console) -> None:
    """Print a line about each study; searches of a row of which the same is true share one."""
    groups: dict[tuple[StudyPlace, str], list[StudyPlace]] = {}
    for place, words in said:
        groups.setdefault((replace(place, search=1), words), []).append(place)
    for (_, words), places in groups.items():
        others = "".join(f", search {place.search}" for place in places[1:])
        console.line(f"{places[0].name}{others}: {words}")


def _plan_study(plan: LaunchPlan, place: StudyPlace, images: PreparedImages) -> StudyPlan:
    space = plan.spaces[place]
    return StudyPlan(
        place=place,
        space=space,
        protocol=plan.protocol,
        images=images.identity,
        pixel_cache=images.pixel_cache,
        trials=plan.trials,
        seed=search_seed(plan.options.seed, place.search),
        stopping=plan.stopping,
        weights=plan.weights,
        sampler=plan.options.sampler or DEFAULT_SAMPLER,
        new_trial_seeds=plan.options.trial_seeds == "new",
        left_out=read_left_out(images.pixel_cache),
        findings=Counter(finding for _, finding in read_findings(images.pixel_cache)),
        split=images.split,
        notes=images.notes,
    )


def prepare_retraining(
    plan: LaunchPlan, console: Console, stack: ExitStack, on_study_end: OnStudyEnd
) -> Prepared | None:
    """Choose the configurations to retrain.

    Arguments and errors are those of `prepare_search`.

    Returns:
        The final runs that are left to do; None if there are none.
    """
    options = plan.options
    best = {
        place: choose_best_trials(place, options.top, allow_unfinished=options.allow_unfinished)
        for place in plan.places
        if place.row.is_trained and not options.published
    }
    images = prepare_images(plan, console)
    final_plans = []
    for place in plan.places:
        if place in best:
            check_same_study(place, plan.protocol, images.pixel_cache, plan.weights, images.split)
            check_same_loss(place, plan.spaces[place].loss)
            configurations = [_describe_choice(record) for record in best[place]]
        else:
            configurations = [_configure_unsearched(plan, plan.spaces[place])]
            if read_study(place) is None:
                stack.push(partial(_remove_unused, place))
            record_plan(_plan_study(plan, place, images), trials=0)
        for parameters, chosen in configurations:
            console.line(f"{place.name}: {chosen}")
            final_plans.append(
                FinalPlan(
                    place=place,
                    protocol=plan.protocol,
                    parameters=parameters,
                    chosen=chosen,
                    source=plan.source,
                    pixel_cache=images.pixel_cache,
                    # Without training nothing is random: one run says everything.
                    runs=plan.runs if place.row.is_trained else 1,
                    weights=plan.weights,
                    loss=plan.spaces[place].loss,
                )
            )
    work = stack.enter_context(FinalRunsWork(final_plans, console.line, on_study_end))
    if work.exhausted:
        return None
    by_row = {final_plan.place.row: final_plan.parameters for final_plan in final_plans}
    return Prepared(work, plan.places, _describe_probe(plan, by_row, (0,), images.pixel_cache))


def _remove_unused(place: StudyPlace, kind: type[BaseException] | None, *_: object) -> None:
    """Remove a new study if the launch failed before it wrote any record into it."""
    if kind is not None:
        remove_empty_study(place)


def _describe_probe(
    plan: LaunchPlan,
    parameters: Mapping[Row, Mapping[str, float]],
    folds: tuple[int, ...],
    pixel_cache: Path,
) -> Mapping[str, Any] | None:
    """Return the payload of a training of the largest row: one with a miner if there is one.

    Returns:
        None where nothing is trained.
    """
    row = max(parameters, key=lambda row: (row.miner is not None, row.is_trained))
    if not row.is_trained:
        return None
    config = TrainingConfig(
        row,
        plan.protocol,
        parameters[row],
        plan.options.seed,
        folds,
        plan.weights,
        loss={place.row: space.loss for place, space in plan.spaces.items()}[row],
    )
    return training_payload(Path(), pixel_cache, config, export=False)


def _describe_choice(record: TrainingRecord) -> _Choice:
    return record.parameters, Chosen(trial=record.number, score=record.outcome.score)


def _configure_unsearched(plan: LaunchPlan, space: SearchSpace) -> _Choice:
    """Return the published configuration of a row, or that of the row without training."""
    if not space.row.is_trained:
        return {}, Chosen()
    point = space.find_published(plan.source.dataset)
    return space.complete({**space.thresholds, **point.parameters}), Chosen(source=point.source)
