"""What a run came to, by what it draws: pictures of each checkpoint, measured, compared with the base, on one page."""
