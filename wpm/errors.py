"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input, a missing file or a broken environment, told in one line.

    The message says what was wrong (with the value received), where, and how to mend it.
    `launch.py` and the analysis scripts print it without a traceback and exit with code 2.
    """
