"""Training gives the same numbers every time, resumed or not, folds alone or together."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch

from tests.support.tiny import (
    CONTRASTIVE,
    make_config,
    make_image_folder,
    make_pixels,
    run_to_end,
    smoke_protocol,
)
from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.reports import Report
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.fold import CollapsedError, DivergedError, FoldTraining
from wpm.training.training import Training

CPU = torch.device("cpu")


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    return make_pixels(tmp_path)


def numbers(reports: list[Report]) -> list[tuple[float, ...]]:
    """Return what must be reproducible: everything except times."""
    return [
        (r.epoch, r.best_map_at_r, *(v for f in r.folds for v in (f.loss, f.map_at_r)))
        for r in reports
    ]


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm"])
def test_same_seed_gives_same_numbers(pixels: Pixels, row: str) -> None:
    first = numbers(run_to_end(Training(make_config(row), pixels, CPU)))
    again = numbers(run_to_end(Training(make_config(row), pixels, CPU)))
    other = numbers(run_to_end(Training(make_config(row, seed=1), pixels, CPU)))
    assert first == again
    assert first != other


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm"])
def test_resumed_at_any_epoch_equals_uninterrupted(pixels: Pixels, row: str) -> None:
    config = make_config(row)
    whole = run_to_end(Training(config, pixels, CPU))
    for stop in range(1, config.protocol.max_epochs):
        interrupted = Training(config, pixels, CPU)
        for _ in range(stop):
            interrupted.run_epoch()
        state = interrupted.state_dict()
        resumed = Training(config, pixels, CPU)
        resumed.load_state_dict(state)
        assert numbers(run_to_end(resumed)) == numbers(whole)[stop:]


@pytest.mark.parametrize("row", ["margin", "contrastive+wpm"])
def test_resumed_at_any_step_of_an_epoch_equals_uninterrupted(pixels: Pixels, row: str) -> None:
    config = make_config(row, folds=(0, 1), max_epochs=2)
    if row == "margin":  # a loss with a parameter of its own
        own = {"margin": 0.1, "beta": 0.8, "metric_loss_lr": 1e-2}
        config = dataclasses.replace(config, parameters=own)
    whole = run_to_end(Training(config, pixels, CPU))
    steps = config.protocol.iterations_per_epoch
    for stop in range(4 * steps):
        interrupted = Training(config, pixels, CPU)
        left = iter(range(stop))
        while interrupted.run_epoch(lambda left=left: next(left, None) is None) is not None:  # type: ignore[misc]
            pass
        assert interrupted.position == divmod(stop, 2 * steps)
        resumed = Training(config, pixels, CPU)
        resumed.load_state_dict(interrupted.state_dict())
        assert numbers(run_to_end(resumed)) == numbers(whole)[stop // (2 * steps) :], stop


def test_pause_of_an_epoch_changes_nothing(pixels: Pixels) -> None:
    whole = run_to_end(Training(make_config(), pixels, CPU))
    paused, reports = Training(make_config(), pixels, CPU), []
    turns = itertools.cycle((False, True))
    while not paused.finished:
        report = paused.run_epoch(lambda: next(turns))
        if report is not None:
            reports.append(report)
    assert numbers(reports) == numbers(whole)


def test_fold_alone_equals_fold_in_lockstep(pixels: Pixels) -> None:
    together = run_to_end(Training(make_config(), pixels, CPU))[-1]
    for k in range(4):
        alone = run_to_end(Training(make_config(folds=(k,)), pixels, CPU))[-1]
        assert alone.folds[0].map_at_r == together.folds[k].map_at_r
        assert alone.folds[0].loss == together.folds[k].loss


def test_report_is_mean_over_folds_of_each_folds_best(pixels: Pixels) -> None:
    reports = run_to_end(Training(make_config(max_epochs=6), pixels, CPU))
    for k in range(4):
        seen = [r.folds[k].map_at_r for r in reports]
        assert [r.folds[k].best_map_at_r for r in reports] == [
            max(seen[: i + 1]) for i in range(len(seen))
        ]
    last = reports[-1]
    assert last.best_map_at_r == pytest.approx(sum(f.best_map_at_r for f in last.folds) / 4)


def test_best_model_is_kept_and_gives_the_best_score(pixels: Pixels) -> None:
    training = Training(make_config(folds=(1,), max_epochs=6), pixels, CPU)
    reports = run_to_end(training)
    fold = training.folds[0]
    fold.model.load_state_dict(fold.best_model)
    best = max(r.folds[0].map_at_r for r in reports)
    fold.validate(99)
    report = fold.report
    assert report is not None
    assert report.map_at_r == pytest.approx(best, abs=1e-9)


def test_patience_stops_each_fold_by_itself(pixels: Pixels) -> None:
    config = make_config(max_epochs=60, patience=2)
    reports = run_to_end(Training(config, pixels, CPU))
    ends = []
    for k in range(4):
        best = reports[-1].folds[k].best_epoch
        stopped = next((r.epoch for r in reports if r.folds[k].stopped), None)
        assert stopped is None or stopped == best + 3  # the first epoch beyond the patience
        ends.append(stopped)
    assert len(set(ends)) > 1, "all folds stopped together: the case is not tested"


def test_validation_interval_is_kept(pixels: Pixels) -> None:
    reports = run_to_end(Training(make_config(validation_interval=2, max_epochs=5), pixels, CPU))
    assert [r.epoch for r in reports] == [2, 4, 5]


def test_twin_sees_the_same_weights_and_batches(pixels: Pixels) -> None:
    plain = Training(make_config("contrastive"), pixels, CPU).folds[0]
    mined = Training(make_config("contrastive+wpm"), pixels, CPU).folds[0]
    for a, b in zip(plain.model.parameters(), mined.model.parameters(), strict=True):
        assert torch.equal(a, b)
    plain.train_epoch(1)
    mined.train_epoch(1)
    assert torch.equal(plain._batch_generator.get_state(), mined._batch_generator.get_state())


def test_divergence_is_named_by_fold_and_epoch(pixels: Pixels) -> None:
    config = make_config()
    parameters = {"pos_margin": 0.0, "neg_margin": 1e39}
    bad = TrainingConfig(Row("contrastive"), config.protocol, parameters, 0, (2,))
    with pytest.raises(DivergedError, match=r"fold 2 .* epoch 1"):
        Training(bad, pixels, CPU).run_epoch()


def validate_images_that_embed_alike(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch, *, others: int, distance: float = 0.0
) -> FoldTraining:
    """Validate a fold whose images all get one embedding up to `distance`, but for some others."""
    fold = Training(make_config(), pixels, CPU).folds[1]
    fold.train_epoch(1)
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn((len(fold._val_indices), 8), generator=generator)
    embeddings = torch.eye(1, 8) + distance * shift / shift.norm(dim=1, keepdim=True)
    embeddings[len(shift) - others :] = shift[len(shift) - others :]
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    monkeypatch.setattr("wpm.training.fold.embed_images", lambda *_: unit)
    fold.validate(1)
    return fold


@pytest.mark.parametrize("distance", [0.0, 3e-5])
def test_validation_whose_embeddings_coincide_is_named(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch, distance: float
) -> None:
    with pytest.raises(CollapsedError, match=r"fold 1 collapsed in epoch 1: those of \d+ of \d+ v"):
        validate_images_that_embed_alike(pixels, monkeypatch, others=0, distance=distance)


def test_share_of_coinciding_embeddings_that_has_collapsed(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wpm.training.fold.COLLAPSED_SHARE", 0.5)
    with pytest.raises(CollapsedError):
        validate_images_that_embed_alike(pixels, monkeypatch, others=1)


@pytest.mark.parametrize(("others", "distance"), [(9, 0.0), (0, 3e-3)])
def test_embeddings_that_lie_close_are_scored(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch, others: int, distance: float
) -> None:
    fold = validate_images_that_embed_alike(pixels, monkeypatch, others=others, distance=distance)
    assert fold.report is not None
    assert fold.report.map_at_r < 0.5


def test_margin_beta_learns_with_its_own_rate(pixels: Pixels) -> None:
    def beta_after(rate: float) -> float:
        parameters = {"margin": 0.1, "beta": 0.8, "metric_loss_lr": rate}
        config = TrainingConfig(Row("margin"), smoke_protocol(), parameters, 0, (0,))
        training = Training(config, pixels, CPU)
        run_to_end(training)
        (beta,) = training.folds[0].loss.parameters()
        return beta.item()

    assert beta_after(1e-6) == pytest.approx(0.8, abs=1e-3)
    assert abs(beta_after(1e-2) - 0.8) > 1e-2


def test_missing_parameter_is_named(pixels: Pixels) -> None:
    config = TrainingConfig(Row("triplet"), smoke_protocol(), {}, 0, (0,))
    with pytest.raises(UserError, match="row triplet needs a value for margin"):
        Training(config, pixels, CPU)


def test_pixels_with_test_classes_are_refused(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images")
    index = load_index(DataSource("folder", root, tmp_path))
    everything = Pixels(build_pixel_cache(index, 20, tmp_path))
    config = TrainingConfig(Row("contrastive"), smoke_protocol(), CONTRASTIVE, 0, (0,))
    with pytest.raises(UserError, match="test classes"):
        Training(config, everything, CPU)


def test_first_report_counts_time_and_images(pixels: Pixels) -> None:
    report = run_to_end(Training(make_config(folds=(0,)), pixels, CPU))[0].folds[0]
    assert report.training_seconds > 0
    assert report.validation_seconds > 0
    assert report.images_per_second > 0
    assert math.isfinite(report.loss)
