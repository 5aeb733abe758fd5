"""The log file of a training: what its process logs meanwhile, limited in size."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_NAME = "train.log"
MAX_BYTES = 2**20  # per file; at most one older file is kept
_LINE = 200  # characters of a line that are shown


@contextmanager
def log_training(folder: Path) -> Iterator[None]:
    """Send logging and Python's warnings of this process to a training's log file for a while.

    An error of the disk does not end the training.
    """
    handler = _QuietHandler(
        folder / LOG_NAME, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        with suppress(OSError):  # closing tries again to write what a full disk refused
            handler.close()


class _QuietHandler(RotatingFileHandler):
    """Ignores write errors: on a full disk writing the records fails too, and that is reported."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def last_lines(folder: Path, count: int = 3) -> list[str]:
    """Return at most `count` last lines of a training's log, shortened; none without a log."""
    try:
        with (folder / LOG_NAME).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line if len(line) <= _LINE else f"{line[:_LINE]} ..." for line in lines[-count:]]
