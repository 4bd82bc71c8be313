"""RoIAlign over a feature pyramid (Mask R-CNN, arXiv 1703.06870, section 3)."""

from collections.abc import Mapping

import tensorflow as tf

_CANONICAL_SIZE = 224.0  # a RoI of this side belongs to _CANONICAL_LEVEL (FPN, arXiv 1612.03144)
_CANONICAL_LEVEL = 4


def assign_levels(boxes: tf.Tensor, min_level: int, max_level: int) -> tf.Tensor:
    """Pyramid level [m] int32 from which each box [m, 4] is cropped (FPN, equation 1)."""
    sides = tf.sqrt(tf.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-12))
    octaves = tf.floor(tf.math.log(sides / _CANONICAL_SIZE) / tf.math.log(2.0))
    return tf.clip_by_value(tf.cast(octaves, tf.int32) + _CANONICAL_LEVEL, min_level, max_level)


def roi_align(
    features: Mapping[str, tf.Tensor],
    boxes: tf.Tensor,
    batch_indices: tf.Tensor,
    crop_size: int,
    sampling_ratio: int = 2,
    half_pixel: bool = True,
    static_shapes: bool = False,
) -> tf.Tensor:
    """Crops RoIs out of the level that suits their size, each bin the mean of bilinear samples.

    Args:
      features: level name to [b, height_l, width_l, c]; level l has stride 2**l.
      boxes: [m, 4] in pixels of the network input, not beyond its edges.
      batch_indices: int32 [m], the image of each box.
      crop_size: bins along each side.
      sampling_ratio: samples along each side of a bin.
      half_pixel: cell k of a feature map has its centre at k + 0.5 (right); False takes k, which
        shifts crops by half a cell, as tf-models-official does.
      static_shapes: use operations that XLA compiles; slower on a CPU.

    Returns:
      [m, crop_size, crop_size, c] in the features' dtype. Samples outside of a feature map take
      its nearest value.
    """
    align = _align_by_gather if static_shapes else _align_by_level
    shift = 0.5 if half_pixel else 0.0
    crops = align(features, boxes, batch_indices, crop_size, sampling_ratio, shift)
    return tf.ensure_shape(crops, [None, crop_size, crop_size, None])


def _sample_range(boxes: tf.Tensor, samples: int, shift: float) -> tuple[tf.Tensor, tf.Tensor]:
    """First sample position [m, 2] and distance [m, 2] of the samples, in cells."""
    step = (boxes[:, 2:] - boxes[:, :2]) / samples
    return boxes[:, :2] + 0.5 * step - shift, step


def _mean_of_bins(samples: tf.Tensor, sampling_ratio: int) -> tf.Tensor:
    """[m, crop_size, crop_size, c] out of [m, samples, samples, c]."""
    if sampling_ratio == 1:
        return samples
    return tf.nn.avg_pool2d(samples, sampling_ratio, sampling_ratio, "VALID")


# A function that is not inlined: see training.strategy.silence_crop_warnings.
_crop_and_resize = tf.function(
    tf.image.crop_and_resize, experimental_attributes={"_noinline": True}
)


def _align_by_level(
    features: Mapping[str, tf.Tensor],
    boxes: tf.Tensor,
    batch_indices: tf.Tensor,
    crop_size: int,
    sampling_ratio: int,
    shift: float,
) -> tf.Tensor:
    """Level by level with TensorFlow's crop kernel, which has no XLA version."""
    samples = crop_size * sampling_ratio
    levels = sorted(int(level) for level in features)
    box_levels = assign_levels(boxes, levels[0], levels[-1])
    crops, places = [], []
    for level in levels:
        feature = features[str(level)]
        selected = tf.cast(tf.where(box_levels == level)[:, 0], tf.int32)
        # One replicated cell around the map, because the kernel gives 0 beyond its last centres.
        padded = tf.pad(feature, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        padded = tf.cast(padded, tf.float32)  # the kernel knows no bfloat16
        first, step = _sample_range(tf.gather(boxes, selected) / 2.0**level, samples, shift)
        last_cell = tf.cast(tf.shape(padded)[1:3] - 1, tf.float32)
        corners = tf.concat([first, first + (samples - 1) * step], axis=-1) + 1.0  # [k, 4]
        corners /= tf.tile(last_cell, [2])
        crop = _crop_and_resize(
            padded, corners, tf.gather(batch_indices, selected), [samples, samples]
        )
        crops.append(_mean_of_bins(tf.cast(crop, feature.dtype), sampling_ratio))
        places.append(selected)
    return tf.dynamic_stitch(places, crops)


def _align_by_gather(
    features: Mapping[str, tf.Tensor],
    boxes: tf.Tensor,
    batch_indices: tf.Tensor,
    crop_size: int,
    sampling_ratio: int,
    shift: float,
) -> tf.Tensor:
    """All levels at once: the pyramid as one table of cells, four of them gathered a sample."""
    samples = crop_size * sampling_ratio
    levels = sorted(int(level) for level in features)
    channels = features[str(levels[0])].shape[-1]
    table = tf.concat([tf.reshape(features[str(level)], [-1, channels]) for level in levels], 0)
    sizes = tf.stack([tf.shape(features[str(level)])[1:3] for level in levels])  # [levels, 2]
    batch = tf.shape(features[str(levels[0])])[0]
    offsets = tf.cumsum(batch * sizes[:, 0] * sizes[:, 1], exclusive=True)  # [levels]

    box_levels = assign_levels(boxes, levels[0], levels[-1])
    strides = tf.pow(2.0, tf.cast(box_levels, tf.float32))
    first, step = _sample_range(boxes / strides[:, None], samples, shift)
    size = tf.gather(sizes, box_levels - levels[0])  # [m, 2]
    base = tf.gather(offsets, box_levels - levels[0]) + batch_indices * size[:, 0] * size[:, 1]

    positions = first[:, :, None] + step[:, :, None] * tf.range(samples, dtype=tf.float32)
    limit = tf.cast(size[:, :, None] - 1, tf.float32)
    positions = tf.clip_by_value(positions, 0.0, limit)  # [m, 2, samples]
    low = tf.floor(positions)
    cells = tf.cast(tf.stack([low, tf.minimum(low + 1.0, limit)], axis=1), tf.int32)
    fraction = tf.cast(positions - low, table.dtype)
    weights = tf.stack([1.0 - fraction, fraction], axis=1)  # [m, low|high, y|x, samples]

    crops = 0.0
    for i in range(2):
        for j in range(2):
            rows = (base[:, None] + cells[:, i, 0] * size[:, 1:])[:, :, None]  # [m, samples, 1]
            corner = tf.gather(table, rows + cells[:, j, 1][:, None, :])  # [m, samples, samples, c]
            crops += corner * (weights[:, i, 0, :, None] * weights[:, j, 1, None, :])[..., None]
    return _mean_of_bins(crops, sampling_ratio)
