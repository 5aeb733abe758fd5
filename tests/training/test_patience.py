"""Patience counts epoch 0 as powerful-benchmarker does: beside its arithmetic in plain loops."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.tiny import make_config, make_pixels
from wpm.data.pixels import Pixels
from wpm.reports import Report
from wpm.retrieval import RetrievalScores
from wpm.training.config import TrainingConfig
from wpm.training.fold import DivergedError, FoldTraining
from wpm.training.training import Training

CPU = torch.device("cpu")
CURVES = 60
EPOCHS = 40


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    return make_pixels(tmp_path)


def original(
    curve: list[float], interval: int, patience: int, *, untrained: bool
) -> tuple[int, float, int]:
    """Return the last epoch, the score and its epoch, as the original finds them in its tables.

    It writes a line for every validation into a table, the untrained model's first. After each it
    looks for the first line with the largest accuracy, and ends if that is too long ago. The score
    is the largest accuracy of the lines whose epoch is not 0.
    """
    table = [(0, curve[0])] if untrained else []
    last = 0
    for epoch in range(1, EPOCHS + 1):
        last = epoch
        if epoch % interval:
            continue
        table.append((epoch, curve[epoch]))
        largest = max(accuracy for _, accuracy in table)
        best_epoch = next(e for e, accuracy in table if accuracy == largest)
        if epoch - best_epoch > patience:
            break
    trained = [line for line in table if line[0] != 0]
    score = max(accuracy for _, accuracy in trained)
    return last, score, next(e for e, accuracy in trained if accuracy == score)


def simulate(seed: int) -> list[float]:
    """Return MAP@R by epoch from 0: it falls or rises slowly, and is rounded so that ties occur."""
    draw = random.Random(seed)
    gain, noise = draw.uniform(-0.004, 0.004), draw.uniform(0.0, 0.02)
    return [
        round(0.3 + gain * epoch + draw.gauss(0.0, noise), 2 + seed % 2)
        for epoch in range(EPOCHS + 1)
    ]


def follow(
    curve: list[float], config: TrainingConfig, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> tuple[Training, list[Report]]:
    """Run a training whose validations find the scores of a curve."""

    def score(fold: FoldTraining, epoch: int) -> RetrievalScores:
        return RetrievalScores(precision_at_1=0.5, r_precision=0.5, map_at_r=curve[epoch])

    def train(fold: FoldTraining, epoch: int, pause: Callable[[], bool]) -> bool:
        fold._images, fold._training_seconds = 1, 1.0
        return True

    monkeypatch.setattr(FoldTraining, "_score", score)
    monkeypatch.setattr(FoldTraining, "train_epoch", train)
    training, reports = Training(config, pixels, CPU), []
    while not training.finished:
        report = training.run_epoch()
        if report is not None:
            reports.append(report)
    return training, reports


@pytest.mark.parametrize("untrained", [True, False])
@pytest.mark.parametrize(("interval", "patience"), [(1, 3), (2, 9), (5, 14)])
def test_a_fold_ends_where_the_original_ends(
    interval: int,
    patience: int,
    untrained: bool,
    pixels: Pixels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(
        folds=(0,), max_epochs=EPOCHS, validation_interval=interval, patience=patience,
        validate_untrained=untrained,
    )  # fmt: skip
    ends = set()
    for seed in range(CURVES):
        curve = simulate(seed)
        training, reports = follow(curve, config, pixels, monkeypatch)
        report = reports[-1].folds[0]
        found = (training.epoch, reports[-1].best_map_at_r, report.best_epoch)
        assert found == original(curve, interval, patience, untrained=untrained), seed
        assert report.untrained_map_at_r == (curve[0] if untrained else None)
        ends.add(training.epoch)
    assert len(ends) > 3, "all curves end alike: the case is not tested"


def test_epoch_0_ends_a_curve_that_never_beats_it(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hand-computed: the best trained epoch is 3, the untrained model is better, patience 4."""
    curve = [0.5, 0.1, 0.2, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    config = make_config(folds=(0,), max_epochs=9, patience=4, validate_untrained=True)
    training, reports = follow(curve, config, pixels, monkeypatch)
    assert training.epoch == 5
    assert [report.best_map_at_r for report in reports] == [0.1, 0.2, 0.4, 0.4, 0.4]
    config = make_config(folds=(0,), max_epochs=9, patience=4)
    training, _ = follow(curve, config, pixels, monkeypatch)
    assert training.epoch == 8


def test_untrained_model_is_validated_once_and_changes_no_number(pixels: Pixels) -> None:
    plain = Training(make_config(), pixels, CPU)
    asked = Training(make_config(validate_untrained=True), pixels, CPU)
    one, other = plain.run_epoch(), asked.run_epoch()
    assert one is not None and other is not None
    for a, b in zip(one.folds, other.folds, strict=True):
        assert (a.loss, a.map_at_r, a.best_map_at_r) == (b.loss, b.map_at_r, b.best_map_at_r)
        assert a.untrained_map_at_r is None
        assert b.untrained_map_at_r is not None and b.untrained_map_at_r != b.map_at_r
    after = asked.run_epoch()
    assert after is not None
    assert [f.untrained_map_at_r for f in after.folds] == [
        f.untrained_map_at_r for f in other.folds
    ]


def test_untrained_model_may_give_all_images_one_embedding(pixels: Pixels) -> None:
    """Training may still tell them apart, so that this is no divergence yet."""
    training = Training(make_config(folds=(0,), validate_untrained=True), pixels, CPU)
    fold = training.folds[0]
    start = {name: value.clone() for name, value in fold.model.state_dict().items()}
    for parameter in fold.model.parameters():
        parameter.data.zero_()
    fold.validate_untrained()
    with pytest.raises(DivergedError, match="collapsed in epoch 1"):
        fold.validate(1)
    fold.model.load_state_dict(start)
    report = training.run_epoch()
    assert report is not None and report.folds[0].untrained_map_at_r is not None
