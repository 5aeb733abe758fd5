"""Scripts that read records, and nothing else: no Ray, no Optuna, no torch."""
