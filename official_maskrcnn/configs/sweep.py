"""A sweep in full: every run with its name and its checked configuration."""

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from official_maskrcnn.configs import display, loading, overrides
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.configs.loading import ConfigError
from official_maskrcnn.configs.overrides import Fault, Source
from official_maskrcnn.configs.sweep_file import Combination, SweepFile, read_sweep_file

_LONGEST_NAME = 200  # characters; file systems take 255 bytes


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table averages over: the runs that differ only in their seed.

    Attributes:
      name: made of the options' labels; safe as the name of a folder.
      labels: by axis.
      experiment: a registered name.
      config: complete but for the seed, which is None.
      changes: path and value of what the options set, config files included, as far as the
        configuration has it.
    """

    name: str
    labels: Mapping[str, str]
    experiment: str
    config: ExperimentConfig
    changes: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Unique in the sweep; also its folder below that of the sweep."""
        return f"{self.row.name}/seed{self.seed}"

    @functools.cached_property
    def config(self) -> ExperimentConfig:
        """The complete configuration."""
        config = copy.deepcopy(self.row.config)
        config.runtime.seed = self.seed
        return config

    @functools.cached_property
    def digest(self) -> str:
        """Of the experiment and all that the configuration changes in it.

        So it stays the same when a release adds a field to all configurations.
        """
        default = EXPERIMENTS.get(self.row.experiment)().as_dict()
        changed = [
            (path, new) for path, _, new in display.differences(default, self.config.as_dict())
        ]
        text = json.dumps([self.row.experiment, changed])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The plan of a sweep."""

    path: str
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name, without its folder and suffix."""
        return pathlib.PurePath(self.path).stem

    @functools.cached_property
    def runs(self) -> list[Run]:
        """All seeds of the first row, then those of the next."""
        return [Run(row, seed) for row in self.rows for seed in self.seeds]


def load_sweep(
    path: str,
    changes: Sequence[str] = (),
    mode: str | None = None,
    watch: Callable[[int, int], object] = lambda done, total: None,
) -> Sweep:
    """Reads a sweep and checks the configuration of every run.

    Args:
      path: a YAML file; `sweep_file` says what it holds.
      changes: overrides of all runs, after all that the file says.
      mode: what the runs are about to be used for; None: they are not checked for that, and no
        data is looked for.
      watch: called with the number of rows that are checked, and of all.

    Raises:
      ConfigError: the file or a configuration is faulty, two runs have one name, or one
        configuration; the message lists all faults, each once, with the rows that it is in.
    """
    file = read_sweep_file(path)
    loader = _Loader(file, [overrides.read_override(text, "command line") for text in changes])
    rows: list[Row] = []
    found: dict[Fault, list[str]] = {}
    for number, options in enumerate(file.rows):
        watch(number, len(file.rows))
        try:
            rows.append(loader.load(options, mode))
        except ConfigError as error:
            for fault in error.faults:
                found.setdefault(fault, []).append(_name(options))
    watch(len(file.rows), len(file.rows))
    faults = [*shared_faults(found, len(file.rows)), *_names_at_fault(file)]
    if not faults:
        faults += _without_effect(file, rows)
    loading.raise_faults(faults, f"the sweep ({path})")
    return Sweep(path, tuple(file.axes), tuple(rows), file.seeds, file.metrics)


def shared_faults(found: Mapping[Fault, Sequence[str]], total: int) -> list[Fault]:
    """Faults that say which of the `total` rows or runs have them, if not all do."""

    def where(names: Sequence[str]) -> str:
        more = ", ..." if len(names) > 3 else ""
        shown = f" [{len(names)} of {total}: {', '.join(names[:3])}{more}]"
        return shown if len(names) < total else ""

    return [
        dataclasses.replace(fault, message=fault.message + where(names))
        for fault, names in found.items()
    ]


class _Loader:
    """Loads the configurations of a sweep's rows; reads each config file once."""

    def __init__(self, file: SweepFile, changes: Sequence[Source]):
        self._file, self._changes = file, changes
        self._read = functools.cache(overrides.read_file)

    def load(self, options: Combination, mode: str | None) -> Row:
        """The row of a combination of options; raises `ConfigError`."""
        parts = [self._file.base, *(option.changes for option in options)]
        experiment = [part.experiment for part in parts if part.experiment][-1]
        files = [path for part in parts for path in part.config_files]
        sources = [*map(self._read, files), *(part.fields for part in parts), *self._changes]
        if experiment not in EXPERIMENTS.names():
            fault = Fault("experiment", self._file.path, EXPERIMENTS.unknown(experiment))
            raise ConfigError(str(fault), [fault])
        config = loading.load_sources(experiment, sources, mode).config
        config.runtime.seed = None
        labels = {option.axis: option.label for option in options}
        return Row(_name(options), labels, experiment, config, tuple(_changes(options, config)))


def _changes(options: Combination, config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    values = {path: new for path, _, new in display.differences({}, config.as_dict())}
    for option in options:
        if option.changes.experiment:
            yield "experiment", option.changes.experiment
        for path in option.changes.config_files:
            yield "config_file", path
        for setting in option.changes.fields.settings:
            if setting.path in values:  # not so for {}, and in a part that another option drops
                yield setting.path, values[setting.path]


def _name(options: Combination) -> str:
    return "-".join(option.word for option in options) or "base"


def _names_at_fault(file: SweepFile) -> Iterator[Fault]:
    names = sorted(map(_name, file.rows))
    for name, group in itertools.groupby(names):
        count = len(list(group))
        if count > 1:
            yield Fault(
                "axes", file.path, f"{count} rows are named {name}; give their options other labels"
            )
        if len(name) > _LONGEST_NAME:
            message = f"a row's name has {len(name)} characters, {_LONGEST_NAME} are allowed; give "
            yield Fault("axes", file.path, f"{message}the options shorter labels: {name}")


def _without_effect(file: SweepFile, rows: Sequence[Row]) -> Iterator[Fault]:
    """Axes that change nothing, and other rows that are the same run."""
    texts = [loading.to_yaml(row.config) for row in rows]
    idle = set()
    for axis, labels in file.axes.items():
        if len(labels) == 1 and all(axis in row.labels for row in rows):
            message = f"every run has {axis} {labels[0]}; an axis needs two options"
            yield Fault("axes", file.path, message)
        others: dict[frozenset[tuple[str, str]], list[str]] = {}
        for row, text in zip(rows, texts, strict=True):
            if axis in row.labels:
                rest = frozenset(pair for pair in row.labels.items() if pair[0] != axis)
                others.setdefault(rest, []).append(text)
        compared = [group for group in others.values() if len(group) > 1]
        if compared and all(len(set(group)) == 1 for group in compared):
            idle.add(axis)
            message = f"the axis {axis} has no effect: its options give the same configurations"
            yield Fault("axes", file.path, message)
    by_text: dict[str, list[Row]] = {}
    for row, text in zip(rows, texts, strict=True):
        by_text.setdefault(text, []).append(row)
    for same in by_text.values():
        distinct = {frozenset(p for p in row.labels.items() if p[0] not in idle) for row in same}
        if len(distinct) > 1:
            names = " and ".join(row.name for row in same)
            yield Fault("axes", file.path, f"{names} have the same configuration; exclude one")
