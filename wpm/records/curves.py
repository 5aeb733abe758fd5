"""Write the learning curves of a training for TensorBoard, from its reports.

The record is `reports.json`. Whenever a training starts or resumes, its event file is written again
from the record, so that no validation is in it twice. Later validations are appended.
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

# One chart each, with a line per fold.
SCALARS = ("loss", "map_at_r", "best_map_at_r", "precision_at_1", "r_precision",
           "images_per_second")  # fmt: skip
MEAN = "best_map_at_r/mean"  # the objective of the search
_PATTERN = "events.out.tfevents.*"
_log = logging.getLogger(__name__)


class CurveFile:
    """Writes the event file of one training; an error of the disk does not end the training."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: RecordWriter | None = None
        self._started = 0.0
        self._before: Report | None = None
        self._finished: frozenset[int] = frozenset()

    def restart(self, reports: Sequence[Report]) -> None:
        """Write all reports so far into a new file, and delete the files of earlier processes."""
        before = list(self._folder.glob(_PATTERN))
        # TensorBoard reads the files in the order of their names, so the name begins with the time.
        name = _PATTERN.replace("*", f"{time.time():.6f}.{os.getpid()}")
        # The time axis counts the worker's time only, without the pauses between two processes.
        self._started = time.time() - worker_seconds(reports)
        self._before, self._finished = None, frozenset()
        try:
            self._writer = RecordWriter(str(self._folder / name))
            self._write(Event(wall_time=self._started, file_version="brain.Event:2"))
            # Makes TensorBoard forget what it has read from earlier files.
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=self._started, step=0, session_log=start))
            for report in reports:
                self._write_report(report)
            self._writer.flush()
            for path in before:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def add(self, report: Report) -> None:
        """Append the report of a validation."""
        if self._writer is None:
            return
        try:
            self._write_report(report)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            with suppress(OSError):  # closing tries again to write what a full disk refused
                self._writer.close()
            self._writer = None

    def _give_up(self, error: OSError) -> None:
        _log.warning("no more curves for TensorBoard in %s: %s", self._folder, error.strerror)
        self.close()

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        self._writer.write(event.SerializeToString())

    def _write_report(self, report: Report) -> None:
        """Write the mean at the report's step, and each fold that trains at its own epoch."""
        if self._before is not None and report.earlier_steps > self._before.earlier_steps:
            self._finished = frozenset(fold.fold for fold in self._before.folds)
        self._before = report
        values = {report.step: [Summary.Value(tag=MEAN, simple_value=report.best_map_at_r)]}
        values.setdefault(report.epoch, []).extend(
            Summary.Value(tag=f"{name}/fold-{fold.fold}", simple_value=getattr(fold, name))
            for fold in report.folds
            if fold.fold not in self._finished
            for name in SCALARS
        )
        when = self._started + worker_seconds([report])
        for step, scalars in values.items():
            self._write(Event(wall_time=when, step=step, summary=Summary(value=scalars)))
