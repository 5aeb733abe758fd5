"""Connect to a Ray cluster, or start one on this machine."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import ray
from ray._private import services

from wpm.cluster.ray_files import provide_for_ray
from wpm.cpus import count_cpus
from wpm.errors import UserError


@dataclass(frozen=True)
class Resources:
    """What one piece of work needs, and on which cluster.

    Attributes:
        address: "local" to start Ray on this machine, "auto" or host:port for a running cluster.
        cpus: cores per piece of work; also its torch threads.
        gpus: GPUs per piece of work, may be a fraction; None: one where the cluster has GPUs.
    """

    address: str
    cpus: float
    gpus: float | None


@contextlib.contextmanager
def connect(resources: Resources, note: Callable[[str], None]) -> Iterator[str]:
    """Start or join Ray for a while; yields the address of its dashboard, "" without one.

    Args:
        resources: name the cluster.
        note: called with a line if a Ray that is started here keeps its files in an unusual place.

    Raises:
        UserError: no cluster answers at the address, or Ray does not start here.
    """
    is_local = resources.address == "local"
    with provide_for_ray(note) if is_local else contextlib.nullcontext():
        try:
            yield _start_or_join(resources)
        finally:
            ray.shutdown()


def _start_or_join(resources: Resources) -> str:
    """Return the address of the dashboard, "" without one."""
    init = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if resources.address == "local":
        try:
            started = init(address="local", num_cpus=count_cpus())
        except Exception as error:  # of any kind: Ray does not say which it raises
            raise UserError(
                f"Ray does not start on this machine ({_first_line(error)}); if that names a "
                "folder, set RAY_TMPDIR to another"
            ) from error
        return started.dashboard_url or ""
    try:
        joined = init(address=resources.address, include_dashboard=False)
    except Exception as error:  # as above
        raise _no_answer(resources.address, error) from error
    return joined.dashboard_url or ""


def find_cluster() -> str:
    """Return the address that `--address auto` means: RAY_ADDRESS, or the last Ray started here.

    That Ray may have ended since; `ray.init` would then try for more than five minutes.

    Raises:
        UserError: there is neither.
    """
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise _no_answer("auto", error) from error


def _no_answer(address: str, error: Exception) -> UserError:
    return UserError(
        f"--address {address}: Ray does not answer ({_first_line(error)}); start a cluster, or use "
        "--address local"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


def count_gpus(resources: Resources) -> float:
    """Return the GPUs, or the share of one, per piece of work; Ray must be connected."""
    if resources.gpus is not None:
        return resources.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
