"""Ray's autoscaler, with the kinds of node of the clouds' files, on nodes of this machine."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.planted import plant
from tests.support import commands
from tests.support.commands import ROOT, Launcher, study_states, workers_of
from tests.support.ray_nodes import parent_of
from tests.support.scaling_cluster import Sample, ScalingCluster
from wpm.records import TrialState

IDLE_MINUTES = 0.3  # the files say 10
LARGEST = 9  # the head, and max_workers of both files
TRIALS, HELD = 24, 2
STEPS = 64  # optimiser steps of a trial, in 4 epochs
# A trial lasts longer than the cluster grows, until the test says that its number may run freely.
PACE = """
import time
def fault(number, folder, fold):
    with open(folder / "steps", "a") as file:
        file.write(f"{fold.epoch} {fold.position} {fold.iteration}\\n")
    with open("FREE") as file:
        free = int(file.read())
    if number >= free:
        time.sleep(0.2 if fold.epoch == 0 else 2.0)
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(tmp_path) as made:
        made.environment["OMP_NUM_THREADS"] = "1"  # many nodes share the cores of this machine
        yield made


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Not below tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wpm-", dir="/tmp") as folder:
        yield Path(folder)


def steps_of(folder: Path) -> list[str]:
    file = folder / "steps"
    return file.read_text().splitlines() if file.exists() else []


# Looks seldom: the nodes need this machine's cores.
wait_until = partial(commands.wait_until, every=1.0)


def set_free(file: Path, number: int) -> None:
    """Let all trials below a number run at full speed, from their next step on."""
    new = file.with_suffix(".new")
    new.write_text(str(number))
    new.replace(file)


def has_kind(cluster: ScalingCluster, kind: str) -> bool:
    return kind in cluster.now().nodes.values()


def is_emptied(cluster: ScalingCluster) -> bool:
    """Kill all workers, also those that were about to start; return whether all are gone."""
    for raylet in cluster.raylets().values():
        cluster.kill(raylet)
    return set(cluster.now().nodes.values()) == {"head"}


def check_growth(growth: list[Sample]) -> None:
    """Check that as many trials waited as ran, up to 8, while the cluster grew."""
    for sample in growth:
        nodes = len(sample.nodes)
        assert len(sample.busy) + sample.waiting <= nodes + min(nodes, 8), sample
    for nodes, waiting in ((1, 1), (2, 2), (LARGEST, 8)):
        seen = {sample.waiting for sample in growth if len(sample.nodes) == nodes}
        assert waiting in seen, f"{nodes} nodes, and {seen} waited"


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/gcp.yaml"])
def test_search_grows_a_cluster_replaces_a_lost_node_and_lets_it_shrink(
    launcher: Launcher,
    tmp_path: Path,
    ray_folder: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    free = tmp_path / "free"
    set_free(free, 0)
    plant(launcher, tmp_path / "site", PACE.replace("FREE", str(free)))
    with ScalingCluster(
        ray_folder, ROOT / file, launcher.environment, idle_minutes=IDLE_MINUTES
    ) as cluster:
        launcher.environment = cluster.environment
        process = launcher.start(
            "--rows", "contrastive", "--trials", str(TRIALS), "--no-early-stopping",
            "--address", cluster.address, "--gpus-per-trial", "1",
        )  # fmt: skip

        def wait(condition: Callable[[], bool], seconds: float) -> None:
            wait_until(lambda: process.poll() is not None or condition(), seconds)
            assert process.poll() is None, process.communicate()[0]

        def training_on(raylet: int) -> Path | None:
            return next(
                (f for w, f in workers_of(launcher).items() if parent_of(w) == raylet), None
            )

        # As many as may be, and no more, whatever waits.
        wait(lambda: cluster.now().waiting == 8 and len(workers_of(launcher)) == LARGEST, 600)
        growth = list(cluster.samples())
        time.sleep(15)  # three turns of the autoscaler
        check_growth(growth)

        # A node vanishes with its trial midway; another takes its place.
        lost, raylet = next(
            (node, raylet)
            for node, raylet in cluster.raylets().items()
            if (f := training_on(raylet)) is not None and STEPS // 4 < len(steps_of(f)) < STEPS - 4
        )
        moved = training_on(raylet)
        assert moved is not None
        cluster.kill(raylet)
        killed = cluster.now().at
        done_before = len(steps_of(moved))
        wait(lambda: lost not in cluster.now().nodes, 100)
        wait(lambda: len(cluster.now().nodes) == LARGEST, 200)
        replaced = cluster.now().at
        wait(lambda: len(steps_of(moved)) > done_before, 200)
        resumed = cluster.now().at

        # Few trials are left: their nodes stay, the others go.
        set_free(free, TRIALS - HELD)
        wait(lambda: len(steps_of_last(launcher)) == HELD, 400)
        wait(lambda: len(workers_of(launcher)) == HELD, 200)
        emptied = cluster.now().at
        wait(lambda: len(cluster.now().nodes) <= HELD + 1, 100)
        shrunk = cluster.now()
        assert len(workers_of(launcher)) == HELD, "the trials ran on"

        # None is left: only the head stays.
        set_free(free, TRIALS)
        output, _ = process.communicate(timeout=300)
        ended = cluster.now().at
        assert process.returncode == 0, output
        wait_until(lambda: len(cluster.now().nodes) == 1, 100)
        gone = cluster.now().at
        samples = list(cluster.samples())

    with capsys.disabled():
        print(f"\n{file}, autoscaler version {cluster.version}:")
        print(describe_growth(growth))
        print(f"  a node was killed: {replaced - killed:.0f} s later another had joined,")
        print(f"  {resumed - killed:.0f} s later its trial continued")
        left = len(shrunk.nodes)
        print(f"  {HELD} trials were left: {shrunk.at - emptied:.0f} s later {left} nodes")
        print(f"  the search had ended: {gone - ended:.0f} s later the head alone")

    for sample in samples:
        # Ray may list a node for some seconds that has vanished.
        assert len(set(sample.nodes) - {lost}) <= LARGEST - (sample.at < killed), sample
    records = launcher.trials()
    assert len(records) == TRIALS
    assert {record.state for record in records} == {TrialState.COMPLETE}
    for record in records:
        assert [report.epoch for report in record.reports] == [1, 2, 3, 4], "lost or repeated"
        steps = steps_of(record.folder)
        assert len(set(steps)) == STEPS, "a step was lost"
        assert len(steps) - STEPS <= (STEPS // 4 if record.folder == moved else 0), "trained again"
    assert study_states(launcher.run_root) == {"contrastive": ["COMPLETE"] * TRIALS}


def steps_of_last(launcher: Launcher) -> list[Path]:
    """Return the folders of the held trials that have begun."""
    return [f for f in workers_of(launcher).values() if int(f.name) >= TRIALS - HELD]


def describe_growth(growth: list[Sample]) -> str:
    """Describe every change of a cluster's size, one a line."""
    begun = next(sample.at for sample in growth if sample.busy)
    lines, before = [], None
    for sample in [sample for sample in growth if sample.at >= begun]:
        if (now := (len(sample.nodes), len(sample.busy), sample.waiting)) != before:
            lines.append(
                f"  {sample.at - begun:4.0f} s: {now[0]} nodes, {now[1]} trials run, {now[2]} wait"
            )
        before = now
    return "\n".join(lines)


def test_another_kind_is_taken_where_one_is_sold_out(
    launcher: Launcher, tmp_path: Path, ray_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = tmp_path / "free"
    set_free(free, 0)
    plant(launcher, tmp_path / "site", PACE.replace("FREE", str(free)))
    with ScalingCluster(
        ray_folder, ROOT / "cluster.yaml", launcher.environment, idle_minutes=IDLE_MINUTES
    ) as cluster:
        kinds = set(cluster.config["available_node_types"]) - {"head"}
        assert len(kinds) == 2
        launcher.environment = cluster.environment
        cluster.sell_out(*kinds)
        process = launcher.start(
            "--rows", "contrastive", "--trials", "3", "--no-early-stopping",
            "--address", cluster.address, "--gpus-per-trial", "1",
        )  # fmt: skip
        wait_until(lambda: all(f"no {kind} left" in cluster.log() for kind in kinds), 200)
        assert set(cluster.now().nodes.values()) == {"head"}
        # Each is to be had again for a while, whichever was asked for first.
        for kind in sorted(kinds):
            (sold_out,) = kinds - {kind}
            cluster.sell_out(sold_out)
            begun = cluster.now().at
            wait_until(partial(has_kind, cluster, kind), 100)
            found = cluster.now().at
            with capsys.disabled():
                print(f"\n  {sold_out} is sold out: {found - begun:.0f} s later {kind} had joined")
            cluster.sell_out(*kinds)
            wait_until(partial(is_emptied, cluster), 100)
        set_free(free, 3)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert {record.state for record in launcher.trials()} == {TrialState.COMPLETE}
