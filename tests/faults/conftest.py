"""A launcher whose launches end with the test, even if the test fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(tmp_path) as started:
        yield started
