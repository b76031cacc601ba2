"""From folders to the pictures and captions of every step."""
