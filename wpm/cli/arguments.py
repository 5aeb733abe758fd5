"""The flags of launch.py, one function for each group that `--help` shows."""

import argparse

from wpm import __version__
from wpm.cli.parser import (
    CommandParser,
    any_path,
    at_least,
    not_negative,
    path_or_name,
    positive,
)
from wpm.data.parts import CLASSES_BY_NAME, CLASSES_BY_PATH
from wpm.errors import UserError
from wpm.protocol_fields import Value
from wpm.protocol_files import protocol_names
from wpm.protocols import NO_STOPPING, PRECISIONS, STOPPINGS, parse_setting
from wpm.spaces import SPACES_FOLDER
from wpm.studies.warm_start import WarmStart

DEFAULT_ROWS = ("contrastive", "contrastive+wpm")
WATCH_S = 10.0
SERVE_PORT = 8321
_LAST_PORT = 65535
AUTO = "auto"  # instead of a number of GPUs: measure it

EXAMPLES = """examples:
  python launch.py                                    search the default rows on the embedded images
  python launch.py --best-only                        retrain and test the best configurations
  python launch.py --status                           show the progress of every study
  python launch.py --serve                            show it in a browser, while it changes
  python launch.py --dataset cub200 --fetch           only download images and weights
  python launch.py --dataset cub200 --check-pipeline  check images and weights on published figures
  python launch.py --dataset cub200 --rows all        the published table under its protocol
  python launch.py --dataset omniglot --data-root DIR --rows contrastive contrastive+wpm --trials 12
  python launch.py --dataset folder --data-root DIR --fetch --rows triplet triplet+wpm

Run an interrupted command again to continue it.
"""


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of all flags. It reports an error in one line."""
    parser = CommandParser(
        prog="launch.py",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"wpm {__version__}")
    _add_commands(parser.add_argument_group("what to do (default: search)"))
    _add_reporting(parser)
    _add_selection(parser.add_argument_group("which studies"))
    _add_search(parser.add_argument_group("search and final runs"))
    _add_limits(parser.add_argument_group("limits"))
    _add_places(parser.add_argument_group("where"))
    return parser


def _add_commands(group: argparse._ArgumentGroup) -> None:
    commands = group.add_mutually_exclusive_group()
    commands.add_argument(
        "--best-only",
        action="store_true",
        help="retrain the best configuration of each study and test it",
    )
    commands.add_argument(
        "--doctor", action="store_true",
        help="check disks, versions, GPUs, clocks and ports of the cluster; exit code 2 if "
        "something has to be fixed",
    )  # fmt: skip
    commands.add_argument(
        "--check-pipeline", action="store_true",
        help="score the pretrained trunk beside its published figures, and say whether weights, "
        "images and metrics are right: exit code 1 if not; cub200 and cars196 only",
    )  # fmt: skip
    commands.add_argument(
        "--status", action="store_true",
        help="print the progress of all studies and exit; with --address, as a node there sees it",
    )  # fmt: skip
    commands.add_argument(
        "--serve", nargs="?", type=_port, const=SERVE_PORT, metavar="PORT",
        help="show all studies on a page that follows them, to this machine only; it prints its "
        f"address and how to reach it from another machine [{SERVE_PORT}]",
    )  # fmt: skip


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", nargs="?", type=positive, const=WATCH_S, metavar="S",
        help=f"repeat --status every S seconds [{WATCH_S:g}] while a launch works on any study",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print studies, trials, expected hours and disk space; start nothing",
    )
    parser.add_argument(
        "--notify", metavar="CMD",
        help="run this command when a study or the launch ends; it gets WPM_EVENT and other "
        "variables: docs/search.md",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset",
        default="glyphs",
        help="glyphs, omniglot, folder, cub200, cars196 or sop [glyphs]",
    )
    group.add_argument(
        "--data-root", type=any_path, metavar="DIR",
        help="the images: a folder, or a zip or tar of it",
    )  # fmt: skip
    group.add_argument(
        "--classes-by", choices=[CLASSES_BY_PATH, CLASSES_BY_NAME],
        help="path: every folder with images is a class; name: folders of one name are one class "
        "[refuse a folder where that matters]",
    )  # fmt: skip
    group.add_argument(
        "--split", type=path_or_name, metavar="FILE.csv|folders",
        help="your own test images and folds, or the folders train and test: docs/datasets.md "
        "[the second half of the classes is the test]",
    )  # fmt: skip
    group.add_argument(
        "--same-classes", action="store_true",
        help="with --split: test on other images of the classes that are trained on",
    )  # fmt: skip
    group.add_argument(
        "--fetch", action="store_true",
        help="download images and weights where possible; without --rows, do nothing else",
    )  # fmt: skip
    group.add_argument(
        "--skip-unreadable", action="store_true",
        help="continue without images that are damaged or missing, and record which",
    )  # fmt: skip
    group.add_argument(
        "--rows", nargs="+", metavar="ROW",
        help=f"LOSS or LOSS+wpm, or: all (the published table) [{' '.join(DEFAULT_ROWS)}]",
    )  # fmt: skip
    group.add_argument(
        "--protocol", type=path_or_name, metavar="NAME|FILE.toml",
        help=f"{', '.join(protocol_names())}, or a file: docs/protocol.md [mlrc for cub200, "
        "cars196 and sop; for folder, what suits the images; else small]",
    )  # fmt: skip
    group.add_argument(
        "--set", dest="settings", type=_setting, action="append", default=[], metavar="FIELD=VALUE",
        help="change one value of the protocol, such as max_epochs=40; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--trunk", metavar="NAME", help="use another trunk than the protocol's: docs/trunks.md"
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of trunk and embedder [float32, as published]",
    )
    group.add_argument(
        "--search-spaces", type=any_path, default=SPACES_FOLDER, metavar="DIR",
        help="folder of the rows' TOML files; its protocols/ is searched too [search_spaces]",
    )  # fmt: skip
    group.add_argument(
        "--weights", type=path_or_name, metavar="FILE",
        help="the trunk's ImageNet weights, or: random",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=at_least(0), default=0, help="seed of the sampler and of trainings [0]"
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trials", type=at_least(1), help="trials per study, whether they complete or not"
    )
    group.add_argument(
        "--searches", type=at_least(1), default=1, metavar="S",
        help="independent searches of each row, with seeds of their own: docs/search.md [1]",
    )  # fmt: skip
    group.add_argument("--runs", type=at_least(1), help="final runs (seeds) per configuration")
    group.add_argument(
        "--top", type=at_least(1), default=1, metavar="N",
        help="--best-only with the N best configurations; the table shows the best [1]",
    )  # fmt: skip
    group.add_argument(
        "--stopping", choices=STOPPINGS,
        help="trials that are behind at a rung wait (pausing) or end (halving); none trains every "
        "trial until its patience runs out [the protocol's: none for mlrc, else pausing]",
    )  # fmt: skip
    group.add_argument(
        "--no-early-stopping", dest="stopping", action="store_const", const=NO_STOPPING,
        help="the same as --stopping none",
    )  # fmt: skip
    group.add_argument(
        "--sampler", metavar="NAME", help="what chooses configurations: docs/search.md [curves]"
    )
    group.add_argument(
        "--trial-seeds", choices=["common", "new"], default="common",
        help="trials train with the same weights and batches, or each with a new seed [common]",
    )  # fmt: skip
    group.add_argument(
        "--warm-start",
        choices=[choice.value for choice in WarmStart],
        default=WarmStart.AUTO.value,
        help="what is tried first, at most a quarter of the trials: published configurations, the "
        "best of the row's studies on other data and protocols, the best trials of the row without "
        "the miner (twin), nothing, or published and studies [auto]: docs/search.md",
    )
    group.add_argument(
        "--published", action="store_true", help="--best-only with the published configurations"
    )
    group.add_argument(
        "--allow-unfinished", action="store_true",
        help="--best-only even for studies that have trials left",
    )  # fmt: skip


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-hours", type=positive, metavar="H",
        help="hours of this launch; then save checkpoints and stop",
    )  # fmt: skip
    group.add_argument(
        "--max-hours-per-study", type=positive, metavar="H",
        help="hours of each study in this launch; then its trials save checkpoints and stop",
    )  # fmt: skip
    group.add_argument(
        "--max-gpu-hours", type=positive, metavar="H",
        help="GPU-hours of all selected studies, with those of earlier launches; then save "
        "checkpoints and stop",
    )  # fmt: skip
    group.add_argument(
        "--max-gpu-hours-per-study", type=positive, metavar="H",
        help="GPU-hours of each study; then its trials save checkpoints and stop, and the other "
        "studies continue",
    )  # fmt: skip
    group.add_argument(
        "--max-disk", type=positive, metavar="GIB",
        help="size of the complete run folder; save checkpoints and stop before it is exceeded",
    )  # fmt: skip


def _add_places(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--run-root", type=any_path, default="runs", help="folder of the records [runs]"
    )
    group.add_argument(
        "--work-root", type=any_path, default="data",
        help="folder of decoded and unpacked images [data]",
    )  # fmt: skip
    group.add_argument(
        "--address",
        type=_address,
        default="local",
        help="local, or auto or HOST:PORT of a Ray cluster; --status takes http://HOST:PORT too "
        "[local]",
    )
    group.add_argument(
        "--cpus-per-trial", type=positive, default=1.0, help="cores and torch threads [1]"
    )
    group.add_argument(
        "--gpus-per-trial", type=_gpus, metavar="N",
        help="may be a fraction; auto: measure one training step [1 where there are GPUs]",
    )  # fmt: skip


def _address(text: str) -> str:
    _, _, port = text.rpartition(":")
    if text not in ("local", "auto") and not port.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not local, auto or HOST:PORT, such as 10.0.0.1:6379"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to {_LAST_PORT}")
    return int(text)


def _setting(text: str) -> tuple[str, Value]:
    try:
        return parse_setting(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _gpus(text: str) -> float | str:
    if text == AUTO:
        return AUTO
    value = not_negative(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(f"{text} must be a fraction below 1 or a whole number")
    return value
