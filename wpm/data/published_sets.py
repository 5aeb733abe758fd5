"""What is known of CUB-200-2011, Cars-196 and Stanford Online Products before they are opened.

`wpm.data.published_listings` reads them; docs/datasets.md shows their layouts and how to place the
files by hand.
"""

from dataclasses import dataclass

from wpm.data.archives import Archive


@dataclass(frozen=True)
class Download:
    """A file to download and, unless it is used as it is, the folder it unpacks to."""

    archive: Archive
    folder: str | None = None


@dataclass(frozen=True)
class PublishedSet:
    """One set, as its authors publish it.

    Attributes:
        dataset: its name in `DATASETS`.
        home: its folder below the work root.
        images: number of images.
        classes: number of classes, which the set numbers from 1.
        tops: folders below a given place at which the set's tree may begin, the usual one first.
        layouts: names of files and folders at the top of the tree; one complete layout is needed.
        downloads: what `--fetch` downloads to the place.
    """

    dataset: str
    home: str
    images: int
    classes: int
    tops: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    downloads: tuple[Download, ...]


CUB200 = PublishedSet(
    dataset="cub200",
    home="cub2011",
    images=11_788,
    classes=200,
    tops=("CUB_200_2011", ".", "cub2011/CUB_200_2011"),
    layouts=(("images.txt", "image_class_labels.txt", "classes.txt", "images"),),
    downloads=(
        Download(
            Archive(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                checksum="md5:97eceeb196236b17998738112f37df78",
                elsewhere="its page: https://www.vision.caltech.edu/datasets/cub_200_2011/",
            ),
            folder="CUB_200_2011",
        ),
    ),
)

CARS_MAT = ("cars_annos.mat", "car_ims")
# The layout that pytorch-metric-learning 2.9 downloads.
CARS_KAGGLE = ("names.csv", "anno_train.csv", "anno_test.csv", "car_data")
_CARS_ELSEWHERE = (
    "or unpack https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder "
    "into that folder instead"
)

CARS196 = PublishedSet(
    dataset="cars196",
    home="cars196",
    images=16_185,
    classes=196,
    tops=(".", "cars196"),
    layouts=(CARS_MAT, CARS_KAGGLE),
    # Not the address that pytorch-metric-learning 2.9 uses: Kaggle's zip has another layout and
    # no published checksum.
    downloads=(
        Download(
            Archive(
                url="http://imagenet.stanford.edu/internal/car196/cars_annos.mat",
                checksum="md5:b407c6086d669747186bd1d764ff9dbc",
                elsewhere=_CARS_ELSEWHERE,
            )
        ),
        Download(
            Archive(
                url="http://imagenet.stanford.edu/internal/car196/car_ims.tgz",
                checksum="md5:d5c8f0aa497503f355e17dc7886c3f14",
                elsewhere=_CARS_ELSEWHERE,
            ),
            folder="car_ims",
        ),
    ),
)

SOP = PublishedSet(
    dataset="sop",
    home="sop",
    images=120_053,
    classes=22_634,
    tops=("Stanford_Online_Products", ".", "sop/Stanford_Online_Products"),
    layouts=(("Ebay_train.txt", "Ebay_test.txt"),),
    downloads=(
        Download(
            Archive(
                url="https://drive.usercontent.google.com/download?"
                "id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&authuser=0&confirm=t",
                checksum="md5:7f73d41a2f44250d4779881525aea32e",
                file_name="Stanford_Online_Products.zip",
                elsewhere="its page: https://cvgl.stanford.edu/projects/lifted_struct/",
            ),
            folder="Stanford_Online_Products",
        ),
    ),
)
