"""Predict where trials would end that have not trained to their end."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise


def predict_ends(
    values: Sequence[Mapping[int, float]], anchors: Sequence[int]
) -> list[float | None]:
    """Predict what trials would reach at the last anchor that any trial has reached.

    From one anchor to the next, all trials are predicted to gain the same share of what they have:
    the median over the trials that have reached both.

    Args:
        values: of each trial, its score by anchor, for the anchors that it has reached.
        anchors: in the order in which a trial reaches them.

    Returns:
        One prediction per trial; None for a trial that has reached no anchor.
    """
    factors = []
    for here, there in pairwise(anchors):
        gains = [v[there] / v[here] for v in values if v.keys() >= {here, there} and v[here] > 0]
        factors.append(statistics.median(gains) if gains else 1.0)
    predictions: list[float | None] = []
    for reached in values:
        behind = [position for position, anchor in enumerate(anchors) if anchor in reached]
        if not behind:
            predictions.append(None)
            continue
        prediction = reached[anchors[behind[-1]]]
        for factor in factors[behind[-1] :]:
            prediction *= factor
        predictions.append(prediction)
    return predictions
