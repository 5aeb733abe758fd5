"""What a trunk is, and a small one for small images."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from wpm.data.crops import InputSpec


class Trunk(nn.Module, ABC):
    """A network whose first convolution stands apart, so that views can start there."""

    feature_dim: int
    stem_channels: int
    input_spec: InputSpec

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to the first convolution's output (B, S, H', W')."""

    @abstractmethod
    def body(self, features: Tensor) -> Tensor:
        """(B, S, H', W') to (B, feature_dim)."""
