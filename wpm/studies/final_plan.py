"""Which configuration is trained again, with which seeds, and where its final runs are recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wpm.data.index import DataSource
from wpm.loss_description import LossDescription
from wpm.protocols import Protocol
from wpm.records import Chosen, StudyPlace, finals_folder
from wpm.studies.seeds import final_seed


@dataclass(frozen=True)
class FinalPlan:
    """One configuration to train again and test.

    Attributes:
        place: the study.
        protocol: of the study.
        parameters: of the configuration.
        chosen: where the configuration comes from.
        source: where the images are.
        pixel_cache: folder of the decoded trainval images.
        runs: number of seeds.
        weights: file of the trunk's weights, or "random".
        loss: the classes of the row's loss; None for those that ship under its name.
    """

    place: StudyPlace
    protocol: Protocol
    parameters: Mapping[str, float]
    chosen: Chosen
    source: DataSource
    pixel_cache: Path
    runs: int
    weights: str = "random"
    loss: LossDescription | None = None

    @property
    def folder(self) -> Path:
        """Folder of this configuration's final runs."""
        return finals_folder(self.place, self.parameters)

    def seed_of(self, run: int) -> int:
        """Seed of one run, counted from 0."""
        return final_seed(self.place.search, run)

    def run_folder(self, run: int) -> Path:
        """Folder of one run."""
        return self.folder / f"seed-{self.seed_of(run)}"

    def fold_folder(self, run: int, fold: int) -> Path:
        """Folder of the training of one fold of a run."""
        return self.run_folder(run) / f"fold-{fold}"
