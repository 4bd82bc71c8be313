"""The verb report: what a model gets right and wrong, as a page."""

import argparse

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.cli.predict import add_model, refuse_faults
from official_maskrcnn.errors import UserError


def add_verbs(parser: VerbParser) -> None:
    """Adds report."""
    verb = parser.add_verb(
        "report",
        "Shows what a model gets right and wrong, as a page for a browser.\n\n"
        "AP by class, size and crowding, precision and recall, confusions, kinds of errors and\n"
        "what they cost, calibration, and the worst and best images. The page needs no network.\n"
        "Stopped and started again, it goes on.",
        (
            "--model runs/nuts --output runs/nuts_report.html",
            "--compare runs/nuts@best runs/nuts@latest --output runs/nuts_compared.html "
            "--data ../shared/data/nuts/instances_val.json --image_dir ../shared/data/nuts/images",
        ),
    )
    add_model(verb, required=False)
    verb.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two models side by side: model_dirs, maybe with @ and a checkpoint, or files of COCO "
        "results",
    )
    verb.add_argument(
        "--results",
        metavar="FILE",
        help="COCO results to report in place of predicting; --model is not needed then",
    )
    verb.add_argument(
        "--data",
        metavar="FILE",
        help="COCO annotations; default: the data that the model was validated on",
    )
    verb.add_argument("--image_dir", metavar="DIR", help="of its images; default: its own")
    verb.add_argument("--output", required=True, metavar="FILE", help="page to write")
    verb.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="least score of detections that are counted; default: that of the highest F1",
    )
    verb.add_argument(
        "--images_shown",
        type=positive_int,
        default=40,
        metavar="N",
        help="images with a picture: the worst and the best; default: %(default)s",
    )
    verb.add_argument("--batch_size", type=positive_int, default=1, metavar="N", help="default: 1")
    verb.add_argument("--limit", type=positive_int, metavar="N", help="N images only")
    verb.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    from official_maskrcnn.inference.report.sources import Source
    from official_maskrcnn.inference.report.write import write_report

    if arguments.compare:
        if arguments.model or arguments.results:
            raise UserError("--compare names both models: leave out --model and --results")
        sources = [Source.parse(text, arguments.precision) for text in arguments.compare]
    elif arguments.model or arguments.results:
        sources = [
            Source(arguments.model, arguments.results, arguments.checkpoint, arguments.precision)
        ]
    else:
        raise UserError("what is to be reported? Give --model, --results or --compare")
    if arguments.image_dir and not arguments.data:
        raise UserError("--image_dir without --data: which objects are in them?")
    written = write_report(
        sources,
        arguments.output,
        arguments.data,
        arguments.image_dir,
        score=arguments.score,
        images_shown=arguments.images_shown,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
    )
    for name, metrics in zip("AB", written.metrics, strict=False):
        shown = ", ".join(
            f"{metric} {metrics[metric]:.4f}"
            for metric in ("mask/AP", "box/AP")
            if metric in metrics
        )
        print(f"{name}: {shown}" if arguments.compare else shown)
    print(f"Report: {arguments.output}")
    refuse_faults(written.faults)
