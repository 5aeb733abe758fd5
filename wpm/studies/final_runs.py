"""Final runs: each study's best configuration, trained again with new seeds and tested."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.data.index import DataSource
from wpm.files import hold_lock, read_json, write_json
from wpm.formatting import format_eta
from wpm.jobs.job import StepResult
from wpm.jobs.scoring_job import scoring_payload
from wpm.jobs.train_job import identify, training_payload
from wpm.jobs.work import Work
from wpm.protocols import Protocol
from wpm.records import (
    FORMAT,
    StudyPlace,
    TrainingFolder,
    TrialState,
    best_tested,
    check_format,
    configuration_key,
    provenance,
    read_finals,
)
from wpm.rows import Row
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd
from wpm.training.config import TrainingConfig

FIRST_SEED = 1000  # apart from the seeds of searches, so that no final run repeats a trial


@dataclass(frozen=True)
class RetrainPlan:
    """One configuration to train again.

    Attributes:
        place: the study.
        protocol: of the study.
        parameters: of the configuration.
        chosen: where the configuration comes from, for the record.
        source: where the images are.
        pixels: cache of trainval images.
        runs: number of seeds.
        weights: file of the trunk's weights, or "random".
    """

    place: StudyPlace
    protocol: Protocol
    parameters: Mapping[str, float]
    chosen: Mapping[str, Any]
    source: DataSource
    pixels: Path
    runs: int
    weights: str = "random"

    @property
    def folder(self) -> Path:
        """Folder of this configuration's final runs."""
        return self.place.folder / "finals" / configuration_key(self.parameters)

    def seed_folder(self, run: int) -> Path:
        """Folder of one run."""
        return self.folder / f"seed-{FIRST_SEED + run}"


def drop_losing_models(place: StudyPlace) -> None:
    """Delete the weights of searched configurations that are not the best tested one.

    Only those of runs that have ended; weights of published configurations stay.
    """
    finals, _ = read_finals(place)
    best = best_tested(finals)
    for final in finals:
        if final is best or final.content["chosen"]["score"] is None:
            continue
        for result in final.folder.glob("seed-*/result.json"):
            for fold in result.parent.glob("fold-*"):
                TrainingFolder(fold).drop_models()


class RetrainWork:
    """A work source that trains seeds x folds, and tests a seed once its folds are trained."""

    def __init__(
        self,
        plans: Sequence[RetrainPlan],
        announce: Callable[[str], None],
        on_study_end: Callable[[StudyEnd], None] = lambda end: None,
    ) -> None:
        """Lock the studies and find what is left to do.

        Args:
            plans: configurations to train.
            announce: told a line whenever a run is tested or fails.
            on_study_end: told when all runs of a study have ended.

        Raises:
            UserError: another launch holds one of the studies, or a record is damaged or of
                another format.
        """
        self._announce, self._hear_study_end = announce, on_study_end
        self._retired: set[str] = set()
        self._left = 0  # pieces of retired studies
        self._open_runs: dict[str, set[tuple[Path, int]]] = {}  # by study: those to end
        self._running: dict[str, tuple[RetrainPlan, int, int | None]] = {}
        self._trainings: deque[tuple[RetrainPlan, int, int]] = deque()
        self._tests: deque[tuple[RetrainPlan, int]] = deque()
        self._waiting: dict[tuple[Path, int], set[int]] = {}
        self._started_at, self._ends = time.monotonic(), 0
        self._held = ExitStack()
        try:
            for place in dict.fromkeys(plan.place for plan in plans):
                what = f"study {place.name}"
                self._held.enter_context(hold_lock(place.lock, wait_s=0, what=what))
            for plan in plans:
                self._write_final(plan)
            for run in range(max((plan.runs for plan in plans), default=0)):
                for plan in plans:
                    if run < plan.runs:
                        self._enqueue(plan, run)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> "RetrainWork":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the studies."""
        self._held.close()

    def _write_final(self, plan: RetrainPlan) -> None:
        path = plan.folder / "final.json"
        if path.exists():
            check_format(read_json(path), path)
        else:
            content = {
                "format": FORMAT,
                "parameters": dict(plan.parameters),
                "chosen": dict(plan.chosen),
                "row": plan.place.row,
                "provenance": provenance(),
            }
            write_json(path, content)

    def _enqueue(self, plan: RetrainPlan, run: int) -> None:
        if TrainingFolder(plan.seed_folder(run)).read_result() is not None:
            return
        folds = range(plan.protocol.folds if Row.parse(plan.place.row).trained else 0)
        missing = {k for k in folds if self._fold_state(plan, run, k) != TrialState.COMPLETE}
        if any(self._fold_state(plan, run, k) == TrialState.FAILED for k in folds):
            self._record_failure(plan, run, "a fold failed in an earlier launch")
            return
        self._open_runs.setdefault(plan.place.name, set()).add((plan.folder, run))
        if missing:
            self._waiting[plan.folder, run] = missing
            self._trainings.extend((plan, run, k) for k in sorted(missing))
        else:
            self._tests.append((plan, run))

    @staticmethod
    def _fold_state(plan: RetrainPlan, run: int, fold: int) -> str | None:
        result = TrainingFolder(plan.seed_folder(run) / f"fold-{fold}").finish_result()
        return None if result is None else str(result["state"])

    def next_work(self) -> Work | None:
        """Return a test that can run, else the next fold to train."""
        if self._tests:
            plan, run = self._tests.popleft()
            folder, seed = plan.seed_folder(run), FIRST_SEED + run
            payload = scoring_payload(
                plan.place,
                plan.source,
                plan.protocol,
                folder,
                seed,
                pixels=plan.pixels,
                weights=plan.weights,
            )
            return self._hand_out(plan, run, None, payload)
        while self._trainings:
            plan, run, fold = self._trainings.popleft()
            if (plan.folder, run) not in self._waiting:
                continue  # another fold of this run failed meanwhile
            seed = FIRST_SEED + run
            config = TrainingConfig(
                plan.place.row, plan.protocol, plan.parameters, seed, (fold,), plan.weights
            )
            folder = plan.seed_folder(run) / f"fold-{fold}"
            if not (folder / "trial.json").exists():
                TrainingFolder(folder).write_identity(identify(fold, config))
            payload = training_payload(folder, plan.pixels, config, export=True)
            return self._hand_out(plan, run, fold, payload)
        return None

    def _hand_out(
        self, plan: RetrainPlan, run: int, fold: int | None, payload: Mapping[str, Any]
    ) -> Work:
        key = f"{plan.folder}/{run}/{fold}"
        self._running[key] = (plan, run, fold)
        return Work(key, plan.place.name, payload)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to hand out, now or after a running fold."""
        return not (self._trainings or self._tests or self._running)

    def on_step(self, work: Work, step: StepResult) -> bool:
        """A final run is never stopped early: its patience decides."""
        return False

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Never called: `on_step` stops nothing."""

    def on_suspended(self, work: Work) -> None:
        """A later launch goes on with it."""
        del self._running[work.key]
        self._left += 1

    def retire(self, study: str) -> None:
        """Train and test no more of a study."""
        self._retired.add(study)
        for queue in (self._trainings, self._tests):
            kept = [piece for piece in queue if piece[0].place.name != study]
            self._left += len(queue) - len(kept)
            queue.clear()
            queue.extend(kept)  # type: ignore[arg-type]

    def on_ended(self, work: Work, step: StepResult) -> None:
        """A fold was trained, or a run tested."""
        plan, run, fold = self._running.pop(work.key)
        self._ends += 1
        assert step.result is not None
        if fold is None:
            concatenated = step.result["concatenated"]["map_at_r"]
            separated = step.result["separated"]["map_at_r"]
            self._announce(
                f"{plan.place.name} run {run + 1}/{plan.runs} tested: MAP@R concatenated "
                f"{concatenated:.4f}, separated {separated:.4f}"
            )
            drop_losing_models(plan.place)
            self._close_run(plan, run)
        elif step.result["state"] == TrialState.COMPLETE:
            waiting = self._waiting.get((plan.folder, run))
            if waiting is None:  # another fold of this run failed meanwhile
                TrainingFolder(plan.seed_folder(run) / f"fold-{fold}").drop_models()
                return
            waiting.discard(fold)
            if not waiting:
                del self._waiting[plan.folder, run]
                if plan.place.name in self._retired:
                    self._left += 1
                else:
                    self._tests.append((plan, run))
        else:
            self._record_failure(plan, run, f"fold {fold}: {step.result['reason']}")

    def on_crashed(self, work: Work, reason: str) -> None:
        """A fold's or test's process died too often."""
        plan, run, fold = self._running.pop(work.key)
        self._record_failure(plan, run, f"{'test' if fold is None else f'fold {fold}'}: {reason}")

    def _record_failure(self, plan: RetrainPlan, run: int, reason: str) -> None:
        self._waiting.pop((plan.folder, run), None)
        for fold in plan.seed_folder(run).glob("fold-*"):
            TrainingFolder(fold).drop_models()
        result = {"state": TrialState.FAILED, "seed": FIRST_SEED + run, "reason": reason}
        write_json(plan.seed_folder(run) / "result.json", result)
        self._announce(f"{plan.place.name} run {run + 1}/{plan.runs} failed: {reason}")
        self._close_run(plan, run)

    def _close_run(self, plan: RetrainPlan, run: int) -> None:
        """Tell when the last run of a study has ended."""
        name = plan.place.name
        still_open = self._open_runs.get(name, set())
        if (plan.folder, run) not in still_open:
            return
        still_open.discard((plan.folder, run))
        if not still_open:
            best = best_tested(read_finals(plan.place)[0])
            if best is None:
                self._hear_study_end(StudyEnd(name, STUDY_FAILED, "no final run was tested"))
                return
            scores = [r["concatenated"]["map_at_r"] for r in best.with_state(TrialState.COMPLETE)]
            mean = sum(scores) / len(scores)
            told = f"final runs: {len(scores)} tested, mean test MAP@R concatenated {mean:.4f}"
            chosen = best.content["chosen"]
            end = StudyEnd(name, STUDY_FINISHED, told, chosen["score"], chosen["trial"])
            self._hear_study_end(end)

    @property
    def remaining(self) -> int:
        """Pieces of work that have not ended yet."""
        handed_out_or_not = len(self._trainings) + len(self._tests) + len(self._running)
        return handed_out_or_not + len(self._waiting) + self._left

    def describe(self) -> str:
        """Return the progress in one line."""
        running = len(self._running)
        eta = format_eta(self._started_at, self._ends, self.remaining)
        return f"final runs: {self.remaining} trainings and tests to go ({running} running) | {eta}"
