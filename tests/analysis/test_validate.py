"""Agreement of validation with the test, on small stored studies."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import validate
from analysis.studies.row_results import read_row
from analysis.studies.validation import ALL_ROWS, validate_rows
from tests.support.stored import COMPLETE, bytes_under, write_final, write_run, write_search
from wpm.records import StudyPlace
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """Four configurations of one row, one of another, and a published one, which had no search.

    The search puts trials 3, 2, 1, 0 in this order, the test 2, 3, 0, 1.
    """
    root = tmp_path / "runs"
    place = write_search(root, "triplet", [COMPLETE] * 4, scores=(0.1, 0.2, 0.3, 0.4))
    for trial, test in enumerate((0.5, 0.45, 0.7, 0.6)):
        folder = write_final(place, f"k{trial}", trial, score=0.1 * (trial + 1))
        for seed in (1000, 1001):
            # Mean test MAP@R: the given P@1 less 0.2; validation of the runs follows the test.
            write_run(folder, seed, test + 0.01 * (seed - 1000.5), 0.3, [test - 0.3] * 3)
    write_run(write_final(place, "kp", trial=None, score=None), 1000, 0.99)
    other = write_search(root, "margin")
    write_run(write_final(other, "aa", trial=2, score=0.5), 1000, 0.8)
    return root


def test_rows_of_another_training_procedure_are_not_pooled(run_root: Path) -> None:
    old = write_search(run_root, "contrastive", [COMPLETE] * 3, procedure=1)
    for trial in range(3):
        write_run(write_final(old, f"k{trial}", trial, 0.1 * (trial + 1)), 1000, 0.9)
    rows = [read_row(StudyPlace(run_root, "omniglot", "small", Row(name)))[0]
            for name in ("triplet", "margin", "contrastive")]  # fmt: skip
    validations = validate_rows(rows, "concatenated", "map_at_r")
    assert {v.name: {point.row for point in v.points} for v in validations} == {
        "omniglot/small": {"triplet", "margin"},
        "omniglot/small, procedure 1": {"contrastive"},
    }


def run(root: Path, *arguments: str) -> int:
    return validate.main(["--run-root", str(root), *arguments])


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Covariance of (1 2 3 4) and (30 25 50 40) by their deviations: 27.5 / sqrt(5 * 368.75) = 0.64.
# Search ranks 1 2 3 4, test ranks 2 1 4 3: Spearman 0.6, its interval in test_analysis_correlation.
TEXT = """\
omniglot/small: validation MAP@R against test MAP@R, concatenated
rows      validation of  configurations  Spearman  95% interval   Pearson  95% interval   lost by choosing
triplet   search                      4      0.60  [-0.89, 0.99]     0.64  [-0.83, 0.99]             10.00
triplet   final runs                  4      1.00  -                 1.00  -                          0.00
all rows  search                      5      0.80  [-0.46, 0.99]     0.83  [-0.20, 0.99]              0.00
all rows  final runs                  4      1.00  -                 1.00  -                          0.00
note: rows with fewer than 3 configurations (python launch.py --best-only --top 5 makes more): margin 1
note: lost by choosing: points lost by taking the one that is best in validation
note: no interval: only three points, all on a line, or a score that does not vary

omniglot/small: configurations, in percent
row      trial  search  final runs  test MAP@R, concatenated  runs
margin       2   50.00           -                     60.00     1
triplet      3   40.00       30.00              40.00 ± 6.35     2
triplet      2   30.00       40.00              50.00 ± 6.35     2
triplet      1   20.00       15.00              25.00 ± 6.35     2
triplet      0   10.00       20.00              30.00 ± 6.35     2
"""  # noqa: E501


def test_text_shows_correlations_and_configurations(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(run_root) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == TEXT


def test_agreement_is_a_value_for_other_scripts(run_root: Path) -> None:
    rows = [
        read_row(StudyPlace(run_root, "omniglot", "small", Row.parse(row)))[0]
        for row in ("triplet", "margin")
    ]
    (validation,) = validate_rows(rows, "concatenated", "map_at_r")
    assert validation.name == "omniglot/small"
    assert [(a.rows, a.source) for a in validation.agreements] == [
        ("triplet", "search"), ("triplet", "final runs"),
        (ALL_ROWS, "search"), (ALL_ROWS, "final runs"),
    ]  # fmt: skip
    # Validation puts trial 3 first, with 0.4 in the test; trial 2 has 0.5.
    assert validation.agreements[0].lost == pytest.approx(0.1)
    assert validation.agreements[0].spearman.value == pytest.approx(0.6)


def test_csv_has_correlations_or_points(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run_root, "--row", "triplet", "--format", "csv") == 0
    search, finals = read_csv(capsys.readouterr().out)
    assert (search["rows"], search["validation"], search["configurations"]) == (
        "triplet", "search", "4",
    )  # fmt: skip
    assert float(search["spearman"]) == pytest.approx(0.6)
    assert float(search["spearman_low"]) == pytest.approx(-0.892873, abs=1e-5)
    assert float(finals["pearson"]) == pytest.approx(1.0)
    assert finals["pearson_low"] == ""
    assert run(run_root, "--row", "triplet", "--format", "csv", "--points") == 0
    points = read_csv(capsys.readouterr().out)
    assert [point["trial"] for point in points] == ["3", "2", "1", "0"]
    assert float(points[1]["test_mean"]) == pytest.approx(0.5)
    assert float(points[1]["final_validation"]) == pytest.approx(0.4)


def test_another_test_score_is_chosen(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--view", "separated", "--metric", "precision_at_1", "--row", "triplet"]
    assert run(run_root, *arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("omniglot/small: validation MAP@R against test P@1, separated\n")
    assert out.splitlines()[2].split()[2:6] == ["4", "-", "-", "-"]  # all the same: no correlation


def test_too_few_configurations_say_how_to_make_more(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(run_root, "--row", "margin") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "too few configurations to correlate"
    assert "python launch.py --best-only --top 5" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points"], "--points is for --format csv"),
        (["--dataset", "cub200"], "no studies of --dataset cub200"),
        (["--row", "triplet+wpm"], "no tested final runs in the selected studies; make them with"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    arguments: list[str], message: str, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(run_root, "triplet+wpm")
    assert run(run_root, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"validate: error: {message}")
    assert err.count("\n") == 1


def test_damaged_records_are_named_and_the_rest_shown(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finals = run_root / "omniglot/small/triplet/finals"
    (finals / "k0/final.json").write_bytes(b"\x00")
    (finals / "k1/seed-1000/fold-2/result.json").write_bytes(b"{}")
    assert run(run_root, "--row", "triplet", "--format", "csv", "--points") == 0
    out, err = capsys.readouterr()
    points = read_csv(out)
    assert [point["trial"] for point in points] == ["3", "2", "1"]
    assert float(points[2]["final_validation"]) == pytest.approx(0.15)
    assert [line.partition(": damaged")[0] for line in err.splitlines()] == [
        f"note: {finals}/k0/final.json",
        f"note: {finals}/k1/seed-1000/fold-2/result.json",
    ]


def test_records_are_left_as_they_are(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bytes_under(run_root)
    for style in ("text", "markdown", "csv"):
        assert run(run_root, "--format", style) == 0
    assert bytes_under(run_root) == before
    capsys.readouterr()


def test_help_shows_an_example_and_imports_nothing_slow() -> None:
    code = (
        "import sys; from analysis.validate import main\n"
        "try: main(['--help'])\n"
        "finally: print(*{'ray', 'optuna', 'torch', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m analysis.validate --dataset omniglot" in done.stdout
    assert done.stdout.endswith("\n\n")


def test_searches_of_a_row_are_configurations_of_one_row(tmp_path: Path) -> None:
    places = [write_search(tmp_path, "triplet", search=number) for number in (1, 2, 3)]
    for place in places:
        final = write_final(place, "aa", trial=2, score=0.1 * place.search)
        write_run(final, 1000, 0.3 + 0.1 * place.search)
    (found,) = validate_rows([read_row(place)[0] for place in places], "concatenated", "map_at_r")
    assert [point.origin for point in found.points] == ["2", "2 of search 2", "2 of search 3"]
    assert {(a.rows, a.source) for a in found.agreements} >= {("triplet", "search")}
    assert all(a.spearman.value == pytest.approx(1.0) for a in found.agreements)
