"""The replay of recorded searches: the same stops, costs and order as a real one."""

from pathlib import Path

import optuna
import pytest
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler

from benchmarks.search_overhead import measure_study
from benchmarks.search_replay import History, read_studies, replay


def make_history(quality: float, epochs: int = 9, seconds: float = 1.0) -> History:
    steps = range(1, epochs + 1)
    return History(
        epochs=list(steps),
        values=[quality * e / epochs for e in steps],
        folds_running=[1.0] * epochs,
        seconds=[seconds * e for e in steps],
    )


def test_cost_counts_a_stopped_fold_as_its_share() -> None:
    history = History([2, 4, 6], [0.1, 0.2, 0.3], [1.0, 0.5, 0.25], [1.0, 2.0, 3.0])
    assert history.cost(0) == 0
    assert history.cost(2) == 2 + 1
    assert history.cost(3) == 2 + 1 + 0.5


def test_without_a_rule_everything_is_trained() -> None:
    histories = [make_history(0.1 * k) for k in range(1, 6)]
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    ended = replay(study, lambda trial: histories[trial.number], 5, workers=2)
    assert [t.complete for t in ended] == [True] * 5
    assert sum(t.cost for t in ended) == 45
    assert study.best_value == pytest.approx(0.5)


def test_worse_trials_stop_at_the_first_rung() -> None:
    histories = [make_history(0.9), make_history(0.1), make_history(0.2)]
    pruner = SuccessiveHalvingPruner(min_resource=3, reduction_factor=3)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    ended = replay(study, lambda trial: histories[trial.number], 3, workers=1)
    assert [(t.number, t.reports, t.complete) for t in ended] == [
        (0, 9, True),
        (1, 3, False),
        (2, 3, False),
    ]


def test_trials_end_in_the_order_of_their_times() -> None:
    histories = [make_history(0.5, seconds=3.0), make_history(0.5), make_history(0.5)]
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    ended = replay(study, lambda trial: histories[trial.number], 3, workers=2)
    assert [t.number for t in ended] == [1, 2, 0]


def test_stored_histories_can_be_read() -> None:
    for study in read_studies():
        for trial in study["trials"]:
            history = trial["history"]
            assert list(history.values) == sorted(history.values), "best so far never falls"
            assert set(trial["parameters"]) == set(study["searched"])
            assert 0 < history.cost(len(history.epochs)) <= study["max_epochs"]


def test_overhead_is_that_of_the_sampler_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(name: str, seed: int, trials: int) -> BaseSampler:
        built.append(name)
        return RandomSampler(seed=seed)

    monkeypatch.setattr("wpm.studies.study.build_sampler", build)
    measure_study(tmp_path, "qmc", trials=10)
    assert set(built) == {"qmc"}
