"""Reads YAML files and override strings into settings: which field gets what, and where it says so.

Values stay YAML nodes here; `fields` reads each by the annotation of its field. So `143` is a
number for one field and a text for another, and `1e-4` is a number although YAML 1.1 disagrees.
"""

import dataclasses
import re

import tensorflow as tf
import yaml
from absl import logging

_FILE_SUFFIXES = (".yaml", ".yml", ".json")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=")
_SPLITTING = re.compile(
    r"""(?<=[=,:\[{\s])(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")"""  # a quoted text, skipped whole
    r"|[\[\]{},]"
)
_CLOSES = {"]": "[", "}": "{"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One value for the field at a dotted path, and where it is written."""

    path: str
    node: yaml.Node
    origin: str  # file:line, or the flag


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong; `path` is empty where the fault belongs to no single field."""

    path: str
    origin: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path} ({self.origin})" if self.path and self.origin else ""
        place = place or self.path or self.origin
        return f"{place}: {self.message}"


class Source:
    """The settings of one YAML file or override, and the faults of its syntax."""

    def __init__(self, name: str, has_lines: bool = False):
        self.name = name
        self.has_lines = has_lines
        self.settings: list[Setting] = []
        self.faults: list[Fault] = []
        self._origins: dict[str, str] = {}

    def origin(self, mark: yaml.Mark | None) -> str:
        """The source's name and, in a file, the line."""
        return f"{self.name}:{mark.line + 1}" if self.has_lines and mark else self.name

    def add(self, path: str, node: yaml.Node, origin: str) -> None:
        """Enters a value; a map is taken apart into one setting for each of its fields."""
        if path in self._origins:
            self.add_fault(f"given twice, first in {self._origins[path]}", origin, path)
            return
        self._origins[path] = origin
        if isinstance(node, yaml.MappingNode) and node.value:
            self.add_map(node, f"{path}.")
        else:
            self.settings.append(Setting(path, node, origin))

    def add_map(self, node: yaml.MappingNode, prefix: str = "") -> None:
        """Enters every field of a map, whose paths start with `prefix`."""
        for key, value in node.value:
            origin = self.origin(key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value:
                self.add(prefix + key.value, value, origin)
            else:
                self.add_fault("the name of a field must be a plain word", origin, prefix[:-1])

    def add_fault(self, message: str, origin: str = "", path: str = "") -> None:
        """Enters a fault, by default of the source as a whole."""
        self.faults.append(Fault(path, origin or self.name, message))


def read_file(path: str) -> Source:
    """Settings of a YAML or JSON file, local or remote (gs://...)."""
    source = Source(path, has_lines=True)
    text = _read_text(source)
    if text is not None:
        _read_yaml(source, text)
    return source


def read_tree(path: str) -> tuple[Source, yaml.Node | None]:
    """A YAML file as its node tree: no tags, no aliases; and the source for its faults.

    The tree is None if the file is empty or, with a fault, if it cannot be read.
    """
    source = Source(path, has_lines=True)
    text = _read_text(source)
    return source, None if text is None else _compose(source, text)


def _read_text(source: Source) -> str | None:
    try:
        with tf.io.gfile.GFile(source.name, "r") as file:
            return file.read()
    except tf.errors.NotFoundError:
        source.add_fault("no such file")
    except tf.errors.OpError as error:
        source.add_fault(f"cannot be read: {error.message}")
    except UnicodeDecodeError:
        source.add_fault("is not a text file in UTF-8")
    except UnicodeEncodeError:
        source.add_fault("the name of the file is not in UTF-8")
    return None


def read_override(text: str, flag: str = "--params_override") -> Source:
    """Settings of an override: `a.b=1,c=[2, 3]`, YAML or JSON text, or the path of a YAML file.

    A comma inside quotes, brackets or braces does not end a value, and neither does one that no
    `name=` follows, so that `input_path=/a/x*,/b/y*` is one value.
    """
    source, text = Source(flag), text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:  # an argument that holds other bytes
        source.add_fault("is not a text in UTF-8")
        return source
    is_file_name = text.endswith(_FILE_SUFFIXES) and "\n" not in text
    is_assignment = _ASSIGNMENT.match(text)
    if is_file_name and (not is_assignment or tf.io.gfile.exists(text)):
        return read_file(text)
    if is_assignment:
        for path, value in _split_assignments(source, text):
            node = _value_node(source, path, value)
            if node is not None:
                source.add(path, node, flag)
    elif text:
        _read_yaml(source, text)
    return source


class _Loader(yaml.SafeLoader):
    """Refuses tags, and aliases: an unquoted glob such as *.tfrecord would be read as one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = "a value that starts with * must be in quotes (YAML aliases are not used)"
        elif event.tag is not None:
            problem = "a value that starts with ! must be in quotes (YAML tags are not used)"
        if problem:
            raise yaml.composer.ComposerError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _read_yaml(source: Source, text: str) -> None:
    root = _compose(source, text)
    if isinstance(root, yaml.MappingNode):
        source.add_map(root)
    elif source.faults:
        return
    elif root is None or root.value == "":
        logging.warning("%s is empty and sets nothing", source.name)
    else:
        given = repr(root.value) if isinstance(root, yaml.ScalarNode) else "a list"
        forms = "{}" if source.has_lines else "name=value, {}, or a YAML file"
        source.add_fault(f"{given} given; expected {forms.format('a map of fields')}")


def _compose(source: Source, text: str, path: str = "") -> yaml.Node | None:
    """The node tree of a YAML text; None if it is empty or, with a fault, if it is malformed."""
    try:
        return _Loader(text).get_single_node()
    except RecursionError:
        source.add_fault("is nested too deeply", path=path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.add_fault(_explain(error, text), source.origin(mark), path)
    except yaml.YAMLError as error:  # characters that no YAML text may hold
        source.add_fault(str(error).replace("\n", " "), path=path)
    return None


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    lines = text.splitlines()
    for mark in (error.problem_mark, error.context_mark):
        line = lines[mark.line] if mark and mark.line < len(lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return "a tab in the indentation; YAML accepts only spaces"
    if error.context == "expected a single document in the stream":
        return "a second document starts here; expected one"
    problem = error.problem or "malformed"
    return f"not valid YAML: {problem}{' ' + error.context if error.context else ''}"


def _split_assignments(source: Source, text: str) -> list[tuple[str, str]]:
    """Splits `a=1,b=[2, 3]` into ("a", "1"), ("b", "[2, 3]")."""
    pieces, start, opened = [], 0, ""
    for token in _SPLITTING.finditer(text):
        character = token.group()
        if character in ("[", "{"):
            opened += character
        elif character in _CLOSES:
            opened = opened.removesuffix(_CLOSES[character])
        elif character == "," and not opened:
            pieces.append(text[start : token.start()])
            start = token.end()
    pieces.append(text[start:])
    if opened:
        source.add_fault(f"{opened[-1]!r} is never closed in {text!r}")
        return []

    assignments: list[tuple[str, str]] = []
    for piece in pieces:
        match = _ASSIGNMENT.match(piece)
        if match:
            assignments.append((match.group(1), piece[match.end() :]))
        elif piece.strip():
            path, value = assignments[-1]
            assignments[-1] = path, f"{value},{piece}"
    return assignments


def _value_node(source: Source, path: str, text: str) -> yaml.Node | None:
    text = text.strip()
    if text.startswith(("[", "{", "'", '"')):
        return _compose(source, text, path)
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)  # style None: plain, not quoted
