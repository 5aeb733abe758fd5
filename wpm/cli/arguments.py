"""The flags of launch.py."""

import argparse
from pathlib import Path

from wpm import __version__
from wpm.cli.parser import CommandParser, at_least, not_negative, positive
from wpm.protocols import PRECISIONS, PROTOCOL_NAMES

DEFAULT_ROWS = ("contrastive", "contrastive+wpm")
WATCH_S = 10.0
AUTO = "auto"  # in place of a number of GPUs

EXAMPLES = """examples:
  python launch.py                                    search the default rows on the embedded images
  python launch.py --best-only                        retrain and test the best configurations
  python launch.py --status                           how far every study is
  python launch.py --dataset cub200 --fetch           download images and weights, no more
  python launch.py --dataset cub200 --rows all        the published table under its protocol
  python launch.py --dataset omniglot --data-root DIR --rows contrastive contrastive+wpm --trials 12
  python launch.py --dataset folder --data-root DIR --rows triplet triplet+wpm

Give an interrupted command again to continue it.
"""


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of all flags, which says what is wrong in one line.

    Args:
        description: of the command.
    """
    parser = CommandParser(
        prog="launch.py",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"wpm {__version__}")
    what = parser.add_argument_group("what to do (default: search)").add_mutually_exclusive_group()
    what.add_argument(
        "--best-only",
        action="store_true",
        help="retrain each study's best configuration and test it",
    )
    what.add_argument(
        "--doctor",
        action="store_true",
        help="look the cluster over: disks, versions, GPUs, clocks, ports; exit code 2 if ill",
    )
    what.add_argument(
        "--status", action="store_true",
        help="print the progress of all studies and exit; with --address, as a node there sees it",
    )  # fmt: skip

    parser.add_argument(
        "--watch", nargs="?", type=positive, const=WATCH_S, metavar="S",
        help=f"--status again every S seconds [{WATCH_S:g}], while a launch works on any study",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print studies, trials, expected hours and disk; start nothing",
    )
    parser.add_argument(
        "--notify", metavar="CMD",
        help="command to run when a study or the launch ends, told by WPM_EVENT and others: "
        "docs/search.md",
    )  # fmt: skip

    which = parser.add_argument_group("which studies")
    which.add_argument(
        "--dataset",
        default="glyphs",
        help="glyphs, omniglot, folder, cub200, cars196 or sop [glyphs]",
    )
    which.add_argument(
        "--data-root", type=Path, metavar="DIR", help="the images: a folder or a zip"
    )
    which.add_argument(
        "--fetch", action="store_true",
        help="download images and weights where possible; without --rows, no more than that",
    )  # fmt: skip
    which.add_argument(
        "--skip-unreadable", action="store_true",
        help="go on without images that are damaged or gone, and record which",
    )  # fmt: skip
    which.add_argument(
        "--rows", nargs="+", metavar="ROW",
        help=f"LOSS or LOSS+wpm, or: all (the published table) [{' '.join(DEFAULT_ROWS)}]",
    )  # fmt: skip
    which.add_argument(
        "--protocol",
        help=f"{' or '.join(PROTOCOL_NAMES)} [mlrc for cub200, cars196 and sop, else small]",
    )
    which.add_argument(
        "--trunk", metavar="NAME", help="another trunk than the protocol's: docs/protocol.md"
    )
    which.add_argument(
        "--precision", choices=PRECISIONS, help="of trunk and embedder [float32, as published]"
    )
    which.add_argument(
        "--search-spaces", type=Path, metavar="DIR", help="TOML files of the rows [search_spaces]"
    )
    which.add_argument("--weights", metavar="FILE", help="the trunk's ImageNet weights, or: random")
    which.add_argument("--seed", type=at_least(0), default=0, help="of sampler and trainings [0]")

    budget = parser.add_argument_group("budget")
    budget.add_argument("--trials", type=at_least(1), help="trials a study, however they end")
    budget.add_argument("--runs", type=at_least(1), help="final runs (seeds) a configuration")
    budget.add_argument(
        "--top", type=at_least(1), default=1, metavar="N",
        help="--best-only with the N best configurations; the table shows the best [1]",
    )  # fmt: skip
    budget.add_argument(
        "--no-early-stopping", action="store_true", help="let every trial run to its patience"
    )
    budget.add_argument(
        "--sampler", metavar="NAME", help="what chooses configurations: docs/search.md [tpe]"
    )
    budget.add_argument(
        "--warm-start", choices=["published"], help="try the published configurations first"
    )
    budget.add_argument(
        "--published", action="store_true", help="--best-only with the published configurations"
    )
    budget.add_argument(
        "--allow-unfinished", action="store_true", help="--best-only on studies with trials to go"
    )
    budget.add_argument(
        "--max-hours", type=positive, metavar="H", help="of this launch; then checkpoint and stop"
    )
    budget.add_argument(
        "--max-hours-per-study", type=positive, metavar="H",
        help="of each study in this launch; then its trials checkpoint and stop",
    )  # fmt: skip
    budget.add_argument(
        "--max-gpu-hours", type=positive, metavar="H",
        help="of all selected studies, earlier launches included; then checkpoint and stop",
    )  # fmt: skip
    budget.add_argument(
        "--max-gpu-hours-per-study", type=positive, metavar="H",
        help="of each study; then its trials checkpoint and stop, and the other studies go on",
    )  # fmt: skip
    budget.add_argument(
        "--max-disk", type=positive, metavar="GIB",
        help="of the whole run folder; checkpoint and stop before it would be passed",
    )  # fmt: skip

    where = parser.add_argument_group("where")
    where.add_argument("--run-root", type=Path, default=Path("runs"), help="records [runs]")
    where.add_argument(
        "--work-root", type=Path, default=Path("data"), help="decoded and unpacked images [data]"
    )
    where.add_argument(
        "--address",
        type=_address,
        default="local",
        help="local, or auto or HOST:PORT of a Ray cluster; --status takes http://HOST:PORT too "
        "[local]",
    )
    where.add_argument(
        "--cpus-per-trial", type=positive, default=1.0, help="cores and torch threads [1]"
    )
    where.add_argument(
        "--gpus-per-trial", type=_gpus, metavar="N",
        help="fractions allowed; auto: measure one step [1 where there are GPUs]",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _address(text: str) -> str:
    _, _, port = text.rpartition(":")
    if text not in ("local", "auto") and not port.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not local, auto or HOST:PORT, such as 10.0.0.1:6379"
        )
    return text


def _gpus(text: str) -> float | str:
    if text == AUTO:
        return AUTO
    value = not_negative(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(f"{text} must be a fraction below 1 or a whole number")
    return value
