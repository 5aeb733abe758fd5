"""Device-hours, computed by hand."""

import pytest

from tests.support.trials import outcome
from wpm.records import Outcome, device_hours


@pytest.mark.parametrize(("gpus", "hours"), [(0, 2.0), (1, 2.0), (0.25, 0.5), (2, 4.0)])
def test_share_of_a_gpu_counts_where_it_is_recorded(gpus: float, hours: float) -> None:
    ended = outcome(0.5, training_seconds=5400.0, validation_seconds=1800.0, gpus=gpus)
    assert device_hours(ended) == hours


def test_outcome_without_its_share_of_a_gpu_counts_as_a_device() -> None:
    """Records of the first versions do not have the share."""
    ended = outcome(0.5, training_seconds=5400.0, validation_seconds=1800.0, gpus=0.25)
    content = {key: value for key, value in ended.to_json().items() if key != "gpus"}
    assert device_hours(Outcome.from_json(content)) == 2.0
