"""Time to the first view of the page of --serve, time of an update, and memory over many updates.

python -m benchmarks.serve [--quick]

An hour of updates is 1,800 looks, one every 2 seconds. Here they follow one another without a
pause, and records change before each: a running trial of one of four studies reports, and every
tenth time it ends and the next one begins.
"""

import argparse
import json
import multiprocessing
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wpm.cpus import count_cpus
from wpm.files import write_json
from wpm.records import Outcome, StudyPlace, TrainingFolder, TrialState
from wpm.reports import FoldReport, Report

REPEATS = 3
RUNNING = 4  # studies whose records change
REPORTS = 10  # of a trial
WARM_UP = 50  # updates until memory is measured for the first time
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print the times and the memory."""
    # Here: it imports torch, whose memory the process of the server would have as well.
    from benchmarks.synthetic_records import write_studies

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 studies, 200 updates")
    studies, updates = (10, 200) if parser.parse_args().quick else (100, 1800)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        places = write_studies(root, studies, 100, runs=5, with_reports=True)
        print(f"{platform.processor() or platform.machine()}, {count_cpus()} cores, Python "
              f"{platform.python_version()}; {studies} studies of 100 trials and 5 final runs, "
              "just written, so in the page cache")  # fmt: skip
        for name, seconds in measure_first_view(root).items():
            print(f"{name}: {statistics.median(seconds):.2f} s (longest {max(seconds):.2f} s), "
                  f"n = {REPEATS}")  # fmt: skip
        measure_updates(root, places, updates)


def measure_first_view(root: Path) -> dict[str, list[float]]:
    """Return the seconds until a page shows something, and everything, and those of a reload."""
    seconds: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "launch.py", "--serve", "0", "--run-root", str(root)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                found = re.search(r"http://\S+/", process.stdout.readline())
                assert found is not None
                address = found[0]
                _note(seconds, "the command to the empty page", start, _read(address))
                while json.loads(_read(f"{address}changes"))["progress"] is not None:
                    time.sleep(0.1)
                _note(seconds, "the command to all studies", start)
                start = time.perf_counter()
                files = [_read(address + name) for name in ("", "page.js", "page.css", "changes")]
                _note(seconds, "a page that is opened later", start, *files)
            finally:
                process.terminate()
    return seconds


def _note(seconds: dict[str, list[float]], name: str, start: float, *_: str) -> None:
    seconds.setdefault(name, []).append(time.perf_counter() - start)


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=600) as answer:
        text: str = answer.read().decode()
    return text


def measure_updates(root: Path, places: list[StudyPlace], updates: int) -> None:
    """Print how long updates take, how much they send, and how the server's memory grows."""
    with server(root) as (pipe, address):
        token, looks, sizes, memory = "", [], [], []
        course = change_records(places[:RUNNING])
        for number in range(updates + WARM_UP):
            next(course)
            pipe.send("look")
            took, mib = pipe.recv()
            text = _read(f"{address}/changes?since={token}")
            answer = json.loads(text)
            assert number == 0 or 1 <= len(answer["changed"]) <= RUNNING, len(answer["changed"])
            token = answer["token"]
            if number >= WARM_UP:
                looks.append(took)
                sizes.append(len(text))
                memory.append(mib)
    tenth = len(memory) // 10
    first, last = (statistics.median(part) for part in (memory[:tenth], memory[-tenth:]))
    print(f"a look: median {statistics.median(looks):.3f} s, longest {max(looks):.3f} s, "
          f"n = {updates}")  # fmt: skip
    print(f"an update sends {statistics.median(sizes) / 1e3:.1f} kB before compression")
    print(f"memory of the server: {first:.1f} MiB in the first tenth of the updates, {last:.1f} "
          f"MiB in the last, at most {max(memory):.1f} MiB")  # fmt: skip


@contextmanager
def server(root: Path) -> Iterator[tuple["Connection[Any, Any]", str]]:
    """Start a server in a process of its own, which looks when it is asked through the pipe."""
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    process = context.Process(target=_serve, args=(root, end))
    process.start()
    try:
        yield pipe, f"http://127.0.0.1:{pipe.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(root: Path, pipe: "Connection[Any, Any]") -> None:
    from wpm.live_page.app import build_app
    from wpm.live_page.reports import ReportMaker
    from wpm.live_page.server import make_server, open_port
    from wpm.live_page.watcher import Watcher

    watcher, listener = Watcher(root), open_port(0)
    app = build_app(watcher, ReportMaker(lambda place, path: ["false"], root, root))
    run = make_server(app).run
    threading.Thread(target=run, kwargs={"sockets": [listener]}, daemon=True).start()
    pipe.send(listener.getsockname()[1])
    while pipe.recv():
        start = time.perf_counter()
        watcher.refresh()
        pipe.send((time.perf_counter() - start, _resident_mib()))


def _resident_mib() -> float:
    """Return the memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def change_records(places: list[StudyPlace]) -> Iterator[None]:
    """Change the records of one study after the other, as running trials do."""
    reports: dict[StudyPlace, list[Report]] = {place: [] for place in places}
    numbers = dict.fromkeys(places, 100)
    while True:
        for place in places:
            folder = TrainingFolder(place.trial_folder(numbers[place]))
            if not reports[place]:
                folder.write_identity({"number": numbers[place], "parameters": {"lr": 0.01}})
            reports[place].append(_report(len(reports[place]) + 1))
            content = {"reports": [r.to_json() for r in reports[place]], "checkpoint": None}
            write_json(folder.folder / "reports.json", {**content, "epoch": len(reports[place])})
            if len(reports[place]) == REPORTS:
                folder.write_result(Outcome.from_reports(TrialState.COMPLETE, reports[place]))
                reports[place], numbers[place] = [], numbers[place] + 1
            yield


def _report(epoch: int) -> Report:
    reached = 0.4 * (1 - 0.8**epoch)
    folds = tuple(
        FoldReport(
            k, 1 / epoch, reached + 0.3, reached + 0.1, reached, reached, epoch,
            False, 0.3 * epoch, 0.025 * epoch, 4000.0,
        )
        for k in range(4)
    )  # fmt: skip
    return Report(epoch, reached, folds)


if __name__ == "__main__":
    main()
