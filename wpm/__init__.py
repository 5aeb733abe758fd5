"""Within-pair mining: training, evaluation and search for deep metric learning."""

__version__ = "0.2.0"
