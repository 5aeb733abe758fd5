"""A study's trials as Optuna remembers them; nothing else remembers which there are."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from wpm.records import Outcome, TrainingFolder, TrialState, trial_numbers, validation_order
from wpm.reports import Report
from wpm.space_files import Range
from wpm.studies.journal import check_end, open_journal
from wpm.studies.plan import StudyPlan
from wpm.studies.samplers import build_sampler

_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.DIVERGED: OptunaState.COMPLETE,  # the sampler learns its score, which is 0
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}
_ORIGIN = "origin"  # a trial's user attribute


class OptunaTrials:
    """The Optuna study behind a `Study`, whose lock its caller holds.

    For Optuna, a trial that waits at a rung is RUNNING, as is one that a killed launch left behind.
    """

    def __init__(self, plan: StudyPlan, rungs: Sequence[int]) -> None:
        """Open the study's journal, or begin one with what is tried first.

        Args:
            plan: of the study.
            rungs: steps at which trials are compared, in order.

        Raises:
            UserError: the journal is damaged, or knows less than the records.
        """
        self._plan = plan
        self._study = self._open(rungs)

    def _open(self, rungs: Sequence[int]) -> optuna.Study:
        plan, place = self._plan, self._plan.place
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = open_journal(place.journal)
        check_end(place.journal, storage, trial_numbers(place), self._recorded_parameters)
        study = optuna.create_study(
            storage=storage,
            study_name=place.name,
            direction="maximize",
            load_if_exists=True,
            pruner=NopPruner(),  # `Rungs` decides
        )
        trials = study.get_trials(deepcopy=False)
        space = {name: _distribution(r) for name, r in plan.space.searched.items()}
        study.sampler = build_sampler(plan.sampler, plan.seed, len(trials), rungs, space)
        if not trials:
            for point in plan.first_points:
                study.enqueue_trial(dict(point.parameters), {_ORIGIN: point.origin})
        return study

    def _recorded_parameters(self, number: int) -> dict[str, float]:
        """Return the searched parameters in a trial's record."""
        identity = TrainingFolder(self._plan.place.trial_folder(number)).read_identity()
        searched = self._plan.space.searched
        return {n: value for n, value in identity["parameters"].items() if n in searched}

    @property
    def started(self) -> int:
        """Trials that were started, ended or not."""
        return self._count(*_STATES.values(), OptunaState.RUNNING)

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return self._count(*_STATES.values())

    def _count(self, *states: OptunaState) -> int:
        return len(self._study.get_trials(deepcopy=False, states=states))

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and score of the best complete trial."""
        complete = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        scores = [
            (trial.number, float(trial.values[0]))
            for trial in complete
            if not trial.user_attrs.get(TrialState.DIVERGED, False)
        ]
        return min(scores, key=lambda trial: validation_order(trial[1], trial[0]), default=None)

    @property
    def all(self) -> list[FrozenTrial]:
        """All trials, those included that are known and not yet begun."""
        return self._study.get_trials(deepcopy=False)

    def origin_of(self, number: int) -> str:
        """Return where a trial's configuration was known from; "" if it was sampled."""
        return str(self.all[number].user_attrs.get(_ORIGIN, ""))

    def ask(self) -> Trial:
        """Begin a trial; its parameters are chosen by `sample`."""
        return self._study.ask()

    def adopt(self, stored: FrozenTrial) -> Trial:
        """Return a running trial of an earlier launch, ready to be resumed."""
        # Optuna has no public way to resume a trial, so this builds a `Trial` by its
        # constructor, which requirements.txt pins with the version.
        return Trial(self._study, stored._trial_id)

    def sample(self, trial: Trial) -> Mapping[str, float]:
        """Choose the searched parameters of a trial; one that was adopted has them already."""
        return {
            name: float(trial._suggest(name, _distribution(searched)))
            for name, searched in self._plan.space.searched.items()
        }

    def unknown(self, trial: Trial, reports: Sequence[Report]) -> list[Report]:
        """Return the reports that Optuna does not know: a killed launch may have lost some."""
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        return [report for report in reports if self.step_of(report) not in known]

    def step_of(self, report: Report) -> int:
        """Return the step under which Optuna knows a report."""
        protocol = self._plan.protocol
        return report.compared_at(protocol.folds, protocol.max_epochs)

    def tell_end(self, trial: Trial, result: Outcome) -> None:
        """Tell Optuna how a trial ended."""
        if result.reason:
            trial.set_user_attr("reason", result.reason)
        if result.state is TrialState.DIVERGED:
            trial.set_user_attr(TrialState.DIVERGED, True)
        state = _STATES[result.state]
        self._study.tell(trial, result.score if state is OptunaState.COMPLETE else None, state)


def _distribution(searched: Range) -> BaseDistribution:
    log = searched.scale == "log"
    if searched.type == "int":
        return IntDistribution(int(searched.low), int(searched.high), log=log)
    return FloatDistribution(searched.low, searched.high, log=log)
