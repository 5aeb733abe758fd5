"""Rows of the results table: a loss, alone or behind a miner."""

import re
from dataclasses import dataclass
from enum import StrEnum

from wpm.errors import UserError

PRETRAINED = "pretrained"  # the row that shows the trunk as it comes, without training

_NAME = r"[a-z][a-z0-9_]*"
_GRAMMAR = re.compile(rf"(?P<loss>{_NAME})(\+(?P<miner>{_NAME}))?")


class Reduction(StrEnum):
    """How the features of the row `pretrained` are reduced to the sizes of the table's columns.

    The table shows the first; the other two are the originals', and fit everything on the very
    embeddings that are scored.
    """

    TRAINVAL = "trainval"  # PCA of the trainval images' features, centred only
    RAW = "raw"  # the test images' features: standardised, then their own PCA
    UNIT = "unit"  # the same of unit-norm features, as the originals reduce an ensemble


@dataclass(frozen=True)
class Row:
    """A line of the results table: a loss, alone or behind a miner.

    In flags, records and folder names a row is written `LOSS` or `LOSS+MINER`.

    Attributes:
        loss: name of the loss.
        miner: name of the miner, one of `wpm.miners.MINERS`; None where the loss stands alone.
    """

    loss: str
    miner: str | None = None

    @classmethod
    def parse(cls, name: str) -> "Row":
        """Read a row's name. Whether there is such a loss and miner is not checked here.

        Raises:
            UserError: the name is not `LOSS` or `LOSS+MINER` in small letters, digits and `_`.
        """
        match = _GRAMMAR.fullmatch(name)
        if match is None:
            raise UserError(
                f"row {name!r} is not LOSS or LOSS+MINER, such as contrastive or contrastive+wpm "
                "(small letters, digits, '_')"
            )
        return cls(match["loss"], match["miner"])

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to search and train."""
        return self.loss != PRETRAINED

    @property
    def twin(self) -> "Row | None":
        """The row of the same loss without the miner; None for a row that has no miner."""
        return None if self.miner is None else Row(self.loss)

    def __str__(self) -> str:
        return self.loss if self.miner is None else f"{self.loss}+{self.miner}"


# Rows of the published table, in its order; `--rows all`.
TABLE_ROWS = (
    PRETRAINED,
    "ntxent", "proxy_nca", "margin_per_class", "normalized_softmax", "cosface", "arcface",
    "fast_ap", "snr_contrastive", "multi_similarity_miner", "soft_triple",
    "contrastive", "contrastive+wpm", "triplet", "triplet+wpm", "margin", "margin+wpm",
    "multi_similarity", "multi_similarity+wpm",
)  # fmt: skip
