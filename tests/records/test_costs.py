"""Device-hours by hand."""

import pytest

from wpm.records import device_hours


@pytest.mark.parametrize(
    ("gpus", "hours"), [(None, 2.0), (0, 2.0), (1, 2.0), (0.25, 0.5), (2, 4.0)]
)
def test_share_of_a_gpu_counts_where_it_is_recorded(gpus: float | None, hours: float) -> None:
    outcome = {"training_seconds": 5400.0, "validation_seconds": 1800.0}
    more = {} if gpus is None else {"gpus": gpus}
    assert device_hours({**outcome, **more}) == hours
