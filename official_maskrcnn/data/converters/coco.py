"""A folder of images and a COCO instances file -> records."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from official_maskrcnn.data import coco, parallel, tfrecord
from official_maskrcnn.data.annotations import Instance
from official_maskrcnn.data.converters.registry import CONVERTERS
from official_maskrcnn.data.faults import Fault, FaultReport, Outcome
from official_maskrcnn.data.images import StoredImage, encode_mask
from official_maskrcnn.errors import UserError
from official_maskrcnn.ops import rle as rle_ops


class _Encoded(NamedTuple):
    """What a worker hands back for one image; the example is None if the image is left out."""

    example: bytes | None
    faults: list[Fault]
    num_instances: int
    num_crowds: int
    num_masks: int


@CONVERTERS.register("coco")
def convert_coco(
    images: str,
    annotations: str,
    output: str,
    shards: int,
    workers: int | None = None,
    progress: bool = True,
) -> FaultReport:
    """Converts a COCO data set into records that tf-models-official can read as well.

    Images go to the shards in turn. JPEGs are stored as they are, all else as 8-bit RGB PNG. An
    instance without a usable mask has an all-zero mask. Beyond the index of the annotation file,
    memory does not grow with the data set; the bytes written do not depend on `workers`.

    Args:
      images: folder of the images.
      annotations: COCO instances JSON.
      output: prefix of the files to write: OUTPUT-00000-of-0000N.tfrecord and OUTPUT.json, which
        has counts, categories, shards and faults.
      shards: number of record files.
      workers: processes; by default one for each core, and none for a few images.
      progress: whether to show how far it is.

    Returns:
      What was wrong, and what was done about it.

    Raises:
      UserError: the annotation file, the folder or an image in it cannot be read, no image can be
        used, or the output cannot be written.
    """
    if not os.path.isdir(images):
        raise UserError(f"the folder of images {images} does not exist")
    file = coco.load_coco(annotations)
    faults, counts = file.faults, dict.fromkeys(("images", "instances", "crowds", "masks"), 0)
    tasks = [(shard, image) for shard in range(shards) for image in file.images[shard::shards]]
    encode = functools.partial(_encode, image_dir=images, categories=file.categories)
    with tfrecord.ShardWriter(output, shards) as writer:
        results = parallel.parallel_map(encode, (image for _, image in tasks), len(tasks), workers)
        results = parallel.track(results, len(tasks), "Converting", enabled=progress)
        for (shard, _), encoded in zip(tasks, results, strict=True):
            faults.add(encoded.faults)
            if encoded.example is not None:
                writer.write(shard, encoded.example)
                counts["images"] += 1
                counts["instances"] += encoded.num_instances
                counts["crowds"] += encoded.num_crowds
                counts["masks"] += encoded.num_masks
        if not counts["images"]:
            raise UserError(_no_image_message(images, annotations, faults))
    _write_summary(output, writer.names, file, counts, faults)
    return faults


def _encode(image: coco.AnnotatedImage, image_dir: str, categories: Mapping[int, str]) -> _Encoded:
    examined = coco.examine(image, image_dir)
    if not isinstance(examined, coco.Examined):
        return _Encoded(None, examined, 0, 0, 0)
    assert examined.image is not None
    instances = examined.instances
    features = _image_features(image.entry, examined.image)
    features |= _object_features(instances, categories, examined.height, examined.width)
    return _Encoded(
        tfrecord.encode_example(features),
        examined.faults,
        num_instances=len(instances),
        num_crowds=sum(instance.is_crowd for instance in instances),
        num_masks=sum(instance.mask is not None for instance in instances),
    )


def _image_features(entry: Mapping[str, Any], image: StoredImage) -> dict[str, tfrecord.Feature]:
    return {
        "image/height": np.array([image.height]),
        "image/width": np.array([image.width]),
        "image/filename": _name_on_disk(entry["file_name"]),
        "image/source_id": _text(str(entry["id"])),
        "image/key/sha256": hashlib.sha256(image.encoded).hexdigest().encode(),
        "image/encoded": image.encoded,
        "image/format": image.format.encode(),
    }


def _object_features(
    instances: list[Instance], categories: Mapping[int, str], height: int, width: int
) -> dict[str, tfrecord.Feature]:
    boxes = np.array([i.box for i in instances], np.float64).reshape(-1, 4)
    ymin, xmin, ymax, xmax = (boxes / [height, width, height, width]).T
    no_mask = encode_mask(np.zeros([height, width], np.uint8)) if instances else b""
    return {
        "image/object/bbox/ymin": ymin,
        "image/object/bbox/xmin": xmin,
        "image/object/bbox/ymax": ymax,
        "image/object/bbox/xmax": xmax,
        "image/object/class/label": np.array([i.category_id for i in instances], np.int64),
        "image/object/class/text": [_text(categories[i.category_id]) for i in instances],
        "image/object/is_crowd": np.array([i.is_crowd for i in instances], np.int64),
        "image/object/area": np.array([i.area for i in instances], np.float64),
        "image/object/mask": [_mask_png(i.mask) if i.mask else no_mask for i in instances],
    }


def _name_on_disk(name: str) -> bytes:
    """A file's name as it is on disk; what is no UTF-8 there, Python has as surrogates."""
    return name.encode(errors="surrogateescape")


def _text(text: str) -> bytes:
    """UTF-8; JSON may have surrogates in it, which are none."""
    return text.encode(errors="surrogatepass")


def _mask_png(rle: dict[str, Any]) -> bytes:
    height, width = rle["size"]
    runs = rle_ops.decode_counts(rle["counts"])  # of 0 and 1 in turn, column after column
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    columns = np.repeat(values, runs).reshape(width, height)  # thrice as fast as pycocotools
    return encode_mask(cv2.transpose(columns))


def _no_image_message(image_dir: str, annotations: str, faults: FaultReport) -> str:
    missing = faults.count("missing_image")
    if missing:
        return (
            f"none of the images that {annotations} names can be used: {missing} of them are not "
            f"in {image_dir}; does file_name repeat a part of that path?"
        )
    return f"{annotations} has no image that can be used: {faults.summary()}"


def _write_summary(
    output: str,
    shard_names: list[str],
    file: coco.CocoFile,
    counts: dict[str, int],
    faults: FaultReport,
) -> None:
    path = pathlib.Path(f"{output}.json")
    partial = path.with_name(f".{path.name}.incomplete")
    with tfrecord.writing(path.parent):
        summary = {
            **counts,
            "images_left_out": faults.count(outcome=Outcome.IMAGE_LEFT_OUT),
            "annotations": file.num_annotations,
            "annotations_left_out": faults.count(outcome=Outcome.ANNOTATION_LEFT_OUT),
            "categories": [{"id": i, "name": name} for i, name in file.categories.items()],
            "shards": {name: (path.parent / name).stat().st_size for name in shard_names},
            "faults": faults.to_dict(),
        }
        partial.write_text(json.dumps(summary, indent=1))
        partial.replace(path)
