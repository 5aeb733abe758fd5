"""Trunks of torchvision and timm: cut after the first convolution, nothing else changed."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from tests.support.tiny import MINED, make_config, make_pixels, smoke_protocol
from wpm.data.archives import Archive
from wpm.data.hub import HubFile
from wpm.errors import DamagedFileError, UserError
from wpm.model.embedding import build_model, check_model, freeze_batch_norm
from wpm.model.library_trunks import LibraryTrunk
from wpm.model.torchvision_trunks import torchvision_input
from wpm.model.trunks import find_source, find_weights, find_weights_page, needs_weights
from wpm.model.views import ViewSettings
from wpm.protocols import Protocol
from wpm.training.training import Training

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make_trunk(name: str) -> LibraryTrunk:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = find_source(name).build(name, 3)
    assert isinstance(trunk, LibraryTrunk)
    return trunk


def protocol_with(trunk: str) -> Protocol:
    return dataclasses.replace(smoke_protocol(iterations_per_epoch=1), trunk=trunk)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Compare relative to the norm: random weights of some networks give features of 1e-12."""
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def features_of_library(name: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what the library's own network gives without its classifier."""
    library, _, network_name = name.partition(":")
    if library == "timm":
        size: dict[str, Any] = {"img_size": IMAGES.shape[2]} if "vit" in network_name else {}
        network: Any = timm.create_model(network_name, num_classes=0, **size)
        if size:  # another grid of patches: position embeddings as timm fits those of a file
            state = timm.models.vision_transformer.checkpoint_filter_fn(state, network)
        network.load_state_dict(state)
        return network.eval()(IMAGES)  # type: ignore[no-any-return]
    network = torchvision.models.get_model(network_name, weights=None)
    network.load_state_dict(state, strict=False)
    inputs: list[torch.Tensor] = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    network.eval()(IMAGES)
    return inputs[0]


def library_state(trunk: LibraryTrunk) -> dict[str, torch.Tensor]:
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
        ("torchvision:convnext_tiny", 96, 768),
        ("torchvision:densenet121", 64, 1024),
        ("torchvision:efficientnet_b0", 32, 1280),
        ("torchvision:mobilenet_v3_small", 16, 1024),
        ("timm:resnet18", 64, 512),
        ("timm:convnext_atto", 40, 320),
        ("timm:efficientnet_b0", 32, 1280),
        ("timm:vit_tiny_patch16_224", 192, 192),
    ],
)
def test_stem_and_body_are_the_librarys_network(name: str, channels: int, features: int) -> None:
    trunk = make_trunk(name)
    assert (trunk.stem_channels, trunk.feature_dim) == (channels, features)
    with torch.no_grad():
        stem = trunk.stem(IMAGES)
        assert stem.shape[:2] == (2, channels)
        assert distance(trunk.body(stem), features_of_library(name, library_state(trunk))) < 1e-5


def test_resnet50_gives_2048_features() -> None:
    assert make_trunk("torchvision:resnet50").feature_dim == 2048


def test_stem_is_a_convolution_without_its_normalisation() -> None:
    trunk = make_trunk("torchvision:resnet18")
    expected = nn.functional.conv2d(IMAGES, trunk.first.weight, stride=2, padding=3)
    torch.testing.assert_close(trunk.stem(IMAGES), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit_relpos", r"does not take images of any size \(Input height \(96\)"),
        ("torchvision:alexnet", r"cannot be cut after features.0 \(what follows overwrites"),
        ("timm:repvgg_a0", r"cannot be cut after stem.conv_kxk.conv \(Given groups=1"),
        ("torchvision:squeezenet1_1", "does not end in a linear classifier"),
        ("torchvision:googlenet", "rescales images before its first convolution"),
        ("torchvision:resnet5", "did you mean torchvision:resnet50"),
        ("timm:resnet5", r"timm has no network 'resnet5'; did you mean timm:resnet50"),
    ],
)
def test_what_cannot_be_a_trunk_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trunk(name)


@pytest.mark.parametrize("name", ["timm:resnet5", "torchvision:resnet5"])
def test_network_that_its_library_lacks_is_refused_before_its_weights_are_looked_for(
    name: str,
) -> None:
    for look in (needs_weights, find_weights, find_weights_page):
        with pytest.raises(UserError, match="did you mean"):
            look(name)


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
    trunk = build_model(protocol_with("torchvision:resnet18"), 3, 0, str(path)).trunk
    assert isinstance(trunk, LibraryTrunk)
    found = library_state(trunk)
    assert saved.state_dict().keys() - found.keys() == {"fc.weight", "fc.bias"}
    for key, value in found.items():
        assert torch.equal(value, saved.state_dict()[key]), key


def test_old_densenet_files_load(tmp_path: Path) -> None:
    """Some names have a dot that torchvision's loader removes, and batch counters are missing."""
    saved = torchvision.models.densenet121(weights=None).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.[a-z]+)([12])", r"\1.\2", key): value
        for key, value in saved.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    model = build_model(protocol_with("torchvision:densenet121"), 3, 0, str(tmp_path / "w.pth"))
    assert isinstance(model.trunk, LibraryTrunk)
    for key, value in library_state(model.trunk).items():
        assert torch.equal(value, saved[key]), key


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
    with pytest.raises(UserError, match=message):
        build_model(protocol_with("torchvision:resnet18"), 3, 0, str(tmp_path / "w.pth"))


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("<html>not found</html>")
    with pytest.raises(DamagedFileError, match="is not a weights file"):
        build_model(protocol_with("torchvision:resnet18"), 3, 0, str(tmp_path / "w.pth"))


def test_addresses_carry_their_checksum() -> None:
    archive = find_weights("torchvision:resnet50")
    assert isinstance(archive, Archive)
    assert archive.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert archive.checksum == "sha256:0676ba61"
    assert needs_weights("timm:resnet18")
    old = find_weights("timm:legacy_xception.tf_in1k")
    assert isinstance(old, Archive)
    assert old.name == "xception-43020ad28.pth"
    assert old.checksum == "sha256:43020ad28"
    assert find_weights("timm:vit_giant_patch16_gap_224.in22k_ijepa") is None
    page = find_weights_page("timm:vit_giant_patch16_gap_224.in22k_ijepa")
    assert page == "https://dl.fbaipublicfiles.com/ijepa/IN22K-vit.g.16-600e.pth.tar"


def test_weights_of_timm_are_those_that_timm_would_load(monkeypatch: pytest.MonkeyPatch) -> None:
    file = HubFile("timm/resnet18.a1_in1k")
    assert find_weights("timm:resnet18") == find_weights("timm:resnet18.a1_in1k") == file
    page = "https://huggingface.co/timm/resnet18.a1_in1k"
    assert file.url == f"{page}/resolve/main/model.safetensors"
    assert file.name == "timm.resnet18.a1_in1k.safetensors"
    assert find_weights("timm:test_vit2") == HubFile("timm/test_vit2.r160_in1k")
    pinned = timm.models.PretrainedCfg(hf_hub_id="timm/net@v2", hf_hub_filename="old.bin")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: pinned)
    assert find_weights("timm:resnet18") == HubFile("timm/net", "v2", "old.bin")


def test_pixels_are_normalised_as_the_weights_were_trained() -> None:
    usual = torchvision_input("torchvision:resnet18")
    assert (usual.channel_order, usual.value_range) == ("RGB", 1.0)
    assert (usual.mean, usual.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torchvision_input("torchvision:efficientnet_v2_l").mean == (0.5, 0.5, 0.5)
    assert make_trunk("timm:test_vit").input_spec.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["torchvision:swin_t", "timm:test_vit"])
def test_views_without_dropout_are_the_plain_embeddings_in_training(name: str) -> None:
    """Dropout and stochastic depth of the library stay off: only masks make views differ."""
    model = build_model(protocol_with(name), 3, 0).train()
    generator = torch.Generator().manual_seed(0)
    masks = model.sample_masks(IMAGES, ViewSettings(2, 1, 0.0, 0.0), generator)
    with torch.no_grad():
        views, plain = model.make_views(IMAGES, masks), model(IMAGES)
    assert distance(plain[:1], plain[1:]) > 0.1
    for view in views:
        assert distance(view, plain) < 1e-5


def test_transformer_takes_crops_that_patches_do_not_fill() -> None:
    trunk = make_trunk("timm:test_vit")
    features = trunk.stem(torch.zeros(1, 3, 227, 227))
    assert features.shape == (1, 64, 14, 14)
    assert trunk.body(features).shape == (1, 64)


def test_every_batch_norm_of_timm_is_frozen() -> None:
    network = timm.create_model("test_efficientnet")
    network.train()
    freeze_batch_norm(network)
    norms = [m for m in network.modules() if isinstance(m, BatchNormAct2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_crops_too_small_for_a_trunk_are_refused_before_training() -> None:
    check_model(protocol_with("torchvision:resnet18"))
    with pytest.raises(UserError, match="does not take the 16 px crops of protocol smoke"):
        check_model(protocol_with("timm:test_convnext"))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_row_with_mining_trains_with_frozen_batch_norm(name: str, tmp_path: Path) -> None:
    config = make_config("contrastive+wpm", (0,))
    config = dataclasses.replace(config, protocol=protocol_with(name))
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
