"""A page that shows query images and their neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.report_page.gallery import encode_picture
from analysis.report_page.page import read_style, render
from analysis.text.neighbours import QueryResult, format_path, format_similarity
from wpm import __version__


def build_sheet(
    results: Sequence[QueryResult],
    summary: str,
    open_picture: Callable[[str], NDArray[np.uint8]],
) -> str:
    """Lay out one HTML page that contains all pictures.

    Args:
        results: the queries.
        summary: a line for the head of the page.
        open_picture: returns the (H, W, C) pixels to show of an image.
    """
    sections = [
        {
            "query": format_path(result.query),
            "source": encode_picture(open_picture(result.query)),
            "neighbours": [
                {
                    "path": format_path(image.path),
                    "similarity": format_similarity(image.similarity),
                    "source": encode_picture(open_picture(image.path)),
                }
                for image in result.neighbours
            ],
        }
        for result in results
    ]
    return render(
        "neighbours.html",
        sections=sections,
        summary=summary,
        version=__version__,
        style=read_style(),
    )
