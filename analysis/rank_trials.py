"""Rank the trials of each study by validation MAP@R."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.conditions import parse_conditions
from analysis.studies.published import add_against
from analysis.studies.ranking import merge_rankings, read_ranking
from analysis.studies.selection import read_studies, report_problems, select_studies
from analysis.text.ranking import Choice, compare_trace, describe_progress, format_rankings
from analysis.text.trial_columns import check_columns
from wpm.cli.parser import at_least

DESCRIPTION = """Rank the trials of each study by validation MAP@R.

The score of a trial is the mean over the folds of the best validation MAP@R, followed by the sample
standard deviation over the folds: in percent for people, as fractions in CSV and in conditions.
Complete trials come first; then trials that successive halving stopped, whose scores come from
fewer epochs or folds; then running trials (best so far); then failed ones. Device-hours are those
of training and validation. Below each study, a note says how far its best complete trial lies from
the edges of the searched ranges, as a share of the searched scale (in decades if it is
logarithmic).

Columns have the names of the CSV headings; parameters are columns too. A trial that has no value
for a column meets no condition on it.
"""
EXAMPLES = """  python -m analysis.rank_trials --dataset omniglot --row contrastive+wpm --top 10
  python -m analysis.rank_trials --across --where 'sharpness > 16 and epochs >= 10' --top 20
  python -m analysis.rank_trials --sort device_hours --columns trial score device_hours sharpness
  python -m analysis.rank_trials --dataset glyphs --format csv > trials.csv
  python -m analysis.rank_trials --dataset cub200 --against published
"""


def _print_rankings(args: argparse.Namespace) -> None:
    choice = Choice(
        conditions=[condition for part in args.where for condition in part],
        sort=args.sort,
        descending=args.descending,
        columns=args.columns,
        top=args.top,
        against=args.against,
        progress=args.progress,
    )
    rankings = read_studies(select_studies(args), read_ranking)
    trials = [trial for ranking in rankings for trial in ranking.trials]
    check_columns(trials, choice.conditions, choice.sort, choice.columns)
    shown = [merge_rankings(rankings)] if args.across else rankings
    print(format_rankings(shown, args.format, choice))
    if args.format == "csv" or args.across:  # the table has no place for notes
        for ranking in rankings:
            if args.progress:
                report_problems([f"{ranking.name}: {describe_progress(ranking)}"])
            if args.against:
                report_problems([f"{ranking.name}: {compare_trace(ranking)}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.rank_trials", DESCRIPTION, EXAMPLES)
    what = parser.add_argument_group("what to show")
    what.add_argument(
        "--across", action="store_true", help="rank the trials of all studies together"
    )
    what.add_argument(
        "--where", type=parse_conditions, action="append", default=[], metavar="CONDITION",
        help="only trials with: NAME OP NUMBER [and ...]; may be given several times",
    )  # fmt: skip
    what.add_argument("--sort", metavar="COLUMN", help="sort by a column instead of the rank")
    what.add_argument(
        "--descending", action="store_true", help="with --sort: the largest value first"
    )
    what.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="show these columns, in this order",
    )
    what.add_argument(
        "--top", type=at_least(1), metavar="N", help="only the first N trials of each ranking"
    )
    what.add_argument(
        "--progress", action="store_true",
        help="below each ranking, compare the first trial with the best",
    )  # fmt: skip
    add_against(
        parser, "below each ranking, compare its progress with that of the published search"
    )
    return run_main(parser, _print_rankings, arguments)


if __name__ == "__main__":
    sys.exit(main())
