"""Trunks of torchvision and timm: cut after the first convolution, nothing else changed."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tests.tiny import MINED, make_config, make_pixels, smoke_protocol
from wpm.errors import UserError
from wpm.model import build_model, find_weights, freeze_batch_norm, needs_weights
from wpm.train import Training
from wpm.zoo_trunks import ZooTrunk, build_timm, build_torchvision

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make_trunk(name: str) -> ZooTrunk:
    build = build_timm if name.startswith("timm:") else build_torchvision
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = build(name, 3)
    assert isinstance(trunk, ZooTrunk)
    return trunk.eval()


def features_of_library(name: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what the library's own network gives without its classifier."""
    library, _, network_name = name.partition(":")
    if library == "timm":
        network = timm.create_model(network_name, num_classes=0)
        network.load_state_dict(state)
        return network.eval()(IMAGES)  # type: ignore[no-any-return]
    network = torchvision.models.get_model(network_name, weights=None)
    network.load_state_dict(state, strict=False)
    inputs: list[torch.Tensor] = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    network.eval()(IMAGES)
    return inputs[0]


def library_state(trunk: ZooTrunk) -> dict[str, torch.Tensor]:
    """Return the trunk's weights under the library's names."""
    names = {f"first.{part}": f"{trunk.place}.{part}" for part in ("weight", "bias")}
    return {
        names.get(key, key.removeprefix("network.")): value
        for key, value in trunk.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "channels", "features"),
    [
        ("torchvision:resnet18", 64, 512),
        ("torchvision:mobilenet_v3_small", 16, 1024),
        ("timm:resnet18", 64, 512),
        ("timm:convnext_atto", 40, 320),
    ],
)
def test_stem_and_body_are_the_librarys_network(name: str, channels: int, features: int) -> None:
    trunk = make_trunk(name)
    assert (trunk.stem_channels, trunk.feature_dim) == (channels, features)
    with torch.no_grad():
        stem = trunk.stem(IMAGES)
        assert stem.shape[:2] == (2, channels)
        expected = features_of_library(name, library_state(trunk))
        torch.testing.assert_close(trunk.body(stem), expected, rtol=0, atol=1e-5)


def test_resnet50_gives_2048_features() -> None:
    assert make_trunk("torchvision:resnet50").feature_dim == 2048


def test_stem_is_a_convolution_without_its_normalisation() -> None:
    trunk = make_trunk("torchvision:resnet18")
    expected = nn.functional.conv2d(IMAGES, trunk.first.weight, stride=2, padding=3)
    torch.testing.assert_close(trunk.stem(IMAGES), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_tiny_patch16_224", "does not take images of any size"),
        ("torchvision:vit_b_16", "does not take images of any size"),
        ("torchvision:resnet5", "did you mean torchvision:resnet50"),
        ("timm:resnet5", r"timm has no network 'resnet5'; did you mean timm:resnet50"),
    ],
)
def test_what_cannot_be_a_trunk_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trunk(name)


def test_timm_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        make_trunk("timm:resnet18")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_librarys_weights_file_loads_without_its_classifier(
    suffix: str, tmp_path: Path
) -> None:
    saved = torchvision.models.resnet18(weights=None)
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(saved.state_dict(), path)
    else:
        save_file(saved.state_dict(), path)
    protocol = dataclasses.replace(smoke_protocol(), trunk="torchvision:resnet18")
    model = build_model(protocol, 3, 0, str(path))
    trunk = model.trunk
    assert isinstance(trunk, ZooTrunk)
    found = library_state(trunk)
    assert saved.state_dict().keys() - found.keys() == {"fc.weight", "fc.bias"}
    for key, value in found.items():
        assert torch.equal(value, saved.state_dict()[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, "lacks network.layer1.0.conv1.weight"),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, "has another shape at first.weight"),
        ({"more.weight": torch.zeros(1)}, "has network.fc.bias besides"),
    ],
)
def test_another_networks_weights_are_refused(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**torchvision.models.resnet18(weights=None).state_dict(), **change}
    torch.save(
        {key: value for key, value in state.items() if value is not None}, tmp_path / "w.pth"
    )
    protocol = dataclasses.replace(smoke_protocol(), trunk="torchvision:resnet18")
    with pytest.raises(UserError, match=message):
        build_model(protocol, 3, 0, str(tmp_path / "w.pth"))


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("<html>not found</html>")
    protocol = dataclasses.replace(smoke_protocol(), trunk="torchvision:resnet18")
    with pytest.raises(UserError, match="is not a weights file"):
        build_model(protocol, 3, 0, str(tmp_path / "w.pth"))


def test_addresses_carry_their_checksum() -> None:
    archive = find_weights("torchvision:resnet50")
    assert archive is not None
    assert archive.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert archive.checksum == "sha256:0676ba61"
    assert needs_weights("timm:resnet18")
    assert find_weights("timm:resnet18") is None


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_row_with_mining_trains_with_frozen_batch_norm(name: str, tmp_path: Path) -> None:
    protocol = dataclasses.replace(smoke_protocol(iterations_per_epoch=1), trunk=name)
    config = dataclasses.replace(make_config("contrastive+wpm", (0,)), protocol=protocol)
    assert config.parameters.keys() >= MINED.keys()
    training = Training(config, make_pixels(tmp_path), torch.device("cpu"))
    training.run_epoch()
    model = training.folds[0].model
    model.train()
    freeze_batch_norm(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    for norm in norms:
        assert not norm.training
        assert norm.running_mean is not None
        assert not norm.running_mean.any(), "statistics moved"
