"""Judge from scores by several pipelines whether ours is the published one, and if not, why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wpm.jobs.pipeline_check import HeldOutHalf, PipelineScores
from wpm.jobs.pipeline_readings import Suspect
from wpm.retrieval import RetrievalScores
from wpm.rows import Reduction

TOLERANCE = 0.05  # percentage points in each of the three metrics
_NEARER = 0.5  # share of our own difference below which another pipeline explains a good part of it
_NEAR_CHANCE = 3.0  # times the P@1 of labels that have nothing to do with the images

VIEWS = ("concatenated", "separated")


@dataclass(frozen=True)
class PublishedFigures:
    """What the published table says of the row `pretrained` on a data set.

    Attributes:
        separated: scores, as fractions.
        concatenated: scores, as fractions.
        test_images: images of the published test half.
    """

    separated: RetrievalScores
    concatenated: RetrievalScores
    test_images: int

    def scores(self, view: str) -> RetrievalScores:
        """Return the scores of a view, "separated" or "concatenated"."""
        return {"separated": self.separated, "concatenated": self.concatenated}[view]


@dataclass(frozen=True)
class FigureComparison:
    """Scores of one pipeline under one reduction, beside the published ones.

    Attributes:
        pipeline: that was scored.
        reduction: of its features.
        differences: largest difference of the three metrics in percentage points, by view.
    """

    pipeline: PipelineScores
    reduction: Reduction
    differences: dict[str, float]

    @property
    def nearest(self) -> float:
        """The smaller of both differences: the two sizes may have been reduced in two ways."""
        return min(self.differences.values())

    def agrees(self, view: str) -> bool:
        """Whether all three metrics of a view are as published."""
        return self.differences[view] <= TOLERANCE + 1e-9  # published numbers have two digits


@dataclass(frozen=True)
class Verdict:
    """Whether the pipeline is the published one, and the lines that say so or why not."""

    agrees: bool
    lines: Sequence[str]


def compare(pipeline: PipelineScores, published: PublishedFigures) -> list[FigureComparison]:
    """Compare the scores of a pipeline with the published ones, reduction by reduction."""
    return [
        FigureComparison(
            pipeline,
            reduction,
            {
                "separated": _difference(separated, published.separated),
                "concatenated": _difference(concatenated, published.concatenated),
            },
        )
        for reduction, (separated, concatenated) in pipeline.scores.items()
    ]


def _difference(ours: RetrievalScores, published: RetrievalScores) -> float:
    pairs = (
        (ours.precision_at_1, published.precision_at_1),
        (ours.r_precision, published.r_precision),
        (ours.map_at_r, published.map_at_r),
    )
    return max(100 * abs(a - b) for a, b in pairs)


def judge(
    pipelines: Sequence[PipelineScores],
    half: HeldOutHalf,
    published: PublishedFigures,
    sizes: tuple[int, int],
) -> Verdict:
    """Judge whether the right pipeline gives the published scores; else name what is wrong.

    Args:
        pipelines: the right one and the wrong ones.
        half: what is known of the test images.
        published: the published figures.
        sizes: dimensions of a separated and of a concatenated embedding.
    """
    compared = [c for pipeline in pipelines for c in compare(pipeline, published)]
    right = [c for c in compared if c.pipeline.suspect is None]
    wrong = [c for c in compared if c.pipeline.suspect is not None]
    names = {"separated": f"{sizes[0]}-d", "concatenated": f"{sizes[1]}-d"}
    doubts = list(_doubt_images(half, published))
    if any(c.agrees(view) for c in right for view in VIEWS):
        lines = [_describe_agreement(right, view, names[view]) for view in VIEWS]
        lines.append(_describe_confirmed(wrong))
        return Verdict(agrees=True, lines=[*lines, *(f"but {doubt}" for doubt in doubts)])
    best = min(right, key=lambda c: c.nearest)
    lines = [
        f"does not agree: the nearest of the three reductions, {best.reduction}, is off by "
        f"{best.nearest:.2f} points"
    ]
    reasons = [*_find_agreeing(wrong, names), *doubts] or [_find_nearest(best, wrong, half)]
    return Verdict(agrees=False, lines=[*lines, *(f"likely wrong: {reason}" for reason in reasons)])


def _describe_agreement(right: Sequence[FigureComparison], view: str, size: str) -> str:
    agreeing = [c for c in right if c.agrees(view)]
    nearest = min(right, key=lambda c: c.differences[view])
    if agreeing:
        found = ", ".join(f"{c.reduction} (off by {c.differences[view]:.2f})" for c in agreeing)
        return f"{size}: agrees within {TOLERANCE} points: {found}"
    return (
        f"{size}: none of the three reductions agrees; the nearest, {nearest.reduction}, is off "
        f"by {nearest.differences[view]:.2f}"
    )


def _describe_confirmed(wrong: Sequence[FigureComparison]) -> str:
    confused = sorted({c.pipeline.name for c in wrong if any(map(c.agrees, VIEWS))})
    if confused:
        return f"these figures do not tell it apart from: {'; '.join(confused)}"
    nearest = min(wrong, key=lambda c: c.nearest)
    return (
        "so weights, decoding, sizes, colours, classes and metrics are as published; of the wrong "
        f"pipelines the nearest is off by {nearest.nearest:.2f} ({nearest.pipeline.name})"
    )


def _find_agreeing(wrong: Sequence[FigureComparison], names: dict[str, str]) -> Iterator[str]:
    """Name the wrong pipelines that give the published figures."""
    where: dict[str, list[str]] = {}
    for comparison in wrong:
        for view in VIEWS:
            if comparison.agrees(view):
                found = where.setdefault(comparison.pipeline.name, [])
                found.append(f"{comparison.reduction} at {names[view]}")
    suspects = {c.pipeline.name: c.pipeline.suspect for c in wrong}
    for name, found in where.items():
        suspect = suspects[name]
        assert suspect is not None
        yield (
            f"{suspect}: the published figures are those of {name} ({', '.join(found)}); look at "
            f"{suspect.where}"
        )


def _doubt_images(half: HeldOutHalf, published: PublishedFigures) -> Iterator[str]:
    """Say what is odd about the images themselves."""
    if half.left_out:
        yield f"{half.left_out} test images could not be read and are left out"
    elif half.images != published.test_images:
        yield (
            f"{Suspect.CLASSES}: the test half has {half.images:,} images, the published one "
            f"{published.test_images:,}; look at {Suspect.CLASSES.where}"
        )
    if half.square:
        yield (
            f"{Suspect.RESIZE}: every test image is square, so these are not the files that the "
            "authors published; get them again"
        )


def _find_nearest(
    best: FigureComparison, wrong: Sequence[FigureComparison], half: HeldOutHalf
) -> str:
    """Say what explains most where no pipeline gives the published figures."""
    ours = best.pipeline.scores[best.reduction][1].precision_at_1
    if ours < _NEAR_CHANCE * half.chance:
        return (
            f"the labels: P@1 is {100 * ours:.2f}, and {100 * half.chance:.2f} would be chance; "
            "they do not belong to the images, or the weights are not those of the trunk"
        )
    for comparison in wrong:
        if comparison.pipeline.suspect is Suspect.WEIGHTS:
            random = comparison.pipeline.scores[comparison.reduction][1].precision_at_1
            if abs(ours - random) * 100 < _NEARER * best.nearest:
                return (
                    f"{Suspect.WEIGHTS}: ours score like random ones; look at "
                    f"{Suspect.WEIGHTS.where}"
                )
    nearest = min(wrong, key=lambda c: c.nearest)
    if nearest.nearest < _NEARER * best.nearest and nearest.pipeline.suspect is not None:
        return (
            f"{nearest.pipeline.suspect}: {nearest.pipeline.name} is nearer, off by "
            f"{nearest.nearest:.2f}; look at {nearest.pipeline.suspect.where}"
        )
    return (
        f"none of the {len({c.pipeline.name for c in wrong})} mistakes that were tried; the "
        f"nearest, {nearest.pipeline.name}, is off by {nearest.nearest:.2f}"
    )
