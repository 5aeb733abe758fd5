"""What a stage measures, and the file in which its figures lie from the moment they are there."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import find_device
from wpm.cpus import count_cpus
from wpm.errors import UserError
from wpm.files import write_bytes
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol

RIGHT, WRONG, SKIPPED, FAILED = "right", "WRONG", "skipped", "FAILED"
_REASON_LENGTH = 90  # characters, so that a table stays a table
_PACKAGES = ("torchvision", "pytorch-metric-learning", "numpy", "pillow")


@dataclass(frozen=True)
class Figure:
    """One measured number, or the reason why there is none.

    Attributes:
        what: what was measured; together with `unit` and `precision` it names the figure.
        unit: of `value`.
        value: None where nothing was measured.
        precision: of trunk and embedder; "" where it has no meaning.
        n: measurements of which `value` is the median; 1 for a single one.
        verdict: "right" or "WRONG" where the value has a limit; "skipped" or "FAILED" without a
            value; else "".
        note: the limit, or the reason.
        device: the hardware.
        versions: of Python and of the packages.
    """

    what: str
    unit: str = ""
    value: float | None = None
    precision: str = ""
    n: int = 1
    verdict: str = ""
    note: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def machine_of(device: torch.device) -> tuple[str, dict[str, str]]:
    """Return the name of the hardware and the versions that its figures were measured with."""
    name = find_device()[1] if device.type == "cuda" else platform.machine()
    name = f"{name}, {count_cpus()} CPU cores, {torch.get_num_threads()} threads"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {package: version(package) for package in _PACKAGES}
    if device.type == "cuda":
        versions |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
        versions["driver"] = _driver_version()
    return name, versions


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.split("\n")[0].strip()


class Stage:
    """The stage that runs in this process: its settings, its time, and its figures.

    Attributes:
        name: of the stage.
        out: folder of all results.
        device: where to measure.
        quick: whether sizes are those of a trial run.
        trunk: the network of the published protocol's part.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        device: torch.device,
        *,
        quick: bool,
        seconds: float,
        trunk: str = "bninception",
    ) -> None:
        """Begin without figures, and write that the stage runs.

        Args:
            name: of the stage.
            out: folder of all results.
            device: where to measure.
            quick: whether sizes are those of a trial run.
            seconds: that the stage has; it is killed then.
            trunk: the network of the published protocol's part.
        """
        self.name, self.out, self.device = name, out, device
        self.quick, self.trunk = quick, trunk
        self._end = time.monotonic() + seconds
        self._hardware, self._versions = machine_of(device)
        self._figures: list[Figure] = []
        self._begin = time.monotonic()
        self._write("running")

    @property
    def seconds_left(self) -> float:
        """Seconds until the stage is killed."""
        return self._end - time.monotonic()

    def protocol(self, precision: str = "float32") -> Protocol:
        """Return the published protocol, with smaller batches and images if quick."""
        changes = {"precision": precision, "trunk": self.trunk}
        protocol = find_protocol("mlrc", "cub200", changes=changes)
        if not self.quick:
            return protocol
        return replace(protocol, resize=80, crop=64, classes_per_batch=2, images_per_class=2)

    def synchronize(self) -> None:
        """Wait for the GPU, if this stage measures one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def record(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        precision: str = "",
        n: int = 1,
        limit: float | None = None,
        note: str = "",
    ) -> None:
        """Write down a figure at once.

        Args:
            what: was measured.
            value: of it.
            unit: of the value.
            precision: of trunk and embedder; "" where it has no meaning.
            n: measurements of which the value is the median.
            limit: largest value that is right; None where nothing is right or wrong.
            note: for the table.
        """
        verdict = ""
        if limit is not None:
            verdict = RIGHT if value <= limit else WRONG  # NaN is wrong
            note = note or f"at most {limit:g}"
        self._add(Figure(what, unit, float(value), precision, n, verdict, note))

    def skip(self, what: str, reason: str, *, precision: str = "") -> None:
        """Write down that something was not measured, and why."""
        self._add(Figure(what, precision=precision, verdict=SKIPPED, note=_shorten(reason)))

    def fail(self, what: str, error: Exception, *, precision: str = "") -> None:
        """Write down that something could not be measured because of an error."""
        reason = _shorten(f"{type(error).__name__}: {error}")
        self._add(Figure(what, precision=precision, verdict=FAILED, note=reason))

    @contextmanager
    def attempt(self, what: str, *, precision: str = "") -> Iterator[None]:
        """Write an error down as a failure of one figure, and go on with the next."""
        try:
            yield
        except Exception as error:
            self.fail(what, error, precision=precision)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def each(self, names: dict[str, Callable[[], None]], *, needs_s: float = 0.0) -> None:
        """Measure one thing after another as long as there is time; failures end only their own.

        Args:
            names: what is measured, and the function that does so and records it.
            needs_s: seconds without which the next one is not begun.
        """
        for name, measure in names.items():
            if self.seconds_left < needs_s:
                self.skip(name, "no time left")
                continue
            with self.attempt(name):
                measure()

    def finish(self) -> None:
        """Write that the stage has done all that it could."""
        self._write("done")

    def _add(self, figure: Figure) -> None:
        whole = Figure(**{**asdict(figure), "device": self._hardware, "versions": self._versions})
        self._figures.append(whole)
        self._write("running")

    def _write(self, state: str) -> None:
        content = {
            "stage": self.name,
            "state": state,
            "reason": "",
            "quick": self.quick,
            "trunk": self.trunk,
            "seconds": round(time.monotonic() - self._begin, 1),
            "device": self._hardware,
            "versions": self._versions,
            "figures": [asdict(figure) for figure in self._figures],
        }
        write_results(self.out, self.name, content)


def write_results(out: Path, stage: str, content: dict[str, Any]) -> None:
    """Replace the results of a stage."""
    write_bytes(out / f"{stage}.json", (json.dumps(content, indent=1) + "\n").encode())


def read_results(out: Path, stage: str) -> dict[str, Any] | None:
    """Return the results of a stage, None if it never ran.

    Raises:
        UserError: the file cannot be read.
    """
    path = out / f"{stage}.json"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it") from error
    return content


def find_value(out: Path, stage: str, what: str, unit: str, precision: str = "") -> float | None:
    """Return the value of a figure of another stage, None if it was not measured."""
    for figure in (read_results(out, stage) or {"figures": []})["figures"]:
        named = figure["what"], figure["unit"], figure["precision"]
        if named == (what, unit, precision):
            return float(figure["value"])
    return None


def _shorten(reason: str) -> str:
    line = " ".join(reason.split()).replace("|", "/")
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]} ..."
