"""float32, tf32 and bf16 on real images: validation MAP@R of several seeds, and speed.

python -m benchmarks.precision --dataset omniglot --data-root DIR
python -m benchmarks.precision --dataset folder --data-root DIR --protocol mlrc --epochs 4
"""

import argparse
import dataclasses
import statistics

import torch

from benchmarks.image_data import add_image_flags, open_trainval
from benchmarks.machine import find_device
from wpm.protocol_files import find_protocol, protocol_names
from wpm.protocols import PRECISIONS
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

PARAMETERS = {"pos_margin": 0.1, "neg_margin": 0.8}


def main() -> None:
    """Print a line for each precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_image_flags(parser)
    parser.add_argument("--protocol", choices=protocol_names(), default="small")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads [1]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, on = find_device()
    print(f"{on}, {torch.get_num_threads()} threads, torch {torch.__version__}, protocol "
          f"{args.protocol}, {args.epochs} epochs of fold 0, {args.seeds} seeds")  # fmt: skip
    pixels = open_trainval(args, find_protocol(args.protocol, args.dataset))
    base = None
    for precision in PRECISIONS if device.type == "cuda" else ("float32", "bf16"):
        protocol = find_protocol(args.protocol, args.dataset, changes={"precision": precision})
        protocol = dataclasses.replace(protocol, max_epochs=args.epochs, validation_interval=1)
        scores, rates = [], []
        for seed in range(args.seeds):
            config = TrainingConfig(Row("contrastive"), protocol, PARAMETERS, seed, (0,))
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
