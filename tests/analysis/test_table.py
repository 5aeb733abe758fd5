"""The results table on small stored studies, by hand-computed means and intervals."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis import table
from analysis.studies.published import read_scores
from tests.support.stored import (
    COMPLETE,
    FAILED,
    PROTOCOL,
    PRUNED,
    RUNNING,
    bytes_under,
    write_final,
    write_run,
    write_search,
)
from wpm.files import read_json, write_json
from wpm.protocol_files import find_protocol
from wpm.records import FORMAT, ScoredRun, StudyPlace, TrainingFolder, TrialState, write_run_result
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]
T1, T2 = 12.706205, 4.302653  # 97.5% quantiles of Student's t, 1 and 2 degrees of freedom


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """Write four rows: with three tested runs, two and a failed one, one run, and none."""
    root = tmp_path / "runs"
    plain = write_final(write_search(root, "contrastive"), "aa", trial=2, score=0.2)
    for seed, score in enumerate((0.5, 0.6, 0.7)):
        write_run(plain, 1000 + seed, score, separated=0.4, validation=(0.2, 0.3, 0.4))
    mined = write_final(write_search(root, "contrastive+wpm"), "bb", trial=2, score=0.2)
    write_run(mined, 1000, 0.80, separated=0.50)
    write_run(mined, 1001, None)
    write_run(mined, 1002, 0.82, separated=0.52)
    write_search(root, "triplet+wpm", [COMPLETE, COMPLETE, RUNNING])
    triplet = write_search(
        root,
        "triplet",
        [COMPLETE, COMPLETE, COMPLETE, FAILED],
    )
    single = write_final(triplet, "cc", trial=2, score=0.2)
    write_run(single, 1000, 0.98765, separated=0.3)
    return root


def show(root: Path, *arguments: str) -> int:
    return table.main(["--run-root", str(root), *arguments])


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Half-widths: (0.5, 0.6, 0.7) has s = 0.1, 4.302653 * 0.1 / sqrt(3) = 0.24841;
# (0.80, 0.82) has s / sqrt(2) = 0.01, 12.706205 * 0.01 = 0.12706.
TEXT = """\
omniglot, protocol small: test scores in percent (concatenated 48-d, separated 16-d)
row                         48-d P@1              48-d RP           48-d MAP@R             16-d P@1              16-d RP           16-d MAP@R  runs  best trial  trials  search h  runs h
contrastive            60.00 ± 24.84        50.00 ± 24.84        40.00 ± 24.84         40.00 ± 0.00         30.00 ± 0.00         20.00 ± 0.00     3           2     4/4     4.000   4.500
contrastive+wpm  81.00 ± 12.71 [1,2]  71.00 ± 12.71 [1,2]  61.00 ± 12.71 [1,2]  51.00 ± 12.71 [1,2]  41.00 ± 12.71 [1,2]  31.00 ± 12.71 [1,2]     2           2     4/4     4.000   0.000
triplet                  98.77 [3,4]          88.77 [3,4]          78.77 [3,4]          30.00 [3,4]          20.00 [3,4]          10.00 [3,4]     1           2     4/4     4.000   0.000
triplet+wpm                  - [4,5]              - [4,5]              - [4,5]              - [4,5]              - [4,5]              - [4,5]     0           -     2/4     2.000   0.000
note: no final runs (python launch.py --best-only makes them): triplet+wpm
note: not as published: 10 deviations of contrastive, contrastive+wpm, triplet; 9 deviations of triplet+wpm (python -m analysis.deviations --dataset omniglot --protocol small lists them)
note: ± is of these configurations with other seeds; how much another search would differ is not in it
note: [1] contrastive+wpm: 1 final run failed, left out
note: [2] contrastive+wpm: 2 tested runs, other rows have up to 3
note: [3] triplet: 1 tested run, other rows have up to 3
note: [4] unequal search budgets: triplet 4/4 trials, triplet+wpm 2/4 trials
note: [5] triplet+wpm: unfinished search, 2/4 trials ended
"""  # noqa: E501


def test_images_that_were_left_out_of_the_test_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_final(write_search(tmp_path, "triplet"), "aa", trial=2, score=0.2)
    for seed, lost in ((1000, []), (1001, [["a/1.png", "truncated"], ["b/2.png", "gone"]])):
        write_run(folder, seed, 0.5)
        path = folder / f"seed-{seed}" / "result.json"
        write_json(path, {**read_json(path), "left_out": lost})
    assert show(tmp_path) == 0
    assert "triplet: tested without 2 images that could not be read" in capsys.readouterr().out


def squeeze(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_text_shows_means_intervals_and_budgets(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(run_root, "--dataset", "omniglot") == 0
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err == ""


def test_markdown_has_the_same_cells(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(run_root, "--format", "markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("### omniglot, protocol small")
    assert lines[1] == ""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:8]]
    assert cells[0] == [
        "row", "48-d P@1", "48-d RP", "48-d MAP@R", "16-d P@1", "16-d RP", "16-d MAP@R",
        "runs", "best trial", "trials", "search h", "runs h",
    ]  # fmt: skip
    assert cells[2][:3] == ["contrastive", "60.00 ± 24.84", "50.00 ± 24.84"]
    assert cells[3][1] == "81.00 ± 12.71 [1,2]"
    assert cells[5] == ["triplet+wpm", *["- [4,5]"] * 6, "0", "-", "2/4", "2.000", "0.000"]
    assert lines[3].endswith("-:|")  # a dash with a footnote does not turn numbers into words
    assert lines[8] == ""
    assert lines[10].startswith("- not as published: 10 deviations of contrastive, ")
    assert lines[11].startswith("- ± is of these configurations with other seeds; how much ")
    assert lines[12] == "- [1] contrastive+wpm: 1 final run failed, left out"


def test_csv_has_exact_fractions(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(run_root, "--format", "csv") == 0
    out, err = capsys.readouterr()
    plain, mined, single, untested = read_csv(out)
    assert (plain["row"], plain["n"], plain["trial"]) == ("contrastive", "3", "2")
    assert (plain["concatenated_dim"], plain["separated_dim"]) == ("48", "16")
    assert float(plain["concatenated_precision_at_1_mean"]) == pytest.approx(0.6)
    half_width = float(plain["concatenated_precision_at_1_half_width"])
    assert half_width == pytest.approx(T2 * 0.1 / 3**0.5, rel=1e-6)
    assert float(mined["separated_map_at_r_mean"]) == pytest.approx(0.31)
    assert float(mined["separated_map_at_r_half_width"]) == pytest.approx(T1 * 0.01, rel=1e-6)
    assert (mined["n"], mined["failed_runs"]) == ("2", "1")
    assert single["concatenated_precision_at_1_mean"] == "0.98765"
    assert single["concatenated_precision_at_1_half_width"] == ""
    assert (single["validation_map_at_r"], single["trials_ended"]) == ("0.2", "4")
    assert (plain["search_device_hours"], plain["final_device_hours"]) == ("4.0", "4.5")
    assert plain["notes"] == ""
    assert mined["notes"] == (
        "contrastive+wpm: 1 final run failed, left out; "
        "contrastive+wpm: 2 tested runs, other rows have up to 3"
    )
    empty = [value for name, value in untested.items() if name.endswith(("_mean", "_half_width"))]
    assert empty == [""] * 12
    assert (untested["n"], untested["trials_ended"], untested["trials_wanted"]) == ("0", "2", "4")
    assert "note: unequal search budgets: triplet 4/4" in err


def test_twins_stay_together_whatever_sorts_between(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in ("margin_b+wpm", "margin+wpm", "margin", "margin_b", "ntxent+wpm", "amsoftmax"):
        write_search(tmp_path, row)
    assert show(tmp_path, "--format", "csv") == 0
    assert [row["row"] for row in read_csv(capsys.readouterr().out)] == [
        "amsoftmax", "margin", "margin+wpm", "margin_b", "margin_b+wpm", "ntxent+wpm",
    ]  # fmt: skip


def test_one_block_a_dataset_and_protocol(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(run_root, "contrastive", dataset="glyphs", protocol="mlrc")
    write_search(run_root, "contrastive", protocol="mlrc", settings=WIDE)
    assert show(run_root, "--row", "contrastive") == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "glyphs, protocol mlrc: test scores in percent (concatenated 48-d, separated 16-d)",
        "omniglot, protocol mlrc: test scores in percent (concatenated 512-d, separated 128-d)",
        "omniglot, protocol small: test scores in percent (concatenated 48-d, separated 16-d)",
    ]
    assert show(run_root, "--dataset", "omniglot", "--protocol", "mlrc", "--format", "csv") == 0
    assert [row["protocol"] for row in read_csv(capsys.readouterr().out)] == ["mlrc"]


def test_configuration_is_chosen_by_validation_not_by_test(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(run_root, "omniglot", "small", Row("triplet"))
    worse = write_final(place, "aa", trial=1, score=0.1)
    write_run(worse, 1000, 1.0, separated=1.0)
    assert show(run_root, "--row", "triplet") == 0
    out = capsys.readouterr().out
    assert squeeze(out)[2][:2] == ["triplet", "98.77"]
    assert (
        "note: triplet: 2 configurations have final runs; shown is trial 2, the best of them in "
        "validation\n"
    ) in out


def test_better_trial_without_final_runs_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_search(tmp_path, "contrastive", [COMPLETE] * 4)
    # The best is trial 3, found after the final runs.
    write_run(write_final(place, "aa", trial=1, score=0.1), 1000, 0.5)
    assert show(tmp_path) == 0
    assert "contrastive: shown is trial 1, but trial 3 is better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "budget", "noted"),
    [
        (
            [COMPLETE, COMPLETE, COMPLETE, PRUNED],
            4,
            None,
        ),
        ([COMPLETE] * 3, 4, "3/4"),
        ([COMPLETE] * 3, 3, "3/3"),
        (
            [COMPLETE, COMPLETE, COMPLETE, PRUNED],
            5,
            "4/5",
        ),
        ([COMPLETE, FAILED, PRUNED, RUNNING], 4, "3/4"),
    ],
    ids=["as_its_twin", "one_to_go", "smaller_budget", "larger_budget", "one_runs"],
)
def test_twins_with_unequal_budgets_are_noted(
    states: list[TrialState],
    budget: int,
    noted: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_search(tmp_path, "contrastive")
    write_search(tmp_path, "contrastive+wpm", states, budget)
    write_search(tmp_path, "triplet", [COMPLETE], 1)  # no twin: nothing to compare
    assert show(tmp_path) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "unequal" in line]
    line = (
        f"note: [1] unequal search budgets: contrastive 4/4 trials, contrastive+wpm {noted} trials"
    )
    assert notes == ([] if noted is None else [line])


def test_early_stopping_of_one_twin_only_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "contrastive")
    write_search(tmp_path, "contrastive+wpm", early_stopping=False)
    assert show(tmp_path) == 0
    line = "contrastive with --stopping halving, contrastive+wpm with --stopping none"
    assert f"unequal search budgets: {line}" in capsys.readouterr().out


def test_old_and_new_training_procedures_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "contrastive")
    write_search(tmp_path, "pretrained", [], budget=0, procedure=1)  # it has nothing of it
    write_search(tmp_path, "soft_triple")
    assert show(tmp_path, "--row", "pretrained", "soft_triple") == 0
    assert show(tmp_path) == 0
    assert "procedure" not in capsys.readouterr().out
    for row in ("triplet", "margin"):
        write_search(tmp_path, row, procedure=1)
    for style in ("text", "markdown", "latex", "csv"):
        assert show(tmp_path, "--format", style) == 0
        out, err = capsys.readouterr()
        text = err if style == "csv" else out
        (line,) = [line for line in text.splitlines() if "trained under procedure 1" in line]
        assert "since then classes of batches are dealt from a deck, " in line
        assert line.removesuffix("\\par").endswith("of this version: margin, triplet")
        for row in ("triplet", "margin"):
            assert f"{row}: training procedures differ from those of contrastive (1, there" in text


def test_diverged_trials_are_counted_in_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [COMPLETE, TrialState.DIVERGED, PRUNED, TrialState.DIVERGED]
    write_search(tmp_path, "triplet", states, scores=(0.4, 0.0, 0.2, 0.0))
    assert show(tmp_path) == 0
    out = capsys.readouterr().out
    assert "note: [1] triplet: 2 of 4 trials diverged, which score 0" in out


def test_row_without_training_has_no_fewer_runs_than_it_needs(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_search(run_root, "pretrained", [], budget=0)
    folder = place.folder / "finals" / "aa"
    chosen = {"trial": None, "score": None}
    write_json(folder / "final.json", {"format": FORMAT, "chosen": chosen})
    write_run(folder, 1000, 0.3)
    assert show(run_root, "--row", "contrastive", "pretrained") == 0
    out = capsys.readouterr().out
    assert squeeze(out)[3][-5:] == ["1", "none", "0/0", "0.000", "0.000"]
    assert "[1]" not in out


def test_reductions_of_the_originals_stand_below_the_untrained_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_search(tmp_path, "pretrained", [], budget=0, dataset="cub200", protocol="mlrc")
    folder = place.folder / "finals" / "aa"
    write_json(folder / "final.json", {"format": FORMAT, "chosen": {"trial": None, "score": None}})
    high = {"precision_at_1": 0.5105, "r_precision": 0.2485, "map_at_r": 0.1421}
    low = {metric: value / 2 for metric, value in high.items()}
    reductions = {
        "raw": {"concatenated": high, "separated": low},
        "unit": {"concatenated": low, "separated": high},
    }
    write_run_result(folder / "seed-1000", ScoredRun(1000, low, low, 3, 9, 2, (), reductions))
    assert show(tmp_path, "--against", "published") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "note: pretrained:" in x]
    assert line.startswith("note: pretrained: the originals fit PCA to the standardised test")
    assert "P@1 / RP / MAP@R of raw features 48-d 51.05 / 24.85 / 14.21, 16-d 25.52 / 12.43" in line
    assert show(tmp_path) == 0
    assert "the originals" not in capsys.readouterr().out


def test_equal_configurations_are_chosen_as_for_final_runs(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_search(run_root, "margin", scores=(0.3, 0.3, 0.1, 0.1))
    write_run(write_final(place, "aa", trial=1, score=0.3), 1000, 0.9)
    write_run(write_final(place, "bb", trial=0, score=0.3), 1000, 0.5)
    write_run(write_final(place, "cc", trial=None, score=None), 1000, 0.8)
    assert show(run_root, "--row", "margin", "--format", "csv") == 0
    out, err = capsys.readouterr()
    (row,) = read_csv(out)
    assert (row["trial"], row["concatenated_precision_at_1_mean"]) == ("0", "0.5")
    assert "3 configurations have final runs; shown is trial 0" in err


def test_record_that_lacks_something_is_named_and_left_out(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = run_root / "omniglot/small/contrastive"
    write_json(study / "trials/0001/result.json", {"state": "complete", "score": 0.9})
    write_json(study / "finals/aa/final.json", {"format": FORMAT, "chosen": {"trial": 2}})
    assert show(run_root, "--row", "contrastive") == 0
    out, err = capsys.readouterr()
    assert squeeze(out)[2][-5:] == ["0", "-", "3/4", "3.000", "0.000"]
    assert f"note: {study}/trials/0001/result.json: its content is not as expected" in err
    assert f"note: {study}/finals/aa/final.json: its content is not as expected" in err


def test_rows_under_other_conditions_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "contrastive")
    write_search(tmp_path, "margin", images={"pixels": "other"})
    write_search(tmp_path, "triplet", settings={**PROTOCOL, "max_epochs": 7})
    assert show(tmp_path) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "comparable" in line]
    assert notes == [
        "note: [1] margin: images differ from those of contrastive (pixels other, there abc), "
        "not comparable",
        "note: [2] triplet: protocol settings differ from those of contrastive (max_epochs 7, "
        "there None), not comparable",
    ]


def test_run_that_has_not_ended_is_counted_in_a_note(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finals = run_root / "omniglot" / "small" / "triplet" / "finals" / "cc"
    for seed in (1001, 1002):
        TrainingFolder(finals / f"seed-{seed}" / "fold-0").write_identity({"number": 0})
    assert show(run_root, "--row", "triplet") == 0
    out = capsys.readouterr().out
    assert "note: [1] triplet: 2 final runs not ended yet\n" in out
    assert squeeze(out)[2][13:] == ["1", "2", "4/4", "4.000", "0.000"]


def test_damaged_run_is_named_and_left_out(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_root / "omniglot/small/contrastive/finals/aa/seed-1002/result.json"
    wrapped = json.loads(path.read_bytes())
    wrapped["content"]["concatenated"]["precision_at_1"] = 0.99  # edited by hand
    path.write_text(json.dumps(wrapped))
    assert show(run_root, "--row", "contrastive") == 0
    out, err = capsys.readouterr()
    # (0.5, 0.6): s / sqrt(2) = 0.05, 12.706205 * 0.05 = 0.6353
    assert squeeze(out)[2][:4] == ["contrastive", "55.00", "±", "63.53"]
    assert err.startswith(f"note: {path}: damaged")


def test_damaged_choice_leaves_the_cells_empty(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_root / "omniglot/small/contrastive/finals/aa/final.json"
    path.write_bytes(path.read_bytes()[:40])
    trial = run_root / "omniglot/small/contrastive/trials/0001/trial.json"
    trial.write_bytes(b"")
    assert show(run_root, "--row", "contrastive") == 0
    out, err = capsys.readouterr()
    assert squeeze(out)[2] == [
        "contrastive", *["-", "[1]"] * 6, "0", "-", "3/4", "3.000", "0.000",
    ]  # fmt: skip
    assert f"note: {path}: damaged" in err
    assert f"note: {trial}: damaged" in err


def test_final_runs_of_another_record_format_are_not_read(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_root / "omniglot/small/contrastive/finals/aa/final.json"
    write_json(path, {"format": FORMAT + 1, "chosen": {}, "provenance": {"wpm": "9.9"}})
    assert show(run_root, "--row", "contrastive") == 0
    out, err = capsys.readouterr()
    assert squeeze(out)[2][1:8] == [*["-"] * 6, "0"]
    assert "written by wpm 9.9" in err


def test_damaged_study_is_named_and_the_others_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_root / "omniglot/small/contrastive/study.json"
    path.write_bytes(b"{}")
    assert show(run_root) == 0
    out, err = capsys.readouterr()
    assert [line[0] for line in squeeze(out)[2:5]] == ["contrastive+wpm", "triplet", "triplet+wpm"]
    assert err.startswith(f"note: {path}: damaged")


def test_no_studies_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(tmp_path, "--dataset", "omniglot", "--protocol", "mlrc") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"table: error: no studies of --dataset omniglot --protocol mlrc under {tmp_path}; run a "
        f"search first: python launch.py --dataset omniglot --protocol mlrc --run-root {tmp_path}\n"
    )


def test_records_are_left_as_they_are(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bytes_under(run_root)
    for style in ("text", "markdown", "csv", "latex"):
        assert show(run_root, "--format", style, "--against", "published") == 0
    assert bytes_under(run_root) == before
    capsys.readouterr()


WIDE = {**PROTOCOL, "embedding_dim": 128, "folds": 4}


@pytest.fixture
def published_root(tmp_path: Path) -> Path:
    """Write rows on published data sets, one of which (nca) is not published."""
    root = tmp_path / "runs"
    mlrc: Mapping[str, Any] = {"protocol": "mlrc", "settings": WIDE}
    plain = write_final(write_search(root, "contrastive", dataset="cub200", **mlrc), "aa", 2, 0.2)
    for seed, score in enumerate((0.64, 0.66)):
        write_run(plain, seed, score, separated=0.6)
    unpublished = write_search(root, "nca", dataset="cub200", **mlrc)
    write_run(write_final(unpublished, "bb", 2, 0.2), 1, 0.5, separated=0.4)
    cars = write_search(root, "margin_per_class", dataset="cars196", **mlrc)
    write_run(write_final(cars, "cc", 2, 0.2), 1, 0.8104, separated=0.6654)
    return root


PUBLISHED_ROWS = [
    "arcface", "contrastive", "contrastive+wpm", "cosface", "fast_ap", "margin", "margin+wpm",
    "margin_per_class", "multi_similarity", "multi_similarity+wpm", "multi_similarity_miner",
    "nca", "normalized_softmax", "ntxent", "pretrained", "proxy_nca", "snr_contrastive",
    "soft_triple", "triplet", "triplet+wpm",
]  # fmt: skip


def markdown_cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_published_numbers_and_differences_stand_in_brackets(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cub200", "--against", "published", "--format", "markdown"]
    assert show(published_root, *arguments) == 0
    out = capsys.readouterr().out
    cells = {line[0]: line[1:] for line in markdown_cells(out)[2:]}
    assert list(cells) == PUBLISHED_ROWS
    # (0.64, 0.66): s / sqrt(2) = 0.01, 12.706205 * 0.01; published 68.13, 37.24, 26.53
    assert cells["contrastive"] == [
        "65.00 ± 12.71 (68.13, -3.13)", "55.00 ± 12.71 (37.24, +17.76)",
        "45.00 ± 12.71 (26.53, +18.47)", "60.00 ± 0.00 (59.73, +0.27)",
        "50.00 ± 0.00 (31.98, +18.02)", "40.00 ± 0.00 (21.18, +18.82)", "2", "2", "4/4",
        "4.000", "0.000",
    ]  # fmt: skip
    assert cells["nca"] == [
        *(f"{score}.00 [1]" for score in (50, 40, 30, 40, 30, 20)),
        "1", "2", "4/4", "4.000", "0.000",
    ]  # fmt: skip
    assert cells["contrastive+wpm"][:2] == ["- (68.96)", "- (37.60)"]
    assert cells["contrastive+wpm"][6:] == ["0", "-", "-", "-", "-"]
    assert "- published only, no study here: arcface, contrastive+wpm, cosface" in out


def test_published_rows_keep_to_the_selected_rows(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--row", "contrastive", "contrastive+wpm"]
    assert show(published_root, "--dataset", "cub200", *rows, "--against", "published") == 0
    out, err = capsys.readouterr()
    assert [line[0] for line in squeeze(out)[2:5]] == ["contrastive", "contrastive+wpm", "note:"]
    assert err == f"note: no study cub200/*/contrastive+wpm under {published_root}\n"


def test_nothing_published_is_shown_unasked(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(published_root, "--dataset", "cub200") == 0
    out = capsys.readouterr().out
    assert [line[0] for line in squeeze(out)[2:]] == ["contrastive", "nca", *["note:"] * 3]
    assert "(68.13" not in out


def test_csv_has_published_fractions(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cub200", "--against", "published", "--format", "csv"]
    assert show(published_root, *arguments) == 0
    rows = {row["row"]: row for row in read_csv(capsys.readouterr().out)}
    plain, absent = rows["contrastive"], rows["contrastive+wpm"]
    assert plain["concatenated_precision_at_1_published"] == "0.6813"
    difference = float(plain["concatenated_precision_at_1_difference"])
    assert difference == pytest.approx(0.65 - 0.6813)
    assert absent["separated_map_at_r_published"] == "0.2167"
    assert absent["separated_map_at_r_difference"] == absent["separated_map_at_r_mean"] == ""
    assert (absent["n"], absent["trials_wanted"], absent["concatenated_dim"]) == ("0", "", "512")
    assert rows["nca"]["concatenated_precision_at_1_published"] == ""


def test_absence_of_published_numbers_is_noted(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(run_root, "contrastive", dataset="cub200")  # protocol small
    write_search(run_root, "contrastive", dataset="sop", protocol="mlrc", settings=WIDE)
    assert show(run_root, "--against", "published") == 0
    out = capsys.readouterr().out
    for place in ("cub200 under small", "sop under mlrc", "omniglot under small"):
        assert out.count(f"note: no published numbers for {place}\n") == 1
    assert "(" not in out.split("triplet+wpm")[1].splitlines()[0]


def test_published_numbers_of_other_embeddings_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "contrastive", dataset="cub200", protocol="mlrc")
    assert show(tmp_path, "--against", "published") == 0
    line = "note: published numbers are of 512-d and 128-d embeddings, not comparable"
    assert line in capsys.readouterr().out


def latex_cells(text: str) -> list[list[str]]:
    """Return the cells of every line of a table; of a wide cell, its text."""
    wide = re.compile(r"\\multicolumn\{\d+\}\{[lcr]\}\{(.*)\}")
    return [
        [wide.sub(r"\1", cell.strip()) for cell in re.split(r"(?<!\\)&", line[:-3])]
        for line in text.splitlines()
        if line.endswith(" \\\\")
    ]


def test_latex_has_the_data_sets_side_by_side(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cub200", "cars196", "--format", "latex"]
    assert show(published_root, *arguments) == 0
    rows = latex_cells(capsys.readouterr().out)
    assert rows[0] == ["", "cub200", "", "cars196", ""]
    assert rows[1] == ["", *["concatenated 512-d", "separated 128-d", ""] * 2]
    assert rows[2] == ["", *[*["P@1", "RP", "MAP@R"] * 2, ""] * 2]
    by_name = {row[0]: row[1:] for row in rows[3:]}
    # In the published order, then the others.
    assert list(by_name) == ["margin\\_per\\_class", "contrastive", "nca"]
    assert by_name["margin\\_per\\_class"] == [
        *["--"] * 6, "", "81.04", "", "71.04", "", "61.04", "", "66.54", "", "56.54", "",
        "46.54", "", "",
    ]  # fmt: skip
    interval = "$\\,\\pm\\,$12.71"
    assert by_name["contrastive"][:4] == ["65.00", interval, "55.00", interval]
    assert by_name["contrastive"][12:] == ["", *["--"] * 6, ""]
    assert by_name["nca"][12] == "[1]"


def test_latex_compares_every_published_row(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cars196", "cub200", "--against", "published", "--format", "latex"]
    assert show(published_root, *arguments) == 0
    out = capsys.readouterr().out
    rows = latex_cells(out)
    assert rows[0] == ["", "cars196", "", "cub200", ""]
    below = "\\quad\\itshape published"
    names = [row[0] for row in rows[3:] if row[0] != below]
    assert (len(names), names[0], names[-1]) == (20, "pretrained", "nca")
    assert names.index("contrastive+wpm") == names.index("contrastive") + 1
    place = [row[0] for row in rows].index("contrastive")
    plain, published = rows[place : place + 2]
    assert published[0] == below
    assert (plain[1], published[1]) == ("--", "(81.87)")
    assert (plain[8], published[8]) == ("65.00", "(68.13, $-$3.13)")
    assert rows[-1][0] == "nca", "nothing was published to stand below it"
    assert rows[-1][1:8] == [*["--"] * 6, ""]
    assert "\ncub200: tested runs: contrastive 2, nca 1\\par\n" in out
    hours = "contrastive 4.000 + 0.000, nca 4.000 + 0.000"
    assert f"\ncub200: device-hours of search + final runs: {hours}\\par\n" in out
    assert "\ncars196, cub200: in brackets: the published number" in out
    assert "\n[1] cub200: nca: 1 tested run, other rows have up to 2\\par\n" in out


def test_rows_not_run_as_published_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = json.loads(json.dumps(asdict(find_protocol("mlrc", "cub200"))))
    as_published: dict[str, Any] = {"early_stopping": False, "weights": "bn.pth"}

    def write(row: str, trials: int, runs: int, chosen: int | None = 2, **changes: Any) -> None:
        settings = {**stock, **changes.pop("settings", {})}
        place = write_search(
            tmp_path, row, [COMPLETE] * trials, trials, dataset="cub200", protocol="mlrc",
            settings=settings, **{**as_published, **changes},
        )  # fmt: skip
        final = write_final(place, "aa", chosen, None if chosen is None else 0.2)
        for seed in range(runs):
            write_run(final, seed, 0.6, separated=0.5)

    write("triplet", 50, 10)
    write("ntxent", 0, 10, chosen=None, early_stopping=True)  # the published configuration
    short = {"max_epochs": 3, "patience": 2, "crop": 64}
    write("margin", 50, 2, settings=short)
    write("contrastive", 50, 2, settings=short)
    write("arcface", 12, 10, early_stopping=True, weights="random")
    lines = [
        "crop 64 (published 227); max_epochs 3 (published 1000); patience 2 (published 9); "
        "runs 2 (published 10): contrastive, margin",
        "trials 12 (published 50); trials stopped early (published: none); "
        "random weights (published: ImageNet): arcface",
    ]
    for style in ("text", "markdown", "csv", "latex"):
        assert show(tmp_path, "--against", "published", "--format", style) == 0
        out, err = capsys.readouterr()
        text = (err if style == "csv" else out).replace("\\_", "_")
        assert text.count("not the published procedure") == 2
        for line in lines:
            assert f"not the published procedure: {line}\n" in text.replace("\\par\n", "\n")
    assert show(tmp_path) == 0
    assert "published procedure" not in capsys.readouterr().out


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex, with booktabs, graphicx and pdflscape"
)
@pytest.mark.parametrize("page", ["portrait", "landscape"])
def test_latex_compiles_to_one_page_without_running_over(
    page: str, published_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cub200", "cars196", "--against", "published", "--format", "latex"]
    assert show(published_root, *arguments) == 0
    body = capsys.readouterr().out
    if page == "landscape":
        body = f"\\begin{{landscape}}\n{body}\\end{{landscape}}"
    (tmp_path / "page.tex").write_text(
        "\\documentclass[a4paper]{article}\n\\usepackage[margin=2cm]{geometry}\n"
        f"\\usepackage{{booktabs,graphicx,pdflscape}}\n\\begin{{document}}\n{body}\n"
        "\\end{document}\n"
    )
    answer = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout
    assert "Overfull" not in answer.stdout
    assert "(1 page" in answer.stdout


def test_data_set_without_studies_has_empty_cells(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "cub200", "sop", "--format", "latex"]
    assert show(published_root, *arguments) == 0
    out, err = capsys.readouterr()
    rows = latex_cells(out)
    assert rows[0][3] == "sop"
    assert rows[-1][-8:] == ["[1]", *["--"] * 6, ""]
    assert err == f"note: no study sop/*/* under {published_root}\n"


def test_markdown_side_by_side(published_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "cub200", "cars196", "--format", "markdown", "--side-by-side"]
    assert show(published_root, *arguments) == 0
    out = capsys.readouterr().out
    cells = markdown_cells(out)
    assert out.startswith("### protocol mlrc: test scores in percent\n\n|")
    assert cells[0][1] == "cub200 concatenated 512-d P@1"
    assert cells[0][12] == "cars196 separated 128-d MAP@R"
    assert {len(line) for line in cells} == {13}
    assert cells[3] == [
        "contrastive", "65.00 ± 12.71", "55.00 ± 12.71", "45.00 ± 12.71", *cells[3][4:7], *["-"] * 6
    ]  # fmt: skip


def test_side_by_side_is_not_for_csv(
    published_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(published_root, "--side-by-side", "--format", "csv") == 2
    assert "--side-by-side is not for csv" in capsys.readouterr().err


def test_every_published_number_is_read() -> None:
    for dataset in ("cub200", "cars196"):
        scores = read_scores(dataset, "mlrc")
        assert sorted([*scores, "nca"]) == sorted(PUBLISHED_ROWS)
        assert {len(row) for row in scores.values()} == {6}
        assert all(0 < score < 1 for row in scores.values() for score in row.values())
    best = read_scores("cars196", "mlrc")["multi_similarity+wpm"]
    assert list(best.values()) == [0.8666, 0.3939, 0.2967, 0.7719, 0.3167, 0.2128]
    assert read_scores("cub200", "small") == read_scores("sop", "mlrc") == {}


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        table.main(["--help"])
    assert stop.value.code == 0
    assert "python -m analysis.table --dataset omniglot" in capsys.readouterr().out


def test_table_imports_nothing_slow(run_root: Path) -> None:
    code = (
        "import sys; from analysis.table import main; code = main(sys.argv[1:]); "
        "slow = {'ray', 'optuna', 'torch', 'scipy.stats', 'pandas'} & set(sys.modules); "
        "sys.exit(code or ' '.join(slow) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--run-root", str(run_root)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == TEXT


def test_module_runs_as_a_script(run_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.table", "--run-root", str(run_root), "--format", "html"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("table: error: argument --format: invalid choice: 'html'")
