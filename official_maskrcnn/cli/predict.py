"""The verbs that use a trained model on images: predict and annotate."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from official_maskrcnn.inference.predictor import Predictor

_MAX_SHOWN = 10  # files that could not be read


def add_verbs(parser: VerbParser) -> None:
    """Adds predict and annotate."""
    _add_predict(parser)
    _add_annotate(parser)


def _add_predict(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "predict",
        "Finds objects in images: COCO results, and pictures of them.\n\n"
        "Writes submission.json, images.json and overlays/ to OUTPUT. Stopped and started again,\n"
        "it goes on. An image that cannot be read is named and left out, and the exit code is 2.",
        (
            "--model runs/nuts --images ../shared/data/nuts/images --output runs/nuts_found",
            "--model runs/nuts --images ../shared/data/nuts/instances_val.json "
            "--image_dir ../shared/data/nuts/images --output runs/nuts_val --score 0.3 "
            "--classes date fig",
        ),
    )
    add_model(verb)
    verb.add_argument(
        "--images",
        required=True,
        metavar="WHAT",
        help="a folder, an image, a pattern in quotes, a text file with paths, or a COCO file, "
        "whose image ids are kept",
    )
    verb.add_argument(
        "--image_dir", metavar="DIR", help="of a COCO file's images; default: its own"
    )
    verb.add_argument(
        "--boxes",
        metavar="FILE",
        help="predict the masks of these boxes alone: a COCO file, whose images go by their names, "
        "or a list of image_id and bbox",
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument(
        "--score",
        type=float,
        default=0.0,
        metavar="S",
        help="leave out what is less certain; default: the threshold of the model's configuration",
    )
    verb.add_argument(
        "--overlay_score",
        type=float,
        default=0.5,
        metavar="S",
        help="least score of what is drawn; default: %(default)s",
    )
    verb.add_argument("--classes", nargs="+", metavar="NAME", help="only these, by name or id")
    verb.add_argument(
        "--no_overlays", dest="overlays", action="store_false", help="draw no pictures"
    )
    verb.add_argument(
        "--mask_pngs", action="store_true", help="also write each mask that is drawn as a PNG"
    )
    verb.add_argument(
        "--tile",
        type=positive_int,
        metavar="PIXELS",
        help="look at larger images in overlapping tiles of this side, and merge what is found",
    )
    verb.add_argument(
        "--tile_overlap",
        type=float,
        default=0.25,
        metavar="F",
        help="of neighbouring tiles, as a fraction of their side; default: %(default)s",
    )
    verb.add_argument("--batch_size", type=positive_int, default=1, metavar="N", help="default: 1")
    verb.add_argument("--limit", type=positive_int, metavar="N", help="the first N images only")
    verb.set_defaults(run=_predict)


def add_model(verb: VerbParser, required: bool = True, precision: str | None = None) -> None:
    """Arguments that name a trained model."""
    verb.add_argument(
        "--model", required=required, metavar="DIR", help="model_dir of a training, or an export"
    )
    verb.add_argument(
        "--checkpoint",
        default="best",
        metavar="WHICH",
        help="best, latest, a step or a path; default: %(default)s",
    )
    verb.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "auto"),
        default=precision,
        help=f"of the layers; default: {precision or 'that of the training'}",
    )


def _predict(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.inference.boxes_file import read_boxes
    from official_maskrcnn.inference.image_list import find_images
    from official_maskrcnn.inference.prediction_files import Options, predict_files
    from official_maskrcnn.inference.predictor import Predictor

    if not 0 < arguments.tile_overlap < 1:
        raise UserError(f"--tile_overlap ({arguments.tile_overlap}) must lie between 0 and 1")
    chosen = ("score", "classes", "tile")
    if arguments.boxes and (given := [name for name in chosen if getattr(arguments, name)]):
        raise UserError(
            f"--{given[0]} is about objects that the model finds: of no use with --boxes"
        )
    images = find_images(arguments.images, arguments.image_dir, arguments.output)
    boxes = read_boxes(arguments.boxes) if arguments.boxes else None
    predictor = Predictor(
        arguments.model, arguments.checkpoint, arguments.precision, arguments.score
    )
    options = Options(
        score=arguments.score,
        class_ids=arguments.classes and _class_ids(arguments.classes, predictor),
        overlay_score=arguments.overlay_score,
        overlays=arguments.overlays,
        mask_pngs=arguments.mask_pngs,
        tile_size=arguments.tile,
        tile_overlap=arguments.tile_overlap,
        batch_size=arguments.batch_size,
    )
    outcome = predict_files(
        predictor, images, arguments.output, options, boxes, limit=arguments.limit
    )
    counts = [f"{outcome.detections} objects in {outcome.images} images"]
    if arguments.boxes and outcome.empty:
        counts.append(f"{outcome.empty} of them with an empty mask")
    if outcome.unlisted:
        counts.append(f"{outcome.unlisted} images left out that {arguments.boxes} does not list")
    print(f"{', '.join(counts)}: {arguments.output}")
    refuse_faults(outcome.faults)


def _class_ids(texts: Sequence[str], predictor: "Predictor") -> tuple[int, ...]:
    """Classes by name; a number that is no name is an id."""
    names = predictor.class_names.values()
    return tuple(
        predictor.class_id(int(text) if text.isdecimal() and text not in names else text)
        for text in texts
    )


def _add_annotate(parser: VerbParser) -> None:
    verb = parser.add_verb(
        "annotate",
        "Fills in the masks of annotations that have only a box.\n\n"
        "A class-agnostic mask head does so for objects of any class. All else in the file stays\n"
        "as it is; annotations that got a mask say so: is_predicted.",
        (
            "--model runs/nuts --boxes ../shared/data/nuts/instances_val.json "
            "--image_dir ../shared/data/nuts/images --output runs/filled.json --replace",
            "--model runs/first --boxes runs/shapes/instances.json "
            "--image_dir runs/shapes/images --output runs/polygons.json --replace --polygons",
        ),
    )
    add_model(verb)
    verb.add_argument("--boxes", required=True, metavar="FILE", help="COCO annotations")
    verb.add_argument("--image_dir", metavar="DIR", help="of the images; default: that of the file")
    verb.add_argument("--output", required=True, metavar="FILE", help="to write")
    verb.add_argument("--polygons", action="store_true", help="as polygons, in place of RLE")
    verb.add_argument("--replace", action="store_true", help="also the masks that are there")
    verb.set_defaults(run=_annotate)


def _annotate(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.inference.annotate import annotate
    from official_maskrcnn.inference.predictor import Predictor

    predictor = Predictor(arguments.model, arguments.checkpoint, arguments.precision)
    result = annotate(
        predictor,
        arguments.boxes,
        arguments.output,
        arguments.image_dir,
        arguments.polygons,
        arguments.replace,
    )
    counts = [f"{result.filled} masks filled in", f"{result.kept} kept"]
    if result.empty:
        counts.append(f"{result.empty} boxes in which nothing was found")
    if result.unknown:
        counts.append(f"{result.unknown} of images that the file does not list")
    print(f"{', '.join(counts)}: {arguments.output}")
    refuse_faults(result.faults)


def refuse_faults(faults: dict[str, str]) -> None:
    """Raises `UserError` if images could not be read."""
    if not faults:
        return
    lines = [f"\n  {path}: {kind.replace('_', ' ')}" for path, kind in faults.items()]
    more = len(lines) - _MAX_SHOWN
    lines = [*lines[:_MAX_SHOWN], f"\n  and {more} more"] if more > 0 else lines
    raise UserError(f"{len(faults)} images could not be read and were left out:{''.join(lines)}")
