"""Every wrong input is one line with exit code 2, and nothing is written or lost."""

from pathlib import Path

import pytest

from tests.wrong_inputs.attempt import find_troubles, try_input
from tests.wrong_inputs.cases import WRONG_INPUTS
from tests.wrong_inputs.stage import Stage, copy_stage, make_stage
from tests.wrong_inputs.wrong_input import WrongInput, describe


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return make_stage(tmp_path_factory.mktemp("template"))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(wrong, id=describe(wrong), marks=[pytest.mark.slow] * wrong.starts_ray)
        for wrong in WRONG_INPUTS
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_lost(
    wrong: WrongInput, template: Stage, tmp_path: Path
) -> None:
    answer = try_input(wrong, copy_stage(template, tmp_path / "stage"))
    assert find_troubles(wrong, answer) == [], answer.err


def test_there_are_at_least_fifty_and_none_twice() -> None:
    names = [describe(wrong) for wrong in WRONG_INPUTS]
    assert len(names) >= 50
    assert len(set(names)) == len(names)
