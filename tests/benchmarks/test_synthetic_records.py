"""Every analysis command reads invented records as it reads real ones, and changes none."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis import compare, rank_trials, table, validate
from benchmarks.synthetic_records import write_studies
from tests.support.stored import bytes_under
from wpm.records import find_studies, read_trials

SCRIPTS = {
    "rank_trials": (rank_trials.main, ["--across", "--where", "score > 0.3"]),
    "table": (table.main, ["--side-by-side"]),
    "compare": (compare.main, ["--all-twins"]),
    "validate": (validate.main, ["--view", "separated"]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_reads_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main: Callable[[Sequence[str]], int]
    main, flags = SCRIPTS[name]
    places = write_studies(tmp_path, studies=4, trials=6, runs=2)
    before = bytes_under(tmp_path)
    assert main(["--run-root", str(tmp_path), *flags]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert str(places[1].row) in out  # the first of them with a twin
    assert bytes_under(tmp_path) == before


def test_rows_run_out_into_another_data_set_and_scores_are_repeatable(tmp_path: Path) -> None:
    scores = []
    for name in ("a", "b"):
        places = write_studies(tmp_path / name, studies=40, trials=1, with_reports=True)
        assert len(find_studies(tmp_path / name)) == 40
        assert {place.dataset for place in places} == {"set0", "set1"}
        ((record,), problems) = read_trials(places[7], with_reports=True)
        assert problems == []
        assert record.result is not None
        assert len(record.reports) == record.result.epochs
        scores.append(record.result.score)
    assert scores[0] == scores[1]
