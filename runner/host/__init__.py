"""The machine that a run is carried out on: which kind it is, what it costs, and how it is ended."""
