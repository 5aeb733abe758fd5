"""Benchmarks measure two ways side by side in one run, and print ratios; none is a timed test."""
