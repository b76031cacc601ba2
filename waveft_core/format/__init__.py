"""The adapter, its file, and the names of its layers."""
