"""What a reader looks at: the images that queries retrieve, and a map of the test embeddings."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.report_page.theme import GREY, Figure, marker_of, plain
from analysis.studies.embeddings import EmbeddedRun
from wpm.records.embedded_images import EmbeddedImages

QUERIES = 6  # drawn at random, and the same number of the worst
NEIGHBOURS = 8
EXAMINED = 5000  # the worst queries are looked for among at most this many
MAPPED = 1200  # at most this many embeddings are on the map
MARKED = 10  # classes that have a colour on the map
_SEED = 0  # fixed, so that the same embeddings give the same page
_CHUNK = 512
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image on the page: its data URI, its class, and whether that is the query's class."""

    source: str
    label: str
    right: bool


@dataclass(frozen=True)
class Retrieval:
    """A query with its nearest neighbours.

    Attributes:
        neighbours: the nearest comes first.
        score: average precision at R, a fraction.
    """

    query: Picture
    neighbours: Sequence[Picture]
    score: float


@dataclass(frozen=True)
class Gallery:
    """What the embeddings of one run show.

    Attributes:
        title: names the run.
        random: queries drawn at random.
        worst: queries of different classes with the lowest average precision.
        examined: number of queries among which the worst were looked for.
        images: number of test images.
        chart: the map; None if there are fewer than ten images or only one class.
    """

    title: str
    random: Sequence[Retrieval]
    worst: Sequence[Retrieval]
    examined: int
    images: int
    chart: Figure | None


def make_gallery(run: EmbeddedRun) -> Gallery:
    """Choose queries, find their neighbours, and draw the map."""
    images = run.images
    rng = np.random.default_rng(_SEED)
    classes, counts = np.unique(images.labels, return_counts=True)
    class_sizes = dict(zip(classes, counts, strict=True))
    # A lone query has no image of its class to find, so it has no score.
    askable = np.flatnonzero([class_sizes[label] > 1 for label in images.labels])
    examined = np.sort(rng.permutation(askable)[:EXAMINED])
    scores, similar = score_queries(images.embeddings, images.labels, examined)
    drawn = rng.permutation(len(examined))[:QUERIES]
    # Among equally bad queries, show first those that are most confident of a wrong neighbour.
    order = np.lexsort((-similar, scores))
    worst = _of_different_classes(order, images.labels[examined])

    def retrieve(positions: Sequence[int]) -> list[Retrieval]:
        return [_retrieve(images, int(examined[i]), float(scores[i])) for i in positions]

    return Gallery(
        title=f"run with seed {run.seed} of trial {run.trial}",
        random=retrieve(drawn.tolist()),
        worst=retrieve(worst),
        examined=len(examined),
        images=len(images.labels),
        chart=draw_map(images) if len(images.labels) >= 10 and len(classes) > 1 else None,
    )


def score_queries(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score queries: average precision at R, and similarity of the nearest image of another class.

    Args:
        embeddings: (N, D) unit-norm.
        labels: (N,) classes.
        queries: (Q,) positions of images that are not the only one of their class.

    Returns:
        (Q,) fractions whose mean is MAP@R, and (Q,) cosine similarities.
    """
    scores = np.zeros(len(queries))
    similar = np.zeros(len(queries))
    for start in range(0, len(queries), _CHUNK):
        part = queries[start : start + _CHUNK]
        similarity = embeddings[part] @ embeddings.T
        similarity[np.arange(len(part)), part] = -np.inf
        same = labels[part, None] == labels
        num_relevant = same.sum(axis=1) - 1
        most = int(num_relevant.max())
        nearest = _largest(similarity, most)
        hits = np.take_along_axis(same, nearest, axis=1)
        rank = np.arange(1, most + 1)
        hits &= rank <= num_relevant[:, None]
        precision = hits.cumsum(axis=1) * hits / rank
        scores[start : start + len(part)] = precision.sum(axis=1) / num_relevant
        similar[start : start + len(part)] = np.where(same, -np.inf, similarity).max(axis=1)
    return scores, similar


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the (Q, count) positions of the largest values of every row, the largest first."""
    count = min(count, values.shape[1] - 1)
    found = np.argpartition(-values, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _of_different_classes(order: NDArray[np.intp], labels: NDArray[np.int64]) -> list[int]:
    """Return the first positions of different classes: one bad class would fill the page."""
    chosen: dict[int, int] = {}
    for i in order.tolist():
        chosen.setdefault(int(labels[i]), i)
        if len(chosen) == QUERIES:
            break
    return list(chosen.values())


def _retrieve(images: EmbeddedImages, query: int, score: float) -> Retrieval:
    similarity = images.embeddings[query : query + 1] @ images.embeddings.T
    similarity[0, query] = -np.inf
    nearest = _largest(similarity, NEIGHBOURS)[0]
    return Retrieval(
        query=_picture(images, query, right=True),
        neighbours=[
            _picture(images, int(i), right=bool(images.labels[i] == images.labels[query]))
            for i in nearest
        ],
        score=score,
    )


def _picture(images: EmbeddedImages, position: int, *, right: bool) -> Picture:
    source = encode_picture(images.thumbnails[position])
    return Picture(source, images.class_names[images.labels[position]], right)


def encode_picture(pixels: NDArray[np.uint8]) -> str:
    """Return (H, W, C) pixels as the data URI of a JPEG."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_map(images: EmbeddedImages) -> Figure:
    """Lay the test embeddings out in two dimensions by t-SNE, with some classes marked."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(_SEED)
    shown = np.sort(rng.permutation(len(images.labels))[:MAPPED])
    labels = images.labels[shown]
    tsne = TSNE(init="pca", random_state=_SEED, perplexity=min(30, len(shown) / 4))
    with threadpool_limits(1):  # several threads only wait for one another on a busy machine
        points = tsne.fit_transform(images.embeddings[shown])
    classes, counts = np.unique(labels, return_counts=True)
    marked = sorted(rng.permutation(classes[counts >= min(2, counts.max())])[:MARKED].tolist())
    rest = ~np.isin(labels, marked)
    data = []
    if rest.any():
        grey = {"color": GREY, "size": 4, "opacity": 0.5}
        data.append(_scatter("other classes", points[rest], grey))
    for position, label in enumerate(marked):
        marker = marker_of(position, size=9, line={"color": "white", "width": 0.8})
        data.append(_scatter(images.class_names[label], points[labels == label], marker))
    layout = {
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "scaleanchor": "x"},
    }
    caption = (
        f"{len(shown)} of {len(images.labels)} test embeddings by t-SNE (van der Maaten and "
        f"Hinton, JMLR 2008); {len(marked)} of {len(classes)} classes are marked, drawn at random. "
        "Points that are near one another are neighbours; distances between groups mean nothing."
    )
    return Figure("Map of the test embeddings", caption, data, layout, height=520)


def _scatter(
    label: str, points: NDArray[np.float32], marker: dict[str, object]
) -> dict[str, object]:
    return {
        "type": "scatter", "mode": "markers", "name": plain(label), "marker": marker,
        "x": points[:, 0].astype(float).round(2).tolist(),
        "y": points[:, 1].astype(float).round(2).tolist(),
        "hovertemplate": f"{plain(label)}<extra></extra>",
    }  # fmt: skip
