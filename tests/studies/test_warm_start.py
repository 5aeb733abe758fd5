"""Which known configurations a search tries first, and how many."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pytest

from wpm.errors import UserError
from wpm.records import FirstPoint
from wpm.rows import Row
from wpm.space_files import PublishedPoint, Range
from wpm.spaces import SearchSpace, known_losses, load_space, nothing_to_mine
from wpm.studies.warm_start import (
    NEAR,
    Known,
    WarmStart,
    choose_points,
    is_near,
    keep_usable,
    list_published,
    most_points,
)

PLAIN, MINED = Row("contrastive"), Row("contrastive", "wpm")
THRESHOLDS = {"embedding_dropout": 0.05, "channel_dropout": 0.1, "sharpness": 32.0}
MARGINS = ("pos_margin", "neg_margin")


def shipped(
    dataset: str = "omniglot",
    loss: str = "contrastive",
    earlier: Mapping[Row, Sequence[FirstPoint]] | None = None,
) -> Known:
    """Return what the files that ship know about a loss."""
    rows = (Row(loss), Row(loss, "wpm"))
    return Known({row: load_space(row, dataset=dataset) for row in rows}, dataset, earlier or {})


def origins(points: Sequence[FirstPoint]) -> list[str]:
    return [point.origin for point in points]


def margins(pos: float, neg: float, origin: str) -> FirstPoint:
    return FirstPoint({"pos_margin": pos, "neg_margin": neg}, origin)


# Which points


def test_plain_row_tries_what_was_published_on_every_data_set_its_own_first() -> None:
    points, notes = choose_points(PLAIN, WarmStart.AUTO, shipped("cars196"), 10)
    assert origins(points) == ["published cars196", "published cub200"]
    assert points[0].parameters["neg_margin"] == 0.5409405918690342
    assert notes == []


def test_points_of_sop_lie_within_the_distance_of_those_of_cars() -> None:
    space = shipped().spaces[PLAIN]
    cub, cars, sop = list_published(space, "any")
    assert is_near(cars.parameters, sop.parameters, space)
    assert not is_near(cub.parameters, cars.parameters, space)


def test_mined_row_tries_its_own_points_then_the_thresholds_on_those_of_its_twin() -> None:
    known = shipped()
    points = keep_usable(list_published(known.spaces[MINED], "cub200"), known.spaces[MINED])[0]
    assert origins(points) == ["published cub200", "published cars196"]
    alone = dataclasses.replace(known, spaces={MINED: known.spaces[MINED]})
    points, _ = choose_points(MINED, WarmStart.AUTO, alone, 10)  # type: ignore[assignment]
    assert origins(points) == [
        "published cub200", "published cars196", "published cub200 + thresholds",
    ]  # fmt: skip
    for point in points:
        assert {name: point.parameters[name] for name in THRESHOLDS} == THRESHOLDS
    assert points[2].parameters["neg_margin"] == 0.3841191369511769


def test_mined_row_without_points_of_its_own_takes_those_of_the_loss() -> None:
    points, _ = choose_points(Row("ntxent", "wpm"), WarmStart.AUTO, shipped(loss="ntxent"), 10)
    assert points
    assert all(point.origin.endswith(" + thresholds") for point in points)
    assert all(point.parameters["sharpness"] == 32 for point in points)


def test_studies_come_after_what_was_published_and_the_twins_with_thresholds_last() -> None:
    own = FirstPoint({"pos_margin": 1.0, "neg_margin": 1.0, **THRESHOLDS}, "cub200/small trial 3")
    known = shipped(
        earlier={MINED: [own], PLAIN: [margins(1.5, 1.5, "sop/small trial 7")]},
    )
    alone = dataclasses.replace(known, spaces={MINED: known.spaces[MINED]})
    points, _ = choose_points(MINED, WarmStart.AUTO, alone, 10)
    assert origins(points) == [
        "published cub200", "published cars196", "cub200/small trial 3",
        "published cub200 + thresholds", "sop/small trial 7 + thresholds",
    ]  # fmt: skip
    points, _ = choose_points(MINED, WarmStart.STUDIES, known, 10)
    assert origins(points) == ["cub200/small trial 3"], "as many as the plain row has"
    points, _ = choose_points(PLAIN, WarmStart.STUDIES, known, 10)
    assert origins(points) == ["sop/small trial 7"]
    points, _ = choose_points(MINED, WarmStart.PUBLISHED, known, 10)
    assert origins(points) == ["published cub200", "published cars196"]


def test_none_tries_nothing_not_even_the_thresholds() -> None:
    for row in (PLAIN, MINED):
        assert choose_points(row, WarmStart.NONE, shipped(), 10) == ((), [])


def test_without_known_margins_the_thresholds_stay_and_the_margins_are_sampled() -> None:
    known = shipped(loss="circle")
    points, notes = choose_points(Row("circle", "wpm"), WarmStart.AUTO, known, 10)
    assert points == (FirstPoint(THRESHOLDS, "published thresholds"),)
    assert choose_points(Row("circle"), WarmStart.AUTO, known, 10) == ((), [])
    assert notes == []


# How many


@pytest.mark.parametrize("loss", [n for n in known_losses() if not nothing_to_mine(n)])
@pytest.mark.parametrize("dataset", ["glyphs", "cub200", "cars196", "sop"])
def test_twins_get_the_same_number_on_every_loss_and_data_set(loss: str, dataset: str) -> None:
    known = shipped(dataset, loss)
    for most in (1, 2, 12):
        counts = [
            sum(
                known.spaces[row].searched.keys() <= point.parameters.keys()
                for point in choose_points(row, WarmStart.AUTO, known, most)[0]
            )
            for row in known.spaces
        ]
        assert counts[0] == counts[1] <= most


def test_row_with_more_points_than_its_twin_says_why_it_leaves_some_out() -> None:
    earlier = {PLAIN: [margins(1.0, 1.0, "a trial 1"), margins(1.5, 1.5, "b trial 2")]}
    points, notes = choose_points(PLAIN, WarmStart.STUDIES, shipped(earlier=earlier), 10)
    assert len(points) == 2 and notes == []
    earlier[MINED] = [FirstPoint({**p.parameters, **THRESHOLDS}, "c") for p in earlier[PLAIN][:1]]
    earlier[PLAIN] = []
    points, notes = choose_points(MINED, WarmStart.STUDIES, shipped(earlier=earlier), 10)
    assert origins(points) == ["published thresholds"]
    assert notes == ["tries 0 of 1 known configurations first, as many as contrastive"]


@pytest.mark.parametrize(("trials", "most"), [(1, 1), (4, 1), (7, 1), (8, 2), (50, 12)])
def test_known_points_take_a_quarter_of_the_trials_and_one_at_least(trials: int, most: int) -> None:
    assert most_points(trials) == most
    points, notes = choose_points(PLAIN, WarmStart.AUTO, shipped(), most_points(trials))
    assert len(points) == min(most, 2)
    assert notes == [], "the limit is the user's own"


# What cannot be tried


SPACE = SearchSpace(
    PLAIN,
    {"linear": Range(0, 10), "decades": Range(1e-4, 1, "log"), "whole": Range(1, 9, type="int")},
    {"fixed": 5.0},
    (),
    {},
)
POINT = {"linear": 5.0, "decades": 1e-2, "whole": 4}


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({}, True),
        ({"linear": 5.0 + 10 * NEAR * 0.99}, True),
        ({"linear": 5.0 + 10 * NEAR * 1.01}, False),
        ({"decades": 1e-2 * 10 ** (4 * NEAR * 0.99)}, True),
        ({"decades": 1e-2 * 10 ** (4 * NEAR * 1.01)}, False),
        # Each of two small differences counts alone: the distance is the largest.
        ({"linear": 5.19, "decades": 1.19e-2}, True),
        ({"whole": 5}, False),
    ],
)
def test_distance_is_the_largest_share_of_a_range(change: Mapping[str, float], near: bool) -> None:
    other = {**POINT, **change}
    differences = [
        abs(other["linear"] - 5) / 10,
        abs(math.log10(other["decades"]) + 2) / 4,
        abs(other["whole"] - 4) / 8,
    ]
    assert (max(differences) <= NEAR) is near
    assert is_near(POINT, other, SPACE) is near
    kept, left_out = keep_usable([FirstPoint(POINT, "a"), FirstPoint(other, "b")], SPACE)
    assert (origins(kept), left_out) == (["a"] if near else ["a", "b"], [])


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"linear": 10.5}, "linear 10.5 is outside the searched 0 to 10"),
        ({"decades": 0.0}, "decades 0 is outside the searched 0.0001 to 1"),
        ({"whole": 2.5}, "whole 2.5 is not whole"),
        ({"fixed": 6.0}, "fixed 6 is fixed at 5 here"),
        ({"other": 1.0}, "other is no parameter here"),
    ],
)
def test_point_outside_of_what_is_searched_is_left_out_and_named(
    change: Mapping[str, float], trouble: str
) -> None:
    kept, left_out = keep_usable([FirstPoint({**POINT, **change}, "elsewhere trial 1")], SPACE)
    assert (kept, left_out) == ([], [f"elsewhere trial 1 ({trouble})"])


def test_fixed_values_of_a_trial_are_not_searched_values() -> None:
    (point,), _ = keep_usable([FirstPoint({**POINT, "fixed": 5.0, "whole": 4.0}, "a")], SPACE)
    assert point.parameters == POINT
    assert isinstance(point.parameters["whole"], int)


def test_published_points_of_other_data_sets_are_left_out_where_ranges_are_narrower() -> None:
    row = Row("multi_similarity_miner")
    known = Known({row: load_space(row, dataset="cub200")}, "cub200")
    for choice in (WarmStart.AUTO, WarmStart.PUBLISHED):
        points, notes = choose_points(row, choice, known, 12)
        assert origins(points) == ["published cub200", "published cars196"]
        assert notes == [
            "not tried first: published sop (beta 156.617 is outside the searched 0.01 to 100)"
        ]


# What was asked for by name is refused where it cannot be had


def narrow(dataset: str) -> Known:
    known = shipped(dataset)
    space = known.spaces[PLAIN]
    searched = {**space.searched, "neg_margin": Range(0.5, 2.0)}
    return dataclasses.replace(known, spaces={PLAIN: dataclasses.replace(space, searched=searched)})


def test_what_was_published_for_this_data_set_is_refused_outside_the_range() -> None:
    message = (
        "row contrastive: published neg_margin 0.384119 is outside the searched 0.5 to 2; widen it "
        "with --search-spaces, or leave out --warm-start published"
    )
    with pytest.raises(UserError) as caught:
        choose_points(PLAIN, WarmStart.PUBLISHED, narrow("cub200"), 10)
    assert str(caught.value) == message
    points, notes = choose_points(PLAIN, WarmStart.AUTO, narrow("cub200"), 10)
    assert origins(points) == ["published cars196"]
    assert notes == [
        "not tried first: published cub200 (neg_margin 0.384119 is outside the searched 0.5 to 2)"
    ]


@pytest.mark.parametrize("choice", [WarmStart.PUBLISHED, WarmStart.STUDIES])
def test_choice_by_name_without_any_point_is_refused_in_one_line(choice: WarmStart) -> None:
    for row in (Row("circle"), Row("circle", "wpm")):
        with pytest.raises(UserError) as caught:
            choose_points(row, choice, shipped(loss="circle"), 10)
        assert str(caught.value).startswith(f"row {row}: ")
        assert f"--warm-start {choice}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_point_published_for_any_data_set_is_named_by_its_source() -> None:
    point = PublishedPoint("any", "a paper", None, {"linear": 1.0})
    space = dataclasses.replace(SPACE, published=(point,))
    assert origins(list_published(space, "omniglot")) == ["published a paper"]
