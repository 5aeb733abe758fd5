"""For looking: what queries retrieve, and a map of the test embeddings."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.report_page.theme import GREY, Figure, marker_of, plain
from analysis.studies.embeddings import Embedded

QUERIES = 6  # random ones, and as many of the worst
NEIGHBOURS = 8
EXAMINED = 5000  # queries at most among which the worst are looked for
MAPPED = 1200  # embeddings at most on the map
MARKED = 10  # classes that are marked on it
_SEED = 0  # the same embeddings give the same page
_CHUNK = 512
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image of the sheet: a data URI, its class, and whether it is of the query's class."""

    source: str
    label: str
    right: bool


@dataclass(frozen=True)
class Retrieval:
    """A query with its nearest neighbours.

    Attributes:
        query: the image.
        neighbours: the nearest first.
        score: average precision at R, a fraction.
    """

    query: Picture
    neighbours: Sequence[Picture]
    score: float


@dataclass(frozen=True)
class Gallery:
    """What the embeddings of one run show.

    Attributes:
        title: which run they are of.
        random: queries drawn at random.
        worst: queries of different classes with the lowest average precision.
        examined: among how many queries the worst were looked for.
        images: how many test images there are.
        chart: the map; None with fewer than ten images.
    """

    title: str
    random: Sequence[Retrieval]
    worst: Sequence[Retrieval]
    examined: int
    images: int
    chart: Figure | None


def make_gallery(embedded: Embedded) -> Gallery:
    """Choose queries, find their neighbours, and draw the map."""
    rng = np.random.default_rng(_SEED)
    _, counts = np.unique(embedded.labels, return_counts=True)
    relevant = dict(zip(*np.unique(embedded.labels, return_counts=True), strict=True))
    askable = np.flatnonzero([relevant[label] > 1 for label in embedded.labels])
    examined = np.sort(rng.permutation(askable)[:EXAMINED])
    scores, similar = score_queries(embedded.embeddings, embedded.labels, examined)
    drawn = rng.permutation(len(examined))[:QUERIES]
    # Of equally bad queries those that are surest of a wrong neighbour.
    order = np.lexsort((-similar, scores))
    worst = _of_different_classes(order, embedded.labels[examined])

    def show(positions: Sequence[int]) -> list[Retrieval]:
        return [_retrieve(embedded, int(examined[i]), float(scores[i])) for i in positions]

    about = embedded.about
    return Gallery(
        title=f"run with seed {about.get('seed')} of trial {about.get('trial')}",
        random=show(drawn.tolist()),
        worst=show(worst),
        examined=len(examined),
        images=len(embedded.labels),
        chart=draw_map(embedded) if len(embedded.labels) >= 10 and len(counts) > 1 else None,
    )


def score_queries(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return average precision at R of queries, and how similar their nearest wrong image is.

    Args:
        embeddings: (N, D) unit-norm.
        labels: (N,) classes.
        queries: (Q,) positions of images whose class has others.

    Returns:
        (Q,) fractions, as the mean of which MAP@R is defined, and (Q,) cosine similarities.
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
    """Return (Q, count) positions of the largest values of every line, falling."""
    count = min(count, values.shape[1] - 1)
    found = np.argpartition(-values, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _of_different_classes(order: NDArray[np.intp], labels: NDArray[np.int64]) -> list[int]:
    """Return the first positions, no class twice: one bad class would fill the sheet."""
    chosen: dict[int, int] = {}
    for i in order.tolist():
        chosen.setdefault(int(labels[i]), i)
        if len(chosen) == QUERIES:
            break
    return list(chosen.values())


def _retrieve(embedded: Embedded, query: int, score: float) -> Retrieval:
    similarity = embedded.embeddings[query : query + 1] @ embedded.embeddings.T
    similarity[0, query] = -np.inf
    nearest = _largest(similarity, NEIGHBOURS)[0]
    return Retrieval(
        query=_picture(embedded, query, right=True),
        neighbours=[
            _picture(embedded, int(i), right=bool(embedded.labels[i] == embedded.labels[query]))
            for i in nearest
        ],
        score=score,
    )


def _picture(embedded: Embedded, position: int, *, right: bool) -> Picture:
    from PIL import Image

    thumbnail = embedded.thumbnails[position]
    image = Image.fromarray(thumbnail[..., 0] if thumbnail.shape[-1] == 1 else thumbnail)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, embedded.class_names[embedded.labels[position]], right)


def draw_map(embedded: Embedded) -> Figure:
    """Lay the test embeddings out in two dimensions by t-SNE, some classes marked."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(_SEED)
    shown = np.sort(rng.permutation(len(embedded.labels))[:MAPPED])
    labels = embedded.labels[shown]
    tsne = TSNE(init="pca", random_state=_SEED, perplexity=min(30, len(shown) / 4))
    with threadpool_limits(1):  # more threads wait for one another, most of all on a busy machine
        points = tsne.fit_transform(embedded.embeddings[shown])
    classes, counts = np.unique(labels, return_counts=True)
    marked = sorted(rng.permutation(classes[counts >= min(2, counts.max())])[:MARKED].tolist())
    rest = ~np.isin(labels, marked)
    data = []
    if rest.any():
        grey = {"color": GREY, "size": 4, "opacity": 0.5}
        data.append(_scatter("other classes", points[rest], grey))
    for position, label in enumerate(marked):
        marker = marker_of(position, size=9, line={"color": "white", "width": 0.8})
        data.append(_scatter(embedded.class_names[label], points[labels == label], marker))
    layout = {
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "scaleanchor": "x"},
    }
    caption = (
        f"{len(shown)} of {len(embedded.labels)} test embeddings by t-SNE (van der Maaten and "
        f"Hinton, JMLR 2008); {len(marked)} of {len(classes)} classes marked, drawn at random. "
        "Near points are neighbours; the distances between groups mean nothing."
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
