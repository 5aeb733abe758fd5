"""A study's plan in; work for a cluster, its trials and its final runs, out."""
