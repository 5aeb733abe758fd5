"""Measure often and cheaply how much a run folder takes on disk, and keep it below a cap."""

import os
import time
from collections.abc import Callable
from pathlib import Path

GIB = 2**30
_BLOCK = 512  # bytes; the unit of `st_blocks`, whatever the size of the disk's own blocks
INTERVAL_S = 5.0
_SHARE = 0.05  # of the driver's time that measuring may take


class FolderSize:
    """Measures a run folder; trials that have ended are measured once and remembered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended: dict[str, int] = {}
        self.checkpoints = 0  # bytes
        self.largest_checkpoint = 0  # bytes, of all that were ever seen

    def measure(self) -> int:
        """Return the size of the folder, in bytes that are allocated on the disk.

        Files that are deleted during the measurement do not count.
        """
        self.checkpoints = 0
        return self._measure(str(self._folder))

    def _measure(self, folder: str) -> int:
        if folder in self._ended:
            return self._ended[folder]
        total, names = 0, []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    total += self._size_of(entry)
        except OSError:  # deleted meanwhile, or another user's
            return total
        trial = os.path.basename(os.path.dirname(folder)) == "trials"  # noqa: PTH119, PTH120
        if trial and "result.json" in names and not any(map(_is_checkpoint, names)):
            self._ended[folder] = total
        return total

    def _size_of(self, entry: "os.DirEntry[str]") -> int:
        try:
            if entry.is_dir(follow_symlinks=False):
                return self._measure(entry.path)
            size = entry.stat(follow_symlinks=False).st_blocks * _BLOCK
        except OSError:
            return 0
        if _is_checkpoint(entry.name):
            self.checkpoints += size
            self.largest_checkpoint = max(self.largest_checkpoint, size)
        return size


def _is_checkpoint(name: str) -> bool:
    return name.lstrip(".").startswith("checkpoint-")


class DiskCap:
    """Tells when a run folder may no longer have room for what the running work will write."""

    def __init__(
        self, folder: Path, cap_bytes: float, checkpoint_bytes: int, running: Callable[[], int]
    ) -> None:
        """Prepare to measure; the first call of `limit_reached` does.

        Args:
            folder: the run folder.
            cap_bytes: limit for the complete folder.
            checkpoint_bytes: estimated size of a checkpoint; a larger one that is found on disk
                replaces it.
            running: returns how many trainings are running.
        """
        self._size = FolderSize(folder)
        self._cap_bytes, self._checkpoint_bytes = cap_bytes, checkpoint_bytes
        self._running = running
        self._due_at = 0.0
        self._used = 0

    def limit_reached(self) -> str:
        """Return in words that the cap would be exceeded; "" while it would not.

        A training writes its next checkpoint before it deletes the last: for a moment it has two.
        """
        now = time.monotonic()
        if now >= self._due_at:
            self._used = self._size.measure()
            took = time.monotonic() - now
            self._due_at = now + max(INTERVAL_S, took / _SHARE)
        one = max(self._checkpoint_bytes, self._size.largest_checkpoint)
        more = max(0, 2 * self._running() * one - self._size.checkpoints)
        if self._used + more < self._cap_bytes:
            return ""
        return (
            f"{self._used / GIB:.3g} of {self._cap_bytes / GIB:.3g} GiB, and what runs may write "
            f"{more / GIB:.3g} more (--max-disk)"
        )
