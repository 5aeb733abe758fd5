#!/usr/bin/env python
"""Search margins and mining thresholds, retrain and test the best, or show the progress."""

import sys
import traceback

from wpm.cli.arguments import build_parser
from wpm.cli.checks import check_combinations, check_options
from wpm.cli.entry import EXIT_BAD_INPUT, EXIT_INTERRUPTED, complain, output_error, run_to_end
from wpm.cli.notify import LaunchEnd, Notifier, make_notifier
from wpm.cli.options import LaunchOptions
from wpm.cli.serve import serve_page
from wpm.cli.status import show_status
from wpm.errors import UserError

_EXIT_CODES = {LaunchEnd.UNHEALTHY: EXIT_BAD_INPUT, LaunchEnd.DISAGREES: 1}  # all others: 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    return run_to_end("launch.py", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    options = LaunchOptions.from_arguments(build_parser(__doc__).parse_args(arguments))
    is_reader = options.status or options.serve is not None
    return _show(options) if is_reader else _launch(options)


def _show(options: LaunchOptions) -> int:
    """Print the status or serve the page, which both only read."""
    try:
        check_combinations(options)
        show = show_status if options.status else serve_page
        show(options)
        return 0
    except (UserError, OSError) as error:
        if output_error() is not None:
            raise  # about the output: `run_to_end` says so
        return _refuse(error, options)
    except KeyboardInterrupt:  # ends --watch and --serve
        return 0


def _launch(options: LaunchOptions) -> int:
    notifier: Notifier | None = None
    end, message = LaunchEnd.FAILED, ""
    try:
        notifier = make_notifier(options)
        spaces = check_options(options)
        # Imported here: torch takes seconds to import, and a wrong flag should be refused at once.
        from wpm.cli.commands import launch

        end = launch(options, spaces, notifier.on_study_end)
        return _EXIT_CODES.get(end, 0)
    except UserError as error:
        message = str(error)
        return _refuse(error, options)
    except KeyboardInterrupt:
        complain("launch.py: interrupted; give the same command again to continue")
        end = LaunchEnd.INTERRUPTED
        return EXIT_INTERRUPTED
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        if notifier is not None:
            notifier.on_launch_end(end, message)
            for line in notifier.complaints:
                complain(f"launch.py: {line}")


def _refuse(error: Exception, options: LaunchOptions) -> int:
    """Print in one line what the user can fix, and return the exit code."""
    if options.debug:
        traceback.print_exc()
    complain(f"launch.py: error: {error}")
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
