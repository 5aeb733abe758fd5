"""Rows of the results table: a loss, alone or behind a miner."""

import re
from dataclasses import dataclass

from wpm.errors import UserError

WPM_SUFFIX = "+wpm"
MINER_PARAMETERS = ("embedding_dropout", "channel_dropout", "sharpness")
PRETRAINED = "pretrained"  # the row that shows the trunk as it comes, without training


@dataclass(frozen=True)
class Row:
    """A line of the results table: a loss, with or without within-pair mining.

    The grammar is `LOSS` or `LOSS+wpm`.
    """

    loss: str
    mined: bool

    @classmethod
    def parse(cls, name: str) -> "Row":
        """Read a row's name.

        Raises:
            UserError: the name is not `LOSS` or `LOSS+wpm` in small letters, digits and `_`.
        """
        loss = name.removesuffix(WPM_SUFFIX)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", loss):
            raise UserError(
                f"row {name!r} is not LOSS or LOSS{WPM_SUFFIX} (small letters, digits, '_')"
            )
        return cls(loss=loss, mined=name != loss)

    @property
    def trained(self) -> bool:
        """Whether there is anything to search and train."""
        return self.loss != PRETRAINED

    def __str__(self) -> str:
        return self.loss + WPM_SUFFIX * self.mined


# Rows of the published table, in its order; `--rows all`.
TABLE_ROWS = (
    PRETRAINED,
    "ntxent", "proxy_nca", "margin_per_class", "normalized_softmax", "cosface", "arcface",
    "fast_ap", "snr_contrastive", "multi_similarity_miner", "soft_triple",
    "contrastive", "contrastive+wpm", "triplet", "triplet+wpm", "margin", "margin+wpm",
    "multi_similarity", "multi_similarity+wpm",
)  # fmt: skip
