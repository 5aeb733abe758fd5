"""Records and embeddings that fill every part of the report, written within a second."""

from pathlib import Path

import numpy as np

from analysis.studies.embeddings import EmbeddedRun, folder_of, write_embedded
from tests.support.searches import draw_parameters, write_course, write_searched
from tests.support.stored import write_final, write_run
from wpm.records import StudyPlace
from wpm.records.embedded_images import EmbeddedImages

EVIL = "<script>alert('reason')</script> & <b>NaN</b>"  # a reason of failure that would run as code


def write_report_records(root: Path, trials: int = 24) -> list[StudyPlace]:
    """Write a row and its twin under root/runs, and embeddings of one under root/embeddings."""
    places = []
    for row, gain in (("contrastive", 0.0), ("contrastive+wpm", 0.02)):
        place = write_searched(
            root / "runs", row, trials, stopped=range(2, 6), failed={7: EVIL},
            score=lambda p: 0.3 + 0.1 * p["margin"] + 0.02 * float(np.log10(p["lr"])),
        )  # fmt: skip
        write_course(place, trials, draw_parameters(1, seed=9)[0], 0.2, None, epochs=3)
        for key, trial, score in (("aa", 0, 0.5), ("bb", 1, 0.4), ("cc", 8, 0.3)):
            final = write_final(place, key, trial, score)
            for seed in range(3):
                tested = 0.2 + score + gain + 0.01 * seed + 0.003 * trial
                write_run(final, 1000 + seed, tested, tested - 0.1, [score, score + 0.02])
        places.append(place)
    write_embeddings(root / "embeddings", places[1])
    return places


def write_embeddings(root: Path, place: StudyPlace, images: int = 80, classes: int = 8) -> None:
    """Write random embeddings of a few classes, one of which has HTML as its name."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(images, 6)).astype(np.float32)
    embedded = EmbeddedImages(
        embeddings=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        labels=np.arange(images) % classes,
        class_names=("<i>class</i>", *(f"class {c}" for c in range(1, classes))),
        thumbnails=rng.integers(0, 255, (images, 16, 16, 3), dtype=np.uint8),
    )
    run = EmbeddedRun(embedded, place.name, trial=0, seed=1000, test_scores={"map_at_r": 0.5})
    write_embedded(folder_of(root, place), run)
