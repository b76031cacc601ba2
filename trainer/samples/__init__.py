"""Pictures that a run draws."""
