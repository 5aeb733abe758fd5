"""Write one HTML page about some studies; it can be read offline."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.command_line import build_parser, run_main
from analysis.studies.selection import find_selected, report_problems
from wpm.cli.parser import any_path
from wpm.files import write_bytes

DESCRIPTION = """Write one self-contained HTML page about the selected studies.

The page shows what was run, the results table, what within-pair mining gains, with intervals, and
the final runs. Each study has a section with its progress, parameters, boundary check and failures,
and with what its best models retrieve, if python -m analysis.embed was run. The page names records
that are missing or damaged. docs/report.md says how to read it.
"""
EXAMPLES = """  python -m analysis.report --dataset omniglot --out report.html
  python -m analysis.embed --dataset omniglot && python -m analysis.report --dataset omniglot
"""


def _write_report(args: argparse.Namespace) -> None:
    from analysis.report_page.page import build_page  # imported late, so that --help starts fast

    places, missing = find_selected(args)
    page, problems = build_page(places, args.embeddings, missing, _repeat_command(args))
    report_problems(problems)
    data = page.encode()
    write_bytes(args.out, data)
    print(f"{args.out}: {len(places)} studies, {len(data) / 1e6:.1f} MB")


def _repeat_command(args: argparse.Namespace) -> str:
    """Return the command that writes the same page again."""
    command = ["python", "-m", "analysis.report"]
    for flag in ("dataset", "protocol", "row"):
        names = getattr(args, flag)
        command += [f"--{flag}", *names] if names else []
    command += ["--search", *map(str, args.search)] if args.search else []
    command += ["--run-root", str(args.run_root)] if args.run_root != Path("runs") else []
    return shlex.join(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.report", DESCRIPTION, EXAMPLES, ("html",))
    parser.add_argument(
        "--out", type=any_path, default="report.html", help="file to write [report.html]"
    )
    parser.add_argument(
        "--embeddings", type=any_path, default="embeddings", metavar="DIR",
        help="folder that python -m analysis.embed wrote [embeddings]",
    )  # fmt: skip
    return run_main(parser, _write_report, arguments)


if __name__ == "__main__":
    sys.exit(main())
