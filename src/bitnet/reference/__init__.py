"""The forward pass in NumPy, written to be read: the oracle of our own arithmetic."""
