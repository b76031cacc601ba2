"""The frontier of fidelity against drift: `python -m benchmarks.frontier`."""
