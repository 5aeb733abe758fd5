"""Stages as processes: one that crashes, or takes too long, does not end the others."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu.__main__ import STAGES, choose_stages, limit_of, main

ROOT = Path(__file__).resolve().parents[3]
# A stage that writes a figure, and then does something else than to end well.
STAGE = """
import sys, time, subprocess, pathlib, torch
from benchmarks.gpu.figures import Stage
stage = Stage({name!r}, pathlib.Path({out!r}), torch.device("cpu"), quick=True, seconds=60)
stage.record("before", 1.0, "s")
{then}
stage.finish()
"""


def plant(monkeypatch: pytest.MonkeyPatch, out: Path, thens: dict[str, str]) -> None:
    """Let stages run code of the test's own in their processes."""

    def command(args: argparse.Namespace, name: str, limit_s: float) -> list[str]:
        return [sys.executable, "-c", STAGE.format(name=name, out=str(out), then=thens[name])]

    monkeypatch.setattr(suite, "stage_command", command)
    monkeypatch.setattr("signal.signal", lambda *given: None)


def read(out: Path, stage: str) -> tuple[str, str, int]:
    content = json.loads((out / f"{stage}.json").read_text())
    return content["state"], content["reason"], len(content["figures"])


def test_time_that_is_left_goes_to_the_stages_that_are_left() -> None:
    names = list(STAGES)
    limits = [limit_of(names[position:], 480.0) for position in range(len(names))]
    assert limits[-1] == 480, "the last one has all"
    total = sum(entry.weight for entry in STAGES.values())
    assert limits[0] == pytest.approx(480 * STAGES["right"].weight / total)
    assert limit_of(names, -3.0) == 0


def test_stages_run_in_the_order_of_their_worth() -> None:
    assert choose_stages("sum, right,step") == ["right", "step", "sum"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x", "--stages", "right,speed"], "unknown stage 'speed'; choose from right,"),
        ([], "give --out DIR"),
        (["--out", "x", "y"], "give --out DIR"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_crash_of_a_stage_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, tmp_path, {"right": "raise ValueError('odd')", "folds": "", "sum": ""})
    flags = ["--out", str(tmp_path), "--device", "cpu", "--stages", "right,folds,sum"]
    assert main(flags) == 1
    assert read(tmp_path, "right") == ("ended", "ended with code 1 (ValueError: odd)", 1)
    assert read(tmp_path, "folds") == ("done", "", 1)
    assert "ended with code 1 (ValueError: odd)" in (tmp_path / "table.md").read_text()
    assert "1 stages did not end by themselves" in capsys.readouterr().out


@pytest.mark.slow
def test_stage_is_killed_at_its_limit_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    then = (
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    plant(monkeypatch, tmp_path, {"right": then, "step": ""})
    flags = ["--out", str(tmp_path), "--device", "cpu", "--stages", "right,step"]
    begin = time.monotonic()
    assert main([*flags, "--minutes", "0.4"]) == 1
    assert time.monotonic() - begin < 50
    state, reason, figures = read(tmp_path, "right")
    assert (state, figures) == ("ended", 1)
    assert reason == f"was ended at its limit of {limit_of(['right', 'step'], 24):.0f} s"
    assert read(tmp_path, "step")[0] == "done"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child.read_text()}/cmdline").exists():
        if "sleep" not in Path(f"/proc/{child.read_text()}/cmdline").read_text():
            break  # a zombie, or another process of that number
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_suite_runs_on_a_cpu(tmp_path: Path) -> None:
    stages = [name for name in STAGES if name != "compile"]
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu",
         "--quick", "--trunk", "convnet", "--minutes", "8", "--stages", ",".join(stages)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for stage in stages:
        assert read(tmp_path, stage)[0] == "done"
    cost = json.loads((tmp_path / "sum.json").read_text())["figures"]
    assert any(f["what"].endswith("times cheaper") and f["value"] > 0 for f in cost)
