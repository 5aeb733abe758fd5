"""Learning curves of a training for TensorBoard: what its records say, in the other format.

`reports.json` is the record. The event file is written anew from it whenever a training starts or
goes on, so that nothing is in it twice; a validation is then appended as it comes.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from wpm.records.costs import worker_seconds
from wpm.reports import Report

# Charts, one line a fold in each.
SCALARS = ("loss", "map_at_r", "best_map_at_r", "precision_at_1", "r_precision",
           "images_per_second")  # fmt: skip
MEAN = "best_map_at_r/mean"  # what the search maximises
_PATTERN = "events.out.tfevents.*"
_log = logging.getLogger(__name__)


class CurveFile:
    """Writes the event file of one training; a disk that refuses it does not end the training."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: RecordWriter | None = None
        self._started = 0.0

    def restart(self, reports: Sequence[Report]) -> None:
        """Write all reports so far into a new file, and delete those of earlier processes.

        Args:
            reports: of the training, as its record has them.
        """
        before = list(self._folder.glob(_PATTERN))
        # TensorBoard reads files by name, the next after the last.
        name = _PATTERN.replace("*", f"{time.time():.6f}.{os.getpid()}")
        # On the clock of the worker: what lay between two processes is no training time.
        self._started = time.time() - worker_seconds(reports)
        try:
            self._writer = RecordWriter(str(self._folder / name))
            self._write(Event(wall_time=self._started, file_version="brain.Event:2"))
            # TensorBoard forgets what it has read of earlier files.
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=self._started, step=0, session_log=start))
            for report in reports:
                self._write(self._event_of(report))
            self._writer.flush()
            for path in before:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def add(self, report: Report) -> None:
        """Append what a validation found."""
        if self._writer is None:
            return
        try:
            self._write(self._event_of(report))
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            with suppress(OSError):  # what a full disk did not take before is tried once more
                self._writer.close()
            self._writer = None

    def _give_up(self, error: OSError) -> None:
        _log.warning("no more curves for TensorBoard in %s: %s", self._folder, error.strerror)
        self.close()

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        self._writer.write(event.SerializeToString())

    def _event_of(self, report: Report) -> Event:
        values = [Summary.Value(tag=MEAN, simple_value=report.best_map_at_r)]
        values += [
            Summary.Value(tag=f"{name}/fold-{fold.fold}", simple_value=getattr(fold, name))
            for fold in report.folds
            for name in SCALARS
        ]
        when = self._started + worker_seconds([report])
        return Event(wall_time=when, step=report.epoch, summary=Summary(value=values))
