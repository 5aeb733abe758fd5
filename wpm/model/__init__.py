"""Batches of images in; embeddings and views of them out."""

from wpm.model.exported import load_exported

__all__ = ["load_exported"]
