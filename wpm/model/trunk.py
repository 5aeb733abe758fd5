"""What a trunk is, and what an entry in the list of trunks offers (`wpm.model.trunks`)."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.data.hub import HubFile


class Trunk(nn.Module, ABC):
    """A network from images to features, cut after its first convolution.

    Within-pair mining drops channels at the cut: views share the first convolution's output and
    differ from there on.

    Attributes:
        feature_dim: F, features of an image.
        stem_channels: S, channels of the first convolution's output.
        input_spec: how the trunk expects its pixels.
        native_size: side in pixels of the images that its weights were trained on or, of a trunk
            that is trained from scratch, that it was designed for. Other sizes work too.
    """

    feature_dim: int
    stem_channels: int
    input_spec: InputSpec
    native_size: int

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """Run the first convolution alone, before its normalisation: where channels are dropped.

        Args:
            images: (B, C, H, W) float.

        Returns:
            (B, S, H', W').
        """

    @abstractmethod
    def body(self, features: Tensor) -> Tensor:
        """Run everything after the first convolution.

        Args:
            features: (B, S, H', W'), left unchanged.

        Returns:
            (B, F).
        """


class TrunkSource(ABC):
    """An entry in the list of trunks: how to build a trunk, and where its weights are.

    One entry is either a single network or a library, whose networks are named `LIBRARY:NAME`.
    The defaults are right for a single network that is trained from scratch.

    Attributes:
        needs_weights: whether the trunk starts from weights in a file.
    """

    needs_weights = False

    @abstractmethod
    def build(self, name: str, channels: int) -> Trunk:
        """Build a trunk with random weights, drawn from torch's global generator.

        Args:
            name: as the protocol spells it.
            channels: of the images, 1 or 3. A trunk that always takes three may ignore it: the
                batch repeats the channel of greyscale images.

        Raises:
            UserError: the network does not exist, or cannot serve as a trunk.
        """

    def check_name(self, name: str) -> None:  # noqa: B027  (a single network has nothing to check)
        """Refuse a network that the library does not have.

        Raises:
            UserError: there is no such network; the message names similar ones.
        """

    def load_weights(self, trunk: Trunk, path: Path) -> None:
        """Read a weights file into a trunk: all of its weights or, on an error, none.

        Raises:
            StorageError: the file is missing.
            DamagedFileError: it cannot be read, or is another file than expected.
            UserError: it does not fit the trunk.
        """
        raise NotImplementedError(f"{type(trunk).__name__} is trained from scratch")

    def find_weights(self, name: str) -> Archive | HubFile | None:
        """Return the weights file to download; None where none can be verified by a checksum."""
        return None

    def find_weights_page(self, name: str) -> str:
        """Return the address of a page to download weights from by hand; "" where none is known."""
        return ""
