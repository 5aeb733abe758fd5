"""Figures as tables: of one run, of several side by side, and in a document."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import STAGES, main
from benchmarks.gpu.table import BEGIN, END, format_comparison, format_report, read_run
from wpm.errors import UserError

CPU = {"python": "3.12.1", "torch": "2.11.0+cpu", "torchvision": "0.26.0", "numpy": "2.4"}
GPU = {**CPU, "CUDA": "13.0"}


def figure(what: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {
        "what": what, "unit": "s", "value": value, "precision": "float32", "n": 5,
        "verdict": "", "note": "", **more,
    }  # fmt: skip


def write_stage(
    out: Path,
    stage: str,
    figures: list[dict[str, Any]],
    versions: dict[str, str] = CPU,
    **more: Any,
) -> None:
    out.mkdir(exist_ok=True)
    name = "NVIDIA H100" if "CUDA" in versions else "x86_64"
    content = {
        "stage": stage, "state": "done", "reason": "", "quick": False, "seconds": 3.2,
        "trunk": "bninception", "device": f"{name}, 16 CPU cores", "versions": versions,
        "figures": figures, **more,
    }  # fmt: skip
    (out / f"{stage}.json").write_text(json.dumps(content))


def cells_of(table: str, what: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if f"| {what} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_report_has_a_line_a_stage_and_a_line_a_figure(tmp_path: Path) -> None:
    write_stage(tmp_path, "step", [figure("plain", 0.01234, n=20)])
    reason = "was ended at its limit of 9 s"
    skipped = figure("fast", None, verdict="skipped", note="no time left", unit="")
    write_stage(tmp_path, "right", [skipped], state="ended", reason=reason)
    report = format_report(read_run(tmp_path, STAGES))
    assert "16 CPU cores" in report
    assert "torch 2.11.0+cpu" in report
    assert f"| right | ended: {reason} | 3 |" in report
    assert report.index("| right |") < report.index("| step |"), "in the order of their worth"
    assert cells_of(report, "plain")[2:] == ["float32", "0.01234 s", "20", ""]
    assert cells_of(report, "fast")[2:] == ["float32", "skipped", "", "no time left"]


def test_column_of_a_gpu_stays_empty_where_none_was_at_hand(tmp_path: Path) -> None:
    write_stage(tmp_path, "step", [figure("plain", 2.0)])
    table = format_comparison([read_run(tmp_path, STAGES)])
    assert "CPU, torch 2.11.0 | GPU |" in table
    assert cells_of(table, "plain")[3:] == ["2 s (n = 5)", ""]


def test_runs_stand_side_by_side_and_what_one_lacks_is_empty(tmp_path: Path) -> None:
    cpu, gpu = tmp_path / "cpu", tmp_path / "gpu"
    write_stage(cpu, "step", [figure("plain", 2.0), figure("graph", None, verdict="skipped")])
    write_stage(gpu, "step", [figure("plain", 0.01), figure("graph", 0.005)], GPU)
    table = format_comparison([read_run(cpu, STAGES), read_run(gpu, STAGES)])
    assert "CPU, torch 2.11.0 | NVIDIA H100, torch 2.11.0 |" in table
    assert "| GPU |" not in table
    assert cells_of(table, "plain")[3:] == ["2 s (n = 5)", "0.01 s (n = 5)"]
    assert cells_of(table, "graph")[3:] == ["", "0.005 s (n = 5)"]


def test_figures_of_two_precisions_are_two_lines(tmp_path: Path) -> None:
    both = [figure("plain", 1.0), figure("plain", 2.0, precision="bf16")]
    write_stage(tmp_path, "step", both)
    table = format_comparison([read_run(tmp_path, STAGES)])
    assert table.count("| plain |") == 2


def test_document_is_filled_between_its_markers_again_and_again(tmp_path: Path) -> None:
    run, document = tmp_path / "run", tmp_path / "performance.md"
    document.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for value in (1.0, 3.0):
        write_stage(run, "step", [figure("plain", value)])
        assert main(["--fill", str(document), str(run)]) == 0
        text = document.read_text()
        assert text.startswith(f"before\n\n{BEGIN}\n\n")
        assert text.endswith(f"\n{END}\n\nafter\n")
        assert "old" not in text
        assert cells_of(text, "plain")[3] == f"{value:g} s (n = 5)"


@pytest.mark.parametrize("text", ["no markers", f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_document_without_its_markers_is_left_as_it_is(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "performance.md"
    document.write_text(text)
    write_stage(tmp_path / "run", "step", [figure("plain", 1.0)])
    assert main(["--fill", str(document), str(tmp_path / "run")]) == 2
    assert "once each" in capsys.readouterr().err
    assert document.read_text() == text


def test_folder_without_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"{BEGIN}{END}")
    assert main(["--fill", str(document), str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_damaged_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text('{"stage": ')
    with pytest.raises(UserError, match=r"step\.json: cannot be read"):
        read_run(tmp_path, STAGES)


def test_runs_on_machines_alike_are_numbered(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        versions = CPU if name == "c" else GPU
        write_stage(tmp_path / name, "step", [figure("plain", 1.0)], versions)
    table = format_comparison([read_run(tmp_path / name, STAGES) for name in ("a", "b", "c")])
    (heading,) = [line for line in table.splitlines() if line.startswith("| stage |")]
    first, second, other = [cell.strip() for cell in heading.strip("|").split("|")][3:]
    assert (first, second) == (f"{first[:-1]}1", f"{first[:-1]}2")
    assert other == "CPU, torch 2.11.0"


def test_table_of_the_document_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    source = Path("docs/performance.md").read_text(encoding="utf-8")
    document = tmp_path / "performance.md"
    document.write_text(source, encoding="utf-8")
    runs = [f"benchmarks/data/gpu/h100-{name}" for name in ("first", "second")]
    assert main(["--fill", str(document), *runs]) == 0
    assert document.read_text(encoding="utf-8") == source
