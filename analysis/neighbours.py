"""Find the images of a folder that an exported model takes to be most like some query images."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.command_line import build_plain_parser, run_main
from analysis.numbers.nearest import Neighbour, find_nearest
from analysis.text.neighbours import NearImage, QueryResult, format_neighbours, format_path
from wpm.cli.parser import any_path, at_least
from wpm.errors import UserError
from wpm.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wpm.model.exported import ExportedModels

DESCRIPTION = """Find the images of a folder that are most like some query images.

Embeds every image of the folder with an exported model, prints the nearest images of each query
with their cosine similarity, and writes a page with the pictures. A query may lie in the folder or
elsewhere; it is never its own neighbour. Embeddings are remembered under WORK_ROOT/embeddings, so
that the next call embeds only what is new or has changed. Images that cannot be read are left out,
counted and named.
"""
EXAMPLES = """  python -m analysis.neighbours --model exported --images DIR --query photo.jpg
  python -m analysis.neighbours --model exported --images DIR --query DIR/a/1.jpg b.jpg --top 20
"""
_SHOWN_SIDE = 160  # px, the shorter side of a picture on the page


def _print_neighbours(args: argparse.Namespace) -> None:
    # Imported here: the help text needs no torch.
    from analysis.report_page.contact_sheet import build_sheet
    from wpm.data.image_file import decode_image
    from wpm.model.embedded_folder import embed_folder
    from wpm.model.exported import ExportedModels

    models = ExportedModels(args.model)
    queries = _embed_queries(models, args.query)
    images = embed_folder(models, args.images, args.work_root, partial(print, file=sys.stderr))
    if images.unreadable:
        print(f"{len(images.unreadable)} images cannot be read and are left out:", file=sys.stderr)
        for path, reason in images.unreadable:
            print(f"  {format_path(path)} ({reason})", file=sys.stderr)
    own = _find_own(args.images, images.paths, args.query)
    found = find_nearest(images.embeddings, queries, own, args.top)
    results = [
        QueryResult(str(query), [_name(args.images / images.paths[n.position], n) for n in near])
        for query, near in zip(args.query, found, strict=True)
    ]
    print(format_neighbours(results, args.format))
    folder, model = format_path(str(args.images)), format_path(str(args.model))
    summary = f"{len(images.paths)} images of {folder}, model {model}"

    def show(path: str) -> "NDArray[np.uint8]":
        return decode_image(Path(path), 3, _SHOWN_SIDE, upright=True)

    page = build_sheet(results, summary, show)
    write_bytes(args.out, page.encode())
    print(f"pictures: {args.out}", file=sys.stderr)


def _name(path: Path, neighbour: Neighbour) -> NearImage:
    return NearImage(str(path), neighbour.similarity)


def _embed_queries(models: "ExportedModels", queries: Sequence[Path]) -> "NDArray[np.float32]":
    """Embed the query images.

    Raises:
        UserError: one of them cannot be read.
    """
    from wpm.data.image_file import UndecodableError

    prepared = []
    for query in queries:
        try:
            prepared.append(models.prepare(query))
        except UndecodableError as error:
            raise UserError(f"query {query} cannot be read as an image ({error})") from error
    return models.embed(prepared).numpy()


def _find_own(folder: Path, paths: Sequence[str], queries: Sequence[Path]) -> list[list[int]]:
    """Return for each query the positions of the images that are the same file."""
    stats = [(folder / path).stat() for path in paths]
    asked = [query.stat() for query in queries]
    return [[i for i, s in enumerate(stats) if os.path.samestat(s, own)] for own in asked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_plain_parser("analysis.neighbours", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--model", type=any_path, required=True, metavar="PATH",
        help="folder that python -m analysis.export wrote, or one of its .safetensors files",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=any_path, required=True, metavar="DIR", help="folder of images, any tree"
    )
    parser.add_argument(
        "--query", type=any_path, nargs="+", required=True, metavar="FILE", help="images to look up"
    )
    parser.add_argument("--top", type=at_least(1), default=8, metavar="K", help="neighbours [8]")
    parser.add_argument(
        "--out", type=any_path, default="neighbours.html", help="page to write [neighbours.html]"
    )
    parser.add_argument(
        "--work-root", type=any_path, default="data", help="folder of the embeddings [data]"
    )
    return run_main(parser, _print_neighbours, arguments)


if __name__ == "__main__":
    sys.exit(main())
