"""What the analysis scripts share: flags, the selection of studies, and errors in one line."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from wpm.cli.parser import EXIT_BAD_INPUT, CommandParser, script_name
from wpm.errors import UserError
from wpm.formatting import FORMATS

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell reports of a program whose reader went away


def build_parser(
    module: str, description: str, examples: str, formats: Sequence[str] = FORMATS
) -> argparse.ArgumentParser:
    """Return a parser of the flags that all scripts have.

    Args:
        module: the script, as after `python -m`.
        description: what it prints.
        examples: commands, shown below the flags.
        formats: that it can print; the first is the default.
    """
    parser = CommandParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_argument_group("which studies (default: all)")
    which.add_argument("--dataset", nargs="+", metavar="NAME", help="data sets")
    # --rows is how launch.py calls it: the same selection can be given to both.
    which.add_argument("--row", "--rows", nargs="*", metavar="ROW", help="LOSS or LOSS+wpm")
    which.add_argument("--protocol", nargs="+", metavar="NAME", help="protocols")
    which.add_argument("--run-root", type=Path, default=Path("runs"), help="records [runs]")
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"[{formats[0]}]")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_main(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parse arguments and run a script.

    Args:
        parser: of the script's flags.
        command: prints what the flags ask for.
        arguments: from the command line if None.

    Returns:
        The exit code.

    Raises:
        SystemExit: the arguments are wrong, or ask for help.
    """
    args = parser.parse_args(arguments)
    try:
        command(args)
        sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter ends
    except BrokenPipeError:
        # Whatever is still buffered has nowhere to go; the interpreter flushes it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{script_name(parser)}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (UserError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"{script_name(parser)}: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0
