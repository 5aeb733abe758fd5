"""Run work from a source with Ray Tune, on one machine or a cluster."""

import contextlib
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller as controllers
from ray.tune.experiment import Trial

from wpm.cluster.connection import Resources, count_gpus
from wpm.cluster.nodes import count_slots, list_nodes
from wpm.cluster.ray_files import hold_ray_files
from wpm.cluster.tune_bridge import MAX_CRASHES, NeverSaved, WorkScheduler, WorkSearcher
from wpm.cluster.worker import Worker
from wpm.errors import UserError, storage_error
from wpm.jobs.work import WorkSource

# In the folder of Ray's files; tells all workers to save their work and exit.
_STOP_FILE = "stop"


class StoppedBySignalError(Exception):
    """Ctrl-C or SIGTERM: running work was suspended after its checkpoint."""


def no_limit() -> str:
    """Return "": the launch has no limit."""
    return ""


def run_work(
    source: WorkSource,
    resources: Resources,
    run_root: Path,
    show: Callable[[Callable[[], str]], None],
    limit_reached: Callable[[], str] = no_limit,
) -> None:
    """Run everything that a source hands out; Ray must be connected.

    Args:
        source: hands out the work.
        resources: of each piece of work.
        run_root: folder that every node sees; Ray's own files go below it and are removed.
        show: called in every turn of Tune's loop, with a function that describes the progress in
            one line.
        limit_reached: called in every turn; returns why to stop early, or "". Running work is then
            suspended after its checkpoint, and the call returns.

    Raises:
        UserError: no node can ever hold a piece of work; or the disk, the images or another
            version prevent it from running: no work is recorded as failed for that.
        StoppedBySignalError: stopped by a signal; the same call resumes the work later.
    """
    pass_memory_errors_to_tune()
    gpus = count_gpus(resources)
    _check_capacity(resources.cpus, gpus)
    capacity = QueueCapacity(resources.cpus, gpus, grows=resources.address != "local")
    searcher = WorkSearcher(source, capacity)
    try:
        with hold_ray_files(run_root.resolve()) as ray_files:
            stop_file = ray_files / _STOP_FILE
            with (
                _LaunchStopper(lambda: show(source.describe), limit_reached, stop_file) as stopper,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # Ray's deprecations are not the user's business
                _build_tuner(searcher, stopper, resources.cpus, gpus, ray_files).fit()
            if stopper.received:
                raise StoppedBySignalError
            if searcher.error is not None:
                raise searcher.error
    except OSError as error:
        if searcher.error is None and isinstance(error, ConnectionError):
            raise  # an error of Ray's network, not of the files that Tune writes
        raise searcher.error or storage_error(run_root, error) from error


def _build_tuner(
    searcher: WorkSearcher, stopper: "_LaunchStopper", cpus: float, gpus: float, ray_files: Path
) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(Worker, {"cpu": cpus, "gpu": gpus}),
        param_space={
            "threads": max(1, int(cpus)),
            "gpus": gpus,
            "stop_file": str(ray_files / _STOP_FILE),
        },
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=WorkScheduler(searcher),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_name_folder,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(ray_files),
            verbose=0,
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=MAX_CRASHES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # jobs write theirs
        ),
    )


def _name_folder(trial: Trial) -> str:
    """Name a trial's folder by its id; Tune's default contains the complete configuration."""
    return str(trial)


def _check_capacity(cpus: float, gpus: float) -> None:
    """Refuse work that no node can hold: it would wait for ever."""
    nodes = list_nodes()
    if count_slots(nodes, cpus, gpus):
        return
    best = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
    raise UserError(
        f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs, but the nodes have {best}; lower "
        "--cpus-per-trial or --gpus-per-trial"
    )


class QueueCapacity:
    """How much work to hand to Tune: as much as can run, and a quarter of that to wait.

    Tune keeps a worker process for another trial only if one waits. An autoscaler adds nodes only
    for waiting trials: a small cluster doubles only if as many wait as run. Queued trials were
    sampled earlier than necessary, on fewer results; so the queue is kept short.
    """

    _RECOUNT_S = 5.0  # nodes join and leave
    _MOST_TO_DOUBLE = 8

    def __init__(self, cpus: float, gpus: float, *, grows: bool = False) -> None:
        self._cpus, self._gpus, self._grows = cpus, gpus, grows
        self._counted_at = -self._RECOUNT_S
        self._slots = 0

    def __call__(self) -> int:
        """Return how many pieces of work may be handed out."""
        now = time.monotonic()
        if now - self._counted_at >= self._RECOUNT_S:
            self._slots = count_slots(list_nodes(), self._cpus, self._gpus)
            self._counted_at = now
        doubling = min(self._slots, self._MOST_TO_DOUBLE) if self._grows else 0
        return self._slots + max(1, self._slots // 4, doubling)


class _LaunchStopper(NeverSaved, tune.Stopper):
    """Stops all trials when Ctrl-C or SIGTERM arrives, or a limit is reached.

    A Ctrl-C after that ends the launch without waiting for checkpoints. A second SIGTERM does not:
    more than one part of a cluster may send it, as Kubernetes does where a job is deleted.
    """

    def __init__(
        self, on_turn: Callable[[], None], limit_reached: Callable[[], str], stop_file: Path
    ) -> None:
        """Prepare to stop; entering the context takes over the signals.

        Args:
            on_turn: called in every turn of Tune's loop.
            limit_reached: returns why to stop, or "".
            stop_file: created when all workers are to stop.
        """
        self.received = False
        self._on_turn, self._limit_reached, self._stop_file = on_turn, limit_reached, stop_file
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_LaunchStopper":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether to stop; Tune calls this in every turn of its loop."""
        self._on_turn()
        if not self.received and not self._limit_reached():
            return False
        # Best effort: without this file workers are killed before they can save.
        with contextlib.suppress(OSError):
            self._stop_file.touch()
        return True


def pass_memory_errors_to_tune() -> None:
    """Let Tune treat an actor that Ray's memory monitor ended like one that crashed.

    Ray raises an error that Tune does not know and that would end the complete run.
    """
    for module in (actor_manager, controllers):
        vars(module)["RayActorError"] = (RayActorError, OutOfMemoryError)
