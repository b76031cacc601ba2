"""What a run leaves: adapter, report, card."""
