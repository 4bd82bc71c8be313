"""Runs a task: devices, training loop, checkpoints, evaluation, progress."""
