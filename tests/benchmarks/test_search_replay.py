"""The replay of recorded searches: the same stops, costs and order as a real one."""

from pathlib import Path

import pytest
from optuna.samplers import BaseSampler, RandomSampler

from benchmarks.search_overhead import measure_study
from benchmarks.search_replay import Curves, Listener, ReplayedTrial, Rule, read_studies, replay
from benchmarks.search_stopping import better_half, correlate_first_fold, spend
from wpm.protocol_files import find_protocol
from wpm.protocols import HALVING, NO_STOPPING, PAUSING

PROTOCOL = find_protocol("small", "omniglot")  # of 20 epochs


def make_curves(quality: float, seconds: float = 1.0) -> Curves:
    return Curves([[quality * epoch / 20 for epoch in range(1, 21)]] * 4, seconds)


def run(trials: list[Curves], rule: Rule, workers: int = 1) -> list[ReplayedTrial]:
    histories = [trial.under(PROTOCOL.max_epochs, rule.first_folds) for trial in trials]
    return replay(histories.__getitem__, rule.rungs(PROTOCOL), len(trials), workers)


def test_folds_in_lockstep_end_with_their_patience() -> None:
    curves = Curves([[0.1, 0.2, 0.3], [0.5]], seconds=2.0)
    history = curves.under(max_epochs=9, first_folds=0)
    assert history.steps == [1, 2, 3]
    assert history.values == pytest.approx([0.3, 0.35, 0.4])
    assert history.costs == [2, 1, 1]
    assert history.seconds == [4, 6, 8]
    assert curves.cost == 4
    assert curves.end == pytest.approx(0.4)


def test_first_fold_trains_alone_to_its_end() -> None:
    curves = Curves([[0.1, 0.2, 0.3], [0.5], [0.4, 0.6]], seconds=1.0)
    history = curves.under(max_epochs=9, first_folds=1)
    assert history.steps == [1, 2, 9, 10, 11], (
        "the last report of the first folds has their last step"
    )
    assert history.values == pytest.approx([0.1, 0.2, 0.3, 0.4, 1.4 / 3])
    assert history.costs == [1, 1, 1, 2, 1]
    assert history.values[-1] == pytest.approx(curves.end)


def test_without_a_rule_everything_is_trained() -> None:
    ended = run([make_curves(0.1 * k) for k in range(1, 6)], Rule(NO_STOPPING), workers=2)
    assert [trial.complete for trial in ended] == [True] * 5
    assert sum(trial.cost for trial in ended) == 5 * 80


def test_halving_stops_what_is_behind_at_the_first_rung() -> None:
    ended = run([make_curves(q) for q in (0.9, 0.1, 0.2)], Rule(HALVING, 0, 3, 3))
    assert [(t.number, t.reports, t.complete) for t in ended] == [
        (0, 20, True), (1, 3, False), (2, 3, False),
    ]  # fmt: skip


def test_pausing_resumes_the_best_once_its_rung_has_filled() -> None:
    ended = run([make_curves(q) for q in (0.9, 0.1, 0.2)], Rule(PAUSING, 1, 3, 3))
    by_number = {trial.number: trial for trial in ended}
    assert by_number[0].complete
    assert [by_number[n].cost for n in (0, 1, 2)] == [80, 3, 3]
    assert ended[-1].number == 0, "it waited for the others"


def test_known_point_never_waits_at_an_early_rung() -> None:
    histories = [make_curves(q).under(20, 1) for q in (0.1, 0.9, 0.8)]
    ended = replay(histories.__getitem__, Rule(PAUSING, 1, 3, 3).rungs(PROTOCOL), 3, 1, known=1)
    by_number = {trial.number: trial for trial in ended}
    assert by_number[0].cost == 20, "all epochs of its first fold, and then it is behind"
    assert by_number[1].complete


def test_listener_hears_every_report_and_one_end() -> None:
    heard: dict[int, list[float | None]] = {}

    class Recorder(Listener):
        def on_report(self, number: int, step: int, value: float) -> None:
            heard.setdefault(number, []).append(step)

        def on_end(self, number: int, value: float | None) -> None:
            heard[number].append(value)

    histories = [make_curves(q).under(20, 0) for q in (0.9, 0.1, 0.2)]
    replay(histories.__getitem__, Rule(PAUSING, 0, 3, 3).rungs(PROTOCOL), 3, 2, Recorder())
    assert heard == {0: [*range(1, 21), 0.9], 1: [1, 2, 3, None], 2: [1, 2, 3, None]}


def test_spending_of_a_rule_is_counted_in_epochs_of_single_folds() -> None:
    trials = [make_curves(0.01 * k) for k in range(1, 31)]
    all_of_it = spend(trials, 30, Rule(NO_STOPPING), PROTOCOL, 4, seed=0)
    assert (all_of_it.cost, all_of_it.complete, all_of_it.stopped) == (1.0, 30, 0.0)
    saved = spend(trials, 30, Rule(PAUSING, 1, 2, 2), PROTOCOL, 4, seed=0)
    assert saved.cost < 1 / 4
    assert saved.loss == 0.0, "curves that never cross lose nothing"


def test_search_of_some_of_the_trials_is_compared_with_the_best_of_these() -> None:
    trials = [make_curves(0.01 * k) for k in range(1, 31)]
    outcomes = [spend(trials, 5, Rule(NO_STOPPING), PROTOCOL, 4, seed) for seed in range(20)]
    assert {(o.cost, o.loss, o.complete) for o in outcomes} == {(1.0, 0.0, 5)}


def test_first_fold_ranks_trials_as_all_folds_do_or_the_other_way_round() -> None:
    same = [Curves([[0.1 * k], [0.1 * k]], 1.0) for k in range(5)]
    turned = [Curves([[0.1 * k], [1 - 0.3 * k]], 1.0) for k in range(3)]
    assert correlate_first_fold(same) == pytest.approx(1)
    assert correlate_first_fold(turned) == pytest.approx(-1)
    assert [trial.end for trial in better_half(same)] == pytest.approx([0.4, 0.3, 0.2])


def test_trials_that_all_have_no_score_lose_nothing() -> None:
    assert spend([make_curves(0.0)] * 4, 4, Rule(), PROTOCOL, 2, seed=0).loss == 0.0


def test_stored_histories_can_be_read() -> None:
    for study in read_studies():
        for parameters, curves in zip(study.parameters, study.curves, strict=True):
            assert set(parameters) == set(study.searched)
            assert len(curves.values) == study.protocol.folds
            for fold in curves.values:
                assert list(fold) == sorted(fold), "best so far never falls"
                assert 0 < len(fold) <= study.protocol.max_epochs


def test_overhead_is_that_of_the_sampler_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(name: str, seed: int, *_: object) -> BaseSampler:
        built.append(name)
        return RandomSampler(seed=seed)

    monkeypatch.setattr("wpm.studies.optuna_trials.build_sampler", build)
    measure_study(tmp_path, "qmc", trials=10)
    assert set(built) == {"qmc"}
