"""Conditions on trials: what they mean, and what is refused."""

import argparse

import pytest

from analysis.studies.conditions import Condition, parse_conditions


def test_conditions_are_joined_by_and() -> None:
    assert parse_conditions("sharpness > 16 and rank<=3 and _x1 != -1e-3") == [
        Condition("sharpness", ">", 16.0),
        Condition("rank", "<=", 3.0),
        Condition("_x1", "!=", -0.001),
    ]
    assert parse_conditions("band > 1") == [Condition("band", ">", 1.0)]  # no "and" within a word


@pytest.mark.parametrize(
    ("comparison", "holds"),
    [(">", (False, False, True)), (">=", (False, True, True)), ("<", (True, False, False)),
     ("<=", (True, True, False)), ("==", (False, True, False)), ("!=", (True, False, True))],
)  # fmt: skip
def test_every_comparison(comparison: str, holds: tuple[bool, ...]) -> None:
    condition = Condition("x", comparison, 2.0)
    assert tuple(condition.holds(value) for value in (1.0, 2.0, 3.0)) == holds
    assert not condition.holds(None)


@pytest.mark.parametrize(
    "text",
    ["", "sharpness", "sharpness >", "> 3", "a > 1 and", "a > 1 or b > 2", "a >> 1", "a = 1",
     "a => 1", "a > b", "a > nan", "a > inf", "a > 1 2", "a > 1; b", "a > __import__('os')",
     "a.b > 1", "1 < a"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse_conditions(text)
    assert "\n" not in str(caught.value)
