"""The one rule of which trial or configuration is the best."""

from collections.abc import Iterable, Sized
from math import inf
from typing import Protocol, TypeVar

from wpm.records.finals import Chosen


class HasFinalRuns(Protocol):
    """A configuration with final runs, of which some may have been tested."""

    @property
    def chosen(self) -> Chosen:
        """Where the configuration comes from."""

    @property
    def tested(self) -> Sized:
        """Its tested runs."""


_Configuration = TypeVar("_Configuration", bound=HasFinalRuns)


def validation_order(score: float | None, trial: int | None) -> tuple[float, float]:
    """Return a key that sorts trials, or configurations, by validation: the best comes first.

    The higher score is better. Of equal scores the earlier trial is better. What no search chose
    has no score and no trial, and comes last.
    """
    return (inf if score is None else -score, inf if trial is None else trial)


def chosen_order(configuration: HasFinalRuns) -> tuple[float, float]:
    """Return the key of `validation_order` for a configuration with final runs."""
    return validation_order(configuration.chosen.score, configuration.chosen.trial)


def best_tested(configurations: Iterable[_Configuration]) -> _Configuration | None:
    """Return the configuration that stands for a study: in its table, its export, its embeddings.

    It is the best in validation among the configurations with a tested final run: a choice by test
    score would flatter the study, and a configuration whose runs all failed has nothing to show.

    Returns:
        That configuration, None where no run was tested.
    """
    tested = [configuration for configuration in configurations if len(configuration.tested)]
    return min(tested, key=chosen_order, default=None)
