"""Small records for the tests, built by hand and not by the package's own writer."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf


def _feature(values: Sequence) -> tf.train.Feature:
    if not values:
        return tf.train.Feature()
    first = values[0]
    if isinstance(first, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(first, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def png(array: np.ndarray) -> bytes:
    """PNG of uint8 [h, w] or [h, w, 3]."""
    return tf.io.encode_png(array if array.ndim == 3 else array[..., None]).numpy()


def make_example(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]] = (),
    classes: Sequence[int] = (),
    masks: Sequence[np.ndarray] | None = None,
    is_crowd: Sequence[int] | None = None,
    source_id: str | None = "1",
    extra: Mapping[str, Sequence] | None = None,
) -> bytes:
    """A serialized example; what is None is left out of it.

    Args:
      image: uint8 [h, w, 3], stored without loss.
      boxes: (ymin, xmin, ymax, xmax) in pixels.
      classes: one a box.
      masks: uint8 [h, w] each.
      is_crowd: 0 or 1 each.
      source_id: text.
      extra: more features, or replacements.
    """
    height, width = image.shape[:2]
    features: dict[str, Sequence] = {
        "image/encoded": [png(image)],
        "image/height": [height],
        "image/width": [width],
        "image/object/class/label": list(classes),
    }
    for i, (name, side) in enumerate(
        [("ymin", height), ("xmin", width), ("ymax", height), ("xmax", width)]
    ):
        features[f"image/object/bbox/{name}"] = [float(box[i]) / side for box in boxes]
    if masks is not None:
        features["image/object/mask"] = [png(mask) for mask in masks]
    if is_crowd is not None:
        features["image/object/is_crowd"] = list(is_crowd)
    if source_id is not None:
        features["image/source_id"] = [source_id.encode()]
    features.update(extra or {})
    feature = {key: _feature(values) for key, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(folder: pathlib.Path, examples: Iterable[bytes], shards: int = 1) -> list[str]:
    """Writes the examples in turn to so many files; gives their paths."""
    paths = [str(folder / f"part-{i:05d}-of-{shards:05d}.tfrecord") for i in range(shards)]
    writers = [tf.io.TFRecordWriter(path) for path in paths]
    for i, example in enumerate(examples):
        writers[i % shards].write(example)
    for writer in writers:
        writer.close()
    return paths
