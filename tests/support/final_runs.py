"""Final runs of a study on the tiny images, run in the test's own process."""

from pathlib import Path
from typing import Any

from wpm.data.index import DataSource
from wpm.jobs.start import start_job
from wpm.jobs.work import Work
from wpm.records import Chosen
from wpm.studies.best_trials import choose_best_trials
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan


def final_plan(plan: StudyPlan, tmp_path: Path, runs: int = 2) -> FinalPlan:
    (best,) = choose_best_trials(plan.place, allow_unfinished=False)
    return FinalPlan(
        place=plan.place,
        protocol=plan.protocol,
        parameters=best.parameters,
        chosen=Chosen(trial=best.number, score=0.8),
        source=DataSource("folder", tmp_path / "images", tmp_path / "work"),
        pixel_cache=plan.pixel_cache,
        runs=runs,
    )


def drain(source: FinalRunsWork) -> list[dict[str, Any]]:
    """Run all work in this process; return the payloads in the order of the work."""
    done = []
    while (work := source.next_work()) is not None:
        done.append(dict(work.payload))
        finish_work(source, work)
    return done


def finish_work(source: FinalRunsWork, work: Work) -> None:
    job = start_job(work.payload)
    try:
        step = job.step()
        while step.result is None:
            step = job.step()
    finally:
        job.close()
    source.on_ended(work, step)
