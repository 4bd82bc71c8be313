"""Pure functions on tensors: the ground floor."""
