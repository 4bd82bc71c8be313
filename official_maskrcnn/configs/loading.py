"""From an experiment's name, YAML files and overrides to a checked configuration, and back."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import yaml

from official_maskrcnn.configs import checks, fields, overrides, rules
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.configs.overrides import Fault, Source
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import write_text
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams


class ConfigError(UserError):
    """Everything that is wrong with a configuration: in words, and as `faults`."""

    def __init__(self, message: str, faults: Sequence[Fault]):
        super().__init__(message)
        self.faults = faults


@dataclasses.dataclass(frozen=True)
class LoadedExperiment:
    """A checked configuration that knows where its values come from."""

    config: ExperimentConfig
    base: str  # what the values start from, in words
    origins: dict[str, str]  # dotted path -> file:line or flag, of the values that were set

    def origin(self, path: str) -> str:
        """Where the value at a dotted path was set last."""
        return self.origins.get(path, self.base)


def load_experiment(
    name: str, config_files: Sequence[str] = (), overrides: str | Sequence[str] = ""
) -> ExperimentConfig:
    """The configuration of a registered experiment, changed by YAML files and then by overrides.

    Args:
      name: a registered experiment, such as deep_mask_head_rcnn_resnetfpn_coco.
      config_files: YAML files (local or gs://); a later one wins over an earlier one.
      overrides: `a.b=1,c=[2, 3]`, YAML text or a YAML file; or several of these in order.

    Raises:
      UserError: there is no such experiment, or anything in the files or overrides is wrong: its
        message lists every fault with its path, origin and what would be right.
    """
    return load(name, config_files, overrides).config


def load(
    name: str,
    config_files: Sequence[str] = (),
    overrides: str | Sequence[str] = "",
    flags: Mapping[str, str] | None = None,
    mode: str | None = None,
) -> LoadedExperiment:
    """Like `load_experiment`, and keeps where each value comes from.

    Args:
      name: as above; so are the next two.
      config_files: ...
      overrides: ...
      flags: last overrides, by the name of the flag that they come from.
      mode: what the configuration is about to be used for; if it is right in itself, it is
        checked for that too.
    """
    return load_sources(name, _sources(config_files, overrides, flags or {}), mode)


def load_sources(name: str, sources: Sequence[Source], mode: str | None = None) -> LoadedExperiment:
    """Like `load`, from what is read already; a later source wins over an earlier one."""
    return _apply(EXPERIMENTS.get(name)(), f"experiment {name}", sources, mode)


def refuse(violations: Iterable[checks.Violation], what: str) -> None:
    """Raises `UserError` if there is any violation; `what` says of which configuration."""
    faults = [Fault(violation.paths[0], "", violation.message) for violation in violations]
    raise_faults(faults, f"the configuration ({what})")


def raise_faults(faults: Sequence[Fault], where: str) -> None:
    """Raises `ConfigError` if there is any fault; `where` ends "3 faults in ..."."""
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise ConfigError(f"{count} in {where}:{lines}", faults)


def experiment_from_params(path: str) -> ExperimentConfig:
    """Reads back a configuration that `save_params` wrote.

    Raises:
      UserError: the file is missing or faulty.
    """
    return _apply(ExperimentConfig(), "default", [overrides.read_file(path)]).config


def save_params(experiment: ExperimentConfig, path: str) -> None:
    """Writes a whole configuration as YAML; `path` may be remote (gs://).

    Raises:
      UserError: it cannot be written.
    """
    write_text(path, to_yaml(experiment))


def to_yaml(config: hyperparams.Config) -> str:
    """A configuration as YAML text, its fields in the order of the dataclasses."""
    return yaml.dump(config.as_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def value_to_yaml(value: object) -> str:
    """One value as YAML text on one line."""
    text = yaml.dump([value], Dumper=_Dumper, allow_unicode=True, width=math.inf)
    return text.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    pass


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML leaves None and 1e-4 bare, which `fields` would read as null and as a number.
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if fields.needs_quotes(text) else None
    )


def _represent_list(dumper: yaml.SafeDumper, items: Sequence[object]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)


def _sources(
    config_files: Sequence[str], texts: str | Sequence[str], extra: Mapping[str, str]
) -> list[Source]:
    config_files = [config_files] if isinstance(config_files, str) else config_files
    texts = [texts] if isinstance(texts, str) else texts
    flags = ["--params_override"] * len(texts)
    if len(texts) > 1:
        flags = [f"{flag} {number}" for number, flag in enumerate(flags, 1)]
    given = [*zip(texts, flags, strict=True), *((text, flag) for flag, text in extra.items())]
    return [overrides.read_file(path) for path in config_files] + [
        overrides.read_override(text, flag) for text, flag in given
    ]


def _apply(
    experiment: ExperimentConfig, base: str, sources: Sequence[Source], mode: str | None = None
) -> LoadedExperiment:
    loaded = LoadedExperiment(experiment, base, {})
    last_set: dict[str, int] = {}  # dotted path -> number of the source that set it last
    faults: dict[tuple[str, str], Fault] = {}  # one unknown section is one fault, not one a field

    def report(fault: Fault) -> None:
        faults.setdefault((fault.path, fault.message), fault)

    for number, source in enumerate(sources):
        for fault in source.faults:
            report(fault)
        for setting in source.settings:
            try:
                fields.assign(experiment, setting.path, setting.node)
            except fields.Refused as refusal:
                report(Fault(refusal.path, setting.origin, str(refusal)))
            else:
                loaded.origins[setting.path] = setting.origin
                last_set[setting.path] = number
        given = {path for path in last_set if last_set[path] == number}
        _replace_data_source(loaded, given)
        _replace_length(loaded, given)

    refused = {path for path, _ in faults}
    for fault in (
        *_settings_without_effect(loaded, last_set, refused),
        *_broken(loaded, checks.violations(loaded.config), refused),
    ):
        report(fault)
    if mode is not None and not faults:  # data is looked for once it is clear which
        for fault in _broken(loaded, checks.mode_violations(loaded.config, mode)):
            report(fault)
    raise_faults(list(faults.values()), f"the configuration ({base})")
    return loaded


def _replace_data_source(loaded: LoadedExperiment, given: set[str]) -> None:
    """Drops the data source of an earlier stage where a stage gives one of the other kind.

    A stage that gives both is left alone, for the rule on data sources to refuse.
    """
    task = loaded.config.task

    def is_given(path: str, owner: hyperparams.Config) -> bool:
        return path in given and bool(getattr(owner, path.rpartition(".")[2]))

    def put(path: str, owner: hyperparams.Config, value: str | None, cause: str) -> None:
        setattr(owner, path.rpartition(".")[2], value)
        loaded.origins[path] = loaded.origins[cause]

    for part in ("train_data", "validation_data"):
        data = getattr(task, part)
        records, folder, annotations = (
            f"task.{part}.{name}" for name in ("input_path", "image_dir", "annotation_file")
        )
        gives_records = is_given(records, data)
        causes = [path for path in (folder, annotations) if is_given(path, data)]
        # The ground truth of a folder is in its own annotations.
        owns_truth = part == "validation_data" and "task.annotation_file" not in given
        if gives_records and not causes:
            if owns_truth and data.annotation_file == task.annotation_file:
                put("task.annotation_file", task, None, records)
            put(folder, data, "", records)
            put(annotations, data, "", records)
        elif causes and not gives_records:
            put(records, data, "", causes[0])
            if owns_truth and annotations in causes:
                put("task.annotation_file", task, data.annotation_file, annotations)


def _replace_length(loaded: LoadedExperiment, given: set[str]) -> None:
    """Drops a length of an earlier stage that a stage gives in the other unit."""
    trainer, steps, epochs = loaded.config.trainer, "trainer.train_steps", "trainer.train_epochs"
    if epochs in given and steps not in given and trainer.train_epochs is not None:
        trainer.train_steps, loaded.origins[steps] = 0, loaded.origins[epochs]
    elif steps in given and epochs not in given and trainer.train_epochs is not None:
        trainer.train_epochs, loaded.origins[epochs] = None, loaded.origins[steps]
    if "trainer.boundary_epochs" not in given and rules.BOUNDARIES in given:
        trainer.boundary_epochs = None


def _settings_without_effect(
    loaded: LoadedExperiment, last_set: dict[str, int], refused: set[str]
) -> Iterator[Fault]:
    """Settings of a branch that is not the chosen one, unless a later source chose the other."""
    for path, number in last_set.items():
        owner: hyperparams.Config | None = loaded.config
        parts = path.split(".")
        for depth, part in enumerate(parts[:-1]):
            type_path = ".".join((*parts[:depth], "type"))
            if (
                isinstance(owner, hyperparams.OneOfConfig)
                and part != owner.type
                and number >= last_set.get(type_path, -1)
                and type_path not in refused
            ):
                message = f"has no effect: {type_path} is {fields.show_value(owner.type)}"
                yield Fault(path, loaded.origin(path), f"{message}; set it to {part}")
                break
            owner = getattr(owner, part, None)  # None: an optional part that was set to null again


def _broken(
    loaded: LoadedExperiment,
    violations: Iterable[checks.Violation],
    refused: Collection[str] = frozenset(),
) -> Iterator[Fault]:
    for violation in violations:
        # Where a value was refused, a rule would judge the one that it should have replaced.
        if not any(path in refused for path in violation.paths):
            origins = dict.fromkeys(loaded.origin(path) for path in violation.paths)
            yield Fault(violation.paths[0], ", ".join(origins), violation.message)
