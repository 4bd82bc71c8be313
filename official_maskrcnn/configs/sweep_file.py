"""Reads the YAML file of a sweep: what its runs share, and which options they combine.

    experiment: NAME              # registered; a run is this experiment,
    config_file: [FILE, ...]      # then these files and those of its options,
    params_override: {FIELD: VALUE, ...}    # then these fields and those of its options
    axes: AXES                    # left out: one row
    exclude: [{AXIS: LABEL, ...}, ...]      # rows that match all of an entry are left out
    seeds: [1, 2, 3]              # of runtime.seed: one run of each row for each of them
    metrics: [mask/AP, ...]       # columns of the table

AXES is one of these, and stands in each other as deep as you like:

    list: {field: FIELD, values: [...], name: NAME}     # one row for each value of a field
    list: {name: NAME, options: {LABEL: {FIELD: VALUE, ..., config_file: FILE}, ...}}
    product: [AXES, ...]          # every row of the first with every row of the second ...
    zip: [AXES, ...]              # the first rows of all, the second rows of all ...
    concat: [AXES, ...]           # one after the other
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable, Sequence

import yaml

from official_maskrcnn.configs import loading, overrides
from official_maskrcnn.configs.overrides import Source

_TOP = ("experiment", "config_file", "params_override", "axes", "exclude", "seeds", "metrics")
_REQUIRED = ("experiment", "seeds", "metrics")
_AXES = ("list", "product", "zip", "concat")
_NO_FIELDS = ("experiment", "config_file")  # in an option, beside the fields that it sets
_COLUMNS = ("run", "row", "seed", "steps", "seconds", "digest")  # of the results, beside the axes
_SEED = "runtime.seed"


@dataclasses.dataclass(frozen=True)
class Changes:
    """What the base or an option sets."""

    experiment: str | None
    config_files: tuple[str, ...]
    fields: Source


@dataclasses.dataclass(frozen=True)
class Option:
    """One choice on an axis; `word` stands for it in the names of runs."""

    axis: str
    label: str
    word: str
    changes: Changes


Combination = tuple[Option, ...]  # of different axes: a row


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """A sweep as it is written."""

    path: str
    base: Changes
    rows: tuple[Combination, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]

    @property
    def axes(self) -> dict[str, list[str]]:
        """Labels by the name of their axis, both in the order of the file."""
        return _labels(self.rows)


def read_sweep_file(path: str) -> SweepFile:
    """Reads a sweep's file.

    Raises:
      ConfigError: the file is missing or faulty; the message lists all faults, each with its path
        in the file and its line.
    """
    source, root = overrides.read_tree(path)
    sweep = _Reader(source).sweep(root) if not source.faults else None
    loading.raise_faults(source.faults, f"the sweep ({path})")
    assert sweep is not None
    return sweep


def _labels(rows: Sequence[Combination]) -> dict[str, list[str]]:
    axes: dict[str, dict[str, None]] = {}
    for option in itertools.chain.from_iterable(rows):
        axes.setdefault(option.axis, {})[option.label] = None
    return {axis: list(labels) for axis, labels in axes.items()}


class _Reader:
    """Takes the node tree apart; what is wrong becomes a fault of the source."""

    def __init__(self, source: Source):
        self._source = source

    def sweep(self, root: yaml.Node | None) -> SweepFile | None:
        """The whole file; None, or what could be read, if anything is wrong with it."""
        if root is None:
            self._source.add_fault(f"is empty; a sweep has {', '.join(_TOP)}")
            return None
        top = self._map(root, "", _TOP)
        for name in _REQUIRED:
            if name not in top and isinstance(root, yaml.MappingNode):
                self._source.add_fault("is missing", path=name)
        base = Changes(
            self._text(top, "experiment") or None,
            self._texts(top.get("config_file"), "config_file"),
            self._fields(top.get("params_override"), "params_override"),
        )
        rows: list[Combination] = self._rows(top["axes"], "axes") if "axes" in top else [()]
        return SweepFile(
            self._source.name,
            base,
            tuple(rows if self._source.faults else self._kept(rows, top.get("exclude"))),
            self._seeds(top.get("seeds")),
            self._texts(top.get("metrics"), "metrics"),
        )

    def _rows(self, node: yaml.Node, path: str) -> list[Combination]:
        """The rows of axes, each a combination of options."""
        given = self._map(node, path, _AXES)
        if len(given) != 1:
            if isinstance(node, yaml.MappingNode) and (given or not node.value):
                self._fault(f"{len(given)} of {', '.join(_AXES)} given; expected one", node, path)
            return []
        ((kind, child),) = given.items()
        path = f"{path}.{kind}"
        if kind == "list":
            options = self._options(child, path)
            if options and options[0].axis in _COLUMNS:
                message = f"no axis is named {options[0].axis}, which is a column of every table"
                self._fault(f"{message}; give it another name", child, path)
            return [(option,) for option in options]
        parts = [
            self._rows(item, f"{path}[{number}]")
            for number, item in enumerate(self._items(child, path))
        ]
        if kind == "concat":
            return list(itertools.chain.from_iterable(parts))
        for one, other in itertools.combinations(parts, 2):
            for axis in sorted(_labels(one).keys() & _labels(other).keys()):
                self._fault(f"two axes are named {axis}; give one another name", child, path)
        if kind == "zip" and all(parts) and len({len(part) for part in parts}) > 1:
            lengths = ", ".join(f"{path}[{i}] {len(part)}" for i, part in enumerate(parts))
            self._fault(f"the parts have different numbers of rows: {lengths}", child, path)
        groups = zip(*parts, strict=False) if kind == "zip" else itertools.product(*parts)
        return [tuple(itertools.chain.from_iterable(group)) for group in groups]

    def _options(self, node: yaml.Node, path: str) -> list[Option]:
        given = self._map(node, path, ("name", "field", "values", "options"))
        if given.keys() - {"name"} == {"field", "values"}:
            return self._values(given, path)
        if given.keys() == {"name", "options"}:
            axis = self._text(given, "name", path)
            return [
                Option(axis, label, _word(label), self._option(child, f"{path}.options.{label}"))
                for label, child in self._map(given["options"], f"{path}.options").items()
            ]
        if isinstance(node, yaml.MappingNode) and len(given) == len(node.value):
            found = ", ".join(given) or "nothing"
            message = f"has {found}; expected field and values, or name and options"
            self._fault(message, node, path)
        return []

    def _values(self, given: dict[str, yaml.Node], path: str) -> list[Option]:
        field = self._text(given, "field", path)
        axis = self._text(given, "name", path) if "name" in given else field.rpartition(".")[2]
        options = []
        for value in self._items(given["values"], f"{path}.values"):
            key = yaml.ScalarNode("tag:yaml.org,2002:str", field, value.start_mark)
            pair = yaml.MappingNode("tag:yaml.org,2002:map", [(key, value)], value.start_mark)
            changes = Changes(None, (), self._fields(pair, f"{path}.values"))
            label = _shown(value)
            options.append(Option(axis, label, _word(f"{axis}_{label}"), changes))
        return options

    def _option(self, node: yaml.Node, path: str) -> Changes:
        if not isinstance(node, yaml.MappingNode):
            return Changes(None, (), self._fields(node, path))
        special = self._map(_part(node, lambda name: name in _NO_FIELDS), path)
        return Changes(
            self._text(special, "experiment", path) or None,
            self._texts(special.get("config_file"), f"{path}.config_file"),
            self._fields(_part(node, lambda name: name not in _NO_FIELDS), path),
        )

    def _fields(self, node: yaml.Node | None, path: str) -> Source:
        """Settings of the configuration, each with its line in this file."""
        fields = Source(self._source.name, has_lines=True)
        if isinstance(node, yaml.MappingNode):
            fields.add_map(node)
        elif node is not None and not _is_nothing(node):
            self._fault(f"{_shown(node)} given; expected a map of fields", node, path)
        for setting in fields.settings:
            if setting.path == _SEED:
                fields.add_fault("is set by seeds", setting.origin, _SEED)
        self._source.faults += fields.faults
        return fields

    def _kept(self, rows: list[Combination], node: yaml.Node | None) -> list[Combination]:
        """The rows without those that are excluded."""
        axes = _labels(rows)
        for number, entry in enumerate(self._items(node, "exclude") if node else ()):
            path = f"exclude[{number}]"
            wanted = {
                axis: _shown(value) for axis, value in self._map(entry, path, tuple(axes)).items()
            }
            for axis, label in wanted.items():
                if label not in axes[axis]:
                    self._unknown(label, axes[axis], entry, f"{path}.{axis}")
            kept = [
                row for row in rows if not wanted.items() <= {o.axis: o.label for o in row}.items()
            ]
            if len(kept) == len(rows) and not self._source.faults:
                self._fault("matches no row that is still there", entry, path)
            rows = kept
        if not rows:
            self._source.add_fault("no row is left", path="exclude" if node else "axes")
        return rows

    def _seeds(self, node: yaml.Node | None) -> tuple[int, ...]:
        texts = self._texts(node, "seeds")
        for text in texts:
            if not re.fullmatch("0|[1-9][0-9]{0,8}", text):
                self._fault(f"{text!r} given; accepts integers from 0 on, such as 1", node, "seeds")
                return ()
        return tuple(int(text) for text in texts)

    def _map(
        self, node: yaml.Node, path: str, known: tuple[str, ...] | None = None
    ) -> dict[str, yaml.Node]:
        """The fields of a map; those that are not `known`, if that is given, are faults."""
        if not isinstance(node, yaml.MappingNode):
            self._fault(f"{_shown(node)} given; expected a map", node, path)
            return {}
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if not name:
                self._fault("a name must be a plain word", key, path)
            elif known is not None and name not in known:
                self._unknown(name, known, key, f"{path}.{name}".lstrip("."))
            elif name in values:
                first = self._source.origin(values[name].start_mark)
                self._fault(f"given twice, first in {first}", key, f"{path}.{name}".lstrip("."))
            else:
                values[name] = value
        return values

    def _items(self, node: yaml.Node, path: str) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode) and node.value:
            return node.value
        self._fault(f"{_shown(node)} given; expected a list of at least one", node, path)
        return []

    def _text(self, values: dict[str, yaml.Node], name: str, path: str = "") -> str:
        node = values.get(name)
        if isinstance(node, yaml.ScalarNode) and node.value:
            return node.value
        if node is not None:
            self._fault(
                f"{_shown(node)} given; expected a name", node, f"{path}.{name}".lstrip(".")
            )
        return ""

    def _texts(self, node: yaml.Node | None, path: str) -> tuple[str, ...]:
        """A text or a list of them, without repetitions."""
        if node is None:
            return ()
        if isinstance(node, yaml.ScalarNode) and node.value:
            return (node.value,)
        texts = [_shown(item) for item in self._items(node, path)]
        for text in dict.fromkeys(texts):
            if texts.count(text) > 1:
                self._fault(f"{text} is given {texts.count(text)} times", node, path)
        return tuple(texts)

    def _unknown(self, name: str, known: Sequence[str], node: yaml.Node, path: str) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"accepts {', '.join(known) or 'nothing'}"
        self._fault(f"{name!r} is not known here; {hint}", node, path)

    def _fault(self, message: str, node: yaml.Node | None, path: str) -> None:
        self._source.add_fault(message, self._source.origin(node and node.start_mark), path)


def _part(node: yaml.MappingNode, is_in: Callable[[object], bool]) -> yaml.MappingNode:
    """A map of some of the fields."""
    pairs = [pair for pair in node.value if is_in(pair[0].value)]
    return yaml.MappingNode(node.tag, pairs, node.start_mark)


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("", "null")


def _shown(node: yaml.Node) -> str:
    """A value as it is written: the label of an option."""
    if isinstance(node, yaml.ScalarNode):
        return node.value or "nothing"
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_shown, node.value))}]"
    return "a map"


def _word(text: str) -> str:
    """A text as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_.-") or "none"
