"""Which difference planned searches would find, by hand-computed spreads of stored final runs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.stored import write_final, write_run, write_search
from wpm.cli.power import describe_power
from wpm.records import StudyPlace, find_studies
from wpm.spreads import detectable_effect

# Differences 1, 1; 2, 4; 5, 5 points: mean square within 2 / 3, between 2 x 4, in points squared.
GAINS = [(0.01, 0.01), (0.02, 0.04), (0.05, 0.05)]
SEARCH_VARIANCE, SEED_VARIANCE = (8 - 2 / 3) / 2, 2 / 3


def write_twins(root: Path, gains: Sequence[Sequence[float]] = GAINS, loss: str = "nca") -> None:
    for row in (loss, f"{loss}+wpm"):
        for number, runs in enumerate(gains, start=1):
            place = write_search(root, row, search=number)
            final = write_final(place, "aa", trial=3, score=0.3)
            for run, gain in enumerate(runs):
                base = 0.5 + 0.1 * number + 0.02 * run
                write_run(final, 1000 * number + run, base + (gain if "+" in row else 0.0))


def places_of(root: Path) -> list[StudyPlace]:
    return find_studies(root)


def test_spreads_of_the_records_say_what_searches_would_find(tmp_path: Path) -> None:
    write_twins(tmp_path)
    (line,) = describe_power(places_of(tmp_path), searches=4, runs=5)
    points = (SEARCH_VARIANCE + SEED_VARIANCE / 5) ** 0.5 * detectable_effect(4)
    assert line == (
        f"omniglot/small: nca+wpm against nca: 4 searches with 5 final runs find a difference of "
        f"{points:.2f} points of test MAP@R in 4 of 5 cases, if they vary as the 3 searches in the "
        "records do (python -m analysis.plan says what finds smaller ones)"
    )


def test_one_search_is_said_not_to_be_enough(tmp_path: Path) -> None:
    write_twins(tmp_path)
    (line,) = describe_power(places_of(tmp_path), searches=1, runs=2)
    points = (SEARCH_VARIANCE + SEED_VARIANCE / 2) ** 0.5 * detectable_effect(3)
    assert "one search does not say how another would differ; --searches 3 with 2" in line
    assert f"a difference of {points:.2f} points" in line


def test_each_pair_of_twins_has_a_line(tmp_path: Path) -> None:
    write_twins(tmp_path)
    write_twins(tmp_path, loss="margin")
    write_search(tmp_path, "triplet")
    lines = describe_power(places_of(tmp_path), searches=3, runs=3)
    assert [line.split(": ")[1] for line in lines] == [
        "margin+wpm against margin", "nca+wpm against nca",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "gains", [[], [()], [(0.01, 0.02)], [(0.01,), (0.02,)]],
    ids=["no study", "no run", "one search", "one run in each"],
)  # fmt: skip
def test_records_that_do_not_suffice_say_nothing(
    gains: Sequence[Sequence[float]], tmp_path: Path
) -> None:
    write_twins(tmp_path, gains)
    assert describe_power(places_of(tmp_path), searches=3, runs=3) == []


def test_damaged_run_is_left_out(tmp_path: Path) -> None:
    write_twins(tmp_path)
    (tmp_path / "omniglot/small/nca/finals/aa/seed-1000/result.json").write_text("{")
    assert len(describe_power(places_of(tmp_path), searches=3, runs=3)) == 1
