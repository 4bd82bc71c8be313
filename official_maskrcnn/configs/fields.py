"""The fields of the configuration dataclasses: their paths, and values read by their annotations.

Model Garden's dataclasses (backbones, decoders, optimizers, schedules) are treated like our own.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from official_maskrcnn.configs.model_garden_fields import model_garden_hint
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams

_NULLS = ("", "~", "null", "Null", "NULL", "None")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SYNONYMS = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")  # 010 is eight to some YAML readers
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TOO_LONG = re.compile(r"[-+]?[1-9][0-9]{18,}")
_THOUSANDS = re.compile(r"(?<=[0-9])[_,](?=[0-9]{3}(?![0-9]))")  # 10_000, 10,000
# No name or path holds these; YAML does not keep them all, and not all can be written to a file.
_NO_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    type(None): "null",
}


class Refused(Exception):
    """A setting that no field accepts: `path` is where it fails, the message says why."""

    def __init__(self, path: str, message: str):
        super().__init__(message)
        self.path = path


def annotations(config_class: type) -> dict[str, Any]:
    """Name and resolved annotation of every field of a configuration dataclass."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def config_class_of(annotation: Any) -> type[hyperparams.Config] | None:
    """The configuration dataclass that a field holds, be it optional; None for a plain value."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, hyperparams.Config):
            return option
    return None


def all_paths(config_class: type, prefix: str = "") -> tuple[str, ...]:
    """Dotted paths of all fields below a configuration dataclass, those with fields included."""
    paths: list[str] = []
    for name, annotation in annotations(config_class).items():
        paths.append(prefix + name)
        child = config_class_of(annotation)
        if child:
            paths += all_paths(child, f"{prefix}{name}.")
    return tuple(paths)


def leaves(config: hyperparams.Config) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every field that is in force (only the chosen branch of a OneOf)."""

    def walk(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return walk(config.as_dict(), "")


def assign(config: hyperparams.Config, path: str, node: yaml.Node) -> None:
    """Sets the field at a dotted path to the value that a YAML node holds.

    An optional configuration that is null so far is created when one of its fields is set.

    Raises:
      Refused: there is no such field, or it does not accept the value.
    """
    *parents, name = path.split(".")
    owner, reached = config, ""
    for parent in parents:
        child = config_class_of(_annotation(config, owner, reached, parent))
        reached += parent
        if child is None:
            raise Refused(reached, f"is a single value and has no field {path[len(reached) + 1 :]}")
        _create_if_null(owner, parent, child)
        owner = getattr(owner, parent)
        reached += "."

    annotation = _annotation(config, owner, reached, name)
    child = config_class_of(annotation)
    if child is None:
        setattr(owner, name, _read_field(owner, name, path, node, annotation))
    elif isinstance(node, yaml.MappingNode):
        _create_if_null(owner, name, child)
    elif _is_plain(node) and node.value in _NULLS and type(None) in _options(annotation):
        setattr(owner, name, None)
    else:
        raise Refused(
            path, f"{_show(node)} given; accepts a map of {', '.join(annotations(child))}"
        )


def _create_if_null(owner: hyperparams.Config, name: str, config_class: type) -> None:
    if getattr(owner, name) is None:
        setattr(owner, name, config_class())


def _annotation(root: hyperparams.Config, owner: hyperparams.Config, prefix: str, name: str) -> Any:
    known = annotations(type(owner))
    if name in known:
        return known[name]
    path = prefix + name
    hint = model_garden_hint(path)
    if hint:
        raise Refused(path, hint)
    near = [other for other in all_paths(type(root)) if other.split(".")[-1] == name] or [
        prefix + match for match in difflib.get_close_matches(name, known, n=1)
    ]
    nearest = difflib.get_close_matches(path, near, n=1, cutoff=0)
    raise Refused(
        path,
        f"no such field; did you mean {nearest[0]}?"
        if nearest
        else f"no such field; {prefix.removesuffix('.') or 'the experiment'} has "
        f"{', '.join(known) or 'no fields'}",
    )


def _read_field(
    owner: hyperparams.Config, name: str, path: str, node: yaml.Node, annotation: Any
) -> Any:
    try:
        value = _read(node, annotation)
    except _Mismatch as mismatch:
        hint = _suggestion(node, annotation)
        current = getattr(owner, name)
        if not hint and current not in (None, "", []) and not isinstance(current, bool):
            hint = f", such as {show_value(current)}"
        raise Refused(path, f"{mismatch} given; accepts {describe(annotation)}{hint}") from None
    if isinstance(owner, hyperparams.OneOfConfig) and name == "type" and value is not None:
        branches = [branch for branch in annotations(type(owner)) if branch != "type"]
        if value not in branches:
            raise Refused(path, not_a_choice(value, branches))
    return value


def not_a_choice(value: Any, choices: Sequence[str]) -> str:
    """Message for a value that is none of the choices, with the nearest of them."""
    parts = [part.strip() for part in str(value).split(",")]
    if len(parts) > 1 and set(parts) <= set(choices):
        hint = f"; did you mean [{', '.join(parts)}]?"
    else:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
    return f"{value!r} given; accepts {', '.join(choices)}{hint}"


def describe(annotation: Any) -> str:
    """What a field accepts, in words: `int | None` is "an integer or null"."""
    words = []
    for option in _options(annotation):
        element = typing.get_args(option)
        if typing.get_origin(option) is tuple:
            words.append(f"a list of {len(element)}: {', '.join(map(describe, element))}")
        elif element:
            plural = describe(element[0]).removeprefix("an ").removeprefix("a ") + "s"
            words.append(f"a list of {plural}")
        else:
            words.append(_TYPE_NAMES[option])
    return " or ".join(words)


def is_keyword(text: str) -> bool:
    """Whether a text reads as null, true or false unless it is in quotes."""
    return text in _NULLS or text in _BOOLS


def needs_quotes(text: str) -> bool:
    """Whether a text reads as a keyword or a number unless it is in quotes."""
    return is_keyword(text) or _NUMBER.fullmatch(text) is not None


def show_value(value: Any) -> str:
    """A value as one would write it in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    return repr(value) if isinstance(value, str) else str(value)


class _Mismatch(Exception):
    """A node that the annotation does not accept; the message shows the part that is wrong."""


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _read(node: yaml.Node, annotation: Any) -> Any:
    # A text accepts nearly everything, so it comes last: `128` for `str | float` is a number.
    options = sorted(_options(annotation), key=lambda option: option is str)
    mismatch = _Mismatch(_show(node))
    for option in options:
        try:
            return _read_option(node, option)
        except _Mismatch as error:
            if isinstance(node, yaml.SequenceNode) and typing.get_args(option):
                mismatch = error  # names the element
    raise mismatch


def _read_option(node: yaml.Node, option: Any) -> Any:
    if typing.get_args(option):
        return _read_sequence(node, option)
    if isinstance(node, yaml.ScalarNode):
        text = node.value
        is_text = not ((_is_plain(node) and is_keyword(text)) or _NO_TEXT.search(text))
        if option is str and is_text:
            return text
        if _is_plain(node):
            if option is type(None) and text in _NULLS:
                return None
            if option is bool and text in _BOOLS:
                return _BOOLS[text]
            if option is int and _INTEGER.fullmatch(text):
                return int(text)
            if option is float and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
                return float(text)
    raise _Mismatch(_show(node))


def _read_sequence(node: yaml.Node, option: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise _Mismatch(_show(node))
    elements = typing.get_args(option)
    if typing.get_origin(option) is tuple and Ellipsis not in elements:
        if len(node.value) != len(elements):
            raise _Mismatch(_show(node))
    else:
        elements = (elements[0],) * len(node.value)
    values = []
    for position, (item, annotation) in enumerate(zip(node.value, elements, strict=True), 1):
        try:
            values.append(_read(item, annotation))
        except _Mismatch as mismatch:
            raise _Mismatch(f"a list whose element {position} is {mismatch}") from None
    return tuple(values) if typing.get_origin(option) is tuple else values


def _show(node: yaml.Node, limit: int = 60) -> str:
    if isinstance(node, yaml.SequenceNode):
        text = f"[{', '.join(_show(item) for item in node.value)}]"
    elif isinstance(node, yaml.MappingNode):
        text = "a map"
    elif _is_plain(node) and node.value == "":
        text = "nothing"
    elif _is_plain(node) and needs_quotes(node.value):
        text = node.value
    else:
        text = repr(node.value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _suggestion(node: yaml.Node, annotation: Any) -> str:
    """The nearest value that would have been accepted, where one is plain to see."""
    options = _options(annotation)
    if not isinstance(node, yaml.ScalarNode):
        return ""
    text = node.value
    near = ""
    if bool in options:
        near = _SYNONYMS.get(text) or next(
            iter(difflib.get_close_matches(text.lower(), ("true", "false"), n=1)), ""
        )
    elif str in options and _NO_TEXT.search(text):
        return "; a text is one line without control characters"
    elif not _is_plain(node) and (int in options or float in options):
        near = text if _accepts(annotation, text) else ""
    elif int in options:
        if _TOO_LONG.fullmatch(text):
            return "; an integer has at most 18 digits"
        near = _nearest_integer(text)
    elif is_keyword(text):
        near = f"'{text}'" if str in options else ""
    elif float in options:
        near = text.replace(",", ".") if _accepts(annotation, text.replace(",", ".")) else ""
    elif any(typing.get_args(option) for option in options):
        near = _nearest_list(text, annotation)
    return f"; did you mean {near}?" if near else ""


def _accepts(annotation: Any, text: str) -> bool:
    try:
        _read(_plain(text), annotation)
    except _Mismatch:
        return False
    return True


def _plain(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)


def _nearest_integer(text: str) -> str:
    text = _THOUSANDS.sub("", text)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else ""


def _nearest_list(text: str, annotation: Any) -> str:
    """A list out of a text with commas, or out of one that should not be in quotes."""
    items = [_plain(item.strip()) for item in text.strip("[] ").split(",") if item.strip()]
    try:
        return show_value(_read(yaml.SequenceNode("tag:yaml.org,2002:seq", items), annotation))
    except _Mismatch:
        return ""
