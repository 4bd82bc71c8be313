"""Models and their parts, made of operations."""
