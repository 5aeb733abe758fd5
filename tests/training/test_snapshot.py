"""A snapshot is the state of one moment, whatever training does meanwhile."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny import make_config, make_pixels
from wpm.data.pixels import Pixels
from wpm.training.snapshot import Snapshot
from wpm.training.training import Training

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    return make_pixels(tmp_path_factory.mktemp("images"))


def last_scores(training: Training) -> list[float]:
    while not training.finished:
        report = training.run_epoch()
    assert report is not None
    return [fold.map_at_r for fold in report.folds]


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm"])
@pytest.mark.parametrize("steps", [3, 16, 22])
def test_training_resumes_exactly_from_a_snapshot(
    pixels: Pixels, tmp_path: Path, row: str, steps: int
) -> None:
    config = make_config(row)
    training = Training(config, pixels, CPU)
    taken = 0

    def pause() -> bool:
        nonlocal taken
        taken += 1
        return taken > steps

    while taken <= steps:
        training.run_epoch(pause)
    snapshot = Snapshot(training.state_dict())
    whole = last_scores(training)  # changes all tensors of which the snapshot was taken
    snapshot.wait()
    torch.save(snapshot.state, tmp_path / "state.pt")
    resumed = Training(config, pixels, CPU)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.position == divmod(steps, 16)
    assert last_scores(resumed) == whole


def test_tensors_keep_values_types_and_memory_layout() -> None:
    weight = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        "weight": weight,
        "list": [torch.arange(5), torch.tensor(2.5), {"every second": torch.arange(6.0)[::2]}],
        "empty": torch.zeros(0),
        "plain": ("text", 1, None),
    }
    snapshot = Snapshot(state).state
    before = weight.clone()
    weight.zero_()
    assert torch.equal(snapshot["weight"], before)
    assert snapshot["weight"].stride() == weight.stride()
    whole_numbers, scalar, nested = snapshot["list"]
    assert whole_numbers.tolist() == [0, 1, 2, 3, 4]
    assert whole_numbers.dtype == torch.int64
    assert (scalar.shape, scalar.item()) == ((), 2.5)
    assert nested["every second"].tolist() == [0, 2, 4]
    assert snapshot["empty"].shape == (0,)
    assert snapshot["plain"] == ("text", 1, None)
    storages = {t.untyped_storage().data_ptr() for t in (snapshot["weight"], scalar)}
    assert len(storages) == 1, "one flat tensor for a type"


def test_versions_of_a_modules_layers_are_kept() -> None:
    state = torch.nn.BatchNorm2d(3).state_dict()
    snapshot = Snapshot(state).state
    assert snapshot._metadata == state._metadata  # type: ignore[attr-defined]
