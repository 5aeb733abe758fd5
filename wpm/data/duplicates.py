"""Find pictures that a data set holds more than once: in both halves, or under two labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from wpm.data.halves import Halves
from wpm.data.index import ImageIndex
from wpm.formatting import name_first

_RECORDED = 100  # pairs that a record names
_MOST = 0.5  # of the smaller class: two classes that share more are named as copies
# A picture in more classes than these, such as an empty one, makes no two of them alike.
_MOST_CLASSES = 50
FILES, PIXELS = "byte for byte", "once decoded"  # how two images may be the same


@dataclass(frozen=True)
class AlikeClasses:
    """Two classes of which most images are the same.

    Attributes:
        shared: number of images of the smaller class that are in the other one too.
        size: number of images of the smaller class.
    """

    first: str
    second: str
    shared: int
    size: int


@dataclass(frozen=True)
class Duplicates:
    """The pictures that a data set holds more than once, without those within one class.

    Attributes:
        same: how pictures were compared, `FILES` or `PIXELS`.
        across: pairs of an image to train or validate on and the same one of the test.
        two_labels: pairs of images of one half with different labels.
        classes: pairs of classes that are mostly the same; their images are in no other pair,
            unless they are in both halves.
    """

    same: str
    across: Sequence[tuple[str, str]] = ()
    two_labels: Sequence[tuple[str, str]] = ()
    classes: Sequence[AlikeClasses] = ()

    def describe(self) -> list[str]:
        """Return a line for each kind of what was found."""
        lines = []
        if self.classes:
            named = [
                f"{pair.first} and {pair.second} ({pair.shared} of {pair.size} images)"
                for pair in self.classes
            ]
            lines.append(
                f"{len(named)} pairs of classes hold mostly the same images, {self.same}: "
                f"{name_first(named, separator='; ')}; delete one class of each"
            )
        if self.across:
            lines.append(
                f"{len({test for _, test in self.across})} test images are the same, {self.same}, "
                f"as images to train and validate on: {_name_pairs(self.across)}; test scores are "
                "too good by them: delete one of each"
            )
        if self.two_labels:
            lines.append(
                f"{len(self.two_labels)} pairs of images of one half are the same picture under "
                f"two labels, {self.same}: {_name_pairs(self.two_labels)}; delete the wrong ones"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return what records keep: the counts, and the first pairs of each kind."""
        return {
            "same": self.same,
            "test_images": len({test for _, test in self.across}),
            "two_labels": len(self.two_labels),
            "across": [list(pair) for pair in self.across[:_RECORDED]],
            "under_two_labels": [list(pair) for pair in self.two_labels[:_RECORDED]],
            "classes": [
                [pair.first, pair.second, pair.shared, pair.size]
                for pair in self.classes[:_RECORDED]
            ],
        }


def find_duplicates(
    index: ImageIndex, halves: Halves, digests: Mapping[str, str], same: str
) -> Duplicates:
    """Compare all images of both halves by their digests.

    Args:
        index: all images.
        halves: how they are divided.
        digests: of every image, by path; images without one are not compared.
        same: what equal digests mean, `FILES` or `PIXELS`.

    Returns:
        Pairs in the order of the paths. A picture of many copies is paired with its first copy, so
        that there are never more pairs than images.
    """
    holders: dict[str, list[tuple[str, int, bool]]] = {}
    sizes: Counter[int] = Counter()
    is_test = np.zeros(len(index.paths), dtype=bool)
    is_test[halves.test_positions] = True
    for path, label, of_test in zip(
        index.paths, index.labels.tolist(), is_test.tolist(), strict=True
    ):
        sizes[label] += 1
        if path in digests:
            holders.setdefault(digests[path], []).append((path, label, of_test))
    # Those to train on first.
    several = [sorted(c, key=lambda copy: copy[2]) for c in holders.values() if len(c) > 1]
    shared: Counter[tuple[int, int]] = Counter()
    for copies in several:
        counts = Counter(label for _, label, _ in copies)
        if len(counts) <= _MOST_CLASSES:
            for one, other in combinations(sorted(counts), 2):
                shared[one, other] += min(counts[one], counts[other])
    names = index.class_names
    alike = {
        pair: AlikeClasses(names[pair[0]], names[pair[1]], count, min(sizes[i] for i in pair))
        for pair, count in sorted(shared.items())
        if count > max(1, _MOST * min(sizes[i] for i in pair))
    }
    across, two_labels = [], []
    for copies in several:
        first = copies[0]
        across += [(first[0], path) for path, _, of_test in copies if of_test and not first[2]]
        for half in (False, True):
            inside = [copy for copy in copies if copy[2] is half]
            for path, label, _ in inside[1:]:
                pair = (min(inside[0][1], label), max(inside[0][1], label))
                if label != inside[0][1] and pair not in alike:
                    two_labels.append((inside[0][0], path))
    return Duplicates(same, tuple(sorted(across)), tuple(sorted(two_labels)), tuple(alike.values()))


def _name_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return name_first([f"{first} = {second}" for first, second in pairs], separator="; ")
