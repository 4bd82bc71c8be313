"""The verbs of `data`: convert, stats, check, browse, synthetic."""

import argparse
import json

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.cli.output import console
from official_maskrcnn.errors import UserError

_SOURCE_HELP = "a COCO annotation file (*.json), or patterns of record files"


def add_verbs(parser: VerbParser) -> None:
    """Adds `data` with its own verbs."""
    data = parser.add_verb(
        "data",
        "Makes, converts, counts, checks and shows data.",
        ("synthetic --output runs/shapes --images 64", "stats runs/shapes/instances.json"),
    )
    _add_synthetic(data)
    _add_convert(data)
    _add_stats(data)
    _add_check(data)
    _add_browse(data)


def _add_synthetic(data: VerbParser) -> None:
    verb = data.add_verb(
        "synthetic",
        "Draws scenes of textured shapes of 12 classes, with COCO annotations.\n\n"
        "Writes OUTPUT/images/*.jpg and OUTPUT/instances.json. The same arguments give the same\n"
        "files. The examples of the other verbs use what the first example here makes.",
        (
            "--output runs/shapes --images 64",
            "--output runs/large_shapes --images 8 --seed 1 --size 600 800 --crowds",
        ),
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument(
        "--images", required=True, type=positive_int, metavar="N", help="number of images"
    )
    verb.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    verb.add_argument(
        "--size",
        type=positive_int,
        nargs=2,
        default=(256, 256),
        metavar=("H", "W"),
        help="pixels; default: 256 256",
    )
    verb.add_argument(
        "--max_instances",
        type=positive_int,
        default=7,
        metavar="N",
        help="in an image; default: %(default)s",
    )
    verb.add_argument("--crowds", action="store_true", help="a crowd in every fourth image")
    _add_workers(verb)
    verb.set_defaults(run=_synthetic)


def _synthetic(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.data.synthetic import make_synthetic

    path = make_synthetic(
        arguments.output,
        arguments.images,
        arguments.seed,
        tuple(arguments.size),
        arguments.max_instances,
        arguments.crowds,
        arguments.workers,
    )
    print(path)


def _add_convert(data: VerbParser) -> None:
    verb = data.add_verb(
        "convert",
        "Makes TFRecords out of annotated images.\n\n"
        "Writes PREFIX-00000-of-0000N.tfrecord, and counts and faults to PREFIX.json. Faulty\n"
        "annotations are mended or left out, and reported. Training from a folder of images\n"
        "needs no conversion: set task.train_data.image_dir and annotation_file.",
        (
            "coco --images runs/shapes/images --annotations runs/shapes/instances.json "
            "--output runs/shapes/records/train --shards 4",
            "coco --images runs/shapes/images --annotations runs/shapes/instances.json "
            "--output runs/shapes/records/all",
        ),
    )
    verb.add_argument("format", metavar="FORMAT", help="of the annotations, such as coco")
    verb.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    verb.add_argument("--annotations", required=True, metavar="PATH", help="file or folder")
    verb.add_argument("--output", required=True, metavar="PREFIX", help="of the files to write")
    verb.add_argument(
        "--shards",
        type=positive_int,
        default=1,
        metavar="N",
        help="number of files; default: %(default)s",
    )
    _add_workers(verb)
    verb.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.data.converters import CONVERTERS

    convert = CONVERTERS.get(arguments.format)
    faults = convert(
        arguments.images,
        arguments.annotations,
        arguments.output,
        arguments.shards,
        arguments.workers,
    )
    console().print(faults.table() if faults else "no faults")


def _add_stats(data: VerbParser) -> None:
    verb = data.add_verb(
        "stats",
        "Counts images, instances, masks and sizes, in all and by class.",
        ("runs/shapes/instances.json", "runs/shapes/instances.json --json"),
    )
    verb.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE_HELP)
    verb.add_argument("--json", action="store_true", help="print JSON in place of tables")
    _add_workers(verb)
    verb.set_defaults(run=_stats)


def _stats(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.data import statistics

    stats = statistics.data_stats(arguments.source, arguments.workers)
    if arguments.json:
        print(json.dumps(stats.to_dict(), indent=1))
    else:
        console().print(*stats.tables(), sep="\n")


def _add_check(data: VerbParser) -> None:
    verb = data.add_verb(
        "check",
        "Lists what is wrong with annotations and images, with their ids.\n\n"
        "It also says what is done about it when the data is converted or trained on.",
        (
            "runs/shapes/instances.json",
            "runs/shapes/instances.json --images runs/shapes/images",
        ),
    )
    verb.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE_HELP)
    verb.add_argument(
        "--images", metavar="DIR", help="folder of a COCO file's images, to open each of them"
    )
    verb.add_argument(
        "--json", action="store_true", help="print JSON, with all ids, in place of a table"
    )
    _add_workers(verb)
    verb.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.data import statistics

    faults = statistics.check_data(arguments.source, arguments.images, arguments.workers)
    if arguments.json:
        print(json.dumps(faults.to_dict(), indent=1))
    else:
        console().print(faults.table() if faults else "no faults")


def _add_browse(data: VerbParser) -> None:
    verb = data.add_verb(
        "browse",
        "Draws a contact sheet of images with their boxes and masks.\n\n"
        "With --images and --annotations: as they are annotated. With --experiment: as the model\n"
        "sees them, that is augmented, cropped and padded, out of the experiment's own data.",
        (
            "--images runs/shapes/images --annotations runs/shapes/instances.json "
            "--output runs/shapes/sheet.jpg",
            "--experiment deep_mask_head_rcnn_resnetfpn_coco --params_override "
            "'task.train_data.image_dir=runs/shapes/images,"
            "task.train_data.annotation_file=runs/shapes/instances.json,"
            "task.train_data.global_batch_size=4' --limit 8 --output runs/shapes/batches.jpg",
        ),
    )
    verb.add_argument("--images", metavar="DIR", help="folder of the images")
    verb.add_argument("--annotations", metavar="FILE", help="their COCO annotations")
    verb.add_argument("--experiment", metavar="NAME", help="a registered experiment")
    verb.add_argument(
        "--config_file", action="append", default=[], metavar="FILE", help="YAML; may be repeated"
    )
    verb.add_argument(
        "--params_override", action="append", default=[], metavar="TEXT", help="may be repeated"
    )
    verb.add_argument(
        "--split",
        choices=("train", "validation"),
        default="train",
        help="of the experiment's data; default: %(default)s",
    )
    verb.add_argument("--output", required=True, metavar="FILE", help="a JPEG or PNG to write")
    verb.add_argument(
        "--limit", type=positive_int, default=24, metavar="N", help="images; default: %(default)s"
    )
    verb.add_argument("--seed", type=int, default=0, help="of the choice; default: %(default)s")
    verb.set_defaults(run=_browse)


def _browse(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.data import browse

    from_coco = bool(arguments.images or arguments.annotations)
    if from_coco == bool(arguments.experiment):
        raise UserError("give either --images and --annotations, or --experiment")
    if from_coco:
        if not (arguments.images and arguments.annotations):
            missing = "--annotations" if arguments.images else "--images"
            raise UserError(f"--images and --annotations belong together: {missing} is missing")
        count = browse.browse_coco(
            arguments.images,
            arguments.annotations,
            arguments.output,
            arguments.limit,
            arguments.seed,
        )
    else:
        count = _browse_experiment(arguments)
    print(f"{arguments.output}: {count} images")


def _browse_experiment(arguments: argparse.Namespace) -> int:
    from official_maskrcnn.configs.loading import load_experiment
    from official_maskrcnn.data import browse, coco

    task = load_experiment(
        arguments.experiment, arguments.config_file, arguments.params_override
    ).task
    config = task.train_data if arguments.split == "train" else task.validation_data
    if config.seed is None and config.is_training:
        config.seed = arguments.seed
    names = coco.load_coco(config.annotation_file).categories if config.annotation_file else None
    height, width = task.model.input_size[:2]
    return browse.browse_batches(config, (height, width), arguments.output, arguments.limit, names)


def _add_workers(verb: VerbParser) -> None:
    verb.add_argument(
        "--workers", type=positive_int, metavar="N", help="processes; default: one for each core"
    )
