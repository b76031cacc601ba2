"""Networks that turn pictures and texts into embeddings; nothing is fetched unless the user allows it."""
