"""Data and supervised learning: markets, features, labels, predictors; usable without a run directory."""
