"""Following trainings: ended ones are read once, and whatever changes is read again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.searches import draw_parameters, write_course, write_searched
from wpm.live_page.trainings import TrainingsReader
from wpm.records import StudyPlace, TrainingFolder, TrialState

PARAMETERS = draw_parameters(1)[0]


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    return write_searched(tmp_path, trials=4, stopped=[1], failed={2: "it failed"})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths of all JSON files that are read."""
    from wpm.records import progress, trainings

    paths: list[str] = []
    for module in (progress, trainings):
        read_json = module.read_json

        def note(path: Path, read_json: object = read_json) -> object:
            paths.append(f"{path.parent.name}/{path.name}")
            return read_json(path)  # type: ignore[operator]

        monkeypatch.setattr(module, "read_json", note)
    yield paths


def reader_of(place: StudyPlace) -> TrainingsReader:
    return TrainingsReader(place.folder / "trials")


def test_ended_trials_have_their_results(place: StudyPlace) -> None:
    found = reader_of(place).read()
    assert [t.state for t in found.ended.values()] == [
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.COMPLETE,
    ]  # fmt: skip
    failed = found.ended["0002"]
    assert (failed.reason, failed.score, failed.seconds) == ("it failed", None, 60.0)
    assert found.open == {}
    assert found.problems == []


def test_ended_trials_are_read_once(place: StudyPlace, reads: list[str]) -> None:
    reader = reader_of(place)
    reader.read()
    assert sorted(path for path in reads if "result" in path) == [
        f"{number:04d}/result.json" for number in range(4)
    ]
    reads.clear()
    for _ in range(3):
        assert len(reader.read().ended) == 4
    assert reads == []


def test_open_trial_is_read_again_when_it_reports_and_when_it_ends(
    place: StudyPlace, reads: list[str]
) -> None:
    write_course(place, 4, PARAMETERS, 0.4, None, epochs=3)
    reader = reader_of(place)
    first = reader.read().open["0004"]
    assert first.epoch == 3
    assert first.score == pytest.approx(0.4)
    assert first.parameters == pytest.approx(PARAMETERS)
    assert [epoch for epoch, _ in first.curve] == [1, 2, 3]
    # Two folds: the last report says 3 s of training and 0.3 s of validation of each.
    assert first.seconds == pytest.approx(6.6)
    assert first.report_seconds == pytest.approx(2.2)
    reads.clear()
    assert reader.read().open["0004"] == first
    assert reads == []
    write_course(place, 4, PARAMETERS, 0.6, None, epochs=5)
    assert reader.read().open["0004"].epoch == 5
    write_course(place, 4, PARAMETERS, 0.6, epochs=6)
    found = reader.read()
    assert (found.open, found.ended["0004"].score) == ({}, 0.6)


def test_trial_that_has_not_reported_has_no_score(place: StudyPlace) -> None:
    write_course(place, 4, PARAMETERS, None, None)
    training = reader_of(place).read().open["0004"]
    assert (training.epoch, training.score, training.curve) == (0, None, ())
    assert training.report_seconds is None


def test_folder_of_a_killed_process_is_passed_over_until_it_is_filled(place: StudyPlace) -> None:
    place.trial_folder(4).mkdir()
    reader = reader_of(place)
    found = reader.read()
    assert ("0004" in found.ended, found.open, found.problems) == (False, {}, [])
    write_course(place, 4, PARAMETERS, 0.4, None)
    assert "0004" in reader.read().open


def test_long_curve_is_thinned_out_and_keeps_its_end(place: StudyPlace) -> None:
    write_course(place, 4, PARAMETERS, 0.4, None, epochs=250)
    epochs = [epoch for epoch, _ in reader_of(place).read().open["0004"].curve]
    assert epochs == list(range(5, 251, 5))


@pytest.mark.parametrize("file", ["result.json", "trial.json"])
def test_damaged_record_is_named_until_it_is_repaired(place: StudyPlace, file: str) -> None:
    path = place.trial_folder(3) / file
    content = path.read_bytes()
    path.write_bytes(content.replace(b"margin", b"mergin").replace(b"complete", b"completE"))
    reader = reader_of(place)
    reader.read()  # what the page does not need is checked after the first look
    (problem,) = reader.read().problems
    assert problem.startswith(f"{path}: damaged")
    if file == "result.json":
        path.write_bytes(content)
        assert reader.read().problems == []


def test_damaged_history_of_an_open_trial_is_named(place: StudyPlace) -> None:
    write_course(place, 4, PARAMETERS, 0.4, None)
    (place.trial_folder(4) / "reports.json").write_text("{")
    reader = reader_of(place)
    found = reader.read()
    assert found.open == {}
    assert len(found.problems) == 1
    write_course(place, 4, PARAMETERS, 0.4, None)
    assert reader.read().problems == []


def test_deleted_trial_is_forgotten_and_a_new_one_in_its_place_is_read(place: StudyPlace) -> None:
    reader = reader_of(place)
    reader.read()
    shutil.rmtree(place.trial_folder(3))
    assert set(reader.read().ended) == {"0000", "0001", "0002"}
    write_course(place, 3, PARAMETERS, 0.7)
    reader.read()
    shutil.rmtree(place.trial_folder(3))
    write_course(place, 3, PARAMETERS, 0.9)  # between two looks
    assert reader.read().ended["0003"].score == 0.9


def test_parameters_and_log_are_read_when_they_are_asked_for(place: StudyPlace) -> None:
    reader = reader_of(place)
    identity = TrainingFolder(place.trial_folder(0)).read_identity()
    assert reader.read_parameters("0000") == identity["parameters"]
    (place.trial_folder(0) / "train.log").write_text("a\nb\nc\nd\n")
    assert reader.read_log("0000") == ["b", "c", "d"]
    assert reader.read_log("0001") == []


def test_missing_folder_holds_no_trainings(tmp_path: Path) -> None:
    found = TrainingsReader(tmp_path / "trials").read()
    assert (found.ended, found.open, found.problems) == ({}, {}, [])
