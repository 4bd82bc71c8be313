"""COCO JSON and images to TFRecords with masks, images a second: tf-models-official against ours.

    python benchmarks/conversion.py [--data ../shared/data/coco_sample] [--copies 8] [--repeats 5]

Photographs of COCO with their annotations, listed several times under new ids for some seconds of
work, go into 32 shards. Both sides use as many processes as they do by default, and take turns.
`whole command` is the first conversion of a process, from its start on, imports included. Writes
conversion.csv beside.

The folder of --data has annotations/instances_train2017.json and train2017/.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from support.serve import Measurement, serve
from support.sides import alternate, report

_SHARDS = 32
_AIM = 2


def _repeat(annotation_file: pathlib.Path, copies: int, output: pathlib.Path) -> int:
    """Writes a COCO file that lists each image several times; returns how many it lists."""
    data = json.loads(annotation_file.read_text())
    images, annotations = data["images"], data["annotations"]
    image_step = 1 + max(image["id"] for image in images)
    annotation_step = 1 + max(annotation["id"] for annotation in annotations)
    data["images"] = [
        image | {"id": image["id"] + copy * image_step}
        for copy in range(copies)
        for image in images
    ]
    data["annotations"] = [
        annotation
        | {
            "id": annotation["id"] + copy * annotation_step,
            "image_id": annotation["image_id"] + copy * image_step,
        }
        for copy in range(copies)
        for annotation in annotations
    ]
    output.write_text(json.dumps(data))
    return len(data["images"])


def _size_of(folder: pathlib.Path) -> Measurement:
    return {"records_mb": sum(file.stat().st_size for file in folder.glob("*.tfrecord")) / 2**20}


def _serve_reference(images: str, annotations: str, folder: pathlib.Path) -> None:
    from absl import flags
    from official.vision.data import create_coco_tf_record

    flags.FLAGS(
        [
            *("create_coco_tf_record", "--include_masks", f"--image_dir={images}"),
            *(f"--object_annotations_file={annotations}", f"--num_shards={_SHARDS}"),
            f"--output_file_prefix={folder / 'reference'}",
        ]
    )

    def convert() -> Measurement:
        create_coco_tf_record.main([])
        return _size_of(folder)

    serve(convert)


def _serve_ours(images: str, annotations: str, folder: pathlib.Path) -> None:
    from official_maskrcnn.cli.main import main as command

    arguments = [
        *("data", "convert", "coco", "--images", images, "--annotations", annotations),
        *("--output", str(folder / "ours"), "--shards", str(_SHARDS)),
    ]

    def convert() -> Measurement:
        assert not command(arguments)
        return _size_of(folder)

    serve(convert)


_SIDES = {"reference": _serve_reference, "ours": _serve_ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = pathlib.Path(__file__).resolve().parent.parent.parent / "shared/data/coco_sample"
    parser.add_argument("--data", type=pathlib.Path, default=data)
    parser.add_argument("--copies", type=int, default=8, help="how often an image is listed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--annotations", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images = str(arguments.data / "train2017")
    if arguments.side:
        _SIDES[arguments.side](images, arguments.annotations, arguments.folder)
        return
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} does not exist: name a folder of COCO's layout with --data")

    with tempfile.TemporaryDirectory() as root:
        source = arguments.data / "annotations" / "instances_train2017.json"
        annotations = pathlib.Path(root, "instances.json")
        count = _repeat(source, arguments.copies, annotations)
        commands = {}
        for side in _SIDES:
            folder = pathlib.Path(root, side)
            folder.mkdir()
            commands[side] = [
                *(sys.executable, __file__, "--data", str(arguments.data), "--side", side),
                *("--annotations", str(annotations), "--folder", str(folder)),
            ]
        measured = alternate(commands, arguments.repeats, "conversion")
    reference, ours = measured["reference"], measured["ours"]
    rows = []
    for name, key in (("conversion", "seconds"), ("whole command", "first_seconds")):
        pair = (count / reference[key], count / ours[key])
        rows.append((f"images/s, {name}", count, *pair, pair[1] / pair[0], _AIM))
    pair = (reference["records_mb"], ours["records_mb"])
    rows.append(("records, MB", count, *pair, "", ""))
    header = ("what", "images", "reference", "ours", "ours / reference", "aim")
    report(__file__, header, rows)


if __name__ == "__main__":
    main()
