"""One suite for a machine with a GPU: `python -m benchmarks.gpu --out DIR`."""
