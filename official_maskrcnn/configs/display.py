"""Configurations for people to read: with the origin of each value, and side by side."""

from collections.abc import Iterator, Mapping
from typing import Any

from official_maskrcnn.configs import loading


def with_origins(loaded: loading.LoadedExperiment) -> str:
    """A configuration as YAML, with a comment at each value that says where it was set last."""
    lines = list(_lines(loaded.config.as_dict(), ""))
    width = min(max(len(text) for text, _ in lines), 60)
    return "".join(
        f"{text:<{width}}  # {loaded.origin(path)}\n" if path else f"{text}\n"
        for text, path in lines
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted path and both values wherever two nested maps differ, in alphabetical order."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        (path, before.get(path, "(absent)"), after.get(path, "(absent)"))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _lines(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with the dotted path of its value, or "" above a map."""
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{indent}{name}: {loading.value_to_yaml(value)}", prefix + name


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, loading.value_to_yaml(value)
