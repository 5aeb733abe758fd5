"""The Ray actor that runs one job after another on a worker."""

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from ray import tune
from ray.actor import exit_actor

from wpm.cluster.gpu_share import limit_memory
from wpm.cluster.watchdog import Watchdog
from wpm.errors import UserError
from wpm.jobs.job import BrokenGpuError, InterruptedJobError, Job
from wpm.jobs.start import start_job

_STOP_FILE_INTERVAL_S = 2.0  # between two checks of a worker for the stop file

_log = logging.getLogger(__name__)


class Worker(tune.Trainable):
    """Runs one piece of work after another in a Ray actor, a step at a time.

    SIGTERM makes it save the work and exit. A machine that is about to be taken away sends the
    signal. The process also sends it to itself once the launch has created the stop file.
    """

    _job: Job | None = None
    _stepping = False
    _closing = False
    _interrupted = False
    _stop_watcher: threading.Thread | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a piece of work; the first call also starts to listen for signals."""
        if self._interrupted:
            exit_actor()
        if self._stop_watcher is None:
            signal.signal(signal.SIGTERM, self._receive)
            file = Path(config["stop_file"])
            self._stop_watcher = threading.Thread(target=_wait_for_stop, args=(file,), daemon=True)
            self._stop_watcher.start()
        torch.set_num_threads(config["threads"])
        limit_memory(config["gpus"])
        self._watchdog = Watchdog()
        self._payload = {**json.loads(config["payload"]), "gpus": config["gpus"]}

    def step(self) -> dict[str, Any]:
        """Do one step of the job, and return its result as JSON text."""
        self._stepping = True
        try:
            job = self._job = self._job or start_job(self._payload)
            with self._watchdog.watch():
                result = job.step()
            if result.is_history:
                self._watchdog.forget()
        except InterruptedJobError:
            self.cleanup()
            exit_actor()
        except BrokenGpuError as error:
            # Every later trial of this process would fail as well. Ray starts another process,
            # which resumes the trial from its checkpoint; if that one breaks too, the crashes of
            # the trial are counted, and end it.
            self.cleanup()
            _log.error("this process ends, because its GPU failed: %s", error)
            os._exit(1)
        except UserError as error:
            # The error is of a disk, of images or of another version, not of this work. If the
            # process crashed, Tune would start it again and fail the work in the end. So the
            # error is returned, and ends the launch.
            self.cleanup()
            return {"refused": str(error)}
        finally:
            self._stepping = False
        ended = result.result is not None
        if ended:
            job.close()
        # As text: Tune would flatten a dict.
        return {"step": json.dumps(result.to_json()), "done": ended}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Close the previous job, and begin another piece of work in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Close the job, if there is one, which may save its work, and free its memory."""
        if self._job is not None:
            self._closing = True
            try:
                self._job.close()
            finally:
                self._job, self._closing = None, False
            # The first optimiser of a process is part of a reference cycle, which would keep the
            # training's GPU memory until Python happens to collect it.
            gc.collect()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if self._closing:
            return  # `setup` and the end of the work look at `_interrupted`
        if not self._stepping:
            self.cleanup()
            sys.exit(1)
        if self._job is None:  # the job is starting, which may take minutes: nothing to save yet
            raise InterruptedJobError
        self._job.interrupt()


def _wait_for_stop(stop_file: Path) -> None:
    """Send SIGTERM to this process once the stop file is there."""
    while not stop_file.exists():
        time.sleep(_STOP_FILE_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
