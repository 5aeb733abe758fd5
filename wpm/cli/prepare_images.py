"""Decode the images that a launch trains and validates on, and say what is strange about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.cli.console import Console
from wpm.cli.launch_plan import LaunchPlan
from wpm.data.datasets import load_index
from wpm.data.digests import digest_images, name_unreadable
from wpm.data.duplicates import FILES, find_duplicates
from wpm.data.halves import describe_halves, divide_images
from wpm.data.image_file import describe_findings
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import read_findings, read_left_out


@dataclass(frozen=True)
class PreparedImages:
    """The images of a launch, ready to train on.

    Attributes:
        pixel_cache: folder of the decoded images to train and validate on.
        identity: what a study records of them, and refuses to change.
        split: the same of a split that the user gives; None for the protocol's halves.
        notes: for the record: what lies beside the images, and which pictures are there twice.
    """

    pixel_cache: Path
    identity: Mapping[str, Any]
    split: Mapping[str, Any] | None
    notes: Mapping[str, Any]


def prepare_images(plan: LaunchPlan, console: Console) -> PreparedImages:
    """Decode the images to train and validate on, and say what is strange about the data set.

    No file of a test image is opened: they are compared with the others by `--doctor` and by final
    runs.

    Raises:
        UserError: the images cannot be read, or cannot be divided.
    """
    source, protocol = plan.source, plan.protocol
    index = load_index(source, fetch=plan.options.fetch)
    halves = divide_images(index, source, protocol.folds)
    console.line(describe_halves(index, halves))
    for line in index.left_aside.describe():
        console.line(line)
    digests = digest_images(halves.trainval, source.work_root)
    duplicates = find_duplicates(index, halves, digests, FILES)
    for line in duplicates.describe():
        console.line(line)

    def show(done: int, total: int) -> None:
        console.live(lambda: f"decoding: {done} of {total} images")

    trainval = halves.trainval
    pixel_cache = build_pixel_cache(
        trainval, protocol.resize, source.work_root, show, skip_unreadable=source.skip_unreadable
    )
    left_out = read_left_out(pixel_cache)
    if left_out:
        console.line(
            f"left out: {len(left_out)} of {len(trainval.paths)} images to train and validate on "
            f"cannot be read: {name_unreadable(left_out)} (all in {pixel_cache / 'meta.json'})"
        )
    findings = read_findings(pixel_cache)
    if findings:
        console.line(
            f"warning: little can be seen in {len(findings)} of {len(trainval.paths)} images to "
            f"train and validate on: {describe_findings(findings)} "
            f"(all in {pixel_cache / 'meta.json'})"
        )
    # Nobody has looked for pictures in both halves, so the record must not say that there are none.
    within = {
        key: value
        for key, value in duplicates.to_json().items()
        if key not in ("across", "test_images")
    }
    by = {} if source.classes_by is None else {"classes_by": source.classes_by}
    return PreparedImages(
        pixel_cache,
        identity={"pixels": pixel_cache.name, **by},
        split=halves.split,
        notes={"left_aside": index.left_aside.to_json(), "duplicates": within},
    )
