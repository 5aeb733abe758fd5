"""The words of the page: is it going well, how far is it, what needs a look."""

import json
from pathlib import Path

import pytest

from tests.support.live_page import launch_on, write_unfinished
from tests.support.searches import draw_parameters, write_course, write_searched
from tests.support.stored import write_final, write_run
from wpm.live_page.page_data import describe_overall, describe_study
from wpm.live_page.study import StudyReader
from wpm.live_page.study_view import StudyView
from wpm.records import StudyPlace, TrialState

NOW = 1.8e9


def view_of(*places: StudyPlace) -> list[StudyView]:
    return [StudyReader(place).read() for place in places]


def test_study_is_described_in_json_types_that_stay_the_same(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    write_course(place, 6, {"margin": 0.123456}, 0.4, None, epochs=2)
    write_course(place, 7, {"margin": 0.1}, 0.0, TrialState.DIVERGED)
    reader = StudyReader(place)
    described = describe_study(reader.read(), NOW)
    assert (described["name"], described["group"], described["row"]) == (
        "omniglot/small/contrastive", "omniglot/small", "contrastive",
    )  # fmt: skip
    assert described["counts"] == {"complete": 4, "stopped": 1, "diverged": 1, "failed": 1}
    assert sorted(described["states"]) == list("ccccdfs")
    assert described["scores"][described["states"].index("f")] is None
    assert (described["ended"], described["budget"]) == (7, 10)
    assert described["running"][0]["parameters"] == {"margin": "0.1235"}
    assert [epoch for epoch, _ in described["running"][0]["curve"]] == [1, 2]
    assert described["device_time"] == "7 min 4 s of workers"
    assert json.dumps(describe_study(reader.read(), NOW + 60)) == json.dumps(described)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=8)
    for number in range(8):
        (place.trial_folder(number) / "result.json").write_text("{")
    (view,) = view_of(place)
    described = describe_study(view, NOW)
    assert len(described["problems"]) == 6
    assert described["problems"][-1] == "and 3 more damaged records"
    concerns = describe_overall([view], NOW)["concerns"]
    assert "omniglot/small/contrastive+wpm: 8 records are damaged" in concerns


def test_nothing_that_runs_and_needs_no_look_rests(tmp_path: Path) -> None:
    overall = describe_overall(view_of(write_searched(tmp_path, trials=3)), NOW)
    assert (overall["mood"], overall["headline"]) == ("rest", "Finished: 1 study")
    assert overall["facts"] == "3 of 3 trials ended, 3 min 0 s of workers"
    assert overall["concerns"] == []
    nothing = describe_overall([], NOW)
    assert (nothing["headline"], nothing["facts"]) == ("No studies yet", "")


def test_search_that_runs_without_failures_goes_well(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=3)
    write_course(place, 3, draw_parameters(1)[0], 0.4, None)
    with launch_on(place, NOW):
        overall = describe_overall(
            view_of(place, write_searched(tmp_path, "triplet", 3)), NOW - 1e9
        )
    assert overall["mood"] == "good"
    assert overall["headline"] == "1 of 2 studies running, 1 training at work"


def test_every_kind_of_trouble_has_a_line(tmp_path: Path) -> None:
    silent = write_unfinished(tmp_path, "margin")
    write_course(silent, 6, draw_parameters(1)[0], 0.4, None)
    damaged = write_searched(tmp_path, "triplet", 2)
    (damaged.folder / "study.json").write_text("{")
    tested = write_searched(tmp_path, "ntxent", 2)
    write_run(write_final(tested, "aa", 0, 0.5), 1000, None)
    interrupted = write_unfinished(tmp_path, "contrastive")
    with launch_on(silent, NOW):
        views = view_of(silent, damaged, tested, interrupted)
    changed_at = views[0].running[0].training.changed_at
    overall = describe_overall(views, changed_at + 3600)
    assert overall["mood"] == "look"
    damage, *others = overall["concerns"]
    assert str(damaged.folder / "study.json") in damage
    assert others == [
        "omniglot/small/margin: nothing new of trial 6 for 1 h 0 min",
        "omniglot/small/margin: 1 trial failed",
        "omniglot/small/contrastive: 1 trial failed",
        "omniglot/small/ntxent: 1 final run failed",
        "interrupted, the same command continues: omniglot/small/contrastive",
    ]


def test_the_same_trouble_in_many_studies_leaves_what_is_best_in_sight(tmp_path: Path) -> None:
    rows = ("arcface", "circle", "margin", "ntxent", "triplet")
    views = view_of(*(write_searched(tmp_path, row, 2, failed={0: "a"}) for row in rows))
    assert describe_overall(views, NOW)["concerns"] == [
        *(f"omniglot/small/{row}: 1 trial failed" for row in rows[:3]),
        "and the same of 2 studies more",
    ]


@pytest.mark.parametrize(("known", "expected"), [(True, 60.0), (False, None)])
def test_end_is_that_of_the_last_study_if_all_are_known(
    tmp_path: Path, known: bool, expected: float | None
) -> None:
    place = write_unfinished(tmp_path)
    with launch_on(place, NOW):
        (view,) = view_of(place)
    ends = (30.0, 60.0 if known else None)
    views = [StudyView(**{**vars(view), "expected_end": end}) for end in ends]
    assert describe_overall(views, NOW)["expected_end"] == expected
