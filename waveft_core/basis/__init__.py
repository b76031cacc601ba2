"""What one coefficient is worth: atoms, the entries they touch, their dense sum, and which positions train."""
