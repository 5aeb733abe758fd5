"""Final runs: each study's best configurations, trained again with new seeds and tested."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wpm.files import hold_lock
from wpm.formatting import format_eta
from wpm.jobs.job import StepResult
from wpm.jobs.payloads import identify, scoring_payload, training_payload
from wpm.jobs.work import Decision, Work
from wpm.records import (
    FailedRun,
    Outcome,
    ScoredRun,
    StudyPlace,
    TrainingFolder,
    TrialState,
    best_tested,
    read_finals,
    read_run_result,
    write_final,
    write_run_result,
)
from wpm.studies.final_plan import FinalPlan
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd, ignore_study_end
from wpm.training.config import TrainingConfig


def drop_losing_models(place: StudyPlace) -> None:
    """Delete the weights of searched configurations that are not the best tested one.

    Only weights of runs that have ended are deleted; those of published configurations stay.
    """
    finals, _ = read_finals(place)
    best = best_tested(finals)
    for final in finals:
        if final is best or final.chosen.score is None:
            continue
        for result in final.folder.glob("seed-*/result.json"):
            for fold in result.parent.glob("fold-*"):
                TrainingFolder(fold).drop_models()


class FinalRunsWork:
    """A `WorkSource` that trains seeds x folds, and tests a seed once its folds are trained."""

    def __init__(
        self,
        plans: Sequence[FinalPlan],
        announce: Callable[[str], None],
        on_study_end: Callable[[StudyEnd], None] = ignore_study_end,
    ) -> None:
        """Lock the studies and find which trainings and tests have not ended.

        Args:
            plans: configurations to train.
            announce: called with a line whenever a run is tested or fails.
            on_study_end: called when all runs of a study have ended.

        Raises:
            UserError: another launch holds one of the studies, or a record is damaged or of
                another format.
        """
        self._announce, self._on_study_end = announce, on_study_end
        self._stopped_studies: set[str] = set()
        self._suspended = 0  # trainings and tests that a later launch does
        self._open_runs: dict[str, set[tuple[Path, int]]] = {}  # by study: those that have to end
        self._running: dict[str, tuple[FinalPlan, int, int | None]] = {}
        self._trainings: deque[tuple[FinalPlan, int, int]] = deque()
        self._tests: deque[tuple[FinalPlan, int]] = deque()
        self._untrained: dict[tuple[Path, int], set[int]] = {}  # folds that a test waits for
        self._started_at, self._ended = time.monotonic(), 0
        self._stack = ExitStack()
        try:
            for place in dict.fromkeys(plan.place for plan in plans):
                what = f"study {place.name}"
                self._stack.enter_context(hold_lock(place.lock, wait_s=0, what=what))
            for plan in plans:
                write_final(plan.place, plan.parameters, plan.chosen)
            for run in range(max((plan.runs for plan in plans), default=0)):
                for plan in plans:
                    if run < plan.runs:
                        self._enqueue(plan, run)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "FinalRunsWork":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the studies."""
        self._stack.close()

    def _enqueue(self, plan: FinalPlan, run: int) -> None:
        if read_run_result(plan.run_folder(run)) is not None:
            return
        folds = range(plan.protocol.folds if plan.place.row.is_trained else 0)
        states = {fold: self._fold_state(plan, run, fold) for fold in folds}
        if {TrialState.DIVERGED, TrialState.FAILED} & set(states.values()):
            self._record_failure(plan, run, "a fold failed in an earlier launch")
            return
        untrained = {fold for fold, state in states.items() if state is not TrialState.COMPLETE}
        self._open_runs.setdefault(plan.place.name, set()).add((plan.folder, run))
        if untrained:
            self._untrained[plan.folder, run] = untrained
            self._trainings.extend((plan, run, fold) for fold in sorted(untrained))
        else:
            self._tests.append((plan, run))

    @staticmethod
    def _fold_state(plan: FinalPlan, run: int, fold: int) -> TrialState | None:
        result = TrainingFolder(plan.fold_folder(run, fold)).finish_result()
        return None if result is None else result.state

    def next_work(self) -> Work | None:
        """Return a test that can run, else the next fold to train."""
        if self._tests:
            plan, run = self._tests.popleft()
            return self._hand_out(plan, run, None, self._test_payload(plan, run))
        while self._trainings:
            plan, run, fold = self._trainings.popleft()
            if (plan.folder, run) not in self._untrained:
                continue  # another fold of this run failed meanwhile
            return self._hand_out(plan, run, fold, self._training_payload(plan, run, fold))
        return None

    @staticmethod
    def _test_payload(plan: FinalPlan, run: int) -> Mapping[str, Any]:
        return scoring_payload(
            plan.place,
            plan.source,
            plan.protocol,
            plan.run_folder(run),
            plan.seed_of(run),
            pixel_cache=plan.pixel_cache,
            weights=plan.weights,
        )

    @staticmethod
    def _training_payload(plan: FinalPlan, run: int, fold: int) -> Mapping[str, Any]:
        """Describe the training of a fold, and write its trial.json if there is none."""
        config = TrainingConfig(
            plan.place.row,
            plan.protocol,
            plan.parameters,
            plan.seed_of(run),
            (fold,),
            plan.weights,
            plan.loss,
        )
        folder = plan.fold_folder(run, fold)
        if not (folder / "trial.json").exists():
            TrainingFolder(folder).write_identity(identify(fold, config))
        return training_payload(folder, plan.pixel_cache, config, export=True)

    def _hand_out(
        self, plan: FinalPlan, run: int, fold: int | None, payload: Mapping[str, Any]
    ) -> Work:
        key = f"{plan.folder}/{run}/{fold}"
        self._running[key] = (plan, run, fold)
        return Work(key, plan.place.name, payload)

    @property
    def exhausted(self) -> bool:
        """Whether nothing can be handed out, now or after a running fold."""
        return not (self._trainings or self._tests or self._running)

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Continue: a final run is never stopped early, its patience decides."""
        return Decision.CONTINUE

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Never called: `on_step` stops nothing."""

    def on_suspended(self, work: Work) -> None:
        """Leave the training as it is; a later launch resumes it."""
        del self._running[work.key]
        self._suspended += 1

    def stop_study(self, study: str) -> None:
        """Train and test no more of a study."""
        self._stopped_studies.add(study)
        for queue in (self._trainings, self._tests):
            kept = [piece for piece in queue if piece[0].place.name != study]
            self._suspended += len(queue) - len(kept)
            queue.clear()
            queue.extend(kept)  # type: ignore[arg-type]

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Handle that a fold was trained, or a run tested."""
        plan, run, fold = self._running.pop(work.key)
        self._ended += 1
        result = step.result
        if fold is None:
            assert isinstance(result, ScoredRun)
            self._handle_test(plan, run, result)
            return
        assert isinstance(result, Outcome)
        if result.state is TrialState.COMPLETE:
            self._handle_trained(plan, run, fold)
        else:
            diverged = " diverged" if result.state is TrialState.DIVERGED else ""
            self._record_failure(plan, run, f"fold {fold}{diverged}: {result.reason}")

    def _handle_test(self, plan: FinalPlan, run: int, result: ScoredRun) -> None:
        self._announce(
            f"{plan.place.name} run {run + 1}/{plan.runs} tested: MAP@R concatenated "
            f"{result.concatenated['map_at_r']:.4f}, separated {result.separated['map_at_r']:.4f}"
        )
        drop_losing_models(plan.place)
        self._close_run(plan, run)

    def _handle_trained(self, plan: FinalPlan, run: int, fold: int) -> None:
        untrained = self._untrained.get((plan.folder, run))
        if untrained is None:  # another fold of this run failed meanwhile
            TrainingFolder(plan.fold_folder(run, fold)).drop_models()
            return
        untrained.discard(fold)
        if not untrained:
            del self._untrained[plan.folder, run]
            if plan.place.name in self._stopped_studies:
                self._suspended += 1
            else:
                self._tests.append((plan, run))

    def on_crashed(self, work: Work, reason: str) -> None:
        """Record that the process of a fold or a test crashed too often."""
        plan, run, fold = self._running.pop(work.key)
        self._record_failure(plan, run, f"{'test' if fold is None else f'fold {fold}'}: {reason}")

    def _record_failure(self, plan: FinalPlan, run: int, reason: str) -> None:
        self._untrained.pop((plan.folder, run), None)
        for fold in plan.run_folder(run).glob("fold-*"):
            TrainingFolder(fold).drop_models()
        write_run_result(plan.run_folder(run), FailedRun(plan.seed_of(run), reason))
        self._announce(f"{plan.place.name} run {run + 1}/{plan.runs} failed: {reason}")
        self._close_run(plan, run)

    def _close_run(self, plan: FinalPlan, run: int) -> None:
        """Notify once, when the last run of a study has ended."""
        name = plan.place.name
        still_open = self._open_runs.get(name, set())
        if (plan.folder, run) not in still_open:
            return
        still_open.discard((plan.folder, run))
        if not still_open:
            self._on_study_end(_describe_end(plan.place))

    @property
    def remaining(self) -> int:
        """Trainings and tests that have not ended yet."""
        handed_out_or_not = len(self._trainings) + len(self._tests) + len(self._running)
        return handed_out_or_not + len(self._untrained) + self._suspended

    def describe(self) -> str:
        """Return the progress in one line."""
        running = len(self._running)
        eta = format_eta(self._started_at, self._ended, self.remaining)
        return f"final runs: {self.remaining} trainings and tests to go ({running} running) | {eta}"


def _describe_end(place: StudyPlace) -> StudyEnd:
    """Sum up the final runs of a study, all of which have ended."""
    best = best_tested(read_finals(place)[0])
    if best is None:
        return StudyEnd(place.name, STUDY_FAILED, "no final run was tested")
    scores = [run.concatenated["map_at_r"] for run in best.tested]
    mean = sum(scores) / len(scores)
    message = f"final runs: {len(scores)} tested, mean test MAP@R concatenated {mean:.4f}"
    return StudyEnd(place.name, STUDY_FINISHED, message, best.chosen.score, best.chosen.trial)
