"""Write a compact copy of recorded trials, which the other search benchmarks replay.

python -m benchmarks.search_histories --run-root runs --out histories.json

A trial must have trained to its end to be copied, so record them with `--stopping none`; with
`--sampler qmc` they are spread evenly over the space.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wpm.files import write_bytes
from wpm.records import StudyPlace, TrialState, find_studies, read_study, read_trials
from wpm.reports import Report

_DIGITS = 4


def main() -> None:
    """Read the studies of run folders, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-root", type=Path, required=True, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    places = [place for root in args.run_root for place in find_studies(root)]
    studies = [copy_study(place) for place in places]
    lines = [json.dumps(study).replace('{"number"', '\n{"number"') for study in studies]
    write_bytes(args.out, ("[" + ",\n".join(lines) + "]\n").encode())
    logging.info("%s: %d studies, %d kB", args.out, len(studies), args.out.stat().st_size // 1000)


def copy_study(place: StudyPlace) -> dict[str, Any]:
    """Return the space of a study and the curves of each complete trial.

    Raises:
        SystemExit: a record is damaged.
    """
    content = read_study(place)
    assert content is not None
    identity = content["identity"]
    records, problems = read_trials(place, with_reports=True)
    if problems:
        raise SystemExit(problems[0])
    return {
        "dataset": place.dataset,
        "protocol": place.protocol,
        "row": str(place.row),
        "searched": {
            name: {key: searched[key] for key in ("low", "high", "scale", "type")}
            for name, searched in identity["searched"].items()
        },
        "trials": [
            {
                "number": record.number,
                "parameters": {name: record.parameters[name] for name in identity["searched"]},
                **copy_curves(record.reports),
            }
            for record in records
            if record.state is TrialState.COMPLETE
        ],
    }


def copy_curves(reports: Sequence[Report]) -> dict[str, Any]:
    """Return what a replay needs of a trial.

    Returns:
        "folds", of each fold the best score so far at every validation until its patience ended;
        and "seconds", of one epoch of one fold.
    """
    last = reports[-1].folds
    folds = []
    for position in range(len(last)):
        curve = []
        for report in reports:
            fold = report.folds[position]
            curve.append(round(fold.best_map_at_r, _DIGITS))
            if fold.stopped:
                break
        folds.append(curve)
    seconds = sum(fold.worker_seconds for fold in last) / sum(map(len, folds))
    return {"folds": folds, "seconds": round(seconds, 2)}


if __name__ == "__main__":
    main()
