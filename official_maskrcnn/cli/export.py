"""The verb export: a trained model for other programs."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.cli.output import console
from official_maskrcnn.cli.predict import add_model, refuse_faults
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.formats import FORMATS


def add_verbs(parser: VerbParser) -> None:
    """Adds export."""
    verb = parser.add_verb(
        "export",
        "Writes a trained model for programs that do not have this package.\n\n"
        "A SavedModel takes images, encoded images, tf.Example, and images with boxes; TFLite and\n"
        "ONNX take one image; StableHLO takes network inputs. All give detections in pixels of\n"
        "the image. predict and annotate take the folder of a SavedModel as --model.",
        (
            "--model runs/nuts --output runs/nuts_export",
            "--model runs/nuts --output runs/nuts_tflite --formats saved_model tflite tflite_int8 "
            "--check ../shared/data/nuts/instances_val.json --image_dir ../shared/data/nuts/images",
        ),
    )
    add_model(verb, precision="float32")
    verb.add_argument("--output", required=True, metavar="DIR", help="new folder to write to")
    verb.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=["saved_model"],
        metavar="NAME",
        help=f"of {', '.join(FORMATS)}; default: saved_model",
    )
    verb.add_argument(
        "--paste_masks",
        action="store_true",
        help="the SavedModel's signatures give masks of the images' size, in place of crops",
    )
    verb.add_argument(
        "--batch_size",
        type=positive_int,
        default=1,
        metavar="N",
        help="images that stablehlo takes; default: %(default)s",
    )
    verb.add_argument(
        "--check",
        metavar="FILE",
        help="COCO annotations, for a table of each format's size, latency and AP",
    )
    verb.add_argument("--image_dir", metavar="DIR", help="of its images; default: its own")
    verb.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    if arguments.image_dir and not arguments.check:
        raise UserError("--image_dir is of no use without --check")
    with _step("loading TensorFlow"):
        from official_maskrcnn.inference.export import table
        from official_maskrcnn.inference.export.check import check_export
        from official_maskrcnn.inference.export.exporter import export_model, size_in_bytes
        from official_maskrcnn.inference.image_list import find_images

    if arguments.check:
        find_images(arguments.check, arguments.image_dir)  # before minutes of work
    formats = list(dict.fromkeys(arguments.formats))
    export_model(
        arguments.model,
        arguments.output,
        formats,
        arguments.checkpoint,
        arguments.precision,
        arguments.paste_masks,
        arguments.batch_size,
        _step,
    )
    for name in formats:
        print(f"{name}: {size_in_bytes(arguments.output, name) / 1e6:.1f} MB")
    faults: dict[str, str] = {}
    if arguments.check:
        checked, faults = check_export(
            arguments.model,
            arguments.output,
            arguments.check,
            arguments.image_dir,
            arguments.checkpoint,
        )
        table.write(arguments.output, checked)
        console().print(*table.terminal_tables(checked))
    print(f"written to {arguments.output}")
    refuse_faults(faults)


@contextlib.contextmanager
def _step(text: str) -> Iterator[None]:
    """Says what is being done; on a terminal with a sign that it goes on."""
    import rich.console

    errors = rich.console.Console(stderr=True)
    start = time.monotonic()
    with errors.status(text):
        yield
    print(f"{text}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
