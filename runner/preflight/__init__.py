"""Pre-flight: is this machine fit for the planned run, found out before anything is paid for.

Start at `checks.run_checks`. Knows processes and files; never imports torch (see `gpu_probe`).
"""
