"""The trunk against the public implementation its weights were made for, and the weights loader."""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model import bninception
from wpm.model.bninception import BNInception, load_bninception_weights


def load_public_module() -> Any:
    """`pretrainedmodels.models.bninception`, run from its file: importing the whole package needs
    `six`, which it does not declare, and warns, which is an error here."""
    package = importlib.util.find_spec("pretrainedmodels")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "models" / "bninception.py"
    spec = importlib.util.spec_from_file_location("public_bninception", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


public_module = load_public_module()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """The public network, random. Its norms' statistics come from data, so that features are of
    order 1 (the tolerance is absolute), and are then disturbed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = public_module.bninception(pretrained=None)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            norm.momentum = 1.0
        with torch.no_grad():
            network.train()(random_images(8, 224))
            for norm in norms:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                scale = norm.running_var.sqrt()
                norm.running_mean += 0.1 * scale * torch.randn(scale.shape)
                norm.running_var *= torch.rand(scale.shape) * 0.4 + 0.8
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


@pytest.fixture
def trunk(reference: nn.Module) -> BNInception:
    network = BNInception().eval()
    network.load_state_dict(without_classifier(reference.state_dict()), strict=True)
    return network


def random_images(count: int, height: int, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(count + height)
    shape = (count, 3, height, width or height)
    return torch.rand(shape, generator=generator) * 255.0 - 110.0


def without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("last_linear.")}


def reference_features(reference: nn.Module, images: Tensor) -> Tensor:
    """Pool as the network does: average over a window as wide as the last map."""
    maps: Tensor = reference.features(images)  # type: ignore[operator]
    return nn.functional.avg_pool2d(maps, maps.shape[2:]).flatten(1)


def test_names_and_shapes_equal_the_public_ones(reference: nn.Module) -> None:
    own = [(name, value.shape) for name, value in BNInception().state_dict().items()]
    public = without_classifier(reference.state_dict())
    assert own == [(name, value.shape) for name, value in public.items()]


def test_norm_settings_equal_the_public_ones(reference: nn.Module, trunk: BNInception) -> None:
    for name, module in trunk.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            public = reference.get_submodule(name)
            assert isinstance(public, nn.BatchNorm2d)
            assert (module.eps, module.momentum) == (public.eps, public.momentum)


def test_input_constants_equal_the_public_ones() -> None:
    public = public_module.pretrained_settings["bninception"]["imagenet"]
    assert list(bninception.MEAN) == public["mean"]
    assert list(bninception.STD) == public["std"]
    assert public["input_space"] == bninception.CHANNEL_ORDER
    assert public["input_range"] == [0, bninception.VALUE_RANGE]
    assert public["url"] == bninception.WEIGHTS_URL


# 225: odd maps before the first two pools; 64 x 96: small and not square.
@pytest.mark.parametrize(("height", "width"), [(227, 227), (224, 224), (225, 225), (64, 96)])
def test_features_equal_the_public_network(
    reference: nn.Module, trunk: BNInception, height: int, width: int
) -> None:
    images = random_images(2, height, width)
    with torch.no_grad():
        expected = reference_features(reference, images)
        features = trunk(images)
    assert features.shape == (2, trunk.feature_dim)
    assert 0.1 < expected.std() < 10.0  # else an absolute tolerance says nothing
    torch.testing.assert_close(features, expected, rtol=0.0, atol=1e-5)


def test_gradients_equal_the_public_network(reference: nn.Module, trunk: BNInception) -> None:
    images = random_images(2, 227)
    target = torch.randn(2, trunk.feature_dim, generator=torch.Generator().manual_seed(1))
    names = [
        "conv1_7x7_s2.weight",
        "conv1_7x7_s2_bn.weight",
        "conv2_3x3.weight",
        "inception_3c_double_3x3_2.weight",
        "inception_4e_3x3.bias",
        "inception_5b_pool_proj.weight",
    ]
    gradients = []
    for network, features in (
        (reference, reference_features(reference, images)),
        (trunk, trunk(images)),
    ):
        loss = (features * target).sum()
        gradients.append(torch.autograd.grad(loss, [network.get_parameter(n) for n in names]))
    for name, expected, gradient in zip(names, *gradients, strict=True):
        assert expected.norm() > 0.0
        assert (gradient - expected).norm() < 1e-4 * expected.norm(), name


@pytest.mark.parametrize("size", [7, 33, 50, 112])
def test_sizes_that_the_public_network_refuses_are_mapped(trunk: BNInception, size: int) -> None:
    with torch.no_grad():
        features = trunk(random_images(1, size))
    assert features.shape == (1, trunk.feature_dim)
    assert features.isfinite().all()


def test_forward_is_body_of_stem_and_body_leaves_the_stem_output(trunk: BNInception) -> None:
    images = random_images(2, 65)
    with torch.no_grad():
        features = trunk.stem(images)
        before = features.clone()
        assert features.shape == (2, trunk.stem_channels, 33, 33)
        assert torch.equal(features, trunk.conv1_7x7_s2(images))  # type: ignore[operator]
        assert torch.equal(trunk.body(features), trunk(images))
    assert torch.equal(features, before)


def test_body_of_stacked_passes_equals_pass_by_pass(trunk: BNInception) -> None:
    with torch.no_grad():
        shared = trunk.stem(random_images(3, 64))
        generator = torch.Generator().manual_seed(2)
        kept = torch.rand(4, 3, trunk.stem_channels, 1, 1, generator=generator) > 0.1
        passes = shared * kept / 0.9  # (T, N, 64, h, w)
        stacked = trunk.body(passes.flatten(0, 1)).view(4, 3, trunk.feature_dim)
        alone = torch.stack([trunk.body(one_pass) for one_pass in passes])
    torch.testing.assert_close(stacked, alone, rtol=0.0, atol=1e-5)


def save(state: object, folder: Path, *, legacy: bool = False) -> Path:
    path = folder / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_loader_loads_the_public_layout(reference: nn.Module, tmp_path: Path) -> None:
    path = save(reference.state_dict(), tmp_path)
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:9]
    trunk = BNInception()
    load_bninception_weights(trunk, path, expected_sha256_prefix=prefix)
    for name, parameter in without_classifier(reference.state_dict()).items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(trunk.state_dict()[name], parameter), name


def test_loader_loads_an_old_file_without_batch_counters(
    reference: nn.Module, tmp_path: Path
) -> None:
    state = {k: v for k, v in reference.state_dict().items() if "num_batches" not in k}
    trunk = BNInception()
    path = save(state, tmp_path, legacy=True)
    load_bninception_weights(trunk, path, expected_sha256_prefix=None)
    assert torch.equal(trunk.state_dict()["conv2_3x3.weight"], state["conv2_3x3.weight"])


def refusal(path: Path, prefix: str | None = None) -> str:
    """Return the loader's message, after checks that hold for every refusal."""
    trunk = BNInception()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    # Of the disk: a trial has not failed for it.
    with pytest.raises((StorageError, DamagedFileError)) as caught:
        load_bninception_weights(trunk, path, expected_sha256_prefix=prefix)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert bninception.WEIGHTS_URL in message
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    return message


def test_loader_refuses_a_missing_name(reference: nn.Module, tmp_path: Path) -> None:
    state = dict(reference.state_dict())
    del state["inception_4c_3x3.weight"]
    message = refusal(save(state, tmp_path))
    assert "1 entries differ, first inception_4c_3x3.weight: absent, expected (160, 128," in message


def test_loader_refuses_an_unexpected_name(reference: nn.Module, tmp_path: Path) -> None:
    state = {**reference.state_dict(), "inception_6a_1x1.bias": torch.zeros(3)}
    message = refusal(save(state, tmp_path))
    assert "first inception_6a_1x1.bias: (3,), expected absent" in message


def test_loader_refuses_a_wrong_shape(reference: nn.Module, tmp_path: Path) -> None:
    # (1, 64) is what the older public file, bn_inception-9f5701afb96c8044.pth, holds.
    state = dict(reference.state_dict())
    state["conv1_7x7_s2_bn.bias"] = state["conv1_7x7_s2_bn.bias"][None]
    message = refusal(save(state, tmp_path))
    assert "first conv1_7x7_s2_bn.bias: (1, 64), expected (64,)" in message


def test_loader_refuses_a_wrong_checksum(reference: nn.Module, tmp_path: Path) -> None:
    path = save(reference.state_dict(), tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    message = refusal(path, prefix=bninception.WEIGHTS_SHA256_PREFIX)
    assert f"starts with {digest[:9]}, not 52deb4733" in message


def test_loader_checks_the_checksum_of_the_public_file_by_default(tmp_path: Path) -> None:
    path = save({}, tmp_path)
    with pytest.raises(UserError, match="not 52deb4733"):
        load_bninception_weights(BNInception(), path)


def test_loader_refuses_a_missing_file(tmp_path: Path) -> None:
    assert "no BN-Inception weights file at" in refusal(tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"PK\x03\x04 cut short"])
def test_loader_refuses_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert "does not hold the trunk's weights" in refusal(path)


def test_loader_refuses_a_tensor_in_place_of_a_dict(tmp_path: Path) -> None:
    assert "a Tensor instead of a dict" in refusal(save(torch.zeros(3), tmp_path))
