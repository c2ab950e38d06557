"""Launching runs on rented machines: one contract, one folder for each provider."""
