"""End a process whose work hangs, so that Ray notices and starts it again."""

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# No step has ended yet to compare with, so the slowest sensible one must fit: the published
# protocol with mining on a CPU takes most of a day.
FIRST_S = 24 * 3600.0
FLOOR_S = 300.0
MULTIPLE = 20.0  # of the longest step so far
_STDERR = 2  # the file descriptor: sys.stderr may have been replaced by an object without one


class Watchdog:
    """Allows a step 20 times the longest one so far, at least 5 minutes; a day for the first.

    The clock runs outside of the interpreter: it also ends a process that is stuck in a library.
    """

    def __init__(
        self,
        first_s: float = FIRST_S,
        floor_s: float = FLOOR_S,
        multiple: float = MULTIPLE,
        log: TextIO | None = None,
    ) -> None:
        """Begin before the first step.

        Args:
            first_s: limit of the first step.
            floor_s: lowest limit of the later steps.
            multiple: limit of a later step, in multiples of the longest step so far.
            log: the stacks of all threads are written here before the end; stderr by default.
        """
        self._first_s, self._floor_s, self._multiple = first_s, floor_s, multiple
        self._log = log
        self._longest_s: float | None = None

    def forget(self) -> None:
        """Allow the next step as much as the first: those so far did not train."""
        self._longest_s = None

    @property
    def limit_s(self) -> float:
        """Seconds that the next step may take."""
        if self._longest_s is None:
            return self._first_s
        return max(self._floor_s, self._multiple * self._longest_s)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch one step: the process exits with code 1 if it takes too long."""
        start = time.monotonic()
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=self._log or _STDERR)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._longest_s = max(self._longest_s or 0.0, time.monotonic() - start)
