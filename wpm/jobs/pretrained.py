"""The row without training: the trunk's own features, reduced by PCA to the table's two sizes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from wpm.data.batches import BatchMaker
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.model.embedding import build_model
from wpm.protocols import Protocol
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.training.evaluate import extract_features


def score_pretrained(
    protocol: Protocol, weights: str, trainval: Pixels, test: Pixels, device: torch.device
) -> tuple[RetrievalScores, RetrievalScores]:
    """Score the untrained trunk on the test classes.

    Args:
        protocol: names the trunk, the image sizes, and the embedding sizes of both views.
        weights: file of the trunk's weights, or "random".
        trainval: the only images that PCA is fitted on.
        test: images that are scored.
        device: where the trunk runs.

    Returns:
        Scores at `embedding_dim` and at `embedding_dim * folds` dimensions: the sizes of a
        separated and a concatenated embedding.

    Raises:
        UserError: PCA is to keep more dimensions than there are images or trunk features.
    """
    dims = (protocol.embedding_dim, protocol.embedding_dim * protocol.folds)
    model = build_model(protocol, trainval.channels, seed=0, weights=weights)
    most = min(len(trainval), model.trunk.feature_dim)
    if most < dims[1]:
        raise UserError(
            f"row pretrained: PCA to {dims[1]} dimensions needs as many trainval images and trunk "
            f"features; there are {len(trainval)} images of {trainval.folder.name} and "
            f"{model.trunk.feature_dim} features of {protocol.trunk}; leave the row out"
        )
    model.embedder = nn.Identity()  # type: ignore[assignment]
    model.to(device).to(memory_format=torch.channels_last)
    fitted_on, scored = (
        extract_features(
            model,
            BatchMaker(pixels, protocol, model.trunk.input_spec, device),
            torch.arange(len(pixels)),
        )
        for pixels in (trainval, test)
    )
    separated, concatenated = (
        retrieval_scores(reduced.to(device), test.labels.to(device))
        for reduced in (reduce_features(fitted_on.cpu(), scored.cpu(), dim) for dim in dims)
    )
    return separated, concatenated


def reduce_features(fitted_on: Tensor, features: Tensor, dim: int) -> Tensor:
    """Project features on the principal components of others.

    Args:
        fitted_on: (M, F) float; mean and components are computed from them.
        features: (N, F) float.
        dim: components to keep, at most min(M, F).

    Returns:
        (N, dim) unit-norm float32: centred, projected without whitening, then normalised.
    """
    from sklearn.decomposition import PCA  # slow to import, and only this row needs it

    pca = PCA(n_components=dim, svd_solver="full").fit(fitted_on.double().numpy())
    projected = torch.from_numpy(pca.transform(features.double().numpy()))
    return normalize(projected.float(), dim=1)
