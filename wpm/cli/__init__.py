"""Flags in; commands, and what a person sees of them, out."""
