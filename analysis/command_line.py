"""What all analysis commands share: their common flags, and errors in one line."""

import argparse
import traceback
from collections.abc import Callable, Sequence

from wpm.cli.entry import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    complain,
    output_error,
    run_to_end,
)
from wpm.cli.parser import CommandParser, any_path, at_least, script_name
from wpm.errors import UserError
from wpm.formatting import FORMATS


def build_parser(
    module: str, description: str, examples: str, formats: Sequence[str] = FORMATS
) -> argparse.ArgumentParser:
    """Return a parser with the flags of a command that reads studies; see `build_plain_parser`."""
    parser = build_plain_parser(module, description, examples, formats)
    which = parser.add_argument_group("which studies (default: all)")
    which.add_argument("--dataset", nargs="+", metavar="NAME", help="data sets")
    # launch.py calls this flag --rows: people can give the same selection to both.
    which.add_argument("--row", "--rows", nargs="*", metavar="ROW", help="LOSS or LOSS+wpm")
    which.add_argument("--protocol", nargs="+", metavar="NAME", help="protocols")
    which.add_argument(
        "--search", nargs="+", type=at_least(1), metavar="N",
        help="searches by number, where rows were searched several times (launch.py --searches)",
    )  # fmt: skip
    which.add_argument("--run-root", type=any_path, default="runs", help="records [runs]")
    return parser


def build_plain_parser(
    module: str, description: str, examples: str, formats: Sequence[str] = FORMATS
) -> argparse.ArgumentParser:
    """Return a parser with the flags that all commands have.

    Args:
        module: name of the command's module, as it stands after `python -m`.
        description: text above the flags: what the command prints.
        examples: text below the flags: one command on each line.
        formats: the formats that the command can print; the first is the default.
    """
    parser = CommandParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"[{formats[0]}]")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_main(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parse arguments and run a command.

    Args:
        command: prints what the flags ask for.
        arguments: None means those of the command line.

    Returns:
        The exit code.

    Raises:
        SystemExit: the arguments are wrong, or ask for help.
    """
    script = script_name(parser)
    return run_to_end(script, lambda: _run(script, command, parser.parse_args(arguments)))


def _run(
    script: str, command: Callable[[argparse.Namespace], None], args: argparse.Namespace
) -> int:
    try:
        command(args)
    except KeyboardInterrupt:
        complain(f"{script}: interrupted")
        return EXIT_INTERRUPTED
    except (UserError, OSError) as error:
        if output_error() is not None:
            raise  # about the output: `run_to_end` says so
        if args.debug:
            traceback.print_exc()
        complain(f"{script}: error: {error}")
        return EXIT_BAD_INPUT
    return 0
