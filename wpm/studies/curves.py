"""Samplers that learn from trials that have not trained to their end: their curves say enough.

Optuna's own samplers propose. They are shown a copy of the study, in which every trial that has
come to a rung counts, although it waits there or still trains.
"""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from wpm.records import TrialState
from wpm.studies.extrapolation import predict_ends

Space = Mapping[str, BaseDistribution]

_END = 10**9  # the anchor after all rungs: a trial that is complete has reached it


class _LearningSampler(BaseSampler):
    """Shows a copy of the study to a sampler, once a few trials say something."""

    def __init__(self, inner: BaseSampler, space: Space, seed: int, first: int) -> None:
        """Begin; the study is its only memory.

        Args:
            inner: proposes, from the copy.
            space: the searched parameters.
            seed: of the first proposals.
            first: how many trials must say something before `inner` is asked; until then
                proposals are spread evenly over the space.
        """
        self._inner, self._space, self._first = inner, dict(space), first
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._even = QMCSampler(
                seed=seed,
                scramble=True,
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            )
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all searched parameters but those with a single value."""
        return {name: limits for name, limits in self._space.items() if not limits.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of a trial."""
        # A failed trial says nothing about its parameters.
        others = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
            and other.state is not OptunaState.FAIL
            and self._space.keys() <= other.params.keys()
        ]
        shown = self._show(others)
        if sum(other.state.is_finished() for other in shown) < self._first:
            return self._even.sample_relative(study, trial, search_space)
        copy = optuna.create_study(direction="maximize")
        copy.add_trials(shown)
        number = copy.ask().number
        asked = copy.get_trials(deepcopy=False)[number]
        return self._inner.sample_relative(copy, asked, search_space)

    @abstractmethod
    def _show(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials as the inner sampler is to see them."""

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter at random; Optuna asks for those whose range is a single value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


class CurveSampler(_LearningSampler):
    """Optuna's Gaussian process on the ends of all trials, those predicted that lie ahead.

    A trial that has reached no rung is shown as running, which keeps the process away from its
    neighbours.
    """

    _FIRST = 4

    def __init__(self, seed: int, rungs: Sequence[int], space: Space) -> None:
        """Begin.

        Args:
            seed: of the proposals.
            rungs: steps at which the study compares trials, in order.
            space: the searched parameters.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            process = GPSampler(seed=seed, n_startup_trials=1)
        super().__init__(process, space, seed, self._FIRST)
        self._anchors = (*rungs, _END)

    def _show(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        ends = predict_ends([self._reached(trial) for trial in trials], self._anchors)
        return [
            _copy(trial, OptunaState.RUNNING if end is None else OptunaState.COMPLETE, value=end)
            for trial, end in zip(trials, ends, strict=True)
        ]

    def _reached(self, trial: FrozenTrial) -> dict[int, float]:
        """Return a trial's values by anchor: those of its first report there or beyond."""
        if trial.user_attrs.get(
            TrialState.DIVERGED
        ):  # its score of 0 says nothing about the curves of others
            return {_END: 0.0}
        reports = sorted(trial.intermediate_values.items())
        values = {}
        for anchor in self._anchors:
            value = next((value for step, value in reports if step >= anchor), None)
            if value is not None:
                values[anchor] = value
        if trial.state is OptunaState.COMPLETE and trial.value is not None:
            values[_END] = trial.value
        return values


class WaitingTreeSampler(_LearningSampler):
    """Optuna's TPE, which sees trials that wait at a rung as it sees those that were stopped."""

    _FIRST = 10  # as Optuna's own default

    def __init__(self, seed: int, rungs: Sequence[int], space: Space) -> None:
        """Begin; the arguments are those of `CurveSampler`."""
        super().__init__(TPESampler(seed=seed, n_startup_trials=1), space, seed, self._FIRST)
        self._rungs = rungs

    def _show(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [
            _copy(trial, OptunaState.PRUNED, reports=trial.intermediate_values)
            if trial.state is OptunaState.RUNNING and self._has_come_to_a_rung(trial)
            else _copy(trial, trial.state, trial.value, trial.intermediate_values)
            for trial in trials
        ]

    def _has_come_to_a_rung(self, trial: FrozenTrial) -> bool:
        return max(trial.intermediate_values, default=0) >= min(self._rungs, default=_END)


def _copy(
    trial: FrozenTrial,
    state: OptunaState,
    value: float | None = None,
    reports: Mapping[int, float] | None = None,
) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=dict(reports or {}),
    )
