"""Image files in; cached pixels and batches of crops out."""
