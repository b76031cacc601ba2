"""One optimizer step, and all that it needs."""
