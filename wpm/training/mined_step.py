"""How a step with within-pair mining gets its gradient: at once, or trunk pass by trunk pass.

Both give the same gradient. `fast` runs all T passes as one forward over T x B images and keeps
their activations for one backward. `low_memory` keeps those of one pass at a time: it embeds every
pass without a graph, takes the gradient with respect to the T x B embeddings, which is small, and
runs each pass again with the same masks to send its part of that gradient through the trunk: two
forwards for the memory of a plain step. The idea is that of gradient caching (Gao et al., "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks

# From (V, B, D) views to a loss.
LossOfViews = Callable[[Tensor], Tensor]


def backward_fast(
    model: EmbeddingModel, images: Tensor, masks: ViewMasks, loss_of: LossOfViews
) -> Tensor:
    """Add the gradient of a batch to the parameters, all passes at once.

    Args:
        model: trunk and embedder.
        images: (B, C, H, W) float.
        masks: of the batch.
        loss_of: from (V, B, D) views to a scalar; its own parameters get their gradient too.

    Returns:
        The loss, a scalar without a graph.
    """
    loss = loss_of(model.make_views(images, masks))
    loss.backward()
    return loss.detach()


def backward_low_memory(
    model: EmbeddingModel, images: Tensor, masks: ViewMasks, loss_of: LossOfViews
) -> Tensor:
    """Add the same gradient as `backward_fast`, keeping the activations of one pass at a time.

    Images that a pass has no gradient for (exactly zero, in every dimension) are left out of its
    second run: trunks treat images apart from one another, so nothing is lost. A small gradient is
    no ground for leaving it out: by how much the trunk magnifies it is not known before.

    Args:
        model: trunk and embedder.
        images: (B, C, H, W) float.
        masks: of the batch.
        loss_of: from (V, B, D) views to a scalar; its own parameters get their gradient too.

    Returns:
        The loss, a scalar without a graph.
    """
    stem = model.run_stem(images)
    features = stem.detach().requires_grad_()
    with torch.no_grad():
        passes = [model.embed_passes(features, channel[None]) for channel in masks.channel]
    embeddings = torch.cat(passes).requires_grad_()
    loss = loss_of(model.mask_embeddings(embeddings, masks))
    loss.backward()
    assert embeddings.grad is not None
    needed = embeddings.grad.any(dim=2).cpu()
    needed[0, 0] = True  # every weight gets a gradient, be it zero: optimisers pass over None
    for channel, gradient, of_pass in zip(masks.channel, embeddings.grad, needed, strict=True):
        if of_pass.any():
            images_kept = slice(None) if of_pass.all() else of_pass  # a slice copies nothing
            embedded = model.embed_passes(features[images_kept], channel[None, images_kept])
            embedded.backward(gradient[None, images_kept])
    stem.backward(features.grad)
    return loss.detach()
