"""Which trials train on: asynchronous successive halving on folds and epochs.

A rung is a number of steps (`wpm.reports.Report.step`). Of the trials that have reached it, the
best `1 / factor` train on. What becomes of the others is the protocol's `stopping`: they end
("halving"), or they wait with their checkpoints ("pausing"). As more trials reach the rung, a
waiting one may come to belong to the best. Where no more trials can come, the rungs round up, so
that at least one trial becomes complete.
"""

import math
from collections.abc import Mapping

from wpm.protocols import NO_STOPPING, PAUSING, Protocol, rung_steps


class Rungs:
    """The values of a study's trials at its rungs, and which trials wait.

    It has no memory of its own: every launch reads the study again.
    """

    def __init__(self, protocol: Protocol, stopping: str) -> None:
        """Begin without trials.

        Args:
            protocol: says where the rungs are.
            stopping: one of `wpm.protocols.STOPPINGS`.
        """
        self.steps = () if stopping == NO_STOPPING else rung_steps(vars(protocol))
        self.pauses = stopping == PAUSING
        self._factor = protocol.reduction_factor
        self._values: list[dict[int, float]] = [{} for _ in self.steps]  # by number of the trial
        self._passed: dict[int, int] = {}  # how many rungs a trial has behind it
        self.waiting: set[int] = set()

    def take_in(self, number: int, values: Mapping[int, float], *, known: bool, ends: bool) -> None:
        """Enter a trial of an earlier launch; one whose last step led to a rung waits there.

        Args:
            number: of the trial.
            values: its scores by step.
            known: see `reach`.
            ends: whether it has ended, so that it does not wait.
        """
        behind = reached = 0
        for step, value in sorted(values.items()):
            behind, reached = reached, self._enter(number, step, value, known=known)
        self._passed[number] = max(behind, self._first_rung(known=known))
        if self.pauses and reached > self._passed[number] and not ends:
            self.waiting.add(number)

    def reach(self, number: int, step: int, value: float, *, known: bool = False) -> bool:
        """Tell what a trial has at a step; return whether it trains on now.

        Args:
            number: of the trial.
            step: at which it is.
            value: its score there, the larger the better.
            known: whether its configuration was known before the search. It is compared at the last
                rung only, and is no measure for other trials before: hardly anything that a search
                samples beside good known points is as good at once.
        """
        self._enter(number, step, value, known=known)
        return self._climb(number, is_last_call=False)

    def resume_one(self, *, is_last_call: bool = False) -> int | None:
        """Return the waiting trial that trains on next, of the highest rung; None if none does.

        Args:
            is_last_call: whether nothing trains and no new trial can come. Then the lowest rung
                goes first, since what leaves it counts at the higher ones.
        """
        ranked = sorted(self.waiting, key=self._rank)
        if is_last_call:
            ranked.sort(key=lambda number: self._passed[number])
        for number in ranked:
            self.waiting.discard(number)
            if self._climb(number, is_last_call=is_last_call):
                return number
        return None

    def _rank(self, number: int) -> tuple[int, float, int]:
        """Order trials that wait: the highest rung first, there the best."""
        rung = self._passed[number]
        return -rung, -self._values[rung][number], number

    def _enter(self, number: int, step: int, value: float, *, known: bool) -> int:
        """Give a trial its value at the rungs that it has reached; return how many these are."""
        reached = sum(rung <= step for rung in self.steps)
        first = self._first_rung(known=known)
        for values in self._values[first:reached]:
            values.setdefault(number, value)
        self._passed.setdefault(number, first)
        return reached

    def _first_rung(self, *, known: bool) -> int:
        """Return the position of the first rung at which a trial is compared."""
        return max(0, len(self.steps) - 1) if known else 0

    def _climb(self, number: int, *, is_last_call: bool) -> bool:
        """Let a trial pass the rungs that it has reached; return False if it does not pass all."""
        for values in self._values[self._passed[number] :]:
            if number not in values:
                break
            if not self._is_among_best(number, values, is_last_call=is_last_call):
                if self.pauses:
                    self.waiting.add(number)
                return False
            self._passed[number] += 1
        return True

    def _is_among_best(
        self, number: int, values: Mapping[int, float], *, is_last_call: bool
    ) -> bool:
        """Whether a trial has a place among those at a rung; of equals, the earliest has it."""
        places = math.floor(len(values) / self._factor)
        if is_last_call:
            places = math.ceil(len(values) / self._factor)
        elif not self.pauses:  # who would end here gets the first place at once
            places = max(1, places)
        own = (values[number], -number)
        return sum((value, -other) > own for other, value in values.items()) < places
