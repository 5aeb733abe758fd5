"""How Ray is started and joined; Ray itself is not started."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from wpm.cluster.connection import Resources, connect
from wpm.errors import UserError


def test_ray_here_offers_the_cpus_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("wpm.cluster.connection.count_cpus", lambda: 3)
    for address, cpus in (("local", 3), ("10.0.0.1:6379", None)):
        with connect(Resources(address, 1, None), pytest.fail):
            assert calls[-1]["address"] == address
            assert calls[-1].get("num_cpus") == cpus


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/tmp/ray"),
        RuntimeError("Could not determine home directory.\nmore"),
        AssertionError(),
        KeyError("node"),
    ],
)
def test_any_failure_of_ray_to_start_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    before = dict(os.environ)
    with (
        pytest.raises(
            UserError, match=r"^Ray does not start on this machine \(.*RAY_TMPDIR"
        ) as refused,
        connect(Resources("local", 1, None), pytest.fail),
    ):
        pytest.fail("Ray did not start")
    assert "\n" not in str(refused.value)
    assert dict(os.environ) == before


def test_any_failure_to_join_a_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the folder of a Ray that another user started."""

    def init(**options: Any) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/ray/session_latest")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(UserError, match=r"^--address auto: Ray does not answer \(.*Permission"),
        connect(Resources("auto", 1, None), pytest.fail),
    ):
        pytest.fail("Ray was not joined")


def test_error_of_the_work_is_not_one_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url=""))
    with (
        pytest.raises(FileNotFoundError),
        connect(Resources("local", 1, None), pytest.fail),
    ):
        Path("/no such file").read_bytes()
