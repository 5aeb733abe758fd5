"""Connect to a Ray cluster, or start one on this machine."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private import services
from ray.exceptions import RayError

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
def connect(resources: Resources) -> Iterator[str]:
    """Start or join Ray for a while; yields the address of its dashboard, "" without one.

    Raises:
        UserError: no cluster answers at the address.
    """
    try:
        joined = ray.init(
            address=resources.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if resources.address == "local" else False,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _no_answer(resources.address, error) from error
    try:
        yield joined.dashboard_url or ""
    finally:
        ray.shutdown()


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
    first_line = (str(error).strip().splitlines() or [repr(error)])[0]
    return UserError(
        f"--address {address}: Ray does not answer ({first_line}); start a cluster, or use "
        "--address local"
    )


def count_gpus(resources: Resources) -> float:
    """Return the GPUs, or the share of one, per piece of work; Ray must be connected."""
    if resources.gpus is not None:
        return resources.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
