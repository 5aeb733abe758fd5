"""How much crops from cached pixels differ from Pillow's, in grey levels from 0 to 255.

python -m benchmarks.transform_tolerance            # 400 images, half a minute
python -m benchmarks.transform_tolerance --quick    # 40 images
"""

import argparse

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from wpm.data.crop_boxes import centre_crop_boxes, sample_crop_boxes
from wpm.data.crops import resize_crops
from wpm.protocol_files import find_protocol


def make_image(kind: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return a (3, H, W) uint8 image: noise, black and white noise (the worst case), or smooth."""
    if kind == "smooth":
        coarse = torch.rand((1, 3, 8, 8), generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
        return (255 * fine.clamp(0, 1)).round().to(torch.uint8)
    noise = torch.rand((3, height, width), generator=generator)
    return (255 * (noise.round() if kind == "extreme" else noise)).round().to(torch.uint8)


def crop_by_pillow(image: Tensor, box: tuple[int, ...], size: int, flipped: bool) -> Tensor:
    """Crop, resize and mirror one image as a loader of image files does."""
    top, left, height, width = box
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.crop((left, top, left + width, top + height))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    if flipped:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    levels: Tensor = pil_to_tensor(picture).float()
    return levels


def measure(kind: str, way: str, count: int) -> tuple[float, float]:
    """Return the largest and the mean difference over `count` images of at least 256 px."""
    protocol = find_protocol("mlrc", "cub200")
    generator = torch.Generator().manual_seed(0)
    largest, means = 0.0, 0.0
    for number in range(count):
        long = protocol.resize + int(torch.randint(200, (), generator=generator))
        height, width = (protocol.resize, long) if number % 2 else (long, protocol.resize)
        image, sizes = make_image(kind, height, width, generator), torch.tensor([[height, width]])
        boxes = centre_crop_boxes(sizes, protocol.crop)
        if way == "random":
            scale, ratio = protocol.crop_scale, protocol.crop_ratio
            boxes = sample_crop_boxes(sizes, scale, ratio, generator)
        flipped = way == "random" and number % 4 < 2
        found = resize_crops(image[None], boxes, protocol.crop, torch.tensor([flipped]))[0]
        expected = crop_by_pillow(image, tuple(boxes[0].tolist()), protocol.crop, flipped)
        error = (found - expected).abs()
        largest, means = max(largest, error.max().item()), means + error.mean().item()
    return largest, means / count


def main() -> None:
    """Print a line for each kind of image and each way to crop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    count = 40 if parser.parse_args().quick else 400
    for kind in ("smooth", "noise", "extreme"):
        for way in ("random", "centre"):
            largest, mean = measure(kind, way, count)
            print(f"{kind}, {way} crop, {count} images: largest {largest:.3f}, mean {mean:.3f}")


if __name__ == "__main__":
    main()
