"""Published checkpoints of several forms behind one view: a ModelSpec and weights by role."""
