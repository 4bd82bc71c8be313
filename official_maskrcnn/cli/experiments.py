"""The verbs on configurations: ls, show, validate, analyze."""

import argparse
import fnmatch
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from official_maskrcnn.cli.arguments import (
    VerbParser,
    add_experiment,
    load_experiment,
    positive_int,
)
from official_maskrcnn.cli.output import console

if TYPE_CHECKING:
    from official_maskrcnn.configs.loading import LoadedExperiment

_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_MODES = ("train", "eval", "train_and_eval", "continuous_eval")
_NO_MODE = "none"
_CONFIGS = pathlib.Path("configs")


def add_verbs(parser: VerbParser) -> None:
    """Adds ls, show, validate and analyze."""
    _add_ls(parser)
    _add_show(parser)
    _add_validate(parser)
    _add_analyze(parser)


def _add_ls(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "ls",
        "Lists what can be chosen: experiments, configs, heads, backbones and so on.\n\n"
        "A pattern is matched with the names and with their kinds.",
        ("", "'*hourglass*' --json"),
    )
    verb.add_argument("glob", nargs="?", default="*", metavar="GLOB", help="default: everything")
    verb.add_argument("--json", action="store_true", help="print JSON in place of tables")
    verb.set_defaults(run=_ls)


def _ls(arguments: argparse.Namespace) -> None:
    import rich.table

    glob = arguments.glob
    entries = [
        (kind, name, summary)
        for kind, name, summary in _entries()
        if fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(kind, glob)
    ]
    if arguments.json:
        keys = ("kind", "name", "summary")
        print(json.dumps([dict(zip(keys, entry, strict=True)) for entry in entries], indent=1))
        return
    table = rich.table.Table("kind", "name", "")
    for number, (kind, name, summary) in enumerate(entries):
        is_first = number == 0 or entries[number - 1][0] != kind
        table.add_row(kind if is_first else "", name, summary)
    console().print(table if entries else f"nothing matches {glob!r}")


def _entries() -> Iterator[tuple[str, str, str]]:
    """Kind, name and one line on each thing that can be chosen."""
    from official_maskrcnn.configs.experiments import EXPERIMENTS
    from official_maskrcnn.configs.fields import annotations, config_class_of
    from official_maskrcnn.data.converters import CONVERTERS
    from official_maskrcnn.modeling.backbones import BACKBONE_MODELS, decoder_names
    from official_maskrcnn.modeling.heads import MASK_HEADS

    for name in EXPERIMENTS.names():
        yield "experiment", name, EXPERIMENTS.summary(name)
    for file in sorted(_CONFIGS.glob("*.yaml")):
        yield "config", str(file), _claim(file)
    for name in MASK_HEADS.names():
        yield "mask head", name, MASK_HEADS.summary(name)
    for name, models in sorted(BACKBONE_MODELS.items()):
        yield "backbone", name, f"model_id {', '.join(map(str, models))}"
    for name in decoder_names():
        yield "decoder", name, f"task.model.decoder.type={name}"
    optimization = annotations(type(EXPERIMENTS.get(_RESNET)().trainer.optimizer_config))
    for part in ("optimizer", "learning_rate", "warmup"):
        config_class = config_class_of(optimization[part])
        assert config_class is not None
        for name, annotation in annotations(config_class).items():
            branch = config_class_of(annotation)
            if branch is not None:
                yield part.replace("_", " "), name, ", ".join(annotations(branch))
    for name in CONVERTERS.names():
        yield "converter", name, CONVERTERS.summary(name)


def _claim(file: pathlib.Path) -> str:
    """What a config's opening comment claims."""
    match = re.match(r"# Claim: ((?:.|\n#   )*)", file.read_text(encoding="utf-8"))
    return re.sub(r"\n#\s+", " ", match[1]) if match else ""


def _add_show(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "show",
        "Prints a configuration as YAML, with all files and overrides applied.",
        (
            f"{_RESNET} --origin trainer.train_steps=30000",
            f"{_RESNET} --config_file configs/nuts.yaml --diff {_RESNET}",
        ),
    )
    add_experiment(verb)
    verb.add_argument(
        "--origin", action="store_true", help="say at each value where it was set last"
    )
    verb.add_argument(
        "--diff",
        metavar="OTHER",
        help="only what differs from another experiment, or from a params.yaml",
    )
    verb.add_argument("--json", action="store_true", help="print JSON in place of YAML")
    verb.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.configs import display, loading

    loaded = load_experiment(arguments)
    if arguments.diff:
        other = (
            loading.experiment_from_params(arguments.diff)
            if arguments.diff.endswith((".yaml", ".yml", ".json"))
            else loading.load_experiment(arguments.diff)
        )
        _show_differences(
            display.differences(other.as_dict(), loaded.config.as_dict()), loaded, arguments
        )
    elif arguments.json:
        print(json.dumps(loaded.config.as_dict(), indent=1))
    else:
        print(
            display.with_origins(loaded) if arguments.origin else loading.to_yaml(loaded.config),
            end="",
        )


def _show_differences(
    differences: Sequence[tuple[str, str, str]],
    loaded: "LoadedExperiment",
    arguments: argparse.Namespace,
) -> None:
    import rich.table

    if arguments.json:
        rows = [{"path": path, "other": old, "this": new} for path, old, new in differences]
        print(json.dumps(rows, indent=1))
        return
    table = rich.table.Table("path", arguments.diff, "this", *(["from"] * arguments.origin))
    for path, old, new in differences:
        table.add_row(path, old, new, *([loaded.origin(path)] * arguments.origin))
    console().print(table if differences else "no differences")


def _add_validate(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "validate",
        "Says whether a configuration is right, and lists everything that is wrong with it.\n\n"
        "Also whether the data is there that a training with evaluation reads, or another mode,\n"
        "and whether its categories suit the model. The exit code is 0 if all is right, else 2.",
        (
            f"{_RESNET} --mode none task.model.mask_head.convnet_variant=hourglass52 "
            "task.model.mask_roi_aligner.crop_size=32",
            f"{_RESNET} --mode train task.train_data.image_dir=runs/shapes/images "
            "task.train_data.annotation_file=runs/shapes/instances.json",
        ),
    )
    add_experiment(verb)
    verb.add_argument(
        "--mode",
        choices=(*_MODES, _NO_MODE),
        default="train_and_eval",
        help="what it is to be used for; none: without looking for data; default: %(default)s",
    )
    verb.add_argument("--json", action="store_true", help="print the verdict and faults as JSON")
    verb.set_defaults(run=_validate)


def _validate(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.configs.loading import ConfigError

    mode = None if arguments.mode == _NO_MODE else arguments.mode
    try:
        loaded = load_experiment(arguments, mode)
    except ConfigError as error:
        if arguments.json:
            faults = [
                {"path": fault.path, "origin": fault.origin, "message": fault.message}
                for fault in error.faults
            ]
            print(json.dumps({"valid": False, "faults": faults}, indent=1))
        raise
    if arguments.json:
        print(json.dumps({"valid": True, "faults": []}, indent=1))
    else:
        purpose = f" for mode {mode}" if mode else ""
        print(f"valid{purpose}: {loaded.base}, {len(loaded.origins)} values changed")


def _add_analyze(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "analyze",
        "Counts parameters, FLOPs and activation memory of each part of a model.\n\n"
        "For a step of training and of inference, with what the packed mask head saves. Nothing\n"
        "is run, and no data is read: the steps are traced, which takes up to a minute.",
        (
            f"{_RESNET} --config_file configs/deep_mask_head_rcnn_voc_r50_hg52.yaml",
            f"{_RESNET} --config_file configs/nuts.yaml --batch_size 4 --json",
        ),
    )
    add_experiment(verb)
    verb.add_argument(
        "--batch_size",
        type=positive_int,
        default=1,
        metavar="N",
        help="images in a batch, of one device; default: %(default)s",
    )
    verb.add_argument(
        "--instances",
        type=positive_int,
        default=7,
        metavar="N",
        help="RoIs of an image with a mask to learn; default: %(default)s, the mean of COCO",
    )
    verb.add_argument("--json", action="store_true", help="print JSON in place of tables")
    verb.set_defaults(run=_analyze)


def _analyze(arguments: argparse.Namespace) -> None:
    import rich.console

    experiment = load_experiment(arguments).config
    progress = rich.console.Console(stderr=True)
    with progress.status("loading TensorFlow"):
        from official_maskrcnn.tasks import cost
    with progress.status("tracing a step of training and of inference"):
        costs = cost.analyze(experiment, arguments.batch_size, arguments.instances)
    if arguments.json:
        print(json.dumps(costs.to_dict(), indent=1))
    else:
        console().print(*costs.tables())
