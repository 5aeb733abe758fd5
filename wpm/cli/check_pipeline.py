"""Stand the row `pretrained` beside its published scores: `launch.py --check-pipeline`."""

import csv
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from wpm.cli.console import Console
from wpm.cli.launch_plan import LaunchPlan
from wpm.cli.pipeline_verdict import VIEWS, PublishedFigures, compare, judge
from wpm.cli.prepare_images import prepare_images
from wpm.formatting import format_duration, format_table
from wpm.jobs.job import choose_device
from wpm.jobs.pipeline_check import PipelineCheck, PipelineScores
from wpm.jobs.pretrained import embedding_sizes
from wpm.protocols import Protocol
from wpm.records import StudyPlace
from wpm.retrieval import RetrievalScores
from wpm.rows import PRETRAINED, Row

_RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "published" / "results.csv"
_LEGEND = """PCA is one of
  trainval: ours, fitted to the features of the trainval images
  raw: the originals', fitted to the test features, each standardised
  unit: the same of unit-norm features
Of a mistake the nearer of the originals' two is shown. "off by" is the largest of three differences
in percentage points."""
_COLUMNS = {"cub200": "cub", "cars196": "cars"}
# Of the published halves: the last 100 classes of CUB-200-2011, the last 98 of Cars-196.
_TEST_IMAGES = {"cub200": 5_924, "cars196": 8_131}


def check_pipeline(plan: LaunchPlan, console: Console) -> bool:
    """Score the row by the right pipeline and by wrong ones, and print a verdict.

    Returns:
        Whether the right pipeline gives the published scores.

    Raises:
        UserError: images or weights cannot be read.
    """
    published = read_figures(plan.options.dataset)
    trainval = prepare_images(plan, console).pixel_cache
    protocol = plan.protocol
    place = StudyPlace(plan.run_root, plan.options.dataset, protocol.name, Row(PRETRAINED))
    device = choose_device(0.0 if plan.options.gpus == 0 else 1.0)

    def show(done: int, total: int) -> None:
        console.live(lambda: f"{done} of {total} images")

    check = PipelineCheck(place, plan.source, protocol, plan.weights, trainval, device, show)
    console.line(
        f"scoring the trunk without training on {check.test_half.images:,} test images "
        f"({device.type}), by our pipeline and by mistakes that are easily made"
    )
    pipelines = []
    started = time.monotonic()
    for pipeline in check.run():
        pipelines.append(pipeline)
        elapsed = format_duration(time.monotonic() - started)
        console.line(f"{len(pipelines)} of {check.count}: {pipeline.name} ({elapsed})")
    console.line("")
    console.line(format_comparisons(pipelines, published, protocol))
    console.line(_LEGEND)
    verdict = judge(pipelines, check.test_half, published, embedding_sizes(protocol))
    console.line("")
    for line in verdict.lines:
        console.line(f"verdict: {line}")
    return verdict.agrees


def read_figures(dataset: str, file: Path = _RESULTS) -> PublishedFigures:
    """Return the published figures of the row `pretrained`."""
    with file.open(newline="", encoding="utf-8") as lines:
        (row,) = [line for line in csv.DictReader(lines) if line["row"] == PRETRAINED]
    prefix = _COLUMNS[dataset]
    separated, concatenated = (_read_view(row, f"{prefix}_{view}") for view in ("sep", "concat"))
    return PublishedFigures(separated, concatenated, _TEST_IMAGES[dataset])


def _read_view(row: Mapping[str, str], prefix: str) -> RetrievalScores:
    # Divided exactly, so that a fraction is rounded only once.
    return RetrievalScores(
        *(float(Decimal(row[f"{prefix}_{metric}"]) / 100) for metric in ("p1", "rp", "mapr"))
    )


def format_comparisons(
    pipelines: Sequence[PipelineScores], published: PublishedFigures, protocol: Protocol
) -> str:
    """Lay out the scores of all pipelines below the published ones, in percent.

    Of a wrong pipeline only the reduction that comes nearest is shown.
    """
    separated, concatenated = (f"{dim}-d" for dim in embedding_sizes(protocol))
    columns = ["pipeline", "PCA"]
    for size in (concatenated, separated):
        columns += [f"{size} P@1", "RP", "MAP@R", "off by"]
    lines = [["published", "", *(c for v in VIEWS for c in [*_cells(published.scores(v)), ""])]]
    for pipeline in pipelines:
        comparisons = compare(pipeline, published)
        if pipeline.suspect is not None:
            comparisons = [min(comparisons, key=lambda c: c.nearest)]
        for comparison in comparisons:
            scores = pipeline.scores[comparison.reduction]
            cells = [pipeline.name, comparison.reduction.value]
            for view, of_view in zip(VIEWS, reversed(scores), strict=True):
                cells += [*_cells(of_view), f"{comparison.differences[view]:.2f}"]
            lines.append(cells)
    return format_table(columns, lines, "text")


def _cells(scores: RetrievalScores) -> list[str]:
    values = (scores.precision_at_1, scores.r_precision, scores.map_at_r)
    return [f"{100 * value:.2f}" for value in values]
