"""Speed and memory, measured; never tested."""
