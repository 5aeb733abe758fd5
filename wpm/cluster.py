"""Ray, and nowhere else: runs work from a source on one machine or a cluster."""

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

# Ray reads these at import or at first use.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our records are the log
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours lets running epochs finish
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# By default one actor starts at a time. `_Bridge` says when there is room.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "100000")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # Tune's snapshots are never read

import ray
import torch
from ray import tune
from ray._private import services
from ray.actor import exit_actor
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.tune.execution import tune_controller as controllers
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wpm.atomic import hold_lock, is_locked, storage_error
from wpm.config import TrainingConfig
from wpm.doctor import Answer
from wpm.errors import UserError
from wpm.gpus import limit_memory, measure_share
from wpm.jobs import InterruptedJobError, Job, StepResult, start_job
from wpm.machine import Node, count_slots
from wpm.watchdog import Watchdog
from wpm.work import Work, WorkSource

MAX_DEATHS = 2  # of a work's process since its last report; the next death fails the work
# Ray's memory monitor ends an actor with an error that Tune does not know: the whole run would end.
for _module in (actor_manager, controllers):
    vars(_module)["RayActorError"] = (RayActorError, OutOfMemoryError)
_LOCK = "launch.lock"  # in the folder of Ray's files, while the launch lives
_SWEEP_AFTER_S = 60.0  # age of a killed launch's files
_LOOK_OUT_S = 2.0  # between two looks of a worker for the file that tells it to stop
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What one piece of work takes, and where.

    Attributes:
        address: "local" to start Ray on this machine, "auto" or host:port for a running cluster.
        cpus: cores a piece of work; also its torch threads.
        gpus: GPUs a piece of work, fractions allowed; None for a default by what there is.
    """

    address: str
    cpus: float
    gpus: float | None


class StoppedBySignalError(Exception):
    """Ctrl-C or SIGTERM: running work was stopped after its checkpoint."""


@contextlib.contextmanager
def connect(resources: Resources) -> Iterator[str]:
    """Start or join Ray for a while; yields where its dashboard answers, "" without one.

    Raises:
        UserError: no cluster answers at the address.
    """
    try:
        joined = ray.init(
            address=resources.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if resources.address == "local" else False,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _no_answer(resources.address, error) from error
    try:
        yield joined.dashboard_url or ""
    finally:
        ray.shutdown()


def find_cluster() -> str:
    """Return where `--address auto` looks: RAY_ADDRESS, or where Ray was last started here.

    Nobody may answer there any more; `ray.init` would then try for more than five minutes.

    Raises:
        UserError: neither is there.
    """
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise _no_answer("auto", error) from error


def _no_answer(address: str, error: Exception) -> UserError:
    first_line = (str(error).strip().splitlines() or [repr(error)])[0]
    return UserError(
        f"--address {address}: Ray does not answer ({first_line}); start a cluster, or use "
        "--address local"
    )


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
    gpus = count_gpus(resources)
    _check_capacity(resources.cpus, gpus)
    bridge = _Bridge(source, _Room(resources.cpus, gpus, grows=resources.address != "local"))
    try:
        with _hold_ray_files(run_root.resolve()) as ray_files:
            stop_file = ray_files / "stop"
            with (
                _SignalStopper(lambda: show(source.describe), over, stop_file) as stopper,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # Ray's deprecations are not the user's business
                tuner = tune.Tuner(
                    tune.with_resources(_Worker, {"cpu": resources.cpus, "gpu": gpus}),
                    param_space={
                        "threads": max(1, int(resources.cpus)),
                        "gpus": gpus,
                        "stop_file": str(stop_file),
                    },
                    tune_config=tune.TuneConfig(
                        search_alg=bridge,
                        scheduler=_Listener(bridge),
                        num_samples=-1,
                        reuse_actors=True,
                        trial_dirname_creator=str,  # the default spells out the whole configuration
                    ),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=str(ray_files),
                        verbose=0,
                        stop=stopper,
                        failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
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


def count_gpus(resources: Resources) -> float:
    """Return the GPUs, or the share of one, that a piece of work takes; Ray must be connected."""
    if resources.gpus is not None:
        return resources.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def measure_gpus(payload: Mapping[str, Any]) -> float:
    """Measure which share of a GPU a training needs; Ray must be connected.

    Args:
        payload: of the training, as `wpm.jobs.training_payload` describes it.

    Returns:
        The share; 0 where the cluster has no GPU.
    """
    if ray.cluster_resources().get("GPU", 0) < 1:
        return 0.0
    measure = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_measure_gpus)
    return float(ray.get(measure.remote(json.dumps(dict(payload)))))


def _measure_gpus(payload: str) -> float:
    content = json.loads(payload)
    config = TrainingConfig.from_json(content["config"])
    return measure_share(config, Path(content["pixels"]))


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


class _Room:
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


class _Worker(tune.Trainable):
    """Runs one piece of work after another in a Ray actor, a step at a time.

    SIGTERM makes it save the work and exit. A machine that is about to be taken away sends it; so
    does the process itself, once the launch has left the file that tells all workers to stop.
    """

    _job: Job | None = None
    _stepping = False
    _interrupted = False
    _lookout: threading.Thread | None = None

    def setup(self, config: dict[str, Any]) -> None:
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
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
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


class _Unsaved:
    """Mixed into what Tune is handed and pickles, to restore it later; we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Bridge(_Unsaved, Searcher):
    """Stands between Tune, which thinks in trials, and a source of work."""

    def __init__(self, source: WorkSource, room: Callable[[], int]) -> None:
        super().__init__()
        self._source = source
        self._room = room
        self._running: dict[str, Work] = {}
        self.error: Exception | None = None
        self.errors: dict[str, str] = {}  # last words of every trial whose process died
        self.reported: dict[str, int] = {}  # how many reports every trial had at its last step

    def suggest(self, trial_id: str) -> Any:
        if self.error is not None:
            return Searcher.FINISHED
        try:
            if len(self._running) >= self._room():
                return None
            work = self._source.next_work()
            if work is None:
                return Searcher.FINISHED if self._source.exhausted else None
        except Exception as error:
            return self._give_up(error)
        self._running[trial_id] = work
        return {"payload": json.dumps(dict(work.payload))}

    def hear(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass a step on; return whether Tune must stop the trial."""
        if "refused" in result:
            del self._running[trial_id]  # it has not ended: the next launch goes on with it
            self._give_up(UserError(result["refused"]))
            return True
        work, step = self._running[trial_id], StepResult(**json.loads(result["step"]))
        self.reported[trial_id] = len(step.reports)
        try:
            if step.result is not None:
                del self._running[trial_id]
                self._source.on_ended(work, step)
            elif self.error is not None or self._source.on_step(work, step):
                del self._running[trial_id]
                if self.error is None:
                    self._source.on_stopped(work, step)
                return True
        except Exception as error:
            self._running.pop(trial_id, None)
            self._give_up(error)
            return True
        return False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """End of a Tune trial: by itself, by our stop, by an interrupt, or by a dead process."""
        if trial_id not in self._running:
            return
        if error:
            why = self.errors.get(trial_id, "killed")
            reason = f"its process died {MAX_DEATHS + 1} times, the last time: {why}"
            try:
                self._source.on_lost(self._running.pop(trial_id), reason)
            except Exception as failure:
                self._give_up(failure)
        elif result is not None and ("refused" in result or _has_ended(result)):
            self.hear(trial_id, result)

    def _give_up(self, error: Exception) -> str:
        """Remember the first error; Tune is then run dry, and `run_work` raises it."""
        self.error = self.error or error
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results are heard by the scheduler, which alone may stop a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the source's own records are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Never used: every launch starts a new Tune run."""


def _has_ended(result: Mapping[str, Any]) -> bool:
    return bool(result.get("done") and json.loads(result["step"])["result"])


class _Listener(_Unsaved, FIFOScheduler):
    """Asks the source after every step whether the work goes on."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._ended: list[Trial] = []

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Let go of trials that have ended, now that Tune is through with them."""
        for ended in [trial for trial in self._ended if trial.is_finished()]:
            self._ended.remove(ended)
            empty_trial(ended)

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        self._ended.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that takes over the process of one that has ended: the oldest waiting.

        But none whose own process is starting. Tune would drop that process, and where trials end
        faster than processes start, a node that has joined would never be used.
        """
        controller = vars(tune_controller)["_tune_controller"]  # what Tune hands out is a wrapper
        for trial in controller.get_trials():
            actor = controller._trial_to_actor.get(trial)
            starting = actor is not None and controller._actor_manager.is_actor_started(actor)
            if trial.status == Trial.PENDING and not starting:
                return trial  # type: ignore[no-any-return]
        return None

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        reported = self._bridge.reported
        before = reported.get(trial.trial_id, 0)
        stop = self._bridge.hear(trial.trial_id, result)
        if reported.get(trial.trial_id, 0) > before:
            # Nodes come and go while a long trial gets on; what kills its process every time does
            # not let it get on.
            trial.run_metadata.num_failures = 0
        return FIFOScheduler.STOP if stop else FIFOScheduler.CONTINUE

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        error = _last_error(trial)
        if _WAS_INTERRUPTED in error:  # it has saved itself: that is no death
            trial.run_metadata.num_failures -= 1
        self._bridge.errors[trial.trial_id] = name_death(error)
        _log.warning("work %s: its process died: %s", trial.trial_id, error)


def empty_trial(trial: Trial) -> None:
    """Empty a trial that has ended: Tune keeps every one to the end, for an analysis of its own."""
    kept = trial.run_metadata
    kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
    trial.config, trial.evaluated_params, trial.experiment_tag = {}, {}, ""


def _last_error(trial: Trial) -> str:
    """Return what Tune has noted of a trial's last failure; `get_error` looks where it is not."""
    noted = Path(trial.error_file) if trial.error_file else None
    if noted is None or not noted.exists():
        return ""
    return noted.read_text(errors="replace").rpartition("Failure # ")[2]


_WAS_INTERRUPTED = "exit_actor"
# What Ray's lengthy messages mean; the first that fits.
_DEATHS = {
    _WAS_INTERRUPTED: "it was asked to end (SIGTERM)",
    "running low on memory": "out of memory, ended by Ray's memory monitor",
    "node has died": "its node died",
    "OOM killer": "killed, out of memory, hung or crashed",
}


def name_death(error: str) -> str:
    """Return in one line what became of a process, by what Ray says of it."""
    lines = error.strip().splitlines()
    known = (words for sign, words in _DEATHS.items() if any(sign in line for line in lines))
    return next(known, lines[-1].strip() if lines else "killed")


class _SignalStopper(_Unsaved, tune.Stopper):
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


def ask_nodes(
    function: Callable[[Node, Any], Any], question: Any, *, wait_s: float = 180.0
) -> list[Answer]:
    """Run a function once on every node, beside whatever runs there; Ray must be connected.

    Args:
        function: of the node and the question; picklable, as its answer is.
        question: passed to it.
        wait_s: seconds after which a node counts as silent.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(node, question): node
        for node in list_nodes()
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=wait_s)
    answers = []
    for reference, node in asked.items():
        if reference not in ready:
            answers.append(Answer(node, None, f"silent for {wait_s:.0f} s"))
            continue
        try:
            answers.append(Answer(node, ray.get(reference)))
        except RayError as error:
            answers.append(Answer(node, None, str(error).strip().splitlines()[-1].strip()))
    return answers


def call_on_a_node(function: Callable[[Any], Any], question: Any, *, wait_s: float = 180.0) -> Any:
    """Run a function once on any node and return its answer; Ray must be connected.

    Args:
        function: of the question; picklable, as its answer is.
        question: passed to it.
        wait_s: seconds to wait.

    Raises:
        UserError: what the function raised, or no node answered.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    try:
        return ray.get(task.remote(question), timeout=wait_s)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        last = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"a node does not answer: {last}; install the same commit there") from error
    except RayError as error:
        raise UserError(f"no node answers: {error}; see ray status") from error


def run_on_head(address: str, command: Sequence[str], *, wait_s: float = 120.0) -> str:
    """Run a short command on a cluster's head, through its job interface.

    Args:
        address: of the dashboard, http://HOST:PORT.
        command: its words; it starts in the folder that Ray was started in.
        wait_s: seconds to wait for its end.

    Returns:
        What it printed.

    Raises:
        UserError: nothing answers there, or the command did not end well.
    """
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(command), entrypoint_num_cpus=0)
        deadline = time.monotonic() + wait_s
        while not (status := client.get_job_status(job)).is_terminal():
            if time.monotonic() > deadline:
                client.stop_job(job)
                raise UserError(
                    f"--address {address}: no answer in {wait_s:.0f} s; see ray job list"
                )
            time.sleep(0.5)
        # Ray's own lines come first, the last of them this one.
        printed = re.sub(
            r"(?s)^.*?Running entrypoint[^\n]*\n", "", client.get_job_logs(job)
        ).strip()
    except (RuntimeError, ConnectionError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(
            f"--address {address}: no job interface answers ({first_line}); forward it with "
            "ray dashboard cluster.yaml, and install clusters/requirements.txt here"
        ) from error
    if status != JobStatus.SUCCEEDED:
        last = printed.splitlines()[-1] if printed else status.value
        raise UserError(f"on {address}: {last.removeprefix('launch.py: error: ')}")
    return printed


def list_nodes() -> list[Node]:
    """Return the nodes that are alive; Ray must be connected."""
    return [
        Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
