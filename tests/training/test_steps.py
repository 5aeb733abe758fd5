"""Steps that are captured and replayed, with a backend that needs no GPU.

What a CPU cannot show is whether CUDA captures these kernels; `python -m benchmarks.gpu` does.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.steps import middle_of
from tests.support.tiny import make_config, make_pixels
from wpm.data.pixels import Pixels
from wpm.training import training
from wpm.training.config import TrainingConfig
from wpm.training.fold_parts import batch_shape
from wpm.training.optimizers import load_optimizer
from wpm.training.steps import EagerSteps, GraphedSteps
from wpm.training.training import Training

CPU = torch.device("cpu")
SETTLED = 3 + 8 + 8  # steps of the usual batch after which the faster kind is known


class Recorder:
    """Replays a step by running it again over the same inputs; its clock is told how fast it is."""

    def __init__(self, *, eager: float = 2.0, graph: float = 1.0, error: str = "") -> None:
        self._seconds = {"eager": eager, "graph": graph}
        self._error = error
        self._now = 0.0
        self.kind = "eager"
        self.warmed = self.captured = self.replayed = 0

    def warm_up(self, step: Callable[[], None]) -> None:
        self.warmed += 1
        step()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if self._error:
            raise RuntimeError(self._error)
        self.captured += 1
        self.kind = "graph"

        def replay() -> None:
            self.replayed += 1
            step()

        return replay

    def clock(self) -> float:
        self._now += self._seconds[self.kind] / 2
        return self._now


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    return make_pixels(tmp_path)


def config(row: str, steps: int) -> TrainingConfig:
    """Return one fold of one epoch, with two classes a batch, in the middle of the row's space."""
    small = make_config(
        row, (0,), max_epochs=1, iterations_per_epoch=steps, classes_per_batch=2, images_per_class=2
    )
    parameters = {**middle_of(small.row), "classes_per_batch": 2, "images_per_class": 2}
    return dataclasses.replace(small, parameters=parameters)


def train(row: str, pixels: Pixels, backend: Recorder | None, steps: int = 40) -> Training:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "find_backend", lambda device: backend)
        trained = Training(config(row, steps), pixels, CPU)
    trained.run_epoch()
    return trained


def weights(trained: Training) -> dict[str, torch.Tensor]:
    return dict(trained.folds[0].model.state_dict())


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm", "margin", "soft_triple"])
def test_replayed_training_equals_the_eager_one(pixels: Pixels, row: str) -> None:
    backend = Recorder()
    replayed, eager = train(row, pixels, backend), train(row, pixels, None)
    assert backend.warmed == 3
    assert backend.captured == 1
    assert backend.replayed > 8
    for name, value in weights(eager).items():
        torch.testing.assert_close(weights(replayed)[name], value, rtol=1e-4, atol=1e-6)
    found, expected = replayed.folds[0].report, eager.folds[0].report
    assert found is not None
    assert expected is not None
    assert found.replayed
    assert not expected.replayed
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)


def test_slower_graph_is_dropped(pixels: Pixels) -> None:
    backend = Recorder(eager=1.0, graph=0.96)
    trained = train("contrastive", pixels, backend)
    assert backend.captured == 1
    assert backend.replayed == 8
    report = trained.folds[0].report
    assert report is not None
    assert not report.replayed


def test_failed_capture_stays_eager(pixels: Pixels, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        failed = train("contrastive", pixels, Recorder(error="operation not permitted\nat line 3"))
    assert "no CUDA graph of a step (operation not permitted); steps stay eager" in caplog.text
    for name, value in weights(train("contrastive", pixels, None)).items():
        torch.testing.assert_close(weights(failed)[name], value, rtol=1e-4, atol=1e-6)


def test_loss_whose_shapes_depend_on_values_is_never_captured(pixels: Pixels) -> None:
    backend = Recorder()
    train("multi_similarity_miner", pixels, backend)
    assert backend.warmed == backend.captured == 0


def test_batch_with_a_class_twice_is_not_replayed() -> None:
    taken: list[str] = []
    steps = GraphedSteps(Noted(taken), backend := Recorder(), batch_shape(config("triplet", 1)))
    images = torch.zeros(4, 3, 2, 2)
    for labels in [[0, 0, 1, 1]] * SETTLED + [[5, 5, 5, 5], [0, 1, 0, 1], [4, 4, 2, 2]]:
        steps.take(images, torch.tensor(labels), torch.tensor(labels))
    assert steps.replays
    assert backend.replayed == 8 + 1  # those that were timed, and the last
    assert taken[-3:] == ["eager", "eager", "captured"]


def test_lack_of_memory_beside_a_graph_gives_the_graph_up() -> None:
    taken: list[str] = []
    eager = Noted(taken)
    steps = GraphedSteps(eager, Recorder(), batch_shape(config("triplet", 1)))
    images, usual, twice = torch.zeros(4, 3, 2, 2), torch.tensor([0, 0, 1, 1]), torch.zeros(4).int()
    for _ in range(SETTLED):
        steps.take(images, usual, usual)
    eager.fail_next = True
    steps.take(images, twice, twice)
    assert taken[-1] == "eager"  # tried again, once the graph's memory was free
    assert not steps.replays
    steps.take(images, usual, usual)
    assert taken[-1] == "eager"


class Noted(EagerSteps):
    """Steps that only say which way they were taken."""

    def __init__(self, taken: list[str]) -> None:
        self.taken, self.fail_next = taken, False
        self.step = self  # type: ignore[assignment]
        self.pairs = object()  # type: ignore[assignment]

    def list_pairs(self, labels: torch.Tensor, device: torch.device) -> None:
        pass

    def take(self, images: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor) -> None:
        if self.fail_next:
            self.fail_next = False
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.taken.append("eager")

    def draw(self, images: torch.Tensor) -> tuple[()]:
        return ()

    peek = draw

    def compute(self, *inputs: object) -> torch.Tensor:
        return torch.zeros(())

    def apply(self, loss: torch.Tensor) -> None:
        self.taken.append("captured")


def test_checkpoint_of_a_cpu_can_be_captured_on_a_gpu() -> None:
    """Torch would take over what the saved optimiser said of itself."""
    weight = torch.nn.Parameter(torch.ones(2))
    saved = torch.optim.RMSprop([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    saved.step()
    state = copy.deepcopy(saved.state_dict())
    resumed = torch.optim.RMSprop([weight], lr=0.1, momentum=0.9, capturable=True)
    load_optimizer(resumed, state)
    assert resumed.param_groups[0]["capturable"] is True
    assert resumed.param_groups[0]["momentum"] == 0.9
    assert not saved.param_groups[0]["capturable"]
    torch.testing.assert_close(
        resumed.state[weight]["square_avg"], saved.state[weight]["square_avg"]
    )


def test_masks_continue_on_another_kind_of_device(pixels: Pixels) -> None:
    """Its generator cannot take the state over, so the stream begins anew where training stands."""

    def resume(epoch: int) -> torch.Tensor:
        resumed = Training(config("contrastive+wpm", 1), pixels, CPU).folds[0]
        state = resumed.state_dict()
        state |= {"mask_device": "cuda", "mask_generator": torch.zeros(16), "epoch": epoch}
        resumed.load_state_dict(state)
        return resumed._mask_generator.get_state()

    assert torch.equal(resume(1), resume(1))
    assert not torch.equal(resume(1), resume(2))
