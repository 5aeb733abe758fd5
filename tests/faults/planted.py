"""Plants code into every process that a launch starts, run once `wpm.jobs.job` is loaded."""

from pathlib import Path

from tests.support.commands import Launcher

# The source of `sitecustomize`, a module that Python runs at its start if it finds one.
_SITE = """
import importlib.util, sys

class _Planter:
    def find_spec(self, name, path=None, target=None):
        if name != "wpm.jobs.job":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def load_and_plant(module):
            load(module)
            import planted
        spec.loader.exec_module = load_and_plant
        return spec

sys.meta_path.insert(0, _Planter())
"""
# Calls `fault(number, folder, fold)` before every optimiser step; `number` is the trial's.
_STEPS = """
from wpm.jobs import saving
from wpm.jobs.train_job import TrainJob
from wpm.training.fold import FoldTraining

saving.LEAST_S = saving.MOST_LOST_S = 0.0  # trials of seconds are saved before every step, too
_current = []
_init, _draw = TrainJob.__init__, FoldTraining.draw_batch

def once(folder, name):
    \"\"\"Return whether this is the first call with this name in a trial.\"\"\"
    marker = folder / ("planted-" + name)
    first = not marker.exists()
    marker.touch()
    return first

def note_step(folder, fold):
    \"\"\"Write down which optimiser step comes next; `steps_in` reads it.\"\"\"
    with open(folder / "steps", "a") as file:
        file.write(f"{fold.epoch} {fold.position} {fold.iteration}\\n")

def _remember(self, folder, *more):
    _current[:] = [folder]
    _init(self, folder, *more)

def _step(self):
    fault(int(_current[0].name.removeprefix("fold-")), _current[0], self)
    return _draw(self)

TrainJob.__init__, FoldTraining.draw_batch = _remember, _step
"""


def plant(launcher: Launcher, folder: Path, fault: str) -> None:
    """Plant a fault.

    Args:
        launcher: its later launches run the planted code.
        folder: where to write the code.
        fault: source of a function `fault(number, folder, fold)`, called before every optimiser
            step; may call `once(folder, name)` and `note_step(folder, fold)`.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    (folder / "planted.py").write_text(_STEPS + fault)
    launcher.environment["PYTHONPATH"] = str(folder)


def steps_in(folder: Path) -> list[str]:
    """Return the optimiser steps of a trial that were noted in its folder, in their order."""
    file = folder / "steps"
    return file.read_text().splitlines() if file.exists() else []
