"""Within-pair mining: judge every pair of a batch by the hardest of many views of it.

Deep metric learning trains a network so that images of one class lie close together (positive
pairs) and images of different classes far apart (negative pairs). Ordinary mining chooses *which*
pairs of a batch to train on. Within-pair mining looks *inside* every pair: it has V stochastic
views of each image's embedding, measures the pair in each view, and lets the loss see the view in
which the pair is hardest. That is the farthest view of a positive pair and the closest view of a
negative one. The loss itself stays as it is; only what it reads as the distance of two images
changes:

    views (V, B, D) -> pair matrices (V, B, B) -> mined matrix (B, B) -> any pair or triplet loss

V is the number of views, B that of images in the batch, D that of embedding dimensions. There is
neither dropout nor mining once a model is evaluated.

This is the first of four files that teach the method. Read next: `wpm.model.embedding`, where
views come from; then `wpm.losses` and `wpm.training.fold`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_metric_learning.distances import BaseDistance, DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn


def mine_within_pairs(
    pair_matrices: Tensor,
    is_positive: Tensor,
    *,
    sharpness: float,
    larger_is_closer: bool,
) -> Tensor:
    """Select softly, for every pair, the view in which it is hardest.

    A positive pair is hardest in its farthest view, a negative pair in its closest one. With
    `s = +1` where the hardest value is the largest and `s = -1` where it is the smallest, the mined
    value is `sum_v softmax_v(sharpness * s * M[v]) * M[v]`. The weights carry gradient too.

    Args:
        pair_matrices: (V, B, B) distances or similarities M of every pair in every view.
        is_positive: (B, B) bool, whether both images of a pair are of one class.
        sharpness: inverse temperature of the selection, > 0. Towards 0 the mined value becomes the
            mean over views, towards infinity the value of the hardest view alone.
        larger_is_closer: True for similarities, False for distances.

    Returns:
        (B, B) mined matrix, in the units of `pair_matrices`. Its diagonal has no meaning.

    Raises:
        ValueError: shapes do not fit or sharpness is not positive.

    References:
        docs/within_pair_mining.md.
    """
    if pair_matrices.ndim != 3 or pair_matrices.shape[1:] != is_positive.shape:
        raise ValueError(
            f"pair_matrices must be (V, B, B) and is_positive (B, B), got "
            f"{tuple(pair_matrices.shape)} and {tuple(is_positive.shape)}"
        )
    if not sharpness > 0:
        raise ValueError(f"sharpness is {sharpness}, must be > 0")
    # Only this line decides the direction. The hardest view of a positive pair is its farthest,
    # that of a negative pair its closest; the measure says whether close is small or large.
    hardest_is_largest = is_positive.bool() ^ larger_is_closer
    sign = torch.where(hardest_is_largest, sharpness, -sharpness).to(pair_matrices.dtype)
    weights = torch.softmax(sign * pair_matrices, dim=0)
    return (weights * pair_matrices).sum(dim=0)


def compute_pair_matrices(views: Tensor, distance: BaseDistance) -> Tensor:
    """Measure every pair of a batch in every view, with the same view on both sides.

    Args:
        views: (V, B, D) embeddings; normalised here if the distance normalises.
        distance: any pytorch-metric-learning distance or similarity.

    Returns:
        (V, B, B) distances or similarities.
    """
    # These two families compute matrices for any leading dimensions; others go view by view.
    if isinstance(distance, LpDistance | DotProductSimilarity):
        unit = distance.maybe_normalize(views, dim=-1)
        matrices: Tensor = distance.compute_mat(unit, unit)
        return matrices if distance.power == 1 else matrices**distance.power
    return torch.stack([distance(view) for view in views])


class WithinPairLoss(nn.Module):
    """A pair or triplet loss that reads mined values in place of plain distances.

    Wherever the base loss would read the distance of two images of the batch, it reads the pair's
    mined value instead. So does a threshold miner in front of the loss, if there is one.
    """

    def __init__(
        self,
        base_loss: BaseMetricLossFunction,
        *,
        sharpness: float = 32.0,
        threshold_miner: BaseMiner | None = None,
    ) -> None:
        """Put within-pair mining in front of a loss.

        Args:
            base_loss: any pytorch-metric-learning loss that reads the batch's pair matrix.
            sharpness: inverse temperature of the selection over views, > 0; see
                `mine_within_pairs`.
            threshold_miner: a pytorch-metric-learning miner that picks pairs or triplets from the
                same mined matrix; None to use all.

        Raises:
            ValueError: sharpness is not positive, the loss has no distance to replace, or the
                miner measures pairs differently from the loss, so that its threshold would be
                about other numbers.
        """
        super().__init__()
        if not sharpness > 0:
            raise ValueError(f"sharpness is {sharpness}, must be > 0")
        if not isinstance(getattr(base_loss, "distance", None), BaseDistance):
            raise ValueError(
                f"{type(base_loss).__name__} has no distance that mined values could replace; "
                "within-pair mining needs a loss that reads the batch's pair matrix"
            )
        if threshold_miner is not None:
            ours, theirs = describe_distance(base_loss), describe_distance(threshold_miner)
            if ours != theirs:
                raise ValueError(
                    f"threshold_miner measures {theirs}, base_loss {ours}; "
                    "give both the same distance"
                )
        self.base_loss = base_loss
        self.threshold_miner = threshold_miner
        self.sharpness = sharpness

    def forward(self, views: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            views: (V, B, D) stochastic views of the embeddings, not normalised.
            labels: (B,) integer labels.

        Returns:
            Scalar loss.

        Raises:
            ValueError: shapes do not fit, or the base loss reads distances other than those
                between images of the batch.
        """
        if views.ndim != 3 or labels.shape != views.shape[1:2]:
            raise ValueError(
                f"views must be (V, B, D) and labels (B,), got {tuple(views.shape)} "
                f"and {tuple(labels.shape)}"
            )
        with torch.autocast(views.device.type, enabled=False):
            if views.dtype in (torch.float16, torch.bfloat16):
                views = views.float()  # differences of near views vanish in half precision
            distance = self.base_loss.distance
            matrices = compute_pair_matrices(views, distance)
            mined = mine_within_pairs(
                matrices,
                labels[:, None] == labels,
                sharpness=self.sharpness,
                larger_is_closer=distance.is_inverted,
            )
            return self._apply_loss(views.mean(dim=0), labels, MinedDistance(distance, mined))

    def _apply_loss(self, embeddings: Tensor, labels: Tensor, mined: "MinedDistance") -> Tensor:
        """Run threshold miner and loss on the mined matrix; only regularisers use `embeddings`."""
        pairs = None
        if self.threshold_miner is not None:
            with _swap_distance(self.threshold_miner, mined):
                pairs = self.threshold_miner(embeddings, labels)
        with _swap_distance(self.base_loss, mined):
            loss: Tensor = self.base_loss(embeddings, labels, pairs)
        # A batch without pairs gives zero and reads nothing. Any other loss that reads nothing
        # has measured the images itself, without the mining.
        if not mined.was_read and bool(loss.detach() != 0):
            raise ValueError(
                f"{type(self.base_loss).__name__} does not read the batch's pair matrix; "
                "within-pair mining needs a loss that does"
            )
        return loss


class MinedDistance(BaseDistance):
    """Returns the mined matrix to a loss or threshold miner that measures the batch's pairs."""

    def __init__(self, measured: BaseDistance, mined: Tensor) -> None:
        """Present a mined matrix as a distance.

        Args:
            measured: the distance that measured the views; its direction and power stay.
            mined: (B, B) mined matrix.
        """
        super().__init__(
            normalize_embeddings=measured.normalize_embeddings,
            p=measured.p,
            power=measured.power,
            is_inverted=measured.is_inverted,
        )
        self._mined = mined
        self.was_read = False

    def forward(self, query_emb: Tensor, ref_emb: Tensor | None = None) -> Tensor:
        """Return a copy of the mined matrix, since some miners write into what they get.

        Args:
            query_emb: (B, D) the batch's embeddings.
            ref_emb: the same tensor, or None.

        Raises:
            ValueError: the two are not the batch and itself.
        """
        if len(query_emb) != len(self._mined) or not (ref_emb is None or ref_emb is query_emb):
            raise ValueError(
                "the base loss compares the batch with something else (proxies, references); "
                "within-pair mining needs a loss over pairs of the batch"
            )
        self.was_read = True
        return self._mined.clone()

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Refuse other embeddings: only the batch's own pairs were mined."""
        raise ValueError("only pairs of the whole batch are mined, not those of other embeddings")

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Refuse a loss or miner that measures embeddings itself, past the mined matrix."""
        raise ValueError(
            "the loss or miner measures embeddings itself; within-pair mining needs one that reads "
            "the batch's pair matrix"
        )


def describe_distance(owner: BaseMetricLossFunction | BaseMiner) -> str:
    """Describe how a loss or miner measures pairs, so that two of them can be compared."""
    distance = owner.distance
    return (
        f"{type(distance).__name__}(p={distance.p}, power={distance.power}, "
        f"normalize={distance.normalize_embeddings})"
    )


@contextmanager
def _swap_distance(
    owner: BaseMetricLossFunction | BaseMiner, distance: BaseDistance
) -> Iterator[None]:
    """Replace the distance of a loss or miner for a while."""
    own = owner.distance
    owner.distance = distance
    try:
        yield
    finally:
        owner.distance = own
