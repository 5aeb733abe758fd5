"""Find what earlier searches know, and add to a study's plan what it tries first."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wpm.errors import UserError
from wpm.miners import MINERS
from wpm.records import (
    FirstPoint,
    SearchCost,
    StudyPlace,
    TrainingRecord,
    TrialState,
    count_known,
    device_hours,
    find_studies,
    read_study,
    read_trials,
    trial_numbers,
    validation_order,
)
from wpm.rows import Row
from wpm.spaces import SearchSpace, load_space
from wpm.studies.best_trials import check_same_study, choose_best_trials
from wpm.studies.plan import StudyPlan
from wpm.studies.warm_start import (
    Known,
    WarmStart,
    choose_points,
    keep_usable,
    most_points,
    with_thresholds,
)


def add_first_points(
    plan: StudyPlan, choice: WarmStart, spaces_folder: Path
) -> tuple[StudyPlan, list[str]]:
    """Add to a plan what its search tries first.

    A search that has begun keeps what it began with, so nothing is looked for then.

    Args:
        plan: the study, without first points.
        choice: where they come from.
        spaces_folder: where the TOML files of the rows lie.

    Returns:
        The plan, and lines about points that are not tried.

    Raises:
        UserError: there is nothing of what was asked for by name.
    """
    place = plan.place
    if choice is WarmStart.TWIN and place.row.twin is None:
        # Its study exists, or the launch is refused for the row with the miner.
        study = read_study(place)
        kept = WarmStart.AUTO if study is None else study["identity"]["warm_start"]
        return replace(plan, warm_start=kept), []
    plan = replace(plan, warm_start=choice)
    if trial_numbers(place):
        return plan, []
    if choice is WarmStart.TWIN:
        return _begin_like_twin(plan)
    spaces = load_rows_of_loss(plan.space, spaces_folder, place.dataset)
    earlier, notes = {}, []
    if choice in (WarmStart.AUTO, WarmStart.STUDIES):
        for row in spaces:
            earlier[row], problems = find_earlier(plan, row)
            notes += problems
    known = Known(spaces, place.dataset, earlier)
    begun = _count_known_of_others(place, spaces)
    points, more_notes = choose_points(place.row, choice, known, most_points(plan.trials), begun)
    return replace(plan, first_points=points), [*notes, *more_notes]


def load_rows_of_loss(space: SearchSpace, folder: Path, dataset: str) -> dict[Row, SearchSpace]:
    """Return the search spaces of every row of a loss: alone, and behind each miner.

    Args:
        space: that of one of them.
        folder: where the TOML files lie.
        dataset: name of the data set.
    """
    loss = space.row.loss
    spaces = {}
    for row in (Row(loss), *(Row(loss, miner) for miner in MINERS)):
        # A row that cannot be searched, because its files are wrong or missing, is nobody's twin.
        with suppress(UserError):
            spaces[row] = space if row == space.row else load_space(row, folder, dataset)
    return spaces


def _count_known_of_others(place: StudyPlace, rows: Mapping[Row, SearchSpace]) -> dict[str, int]:
    """Return with how many known configurations the other rows of a loss began, by study."""
    counts = {}
    for row in rows:
        other = replace(place, row=row)
        study = None if row == place.row else read_study(other)
        if study is not None and study["trials"]:
            # Studies of earlier versions began with none, unless they were asked to.
            counts[other.name] = count_known(study) or 0
    return counts


def find_earlier(plan: StudyPlan, row: Row) -> tuple[list[FirstPoint], list[str]]:
    """Find the best complete trial of each study of a row on another data set or protocol.

    Studies of the same data set under another split are passed over: they may have chosen their
    best trial on images that are test images here.

    Returns:
        The points in the order of the studies' names, those of the same data set first, and one
        line for each study that cannot be read.
    """
    here = plan.place
    points, problems = [], []
    places = find_studies(here.run_root, row=str(row))
    for place in sorted(places, key=lambda place: (place.dataset != here.dataset, place.name)):
        if (place.dataset, place.protocol) == (here.dataset, here.protocol):
            continue
        try:
            best = _find_best(place, plan)
        except UserError as error:
            problems.append(f"nothing is tried first of {place.name}: {error}")
            continue
        if best is not None:
            where = f"{place.dataset}/{place.protocol}"
            where += place.name.removeprefix(f"{where}/{row}")  # further searches have a number
            points.append(FirstPoint(best.parameters, f"{where} trial {best.number}"))
    return points, problems


def _find_best(place: StudyPlace, plan: StudyPlan) -> TrainingRecord | None:
    """Return a study's best complete trial that may be known to the search of a plan."""
    study = read_study(place)
    if study is None:
        return None
    if place.dataset == plan.place.dataset and study["identity"].get("split") != plan.split:
        return None
    records, problems = read_trials(place)
    if problems:
        raise UserError(problems[0])
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    return min(complete, key=lambda r: validation_order(r.outcome.score, r.number), default=None)


def _begin_like_twin(plan: StudyPlan) -> tuple[StudyPlan, list[str]]:
    """Add the best trials of the row without the miner, and what finding them took.

    Raises:
        UserError: there is none, or it was searched with other images, weights or settings.
    """
    twin = plan.place.row.twin
    assert twin is not None
    place = replace(plan.place, row=twin)
    best = choose_best_trials(place, None, allow_unfinished=True)
    check_same_study(place, plan.protocol, plan.pixel_cache, plan.weights, plan.split)
    points = [FirstPoint(record.parameters, f"twin trial {record.number}") for record in best]
    usable, left_out = keep_usable(with_thresholds(points, plan.space), plan.space)
    if not usable:
        raise UserError(
            f"row {plan.place.row}: no trial of {place.name} can be tried here: "
            f"{'; '.join(left_out)}; widen the ranges with --search-spaces, or take another "
            "--warm-start"
        )
    started = replace(
        plan,
        first_points=tuple(usable[: most_points(plan.trials)]),
        twin_cost=_measure_search(place),
    )
    return started, [f"not tried first: {'; '.join(left_out)}"] if left_out else []


def _measure_search(place: StudyPlace) -> SearchCost:
    """Return what the trials of a study that have ended took."""
    results = [record.result for record in read_trials(place)[0] if record.result is not None]
    return SearchCost(
        len(results),
        sum(result.epochs for result in results),
        math.fsum(device_hours(result) for result in results),
    )


def describe_first_points(plan: StudyPlan) -> str:
    """Say what a search tries first; "" if the sampler chooses everything."""
    origins = [f"trial {n} {point.origin}" for n, point in enumerate(plan.first_points)]
    return f"tried first: {', '.join(origins)}" if origins else ""
