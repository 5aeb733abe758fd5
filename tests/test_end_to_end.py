"""From images to the table as a user types it; through Ray where the way of the work counts."""

from collections import Counter
from pathlib import Path

import pytest
from ray._private.services import find_gcs_addresses

from analysis.export import main as export
from analysis.rank_trials import main as rank_trials
from analysis.table import main as print_table
from tests.support.commands import Launcher, study_states
from tests.support.without_ray import run_here
from wpm.records import TrialState, find_studies, read_finals

pytestmark = pytest.mark.slow


def test_search_final_runs_ranking_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(tmp_path)
    rows = ("--rows", "contrastive", "contrastive+wpm")
    output = launcher.run(*rows, "--trials", "3")
    assert output.count("MAP@R") == 6, output
    assert "Traceback" not in output
    states = study_states(launcher.run_root)
    assert {len(s) for s in states.values()} == {3}
    assert not any("RUNNING" in s for s in states.values())

    again = run_here(launcher, *rows, "--trials", "3")
    assert "MAP@R" not in again, "finished trials were run again"

    output = launcher.run(*rows, "--best-only", "--runs", "2")
    assert output.count("tested") == 4
    assert "tested" not in run_here(launcher, *rows, "--best-only", "--runs", "2")
    for place in find_studies(launcher.run_root):
        (final,), _ = read_finals(place)
        results = final.tested
        assert len(results) == 2
        assert final.provenance["libraries"]["ray"]
        assert results[0].provenance["libraries"]["torch"]
    assert not list(launcher.run_root.glob(".ray-*")), "Ray's own files were left"

    for command in (rank_trials, print_table):
        assert command(["--run-root", str(launcher.run_root)]) == 0
        assert "contrastive+wpm" in capsys.readouterr().out
    status = run_here(launcher, "--status")
    assert status.count("finished") == 2


def test_several_searches_are_made_trained_again_and_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(tmp_path)
    rows = ("--rows", "contrastive")
    output = run_here(launcher, *rows, "--trials", "2", "--searches", "2")
    assert output.count("folder/smoke/contrastive.search-2 trial") == 2, output
    assert "next: python launch.py --best-only --searches 2 with the same selection" in output
    assert {row: len(s) for row, s in study_states(launcher.run_root).items()} == {
        "contrastive": 2,
        "contrastive.search-2": 2,
    }
    status = run_here(launcher, "--status")
    assert status.count("finished") == 2

    final = (*rows, "--best-only", "--runs", "1", "--searches", "2")
    assert "folder/smoke/contrastive.search-2" in run_here(launcher, *final, "--dry-run")
    output = run_here(launcher, *final)
    assert output.count("tested") == 2, output
    for place, seed in zip(find_studies(launcher.run_root), (1000, 2000), strict=True):
        (record,), _ = read_finals(place)
        assert [run.seed for run in record.tested] == [seed]
        (line,) = (place.folder / "test_access.jsonl").read_text().splitlines()
        assert f"seed-{seed}" in line
    assert "left out search 2" in run_here(launcher, *rows, "--trials", "2")

    out = tmp_path / "exported"
    assert export(["--run-root", str(launcher.run_root), "--out", str(out)]) == 0
    assert "contrastive was searched 2 times; taken is search" in capsys.readouterr().err
    assert len(list(out.glob("*.safetensors"))) == 4


def test_trials_start_on_one_fold_wait_there_and_are_stopped_or_earn_the_others(
    tmp_path: Path,
) -> None:
    launcher = Launcher(tmp_path)
    setting = ("--rows", "contrastive", "--set", "first_folds=1", "--stopping", "pausing")
    output = launcher.run(*setting, "--trials", "6")
    assert "Traceback" not in output
    (place,) = find_studies(launcher.run_root)
    assert place.protocol == "smoke-first_folds_1"
    trials = launcher.trials()
    states = {trial.number: trial.state for trial in trials}
    assert set(states.values()) == {TrialState.COMPLETE, TrialState.PRUNED}, output
    for trial in trials:
        outcome, last = trial.outcome, trial.reports[-1]
        assert len(outcome.fold_scores) == len(last.folds) == (1 if last.step <= 4 else 4)
        if trial.state is TrialState.COMPLETE:
            assert (last.step, len(outcome.fold_scores)) == (8, 4)
        else:
            where = outcome.reason.removeprefix("stopped ")
            assert f"stopped   MAP@R {outcome.score:.4f}  {where}" in output
    counts = Counter(len(trial.outcome.fold_scores) for trial in trials)
    shown = f" {counts[1]} x 1, {counts[4]} x 4 "
    assert shown in run_here(launcher, "--status")
    run_here(launcher, *setting, "--best-only", "--runs", "1")
    (final,), _ = read_finals(place)
    assert states[int(final.chosen.trial or 0)] is TrialState.COMPLETE
    assert len(final.tested) == 1
    assert len(final.folds[0]) == 4


def test_cluster_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    if find_gcs_addresses():
        pytest.skip("another Ray runs on this machine, and --address auto would find it")
    launcher = Launcher(tmp_path)
    launcher.environment |= {"RAY_TMPDIR": str(tmp_path)}
    launcher.environment.pop("RAY_ADDRESS", None)
    output = launcher.run("--trials", "1", "--address", "auto", code=2)
    assert "--address auto: Ray does not answer" in output.splitlines()[-1]
    # A cluster that was killed leaves where it was; Ray would try for minutes.
    last = tmp_path / "ray" / "ray_current_cluster"
    last.parent.mkdir(exist_ok=True)
    last.write_text("127.0.0.1:1")
    output = launcher.run("--trials", "1", "--address", "auto", code=2)
    told = "--address auto: nothing answers at 127.0.0.1:1 (from RAY_ADDRESS, or where Ray "
    assert told in output.splitlines()[-1]
    assert not list(launcher.run_root.glob("*/*/*/study.json")), "nothing is recorded for that"


def test_search_whose_every_point_diverges_learns_that_and_ends(tmp_path: Path) -> None:
    """Each trial ends in its first epoch, with a score of 0 and a line; there is no best one."""
    launcher = Launcher(tmp_path)
    spaces = tmp_path / "spaces"
    spaces.mkdir()
    (spaces / "contrastive.toml").write_text(
        "[search.pos_margin]\nlow = 0\nhigh = 1\n[fixed]\nneg_margin = 1e39\n"
    )
    arguments = ("--rows", "contrastive", "--trials", "4", "--search-spaces", str(spaces))
    output = run_here(launcher, *arguments)
    assert output.count("diverged  MAP@R 0.0000  loss of fold 0 is inf in epoch 1") == 4
    assert study_states(launcher.run_root)["contrastive"] == ["COMPLETE"] * 4
    status = run_here(launcher, "--status")
    assert "trial 3 diverged: loss of fold 0 is inf in epoch 1" in status
    output = run_here(launcher, "--best-only", *arguments, code=2)
    assert "has no complete trial among its 4" in output


def test_published_configuration_is_trained_without_a_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(tmp_path)
    spaces = tmp_path / "spaces"
    spaces.mkdir()
    (spaces / "triplet.toml").write_text(
        "[search.margin]\nlow = 0\nhigh = 1\n"
        '[[published]]\ndataset = "folder"\nsource = "mlrc"\nparameters = { margin = 0.25 }\n'
    )
    rows = ("--rows", "triplet", "--search-spaces", str(spaces))
    output = run_here(launcher, *rows, "--best-only", "--published", "--runs", "1")
    assert "as published (mlrc)" in output
    (place,) = find_studies(launcher.run_root)
    (final,), _ = read_finals(place)
    assert final.parameters == {"margin": 0.25}
    assert len(final.tested) == 1
    assert print_table(["--run-root", str(launcher.run_root)]) == 0
    assert "published" in capsys.readouterr().out
    # A search of the same row continues in the same folder, and can try that point first.
    run_here(launcher, *rows, "--trials", "1", "--warm-start", "published")
    (trial,) = launcher.trials()
    assert trial.identity["parameters"] == {"margin": 0.25}
