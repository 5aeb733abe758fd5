"""Made images: photographs of sorts, drawings, and files that are no images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Make = Callable[[np.random.Generator, int], Image.Image]


def make_photograph(rng: np.random.Generator, side: int) -> Image.Image:
    """Make smooth shapes of several colours with a gradient of light and noise."""
    shapes = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    size = (side * 5 // 4, side)
    smooth = np.asarray(shapes.resize(size, Image.Resampling.BICUBIC)).astype(float)
    light = np.linspace(0.6, 1.0, size[0])[None, :, None]
    noisy = smooth * light + rng.normal(0, 8, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def make_grey_photograph(rng: np.random.Generator, side: int) -> Image.Image:
    return make_photograph(rng, side).convert("L")


def make_drawing(
    rng: np.random.Generator, side: int, ink: str = "black", paper: str = "white"
) -> Image.Image:
    """Draw lines with smooth edges."""
    large = Image.new("RGB", (2 * side, 2 * side), paper)
    draw = ImageDraw.Draw(large)
    for _ in range(8):
        points = [(int(x), int(y)) for x, y in rng.integers(0, 2 * side, (3, 2))]
        draw.line(points, fill=ink, width=max(1, side // 30))
    return large.resize((side, side), Image.Resampling.LANCZOS)


def make_blue_drawing(rng: np.random.Generator, side: int) -> Image.Image:
    return make_drawing(rng, side, "blue", "lightyellow")


def write_pictures(
    root: Path,
    makes: list[Make],
    side: int,
    *,
    classes: int = 16,
    images: int = 4,
    ending: str = "jpg",
) -> Path:
    """Write a tree of classes whose images are made in turn."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class_{label:02d}"
        folder.mkdir(parents=True)
        for number in range(images):
            picture = makes[number % len(makes)](rng, side)
            # PNG has no use for a quality.
            picture.save(folder / f"{number}.{ending}", quality=50)
    return root
