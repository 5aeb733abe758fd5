"""Say which difference of twins the planned searches and runs would find, from past records."""

from collections.abc import Iterator, Sequence

from wpm.records import StudyPlace, best_tested, find_studies, read_finals
from wpm.rows import Row
from wpm.spreads import RunScores, detectable_difference, pair_scores, split_variance

_FEWEST_SEARCHES = 3  # with two, the interval is 12.7 standard errors to each side


def describe_power(places: Sequence[StudyPlace], searches: int, runs: int) -> list[str]:
    """Return a line for each pair of twins whose records say how searches and runs vary.

    Args:
        places: the studies that a launch works on.
        searches: how many searches of each row it plans.
        runs: how many final runs of each search.
    """
    lines = []
    for plain, mined in _find_twins(places):
        differences = pair_scores(_read_scores(plain), _read_scores(mined))
        split = split_variance([[*scores.values()] for scores in differences.values()])
        spread = split.mean_sd(runs)
        if spread is None:
            continue
        shown = searches if searches > 1 else _FEWEST_SEARCHES
        points = 100 * detectable_difference(spread, shown)
        start = f"{mined.dataset}/{mined.protocol}: {mined.row} against {plain.row}: "
        if searches == 1:
            start += f"one search does not say how another would differ; --searches {shown} with "
        else:
            start += f"{shown} searches with "
        final_runs = "1 final run" if runs == 1 else f"{runs} final runs"
        lines.append(
            f"{start}{final_runs} find a difference of {points:.2f} points of test MAP@R in 4 "
            f"of 5 cases, if they vary as the {split.searches} searches in the records do (python "
            "-m analysis.plan says what finds smaller ones)"
        )
    return lines


def _find_twins(places: Sequence[StudyPlace]) -> Iterator[tuple[StudyPlace, StudyPlace]]:
    """Yield every pair of a plain row and its twin among studies, in the order of the rows."""
    first: dict[Row, StudyPlace] = {}
    for place in places:
        first.setdefault(place.row, place)
    for row, place in first.items():
        if row.twin is not None and row.twin in first:
            yield first[row.twin], place


def _read_scores(place: StudyPlace) -> RunScores:
    """Return the concatenated test MAP@R of the tested runs of all searches of a row."""
    studies = find_studies(place.run_root, place.dataset, place.protocol, str(place.row))
    scores = {}
    for study in studies:
        finals, _ = read_finals(study)
        best = best_tested(finals)
        if best is not None:
            scores[study.search] = {run.seed: run.concatenated["map_at_r"] for run in best.tested}
    return scores
