"""Clusters that are really started, on hosts, nodes and schedulers of this machine's own.

They take minutes, need root and change the machine while they run, so `make cluster-test` asks
for them by name; all other runs skip them and say why.
"""
