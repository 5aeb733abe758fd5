r"""Write a compact copy of recorded trials, which the other search benchmarks replay.

python -m benchmarks.search_histories --run-root runs --dataset omniglot --rows contrastive \
    --out histories.json

`--max-epochs 300 --pixels DIR` trains the recorded configurations again with another limit on the
epochs. If the limit is high enough, they train to the end of their patience.
"""

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from wpm.files import write_bytes
from wpm.records import (
    StudyPlace,
    TrainingRecord,
    TrialState,
    find_studies,
    read_study,
    read_trials,
    worker_seconds,
)
from wpm.reports import Report
from wpm.training.config import TrainingConfig

_DIGITS = 5


def main() -> None:
    """Read the studies of a run root, and write one JSON file."""
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    places = find_studies(args.run_root, args.dataset, args.protocol)
    studies = [copy_study(p, args) for p in places if not args.rows or str(p.row) in args.rows]
    lines = [json.dumps(study).replace('{"number"', '\n{"number"') for study in studies]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("[" + ",\n".join(lines) + "]\n")
    logging.info("%s: %d studies, %d kB", args.out, len(studies), args.out.stat().st_size // 1000)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-root", type=Path, required=True)
    parser.add_argument("--dataset", default="omniglot")
    parser.add_argument("--protocol", default="small")
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-epochs", type=int, help="train again, for at most this many epochs")
    parser.add_argument(
        "--pixels", type=Path, help="pixel cache of the trainval images, to train again"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that train again")
    return parser.parse_args()


def copy_study(place: StudyPlace, args: argparse.Namespace) -> dict[str, Any]:
    """Return the space of a study and the history of each complete trial."""
    content = read_study(place)
    assert content is not None
    identity = content["identity"]
    records, problems = read_trials(place, with_reports=True)
    if problems:
        raise SystemExit(problems[0])
    complete = [record for record in records if record.state == TrialState.COMPLETE]
    if args.max_epochs:
        trials = train_again(complete, args)
    else:
        trials = [copy_trial(record.identity, record.reports) for record in complete]
    protocol = identity["protocol"]
    return {
        "dataset": place.dataset,
        "protocol": place.protocol,
        "row": str(place.row),
        "max_epochs": args.max_epochs or protocol["max_epochs"],
        "patience": protocol["patience"],
        "folds": protocol["folds"],
        "searched": {
            name: {key: searched[key] for key in ("low", "high", "scale", "type")}
            for name, searched in identity["searched"].items()
        },
        "trials": trials,
    }


def copy_trial(identity: Any, reports: Sequence[Report]) -> dict[str, Any]:
    """Return what a replay needs of a trial.

    Returns:
        The parameters; and for each report its epoch, the value reported to the search (mean over
        folds of the best MAP@R so far), the number of folds still training, and the seconds spent
        on all folds.
    """
    folds_running = [
        sum(not fold.stopped for fold in before.folds) if before else len(now.folds)
        for before, now in zip([None, *reports], reports, strict=False)
    ]
    seconds = [worker_seconds([report]) for report in reports]
    return {
        "number": identity["number"],
        "parameters": identity["parameters"],
        "epochs": [report.epoch for report in reports],
        "values": [round(report.best_map_at_r, _DIGITS) for report in reports],
        "folds_running": folds_running,
        "seconds": [round(second, 2) for second in seconds],
    }


def train_again(records: list[TrainingRecord], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train recorded configurations with another limit on the epochs, or resume doing so."""
    done = args.out.with_suffix(".done")
    done.mkdir(parents=True, exist_ok=True)
    paths = [done / f"{record.identity['number']}.json" for record in records]
    with ProcessPoolExecutor(args.processes) as pool:
        waiting = [
            pool.submit(train, dict(record.identity), args.max_epochs, args.pixels, path)
            for record, path in zip(records, paths, strict=True)
            if not path.exists()
        ]
        for future in waiting:
            future.result()
    return [json.loads(path.read_text()) for path in paths]


def train(identity: dict[str, Any], max_epochs: int, pixel_cache: Path, path: Path) -> None:
    """Train one configuration on one core, and write its history."""
    import torch

    from wpm.data.pixels import Pixels
    from wpm.jobs.job import choose_device
    from wpm.training.training import Training

    torch.set_num_threads(1)
    config = TrainingConfig.from_json(identity["config"])
    protocol = dataclasses.replace(config.protocol, max_epochs=max_epochs)
    config = dataclasses.replace(config, protocol=protocol)
    training = Training(config, Pixels(pixel_cache), choose_device(gpus=1))
    reports = []
    while not training.finished:
        report = training.run_epoch()
        if report is not None:
            reports.append(report)
    write_bytes(path, json.dumps(copy_trial(identity, reports)).encode())


if __name__ == "__main__":
    main()
