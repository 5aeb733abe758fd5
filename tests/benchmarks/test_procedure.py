"""The benchmark of the procedure: its samplers, and where patience ends a curve."""

from pathlib import Path

import torch

from benchmarks.procedure import ANEW, DECK, SAMPLERS, Curve, class_spread, follow
from tests.support.tiny import make_pixels, smoke_protocol


def test_classes_drawn_anew_are_less_even_than_those_of_a_deck() -> None:
    labels = torch.arange(25).repeat_interleave(4)
    spreads = {}
    for classes, sampler_class in SAMPLERS.items():
        sampler = sampler_class(
            labels, torch.arange(100), classes_per_batch=8, images_per_class=4,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        batches = [sampler.draw() for _ in range(100)]
        assert all(len(batch) == 32 for batch in batches)
        spreads[classes] = class_spread(labels[torch.cat(batches)], sampler)
    assert spreads[DECK] < 0.02 < 0.1 < spreads[ANEW]


def test_patience_ends_a_curve_earlier_where_epoch_0_was_better() -> None:
    curve = Curve(0.5, [(1, 0.1), (2, 0.4), (3, 0.3), (4, 0.3), (5, 0.6)], spread=0.1)
    assert curve.end(2, counts_untrained=True) == (3, 0.4)
    assert curve.end(2, counts_untrained=False) == (5, 0.6)


def test_a_training_is_followed_to_its_last_epoch(tmp_path: Path) -> None:
    curve = follow(ANEW, 0, smoke_protocol(max_epochs=2, patience=1), make_pixels(tmp_path))
    assert [epoch for epoch, _ in curve.scores] == [1, 2]
    assert curve.untrained > 0 and curve.spread > 0
