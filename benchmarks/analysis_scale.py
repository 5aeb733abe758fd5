"""Seconds that the analysis commands take on many records, from start to exit.

python -m benchmarks.analysis_scale [--quick]
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic_records import write_studies
from wpm.cpus import count_cpus

REPEATS = 3
COMMANDS = {
    "rank_trials --help": ["analysis.rank_trials", "--help"],
    "rank_trials": ["analysis.rank_trials"],
    "rank_trials --across --where": [
        "analysis.rank_trials", "--across", "--where", "score > 0.5 and epochs >= 10",
    ],
    "rank_trials --format csv": ["analysis.rank_trials", "--format", "csv"],
    "table": ["analysis.table"],
    "compare --all-twins": ["analysis.compare", "--all-twins"],
    "validate": ["analysis.validate"],
}  # fmt: skip


def main() -> None:
    """Print a line for each command: the median and the longest of its runs, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 trials in 10 studies")
    studies, trials = (10, 100) if parser.parse_args().quick else (100, 100)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        start = time.perf_counter()
        write_studies(root, studies, trials, runs=5, with_reports=True)
        files = sum(len(names) for _, _, names in os.walk(root))
        print(f"{platform.processor() or platform.machine()}, {count_cpus()} cores, Python "
              f"{platform.python_version()}, n = {REPEATS}; {studies * trials} trials in {studies} "
              f"studies, 5 final runs each: {files} files, written in "
              f"{time.perf_counter() - start:.0f} s, so in the page cache")  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(REPEATS):
            for name, (module, *flags) in COMMANDS.items():
                where = [] if "--help" in flags else ["--run-root", str(root)]
                seconds[name].append(measure([sys.executable, "-m", module, *flags, *where]))
        page = Path(folder) / "report.html"
        report = [sys.executable, "-m", "analysis.report", "--run-root", str(root)]
        reported = measure([*report, "--out", str(page)])
        size = page.stat().st_size / 1e6
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s (longest {max(times):.2f} s)")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"report, once: {reported:.1f} s, {size:.1f} MB; the largest of all commands used "
          f"{used.ru_maxrss / 1024:.0f} MiB")  # fmt: skip


def measure(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
