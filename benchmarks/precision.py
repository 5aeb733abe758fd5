"""float32, tf32 and bf16 on real images: validation MAP@R of several seeds, and speed.

python -m benchmarks.precision --dataset omniglot --data-root DIR
python -m benchmarks.precision --dataset folder --data-root DIR --protocol mlrc --epochs 4
"""

import argparse
import dataclasses
import platform
import statistics
from pathlib import Path

import torch

from wpm.config import PRECISIONS, PROTOCOL_NAMES, TrainingConfig, find_protocol
from wpm.datasets import DataSource, load_index
from wpm.pixels import Pixels, build_pixels
from wpm.splits import class_disjoint_splits
from wpm.train import Training

PARAMETERS = {"pos_margin": 0.1, "neg_margin": 0.8}


def main() -> None:
    """Print a line a precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work-root", type=Path, default=Path("data"))
    parser.add_argument("--protocol", choices=PROTOCOL_NAMES, default="small")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads [1]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{on}, {torch.get_num_threads()} threads, torch {torch.__version__}, protocol "
          f"{args.protocol}, {args.epochs} epochs of fold 0, {args.seeds} seeds")  # fmt: skip
    folds = find_protocol(args.protocol, args.dataset).folds
    index = load_index(DataSource(args.dataset, args.data_root, args.work_root))
    splits = class_disjoint_splits(index.labels, folds)
    resize = find_protocol(args.protocol, args.dataset).resize
    pixels = Pixels(build_pixels(index.subset(splits.trainval_classes), resize, args.work_root))
    base = None
    for precision in PRECISIONS if device.type == "cuda" else ("float32", "bf16"):
        protocol = find_protocol(args.protocol, args.dataset, precision=precision)
        protocol = dataclasses.replace(protocol, max_epochs=args.epochs, validation_interval=1)
        scores, rates = [], []
        for seed in range(args.seeds):
            config = TrainingConfig("contrastive", protocol, PARAMETERS, seed, (0,))
            training = Training(config, pixels, device)
            while not training.finished:
                report = training.run_epoch()
            assert report is not None
            scores.append(100 * report.best_map_at_r)
            rates.append(report.folds[0].images_per_second)
        mean, rate = statistics.mean(scores), statistics.median(rates)
        base = base or (mean, rate)
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        print(f"{precision:8} MAP@R {mean:5.2f} (sd {spread:.2f}), {mean - base[0]:+5.2f}; "
              f"{rate:7.0f} images/s, {rate / base[1]:4.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
