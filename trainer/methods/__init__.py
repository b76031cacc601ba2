"""What can be trained, a file for each method: `registry.of` makes the one that a job names."""
