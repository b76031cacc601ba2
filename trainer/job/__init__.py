"""A job.toml, read and checked word by word."""
