"""Packed records: nothing large, everything that the tables need, and a search that goes on."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import pack, table
from tests.support.stored import bytes_under, write_search
from tests.support.tiny import make_plan
from tests.support.trials import curve, killed_launch, run_trial
from wpm.records import StudyPlace, TrainingFolder, TrialState, read_trials
from wpm.studies.study import Study


def pack_and_unpack(run_root: Path, to: Path) -> Path:
    """Return the run folder that an archive of another one makes."""
    assert pack.main(["--run-root", str(run_root), "--out", str(to / "records.tar.xz")]) == 0
    with tarfile.open(to / "records.tar.xz") as archive:
        archive.extractall(to, filter="data")
    return to / run_root.name


def test_table_of_unpacked_records_is_that_of_the_run_folder(
    tested_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpacked = pack_and_unpack(tested_folder / "runs", tmp_path)
    assert "1 study, " in capsys.readouterr().out
    printed = []
    for root in (tested_folder / "runs", unpacked):
        assert table.main(["--run-root", str(root)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    endings = {path.suffix for path in unpacked.rglob("*") if path.is_file()}
    assert endings == {".json", ".jsonl", ".journal"}


def test_same_records_make_the_same_archive(tested_folder: Path, tmp_path: Path) -> None:
    unpacked = pack_and_unpack(tested_folder / "runs", tmp_path / "first")
    pack_and_unpack(unpacked, tmp_path / "second")
    archives = [tmp_path / name / "records.tar.xz" for name in ("first", "second")]
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_search_goes_on_from_unpacked_records(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=4)
    with killed_launch(plan) as study:
        run_trial(study, lambda n: 0.3)
        asked = study.ask()
        assert asked is not None
        number, payload = asked
        reports = curve(0.9)[:1]
        TrainingFolder(Path(payload["folder"])).write_progress(reports, {"epoch": 1})
        study.report(number, reports)
    moved = replace(plan, place=replace(plan.place, run_root=tmp_path / "elsewhere" / "runs"))
    shutil.move(str(pack_and_unpack(tmp_path / "runs", tmp_path / "there")), moved.place.run_root)
    with Study(moved) as study:
        assert study.has_orphans
        assert [run_trial(study, lambda n: 0.5) for _ in range(3)] == [1, 2, 3]
        assert study.exhausted
    records, problems = read_trials(moved.place)
    assert not problems
    assert [record.state.has_ended for record in records] == [True] * 4
    assert [record.state for record in records[:2]] == [TrialState.COMPLETE] * 2


def test_half_written_line_of_a_journal_is_left_out(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.3)
    whole = plan.place.journal.read_bytes()
    plan.place.journal.write_bytes(whole + b'{"op_code": 5, "wor')
    unpacked = pack_and_unpack(tmp_path / "runs", tmp_path / "there")
    assert replace(plan.place, run_root=unpacked).journal.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "records.zip"], "the archive's name must end with .tar.xz"),
        (["--out", "records.tar.xz", "--dataset", "cars"], "no studies of --dataset cars under"),
    ],
)
def test_bad_request_is_refused_in_one_line_and_writes_nothing(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_search(tmp_path / "runs", "triplet")
    before = bytes_under(tmp_path)
    assert pack.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert bytes_under(tmp_path) == before


def test_damaged_study_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path / "runs", "triplet")
    place = StudyPlace.from_label(tmp_path / "runs", "omniglot", "small", "triplet")
    (place.folder / "study.json").write_text("{")
    out = tmp_path / "records.tar.xz"
    assert pack.main(["--run-root", str(tmp_path / "runs"), "--out", str(out)]) == 2
    assert str(place.folder / "study.json") in capsys.readouterr().err
    assert not out.exists()
