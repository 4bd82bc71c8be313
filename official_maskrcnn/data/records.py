"""Records out, lightly decoded: for ground truth, statistics and checks, not for training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from pycocotools import mask as coco_mask

from official_maskrcnn.data import parallel, reader
from official_maskrcnn.data.images import ImageFault, decode_mask, open_image
from official_maskrcnn.data.reader import DamagedFile
from official_maskrcnn.errors import UserError

_NUM_HASHES = 2**53 - 1  # exact in float64, and so in JSON
_SUMMARY_SUFFIX = ".json"  # what a converter writes beside its records


class Record(NamedTuple):
    """An example whose image and masks are still encoded.

    Attributes:
      source_id: as the record has it.
      filename: of the image.
      encoded: the image.
      height: pixels.
      width: pixels.
      boxes: float32 [n, 4], (ymin, xmin, ymax, xmax) in [0, 1] of the image.
      classes: int64 [n], category ids.
      class_texts: names of the n classes; empty if the record has none.
      is_crowd: bool [n].
      areas: float32 [n] in pixels; of the boxes if the record has none.
      masks: n PNGs; b"" where the record has none.
    """

    source_id: bytes
    filename: str
    encoded: bytes
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    class_texts: list[str]
    is_crowd: np.ndarray
    areas: np.ndarray
    masks: list[bytes]


class UnusableRecord(UserError):
    """A record that cannot be taken apart; `kind` names the fault."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def expand_patterns(input_path: str | Sequence[str]) -> list[str]:
    """Files that one or several patterns name, each once, sorted within a pattern.

    Args:
      input_path: patterns, separated by commas or as a list; local or gs://. The summary that
        `data convert` writes beside records is skipped.

    Raises:
      UserError: there is no pattern, or one of them, which is named, matches no file.
    """
    texts = [input_path] if isinstance(input_path, str) else input_path
    patterns = [pattern.strip() for text in texts for pattern in text.split(",")]
    patterns = [pattern for pattern in patterns if pattern]
    if not patterns:
        raise UserError("input_path is empty: give at least one pattern of record files")
    files: dict[str, None] = {}
    for pattern in patterns:
        matches = [f for f in tf.io.gfile.glob(pattern) if not f.endswith(_SUMMARY_SUFFIX)]
        if not matches:
            raise UserError(f"no record file matches the pattern {pattern!r} of input_path")
        files |= dict.fromkeys(sorted(matches))
    return list(files)


def source_id_to_int(source_id: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Image id of a record: its source_id if that is a number, else a stable hash.

    Args:
      source_id: string scalar; where it is empty, the image is hashed instead.
      encoded: string scalar, the image.

    Returns:
      int64 scalar, not negative.
    """
    return tf.case(
        [
            (tf.equal(source_id, ""), lambda: tf.strings.to_hash_bucket_fast(encoded, _NUM_HASHES)),
            (
                tf.strings.regex_full_match(source_id, r"\d{1,18}"),
                lambda: tf.strings.to_number(source_id, tf.int64),
            ),
        ],
        default=lambda: tf.strings.to_hash_bucket_fast(source_id, _NUM_HASHES),
    )


def read_examples(
    files: Sequence[str], on_damage: Callable[[str], None] | None = None
) -> Iterator[tuple[str, tf.train.Example]]:
    """Parsed examples of TFRecord files, one after the other, each with the place where it is.

    Args:
      files: paths.
      on_damage: called with the place of each damaged record, which is then left out.

    Raises:
      DamagedFile: at the record that is damaged, without `on_damage`; or where the records of a
        file cannot be told apart.
    """
    index = reader.build_index(files)

    def read_or_nothing(number: tf.Tensor) -> tf.Tensor:
        one = tf.data.Dataset.from_tensors(number).map(index.read).ignore_errors()
        return one.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

    examples = reader.map_in_parallel(
        tf.data.Dataset.range(len(index)),
        lambda number: (index.name(number), read_or_nothing(number)),
    )
    for name, serialized in examples.as_numpy_iterator():
        place = name.decode()
        example = _deserialized(serialized)
        if example is not None:
            yield place, example
        elif on_damage is None:
            raise DamagedFile(f"{place} is damaged: make the file again, or take it away")
        else:
            on_damage(place)


def _deserialized(serialized: bytes) -> tf.train.Example | None:
    try:
        return tf.train.Example.FromString(serialized) if serialized else None
    except DecodeError:  # whole by its checksum, but something else
        return None


def parse_record(example: tf.train.Example) -> Record:
    """Takes an example apart; what is missing counts as 0, empty or without a mask.

    Raises:
      UnusableRecord: not as many entries in one list as in another, or neither a size nor an image
        that has one.
    """
    features = example.features.feature
    classes = np.array(features["image/object/class/label"].int64_list.value, np.int64)
    count = len(classes)
    height, width = _image_size(features)
    corners = [
        np.array(features[f"image/object/bbox/{name}"].float_list.value, np.float32)
        for name in ("ymin", "xmin", "ymax", "xmax")
    ]
    crowd = features["image/object/is_crowd"].int64_list.value or [0] * count
    masks = list(features["image/object/mask"].bytes_list.value) or [b""] * count
    texts = [_text(text) for text in features["image/object/class/text"].bytes_list.value]
    areas = features["image/object/area"].float_list.value
    lengths = {*map(len, corners), len(crowd), len(masks), len(areas or classes)}
    if lengths != {count} or len(texts) not in (0, count):
        raise UnusableRecord(
            f"the record of image {_text(_first(features['image/source_id'].bytes_list, b'?'))} "
            f"has lists of {sorted(lengths | {count})} entries for one and the same instances",
            "ragged_record",
        )
    boxes = np.stack(corners, axis=-1)  # [n, 4]
    if not areas:
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) * height * width
    return Record(
        source_id=_first(features["image/source_id"].bytes_list, b""),
        filename=_text(_first(features["image/filename"].bytes_list, b"")),
        encoded=_first(features["image/encoded"].bytes_list, b""),
        height=height,
        width=width,
        boxes=boxes,
        classes=classes,
        class_texts=texts,
        is_crowd=np.array(crowd, bool),
        areas=np.array(areas, np.float32),
        masks=masks,
    )


def _image_size(features: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width as the record says, or else as the image's header does."""
    height, width = (_first(features[f"image/{side}"].int64_list) for side in ("height", "width"))
    if height < 1 or width < 1:
        try:
            width, height = open_image(_first(features["image/encoded"].bytes_list, b"")).size
        except ImageFault as fault:
            source_id = _text(_first(features["image/source_id"].bytes_list, b"?"))
            raise UnusableRecord(
                f"the record of image {source_id} has no size, and its image cannot be decoded",
                fault.kind,
            ) from fault
    return height, width


def _first(values: Any, default: Any = 0) -> Any:
    return values.value[0] if values.value else default


def _text(text: bytes) -> str:
    """Names of files may be in any encoding."""
    return text.decode(errors="replace")


def read_ground_truth(
    patterns: str | Sequence[str],
    regenerate_source_id: bool = False,
    max_faulty_examples: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """COCO ground truth out of records; images are read one at a time and not kept.

    Crowds and images without instances are part of it. An instance without a mask has no
    "segmentation". Categories are those that occur. Of an image that several records have, the
    first one counts.

    Args:
      patterns: as for `expand_patterns`.
      regenerate_source_id: identify images by a hash of their content, as the parser does where
        the decoder is so configured.
      max_faulty_examples: records, damaged or of no use, that are left out before it fails.
      progress: whether to show how far it is.

    Returns:
      {"images", "annotations", "categories"} as in a COCO file; segmentations are compressed RLE.

    Raises:
      UserError: a pattern matches nothing, or more records are damaged or of no use.
    """
    damaged: list[str] = []

    def note(place: str, fault: str = "it is damaged") -> None:
        damaged.append(place)
        if len(damaged) > max_faulty_examples:
            raise DamagedFile(
                f"{place}: {fault}; {len(damaged)} damaged records so far, "
                f"max_faulty_examples ({max_faulty_examples}) are allowed"
            )
        logging.warning("left out of the ground truth: %s: %s", place, fault)

    examples = read_examples(expand_patterns(patterns), note)
    images: list[dict[str, Any]] = []
    seen: set[int] = set()
    repeated = 0
    annotations: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for place, example in parallel.track(examples, None, "Reading ground truth", progress):
        try:
            record = parse_record(example)
        except UnusableRecord as error:
            note(place, str(error))
            continue
        source_id = tf.constant(b"" if regenerate_source_id else record.source_id)
        own_id = int(source_id_to_int(source_id, tf.constant(record.encoded)))
        if own_id in seen:
            repeated += 1
            continue
        seen.add(own_id)
        images.append(
            {
                "id": own_id,
                "height": record.height,
                "width": record.width,
                "file_name": record.filename,
            }
        )
        for i, category_id in enumerate(record.classes.tolist()):
            text = record.class_texts[i] if record.class_texts else ""
            names[category_id] = text or names.get(category_id) or str(category_id)
            annotation = _annotation(record, i)
            annotations.append({"id": len(annotations) + 1, "image_id": own_id, **annotation})
    if repeated:
        logging.warning("%d records of an image that was there before: left out", repeated)
    categories = [{"id": i, "name": names[i]} for i in sorted(names) if i > 0]  # 0: background
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(record: Record, i: int) -> dict[str, Any]:
    sides = np.array([record.height, record.width] * 2, np.float64)
    ymin, xmin, ymax, xmax = (record.boxes[i] * sides).tolist()
    annotation = {
        "category_id": int(record.classes[i]),
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": float(record.areas[i]),
        "iscrowd": int(record.is_crowd[i]),
    }
    mask = decode_mask(record.masks[i])
    if mask is not None and mask.any():
        by_columns = cv2.transpose(mask.view(np.uint8)).T  # faster than np.asfortranarray
        annotation["segmentation"] = coco_mask.encode(by_columns)
    return annotation
