"""Stage `evaluation`: seconds to score embeddings of the size of two published test sets."""

import statistics
import time
from importlib.util import find_spec

from benchmarks.evaluation import DIM, make_set, score_by
from benchmarks.gpu.figures import Stage

# Images and classes: CUB200's test half, and about that of Stanford Online Products.
SIZES = ((5_900, 100), (60_000, 11_300))
QUICK_SIZES = ((590, 10), (3_000, 565))


def run(stage: Stage) -> None:
    """Score both sets by matrix products, and by faiss where a CPU has it."""
    for (images, classes), full in zip(QUICK_SIZES if stage.quick else SIZES, SIZES, strict=True):
        embeddings, labels = make_set(stage.device, images, classes)
        for way in ("products", "faiss"):
            what = f"{'CUB200' if full is SIZES[0] else 'SOP'}'s test half by {way}"
            if way == "faiss" and (stage.device.type != "cpu" or find_spec("faiss") is None):
                stage.skip(what, "faiss scores on a CPU that has it")
                continue
            with stage.attempt(what):
                times = []
                repeats = 2 if stage.quick else 7
                for _ in range(repeats + 1):
                    start = time.perf_counter()
                    score_by(way, embeddings, labels)  # plain numbers: the device is done
                    times.append(time.perf_counter() - start)
                    if stage.seconds_left < 2 * times[-1]:
                        break
                measured = times[1:] or times
                note = f"{images} x {DIM}, {classes} classes"
                stage.record(what, statistics.median(measured), "s", n=len(measured), note=note)
