"""Print the results table: the test scores of the final runs of every row."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.published import add_against
from analysis.studies.row_results import read_row
from analysis.studies.selection import read_studies, report_problems, select_studies
from analysis.studies.table_blocks import make_blocks
from analysis.text.footnotes import Footnotes, describe_block
from analysis.text.latex import LATEX
from analysis.text.side_by_side import format_side_by_side
from analysis.text.table import format_blocks
from wpm.errors import UserError
from wpm.formatting import FORMATS

DESCRIPTION = """Print the results table: the test scores of the rows' final runs.

Scores are P@1, R-precision and MAP@R, concatenated (the fold models of a run together) and
separated (each fold model alone, then averaged): the mean over the runs ± the half-width of its 95%
confidence interval (Student t). A single run has no interval. Scores are in percent for people and
fractions in CSV; '-' means that there are no final runs.
"best trial" is the trial whose configuration was trained, the best of the search by validation
MAP@R; "trials" is how many trials ended, of the budget; "search h" and "runs h" are the
device-hours of all trials and of the final runs. Notes [1], [2], ... below the table say what is
unequal or unfinished about a number.

--against published adds (published number, ours minus it in percentage points), and the published
rows that were not run here. --format latex and --side-by-side use the published layout: one table
for each protocol, data sets side by side. LaTeX needs the packages booktabs and graphicx.
"""
EXAMPLES = """  python -m analysis.table --dataset omniglot
  python -m analysis.table --dataset omniglot --row contrastive contrastive+wpm --format markdown
  python -m analysis.table --dataset cub200 cars196 --against published --format latex
"""


def _print_table(args: argparse.Namespace) -> None:
    beside = args.side_by_side or args.format == LATEX
    if beside and args.format == "csv":
        raise UserError(
            "--side-by-side is not for csv, which has one line for each row and data set"
        )
    rows = read_studies(select_studies(args), read_row)
    blocks = make_blocks(rows, args.against, args.row, args.dataset or ())
    if beside:
        if args.dataset:
            blocks.sort(key=lambda block: args.dataset.index(block.dataset))
        print(format_side_by_side(blocks, args.format))
        return
    # A data set without a study has lines only if numbers of it were published.
    blocks = [block for block in blocks if block.rows or block.published]
    print(format_blocks(blocks, args.format))
    if args.format == "csv":  # the table has no place for notes
        report_problems([line for block in blocks for line in describe_block(block)])
        report_problems([line for block in blocks for line in Footnotes([block]).texts])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.table", DESCRIPTION, EXAMPLES, (*FORMATS, LATEX))
    add_against(
        parser, "compare with the published numbers (cub200 and cars196 under protocol mlrc)"
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="put data sets side by side, as in the published table",
    )
    return run_main(parser, _print_table, arguments)


if __name__ == "__main__":
    sys.exit(main())
