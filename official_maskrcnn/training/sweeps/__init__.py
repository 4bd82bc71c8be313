"""Runs a sweep, each run a process of its own, and gathers what the runs gave."""
