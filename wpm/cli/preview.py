"""Look ahead and start no work: check the cluster for `--doctor`, or estimate for `--dry-run`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wpm.cli.entry import complain
from wpm.cli.forecast import forecast_finals, forecast_search, format_forecasts
from wpm.cli.image_findings import examine_images
from wpm.cli.launch_plan import LaunchPlan
from wpm.cli.power import describe_power
from wpm.cluster.connection import Resources, connect, count_gpus
from wpm.cluster.disk_needs import PlannedRun, estimate_disk
from wpm.cluster.doctor import examine
from wpm.cluster.nodes import ask_nodes, count_slots, list_nodes
from wpm.data.datasets import load_index
from wpm.data.halves import divide_images
from wpm.studies.disk_cap import GIB, FolderSize


def examine_cluster(plan: LaunchPlan) -> bool:
    """Print what is wrong with the cluster; return whether a search can start."""
    with _connected(plan) as planned_run:
        findings = list(examine(planned_run, ask_nodes))
    findings += examine_images(planned_run.index, plan.source, plan.protocol)
    for finding in findings:
        print(finding)
    blocking = sum(finding.blocking for finding in findings)
    print(f"{blocking} to fix before a search" if blocking else "nothing to fix")
    return not blocking


def print_forecast(plan: LaunchPlan) -> None:
    """Print which work a launch would do, and the hours and the disk space that it would take."""
    options = plan.options
    with _connected(plan) as planned_run:
        forecasts = [
            forecast_finals(place, plan.protocol, plan.runs, options.top)
            if options.best_only
            else forecast_search(place, plan.trials)
            for place in plan.places
        ]
        nodes = list_nodes()
        slots = count_slots(nodes, options.cpus_per_trial, planned_run.gpus)
        disk = estimate_disk(planned_run, nodes)
    print(format_forecasts(forecasts, slots, planned_run.gpus, disk))
    for line in describe_power(plan.places, options.searches, plan.runs):
        print(line)
    if options.max_disk is not None:
        used = FolderSize(plan.run_root).measure()
        cap = options.max_disk * GIB
        print(f"{plan.run_root} holds {used / 1e9:.2f} GB of {cap / 1e9:.2f} (--max-disk)")


def _print_note(line: str) -> None:
    complain(f"launch.py: {line}")


@contextmanager
def _connected(plan: LaunchPlan) -> Iterator[PlannedRun]:
    """Connect to Ray, and describe to it what the launch would run."""
    options, weights = plan.options, Path(plan.weights)
    index = load_index(plan.source, fetch=options.fetch)
    divide_images(index, plan.source, plan.protocol.folds)  # refuses what a launch would refuse
    for folder in (plan.run_root, plan.source.work_root):
        folder.mkdir(parents=True, exist_ok=True)
    resources = Resources(options.address, options.cpus_per_trial, options.gpus)
    with connect(resources, _print_note):
        yield PlannedRun(
            run_root=plan.run_root,
            source=plan.source,
            index=index,
            protocol=plan.protocol,
            rows=len(plan.places),
            trials=plan.trials,
            runs=plan.runs * options.top,
            weights=weights if weights.is_file() else None,
            cpus=options.cpus_per_trial,
            gpus=count_gpus(resources),
        )
