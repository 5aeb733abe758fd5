#!/usr/bin/env python
"""Search margins and mining thresholds, retrain and test the best, or tell how far things are."""

import sys
import traceback
from typing import TYPE_CHECKING

from wpm.cli.arguments import build_parser
from wpm.cli.commands import FAILED, ILL, INTERRUPTED, launch, make_notifier, show_status
from wpm.cli.parser import EXIT_BAD_INPUT
from wpm.errors import UserError

if TYPE_CHECKING:  # slow to import: only once the arguments are known to be good
    from wpm.cli.notify import Notifier


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = build_parser(__doc__).parse_args(arguments)
    notifier: Notifier | None = None
    event, message = FAILED, ""
    try:
        if args.watch is not None and not args.status:
            raise UserError("--watch needs --status: it prints the status again and again")
        if args.status:
            return show_status(args)
        notifier = make_notifier(args)
        event = launch(args, notifier)
        return EXIT_BAD_INPUT if event == ILL else 0
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(f"launch.py: error: {error}", file=sys.stderr)
        message = str(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        if args.status:
            return 0
        print("launch.py: interrupted; give the same command again to continue", file=sys.stderr)
        event = INTERRUPTED
        return 130
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        if notifier is not None:
            notifier.tell_launch(event, message)
            for line in notifier.complaints:
                print(f"launch.py: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
