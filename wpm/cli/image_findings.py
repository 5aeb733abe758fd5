"""What the doctor says of the images: what is left aside, and pictures that are there twice."""

from wpm.cluster.doctor import Finding
from wpm.data.digests import digest_images
from wpm.data.duplicates import FILES, find_duplicates
from wpm.data.halves import divide_images
from wpm.data.index import DataSource, ImageIndex
from wpm.jobs.held_out import decode_and_compare
from wpm.protocols import Protocol

# Decoding so many images takes about a minute on a few cores; of more, files are compared.
_MOST_DECODED = 20_000


def examine_images(index: ImageIndex, source: DataSource, protocol: Protocol) -> list[Finding]:
    """Compare all images, of the test too, and note what makes scores mean less.

    None of it keeps a search from starting.

    Args:
        index: all images.
        source: names the user's split.
        protocol: sets folds and image size.
    """
    halves = divide_images(index, source, protocol.folds)
    if len(index.paths) <= _MOST_DECODED:
        duplicates = decode_and_compare(index, halves, protocol.resize)
    else:
        duplicates = find_duplicates(index, halves, digest_images(index, source.work_root), FILES)
    where = f"images in {index.root}"
    lines = [*index.left_aside.describe(), *duplicates.describe()]
    found = [line.rpartition("; ") for line in lines]  # what was found; how to fix it
    return [Finding(where, what, fix, blocking=False) for what, _, fix in found]
