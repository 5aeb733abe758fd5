"""Judgements in; tables and sentences for a terminal, a document or LaTeX out."""
