"""Processes of the ppo package: each reads the run directory, calls one library function, writes results."""
