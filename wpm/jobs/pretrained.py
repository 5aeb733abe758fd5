"""The row without training: the trunk's own features, reduced by PCA to the table's two sizes.

What PCA sees decides the score, so there are three named ways (`wpm.rows.Reduction`). The table
shows the one that fits nothing to test images; the other two are those of the originals.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from wpm.data.batches import BatchMaker
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.layout import place
from wpm.protocols import Protocol
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.rows import Reduction
from wpm.training.evaluate import extract_features

SizedScores = tuple[RetrievalScores, RetrievalScores]  # separated, concatenated


def score_pretrained(
    protocol: Protocol, weights: str, trainval: Pixels, test: Pixels, device: torch.device
) -> Mapping[Reduction, SizedScores]:
    """Score the untrained trunk on the test classes.

    Args:
        protocol: names the trunk, the image sizes, and the embedding sizes of both views.
        weights: file of the trunk's weights, or "random".
        trainval: the only images that the PCA of the table's own reduction is fitted on.
        test: images that are scored.
        device: where the trunk runs.

    Returns:
        For each reduction, scores at the sizes of a separated and of a concatenated embedding. The
        originals' reductions are missing where there are fewer test images than dimensions.

    Raises:
        UserError: PCA is to keep more dimensions than there are images or trunk features.
    """
    dims = embedding_sizes(protocol)
    model = build_feature_model(protocol, trainval.channels, weights, device)
    most = min(len(trainval), model.trunk.feature_dim)
    if most < dims[1]:
        raise UserError(
            f"row pretrained: PCA to {dims[1]} dimensions needs as many trainval images and trunk "
            f"features; there are {len(trainval)} images of {trainval.folder.name} and "
            f"{model.trunk.feature_dim} features of {protocol.trunk}; leave the row out"
        )
    fitted_on, scored = (
        extract_features(
            model,
            BatchMaker(pixels, protocol, model.trunk.input_spec, device),
            torch.arange(len(pixels)),
        ).cpu()
        for pixels in (trainval, test)
    )
    possible = [Reduction.TRAINVAL] if len(test) < dims[1] else list(Reduction)
    return {
        reduction: score_reduced(reduction, scored, test.labels, dims, device, fitted_on)
        for reduction in possible
    }


def embedding_sizes(protocol: Protocol) -> tuple[int, int]:
    """Return the dimensions of a separated and of a concatenated embedding."""
    return protocol.embedding_dim, protocol.embedding_dim * protocol.folds


def build_feature_model(
    protocol: Protocol, channels: int, weights: str, device: torch.device
) -> EmbeddingModel:
    """Build a model that puts out the trunk's features, without an embedder."""
    model = build_model(protocol, channels, seed=0, weights=weights)
    model.embedder = nn.Identity()  # type: ignore[assignment]
    return place(model, device)


def score_reduced(
    reduction: Reduction,
    features: Tensor,
    labels: Tensor,
    dims: tuple[int, int],
    device: torch.device,
    fitted_on: Tensor | None = None,
) -> SizedScores:
    """Reduce features to two sizes and score both.

    Args:
        reduction: how.
        features: (N, F) float on the CPU, not normalised.
        labels: (N,).
        dims: dimensions of a separated and of a concatenated embedding.
        device: where neighbours are found.
        fitted_on: (M, F) features of the trainval images; only `Reduction.TRAINVAL` uses them.
    """
    # Components are in the order of their variance, so the smaller size is the larger one's start.
    reduced = _reduce(reduction, features, max(dims), fitted_on).to(device)
    separated, concatenated = (
        retrieval_scores(reduced[:, :dim], labels.to(device)) for dim in dims
    )
    return separated, concatenated


def _reduce(reduction: Reduction, features: Tensor, dim: int, fitted_on: Tensor | None) -> Tensor:
    match reduction:
        case Reduction.TRAINVAL:
            assert fitted_on is not None
            return reduce_features(fitted_on, features, dim)
        case Reduction.RAW:
            return standardise_and_reduce(features, dim)
        case Reduction.UNIT:
            return standardise_and_reduce(normalize(features, dim=1), dim)


def reduce_features(fitted_on: Tensor, features: Tensor, dim: int) -> Tensor:
    """Project features on the principal components of others.

    Args:
        fitted_on: (M, F) float; mean and components are computed from them.
        features: (N, F) float.
        dim: components to keep, at most min(M, F).

    Returns:
        (N, dim) float32: centred, then projected without whitening; not normalised.
    """
    from sklearn.decomposition import PCA  # slow to import, and only this row needs it

    pca = PCA(n_components=dim, svd_solver="full").fit(fitted_on.double().numpy())
    return torch.from_numpy(pca.transform(features.double().numpy())).float()


def standardise_and_reduce(features: Tensor, dim: int) -> Tensor:
    """Reduce features as powerful-benchmarker does: everything is fitted on the features given.

    Args:
        features: (N, F) float.
        dim: components to keep, at most min(N, F).

    Returns:
        (N, dim) float32: every feature centred and divided by its standard deviation, then
        projected on the principal components without whitening; not normalised.

    References:
        pytorch-metric-learning 0.9.88, `testers/base_tester.py` and `utils/stat_utils.py`.
    """
    from sklearn.preprocessing import StandardScaler

    standardised = StandardScaler().fit_transform(features.double().numpy())
    standardised = torch.from_numpy(standardised)
    return reduce_features(standardised, standardised, dim)
