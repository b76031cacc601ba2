"""Pictures that networks are tried on."""

import pytest


@pytest.fixture(scope="session")
def pictures():
    """Pictures of several sizes and shapes."""
    import numpy as np
    from PIL import Image

    sizes = [(40, 30), (30, 40), (64, 64), (31, 97)]
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
