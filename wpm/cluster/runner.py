"""Ray, and nowhere else: runs work from a source on one machine or a cluster."""

import contextlib
import logging
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller as controllers

from wpm.cluster.connection import Resources, count_gpus
from wpm.cluster.nodes import count_slots, list_nodes
from wpm.cluster.tune_bridge import MAX_CRASHES, NeverSaved, WorkScheduler, WorkSearcher
from wpm.cluster.worker import Worker
from wpm.errors import UserError, storage_error
from wpm.files import hold_lock, is_locked
from wpm.jobs.work import WorkSource

_LOCK = "launch.lock"  # in the folder of Ray's files, while the launch lives
_SWEEP_AFTER_S = 60.0  # age of a killed launch's files
_log = logging.getLogger(__name__)


class StoppedBySignalError(Exception):
    """Ctrl-C or SIGTERM: running work was stopped after its checkpoint."""


def run_work(
    source: WorkSource,
    resources: Resources,
    run_root: Path,
    show: Callable[[Callable[[], str]], None],
    over: Callable[[], str] = str,
) -> None:
    """Run everything that a source hands out; Ray must be connected.

    Args:
        source: of the work.
        resources: of each piece of work.
        run_root: folder that every node sees; Ray's own files go below it and are removed.
        show: given what describes the progress in one line, in every turn of Tune's loop.
        over: asked in every turn whether to stop early, and why: running work is then stopped
            after its checkpoint, and the call returns.

    Raises:
        UserError: no node can ever hold a piece of work; or the disk, images or another version
            stand in the way of it: no work was failed for that.
        StoppedBySignalError: stopped by a signal; the same call goes on later.
    """
    pass_memory_errors_to_tune()
    gpus = count_gpus(resources)
    _check_capacity(resources.cpus, gpus)
    bridge = WorkSearcher(
        source, _QueueCapacity(resources.cpus, gpus, grows=resources.address != "local")
    )
    try:
        with _hold_ray_files(run_root.resolve()) as ray_files:
            stop_file = ray_files / "stop"
            with (
                _SignalStopper(lambda: show(source.describe), over, stop_file) as stopper,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # Ray's deprecations are not the user's business
                tuner = tune.Tuner(
                    tune.with_resources(Worker, {"cpu": resources.cpus, "gpu": gpus}),
                    param_space={
                        "threads": max(1, int(resources.cpus)),
                        "gpus": gpus,
                        "stop_file": str(stop_file),
                    },
                    tune_config=tune.TuneConfig(
                        search_alg=bridge,
                        scheduler=WorkScheduler(bridge),
                        num_samples=-1,
                        reuse_actors=True,
                        trial_dirname_creator=str,  # the default spells out the whole configuration
                    ),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=str(ray_files),
                        verbose=0,
                        stop=stopper,
                        failure_config=tune.FailureConfig(max_failures=MAX_CRASHES),
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # ours do
                    ),
                )
                tuner.fit()
            if stopper.received:
                raise StoppedBySignalError
            if bridge.error is not None:
                raise bridge.error
    except OSError as error:
        if bridge.error is None and isinstance(error, ConnectionError):
            raise  # of Ray's network, not of the files that Tune keeps for itself
        raise bridge.error or storage_error(run_root, error) from error


@contextlib.contextmanager
def _hold_ray_files(run_root: Path) -> Iterator[Path]:
    """Make a folder for Ray's own files, and remove those of launches that were killed."""
    run_root.mkdir(parents=True, exist_ok=True)
    for folder in run_root.glob(".ray-*"):
        with contextlib.suppress(OSError):  # another launch is as quick
            # The youngest may be about to be locked.
            is_old = time.time() - folder.stat().st_mtime > _SWEEP_AFTER_S
            if is_old and not is_locked(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)
    ray_files = Path(tempfile.mkdtemp(dir=run_root, prefix=".ray-"))
    try:
        with hold_lock(ray_files / _LOCK, wait_s=0, what="Ray's files"):
            yield ray_files
    finally:
        shutil.rmtree(ray_files, ignore_errors=True)


def _check_capacity(cpus: float, gpus: float) -> None:
    """Refuse work that would wait for ever."""
    nodes = list_nodes()
    if count_slots(nodes, cpus, gpus):
        return
    best = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
    raise UserError(
        f"a trial wants {cpus:g} CPUs and {gpus:g} GPUs, but the nodes have {best}; lower "
        "--cpus-per-trial or --gpus-per-trial"
    )


class _QueueCapacity:
    """How much work to hand to Tune: what runs at a time, and a quarter as much waiting.

    Tune keeps a worker process for the next trial only where one waits; an autoscaler adds nodes
    only for what waits, so that a small cluster must have as much waiting as running to double.
    What waits was sampled before it had to be, so it is not more.
    """

    _RECOUNT_S = 5.0  # nodes come and go
    _MOST_TO_DOUBLE = 8

    def __init__(self, cpus: float, gpus: float, *, grows: bool = False) -> None:
        self._cpus, self._gpus, self._grows = cpus, gpus, grows
        self._counted_at = -self._RECOUNT_S
        self._slots = 0

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self._counted_at >= self._RECOUNT_S:
            self._slots = count_slots(list_nodes(), self._cpus, self._gpus)
            self._counted_at = now
        doubling = min(self._slots, self._MOST_TO_DOUBLE) if self._grows else 0
        return self._slots + max(1, self._slots // 4, doubling)


class _SignalStopper(NeverSaved, tune.Stopper):
    """Stops all trials when Ctrl-C or SIGTERM arrives; a second Ctrl-C does not wait."""

    def __init__(self, tick: Callable[[], None], over: Callable[[], str], stop_file: Path) -> None:
        self.received = False
        self._tick, self._over, self._stop_file = tick, over, stop_file
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_SignalStopper":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Called by Tune in every turn of its loop."""
        self._tick()
        if not self.received and not self._over():
            return False
        with contextlib.suppress(OSError):  # then the workers end a little harder
            self._stop_file.touch()
        return True


def pass_memory_errors_to_tune() -> None:
    """Let Tune treat an actor that Ray's memory monitor ended like one that crashed.

    Ray raises an error that Tune does not know, and the whole run would end with it.
    """
    for module in (actor_manager, controllers):
        vars(module)["RayActorError"] = (RayActorError, OutOfMemoryError)
