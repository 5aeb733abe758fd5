"""Save a training while it continues: when, how, and what that costs.

The state is copied in host memory, which takes a moment, and a thread writes the copy. The next
copy is made once the last one has cost no more than `SHARE` of the time since, and at the latest
so soon that a kill loses no more than `MOST_LOST_S`. While one is written there is no other.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wpm.files import WriteCancelledError
from wpm.records.progress import MODELS, Progress
from wpm.reports import Report
from wpm.training.snapshot import Snapshot
from wpm.training.training import Training

SHARE = 0.05  # of the time that saving may take
MOST_LOST_S = 600.0  # of training, by a kill
LEAST_S = 10.0  # between two checkpoints: more of them would only keep disks busy
# What a first checkpoint is assumed to cost: copying, pickling and hashing on one slow core.
_ASSUMED_BYTES_PER_S = 200e6
_TENSORS_A_WEIGHT = 3  # itself, and up to two moments of the optimiser
# A slow disk, which others may share, is left alone for as long as it was written to.
_WRITES_APART = 2


def find_interval(cost_s: float, write_s: float) -> float:
    """Return the seconds from one checkpoint to the next.

    Args:
        cost_s: what the last checkpoint, and the history since, took from the training.
        write_s: seconds in which the last checkpoint was written. Only then it counts, so these
            are lost by a kill as well.
    """
    wanted = max(cost_s / SHARE, _WRITES_APART * write_s, LEAST_S)
    return min(wanted, max(MOST_LOST_S - write_s, LEAST_S))


class Saver:
    """Saves one training in its folder.

    Attributes:
        seconds: what saving has taken from the training so far, see `Report.saving_seconds`.
    """

    def __init__(self, progress: Progress, training: Training, seconds: float) -> None:
        """Begin where the training is: at its start, or where it was loaded.

        Args:
            progress: where to save.
            training: what to save.
            seconds: what saving took in earlier processes.
        """
        self.seconds = seconds
        self._progress, self._training = progress, training
        self._saved_position: tuple[int, int] | None = training.position
        self._saved_at = time.monotonic()
        self._cost_s = _TENSORS_A_WEIGHT * _weight_bytes(training) / _ASSUMED_BYTES_PER_S
        self._write: _Write | None = None
        self._write_s = 0.0
        self._error: Exception | None = None

    def is_due(self) -> bool:
        """Whether `save_aside` has something to do; quick, for a look before every step."""
        if self._write is not None and self._write.is_running:
            return False
        self._settle()
        if self._error is not None:
            return True
        interval_s = find_interval(self._cost_s, self._write_s)
        is_time = time.monotonic() - self._saved_at >= interval_s
        return is_time and self._training.position != self._saved_position

    def save_aside(self) -> None:
        """Copy the state, and let a thread write it.

        Raises:
            StorageError: the last checkpoint could not be written. Other errors of the thread that
                wrote it are raised here as well.
        """
        if self._error is not None:
            raise self._error
        self._cost_s = 0.0
        with self._counted():
            state = self._training.state_dict()
            models = state.pop(MODELS)  # no copy: these never change
            self._write = _Write(self._progress, Snapshot(state), models)
        self._saved_position = self._training.position
        self._saved_at = time.monotonic()

    def save_now(self) -> None:
        """Save the newest state before this returns.

        Raises:
            StorageError: it cannot be written.
        """
        with self._counted():
            if self._write is not None:
                self._write.join()
            self._settle()
            if self._training.position != self._saved_position:
                self._progress.write_checkpoint(self._training.state_dict())
        self._saved_position = self._training.position
        self._saved_at = time.monotonic()
        self._error = None

    def save_reports(self, reports: Sequence[Report]) -> None:
        """Save the history.

        Raises:
            StorageError: it cannot be written.
        """
        with self._counted():
            self._progress.write_reports(reports)

    def close(self) -> None:
        """Write nothing more; what is being written is given up."""
        if self._write is not None:
            self._write.cancel()
        self._settle()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._add_cost(time.monotonic() - start)

    def _add_cost(self, seconds: float) -> None:
        self._cost_s += seconds
        self.seconds += seconds

    def _settle(self) -> None:
        """Take over what a write that has ended has cost, and its error."""
        if self._write is None:
            return
        self._write_s = self._write.seconds
        # The thread takes a core from the training where there is none to spare.
        self._add_cost(self._write.cpu_seconds)
        self._error = self._write.error
        if self._error is not None:
            self._saved_position = None
        self._write = None


class _Write:
    """A thread that writes a checkpoint.

    Attributes:
        seconds: that it took.
        cpu_seconds: processor seconds that it took.
        error: why it failed; None if it did not.
    """

    def __init__(self, progress: Progress, snapshot: Snapshot, models: dict[str, object]) -> None:
        self._progress, self._snapshot, self._models = progress, snapshot, models
        self.seconds = self.cpu_seconds = 0.0
        self.error: Exception | None = None
        self._cancelled = threading.Event()
        # A process that ends without waiting, as none should, leaves half a file, which the next
        # save deletes.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def cancel(self) -> None:
        self._cancelled.set()
        self._thread.join()

    def _run(self) -> None:
        start, cpu_start = time.monotonic(), time.thread_time()
        try:
            self._snapshot.wait()
            state = {**self._snapshot.state, MODELS: self._models}
            self._progress.write_checkpoint(state, is_cancelled=self._cancelled.is_set)
        except WriteCancelledError:
            pass  # by `close`, or because the driver has ended the training
        except Exception as error:  # raised in the training's thread, at its next step
            self.error = error
        self.seconds = time.monotonic() - start
        self.cpu_seconds = time.thread_time() - cpu_start


def _weight_bytes(training: Training) -> int:
    weights = (weight for fold in training.folds for weight in fold.model.parameters())
    return sum(weight.nbytes for weight in weights)
