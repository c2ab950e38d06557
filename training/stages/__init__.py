"""Processes of the training package: each reads the run directory, calls one library function, writes results."""
