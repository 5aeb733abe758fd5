"""A small convolutional trunk, trained from scratch."""

from torch import Tensor, nn

from wpm.data.crops import InputSpec
from wpm.model.trunk import Trunk, TrunkSource


class ConvNet(Trunk):
    """Four small convolutions for small images, trained from scratch.

    It normalises each image by itself (group norm), not over the batch. So images do not influence
    one another, as with the frozen batch norm of a pretrained trunk, and T passes over B images
    are the same as one pass over T x B.
    """

    stem_channels = 32
    native_size = 24
    feature_dim = 64 * 3 * 3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input_spec = InputSpec("RGB", 1.0, (0.5,) * channels, (0.25,) * channels)
        self.first = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
        self.rest = nn.Sequential(
            *_normalise(32),
            *_convolve(32, 48),
            nn.MaxPool2d(2),
            *_convolve(48, 64),
            nn.MaxPool2d(2),
            *_convolve(64, 64),
            # Strokes are distinguished by where they are: averaging over all positions instead
            # cost 0.1 MAP@R.
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )

    def stem(self, images: Tensor) -> Tensor:
        """Run the first convolution alone, before its normalisation."""
        output: Tensor = self.first(images)
        return output

    def body(self, features: Tensor) -> Tensor:
        """Run everything after the first convolution, to (B, 576) features."""
        output: Tensor = self.rest(features)
        return output


class ConvNetSource(TrunkSource):
    """The small trunk's entry: no weights file."""

    def build(self, name: str, channels: int) -> Trunk:
        """Build the trunk for images of so many channels."""
        return ConvNet(channels)


def _normalise(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(8, width), nn.ReLU()


def _convolve(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), *_normalise(width_out))
