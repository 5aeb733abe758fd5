"""Time to score a set as large as SOP's test half, and the memory beyond its embeddings.

python -m benchmarks.retrieval_memory            # 60,502 x 512, faiss and matrix products
python -m benchmarks.retrieval_memory --quick    # 12,000 x 512
"""

import argparse
import platform
import resource
import sys
import time

import torch
from torch.nn.functional import normalize

from benchmarks.machine import resident_bytes
from wpm import retrieval

IMAGES, CLASSES, DIM = 60_502, 11_316, 512  # SOP's test half, embeddings of four folds concatenated


def make_set(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings around class centres, and their labels.

    They are made in slices, or the peak memory of making them would hide that of scoring.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images).remainder(classes)
    centres = torch.randn(classes, DIM, generator=generator)
    embeddings = torch.empty(images, DIM)
    for part in torch.arange(images).split(4096):
        noise = torch.randn(len(part), DIM, generator=generator)
        embeddings[part] = normalize(centres[labels[part]] + 1.5 * noise)
    return embeddings, labels


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print one line for each way of finding neighbours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--way", choices=["faiss", "products"], help="one way only")
    args = parser.parse_args()
    if args.way is None:
        # Each way has its own process, because a peak of memory never comes down.
        import subprocess

        for way in ("faiss", "products"):
            command = [sys.executable, "-m", "benchmarks.retrieval_memory", "--way", way]
            subprocess.run([*command, *(["--quick"] if args.quick else [])], check=True)
        return
    images, classes = (12_000, 2_200) if args.quick else (IMAGES, CLASSES)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embeddings, labels = make_set(images, classes)
    retrieval.retrieval_scores(embeddings[:500], labels[:500] % 50)  # loads the libraries
    if args.way == "products":
        embeddings, labels = embeddings.to(device), labels.to(device)
        retrieval.FAISS_DEVICES = ()
    on_device = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        on_device = torch.cuda.memory_allocated()
    before = resident_bytes()
    start = time.perf_counter()
    scores = retrieval.retrieval_scores(embeddings, labels)
    seconds = time.perf_counter() - start
    beyond = peak_bytes() - before
    line = f"{platform.machine()}, {embeddings.device.type}, {torch.get_num_threads()} threads, "
    line += f"{args.way}: {images} x {DIM}: {seconds:.1f} s, "
    line += f"{beyond / 2**30:.2f} GiB beyond the embeddings"
    if embeddings.device.type == "cuda":
        line += f", {(torch.cuda.max_memory_allocated() - on_device) / 2**30:.2f} GiB on the GPU"
    print(f"{line}; MAP@R {scores.map_at_r:.4f}", flush=True)


if __name__ == "__main__":
    main()
