"""What is measured of pictures: pure functions of embeddings and numbers. No file, no network and no device."""
