"""Checks of the errors that a user reads."""

import pytest

from wpm.errors import UserError


def error_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
