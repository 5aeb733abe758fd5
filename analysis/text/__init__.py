"""Rankings and comparisons in; tables and sentences for terminal, Markdown, CSV and LaTeX out."""
