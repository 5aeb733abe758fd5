"""The committed study: its table, comparison and figure are remade from its records."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from analysis import compare, table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    with tarfile.open(DOCS / "omniglot-records.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs"


@pytest.mark.parametrize("script", [table, compare])
def test_page_shows_what_the_records_say(
    script: object, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--all-twins"] if script is compare else []
    main = script.main  # type: ignore[attr-defined]
    assert main([*more, "--run-root", str(run_root), "--format", "markdown"]) == 0
    page = (DOCS / "omniglot.md").read_text(encoding="utf-8")
    first_table = capsys.readouterr().out.split("\n\n### ")[0]
    cells = [line for line in first_table.splitlines() if line.startswith("| ")]
    shown = [line for line in cells if line.startswith(("| contrastive", "| multi", "| omniglot"))]
    assert len(shown) > 3
    assert [line for line in shown if line not in page] == []


def test_figure_is_drawn_from_the_records(run_root: Path, tmp_path: Path) -> None:
    figure = tmp_path / "omniglot.svg"
    where = ["--run-root", str(run_root), "--dataset", "omniglot", "--out", str(figure)]
    subprocess.run([sys.executable, str(DOCS / "draw.py"), *where], check=True)
    assert figure.read_bytes() == (DOCS / "omniglot.svg").read_bytes()


def test_records_are_small() -> None:
    assert (DOCS / "omniglot-records.tar.xz").stat().st_size < 2_000_000
