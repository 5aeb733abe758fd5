"""Within-pair mining: training, evaluation and search for deep metric learning."""

__version__ = "0.3.0.dev0"
