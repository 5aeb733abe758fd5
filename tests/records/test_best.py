"""There is one rule of the best configuration, and everything that needs a best one follows it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import table
from analysis.studies.best_runs import find_best_runs
from analysis.studies.row_results import read_row
from tests.support.stored import write_final, write_run, write_search
from wpm.records import (
    Chosen,
    FinalRecord,
    ScoredRun,
    StudyPlace,
    TrainingFolder,
    TrialState,
    best_tested,
    model_file,
    read_finals,
    validation_order,
)
from wpm.studies.best_trials import choose_best_trials
from wpm.studies.final_runs import drop_losing_models


def test_higher_score_is_better_and_the_earlier_trial_of_equals() -> None:
    trials = [(0.3, 10), (0.5, 11), (0.3, 2), (None, None), (0.5, 9)]
    ordered = sorted(trials, key=lambda trial: validation_order(*trial))
    assert ordered == [(0.5, 9), (0.5, 11), (0.3, 2), (0.3, 10), (None, None)]


def configuration(chosen: Chosen, tested: int) -> FinalRecord:
    run = ScoredRun(1000, {}, {}, channels=1, test_images=4, test_classes=2)
    return FinalRecord(Path(), chosen, [run] * tested or [None], [[]] * max(tested, 1))


def test_best_tested_is_the_best_in_validation_of_those_with_a_test() -> None:
    untested = configuration(Chosen(trial=3, score=0.9), tested=0)
    worse = configuration(Chosen(trial=1, score=0.4), tested=5)
    better = configuration(Chosen(trial=2, score=0.5), tested=1)
    published = configuration(Chosen(source="a paper"), tested=5)
    assert best_tested([untested, worse, published, better]) is better
    assert best_tested([published]) is published
    assert best_tested([untested]) is None
    assert best_tested([]) is None


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    """Two configurations with final runs; the only run of the better one, trial 3, failed."""
    place = write_search(
        tmp_path, "contrastive", scores=(0.0, 0.1, 0.5, 0.6), states=[TrialState.COMPLETE] * 4
    )
    for key, trial, score, tested in (("aa", 3, 0.6, None), ("bb", 2, 0.5, 0.7)):
        folder = write_final(place, key, trial, score)
        write_run(folder, 1000, tested, validation=[score])
        models = TrainingFolder(folder / "seed-1000" / "fold-0")
        models.write_model(model_file(0), b"weights")
    return place


def chosen_by_the_table(place: StudyPlace) -> int | str | None:
    finals = read_row(place)[0].finals
    return None if finals is None else finals.trial


def chosen_by_export_and_embedding(place: StudyPlace) -> int | str | None:
    return find_best_runs(place)[0].trial


def kept_by_the_deletion_of_weights(place: StudyPlace) -> int | str | None:
    drop_losing_models(place)
    (kept,) = {path.parts[-4] for path in place.folder.glob("finals/*/*/*/*.safetensors")}
    return {"aa": 3, "bb": 2}[kept]


@pytest.mark.parametrize(
    "choose",
    [chosen_by_the_table, chosen_by_export_and_embedding, kept_by_the_deletion_of_weights],
)
def test_all_take_the_same_configuration_where_the_better_ones_run_failed(
    place: StudyPlace, choose: Callable[[StudyPlace], int | str | None]
) -> None:
    best = best_tested(read_finals(place)[0])
    assert best is not None
    assert choose(place) == best.chosen.trial == 2


def test_table_says_that_a_better_configuration_failed(
    place: StudyPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--run-root", str(place.run_root)]) == 0
    out = capsys.readouterr().out
    assert "70.00" in out
    assert (
        "contrastive: 2 configurations have final runs; shown is trial 2, the best in validation "
        "of those that were tested; trial 3 is better in validation, but its final runs failed"
    ) in " ".join(out.split())
    assert "has no final runs" not in out


def test_search_and_table_agree_on_the_best_of_equal_trials(tmp_path: Path) -> None:
    place = write_search(
        tmp_path, "margin", [TrialState.COMPLETE] * 12, 12, scores=[0.1, 0.2, *[0.5] * 10]
    )
    (best,) = choose_best_trials(place, allow_unfinished=False)
    assert best.number == 2, "not 10, which sorts first as text"
    assert read_row(place)[0].best == (2, 0.5)
