"""The words for how two rows differ. They stand here only: page, text and CSV say the same."""

from analysis.numbers.search_curve import SearchCurve
from analysis.studies.comparison import Comparison
from analysis.studies.row_record import METRICS
from analysis.text.layout import format_points
from wpm.spreads import VarianceSplit

_SIGNIFICANT = 0.05  # a difference with a smaller p-value is called one
THESE_CONFIGURATIONS, SEARCHES = "these configurations", "searches and seeds"


def word_verdict(comparison: Comparison) -> str:
    """Say in a few words what the difference of two rows shows.

    With one search of each row nothing is said about the rows: only their two configurations were
    measured, and another search would have found others.
    """
    difference, p = comparison.difference, comparison.t_p
    if difference is None:
        return "nothing to compare"
    if p is None:
        return "no interval"
    is_better = difference.mean > 0
    if len(comparison.pairs) == 1:
        if p >= _SIGNIFICANT:
            return f"no difference shown of {THESE_CONFIGURATIONS}"
        better = comparison.second if is_better else comparison.first
        return f"of {THESE_CONFIGURATIONS} that of {better.name} is better"
    if p >= _SIGNIFICANT:
        return "no clear difference"
    return "clearly better" if is_better else "clearly worse"


def name_scope(searches: int) -> str:
    """Say what an interval holds that was made from some searches."""
    return THESE_CONFIGURATIONS if searches == 1 else SEARCHES


def describe_difference(comparison: Comparison) -> str:
    """Say in sentences how the final runs of two rows differ, and what is unequal."""
    difference, p = comparison.difference, comparison.t_p
    if difference is None:
        return f"{comparison.name}: no final runs with a common seed, nothing to compare."
    metric, count = METRICS[comparison.metric], len(comparison.pairs)
    sentence = f"{comparison.name}: {format_points(difference.mean)} points of test {metric}"
    if difference.low is None or difference.high is None or p is None:
        sentence += "; no interval: there is one pair of runs, or no spread."
    else:
        low, high = format_points(difference.low), format_points(difference.high)
        pairs = f"{len(comparison.seeds)} pairs of runs"
        if count > 1:
            pairs = f"{count} searches of each row with {pairs}"
        verdict = word_verdict(comparison)
        sentence += f", 95% interval {low} to {high}, {pairs}, p = {p:.2g}: {verdict}."
    if count == 1:
        sentence += (
            " This is from one search of each row; how much another search would differ is not in "
            "it."
        )
    else:
        sentence += f" The differences have a {describe_spread(comparison.split)}."
    if comparison.unequal:
        sentence += f" Unequal: {'; '.join(comparison.unequal)}."
    return sentence


def describe_spread(split: VarianceSplit) -> str:
    """Say how much of the variance searches add, and how much seeds; at least two searches."""
    if split.seed_sd is None:
        return (
            "spread that cannot be split: with one run in each search, what searches and seeds add "
            "cannot be told apart"
        )
    seeds = f"{100 * split.seed_sd:.2f} points between seeds"
    if split.search_sd is None:
        return f"standard deviation of {seeds}; that between searches is not known from one search"
    if split.search_sd == 0:
        return (
            f"standard deviation of {seeds} and, by the estimate, 0 between searches: these differ "
            "no more than their seeds explain"
        )
    return f"standard deviation of {100 * split.search_sd:.2f} points between searches, {seeds}"


def describe_order(comparison: Comparison) -> str | None:
    """Say whether twice as many trials would turn the order of two searches, if its trend lasted.

    Returns:
        A sentence about the expected best of half the trials and of all; None below two trials.
    """
    first, second = comparison.curves
    shared = [count for count in first.counts if count in second.counts]
    if not shared or shared[-1] < 2:
        return None
    last = shared[-1]
    middle = min(shared, key=lambda count: abs(count - last / 2))
    gaps = [_expect(second, count) - _expect(first, count) for count in (middle, last)]
    change = gaps[1] - gaps[0]
    gains = [
        f"{row.name} {format_points(_expect(curve, last) - _expect(curve, middle))}"
        for row, curve in zip(comparison.rows, (first, second), strict=True)
    ]
    turns = gaps[1] * (gaps[1] + change) < 0
    return (
        f"{comparison.name}: after {middle} trials the expected best differs by "
        f"{format_points(gaps[0])} points of validation MAP@R, after {last} by "
        f"{format_points(gaps[1])}. The trials between them gained {' and '.join(gains)}. If this "
        f"went on, twice as many trials {'would' if turns else 'would not'} turn the order."
    )


def _expect(curve: SearchCurve, count: int) -> float:
    return curve.expected[curve.counts.index(count)]
