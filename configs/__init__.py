"""The ground all packages stand on: schema, presets, run directory, events, errors."""
