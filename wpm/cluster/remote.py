"""Call a function on a node, or run a command on the head, from outside the cluster."""

import re
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.job_submission import JobStatus, JobSubmissionClient

from wpm.errors import UserError


def call_on_a_node(function: Callable[[Any], Any], question: Any, *, wait_s: float = 180.0) -> Any:
    """Run a function once on any node and return its answer; Ray must be connected.

    Args:
        function: is called with the question; it and its answer must be picklable.
        question: its argument.
        wait_s: how long to wait for the answer.

    Raises:
        UserError: the function raised one, or no node answered.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    try:
        return ray.get(task.remote(question), timeout=wait_s)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        last = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"a node does not answer: {last}; install the same commit there") from error
    except RayError as error:
        raise UserError(f"no node answers: {error}; see ray status") from error


def run_on_head(address: str, command: Sequence[str], *, wait_s: float = 120.0) -> str:
    """Run a short command on a cluster's head, through its job interface.

    Args:
        address: of the dashboard, http://HOST:PORT.
        command: its words; it runs in the folder in which Ray was started.
        wait_s: how long to wait for its end.

    Returns:
        What the command printed.

    Raises:
        UserError: nothing answers there, or the command failed.
    """
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(command), entrypoint_num_cpus=0)
        deadline = time.monotonic() + wait_s
        while not (status := client.get_job_status(job)).is_terminal():
            if time.monotonic() > deadline:
                client.stop_job(job)
                raise UserError(
                    f"--address {address}: no answer in {wait_s:.0f} s; see ray job list"
                )
            time.sleep(0.5)
        # The log begins with Ray's own lines, of which "Running entrypoint" is the last.
        printed = re.sub(
            r"(?s)^.*?Running entrypoint[^\n]*\n", "", client.get_job_logs(job)
        ).strip()
    except (RuntimeError, ConnectionError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(
            f"--address {address}: no job interface answers ({first_line}); forward it with "
            "ray dashboard cluster.yaml, and install clusters/requirements.txt here"
        ) from error
    if status != JobStatus.SUCCEEDED:
        last = printed.splitlines()[-1] if printed else status.value
        raise UserError(f"on {address}: {last.removeprefix('launch.py: error: ')}")
    return printed
