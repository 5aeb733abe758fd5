"""One log file a training: what its process says of it, capped in size."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_NAME = "train.log"
MAX_BYTES = 2**20  # of a file; beside it lies at most one older
_LINE = 200  # characters of a line that are shown


@contextmanager
def log_training(folder: Path) -> Iterator[None]:
    """Send logging and Python's warnings of this process to a training's log file for a while.

    A disk that refuses it does not end the training.

    Args:
        folder: of the training.
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
        with suppress(OSError):  # what a full disk did not take before is tried once more
            handler.close()


class _QuietHandler(RotatingFileHandler):
    """Drops what the disk does not take: the records, which it takes no more either, say why."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def last_lines(folder: Path, count: int = 3) -> list[str]:
    """Return the last lines of a training's log, shortened; none where there is no log.

    Args:
        folder: of the training.
        count: how many at most.
    """
    try:
        with (folder / LOG_NAME).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line if len(line) <= _LINE else f"{line[:_LINE]} ..." for line in lines[-count:]]
