"""Score models on decoded images: each fold's model alone, and all of them concatenated."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wpm.data.batches import BatchMaker
from wpm.model.embedding import EVALUATION_BATCH, EmbeddingModel, concatenate_embeddings
from wpm.retrieval import RetrievalScores, retrieval_scores

# Two embeddings of norm 1 coincide where they are nearer to each other than this: their similarity
# is then 1 less 5e-9, and float32 steps below 1 are 6e-8, so the order of neighbours is rounding
# alone. A deep network with random weights may begin ten times farther apart, and still learn.
COINCIDING_DISTANCE = 1e-4
_CENTRES = 16  # embeddings around which those that coincide are counted


def embed_images(model: EmbeddingModel, batches: BatchMaker, indices: Tensor) -> Tensor:
    """Embed images without dropout or augmentation.

    Args:
        model: is put into evaluation mode.
        batches: source of the images.
        indices: (N,) positions in the pixel cache.

    Returns:
        (N, D) unit-norm float32 embeddings, on the model's device.
    """
    return normalize(extract_features(model, batches, indices), dim=1)


@torch.no_grad()
def extract_features(model: EmbeddingModel, batches: BatchMaker, indices: Tensor) -> Tensor:
    """Run images through a model without dropout or augmentation.

    Args:
        model: is put into evaluation mode.
        batches: source of the images.
        indices: (N,) positions in the pixel cache.

    Returns:
        (N, D) float32 outputs, not normalised, on the model's device.
    """
    model.eval()
    return torch.cat(
        [
            model(batches.evaluation_batch(part)[0]).float()
            for part in indices.split(EVALUATION_BATCH)
        ]
    )


def count_coinciding(embeddings: Tensor) -> int:
    """Count the embeddings that coincide with one of them, where most do.

    A few embeddings, spread evenly over the set, are tried as this one.

    Args:
        embeddings: (N, D) of unit norm.
    """
    positions = torch.linspace(0, len(embeddings) - 1, min(_CENTRES, len(embeddings)))
    return max(
        int(((embeddings - embeddings[p]).norm(dim=1) < COINCIDING_DISTANCE).sum())
        for p in positions.round().int().tolist()
    )


def mean_scores(scores: Sequence[RetrievalScores]) -> RetrievalScores:
    """Average several models' scores, for the `separated` columns of the table."""
    count = len(scores)
    return RetrievalScores(
        precision_at_1=sum(s.precision_at_1 for s in scores) / count,
        r_precision=sum(s.r_precision for s in scores) / count,
        map_at_r=sum(s.map_at_r for s in scores) / count,
    )


def score_models(
    models: Sequence[EmbeddingModel], batches: BatchMaker, indices: Tensor, labels: Tensor
) -> tuple[RetrievalScores, RetrievalScores]:
    """Score the folds' models of one run.

    Args:
        models: one per fold.
        batches: source of the images.
        indices: (N,) positions of the images to score in the pixel cache.
        labels: (N,) their labels.

    Returns:
        Separated scores (the mean over the models) and concatenated scores (of all models'
        embeddings side by side).
    """
    embeddings = [embed_images(model, batches, indices) for model in models]
    labels = labels.to(embeddings[0].device)
    separated = mean_scores([retrieval_scores(e, labels) for e in embeddings])
    return separated, retrieval_scores(concatenate_embeddings(embeddings), labels)
