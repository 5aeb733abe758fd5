"""The samplers and the pruner that a search can use, built from Optuna."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from wpm.errors import UserError
from wpm.protocols import Protocol

DEFAULT_SAMPLER = "tpe"
# Each function takes a seed.
_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "random": lambda seed: RandomSampler(seed=seed),
}
SAMPLER_NAMES = tuple(_SAMPLERS)
# Packages that a sampler imports when it is first used, and that Optuna does not install.
_SAMPLER_PACKAGES = {"cmaes": "cmaes"}


def build_pruner(protocol: Protocol, *, early_stopping: bool) -> BasePruner:
    """Return the pruner, which decides whether a trial is stopped."""
    if not early_stopping:
        return NopPruner()
    return SuccessiveHalvingPruner(
        min_resource=protocol.grace_epochs, reduction_factor=protocol.reduction_factor
    )


def build_sampler(name: str, seed: int, trials: int) -> BaseSampler:
    """Return the sampler, which chooses configurations.

    Args:
        name: one of `SAMPLER_NAMES`.
        seed: of the study.
        trials: number of trials that the study has already.

    Raises:
        UserError: unknown name, or a package that it needs is missing.
    """
    if name not in _SAMPLERS:
        raise UserError(f"unknown sampler {name!r}; choose from {', '.join(_SAMPLERS)}")
    package = _SAMPLER_PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"sampler {name} needs the package {package}: python -m pip install {package}, or "
            f"choose another of {', '.join(_SAMPLERS)}"
        )
    # A new seed for every launch: with the same one it would propose the same points again. "qmc"
    # keeps its seed: it continues one sequence, and the study knows how much of it is used.
    if name != "qmc":
        seed = int(np.random.SeedSequence((seed, trials)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _SAMPLERS[name](seed)
