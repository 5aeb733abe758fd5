"""Fused folds compute what folds one after another compute."""

import torch
from pytorch_metric_learning.losses import ContrastiveLoss

from benchmarks.folds import FOLDS, FusedFolds, make_images, make_models
from wpm.protocol_files import find_protocol

PROTOCOL = find_protocol("smoke", "folder")


def test_fused_embeddings_and_gradients_equal_those_of_the_folds() -> None:
    device = torch.device("cpu")
    models = [model.double() for model in make_models(PROTOCOL, device)]
    images, labels = make_images(PROTOCOL, device)
    together = FusedFolds(models)
    loss = ContrastiveLoss()
    embeddings = together(images.double())
    torch.stack([loss(part, labels) for part in embeddings]).sum().backward()
    for fold, model in enumerate(models):
        alone = model(images[fold].double())
        torch.testing.assert_close(embeddings[fold], alone)
        loss(alone, labels).backward()
    for stacked, *apart in zip(
        together.stacked, *(model.parameters() for model in models), strict=True
    ):
        assert len(apart) == FOLDS
        for fold, parameter in enumerate(apart):
            assert stacked.grad is not None
            torch.testing.assert_close(stacked.grad[fold], parameter.grad)
