"""Flags in; commands and what a person sees out."""
