"""The samplers that a search can use, built from Optuna."""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
)

from wpm.errors import UserError
from wpm.studies.curves import CurveSampler, Space, WaitingTreeSampler

DEFAULT_SAMPLER = "curves"
# Each class takes a seed, the rungs of the study, and its searched parameters.
_LEARNING = {"curves": CurveSampler, "tpe": WaitingTreeSampler}
# Each function takes a seed.
_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "random": lambda seed: RandomSampler(seed=seed),
}
SAMPLER_NAMES = (*_LEARNING, *_SAMPLERS)
# Packages that a sampler imports when it is first used, and that Optuna does not install.
_SAMPLER_PACKAGES = {"cmaes": "cmaes"}


def build_sampler(
    name: str,
    seed: int,
    trials: int,
    rungs: Sequence[int] = (),
    space: Space | None = None,
) -> BaseSampler:
    """Return the sampler, which chooses configurations.

    Args:
        name: one of `SAMPLER_NAMES`.
        seed: of the study.
        trials: number of trials that the study has already.
        rungs: steps at which the study compares trials.
        space: the searched parameters.

    Raises:
        UserError: unknown name, or a package that it needs is missing.
    """
    if name not in SAMPLER_NAMES:
        raise UserError(f"unknown sampler {name!r}; choose from {', '.join(SAMPLER_NAMES)}")
    package = _SAMPLER_PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"sampler {name} needs the package {package}: python -m pip install {package}, or "
            f"choose another of {', '.join(SAMPLER_NAMES)}"
        )
    # A new seed for every launch: with the same one it would propose the same points again. "qmc"
    # keeps its seed: it continues one sequence, and the study knows how much of it is used.
    if name != "qmc":
        seed = int(np.random.SeedSequence((seed, trials)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name in _LEARNING:
            return _LEARNING[name](seed, rungs, space or {})
        return _SAMPLERS[name](seed)
