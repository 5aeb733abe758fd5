"""What more views bring: validation MAP@R and seconds with T trunk passes and K embedding masks.

python -m benchmarks.views --dataset omniglot --data-root DIR --out views.json
python -m benchmarks.views --out views.json --show

The outcome of every training is written when it ends; the same command then does the rest.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.image_data import add_image_flags, open_trainval
from benchmarks.machine import find_device
from wpm.data.pixels import Pixels
from wpm.files import read_json, write_json
from wpm.protocol_files import find_protocol
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

PASSES, MASKS = (1, 2, 4, 8), (1, 8, 64)
# Published thresholds, and the margins of a good trial of `contrastive+wpm` on omniglot.
PARAMETERS = {
    "pos_margin": 0.09, "neg_margin": 0.71,
    "embedding_dropout": 0.05, "channel_dropout": 0.1, "sharpness": 32.0,
}  # fmt: skip


def train(pixels: Pixels, row: str, passes: int, masks: int, seed: int, epochs: int) -> Any:
    """Train fold 0, and return its best validation MAP@R and the seconds of training."""
    protocol = dataclasses.replace(
        find_protocol("small", "omniglot"),
        trunk_passes=passes, embedding_masks=masks, max_epochs=epochs,
    )  # fmt: skip
    parsed = Row.parse(row)
    own = PARAMETERS if parsed.miner else {k: PARAMETERS[k] for k in list(PARAMETERS)[:2]}
    config = TrainingConfig(parsed, protocol, own, seed, (0,))
    training = Training(config, pixels, find_device()[0])
    start = time.process_time()  # time of this process only, so that other work does not count
    while not training.finished:
        report = training.run_epoch()
    assert report is not None
    return {"map_at_r": report.best_map_at_r, "seconds": time.process_time() - start}


def show(outcomes: dict[str, Any]) -> None:
    """Print the mean and the standard deviation of every setting."""
    groups: dict[str, list[Any]] = {}
    for name, outcome in outcomes.items():
        groups.setdefault(name.rpartition(" seed ")[0], []).append(outcome)
    seconds_of = {
        name: statistics.median(outcome["seconds"] for outcome in found)
        for name, found in groups.items()
    }
    plain = seconds_of.get("plain", float("nan"))
    print("| views | MAP@R % | sd | CPU seconds | of plain | n |\n|---|---:|---:|---:|---:|---:|")
    for name, found in groups.items():
        scores = [100 * outcome["map_at_r"] for outcome in found]
        spread = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "-"
        cost = f"{seconds_of[name]:.1f} | {seconds_of[name] / plain:.2f}"
        print(f"| {name} | {statistics.mean(scores):.2f} | {spread} | {cost} | {len(found)} |")


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_image_flags(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--show", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = read_json(args.out) if args.out.exists() else {}
    if not args.show:
        pixels = open_trainval(args, find_protocol("small", args.dataset))
        settings = [("plain", "contrastive", 1, 1)]
        settings += [(f"{t} x {k}", "contrastive+wpm", t, k) for t in PASSES for k in MASKS]
        for seed in range(args.seeds):
            for name, row, passes, masks in settings:
                key = f"{name} seed {seed}"
                if key not in outcomes:
                    outcomes[key] = train(pixels, row, passes, masks, seed, args.epochs)
                    write_json(args.out, outcomes)
                    print(key, json.dumps(outcomes[key]), flush=True)
    show(outcomes)


if __name__ == "__main__":
    main()
