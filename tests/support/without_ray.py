"""Run launch.py in the test's own process, its work too: without Ray, whose start takes seconds.

What a search or a final run does with images and records is the same as through Ray: work and its
results pass between a source and a job as JSON. The tests that launch Ray prove the way there.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from unittest import mock

import launch
from tests.support.commands import Launcher
from wpm.cli.launch_plan import LaunchPlan
from wpm.cli.prepare import Prepared
from wpm.jobs.job import Job, StepResult
from wpm.jobs.start import start_job
from wpm.jobs.work import Decision, Work, WorkSource


def run_here(launcher: Launcher, *more: str, code: int = 0, gpus: float = 0.0) -> str:
    """Run a launch as `Launcher.run` does, but here; return what it printed.

    Args:
        launcher: names the images and the folders.
        more: flags of the launch.
        code: the exit code to expect.
        gpus: share of a GPU that every training counts as its own.
    """
    with mock.patch("wpm.cli.commands.run_on_ray", partial(run_prepared_here, gpus=gpus)):
        ended, output = launch_here(*launcher.flags(*more))
    assert ended == code, output
    return output


def launch_here(*arguments: str) -> tuple[int, str]:
    """Call launch.py's main; return the exit code and what was printed."""
    with _captured() as printed:
        code = launch.main(list(arguments))
    return code, printed[0]


def run_prepared_here(plan: LaunchPlan, prepared: Prepared, *_: object, gpus: float = 0.0) -> bool:
    """Stand in for `wpm.cli.commands.run_on_ray`: do all work, one piece after another."""
    do_all_work(prepared.work, gpus)
    return True


def do_all_work(source: WorkSource, gpus: float = 0.0) -> None:
    """Do everything that a source hands out, one piece of work after another."""
    while (work := source.next_work()) is not None:
        job = start_job({**json.loads(json.dumps(dict(work.payload))), "gpus": gpus})
        try:
            _do(work, job, source)
        finally:
            job.close()
    assert source.exhausted


def _do(work: Work, job: Job, source: WorkSource) -> None:
    while True:
        step = StepResult.from_json(json.loads(json.dumps(job.step().to_json())))
        if step.result is not None:
            return source.on_ended(work, step)
        decision = source.on_step(work, step)
        if decision is Decision.STOP:
            return source.on_stopped(work, step)
        if decision is Decision.SUSPEND:
            return source.on_suspended(work)


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Send stdout and stderr to a file, because the console asks for its number.

    Its content is in the list afterwards.
    """
    printed: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield printed
        file.seek(0)
        printed.append(file.read())
