"""Comparisons of rows on small stored studies, by hand-computed differences."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import compare
from analysis.studies.comparison import compare_rows, correct_comparisons
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import group_searches
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
from wpm.records import StudyPlace, read_study, write_study
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


def write_pair(root: Path, loss: str = "contrastive", dataset: str = "omniglot") -> None:
    """Write twins of four trials; their runs differ by 1, 2 and 3 points, seed by seed."""
    states = [COMPLETE, FAILED, PRUNED, COMPLETE]
    plain = write_search(root, loss, states, dataset=dataset, scores=(0.2, 0.9, 0.1, 0.3))
    mined = write_search(root, f"{loss}+wpm", [COMPLETE] * 4, dataset=dataset, hours=2.0)
    first = write_final(plain, "aa", trial=3, score=0.3)
    second = write_final(mined, "bb", trial=3, score=0.3)
    for i, base in enumerate((0.5, 0.6, 0.55)):
        write_run(first, 1000 + i, base, separated=0.4)
        write_run(second, 1000 + i, base + 0.01 * (i + 1), separated=0.3)


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_pair(root)
    return root


def run(root: Path, *arguments: str) -> int:
    return compare.main([*arguments, "--run-root", str(root)])


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Differences 0.01, 0.02, 0.03: s = 0.01, s / sqrt(3) = 0.0057735, times 4.302653: 0.024841;
# t = 3.4641 with 2 degrees of freedom: p = 0.0742. Runs: (0.5, 0.6, 0.55) - 0.2, s = 0.05.
# Detectable: 3.264044 s. Trials of the plain row in order: 0.2, failed, stopped at 0.1, 0.3. Two of
# (0, 0.1, 0.2, 0.3) have 0.3 as their best in 3 of 6 draws, 0.2 in 2, 0.1 in 1: mean 0.2333.
TEXT = """\
omniglot/small: test MAP@R of the final runs, concatenated, in percent
first        second           searches  pairs     first mean    second mean  difference  95% interval     p (t)  p (sign flip)  detectable
contrastive  contrastive+wpm         1      3  35.00 ± 12.42  37.00 ± 13.83       +2.00  [-0.48, +4.48]  0.0742         0.2500        3.26
note: difference: second minus first, in points; runs are paired by seed, one score for each run
note: with 3 pairs the sign-flip test gives no p below 0.25
note: detectable: the true difference that the uncorrected t-test would find in 4 of 5 such comparisons, if their runs vary as these do

omniglot/small: contrastive+wpm against contrastive: +2.00 points of test MAP@R, 95% interval -0.48 to +4.48, 3 pairs of runs, p = 0.074: no difference shown of these configurations. This is from one search of each row; how much another search would differ is not in it.

omniglot/small: searches, by validation
search           trials  epochs  device-h  best MAP@R %  best trial
contrastive         4/4      40     4.000         30.00           3
contrastive+wpm     4/4      40     8.000         30.00           3
note: each row was searched once: how much another search would differ is not known

best validation MAP@R % by number of trials, and expected in random order
trials  contrastive  contrastive, expected  contrastive+wpm  contrastive+wpm, expected
     1        20.00    15.00 [5.00, 25.00]             0.00        15.00 [5.00, 25.00]
     2        20.00    23.33 [8.33, 30.00]            10.00        23.33 [8.33, 30.00]
     4        30.00   30.00 [10.00, 30.00]            30.00       30.00 [10.00, 30.00]
note: omniglot/small: contrastive+wpm against contrastive: after 2 trials the expected best differs by +0.00 points of validation MAP@R, after 4 by +0.00. The trials between them gained contrastive +6.67 and contrastive+wpm +6.67. If this went on, twice as many trials would not turn the order.

best validation MAP@R % by device-hours
device-h  contrastive  contrastive+wpm
   1.000        20.00                -
   2.000        20.00             0.00
   3.000        20.00             0.00
   4.000        30.00            10.00
   8.000        30.00            30.00
"""  # noqa: E501


def test_text_shows_runs_and_searches(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run_root, "contrastive", "contrastive+wpm") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == TEXT


def test_twins_on_several_data_sets_are_corrected_together(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(run_root, "contrastive", dataset="glyphs")
    write_search(run_root, "triplet")  # without a twin
    assert run(run_root, "--all-twins", "--format", "csv") == 0
    rows = read_csv(capsys.readouterr().out)
    assert [row["second"] for row in rows] == [
        "glyphs/small/contrastive+wpm", "omniglot/small/contrastive+wpm",
    ]  # fmt: skip
    for row in rows:
        assert float(row["difference"]) == pytest.approx(0.02)
        assert float(row["t_p"]) == pytest.approx(0.074180, abs=1e-6)
        assert float(row["t_p_holm"]) == pytest.approx(2 * 0.074180, abs=1e-6)
        assert (row["flip_p"], row["smallest_flip_p"], row["flip_p_holm"]) == (
            "0.25",
            "0.25",
            "0.5",
        )
        assert (row["pairs"], row["first_runs"], row["second_epochs"]) == ("3", "3", "40")
        assert (row["first_search_device_hours"], row["second_search_device_hours"]) == (
            "4.0",
            "8.0",
        )
        assert (row["unequal"], row["notes"]) == ("", "")
    assert run(run_root, "contrastive", "contrastive+wpm", "--format", "markdown") == 0
    out = capsys.readouterr().out
    assert "| p (t, Holm) | p (sign flip, Holm) |" in out
    assert "\n- p-values are corrected over 2 pairs, intervals are not\n" in out
    assert out.count("### ") == 7


def test_view_and_metric_are_chosen(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--view", "separated", "--metric", "precision_at_1", "--format", "csv"]
    assert run(run_root, "contrastive", "contrastive+wpm", *arguments) == 0
    (row,) = read_csv(capsys.readouterr().out)
    assert float(row["difference"]) == pytest.approx(-0.1)
    assert float(row["first_mean"]) == pytest.approx(0.4)
    assert row["t_p"] == ""  # all differences are equal
    assert float(row["flip_p"]) == 0.25


def test_runs_are_paired_by_seed(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finals = run_root / "omniglot/small/contrastive+wpm/finals/bb"
    write_run(finals, 1000, None)  # failed meanwhile
    write_run(finals, 1005, 0.99)
    assert run(run_root, "contrastive", "contrastive+wpm", "--format", "csv") == 0
    (row,) = read_csv(capsys.readouterr().out)
    assert row["pairs"] == "2"
    assert float(row["difference"]) == pytest.approx(0.025)
    assert row["notes"] == (
        "contrastive: runs without a partner left out (seed 1000); "
        "contrastive+wpm: 1 final run failed, left out; "
        "contrastive+wpm: runs without a partner left out (seed 1005)"
    )


def test_best_configuration_by_validation_is_compared(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StudyPlace(run_root, "omniglot", "small", Row("contrastive"))
    better_in_test = write_final(place, "a0", trial=0, score=0.2)
    for seed in (1000, 1001, 1002):
        write_run(better_in_test, seed, 0.99)
    assert run(run_root, "contrastive", "contrastive+wpm", "--format", "csv") == 0
    (row,) = read_csv(capsys.readouterr().out)
    assert float(row["difference"]) == pytest.approx(0.02)
    assert "2 configurations have final runs; shown is trial 3" in row["notes"]


def test_rows_without_final_runs_show_their_searches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "triplet")
    write_search(tmp_path, "margin", [RUNNING] * 4)
    assert run(tmp_path, "triplet", "margin", "--allow-unequal") == 0
    out = capsys.readouterr().out
    cells = out.splitlines()[2].split()
    assert cells == ["triplet", "margin", "0", "0", *["-"] * 7]
    assert "note: margin: no final runs" in out
    assert "note: margin: unfinished search, 0/4 trials ended" in out
    assert "unequal search budgets: triplet 4/4 trials, margin 0/4 trials" in out
    assert "sign flip test" not in out


UNEQUAL = [
    ({"budget": 9}, "unequal search budgets: margin 4/4 trials, triplet 4/9 trials"),
    (
        {"states": [COMPLETE] * 3},
        "unequal search budgets: margin 4/4 trials, triplet 3/4 trials",
    ),
    (
        {"early_stopping": False},
        "unequal search budgets: margin with --stopping halving, triplet with --stopping none",
    ),
    (
        {"settings": {**PROTOCOL, "max_epochs": 7}},
        "triplet: protocol settings differ from those of",
    ),
    ({"images": {"pixels": "other"}}, "triplet: images differ from those of margin (pixels other"),
    (
        {"procedure": 1},
        "triplet: training procedures differ from those of margin (1, there 2), not",
    ),
    ({"trial_seeds": "new"}, "triplet: training seeds of trials differ from those of margin (new"),
    ({"weights": "b.pth"}, "triplet: weights differ from those of margin (b.pth, there None)"),
]


@pytest.mark.parametrize(("changes", "message"), UNEQUAL)
def test_unequal_rows_are_refused_or_flagged(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path, "margin")
    write_search(tmp_path, "triplet", **changes)  # type: ignore[arg-type]
    assert run(tmp_path, "margin", "triplet") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"compare: error: omniglot/small: triplet against margin: {message}")
    assert err.endswith("; --allow-unequal compares and flags them\n")
    assert run(tmp_path, "margin", "triplet", "--allow-unequal") == 0
    assert f"note: {message}" in capsys.readouterr().out


def write_start(place: StudyPlace, points: int, **more: object) -> None:
    """Write what a search tried first: points without searched parameters count as complete."""
    study = read_study(place)
    assert study is not None
    first = [{"parameters": {"margin": 0.1}, "origin": "published sop"}] * points
    kept = {key: study[key] for key in ("identity", "trials", "provenance")}
    write_study(place, {**kept, "first_points": first, **more})


def test_search_that_began_with_its_twins_trials_bears_their_cost(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = {"trials": 4, "epochs": 40, "hours": 4.0}
    mined = StudyPlace(run_root, "omniglot", "small", Row("contrastive", "wpm"))
    write_start(mined, 1, twin_cost=cost)
    unequal = "unequal search budgets: contrastive 4/4 trials, contrastive+wpm 4/4 + 4 trials"
    assert run(run_root, "--all-twins") == 2
    assert unequal in capsys.readouterr().err
    assert run(run_root, "--all-twins", "--allow-unequal") == 0
    out = capsys.readouterr().out
    assert f"note: {unequal}" in out
    assert (
        "note: contrastive+wpm: began with the best trials of its plain twin, whose search (4 "
        "trials, 40 epochs, 4 device-hours) counts as its cost too"
    ) in out
    # Four trials of 10 epochs and 2 hours each, and the twin's.
    line = next(line for line in out.splitlines() if line.startswith("contrastive+wpm  4/4 + 4"))
    assert line.split()[4:6] == ["80", "12.0"]
    csv_flags = ("--all-twins", "--allow-unequal", "--format", "csv")
    assert run(run_root, *csv_flags, "--curves") == 0
    curve = [line for line in read_csv(capsys.readouterr().out) if line["study"] == mined.name]
    assert [float(line["device_hours"]) for line in curve] == [6.0, 8.0, 10.0, 12.0]


@pytest.mark.parametrize(("known", "refused"), [((2, 2), False), ((0, 2), True)])
def test_twins_that_knew_different_numbers_of_configurations_are_unequal(
    known: tuple[int, int], refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, points in zip(("triplet", "triplet+wpm"), known, strict=True):
        write_start(write_search(tmp_path, row), points)
    assert run(tmp_path, "--all-twins") == (2 if refused else 0)
    message = "triplet began with 0 known configurations, triplet+wpm with 2"
    assert (message in capsys.readouterr().err) is refused
    # Of another loss another number was published, which is nobody's choice.
    write_start(write_search(tmp_path, "margin"), 3)
    assert run(tmp_path, "margin", "triplet") == 0


def test_unequal_twins_are_left_out_by_name_and_not_counted(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(run_root, "triplet")
    write_search(run_root, "triplet+wpm", [COMPLETE] * 2)
    assert run(run_root, "--all-twins") == 0
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err.startswith("note: left out without --allow-unequal: omniglot/small: triplet+wpm")


def test_two_protocols_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_search(tmp_path, "triplet")
    bf16 = {**PROTOCOL, "precision": "bf16"}
    write_search(tmp_path, "triplet", protocol="small-bf16", settings=bf16)
    names = ["omniglot/small/triplet", "omniglot/small-bf16/triplet"]
    assert run(tmp_path, *names) == 2
    assert "(precision bf16, there float32), not comparable" in capsys.readouterr().err
    assert run(tmp_path, *names, "--allow-unequal") == 0
    cells = capsys.readouterr().out.splitlines()[2].split()
    assert cells[:2] == ["small/triplet", "small-bf16/triplet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give two rows, before the flags, or --all-twins"),
        (["contrastive"], "give two rows, before the flags, or --all-twins"),
        (["a", "b", "c"], "give two rows, before the flags, or --all-twins"),
        (["a", "b", "--all-twins"], "give two rows, before the flags, or --all-twins"),
        (
            ["contrastive", "margin"],
            "no row margin among the selected studies (there are: omniglot",
        ),
        (["x/contrastive", "contrastive"], "no row x/contrastive among the selected studies"),
        (
            ["contrastive", "contrastive"],
            "contrastive and contrastive are not two rows of one data",
        ),
        (["contrastive", "contrastive+wpm", "--curves"], "--curves is for --format csv"),
        (["--all-twins", "--row", "contrastive"], "no row has its +wpm twin among the selected"),
        (["--all-twins", "--dataset", "cub200"], "no studies of --dataset cub200"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    arguments: list[str], message: str, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(run_root, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"compare: error: {message}")
    assert err.count("\n") == 1


def test_rows_of_two_data_sets_are_not_compared(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(run_root, dataset="glyphs")
    assert run(run_root, "omniglot/contrastive", "glyphs/contrastive") == 2
    assert "scores on different test images do not compare" in capsys.readouterr().err
    assert run(run_root, "glyphs/contrastive", "contrastive+wpm", "--format", "csv") == 0
    (row,) = read_csv(capsys.readouterr().out)
    assert row["second"] == "glyphs/small/contrastive+wpm"


def test_curves_have_a_line_a_trial(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run_root, "--all-twins", "--format", "csv", "--curves") == 0
    rows = read_csv(capsys.readouterr().out)
    plain = [row for row in rows if row["study"] == "omniglot/small/contrastive"]
    assert (len(rows), len(plain)) == (8, 4)
    assert [row["best"] for row in plain] == ["0.2", "0.2", "0.2", "0.3"]
    assert [row["device_hours"] for row in plain] == ["1.0", "2.0", "3.0", "4.0"]
    # 0.2, 0 (failed), 0.1 (stopped), 0.3: mean 0.15
    assert float(plain[0]["expected"]) == pytest.approx(0.15)


def test_comparison_is_a_value_for_other_scripts(run_root: Path) -> None:
    first, second = group_searches(
        read_row(StudyPlace(run_root, "omniglot", "small", Row.parse(row)))[0]
        for row in ("contrastive", "contrastive+wpm")
    )
    comparison = compare_rows(first, second)
    assert comparison.seeds == (1000, 1001, 1002)
    assert comparison.difference is not None
    assert comparison.difference.values == pytest.approx((0.01, 0.02, 0.03))
    assert [curve.best[-1] for curve in comparison.curves] == [0.3, pytest.approx(0.3)]
    back = compare_rows(second, first).difference
    assert back is not None
    assert back.mean == pytest.approx(-0.02)
    one, two = correct_comparisons([comparison, comparison])
    assert one.t_p == two.t_p == pytest.approx(2 * 0.0741799, abs=1e-6)


def test_damaged_records_are_named_and_the_rest_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = run_root / "omniglot/small/contrastive"
    (study / "finals/aa/seed-1001/result.json").write_bytes(b"{")
    (study / "trials/0001/result.json").write_bytes(b"")
    assert run(run_root, "contrastive", "contrastive+wpm", "--allow-unequal") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[2].split()[2:4] == ["1", "2"]
    assert [line.partition(": damaged")[0] for line in err.splitlines()] == [
        f"note: {study}/trials/0001/result.json",
        f"note: {study}/finals/aa/seed-1001/result.json",
    ]


def test_records_are_left_as_they_are(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bytes_under(run_root)
    for style in ("text", "markdown", "csv"):
        assert run(run_root, "--all-twins", "--format", style) == 0
    assert bytes_under(run_root) == before
    capsys.readouterr()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        compare.main(["--help"])
    assert stop.value.code == 0
    assert "python -m analysis.compare contrastive contrastive+wpm" in capsys.readouterr().out


def test_comparing_imports_nothing_slow(run_root: Path) -> None:
    code = (
        "import sys; from analysis.compare import main; code = main(sys.argv[1:]); "
        "slow = {'ray', 'optuna', 'torch', 'scipy.stats', 'pandas'} & set(sys.modules); "
        "sys.exit(code or ' '.join(slow) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--all-twins", "--run-root", str(run_root)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == TEXT
