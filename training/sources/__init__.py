"""Where bars come from: files of many kinds, a generator, and services that are fetched from."""
