"""Configuration: dataclasses, registered experiments, overrides and their checks."""
