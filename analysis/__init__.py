"""Commands that read the records of searches and final runs; each file here is one command.

Only `analysis.embed` opens images, and only parameter importance uses Optuna. Nothing uses Ray.
"""
