"""One serialized example -> the tensors that the model trains and evaluates on.

Comments use: n instances in the record, k of them kept, s the side of a mask target.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig, Parser, TfExampleDecoder
from official_maskrcnn.data import records
from official_maskrcnn.ops import masks as mask_ops

# Of ImageNet's RGB values in [0, 1], as in tf-models-official.
MEAN = (0.485, 0.456, 0.406)
STDDEV = (0.229, 0.224, 0.225)

_MIN_SIDE = 1e-3  # pixels; a clipped box is not thinner, else it is rounding and not an object


def _many(dtype: tf.DType) -> tf.io.FixedLenSequenceFeature:
    return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)


_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/source_id": tf.io.FixedLenFeature([], tf.string, ""),
    "image/object/bbox/ymin": _many(tf.float32),
    "image/object/bbox/xmin": _many(tf.float32),
    "image/object/bbox/ymax": _many(tf.float32),
    "image/object/bbox/xmax": _many(tf.float32),
    "image/object/class/label": _many(tf.int64),
    "image/object/is_crowd": _many(tf.int64),
    "image/object/mask": _many(tf.string),
}


class Record(NamedTuple):
    """A decoded example; its masks are decoded later, and only those that are used.

    Attributes:
      image: uint8 [h, w, 3], RGB.
      source_id: int64 scalar.
      boxes: float32 [n, 4], (ymin, xmin, ymax, xmax) in [0, 1] of the image.
      classes: int32 [n].
      is_crowd: bool [n].
      masks: string [n], one PNG an instance, or "" where the record has none.
    """

    image: tf.Tensor
    source_id: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor
    is_crowd: tf.Tensor
    masks: tf.Tensor


class Placement(NamedTuple):
    """How the original image lies in the network input: flipped, then scaled, then shifted.

    Attributes (y first):
      image_size: float32 [2], of the original.
      scale: float32 [2], from original to network input.
      offset: int32 [2], of the crop in the scaled image.
      flips: bool [2], upside down and left to right.
    """

    image_size: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor
    flips: tf.Tensor

    def flip_boxes(self, boxes: tf.Tensor) -> tf.Tensor:
        """Boxes [k, 4] in original pixels, flipped or flipped back."""
        low, high = boxes[:, :2], boxes[:, 2:]
        flipped = tf.concat([self.image_size - high, self.image_size - low], axis=-1)
        return tf.where(tf.tile(self.flips, [2]), flipped, boxes)

    def to_input(self, boxes: tf.Tensor) -> tf.Tensor:
        """Boxes [k, 4] from pixels of the original image to those of the network input."""
        offset = tf.cast(self.offset, tf.float32)
        return self.flip_boxes(boxes) * tf.tile(self.scale, [2]) - tf.tile(offset, [2])

    def to_original(self, boxes: tf.Tensor) -> tf.Tensor:
        """The inverse of to_input."""
        offset = tf.cast(self.offset, tf.float32)
        return self.flip_boxes((boxes + tf.tile(offset, [2])) / tf.tile(self.scale, [2]))


def parse_example(
    serialized: tf.Tensor,
    seed: tf.Tensor,
    config: DataConfig,
    input_size: tuple[int, int],
    include_mask: bool,
) -> dict[str, tf.Tensor]:
    """Parses an example; augments it when `config.is_training`.

    Args:
      serialized: scalar string, a tf.train.Example as tf-models-official's converters write it.
        Without is_crowd no instance is a crowd, without masks none has a mask.
      seed: int64 [2], of the augmentation.
      config: what to keep and how to augment.
      input_size: height and width of the network input.
      include_mask: whether to give masks and mask_valid.

    Returns:
      One element of a batch as data.pipeline.build_dataset describes it.
    """
    parser = config.parser
    record = decode_record(serialized, config.decoder.simple_decoder)
    image_size = tf.cast(tf.shape(record.image)[:2], tf.float32)
    if config.is_training:
        placement = random_placement(image_size, input_size, parser, seed)
    else:
        placement = fit_placement(image_size, input_size)
    boxes = tf.clip_by_value(record.boxes, 0.0, 1.0) * tf.tile(image_size, [2])
    boxes = placement.to_input(boxes)  # [n, 4]
    limit = tf.constant([*input_size, *input_size], tf.float32)
    boxes = tf.clip_by_value(boxes, 0.0, limit)

    keep = tf.reduce_all(boxes[:, 2:] - boxes[:, :2] > _MIN_SIDE, axis=-1)
    if parser.skip_crowd_during_training or not config.is_training:
        keep &= ~record.is_crowd
    kept = tf.where(keep)[:, 0]
    num_truncated = tf.maximum(tf.size(kept) - parser.max_num_instances, 0)
    kept = kept[: parser.max_num_instances]
    boxes = tf.gather(boxes, kept)  # [k, 4]

    def pad(values: tf.Tensor, filler: int) -> tf.Tensor:
        return _pad_first(values, parser.max_num_instances, filler)

    example = {
        "image": _network_input(record.image, placement, input_size, tf.as_dtype(config.dtype)),
        "image_info": _image_info(placement, input_size),
        "source_id": record.source_id,
        "boxes": pad(boxes, -1),
        "classes": pad(tf.gather(record.classes, kept), -1),
        "num_truncated": num_truncated,
    }
    if include_mask:
        threshold = config.decoder.simple_decoder.mask_binarize_threshold or 0.0
        pngs = tf.gather(record.masks, kept)
        masks = _mask_targets(pngs, boxes, placement, parser.mask_crop_size, threshold)
        example["masks"] = pad(masks, 0)
        example["mask_valid"] = tf.reduce_any(example["masks"] > 0, axis=[1, 2])
    return example


def padding_example(
    config: DataConfig, input_size: tuple[int, int], include_mask: bool
) -> dict[str, tf.Tensor]:
    """What fills the last evaluation batch: a blank image with source_id -1, without instances."""
    slots, side = config.parser.max_num_instances, config.parser.mask_crop_size
    placement = fit_placement(tf.constant(input_size, tf.float32), input_size)
    example = {
        "image": tf.zeros([*input_size, 3], tf.as_dtype(config.dtype)),
        "image_info": _image_info(placement, input_size),
        "source_id": tf.constant(-1, tf.int64),
        "boxes": tf.fill([slots, 4], -1.0),
        "classes": tf.fill([slots], -1),
        "num_truncated": tf.constant(0),
    }
    if include_mask:
        example["masks"] = tf.zeros([slots, side, side], tf.uint8)
        example["mask_valid"] = tf.zeros([slots], tf.bool)
    return example


def preprocess_image(
    image: tf.Tensor, input_size: tuple[int, int], dtype: tf.DType = tf.float32
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image as evaluation and inference feed it: fitted into the network input, normalised.

    Args:
      image: uint8 [h, w, 3], RGB; or the same values in float32.
      input_size: height and width of the network input.
      dtype: of the result.

    Returns:
      [height, width, 3], and image_info [4, 2].
    """
    placement = fit_placement(tf.cast(tf.shape(image)[:2], tf.float32), input_size)
    return _network_input(image, placement, input_size, dtype), _image_info(placement, input_size)


def denormalize(image: np.ndarray) -> np.ndarray:
    """The inverse of the normalisation: uint8 RGB [..., 3] of a network input, to look at."""
    pixels = (image.astype(np.float32) * np.array(STDDEV) + np.array(MEAN)) * 255.0
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def decode_record(serialized: tf.Tensor, config: TfExampleDecoder) -> Record:
    """Decodes a serialized example except for its masks."""
    example = tf.io.parse_single_example(serialized, _FEATURES)
    encoded = example["image/encoded"]
    source_id = "" if config.regenerate_source_id else example["image/source_id"]
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    corners = [example[f"image/object/bbox/{name}"] for name in ("ymin", "xmin", "ymax", "xmax")]
    classes = tf.cast(example["image/object/class/label"], tf.int32)
    count = tf.size(classes)
    masks = _for_each_instance(example["image/object/mask"], count, "image/object/mask")
    crowd = _for_each_instance(example["image/object/is_crowd"], count, "image/object/is_crowd")
    return Record(
        image=tf.ensure_shape(image, [None, None, 3]),
        source_id=records.source_id_to_int(source_id, encoded),
        boxes=tf.stack(corners, axis=-1),
        classes=classes,
        is_crowd=crowd > 0,
        masks=masks,
    )


def _for_each_instance(values: tf.Tensor, count: tf.Tensor, name: str) -> tf.Tensor:
    """An optional feature [count]; zeros or empty strings where the record lacks it."""
    missing = tf.where(tf.equal(tf.size(values), 0), count, 0)
    values = tf.concat([values, tf.zeros([missing], values.dtype)], axis=0)
    message = f"a record has not as many entries in {name} as in image/object/class/label"
    with tf.control_dependencies([tf.debugging.assert_equal(tf.size(values), count, message)]):
        return tf.identity(values)


def fit_placement(image_size: tf.Tensor, input_size: tuple[int, int]) -> Placement:
    """The whole image, as large as fits into the network input, at its top left.

    Args:
      image_size: float32 [2].
      input_size: height and width of the network input.
    """
    scale = _exact_scale(image_size, tf.constant(input_size, tf.float32))
    return Placement(image_size, scale, tf.zeros([2], tf.int32), tf.zeros([2], tf.bool))


def random_placement(
    image_size: tf.Tensor, input_size: tuple[int, int], config: Parser, seed: tf.Tensor
) -> Placement:
    """Random flips, scale and crop; the crop as large as the network input at most.

    The image is fitted into the input's size times a factor from [aug_scale_min, aug_scale_max);
    where it is then larger than the input, the crop lies anywhere with equal probability. This is
    the jitter of tf-models-official's resize_and_crop_image.
    """
    seeds = tf.random.split(seed, 3)
    target = tf.constant(input_size, tf.float32)
    factor = tf.random.stateless_uniform([], seeds[0], config.aug_scale_min, config.aug_scale_max)
    scale = _exact_scale(image_size, tf.round(factor * target))
    room = tf.maximum(tf.round(image_size * scale) - target, 0.0)
    offset = tf.cast(room * tf.random.stateless_uniform([2], seeds[1]), tf.int32)
    enabled = tf.constant([config.aug_rand_vflip, config.aug_rand_hflip])
    flips = enabled & (tf.random.stateless_uniform([2], seeds[2]) < 0.5)
    return Placement(image_size, scale, offset, flips)


def _exact_scale(image_size: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Scale [2] that fits the image into `bound`, and makes its sides whole pixels."""
    return tf.maximum(tf.round(image_size * tf.reduce_min(bound / image_size)), 1.0) / image_size


def _image_info(placement: Placement, input_size: tuple[int, int]) -> tf.Tensor:
    offset = tf.cast(placement.offset, tf.float32)
    target = tf.constant(input_size, tf.float32)
    return tf.stack([placement.image_size, target, placement.scale, offset])  # [4, 2]


def _network_input(
    image: tf.Tensor, placement: Placement, input_size: tuple[int, int], dtype: tf.DType
) -> tf.Tensor:
    """Image [height, width, 3] of the network: flipped, scaled, cropped, normalised, padded."""
    for axis in range(2):
        image = _reverse_if(placement.flips[axis], image, axis)
    scaled_size = tf.cast(tf.round(placement.image_size * placement.scale), tf.int32)
    # Resizing and normalising commute; the larger of the two images is touched only once.
    enlarges = tf.reduce_prod(placement.scale) > 1.0
    image = tf.cond(
        enlarges,
        lambda: tf.image.resize(_normalize(image), scaled_size),
        lambda: _normalize(tf.image.resize(image, scaled_size)),
    )
    # A range of rows is no copy; so the first copy is the cast, and the next has half the bytes.
    image = image[placement.offset[0] : placement.offset[0] + input_size[0]]
    image = tf.cast(image, dtype)
    image = image[:, placement.offset[1] : placement.offset[1] + input_size[1]]
    missing = tf.constant(input_size) - tf.shape(image)[:2]
    image = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]])
    return tf.reshape(image, [*input_size, 3])  # TFLite knows it, and no ensure_shape


def _normalize(image: tf.Tensor) -> tf.Tensor:
    """Image [h, w, 3] with values in [0, 255] to zero mean and unit variance."""
    shape = tf.shape(image)
    # A broadcast along whole rows is several times faster than one along the 3 channels.
    scale = tf.tile([1.0 / (255.0 * stddev) for stddev in STDDEV], shape[1:2])
    shift = tf.tile([mean / stddev for mean, stddev in zip(MEAN, STDDEV, strict=True)], shape[1:2])
    rows = tf.cast(tf.reshape(image, [shape[0], shape[1] * 3]), tf.float32)
    return tf.reshape(rows * scale - shift, shape)


def _reverse_if(condition: tf.Tensor, values: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cond(condition, lambda: tf.reverse(values, [axis]), lambda: values)


def _mask_targets(
    pngs: tf.Tensor, boxes: tf.Tensor, placement: Placement, side: int, threshold: float
) -> tf.Tensor:
    """uint8 [k, s, s]; one mask is decoded at a time, and cropped before it is flipped.

    Args:
      pngs: string [k].
      boxes: [k, 4] in pixels of the network input.
      placement: of the image.
      side: s.
      threshold: of the stored values.
    """

    def target(png: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
        mask = tf.io.decode_png(png, channels=1)[..., 0]  # [h, w]
        return mask_ops.crop_mask(mask, box, side, threshold)

    def target_if_stored(png_and_box: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        png, box = png_and_box
        blank = tf.zeros([side, side], tf.uint8)
        return tf.cond(tf.equal(png, ""), lambda: blank, lambda: target(png, box))

    masks = tf.map_fn(
        target_if_stored,
        (pngs, placement.to_original(boxes)),
        fn_output_signature=tf.TensorSpec([side, side], tf.uint8),
        parallel_iterations=1,
    )
    for axis in range(2):
        masks = _reverse_if(placement.flips[axis], masks, axis + 1)
    return masks


def _pad_first(values: tf.Tensor, length: int, filler: int) -> tf.Tensor:
    """Pads the first dimension, which is at most `length`, with a value."""
    missing = length - tf.shape(values)[0]
    paddings = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
    padded = tf.pad(values, paddings, constant_values=tf.cast(filler, values.dtype))
    return tf.ensure_shape(padded, [length, *values.shape[1:]])
