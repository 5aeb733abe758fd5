"""Within-pair mining: judge every pair of a batch by the hardest of many views of it."""

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

    A positive pair is judged by its farthest view, a negative pair by its closest one. With
    `s = +1` where the largest value is wanted and -1 where the smallest is, the mined value is
    `sum_v softmax_v(sharpness * s * M[v]) * M[v]`; the weights carry gradient.

    Args:
        pair_matrices: (V, B, B) distances or similarities of every pair in every view.
        is_positive: (B, B) bool, whether a pair is of one class.
        sharpness: inverse temperature of the selection, > 0; 0 would be the mean over views,
            infinity the extreme.
        larger_is_closer: True for similarities, False for distances.

    Returns:
        (B, B) mined matrix, in the units of `pair_matrices`. Its diagonal means nothing.

    Raises:
        ValueError: shapes do not fit or sharpness is not positive.

    References:
        ../docs/within_pair_mining.md.
    """
    if pair_matrices.ndim != 3 or pair_matrices.shape[1:] != is_positive.shape:
        raise ValueError(
            f"pair_matrices must be (V, B, B) and is_positive (B, B), got "
            f"{tuple(pair_matrices.shape)} and {tuple(is_positive.shape)}"
        )
    if not sharpness > 0:
        raise ValueError(f"sharpness is {sharpness}, must be > 0")
    # The one home of the direction: a positive pair wants its least close view, a negative pair
    # its closest, and the distance says whether close is small or large.
    wants_largest = is_positive.bool() ^ larger_is_closer
    sign = torch.where(wants_largest, sharpness, -sharpness).to(pair_matrices.dtype)
    weights = torch.softmax(sign * pair_matrices, dim=0)
    return (weights * pair_matrices).sum(dim=0)


def compute_pair_matrices(views: Tensor, distance: BaseDistance) -> Tensor:
    """Measure every pair of a batch in every view, the same view on both sides.

    Args:
        views: (V, B, D) embeddings; normalised here if the distance normalises.
        distance: any pytorch-metric-learning distance or similarity.

    Returns:
        (V, B, B) matrices.
    """
    # Families whose matrix code is written for any leading dimensions; others go view by view.
    if isinstance(distance, LpDistance | DotProductSimilarity):
        unit = distance.maybe_normalize(views, dim=-1)
        matrices: Tensor = distance.compute_mat(unit, unit)
        return matrices if distance.power == 1 else matrices**distance.power
    return torch.stack([distance(view) for view in views])


class WithinPairLoss(nn.Module):
    """A pair or triplet loss that reads mined values in place of plain distances.

    Wherever the base loss, or a threshold miner in front of it, would read the distance of two
    images of the batch, it reads the pair's mined value instead.
    """

    def __init__(
        self,
        base_loss: BaseMetricLossFunction,
        *,
        sharpness: float = 32.0,
        threshold_miner: BaseMiner | None = None,
    ) -> None:
        """Wrap a loss.

        Args:
            base_loss: any pytorch-metric-learning loss that reads the batch's pair matrix.
            sharpness: inverse temperature of the selection over views, > 0.
            threshold_miner: a pytorch-metric-learning miner that picks pairs or triplets from the
                same mined matrix; None to use all.

        Raises:
            ValueError: sharpness is not positive, or the miner measures pairs differently from
                the loss, so that its threshold would be about other numbers.
        """
        super().__init__()
        if not sharpness > 0:
            raise ValueError(f"sharpness is {sharpness}, must be > 0")
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
        """Return the loss of a batch.

        Args:
            views: (V, B, D) stochastic views of the embeddings, not normalised.
            labels: (B,) integer labels.

        Returns:
            Scalar loss.

        Raises:
            ValueError: shapes do not fit, or the base loss asks for distances that are not
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
        """Run miner and loss on the mined matrix; `embeddings` serve regularisers only."""
        pairs = None
        if self.threshold_miner is not None:
            with _swap_distance(self.threshold_miner, mined):
                pairs = self.threshold_miner(embeddings, labels)
        with _swap_distance(self.base_loss, mined):
            loss: Tensor = self.base_loss(embeddings, labels, pairs)
        # A batch without pairs gives zero unread; anything else was measured past the miner.
        if not mined.was_read and bool(loss.detach() != 0):
            raise ValueError(
                f"{type(self.base_loss).__name__} does not read the batch's pair matrix; "
                "within-pair mining needs a loss that does"
            )
        return loss


class MinedDistance(BaseDistance):
    """Answers with a matrix mined beforehand when a loss or miner asks for the batch's pairs."""

    def __init__(self, measured: BaseDistance, mined: Tensor) -> None:
        """Take a matrix over from the distance that measured it.

        Args:
            measured: the distance that the values come from; direction and power are its own.
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
        """Return a copy of the matrix: some miners write into what they are given.

        Args:
            query_emb: (B, D) the batch's embeddings.
            ref_emb: the same tensor, or None.

        Raises:
            ValueError: asked for anything but the batch against itself.
        """
        if len(query_emb) != len(self._mined) or not (ref_emb is None or ref_emb is query_emb):
            raise ValueError(
                "the base loss compares the batch with something else (proxies, references); "
                "within-pair mining needs a loss over pairs of the batch"
            )
        self.was_read = True
        return self._mined.clone()

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Refuse: only the batch's own pairs were mined."""
        raise ValueError("only pairs of the whole batch are mined, not those of other embeddings")

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Refuse: a miner or loss that measures embeddings itself would bypass the mined pairs."""
        raise ValueError(
            "the loss or miner measures embeddings itself; within-pair mining needs one that reads "
            "the batch's pair matrix"
        )


def describe_distance(owner: BaseMetricLossFunction | BaseMiner) -> str:
    """Name what a loss or miner measures, so that two can be compared."""
    distance = owner.distance
    return (
        f"{type(distance).__name__}(p={distance.p}, power={distance.power}, "
        f"normalize={distance.normalize_embeddings})"
    )


@contextmanager
def _swap_distance(
    owner: BaseMetricLossFunction | BaseMiner, distance: BaseDistance
) -> Iterator[None]:
    """Lend another distance to a loss or miner, and give its own back."""
    own = owner.distance
    owner.distance = distance
    try:
        yield
    finally:
        owner.distance = own
