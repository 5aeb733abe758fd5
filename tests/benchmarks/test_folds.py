"""Fused folds compute what folds one after another compute; a crashed process is noticed."""

import dataclasses
import time

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss

from benchmarks.folds import FOLDS, FusedFolds, TrialProcesses, make_images, make_models
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


def test_batches_of_folds_have_channels_last() -> None:
    images, _ = make_images(PROTOCOL, torch.device("cpu"))
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in images)


@pytest.mark.slow
@pytest.mark.parametrize("mined", [False, True])
def test_processes_work_together_or_some_alone(mined: bool) -> None:
    with TrialProcesses(PROTOCOL, torch.device("cpu"), 2, mined=mined) as trials:
        assert trials.rate(1, 0.1) > 0
        assert trials.rate(2, 0.1) > 0


@pytest.mark.slow
def test_process_that_crashes_is_named_and_not_waited_for() -> None:
    broken = dataclasses.replace(PROTOCOL, trunk="no such trunk")
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="process 1 of 2 ended with code 1"):
        TrialProcesses(broken, torch.device("cpu"), 2)
    assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_process_that_does_not_answer_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="has not answered within 0 s"):
        TrialProcesses(PROTOCOL, torch.device("cpu"), 1, start_s=0.1)
