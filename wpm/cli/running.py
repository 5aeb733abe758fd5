"""Run prepared work on Ray, under the limits that the flags set."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wpm.cli.console import Console
from wpm.cli.launch_plan import LaunchPlan
from wpm.cli.options import LaunchOptions
from wpm.cli.prepare import OnStudyEnd, Prepared
from wpm.cluster.connection import Resources, connect, count_gpus
from wpm.cluster.disk_needs import estimate_checkpoint
from wpm.cluster.doctor import check_shared
from wpm.cluster.gpu_share import measure_gpus
from wpm.cluster.nodes import ask_nodes
from wpm.cluster.runner import StoppedBySignalError, run_work
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.records import gpu_seconds, read_all_reports
from wpm.studies.budget import Budget, MeteredWork
from wpm.studies.disk_cap import GIB, DiskCap
from wpm.studies.study_end import STUDY_BUDGET, StudyEnd
from wpm.training.config import TrainingConfig


def run_prepared(
    plan: LaunchPlan, prepared: Prepared, console: Console, on_study_end: OnStudyEnd
) -> MeteredWork:
    """Run work until it has ended or a limit is reached.

    Returns:
        The work with what it has used, which knows the limit that was reached.

    Raises:
        KeyboardInterrupt: the user, or the operating system, stopped the launch.
        UserError: no cluster answers, or a limit has no meaning on it.
    """
    options = plan.options
    resources = Resources(options.address, options.cpus_per_trial, options.gpus)
    try:
        with connect(resources, console.line) as dashboard:
            if dashboard:
                console.line(f"Ray's dashboard: http://{dashboard}")
            if options.address != "local":
                check_shared([plan.run_root, plan.source.work_root], ask_nodes)
            if options.measures_gpus and prepared.probe is not None:
                resources = dataclasses.replace(resources, gpus=measure_gpus(prepared.probe))
                console.line(f"GPUs a trial, measured: {resources.gpus:.3g}")
            metered = meter_work(options, prepared, resources, console, on_study_end)
            run_work(metered, resources, plan.run_root, console.live, metered.limit_reached)
    except StoppedBySignalError:
        raise KeyboardInterrupt from None
    return metered


def meter_work(
    options: LaunchOptions,
    prepared: Prepared,
    resources: Resources,
    console: Console,
    on_study_end: OnStudyEnd,
) -> MeteredWork:
    """Put the work under the limits that the flags set.

    Raises:
        UserError: GPU-hours are limited where trials take no GPU.
    """
    budget = Budget(
        hours=options.max_hours,
        study_hours=options.max_hours_per_study,
        gpu_hours=options.max_gpu_hours,
        study_gpu_hours=options.max_gpu_hours_per_study,
    )

    def announce(study: str, reason: str) -> None:
        console.line(f"{study} stopped at {reason}; run the command with a higher limit to resume")
        on_study_end(StudyEnd(study, STUDY_BUDGET, f"stopped at {reason}"))

    spent = _read_spent(budget, prepared, resources)
    metered = MeteredWork(prepared.work, budget, spent, announce=announce)
    if options.max_disk is not None:
        cap = DiskCap(
            options.run_root,
            options.max_disk * GIB,
            _checkpoint_bytes(prepared.probe),
            lambda: metered.running,
        )
        metered.cap_disk(cap.limit_reached)
    return metered


def _read_spent(
    budget: Budget, prepared: Prepared, resources: Resources
) -> dict[str, dict[str, float]]:
    """Return the GPU seconds of earlier launches, by study and by folder of a training.

    Without a limit on GPU-hours they are not read, because reading takes as long as a ranking.
    """
    if budget.gpu_hours is None and budget.study_gpu_hours is None:
        return {}
    if count_gpus(resources) == 0:
        flag = "--max-gpu-hours-per-study" if budget.gpu_hours is None else "--max-gpu-hours"
        raise UserError(f"{flag} has no meaning where trials take no GPU; use --max-hours")
    return {
        place.name: {
            folder: gpu_seconds(reports) for folder, reports in read_all_reports(place).items()
        }
        for place in prepared.places
    }


def _checkpoint_bytes(probe: Mapping[str, Any] | None) -> int:
    """Estimate the size of a checkpoint of the largest training; 0 where nothing is trained."""
    if probe is None:
        return 0
    config = TrainingConfig.from_json(probe["config"])
    channels = Pixels(Path(probe["pixels"])).channels
    return estimate_checkpoint(config.protocol, channels, len(config.folds))
