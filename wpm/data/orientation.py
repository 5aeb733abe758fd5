"""Which way up a photograph is, as its EXIF or XMP metadata say."""

from PIL import ExifTags, Image

_TAG = ExifTags.Base.Orientation
# What makes an image upright, by the value of the tag. 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def find_turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes an image upright; None where it is, or where its metadata are broken.

    TIFF files are upright once they are loaded, because Pillow turns them itself.
    """
    return _TURNS.get(_read_tag(image))


def prepare_loading(image: Image.Image) -> None:
    """Keep Pillow from mapping a sideways TIFF file into memory.

    Pillow 13 maps files without compression that were opened by name. Of sideways ones it takes
    height for width, so that every row starts in the wrong place.
    """
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_TAG) in _SIDEWAYS:
        image.filename = ""  # type: ignore[attr-defined]


def upright_size(image: Image.Image, *, turns: bool) -> tuple[int, int]:
    """Return the width and height that an image will have once loaded.

    Args:
        image: an image that is open, but not loaded.
        turns: whether it will be turned as `find_turn` says. TIFF files are in any case.
    """
    width, height = image.size
    if image.format == "TIFF":
        # Pillow has looked at the tag already, but not at XMP metadata.
        turns = _TAG not in getattr(image, "tag_v2", {})
    return (height, width) if turns and _read_tag(image) in _SIDEWAYS else (width, height)


def _read_tag(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_TAG, 1)
    except Exception:  # whatever broken metadata raise, the pixels may be fine
        return 1
    return value if isinstance(value, int) else 1
