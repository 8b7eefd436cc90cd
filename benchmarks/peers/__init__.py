"""The engines of the extraction benchmark, one script each; every script prints one JSON line."""
