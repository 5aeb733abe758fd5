"""The ranking of trials, and the flags that all analysis scripts share, on a small stored study."""

import argparse
import csv
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis import command_line as options
from analysis import rank_trials
from analysis.studies import selection
from analysis.studies.published import read_trace
from tests.support.searches import write_search_of_waiting_folds
from tests.support.stored import bytes_under, write_search
from tests.support.trials import curve, fold_report, outcome
from wpm.cli.entry import EXIT_BROKEN_PIPE
from wpm.errors import UserError
from wpm.files import write_json
from wpm.records import (
    FORMAT,
    Outcome,
    StudyPlace,
    TrainingFolder,
    TrialState,
    write_study,
)
from wpm.reports import Report
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]

# Hand-computed: [0.2, 0.4] has mean 0.3 and sample deviation sqrt(0.02) = 0.1414...
DEVIATION = 0.02**0.5


def write_trial(
    place: StudyPlace,
    number: int,
    state: TrialState | None,
    fold_scores: Sequence[float] = (),
    *,
    epochs: int = 20,
    reason: str = "",
    **parameters: float,
) -> None:
    """Write a trial; one without a state still runs."""
    folder = TrainingFolder(place.trial_folder(number))
    folder.write_identity({"number": number, "parameters": parameters})
    score = sum(fold_scores) / len(fold_scores) if fold_scores else None
    if state is None:
        folds = tuple(
            fold_report(fold, best_map_at_r=s, training_seconds=1.5, validation_seconds=0.5)
            for fold, s in enumerate(fold_scores)
        )
        reports = [] if score is None else [Report(epochs, score, folds).to_json()]
        content = {"reports": reports, "epoch": epochs, "checkpoint": None}
        write_json(folder.folder / "reports.json", content)
        return
    result = outcome(
        score, state, reason=reason, epochs=epochs, fold_scores=tuple(fold_scores),
        training_seconds=60.0, validation_seconds=5.25,
    )  # fmt: skip
    folder.write_result(result)


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """Write two studies: one with a trial in every state, one that has just begun."""
    root = tmp_path / "runs"
    place = StudyPlace(root, "omniglot", "small", Row("contrastive", "wpm"))
    write_study(place, {"identity": {}, "trials": 8, "provenance": {}})
    write_trial(place, 0, TrialState.COMPLETE, [0.2, 0.4], margin=0.123456, sharpness=32.0)
    write_trial(
        place,
        1,
        TrialState.FAILED,
        [0.9, 0.9],
        epochs=3,
        reason="diverged:\nloss | nan",
        margin=1e-6,
    )
    write_trial(
        place, 2, TrialState.PRUNED, [0.5, 0.7], epochs=5, reason="stopped at epoch 5", margin=-0.2
    )
    write_trial(place, 3, TrialState.COMPLETE, [0.4, 0.6], margin=12345.678, sharpness=1.0)
    write_trial(place, 4, None, [0.8, 0.6], epochs=7, margin=0.5)
    write_trial(
        place, 5, TrialState.PRUNED, [0.6, 0.8], epochs=5, reason="stopped at epoch 5", margin=0.0
    )
    write_trial(place, 6, None, [], margin=0.25)
    begun = StudyPlace(root, "omniglot", "small", Row("triplet"))
    write_study(begun, {"identity": {}, "trials": 4, "provenance": {}})
    return root


def rank(root: Path, *arguments: str) -> int:
    return rank_trials.main(["--run-root", str(root), *arguments])


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


TEXT = """\
omniglot/small/contrastive+wpm: 5 of 8 trials ended
rank  trial  state     MAP@R %   ± sd  epochs  device-h     margin  sharpness  reason
   1      3  complete    50.00  14.14      20     0.018  1.235e+04          1
   2      0  complete    30.00  14.14      20     0.018     0.1235         32
   3      5  stopped     70.00  14.14       5     0.018          0          -
   4      2  stopped     60.00  14.14       5     0.018       -0.2          -
   -      4  running     70.00  14.14       7     0.001        0.5          -
   -      6  running         -      -       0     0.000       0.25          -
   -      1  failed          -      -       3     0.018      1e-06          -  diverged: loss | nan

omniglot/small/triplet: 0 of 4 trials ended
no trials yet
"""


def test_text_ranks_by_state_then_score(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(run_root, "--dataset", "omniglot") == 0
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err == ""


def test_diverged_trial_is_ranked_with_0_and_its_reason(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(run_root, "omniglot", "small", Row("contrastive", "wpm"))
    reports, reason = curve(0.9, 2), "loss of fold 1 is nan in epoch 3"
    folder = TrainingFolder(place.trial_folder(7))
    folder.write_identity({"number": 7, "parameters": {"margin": 0.125}})
    folder.write_result(Outcome.from_reports(TrialState.DIVERGED, reports, reason))
    arguments = ("--row", "contrastive+wpm", "--columns", "rank", "trial", "state", "score",
                 "score_deviation", "reason")  # fmt: skip
    assert rank(run_root, *arguments, "--where", "trial > 4", "--format", "csv") == 0
    table = read_csv(capsys.readouterr().out)
    assert [line["trial"] for line in table] == ["5", "7", "6"], "after those that trained"
    assert table[1] == {
        "rank": "5", "trial": "7", "state": "diverged", "score": "0.0", "score_deviation": "",
        "reason": reason,
    }  # fmt: skip
    assert rank(run_root, "--row", "contrastive+wpm") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "diverged " in line]
    assert line.split()[:4] == ["5", "7", "diverged", "0.00"]
    assert line.endswith(reason)


def test_ranking_across_training_procedures_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "triplet", procedure=1)
    write_search(tmp_path, "contrastive")
    assert rank(tmp_path, "--across") == 0
    note = "scores under different training procedures (1, 2) do not compare"
    assert note in capsys.readouterr().out
    assert rank(tmp_path, "--across", "--row", "triplet") == 0
    assert note not in capsys.readouterr().out


def test_top_limits_every_study_and_says_so(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "omniglot", "--row", "contrastive+wpm", "--top", "2"]
    assert rank(run_root, *arguments) == 0
    assert capsys.readouterr().out == (
        "omniglot/small/contrastive+wpm: 5 of 8 trials ended, the first 2 of 7 shown\n"
        "rank  trial  state     MAP@R %   ± sd  epochs  device-h     margin  sharpness\n"
        "   1      3  complete    50.00  14.14      20     0.018  1.235e+04          1\n"
        "   2      0  complete    30.00  14.14      20     0.018     0.1235         32\n"
    )
    assert rank(run_root, *arguments[:-1], "99") == 0
    assert "shown" not in capsys.readouterr().out


@pytest.fixture
def published_root(tmp_path: Path) -> Path:
    """Write six complete trials and a failed one of a published search, and another search."""
    root = tmp_path / "runs"
    for row in ("contrastive", "contrastive+wpm"):
        place = StudyPlace(root, "cub200", "mlrc", Row.parse(row))
        identity = {"protocol": {"name": "mlrc", "max_epochs": 3, "crop": 227}}
        write_study(place, {"identity": identity, "trials": 8, "provenance": {}})
        for number, score in enumerate((0.25, None, 0.2, 0.3, 0.1, 0.35, 0.4)):
            state = TrialState.FAILED if score is None else TrialState.COMPLETE
            write_trial(place, number, state, [score or 0.9], margin=0.5)
    return root


# After 5 complete trials ours has ended trials 0, 2, 3, 4, 5: best 0.35. The published values are
# those of cub_contrastive in the file as published.
TRACE = (
    "best MAP@R % so far after 1 / 5 / 10 / 20 / 50 complete trials: "
    "ours 25.00 / 35.00 / - / - / -, published {}"
)
DEPARTURES = (
    "; not the published procedure: validate_untrained False (published True); max_epochs 3 "
    "(published 1000); trials 7 (published 50); trials stopped early (published: none)"
)
PUBLISHED_TRACE = "34.86 / 39.17 / 42.51 / 43.25 / 43.68"


def test_progress_is_shown_beside_that_of_the_published_search(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # --top limits what is shown, not what is compared.
    assert rank(published_root, "--against", "published", "--top", "1") == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.splitlines()[-1] == f"note: {TRACE.format(PUBLISHED_TRACE)}{DEPARTURES}"
    none = "no published search of this row to compare with"
    assert second.splitlines()[-1] == f"note: {none}"
    assert rank(published_root, "--against", "published", "--format", "markdown") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["", f"- {none}"]
    assert rank(published_root, "--against", "published", "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert len(read_csv(out)) == 14
    assert err.splitlines() == [
        f"note: cub200/mlrc/contrastive: {TRACE.format(PUBLISHED_TRACE)}{DEPARTURES}",
        f"note: cub200/mlrc/contrastive+wpm: {none}",
    ]


def test_origin_of_known_configurations_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(tmp_path, "cub200", "mlrc", Row("triplet"))
    write_study(place, {"identity": {"searched": {}}, "trials": 2, "provenance": {}})
    for number in range(2):
        write_trial(place, number, TrialState.COMPLETE, [0.4 + 0.1 * number] * 2, margin=0.1)
    assert rank(tmp_path) == 0
    assert "origin" not in capsys.readouterr().out
    folder = TrainingFolder(place.trial_folder(0))
    folder.write_identity(
        {"number": 0, "parameters": {"margin": 0.1}, "origin": "published cub200"}
    )
    assert rank(tmp_path, "--progress", "--against", "published") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:4]] == ["origin", "-", "published cub200"]
    assert "40.00 in the first trial (published cub200), 50.00 in the best" in lines[-2]
    assert "; 1 of our trials were known before; not the published" in lines[-1]
    assert rank(tmp_path, "--format", "csv") == 0
    assert [row["origin"] for row in read_csv(capsys.readouterr().out)] == ["", "published cub200"]


def test_first_trial_is_compared_with_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAILED]
    for row, more in (("triplet", []), ("margin", [TrialState.PRUNED] * 2)):
        place = StudyPlace(tmp_path, "glyphs", "small", Row(row))
        write_study(place, {"identity": {"searched": {}}, "trials": 4, "provenance": {}})
        for number, state in enumerate(more or states):
            write_trial(place, number, state, [number / 10 + 0.1] * 2)
    found = (
        "progress: MAP@R % 10.00 in the first trial, 30.00 in the best; 2 of 4 trials are complete"
    )
    none = "progress: none of 2 trials is complete yet"
    assert rank(tmp_path, "--progress", "--top", "1", "--sort", "trial") == 0
    margin, triplet = capsys.readouterr().out.strip().split("\n\n")
    assert margin.splitlines()[-1] == f"note: {none}"
    assert triplet.splitlines()[-1] == f"note: {found}"
    for flags in (["--across"], ["--format", "csv"]):
        assert rank(tmp_path, "--progress", *flags) == 0
        assert capsys.readouterr().err.splitlines() == [
            f"note: glyphs/small/margin: {none}",
            f"note: glyphs/small/triplet: {found}",
        ]


def test_published_traces_are_complete() -> None:
    traces = {
        (dataset, row): read_trace(dataset, "mlrc", row)
        for dataset in ("cub200", "cars196", "sop")
        for row in ("arcface", "margin", "margin_per_class", "multi_similarity_miner", "triplet")
    }
    for trace in traces.values():
        assert trace is not None
        assert len(trace) == 50
        assert sorted(trace) == list(trace)
    last = traces["cars196", "multi_similarity_miner"]
    assert last is not None
    assert last[-1] == 0.232926
    assert read_trace("cub200", "small", "triplet") is None
    assert read_trace("cub200", "mlrc", "fast_ap") is None  # published with large batches only


def test_latex_is_refused(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        rank(run_root, "--format", "latex")
    assert stop.value.code == 2
    assert "rank_trials: error: argument --format: invalid choice" in capsys.readouterr().err


def test_markdown_is_a_table_under_a_heading(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, "--row", "contrastive+wpm", "--format", "markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["### omniglot/small/contrastive+wpm: 5 of 8 trials ended", ""]
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells[:7] == ["1", "3", "complete", "50.00", "14.14", "20", "0.018"]
    assert cells[7:] == ["1.235e+04", "1", ""]
    assert set(lines[3]) <= set("|-:")
    assert r"diverged: loss \| nan" in lines[-1]  # a bar would begin another cell


def test_csv_is_one_flat_table_of_exact_numbers(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = StudyPlace(run_root, "glyphs", "smoke", Row("margin"))
    write_study(other, {"identity": {}, "trials": 1, "provenance": {}})
    write_trial(other, 0, TrialState.COMPLETE, [1 / 3], beta=1.2)
    assert rank(run_root, "--format", "csv") == 0
    rows = read_csv(capsys.readouterr().out)
    assert list(rows[0]) == [
        "dataset", "protocol", "row", "search", "rank", "trial", "state", "score",
        "score_deviation", "epochs", "folds", "seconds", "device_hours", "edge_distance", "edge",
        "origin", "beta", "margin", "sharpness", "reason",
    ]  # fmt: skip
    assert rows[0] == {
        "dataset": "glyphs", "protocol": "smoke", "row": "margin", "search": "1", "rank": "1",
        "trial": "0", "state": "complete", "score": str(1 / 3), "score_deviation": "",
        "epochs": "20", "folds": "1", "seconds": "65.25", "device_hours": "0.018125",
        "edge_distance": "", "edge": "", "origin": "", "beta": "1.2", "margin": "",
        "sharpness": "", "reason": "",
    }  # fmt: skip
    assert [row["trial"] for row in rows[1:]] == ["3", "0", "5", "2", "4", "6", "1"]
    assert float(rows[2]["score_deviation"]) == pytest.approx(DEVIATION)
    assert rows[1]["margin"] == "12345.678"
    assert rows[5]["seconds"] == "4.0"
    assert [rows[7][name] for name in ("rank", "score", "reason")] == [
        "", "", "diverged:\nloss | nan",
    ]  # fmt: skip


def test_folds_trained_are_shown_and_ranked_where_some_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search_of_waiting_folds(tmp_path)
    assert rank(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "epochs   folds" in lines[1]
    start = lines[1].index("state")
    shown = [line[start:].split() for line in lines[2:6]]
    assert [(words[0], words[3], " ".join(words[4:7])) for words in shown] == [
        ("complete", "40", "2 of 2"),
        ("stopped", "23", "2 of 2"),
        ("stopped", "5", "1 of 2"),
        ("running", "2", "1 of 2"),
    ]
    assert "mean over the folds that it trained" in lines[-1]
    assert rank(tmp_path, "--where", "folds == 2", "--columns", "trial", "--format", "csv") == 0
    assert capsys.readouterr().out.split() == ["trial", "0", "2"]


def test_equal_scores_are_ranked_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", Row("contrastive"))
    write_study(place, {"identity": {}, "trials": 3, "provenance": {}})
    for number in (2, 0, 1):
        write_trial(place, number, TrialState.COMPLETE, [0.5])
    assert rank(tmp_path, "--format", "csv") == 0
    assert [row["trial"] for row in read_csv(capsys.readouterr().out)] == ["0", "1", "2"]


def test_long_reasons_are_shortened_for_people_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", Row("contrastive"))
    write_study(place, {"identity": {}, "trials": 1, "provenance": {}})
    write_trial(place, 0, TrialState.FAILED, reason="out of memory " * 50)
    assert rank(tmp_path) == 0
    assert len(capsys.readouterr().out.splitlines()[-1]) < 200
    assert rank(tmp_path, "--format", "csv") == 0
    assert read_csv(capsys.readouterr().out)[0]["reason"] == "out of memory " * 50


def test_damaged_trial_is_named_and_the_rest_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = run_root / "omniglot" / "small" / "contrastive+wpm" / "trials"
    (trials / "0003" / "result.json").write_bytes(b'{"sha256": "00", "conte')
    (trials / "0004" / "reports.json").write_bytes(b"")
    assert rank(run_root, "--row", "contrastive+wpm") == 0
    out, err = capsys.readouterr()
    assert "4 of 8 trials ended" in out
    lines = out.splitlines()
    assert lines[2].split()[:3] == ["1", "0", "complete"]
    # Trial 4 is there, only how far it is cannot be told.
    assert lines[5].split()[:7] == ["-", "4", "running", "-", "-", "0", "0.000"]
    assert [line.partition(":")[0] for line in err.splitlines()] == ["note", "note"]
    assert "0003/result.json: damaged" in err
    assert "0004/reports.json: damaged" in err


def test_damaged_study_is_named_and_the_others_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_root / "omniglot" / "small" / "contrastive+wpm" / "study.json").write_bytes(b"\x00\xff")
    assert rank(run_root) == 0
    out, err = capsys.readouterr()
    assert out == "omniglot/small/triplet: 0 of 4 trials ended\nno trials yet\n"
    assert "contrastive+wpm/study.json: damaged" in err


def test_study_that_lacks_something_is_named_and_the_others_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_root / "omniglot" / "small" / "contrastive+wpm"
    write_json(folder / "study.json", {"format": FORMAT, "trials": 3})
    assert rank(run_root) == 0
    out, err = capsys.readouterr()
    assert out == "omniglot/small/triplet: 0 of 4 trials ended\nno trials yet\n"
    assert err == f"note: {folder}: left out (KeyError: 'identity')\n"


def test_study_that_may_not_be_read_is_named_and_the_others_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(place: StudyPlace) -> tuple[str, list[str]]:
        if place.row == Row("triplet"):
            raise PermissionError(13, "Permission denied", str(place.folder))
        return str(place.row), []

    args = options.build_parser("x", "", "").parse_args(["--run-root", str(run_root)])
    assert selection.read_studies(selection.select_studies(args), read) == ["contrastive+wpm"]
    assert "triplet: left out (PermissionError: " in capsys.readouterr().err


def test_no_readable_study_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", Row("contrastive"))
    write_json(place.folder / "study.json", {"format": 99, "provenance": {"wpm": "9.9"}})
    assert rank(tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "written by wpm 9.9" in err
    assert "rank_trials: error: none of the 1 selected studies can be read" in err


@pytest.fixture
def two_roots(run_root: Path) -> Path:
    """Write a third study, on another data set, whose ranges are known."""
    place = StudyPlace(run_root, "glyphs", "small", Row("contrastive", "wpm"))
    searched = {
        "margin": {"low": 0.0, "high": 2.0, "scale": "linear"},
        "sharpness": {"low": 1.0, "high": 1000.0, "scale": "log"},
    }
    write_study(place, {"identity": {"searched": searched}, "trials": 2, "provenance": {}})
    write_trial(place, 0, TrialState.COMPLETE, [0.35, 0.45], margin=1.9, sharpness=10.0)
    write_trial(place, 1, TrialState.FAILED, reason="out of memory", margin=0.1, sharpness=900.0)
    return run_root


ACROSS = """\
3 studies: 7 of 14 trials ended, 3 of 9 meet the conditions, the first 2 of 3 shown
data set  row              rank  trial  state     MAP@R %   ± sd  epochs  device-h  margin  sharpness
glyphs    contrastive+wpm     2      0  complete    40.00   7.07      20     0.018     1.9         10
omniglot  contrastive+wpm     3      0  complete    30.00  14.14      20     0.018  0.1235         32
note: scores on different data sets or under different protocols do not compare
"""  # noqa: E501


def test_trials_of_all_studies_are_ranked_as_one(
    two_roots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--where", "sharpness > 1", "--where", "margin>0 and margin < 1e3", "--top", "2"]
    assert rank(two_roots, "--across", *where) == 0
    assert capsys.readouterr().out == ACROSS


def test_columns_are_chosen_and_sorted_by(
    two_roots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ["--columns", "trial", "state", "reason", "sharpness"]
    arguments = ["--dataset", "omniglot", "--row", "contrastive+wpm", *shown]
    assert rank(two_roots, *arguments, "--sort", "sharpness", "--descending", "--top", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["trial", "state", "reason", "sharpness"],
        ["0", "complete", "32"],
        ["3", "complete", "1"],
        # Without a value last, however they are sorted; a chosen reason is shown in full.
        ["5", "stopped", "stopped", "at", "epoch", "5", "-"],
    ]
    assert rank(two_roots, *arguments, "--sort", "trial", "--format", "csv") == 0
    rows = read_csv(capsys.readouterr().out)
    assert list(rows[0]) == ["trial", "state", "reason", "sharpness"]
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]


def test_distance_from_the_edges_is_a_share_of_the_scale(
    two_roots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(two_roots, "--dataset", "glyphs") == 0
    # margin 1.9 of 0 to 2 is 5% from 2; sharpness 10 of 1 to 1000 is one of three decades from 1.
    assert capsys.readouterr().out.splitlines()[-1] == (
        "note: distance of the best (trial 0) from the nearer edge, in % of the searched scale: "
        "margin 5 (high edge, 2), sharpness 33 (low edge, 1)"
    )
    assert rank(two_roots, "--dataset", "glyphs", "--format", "csv") == 0
    best, failed = read_csv(capsys.readouterr().out)
    assert float(best["edge_distance"]) == pytest.approx(0.05)
    assert best["edge"] == "margin high"
    assert failed["edge"] == "sharpness high"
    assert rank(two_roots, "--dataset", "glyphs", "--where", "edge_distance < 0.02") == 0
    out = capsys.readouterr().out
    assert "1 of 2 meet the conditions" in out
    assert "failed" in out


def test_scores_are_fractions_in_conditions_and_missing_ones_meet_none(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for condition in ("score < 0.55", "score != 2"):
        assert rank(run_root, "--where", condition, "--row", "contrastive+wpm") == 0
        assert "failed" not in capsys.readouterr().out
    assert rank(run_root, "--where", "score > 1", "--row", "contrastive+wpm") == 0
    assert capsys.readouterr().out.splitlines()[1] == "no trial meets the conditions"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--where", "sharpnes > 16"],
            "--where: unknown name 'sharpnes'; choose from search, rank",
        ),
        (
            ["--where", "state == 1"],
            "--where: unknown name 'state'; choose from search, rank",
        ),
        (["--sort", "accuracy"], "--sort: unknown name 'accuracy'; choose from dataset, protocol"),
        (["--columns", "row", "x"], "--columns: unknown name 'x'; choose from dataset, protocol"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(
    arguments: list[str], message: str, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rank_trials: error: {message}")
    assert err.endswith("margin, sharpness\n")


def test_trial_that_lacks_something_is_named_and_the_rest_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = run_root / "omniglot" / "small" / "contrastive+wpm" / "trials"
    whole = outcome(0.9).to_json()
    write_json(trials / "0000" / "result.json", {"state": "complete", "score": 0.9})
    write_json(trials / "0003" / "result.json", {**whole, "state": "paused"})
    assert rank(run_root, "--row", "contrastive+wpm") == 0
    out, err = capsys.readouterr()
    assert "3 of 8 trials ended" in out
    assert [line.partition(": its content")[0] for line in err.splitlines()] == [
        f"note: {trials / number / 'result.json'}" for number in ("0000", "0003")
    ]
    assert "not as expected (KeyError: 'reason')" in err
    assert "not as expected (ValueError: 'paused' is not a valid TrialState)" in err


def test_records_are_left_as_they_are(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bytes_under(run_root)
    for style in ("text", "markdown", "csv"):
        assert rank(run_root, "--format", style) == 0
    assert bytes_under(run_root) == before
    capsys.readouterr()


def test_no_studies_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(tmp_path / "nowhere") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"rank_trials: error: no studies under {tmp_path}/nowhere; run a search first: "
        f"python launch.py --run-root {tmp_path}/nowhere\n"
    )


def test_unknown_selection_lists_what_there_is(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, "--dataset", "glyphs", "--row", "margin", "triplet") == 2
    err = capsys.readouterr().err
    assert err == (
        "rank_trials: error: no studies of --dataset glyphs --rows margin triplet under "
        f"{run_root} (there are: omniglot/small/contrastive+wpm, omniglot/small/triplet); "
        "run a search first: python launch.py --dataset glyphs --rows margin triplet "
        f"--run-root {run_root}\n"
    )


def test_part_of_a_selection_that_is_missing_is_named(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, "--dataset", "omniglot", "--rows", "triplet", "margin") == 0
    out, err = capsys.readouterr()
    assert out.startswith("omniglot/small/triplet:")
    assert err == f"note: no study omniglot/*/margin under {run_root}\n"


def test_studies_selected_twice_are_shown_once(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, "--row", "triplet", "triplet", "--protocol", "small") == 0
    assert capsys.readouterr().out.count("omniglot/small/triplet") == 1


@pytest.mark.parametrize("name", ["../runs", "*", "/etc", ""])
def test_names_that_are_no_folder_are_refused(
    name: str, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(run_root, "--dataset", name) == 2
    assert "cannot name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "argument --top: 0 is too small, must be at least 1"),
        (["--top", "ten"], "argument --top: 'ten' is not a whole number"),
        (["--dataset"], "argument --dataset: expected at least one argument"),
        (["--format", "html"], "argument --format: invalid choice: 'html'"),
        (["--data", "x"], "unrecognized arguments: --data x"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        rank_trials.main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rank_trials: error: {message}")
    assert err.endswith("(see python -m analysis.rank_trials --help)\n")
    assert err.count("\n") == 1


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        rank_trials.main(["--help"])
    assert stop.value.code == 0
    example = "python -m analysis.rank_trials --dataset omniglot --row contrastive+wpm --top 10"
    assert example in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("bad thing"), 2, "rank_trials: error: bad thing\n"),
        (PermissionError(13, "Permission denied", "runs"), 2,
         "rank_trials: error: [Errno 13] Permission denied: 'runs'\n"),
        (KeyboardInterrupt(), 130, "rank_trials: interrupted\n"),
    ],
)  # fmt: skip
def test_run_main_turns_errors_into_codes(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> None:
        raise error

    parser = options.build_parser("analysis.rank_trials", "", "")
    assert options.run_main(parser, fail, []) == code
    assert capsys.readouterr().err == message


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(tmp_path, "--debug") == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "\nrank_trials: error: no studies" in err


def run_module(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, check=False, **options)


def test_reader_that_goes_away_is_no_error(run_root: Path) -> None:
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = run_module(
            "-m", "analysis.rank_trials", "--run-root", str(run_root),
            stdout=closed, stderr=subprocess.PIPE, env=buffered,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == EXIT_BROKEN_PIPE


def test_ranking_imports_nothing_slow(run_root: Path) -> None:
    code = (
        "import sys; from analysis.rank_trials import main; code = main(sys.argv[1:]); "
        "slow = {'ray', 'optuna', 'torch', 'scipy', 'pandas'} & set(sys.modules); "
        "sys.exit(code or ' '.join(slow) or 0)"
    )
    done = run_module("-c", code, "--run-root", str(run_root), capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == TEXT
