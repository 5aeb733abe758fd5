"""Which folds of a configuration train together, and which begin once those have finished."""

from dataclasses import dataclass
from typing import Self

from wpm.reports import Report
from wpm.training.config import TrainingConfig


@dataclass(frozen=True)
class Stages:
    """The folds of a training, one group after another; those of a group train in lockstep.

    A step is an epoch of a group. The steps of a group begin where those of the group before it
    would end without patience, so that a step says which folds train, however early the patience
    of others ran out.

    Attributes:
        groups: positions of the folds, in the order in which they train.
        length: steps of a group, which are the epochs that a fold trains at most.
    """

    groups: tuple[tuple[int, ...], ...]
    length: int

    @classmethod
    def of(cls, config: TrainingConfig) -> Self:
        """Return one group, or two where the protocol trains some of several folds first."""
        folds, first = config.folds, config.protocol.first_folds
        groups = (folds[:first], folds[first:]) if 0 < first < len(folds) else (folds,)
        return cls(groups, config.protocol.max_epochs)

    def group_after(self, steps: int) -> int:
        """Return the number of the group that trains after so many steps, from 0."""
        return min(steps // self.length, len(self.groups) - 1)

    def group_of(self, report: Report) -> int:
        """Return the number of the group that had trained when a report was made."""
        return report.earlier_steps // self.length

    def begin(self, group: int) -> int:
        """Return the steps that lie before a group's first."""
        return group * self.length

    def is_last(self, report: Report) -> bool:
        """Whether no report follows: the last group's epochs, or patience, have run out."""
        group = self.group_of(report)
        if group < len(self.groups) - 1:
            return False
        folds = [fold for fold in report.folds if fold.fold in self.groups[group]]
        return report.epoch >= self.length or all(fold.stopped for fold in folds)
