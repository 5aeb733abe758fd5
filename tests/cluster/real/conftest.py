"""Real clusters run only where they are asked for."""

import os
from pathlib import Path

import pytest

ASK = "WPM_CLUSTER_TEST"


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    asked = os.environ.get(ASK) == "1"
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            # Ray, Slurm and sshd start and stop here: a test takes minutes.
            item.add_marker(pytest.mark.timeout(3600))
            if not asked:
                item.add_marker(
                    pytest.mark.skip(
                        reason="starts a cluster for minutes and needs root: `make cluster-test`"
                    )
                )
