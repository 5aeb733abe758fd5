"""The Ray actor that runs one job after another on a worker."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from ray import tune
from ray.actor import exit_actor

from wpm.cluster.gpu_share import limit_memory
from wpm.cluster.watchdog import Watchdog
from wpm.errors import UserError
from wpm.jobs.job import InterruptedJobError, Job
from wpm.jobs.start import start_job

_LOOK_OUT_S = 2.0  # between two looks of a worker for the file that tells it to stop


class Worker(tune.Trainable):
    """Runs one piece of work after another in a Ray actor, a step at a time.

    SIGTERM makes it save the work and exit. A machine that is about to be taken away sends it; so
    does the process itself, once the launch has left the file that tells all workers to stop.
    """

    _job: Job | None = None
    _stepping = False
    _interrupted = False
    _lookout: threading.Thread | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Take over a piece of work; the first call also starts to watch for signals."""
        if self._interrupted:
            exit_actor()
        if self._lookout is None:
            signal.signal(signal.SIGTERM, self._receive)
            file = Path(config["stop_file"])
            self._lookout = threading.Thread(target=_look_out_for, args=(file,), daemon=True)
            self._lookout.start()
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
        except InterruptedJobError:
            self.cleanup()
            exit_actor()
        except UserError as error:
            # Not of this work: of a disk, images or another version. A dead process would be
            # started again, and the work failed in the end: so say it, and end the launch.
            self.cleanup()
            return {"refused": str(error)}
        finally:
            self._stepping = False
        ended = result.result is not None
        if ended:
            job.close()
        # As text: Tune flattens every dict that it sees.
        return {"step": json.dumps(asdict(result)), "done": ended}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Close the job before, and take over another piece of work in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Close the job, if there is one."""
        if self._job is not None:
            self._job.close()
            self._job = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if not self._stepping:
            sys.exit(1)
        if self._job is None:  # it is being started, which may take minutes; nothing to save yet
            raise InterruptedJobError
        self._job.interrupt()


def _look_out_for(file: Path) -> None:
    while not file.exists():
        time.sleep(_LOOK_OUT_S)
    os.kill(os.getpid(), signal.SIGTERM)
