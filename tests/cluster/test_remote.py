"""Commands on a cluster's head, through a fake job interface."""

import pytest
from ray.job_submission import JobStatus

from wpm.cluster import remote
from wpm.errors import UserError


class Jobs:
    """A fake of a cluster's job interface, whose only job has ended at the second look."""

    status = JobStatus.SUCCEEDED
    printed = "job_manager: set up\nRunning entrypoint for job 1: x\nstudy a\nstudy b\n"

    def __init__(self, address: str) -> None:
        if "nobody" in address:
            raise ConnectionError("Failed to connect")
        self.looks = [JobStatus.RUNNING, self.status]

    def submit_job(self, *, entrypoint: str, entrypoint_num_cpus: int) -> str:
        assert entrypoint == "python launch.py --status --run-root '/mnt/my runs'"
        assert entrypoint_num_cpus == 0, "beside what trains there"
        return "1"

    def get_job_status(self, job: str) -> JobStatus:
        return self.looks.pop(0)

    def get_job_logs(self, job: str) -> str:
        return self.printed


COMMAND = ["python", "launch.py", "--status", "--run-root", "/mnt/my runs"]


def test_output_of_a_command_on_the_head_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JobSubmissionClient", Jobs)
    assert remote.run_on_head("http://head:8265", COMMAND) == "study a\nstudy b"


def test_error_of_a_command_on_the_head_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JobSubmissionClient", Jobs)
    monkeypatch.setattr(Jobs, "status", JobStatus.FAILED)
    monkeypatch.setattr(Jobs, "printed", "launch.py: error: no studies under /mnt/my runs\n")
    with pytest.raises(UserError, match=r"^on http://head:8265: no studies under /mnt/my runs$"):
        remote.run_on_head("http://head:8265", COMMAND)
    with pytest.raises(UserError, match=r"no job interface answers .*ray dashboard cluster.yaml"):
        remote.run_on_head("http://nobody:8265", COMMAND)
