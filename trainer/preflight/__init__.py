"""All that is known of a run before torch is imported."""
