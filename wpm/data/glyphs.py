"""A data set that needs no download: characters rendered from the fonts that matplotlib ships.

A class is a character. Class folders sort by script, so that a split by sorted class trains on some
scripts and tests on others.
"""

import json
import math
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from wpm.errors import UserError, storage_error

VERSION = 1  # raise it when the images change; folders of another version are refused
SIDE = 64  # px, of the square image
GLYPH_SIDE = 38.0  # px, longer side of a glyph at scale 1; it fits the frame turned or sheared
SUPERSAMPLING = 2  # draw at this many px per image px, then average, for smooth edges
EM = 96  # px, font size of the source glyph; its longer side is about GLYPH_SIDE * SUPERSAMPLING
MIN_FONTS = 3  # a class drawn in fewer fonts could be recognised by its font alone
MARKER = ".complete"
_environment_lock = threading.Lock()  # variables belong to all threads of the process

# (script, characters), sorted by script. All pairs were correlated under rotation, squeeze and
# mirroring (augmentation may flip), and lookalikes dropped: Greek and Cyrillic letters that look
# Latin, and ∃, which is E in a mirror.
SCRIPTS: tuple[tuple[str, str], ...] = (
    ("arabic", "جصطعكميثشوق\ufefb"),  # isolated forms; FEFB is lam-alef
    ("armenian", "ԲԳԹԺԽՁՃՇՋՎՔՖ"),
    ("astrological", "♄♈♉♊♋♌♍♎♐♑♒♓"),
    ("canadian", "ᐁᑌᑫᒉᓀᓚᔐᔦᕒᕓᕴᖃ"),
    ("cyrillic", "БДЖИФЦШЫЮЂЉѬ"),
    ("georgian", "აგდეთლფქღწჯჰ"),
    ("greek", "ΔΞΠΣΨΩαβζλμξ"),
    ("hebrew", "אבגהטלמעפצקש"),
    ("lao", "ກຈຊດນຜຢວສຫຯ໘"),
    ("latin", "AEGKMQRSWegt"),
    ("mathematical", "∀∈∝∞∫√±÷≠≤⊥⊗"),
    ("pictorial", "♔♖♗♘♣♪☂☎☠☯⚓✈"),
)

FONT_FILES = (
    *(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
)


@dataclass(frozen=True)
class Distortion:
    """How much images of one class differ; every quantity is drawn uniformly for each image.

    Attributes:
        rotation: largest turn either way, degrees.
        scale_min: smallest size, as a fraction of the undistorted size.
        scale_max: largest size, as a fraction of the undistorted size.
        squeeze: largest |log| of the factor that widens and, inversely, flattens.
        shear: largest horizontal shift either way per unit of height.
        stroke: largest growth of line thickness, px at scale 1.
        translation: largest shift either way along each axis, fraction of the image side.
        clutter: largest number of straight lines across the image, each of ink or of paper.
        clutter_width: largest thickness of these lines, px; the smallest is 1.
        blur: largest standard deviation of the Gaussian blur, px.
        contrast_min: smallest grey distance of ink and paper; 1 is black to white.
        inversion: probability of dark ink on light paper instead of light on dark.
        noise: standard deviation of the white noise, of all images alike; 1 is black to white.
    """

    rotation: float = 20.0
    scale_min: float = 0.75
    scale_max: float = 1.1
    squeeze: float = 0.2
    shear: float = 0.25
    stroke: float = 2.0
    translation: float = 0.07
    clutter: int = 1
    clutter_width: float = 2.5
    blur: float = 1.0
    contrast_min: float = 0.6
    inversion: float = 0.0
    noise: float = 0.1


DEFAULT_DISTORTION = Distortion()


def render_glyphs(
    root: Path,
    *,
    seed: int = 0,
    images_per_class: int = 20,
    scripts: Sequence[tuple[str, str]] = SCRIPTS,
    distortion: Distortion = DEFAULT_DISTORTION,
) -> None:
    """Write `root/<script>/U+<code point>/<number>.png`, 64 x 64 px, 8-bit greyscale.

    An image depends only on the seed, its character and its number. `root` appears complete or
    not at all, also when several processes render at once; if it exists already, nothing is
    drawn.

    Example:
        >>> render_glyphs(Path("data/glyphs"))

    Args:
        root: folder to make; its parents are made too.
        seed: of all distortions, at least 0.
        images_per_class: at least 1.
        scripts: (script, characters) pairs: one folder per script, one class per character.
        distortion: how much images of a class differ.

    Raises:
        UserError: a number is too small, `root` holds anything but exactly this data set, or the
            installed fonts lack a character.
        StorageError: the images cannot be written; nothing is left behind.
    """
    if seed < 0 or images_per_class < 1:
        raise UserError(
            f"seed is {seed} and images_per_class {images_per_class}: "
            "seed must be at least 0 and images_per_class at least 1"
        )
    recipe = {
        "version": VERSION,
        "seed": seed,
        "classes": sum(len(characters) for _, characters in scripts),
        "images_per_class": images_per_class,
        "scripts": dict(scripts),
        "distortion": asdict(distortion),
    }
    if _is_rendered(root, recipe):
        return
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"  # a sibling: rename is atomic
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _folder_for_matplotlib(root.parent):
            opened = [(script, fonts_with(characters)) for script, characters in scripts]
        for script, found in opened:
            for character, fonts in found.items():
                folder = draft / script / f"U+{ord(character):04X}"
                folder.mkdir(parents=True)
                for number in range(images_per_class):
                    rng = np.random.default_rng((seed, ord(character), number))
                    pixels = draw_image(character, fonts, rng, distortion)
                    Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        # Plain JSON, not `files.write_json`: every value is compared with the recipe anyway, and
        # folders that earlier versions rendered have no checksum.
        (draft / MARKER).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        _publish(draft, root, recipe)
    except OSError as error:
        raise storage_error(root, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # was renamed, unless we failed or came second


@contextmanager
def _folder_for_matplotlib(parent: Path) -> Iterator[None]:
    """Give matplotlib a folder for its settings for a while, unless the user has named one.

    Its import fails, or warns, where neither the home folder nor /tmp can be written; we only ask
    it where its fonts are.
    """
    with _environment_lock, ExitStack() as stack:
        if "MPLCONFIGDIR" in os.environ:
            yield
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=parent, prefix=".matplotlib-"))
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def fonts_with(characters: str) -> dict[str, list[ImageFont.FreeTypeFont]]:
    """Open the fonts of `FONT_FILES` that have each character.

    Returns:
        The fonts of every character.

    Raises:
        UserError: fewer than `MIN_FONTS` fonts have a character.
    """
    import matplotlib  # here because it is slow to import, and needed only to render
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found: dict[str, list[ImageFont.FreeTypeFont]] = {character: [] for character in characters}
    for path in (folder / name for name in FONT_FILES):
        if not path.is_file():
            continue  # the count below decides whether the other fonts are enough
        # BASIC, because the optional library raqm would join letters where it is installed.
        font = ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)
        covered = FT2Font(path).get_charmap()
        for character in characters:
            if ord(character) in covered:
                found[character].append(font)
    for character, fonts in found.items():
        if len(fonts) < MIN_FONTS:
            raise UserError(
                f"{len(fonts)} fonts in {folder} have U+{ord(character):04X} ({character}), "
                f"{MIN_FONTS} are needed; install matplotlib 3.11 with its fonts or drop it"
            )
    return found


def draw_image(
    character: str,
    fonts: Sequence[ImageFont.FreeTypeFont],
    rng: np.random.Generator,
    distortion: Distortion = DEFAULT_DISTORTION,
) -> NDArray[np.uint8]:
    """Draw one distorted image of a character in a random font.

    Args:
        character: what to draw.
        fonts: fonts that have it, as `fonts_with` opens them.
        rng: chooses the font and every distortion.
        distortion: how much images of a class differ.

    Returns:
        (`SIDE`, `SIDE`) grey values, from 0 for black to 255 for white.
    """
    font = fonts[int(rng.integers(len(fonts)))]
    ink = _warp(_draw_glyph(character, font, rng.uniform(0, distortion.stroke)), rng, distortion)
    _draw_clutter(ink, rng, distortion)
    ink = ink.reduce(SUPERSAMPLING)
    ink = ink.filter(ImageFilter.GaussianBlur(rng.uniform(0, distortion.blur)))
    contrast = rng.uniform(distortion.contrast_min, 1)
    grey = rng.uniform(0, 1 - contrast) + contrast * np.asarray(ink) / 255
    if rng.random() < distortion.inversion:
        grey = 1 - grey
    grey = grey + distortion.noise * rng.standard_normal(grey.shape)
    return (np.clip(grey, 0, 1) * 255).round().astype(np.uint8)


def _draw_glyph(character: str, font: ImageFont.FreeTypeFont, stroke: float) -> Image.Image:
    """Draw a glyph, cropped and magnified, with lines `stroke` px thicker at image scale."""
    left, top, right, bottom = font.getbbox(character)
    # Pillow widens a line by `margin` px on both sides of this larger drawing. The drawing, grown
    # by these lines, is then shrunk to GLYPH_SIDE, so that
    # 2 margin GLYPH_SIDE / (longer side + 2 margin) = stroke.
    margin = stroke * max(right - left, bottom - top) / (2 * (GLYPH_SIDE - stroke))
    border = math.ceil(margin) + 1
    size = (round(right - left) + 2 * border, round(bottom - top) + 2 * border)
    glyph = Image.new("L", size)
    ImageDraw.Draw(glyph).text(
        (border - left - margin, border - top - margin), character, 255, font, stroke_width=margin
    )
    return glyph


def _warp(glyph: Image.Image, rng: np.random.Generator, distortion: Distortion) -> Image.Image:
    """Place a glyph, turned, sheared, scaled and shifted, on the supersampled image."""
    angle = math.radians(rng.uniform(-distortion.rotation, distortion.rotation))
    shear = rng.uniform(-distortion.shear, distortion.shear)
    widen = math.exp(rng.uniform(-distortion.squeeze, distortion.squeeze))
    scale = rng.uniform(distortion.scale_min, distortion.scale_max)
    shift = rng.uniform(-distortion.translation, distortion.translation, size=2)
    # Give every glyph the same longer side: its size must not reveal its class.
    scale *= GLYPH_SIDE * SUPERSAMPLING / max(glyph.size)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = scale * turn @ np.array([[1, shear], [0, 1]]) @ np.diag([widen, 1 / widen])
    back = np.linalg.inv(forward)  # Pillow wants to know where each output pixel comes from
    side = SIDE * SUPERSAMPLING
    offset = np.array(glyph.size) / 2 - back @ (side * (0.5 + shift))
    matrix = (*back[0], offset[0], *back[1], offset[1])
    return glyph.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _draw_clutter(ink: Image.Image, rng: np.random.Generator, distortion: Distortion) -> None:
    """Draw random lines on the supersampled image; lines of paper cut through the glyph."""
    draw = ImageDraw.Draw(ink)
    for _ in range(int(rng.integers(distortion.clutter + 1))):
        ends = rng.uniform(0, ink.width, size=4).tolist()
        width = round(SUPERSAMPLING * rng.uniform(1, max(1, distortion.clutter_width)))
        draw.line(ends, fill=255 * int(rng.integers(2)), width=width)


def _is_rendered(root: Path, recipe: Mapping[str, Any]) -> bool:
    """Return whether `root` exists and holds this data set.

    Raises:
        UserError: it exists and holds anything else.
    """
    if not root.exists():
        return False
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{root} exists without a readable {MARKER}, so it is not a complete set of glyphs; "
            "remove it or name another folder"
        )
    differing = [key for key in recipe if found.get(key) != recipe[key]]
    if differing:
        raise UserError(
            f"{root} holds glyphs of another {', '.join(differing)}; "
            "remove it or name another folder"
        )
    return True


def _publish(draft: Path, root: Path, recipe: Mapping[str, Any]) -> None:
    """Rename `draft` to `root`, unless another process came first with the same data set."""
    try:
        draft.rename(root)
    except OSError:
        if not _is_rendered(root, recipe):
            raise
