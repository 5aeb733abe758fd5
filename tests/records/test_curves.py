"""The event file of a training holds what the record says, each validation once."""

import dataclasses
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from tests.support.tiny import make_config
from tests.support.training_jobs import finish, make_job, outcome_of
from wpm.records import TrainingFolder, TrialState
from wpm.records.curves import MEAN, SCALARS, CurveFile
from wpm.reports import Report


def read_events(folder: Path) -> list[Event]:
    """Read the one event file of a folder as TensorBoard does, checksums included."""
    (path,) = folder.glob("*tfevents*")
    data, events = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("Q", data[:8])
        assert struct.unpack("I", data[8:12])[0] == masked_crc32c(data[:8])
        body, data = data[12 : 12 + size], data[12 + size :]
        assert struct.unpack("I", data[:4])[0] == masked_crc32c(body)
        events.append(Event.FromString(body))
        data = data[4:]
    return events


def read_scalars(folder: Path) -> dict[tuple[int, str], float]:
    scalars: dict[tuple[int, str], float] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            assert (event.step, value.tag) not in scalars, "twice"
            scalars[event.step, value.tag] = value.simple_value
    return scalars


def expected(reports: Sequence[Report]) -> dict[tuple[int, str], float]:
    scalars = {(r.epoch, MEAN): r.best_map_at_r for r in reports}
    return scalars | {
        (r.epoch, f"{name}/fold-{fold.fold}"): getattr(fold, name)
        for r in reports
        for fold in r.folds
        for name in SCALARS
    }


def test_fold_is_drawn_at_its_own_epochs_and_the_mean_at_steps(tmp_path: Path) -> None:
    steps = finish(make_job(tmp_path, make_config(max_epochs=2, first_folds=1)))
    reports = TrainingFolder(tmp_path / "training").read_reports()
    assert len(reports) == len(steps[-1].reports) == 4
    expected = {(r.step, MEAN): r.best_map_at_r for r in reports}
    for report, folds in zip(reports, ((0,), (0,), (1, 2, 3), (1, 2, 3)), strict=True):
        for fold in folds:
            for name in SCALARS:
                value = getattr(report.folds[fold], name)
                expected[report.epoch, f"{name}/fold-{fold}"] = value
    assert read_scalars(tmp_path / "training") == pytest.approx(expected, rel=1e-6)
    anew = CurveFile(tmp_path / "training")
    anew.restart(reports)
    anew.close()
    assert read_scalars(tmp_path / "training") == pytest.approx(expected, rel=1e-6)


def test_a_training_leaves_every_validation_once(tmp_path: Path) -> None:
    steps = finish(make_job(tmp_path))
    found = read_scalars(tmp_path / "training")
    assert found == pytest.approx(expected(steps[-1].reports), rel=1e-6)
    assert len(found) == 4 * (1 + 4 * len(SCALARS))


def test_a_training_that_resumes_leaves_every_validation_once(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    job.step()
    (first,) = (tmp_path / "training").glob("*tfevents*")
    with first.open("ab") as file:
        file.write(b"half an event of a killed process")
    job.close()
    steps = finish(make_job(tmp_path))
    assert read_scalars(tmp_path / "training") == pytest.approx(
        expected(steps[-1].reports), rel=1e-6
    )
    events = read_events(tmp_path / "training")
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == events[1].session_log.START, "TensorBoard forgets"
    times = [event.wall_time for event in events]
    assert times == sorted(times)


def test_a_disk_that_refuses_it_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wpm.records.curves.RecordWriter", refuse)
    steps = finish(make_job(tmp_path))
    assert outcome_of(steps[-1]).state is TrialState.COMPLETE
    assert "no more curves for TensorBoard" in caplog.text
    assert caplog.text.count("no more curves") == 1


def test_what_is_drawn_is_what_is_recorded(tmp_path: Path) -> None:
    """Appending and writing anew give the same file, apart from its times."""
    finish(make_job(tmp_path))
    reports = TrainingFolder(tmp_path / "training").read_progress()[0]
    appended = read_scalars(tmp_path / "training")
    anew = CurveFile(tmp_path / "training")
    anew.restart(reports)
    anew.close()
    assert read_scalars(tmp_path / "training") == appended


def test_scalars_are_fields_of_a_folds_report() -> None:
    from wpm.reports import FoldReport

    assert set(SCALARS) <= {field.name for field in dataclasses.fields(FoldReport)}
