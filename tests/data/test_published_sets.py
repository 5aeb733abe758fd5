"""CUB, Cars and SOP in miniature: every layout, fetched or placed by hand; gaps are refused."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.support.download_server import Server, serve
from tests.support.errors import error_line
from tests.support.image_trees import image_bytes, make_tree
from wpm.data.archives import Archive
from wpm.data.datasets import DATASETS, load_index
from wpm.data.index import DataSource, ImageIndex
from wpm.data.published_listings import load_cars196, load_cub200, load_sop
from wpm.data.published_sets import CARS196, CUB200, SOP, Download, PublishedSet
from wpm.errors import UserError


def make_cub(place: Path) -> None:
    """Three classes; the files list their images in another order than that of the classes."""
    top = place / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    images = [f"{names[2]}/c.jpg", f"{names[0]}/b.jpg", f"{names[0]}/a.jpg", f"{names[1]}/a.jpg"]
    make_tree(top / "images", *images)
    (top / "images.txt").write_text("".join(f"{i} {p}\n" for i, p in enumerate(images, 1)))
    # By image number, not by line.
    (top / "image_class_labels.txt").write_text("4 2\n2 1\n3 1\n1 3\n")
    (top / "classes.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names, 1)))


CUB_PATHS = (
    "images/001.Black_footed_Albatross/a.jpg",
    "images/001.Black_footed_Albatross/b.jpg",
    "images/002.Laysan_Albatross/a.jpg",
    "images/003.Sooty_Albatross/c.jpg",
)
CAR_NAMES = ("Tesla Model S", "Acura RL", "Ram C/V Cargo Van")  # not in alphabetical order


def write_annotations(file: Path, cars: list[tuple[str, int]]) -> None:
    """Write a .mat of the published form: a 1 x N struct array with the fields that matter."""
    annotations = np.empty((1, len(cars)), [("relative_im_path", "O"), ("class", "O")])
    for i, (path, number) in enumerate(cars):
        annotations[0, i] = (path, np.uint8(number))
    names = np.empty((1, len(CAR_NAMES)), "O")
    names[0, :] = CAR_NAMES
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": annotations, "class_names": names})


def make_cars_mat(place: Path) -> None:
    cars = [("car_ims/000001.jpg", 3), ("car_ims/000002.jpg", 1), ("car_ims/000003.jpg", 2)]
    make_tree(place, *(path for path, _ in cars), "car_ims/000004.jpg")
    write_annotations(place / "cars_annos.mat", [*cars, ("car_ims/000004.jpg", 1)])


def make_cars_kaggle(place: Path) -> None:
    folders = [name.replace("/", "-") for name in CAR_NAMES]
    make_tree(
        place / "car_data" / "car_data",
        f"train/{folders[0]}/00001.jpg",
        f"train/{folders[2]}/00002.jpg",
        f"test/{folders[0]}/00001.jpg",
        f"test/{folders[1]}/00002.jpg",
    )
    (place / "names.csv").write_text("".join(f"{name}\n" for name in CAR_NAMES))
    (place / "anno_train.csv").write_text("00001.jpg,1,2,3,4,1\n00002.jpg,1,2,3,4,3\n")
    (place / "anno_test.csv").write_text("00001.jpg,1,2,3,4,1\n00002.jpg,1,2,3,4,2\n")


def make_sop(place: Path) -> None:
    top = place / "Stanford_Online_Products"
    title = "image_id class_id super_class_id path\n"
    make_tree(
        top,
        "bicycle_final/1_0.JPG",
        "bicycle_final/1_1.JPG",
        "chair_final/2_0.JPG",
        "bicycle_final/3_0.JPG",
    )
    (top / "Ebay_train.txt").write_text(
        title + "1 2 2 chair_final/2_0.JPG\n2 1 1 bicycle_final/1_1.JPG\n"
    )
    (top / "Ebay_test.txt").write_text(
        title + "3 3 1 bicycle_final/3_0.JPG\n4 1 1 bicycle_final/1_0.JPG\n"
    )


@dataclass(frozen=True)
class Case:
    """One layout in miniature, and the index that it stands for."""

    make: Callable[[Path], None]
    load: Callable[[DataSource, bool, PublishedSet], ImageIndex]
    published: PublishedSet
    top: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]

    def open(
        self, root: Path | None, work: Path, *, fetch: bool = False, **known: object
    ) -> ImageIndex:
        published = replace(self.published, **{"images": 4, "classes": 3, **known})  # type: ignore[arg-type]
        return self.load(DataSource(published.dataset, root, work), fetch, published)


CUB = Case(
    make_cub,
    load_cub200,
    CUB200,
    "CUB_200_2011",
    CUB_PATHS,
    (0, 0, 1, 2),
    ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"),
)
CARS_NAMES_IN_ORDER = ("001.Tesla Model S", "002.Acura RL", "003.Ram C/V Cargo Van")
CARS = Case(
    make_cars_mat,
    load_cars196,
    CARS196,
    ".",
    ("car_ims/000002.jpg", "car_ims/000004.jpg", "car_ims/000003.jpg", "car_ims/000001.jpg"),
    (0, 0, 1, 2),
    CARS_NAMES_IN_ORDER,
)
CARS_KAGGLE = Case(
    make_cars_kaggle,
    load_cars196,
    CARS196,
    ".",
    (
        "car_data/car_data/test/Tesla Model S/00001.jpg",
        "car_data/car_data/train/Tesla Model S/00001.jpg",
        "car_data/car_data/test/Acura RL/00002.jpg",
        "car_data/car_data/train/Ram C-V Cargo Van/00002.jpg",
    ),
    (0, 0, 1, 2),
    CARS_NAMES_IN_ORDER,
)
PRODUCTS = Case(
    make_sop,
    load_sop,
    SOP,
    "Stanford_Online_Products",
    (
        "bicycle_final/1_0.JPG",
        "bicycle_final/1_1.JPG",
        "chair_final/2_0.JPG",
        "bicycle_final/3_0.JPG",
    ),
    (0, 0, 1, 2),
    ("00001.bicycle", "00002.chair", "00003.bicycle"),
)
CASES = {"cub": CUB, "cars": CARS, "cars_kaggle": CARS_KAGGLE, "sop": PRODUCTS}
every_layout = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


# Layouts


@every_layout
def test_layout_is_listed_in_the_sets_own_numbering(case: Case, tmp_path: Path) -> None:
    home = tmp_path / case.published.home
    case.make(home)
    index = case.open(None, tmp_path)
    assert (index.dataset, index.root, index.channels) == (
        case.published.dataset,
        home / case.top,
        3,
    )
    assert index.paths == case.paths
    assert index.labels.tolist() == list(case.labels)
    assert index.labels.dtype == np.int64
    assert index.class_names == case.names
    assert list(index.class_names) == sorted(index.class_names)
    assert all((index.root / path).is_file() for path in index.paths)


@every_layout
@pytest.mark.parametrize("given", ["parent", "home", "top"])
def test_data_root_may_be_the_folder_or_its_parent(case: Case, given: str, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere" / case.published.home
    case.make(home)
    root = {"parent": home.parent, "home": home, "top": home / case.top}[given]
    index = case.open(root, tmp_path / "work")
    assert index.root == home / case.top
    assert index.paths == case.paths


@every_layout
def test_images_are_not_opened(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    for path in case.paths:
        (tmp_path / case.top / path).write_bytes(b"no image")
    assert case.open(tmp_path, tmp_path).paths == case.paths


def test_annotations_without_images_do_not_hide_the_other_layout(tmp_path: Path) -> None:
    make_cars_kaggle(tmp_path)
    write_annotations(tmp_path / "cars_annos.mat", [("car_ims/000001.jpg", 1)])
    assert CARS_KAGGLE.open(tmp_path, tmp_path).paths == CARS_KAGGLE.paths


@pytest.mark.parametrize("published", [CUB200, CARS196, SOP], ids=lambda p: p.dataset)
def test_sets_are_data_sets_by_name(published: PublishedSet, tmp_path: Path) -> None:
    assert published.dataset in DATASETS
    assert published.dataset in DATASETS
    with pytest.raises(UserError, match="add --fetch") as caught:
        load_index(DataSource(published.dataset, None, tmp_path))
    message = error_line(caught)
    assert str(tmp_path / published.home) in message
    assert all(download.archive.url in message for download in published.downloads)


# What is incomplete


@every_layout
def test_wrong_counts_are_refused(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    with pytest.raises(UserError, match=r"lists 4 images of 3 classes, but .* has 5 of 3"):
        case.open(tmp_path, tmp_path, images=5)
    with pytest.raises(UserError, match=r"lists 4 images of 3 classes, but .* has 4 of 196"):
        case.open(tmp_path, tmp_path, classes=196)


def test_gap_in_the_numbering_is_refused(tmp_path: Path) -> None:
    make_cub(tmp_path)
    (tmp_path / "CUB_200_2011" / "image_class_labels.txt").write_text("1 4\n2 1\n3 1\n4 2\n")
    with pytest.raises(UserError, match="not numbered from 1 to 3"):
        CUB.open(tmp_path, tmp_path)


@every_layout
def test_missing_images_are_counted_and_named(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    (tmp_path / case.top / case.paths[0]).unlink()
    with pytest.raises(UserError, match="1 of the 4 images") as caught:
        case.open(tmp_path, tmp_path)
    assert f"missing: {case.paths[0]}; " in error_line(caught)
    for path in case.paths[1:]:
        (tmp_path / case.top / path).unlink()
    (tmp_path / case.top / case.paths[0]).mkdir()  # a folder of that name is no image
    with pytest.raises(UserError, match="4 of the 4 images") as caught:
        case.open(tmp_path, tmp_path)
    first, second, third, fourth = sorted(case.paths)
    assert f"missing: {first}, {second}, {third}, ...;" in error_line(caught)
    assert fourth not in error_line(caught)


def test_missing_folders_count_as_missing_images(tmp_path: Path) -> None:
    make_sop(tmp_path)
    (tmp_path / PRODUCTS.top / "bicycle_final").rename(tmp_path / "away")
    with pytest.raises(UserError, match="3 of the 4 images"):
        PRODUCTS.open(tmp_path, tmp_path)


@every_layout
def test_missing_annotations_are_named(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    layout = next(
        names
        for names in case.published.layouts
        if all((tmp_path / case.top / name).exists() for name in names)
    )
    (tmp_path / case.top / layout[0]).unlink()
    with pytest.raises(UserError, match="add --fetch") as caught:
        case.open(tmp_path, tmp_path)
    assert f"no {layout[0]} in {tmp_path / case.top}; " in error_line(caught)


@pytest.mark.parametrize(
    ("case", "file", "content"),
    [
        (CUB, "CUB_200_2011/images.txt", b"1\n"),
        (CUB, "CUB_200_2011/images.txt", b"9 a/b.jpg\n"),
        (CUB, "CUB_200_2011/image_class_labels.txt", b"1 one\n"),
        (CUB, "CUB_200_2011/classes.txt", b"\xff\xfe\x00"),
        (CARS, "cars_annos.mat", b"<html>moved</html>"),
        (CARS, "cars_annos.mat", b""),
        (CARS_KAGGLE, "anno_test.csv", b"00001.jpg,1,2,3,4,9\n"),
        (CARS_KAGGLE, "anno_test.csv", b"00001.jpg\n"),
        (PRODUCTS, "Stanford_Online_Products/Ebay_test.txt", b"title\n1 2 3 x.JPG\n"),
        (PRODUCTS, "Stanford_Online_Products/Ebay_test.txt", b""),
    ],
)
def test_damaged_annotations_are_user_errors(
    case: Case, file: str, content: bytes, tmp_path: Path
) -> None:
    case.make(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match="again") as caught:
        case.open(tmp_path, tmp_path)
    assert str((tmp_path / file).parent) in error_line(caught)


def test_annotations_of_another_kind_are_refused(tmp_path: Path) -> None:
    make_cars_mat(tmp_path)
    savemat(tmp_path / "cars_annos.mat", {"annotations": np.zeros((1, 3))})
    with pytest.raises(UserError, match="not the annotations of Cars-196"):
        CARS.open(tmp_path, tmp_path)


def test_archive_as_data_root_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011.tgz").touch()
    with pytest.raises(UserError, match="is a file; give --data-root the folder"):
        CUB.open(tmp_path / "CUB_200_2011.tgz", tmp_path)


# Fetching


def pack(tree: Path, kind: str) -> bytes:
    """Archive what a folder holds."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for path in sorted(tree.rglob("*")):
                zipped.write(path, path.relative_to(tree).as_posix())
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path in sorted(tree.iterdir()):
                tar.add(path, path.name)
    return buffer.getvalue()


def served_download(download: Download, server: Server) -> Download:
    archive = Archive(
        server.url, f"md5:{hashlib.md5(server.data).hexdigest()}", download.archive.name, "by post"
    )
    return replace(download, archive=archive)


def fetched_data(case: Case, tmp_path: Path) -> list[bytes]:
    """Return the content of a miniature set's downloads."""
    packed = tmp_path / "packed"
    case.make(packed)
    if case.published is CARS196:
        annotations = packed / "cars_annos.mat"
        data = annotations.read_bytes()
        annotations.unlink()
        return [data, pack(packed, "tgz")]
    (packed / "attributes.txt").write_text("beside the folder")
    return [pack(packed, "zip" if case.published is SOP else "tgz")]


@pytest.mark.parametrize("case", [CUB, CARS, PRODUCTS], ids=["cub", "cars", "sop"])
@pytest.mark.parametrize("root", [None, "chosen"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "resumed"])
def test_set_is_fetched_unpacked_and_listed(
    case: Case, root: str | None, cut: bool, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    place = work / case.published.home if root is None else tmp_path / root
    given = None if root is None else place
    data = fetched_data(case, tmp_path)
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(Server(content))) for content in data]
        downloads = tuple(map(served_download, case.published.downloads, servers))
        if cut:
            servers[-1].cut_at = 100
            with pytest.raises(UserError, match="run again to resume"):
                case.open(given, work, fetch=True, downloads=downloads)
            servers[-1].cut_at = None
        index = case.open(given, work, fetch=True, downloads=downloads)
        assert servers[-1].ranges == ([None, "bytes=100-"] if cut else [None])
        # A set that is there is not fetched again.
        asked = sum(len(server.ranges) for server in servers)
        assert case.open(given, work, fetch=True, downloads=downloads).paths == case.paths
        assert sum(len(server.ranges) for server in servers) == asked
    assert index.root == place / case.top
    assert index.paths == case.paths
    assert not list(place.glob(".partial-*"))
    assert not list(place.rglob("attributes.txt"))
    assert (index.root / case.paths[0]).read_bytes()[:4] == image_bytes()[:4]


def test_archive_placed_by_hand_is_verified_and_unpacked(tmp_path: Path) -> None:
    (data,) = fetched_data(CUB, tmp_path)
    home = tmp_path / "work" / "cub2011"
    home.mkdir(parents=True)
    (home / "CUB_200_2011.tgz").write_bytes(data)
    with serve(Server(data)) as server:
        downloads = (served_download(CUB200.downloads[0], server),)
    assert CUB.open(None, tmp_path / "work", fetch=True, downloads=downloads).paths == CUB_PATHS
    assert server.ranges == []


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    (data,) = fetched_data(PRODUCTS, tmp_path)
    with serve(Server(data)) as server:
        download = served_download(SOP.downloads[0], server)
        server.data = b"<html>too many downloads</html>"
        with pytest.raises(UserError, match="has MD5") as caught:
            PRODUCTS.open(None, tmp_path / "work", fetch=True, downloads=(download,))
    assert str(tmp_path / "work" / "sop" / "Stanford_Online_Products.zip") in error_line(caught)
    assert list((tmp_path / "work" / "sop").iterdir()) == []


def test_dead_link_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    with serve(Server(b"")) as server:
        download = served_download(CUB200.downloads[0], server)
    with pytest.raises(UserError, match=r"does not answer .*by post") as caught:
        CUB.open(None, tmp_path / "work", fetch=True, downloads=(download,))
    home = tmp_path / "work" / "cub2011"
    assert f"by hand to {home / 'CUB_200_2011.tgz'}" in error_line(caught)


def evil_tar(member: str, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo(member)
        if link is not None:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        tar.addfile(entry)
    return buffer.getvalue()


def evil_zip(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(member, b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("case", "data"),
    [
        (CUB, evil_tar("../evil")),
        (CUB, evil_tar("CUB_200_2011/../../evil")),
        (CUB, evil_tar("/nowhere/evil")),
        (CUB, evil_tar("CUB_200_2011/evil", link="../../..")),
        (CUB, evil_tar("CUB_200_2011/evil", link="/nowhere")),
        (PRODUCTS, evil_zip("../evil")),
        (PRODUCTS, evil_zip("/nowhere/evil")),
    ],
    ids=["tar", "tar_below", "tar_absolute", "link", "link_absolute", "zip", "zip_absolute"],
)
def test_member_that_would_escape_is_refused_by_name(
    case: Case, data: bytes, tmp_path: Path
) -> None:
    with serve(Server(data)) as server:
        download = served_download(case.published.downloads[0], server)
        with pytest.raises(UserError, match=r"member '.*evil'") as caught:
            case.open(None, tmp_path, fetch=True, downloads=(download,))
    assert "refused" in error_line(caught)
    home = tmp_path / case.published.home
    assert [path.name for path in home.iterdir()] == [download.archive.name]
    assert not list(tmp_path.rglob("evil"))


def odd_tar(*members: tuple[str, str]) -> bytes:
    """Pack members, each a file or a link to what is given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, link in members:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("CUB_200_2011/a", ""), ("CUB_200_2011/a/evil", "")],
        [("CUB_200_2011/a", ""), ("CUB_200_2011/b", "a"), ("CUB_200_2011/b/evil", "")],
        [("CUB_200_2011/a", "nowhere"), ("CUB_200_2011/a/evil", "")],
        [("CUB_200_2011/round", "round"), ("CUB_200_2011/round/evil", "")],
    ],
    ids=["in_a_file", "through_a_link_to_a_file", "through_a_dead_link", "through_a_round_link"],
)
def test_member_that_lies_in_no_folder_is_refused_by_name(
    members: list[tuple[str, str]], tmp_path: Path
) -> None:
    with serve(Server(odd_tar(*members))) as server:
        download = served_download(CUB200.downloads[0], server)
        with pytest.raises(UserError, match=r"member 'CUB_200_2011/.*' ") as caught:
            CUB.open(None, tmp_path, fetch=True, downloads=(download,))
    assert "CUB_200_2011.tgz" in error_line(caught)
    assert [path.name for path in (tmp_path / "cub2011").iterdir()] == ["CUB_200_2011.tgz"]


def test_missing_images_are_listed_where_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    """Decoding notices missing images, and records them."""
    make_cub(tmp_path / "cub2011")
    whole = CUB.open(None, tmp_path, fetch=False)
    (whole.root / whole.paths[1]).unlink()
    with pytest.raises(UserError, match=r"1 of the .* are missing: .*or add --skip-unreadable"):
        CUB.open(None, tmp_path, fetch=False)
    source = DataSource("cub200", None, tmp_path, skip_unreadable=True)
    miniature = replace(CUB.published, images=4, classes=3)
    assert load_cub200(source, fetch=False, published=miniature).paths == whole.paths


def test_damaged_archives_leave_nothing_behind(tmp_path: Path) -> None:
    (whole,) = fetched_data(CUB, tmp_path)
    # The last bytes come after the content: a tar is whole without them.
    for number, end in enumerate(range(0, len(whole) - 100, 40)):
        with serve(Server(whole[:end] or b"x")) as server:
            download = served_download(CUB200.downloads[0], server)
            with pytest.raises(UserError, match="damaged or not a tgz"):
                CUB.open(None, tmp_path / str(number), fetch=True, downloads=(download,))
        names = [path.name for path in (tmp_path / str(number) / "cub2011").iterdir()]
        assert names == ["CUB_200_2011.tgz"]


def test_archive_without_the_folder_is_refused(tmp_path: Path) -> None:
    with serve(Server(evil_tar("something_else"))) as server:
        download = served_download(CUB200.downloads[0], server)
        with pytest.raises(UserError, match="holds no folder CUB_200_2011"):
            CUB.open(None, tmp_path, fetch=True, downloads=(download,))


def test_incomplete_tree_is_not_overwritten(tmp_path: Path) -> None:
    make_cub(tmp_path / "cub2011")
    (tmp_path / "cub2011" / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"no classes.txt in .*; move .* away and try again"):
        CUB.open(None, tmp_path, fetch=True)


def test_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"below/.* cannot be written \(Not a directory\)"):
        CUB.open(tmp_path / "file" / "below", tmp_path, fetch=True)
