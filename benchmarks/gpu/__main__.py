"""One suite for a machine with a GPU: is it right, how fast is it, what does a table cost.

python -m benchmarks.gpu --out DIR                              # all stages, 8 minutes
python -m benchmarks.gpu --out DIR --stages right,step          # some of them
python -m benchmarks.gpu --out DIR --device cpu --quick         # see that it runs
python -m benchmarks.gpu --fill docs/performance.md DIR DIR2    # put figures into a document

The stages run in the order of their worth, each in a process of its own that is killed at its
limit. Time that a stage leaves goes to the later ones. Figures are in DIR from the moment that they
are measured: a JSON file a stage, and table.md. It needs torch, torchvision,
pytorch-metric-learning, numpy and Pillow, and no other package of the product.
"""

import argparse
import contextlib
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.errors import UserError
from wpm.files import write_bytes


@dataclass(frozen=True)
class Entry:
    """A stage: its module, and its part of the time."""

    module: str
    weight: float


STAGES = {
    "right": Entry("right", 100),
    "step": Entry("steps", 100),
    "graphs": Entry("graphs", 110),
    "folds": Entry("trials", 90),
    "images": Entry("batches", 30),
    "evaluation": Entry("scoring", 15),
    "checkpoints": Entry("checkpoints", 35),
    "compile": Entry("compiled", 60),
    "sum": Entry("cost", 10),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, one of its stages, or fill a document; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--stages", default=",".join(STAGES), help="which to run [all]")
    parser.add_argument("--minutes", type=float, default=8, help="for all stages together [8]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--trunk", default="bninception", help="network to train [bninception]")
    parser.add_argument("--fill", type=Path, metavar="DOCUMENT", help="put the figures there")
    parser.add_argument("folders", nargs="*", type=Path, help="with --fill: of runs to show")
    parser.add_argument("--only", choices=STAGES, help=argparse.SUPPRESS)  # in this process
    args = parser.parse_args(arguments)
    try:
        if args.fill:
            return fill(args.fill, args.folders)
        if args.out is None or args.folders:
            raise UserError("give --out DIR, or --fill DOCUMENT DIR")
        if args.only:
            return run_stage(args)
        return run_suite(args, choose_stages(args.stages))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def choose_stages(text: str) -> list[str]:
    """Return the stages that a flag names, in the order of their worth.

    Raises:
        UserError: there is no such stage.
    """
    named = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(named - STAGES.keys())
    if unknown:
        raise UserError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    return [name for name in STAGES if name in named]


def run_suite(args: argparse.Namespace, names: Sequence[str]) -> int:
    """Run stages one after another; return 1 if a figure is wrong or a stage did not end."""
    from benchmarks.gpu.table import count_wrong, format_report, read_run

    # A stage is in a session of its own: it is ended with this process, whatever ends that.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (args.out / f"{name}.json").unlink(missing_ok=True)
    failed = []
    for position, name in enumerate(names):
        limit_s = limit_of(names[position:], end - time.monotonic())
        print(f"{name}: at most {limit_s:.0f} s ...", flush=True)
        reason = run_in_process(args, name, limit_s)
        if reason:
            failed.append(name)
            print(f"{name}: {reason}", flush=True)
        write_bytes(args.out / "table.md", format_report(read_run(args.out, STAGES)).encode())
    wrong, without = count_wrong(read_run(args.out, names))
    print((args.out / "table.md").read_text(encoding="utf-8"))
    print(f"{wrong} figures are wrong, {without} could not be measured, "
          f"{len(failed)} stages did not end by themselves")  # fmt: skip
    return 1 if wrong or without or failed else 0


def limit_of(names: Sequence[str], seconds: float) -> float:
    """Return the seconds of the first of the stages that are left: its part of the time left."""
    weights = [STAGES[name].weight for name in names]
    return max(0.0, seconds) * weights[0] / sum(weights)


def run_in_process(args: argparse.Namespace, name: str, limit_s: float) -> str:
    """Run one stage in another process; return why it did not end by itself, or ""."""
    command = stage_command(args, name, limit_s)
    environment = dict(os.environ)
    if args.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # what stages call would take a GPU by itself
    with (args.out / f"{name}.log").open("wb") as log:
        # A session of its own, so that the processes that a stage starts are ended with it.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit_s)
            reason = "" if code == 0 else f"ended with code {code}"
        except subprocess.TimeoutExpired:
            reason = f"was ended at its limit of {limit_s:.0f} s"
        except BaseException:
            _kill_session(process)
            raise
    _kill_session(process)
    if reason.startswith("ended"):
        lines = (args.out / f"{name}.log").read_text(errors="replace").strip().splitlines()
        reason += f" ({' '.join(lines[-1:])[:120]})" if lines else ""
    if reason:
        _mark_ended(args.out, name, reason)
    return reason


def stage_command(args: argparse.Namespace, name: str, limit_s: float) -> list[str]:
    """Return the command that runs one stage."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--out", str(args.out)]
    command += ["--device", args.device, "--trunk", args.trunk, "--minutes", str(limit_s / 60)]
    return [*command, "--quick"] if args.quick else command


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _mark_ended(out: Path, name: str, reason: str) -> None:
    """Write into a stage's results why it ended; its figures stay."""
    from benchmarks.gpu.figures import read_results, write_results

    content = read_results(out, name)
    if content is not None:
        write_results(out, name, {**content, "state": "ended", "reason": reason.replace("|", "/")})


def run_stage(args: argparse.Namespace) -> int:
    """Run one stage in this process."""
    import torch

    from benchmarks.gpu.figures import Stage

    faulthandler.enable()  # a fault of the driver is seen by nothing else
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU; --device cpu --quick shows that the suite runs")
    device = torch.device(args.device)
    if args.quick and device.type == "cpu":
        torch.set_num_threads(1)  # threads wait for one another where other work runs beside
    stage = Stage(
        args.only, args.out, device, quick=args.quick, seconds=60 * args.minutes, trunk=args.trunk
    )
    module = importlib.import_module(f"benchmarks.gpu.{STAGES[args.only].module}")
    module.run(stage)
    stage.finish()
    return 0


def fill(document: Path, folders: Sequence[Path]) -> int:
    """Put the figures of some runs into a document."""
    from benchmarks.gpu.table import fill_document, format_comparison, read_run

    runs = [read_run(folder, STAGES) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if not run:
            raise UserError(f"{folder} holds no results of the suite")
    fill_document(document, format_comparison(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
