"""What nodes make of adapters: filtered, added up, extracted, saved and told of."""
